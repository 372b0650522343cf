//! What the sidecar reads from Envoy: the metrics page that it merges with its own, and the list of clusters.
//!
//! Input: a byte that chooses the selection of families (`0` to `2`), or by `3` the list of clusters; then Envoy's answer. By `4`
//! the rest are the values of a histogram.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use catalogue::{Kind, Stat};
use metrics_sidecar::contents::ContentsReader;
use metrics_sidecar::discovery::{Clusters, clusters_path};
use metrics_sidecar::endpoint::DiscoveredPod;
use metrics_sidecar::exposition::{Sample, split_name};
use metrics_sidecar::fleet::Fleet;
use metrics_sidecar::format::Format;
use metrics_sidecar::gauges::{About, families};
use metrics_sidecar::page::{OwnFamily, Printer, Selection, merge};
use metrics_sidecar::signals::Signals;
use serde_json::Value;
use snapshot::Snapshot;

const SELECTIONS: [Selection; 3] = [Selection::Everything, Selection::Strict, Selection::Inpick];

/// Merges a page, or lists the hosts of clusters.
pub fn check(data: &[u8]) {
    let [choice, data @ ..] = data else { return };
    match choice.wrapping_sub(b'0') % 5 {
        3 => check_clusters(data),
        4 => check_histogram(data),
        selection => check_page(data, SELECTIONS[usize::from(selection)]),
    }
}

/// Histograms with any values, as a page shows that is printed while workers count, and with lines that are missing.
fn check_histogram(values: &[u8]) {
    let mut values = values.iter().copied();
    let mut next = || values.next().unwrap_or(0);
    let choice = usize::from(next());
    let histograms = Stat::published_by_envoy().map(Stat::family).filter_map(|family| match family.kind {
        Kind::Histogram(bounds) => Some((family.name, bounds)),
        _ => None,
    });
    let histograms: Vec<_> = histograms.collect();
    let (name, bounds) = histograms[choice % histograms.len()];
    let mut page = String::new();
    for labels in ["", "model_name=\"m\","] {
        let mut add = |series: &str, value: u8| {
            if value != u8::MAX {
                page.push_str(&format!("{name}_{series} {value}\n"));
            }
        };
        for le in bounds.le().chain(["+Inf"]) {
            add(&format!("bucket{{{labels}le=\"{le}\"}}"), next());
        }
        for part in ["sum", "count"].into_iter().chain(bounds.scale.exact_sum_suffix().map(|suffix| &suffix[1..])) {
            add(&format!("{part}{{{labels}}}"), next());
        }
    }
    check_page(page.as_bytes(), Selection::Inpick);
}

fn check_page(envoy: &[u8], selection: Selection) {
    let page = merge(envoy, own_families(), selection);
    if selection != Selection::Strict || has_plain_headers(envoy) {
        check_merged_again(&page, selection);
    }
    let ours = merge(envoy, own_families(), Selection::Inpick);
    assert!(page.starts_with(&ours), "inpick's families come first, whatever else is printed");
    check_families(std::str::from_utf8(&ours).expect("inpick's families are UTF-8"));
    check_names(envoy, selection);
}

/// The same bytes as a list of stats behind the page, which is read where the page has lost the labels; and the page as OpenMetrics.
fn check_names(envoy: &[u8], selection: Selection) {
    let mut reader = ContentsReader::default();
    let (first, rest) = envoy.split_at(envoy.len() / 2);
    reader.feed(first);
    reader.feed(rest);
    if reader.wants_names() {
        reader.feed_names(rest);
        reader.feed_names(first);
    }
    let contents = Arc::new(reader.finish());
    let print = |selection, format| {
        let printer = Printer::new(Arc::clone(&contents), own_families().to_vec(), selection, format);
        printer.flatten().collect::<Vec<u8>>()
    };
    let ours = print(Selection::Inpick, Format::Text);
    check_families(std::str::from_utf8(&ours).expect("inpick's families are UTF-8"));
    let page = String::from_utf8(print(selection, Format::OpenMetrics)).expect("OpenMetrics is UTF-8");
    assert_eq!(page.lines().filter(|line| *line == "# EOF").count(), 1);
    assert!(page.ends_with("\n# EOF\n"));
}

