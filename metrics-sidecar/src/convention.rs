//! What `promtool check metrics` accepts of families that Envoy has of its own. Pure.

/// The type that the check accepts of a name: Envoy's counters have no `_total`, and typed as what they are, each would be a complaint.
pub(crate) fn kind<'a>(name: &str, kind: &'a str) -> &'a str {
    match (kind, name.ends_with("_total")) {
        ("counter", false) | ("gauge", true) => "untyped",
        _ => kind,
    }
}

/// Whether `promtool check metrics` accepts a family of this name: no abbreviated unit, no unit that is not a base unit, no type
/// and no reserved suffix in the name (its rules: `prometheus/client_golang`, `prometheus/testutil/promlint`).
pub(crate) fn is_conventional(name: &str, kind: &str) -> bool {
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
