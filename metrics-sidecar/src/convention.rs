//! What `promtool check metrics` accepts of families that Envoy has of its own. Pure.

/// Prints the header of a family of Envoy's own; false if its name breaks the conventions, so that it is left out.
pub(crate) fn print_header(page: &mut Vec<u8>, header: &[u8]) -> bool {
    let text = std::str::from_utf8(header).unwrap_or_default();
    let mut words = text.split(' ').skip(2);
    let (name, kind) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if name.is_empty() || !is_conventional(name, kind) {
        return false;
    }
    // Envoy's counters have no `_total`; typed as what they are, each would be a complaint.
    let kind = match (kind, name.ends_with("_total")) {
        ("counter", false) | ("gauge", true) => "untyped",
        _ => kind,
    };
    page.extend_from_slice(format!("# HELP {name} A statistic of Envoy's own.\n# TYPE {name} {kind}\n").as_bytes());
    true
}

/// Whether `promtool check metrics` accepts a family of this name: no abbreviated unit, no unit that is not a base unit, no type
/// and no reserved suffix in the name (its rules: `prometheus/client_golang`, `prometheus/testutil/promlint`).
fn is_conventional(name: &str, kind: &str) -> bool {
    const ABBREVIATED: [&str; 12] = ["s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "m", "h", "d"];
    const NOT_BASE: [&str; 8] =
        ["milliseconds", "microseconds", "nanoseconds", "minutes", "hours", "days", "kilobytes", "megabytes"];
    const KINDS: [&str; 5] = ["counter", "gauge", "histogram", "summary", "untyped"];
    let bad_word = |word: &str| ABBREVIATED.contains(&word) || NOT_BASE.contains(&word) || KINDS.contains(&word);
    let reserved = kind != "histogram" && ["_bucket", "_count", "_sum"].iter().any(|suffix| name.ends_with(suffix));
    let camel = name
        .bytes()
        .zip(name.bytes().skip(1))
        .any(|(left, right)| left.is_ascii_lowercase() && right.is_ascii_uppercase());
    !reserved && !camel && !name.split('_').skip(1).any(bad_word)
}