/// A merged page stays as it is: nothing is lost, printed twice or moved.
fn check_merged_again(page: &[u8], selection: Selection) {
    // Envoy ends no line with two of them, and each merge takes one.
    let has_returns = page.windows(2).any(|pair| pair == b"\r\n");
    if has_returns {
        return;
    }
    let again = merge(page, own_families(), selection);
    let lines = |page: &[u8]| String::from_utf8_lossy(page).split('\n').map(str::to_owned).collect::<Vec<_>>();
    for (before, after) in lines(page).iter().zip(&lines(&again)) {
        assert_eq!(before, after, "merging a merged page changes it");
    }
    assert!(again == page, "merging a merged page changes its length or bytes that are no text");
}

/// Whether each header of a type is one word for the name, given once, and one for the type.
fn has_plain_headers(page: &[u8]) -> bool {
    let mut names = HashSet::new();
    let mut headers = page.split(|&byte| byte == b'\n').filter_map(|line| line.strip_prefix(b"# TYPE "));
    headers.all(|header| {
        let mut words = header.split(|&byte| byte == b' ');
        let name = words.next().unwrap_or_default();
        names.insert(name) && split_name(name).0 == name && words.count() == 1
    })
}

/// The rules that Prometheus has for a page: a family's lines together behind its help and type, no series twice, numbers as
/// values; a histogram's label sets whole, their buckets ascending in bound and count up to `_count`.
fn check_families(page: &str) {
    let mut families = HashSet::new();
    let mut series = HashSet::new();
    let (mut family, mut kind) = ("", "");
    let mut histograms: HashMap<String, Vec<(String, f64)>> = HashMap::new();
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().unwrap();
            assert!(families.insert(family), "{family} comes twice");
            continue;
        }
        if let Some(header) = line.strip_prefix("# TYPE ") {
            let (name, typed) = header.split_once(' ').unwrap();
            assert_eq!(name, family);
            kind = typed;
            continue;
        }
        let (name, rest) = split_name(line.as_bytes());
        let sample = Sample::split(rest).unwrap();
        let value = sample.value().unwrap_or_else(|error| panic!("{line:?}: {error}"));
        let mut labels: Vec<(&[u8], String)> = sample
            .labels()
            .map(|label| label.unwrap_or_else(|error| panic!("{line:?}: {error}")))
            .map(|label| (label.name, label.value().unwrap().into_owned()))
            .collect();
        let mut names: Vec<_> = labels.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), labels.len(), "a label twice in {line:?}");
        for name in names {
            let is_first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
            assert!(name.first().copied().is_some_and(is_first), "{line:?}");
            assert!(name.iter().all(|&byte| is_first(byte) || byte.is_ascii_digit()), "{line:?}");
        }
        let suffix = name.strip_prefix(family.as_bytes()).unwrap_or_else(|| panic!("{line:?} under {family}"));
        assert!(series.insert((name.to_vec(), labels.clone())), "{line:?} comes twice");
        match kind {
            "histogram" => {
                let part = String::from_utf8(suffix.to_vec()).unwrap();
                let bound = labels.iter().position(|(name, _)| *name == b"le").filter(|_| part == "_bucket");
                let part = bound.map_or(part, |at| labels.remove(at).1);
                histograms.entry(format!("{family}{labels:?}")).or_default().push((part, value));
            }
            "counter" | "gauge" => assert_eq!(suffix, b"", "{line:?}"),
            other => panic!("{family} is a {other:?}"),
        }
    }
    for (name, lines) in histograms {
        let [buckets @ .., (sum, _), (count, total)] = lines.as_slice() else { panic!("{name}: {lines:?}") };
        assert_eq!((sum.as_str(), count.as_str()), ("_sum", "_count"), "{name}");
        let bounds: Vec<f64> = buckets.iter().map(|(bound, _)| bound.parse().unwrap()).collect();
        assert!(bounds.is_sorted_by(|left, right| left < right), "{name}: {bounds:?}");
        assert!(buckets.is_sorted_by(|left, right| left.1 <= right.1), "{name}: {buckets:?}");
        assert_eq!(buckets.last(), Some(&("+Inf".to_owned(), *total)), "{name}");
    }
}

/// What a sidecar with one pool of two pods says for itself.
fn own_families() -> &'static [OwnFamily] {
    static FAMILIES: OnceLock<Vec<OwnFamily>> = OnceLock::new();
    FAMILIES.get_or_init(|| {
        let mut fleet = Fleet::new(1, Duration::from_secs(2), ["p".to_owned()]);
        let targets = ["10.0.0.1:8000", "[::1]:8000"].map(|address| DiscoveredPod::new(address.parse().unwrap()));
        fleet.discovered(0, targets.to_vec(), Duration::ZERO);
        let signals = Signals { waiting: Some(3), kv_cache_usage: Some(0.25), ..Signals::default() };
        fleet.scraped(0, targets[0].address, Duration::ZERO, Duration::from_millis(3), signals);
        let about = About {
            commit: "c",
            build_ref: "b",
            away: &[],
            rights: &[],
            llm_d: true,
            envoy_up: true,
            envoy_page_failures: 0,
            snapshots_sent: 1,
            snapshots_unchanged: 2,
        };
        families(&fleet, about)
    })
}

fn check_clusters(body: &[u8]) {
    let Ok(clusters) = Clusters::parse(body) else { return };
    // Fields of no interest may hold what no other reader takes.
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return };
    for status in value["cluster_statuses"].as_array().into_iter().flatten() {
        let name = status["name"].as_str().unwrap_or_default();
        let targets = clusters.targets(name).expect("a cluster that is listed");
        let path = clusters_path([name, "x"]);
        assert!(path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'), "{path}");
        check_published(targets);
    }
}

/// Whatever Envoy lists, the filter takes the snapshot that the sidecar makes of it.
fn check_published(targets: Vec<DiscoveredPod>) {
    let unready: HashSet<_> = targets.iter().filter(|target| target.unready).map(|target| target.address).collect();
    let mut fleet = Fleet::new(1, Duration::from_secs(2), ["p".to_owned()]);
    fleet.discovered(0, targets, Duration::ZERO);
    let snapshot = fleet.snapshot(Duration::ZERO, 0, None);
    assert_eq!(Snapshot::decode(&snapshot.encode()).as_ref(), Ok(&snapshot));
    for (endpoint, load) in fleet.membership().pools[0].endpoints.iter().zip(&snapshot.loads.endpoints) {
        assert!(load.state != snapshot::State::Unready || unready.contains(&endpoint.address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page of Envoy with every family that Envoy publishes, so that the check sees each of them.
    fn every_family() -> String {
        let mut page = String::new();
        for family in Stat::published_by_envoy().map(Stat::family) {
            let labels: String = family.labels.iter().map(|label| format!("{}=\"v\",", label.as_str())).collect();
            match family.kind {
                Kind::Counter | Kind::Gauge => page.push_str(&format!("{}{{{labels}}} 3\n", family.name)),
                Kind::Ratio => page.push_str(&format!("{}{}{{{labels}}} 3\n", family.name, catalogue::PERMILLE_SUFFIX)),
                Kind::Histogram(bounds) => {
                    for le in bounds.le().chain(["+Inf"]) {
                        page.push_str(&format!("{}_bucket{{{labels}le=\"{le}\"}} 3\n", family.name));
                    }
                    page.push_str(&format!("{0}_sum{{{labels}}} 9\n{0}_count{{{labels}}} 3\n", family.name));
                }
            }
        }
        page
    }

    #[test]
    fn every_family_of_the_catalogue_passes_and_a_broken_one_does_not() {
        let page = every_family();
        for selection in SELECTIONS {
            check_page(page.as_bytes(), selection);
        }
        let merged = String::from_utf8(merge(page.as_bytes(), own_families(), Selection::Inpick)).unwrap();
        for (from, to) in [("_count{", "_other{"), ("} 3\n", "} x\n"), ("# TYPE ", "# HELP ")] {
            let broken = merged.replacen(from, to, 1);
            assert!(std::panic::catch_unwind(|| check_families(&broken)).is_err(), "{from} as {to}");
        }
    }
}
