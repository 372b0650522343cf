//! Envoy's Prometheus page and the sidecar's own series, merged into the page that an endpoint picker would serve. Pure.
//!
//! The filter's histograms reach Envoy as counters, one a bucket, because Envoy's own histograms neither keep sub-second bounds
//! nor exact sums. Envoy prints each of them as a family of its own; here they are put together again: one `# HELP` and one
//! `# TYPE histogram` a family, buckets in ascending order, then `_sum`, then `_count`.

use std::collections::HashSet;

use catalogue::{Publisher, Stat};

use crate::convention::print_header;
use crate::exposition::{Sample, split_name};
use crate::gathered::{Gathered, places};

/// Media type of the page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Prefix of families that only the sidecar publishes beside the catalogue's.
pub const OWN_PREFIX: &str = "inpick_sidecar_";

/// A family whose values the sidecar itself knows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OwnFamily {
    /// Its name.
    pub name: &'static str,
    /// Text behind `# HELP`.
    pub help: &'static str,
    /// Word behind `# TYPE`.
    pub kind: &'static str,
    /// Its sample lines, each with its end.
    pub lines: String,
}

/// Which families to print.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Selection {
    /// All of Envoy's page and the sidecar's, as Envoy prints them.
    Everything,
    /// The same, but Envoy's own families as `promtool check metrics` accepts them: with a help text, typed by what their name
    /// says, and without the few whose very name breaks its rules.
    Strict,
    /// Families of inpick alone.
    Inpick,
}

/// Merges. `envoy` is the body of Envoy's `/stats/prometheus`, empty when Envoy did not answer.
///
/// Catalogued families come first, in the catalogue's order and each with its series sorted by label set; then the sidecar's;
/// then all else that Envoy printed, unchanged and in Envoy's order. Of a series that Envoy prints twice the first stands. A
/// histogram's label set that Envoy has only in part is left out until it is complete, so that a quantile over it never lies.
#[must_use]
pub fn merge(envoy: &[u8], own: &[OwnFamily], selection: Selection) -> Vec<u8> {
    let mut gathered: Vec<Gathered> = std::iter::repeat_with(Gathered::default).take(Stat::ALL.len()).collect();
    let mut foreign = Vec::with_capacity(if selection == Selection::Inpick { 0 } else { envoy.len() });
    // The family of Envoy's own that the last header began, if it is printed.
    let mut printing = true;
    let mut seen_foreign: HashSet<&[u8]> = HashSet::new();
    for line in envoy.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)) {
        if line.is_empty() {
            continue;
        }
        let name = match line.strip_prefix(b"# TYPE ").or_else(|| line.strip_prefix(b"# HELP ")) {
            Some(header) => split_name(header).0,
            None => split_name(line).0,
        };
        match places().get(name) {
            Some(place) => {
                if line.first() != Some(&b'#')
                    && let Some(series) = gathered.get_mut(place.stat)
                {
                    series.add(place.part, line);
                }
            }
            None if name.starts_with(OWN_PREFIX.as_bytes())
                || own.iter().any(|family| family.name.as_bytes() == name) => {}
            None if selection == Selection::Inpick || !seen_foreign.insert(identity(line)) => {}
            None if selection == Selection::Strict && line.starts_with(b"# HELP ") => {}
            None if selection == Selection::Strict && line.starts_with(b"# TYPE ") => {
                printing = print_header(&mut foreign, line);
            }
            None if !printing => {}
            None => {
                foreign.extend_from_slice(line);
                foreign.push(b'\n');
            }
        }
    }
    let mut page = Vec::with_capacity(envoy.len() + 4096);
    for (stat, series) in Stat::ALL.iter().zip(&gathered) {
        let family = stat.family();
        let published = own.iter().find(|own| own.name == family.name);
        match (family.publisher, published) {
            (Publisher::Sidecar | Publisher::Both, Some(own)) => {
                print_family(&mut page, own.name, own.help, own.kind, own.lines.as_bytes());
            }
            (Publisher::Sidecar | Publisher::Both, None) => {}
            (Publisher::Envoy, _) => {
                print_family(
                    &mut page,
                    family.name,
                    family.help,
                    family.kind.as_str(),
                    &series.lines(family.name, family.kind),
                );
            }
        }
    }
    for family in own.iter().filter(|own| catalogue::find(own.name).is_none()) {
        print_family(&mut page, family.name, family.help, family.kind, family.lines.as_bytes());
    }
    page.extend_from_slice(&foreign);
    page
}

/// What must not appear twice: a header whole, a sample without its value.
fn identity(line: &[u8]) -> &[u8] {
    if line.first() == Some(&b'#') {
        return line;
    }
    let (_, rest) = split_name(line);
    Sample::split(rest).map_or(line, |sample| {
        let end = line.len() - sample.tail.len();
        line.get(..end).unwrap_or(line).trim_ascii_end()
    })
}

fn print_family(page: &mut Vec<u8>, name: &str, help: &str, kind: &str, lines: &[u8]) {
    if lines.is_empty() {
        return;
    }
    let help = help.replace('\\', "\\\\").replace('\n', "\\n");
    page.extend_from_slice(format!("# HELP {name} {help}\n# TYPE {name} {kind}\n").as_bytes());
    page.extend_from_slice(lines);
}

#[cfg(test)]
mod tests {
    use catalogue::Bounds;

    use super::*;
    use crate::gathered::seconds;

    const DURATION: &str = "inference_objective_request_duration_seconds";

    fn page(envoy: &str, own: &[OwnFamily]) -> String {
        String::from_utf8(merge(envoy.as_bytes(), own, Selection::Everything)).unwrap()
    }

    /// What Envoy prints for one label set of a histogram in seconds: every part a counter family, labels in Envoy's order.
    fn duration(labels: &str, skip: Option<&str>, micros: u64) -> String {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut text = format!("# TYPE {DURATION}_bucket counter\n");
        for le in Bounds::LATENCY.le().chain(["+Inf"]).filter(|le| Some(*le) != skip) {
            let count = if le == "+Inf" || le.parse::<f64>().unwrap() >= 0.2 { 3 } else { 0 };
            text.push_str(&format!("{DURATION}_bucket{{le=\"{le}\"{comma}{labels}}} {count}\n"));
        }
        text.push_str(&format!("# TYPE {DURATION}_count counter\n{DURATION}_count{{{labels}}} 3\n"));
        text.push_str(&format!("# TYPE {DURATION}_sum counter\n{DURATION}_sum{{{labels}}} {}\n", micros / 1_000_000));
        text.push_str(&format!(
            "# TYPE {DURATION}_sum_microseconds counter\n{DURATION}_sum_microseconds{{{labels}}} {micros}\n"
        ));
        text
    }

    #[test]
    fn a_histogram_in_counters_becomes_one_family() {
        let merged = page(&duration("target_model_name=\"t/1:x\",model_name=\"m\"", None, 1_234_500), &[]);
        let lines: Vec<&str> = merged.lines().collect();
        assert!(lines[0].starts_with(&format!("# HELP {DURATION} Seconds from")));
        assert_eq!(lines[1], format!("# TYPE {DURATION} histogram"));
        assert_eq!(
            lines[2],
            format!("{DURATION}_bucket{{model_name=\"m\",target_model_name=\"t/1:x\",le=\"0.005\"}} 0")
        );
        let count = Bounds::LATENCY.le().count();
        assert_eq!(
            lines[2 + count],
            format!("{DURATION}_bucket{{model_name=\"m\",target_model_name=\"t/1:x\",le=\"+Inf\"}} 3")
        );
        assert_eq!(lines[3 + count], format!("{DURATION}_sum{{model_name=\"m\",target_model_name=\"t/1:x\"}} 1.2345"));
        assert_eq!(lines[4 + count], format!("{DURATION}_count{{model_name=\"m\",target_model_name=\"t/1:x\"}} 3"));
        assert_eq!(lines.len(), 5 + count);
    }

    #[test]
    fn an_incomplete_histogram_is_left_out_and_its_neighbour_stays() {
        for skip in ["0.2", "+Inf"] {
            let envoy = format!(
                "{}{}",
                duration("model_name=\"half\"", Some(skip), 1),
                duration("model_name=\"whole\"", None, 1)
            );
            let merged = page(&envoy, &[]);
            assert!(!merged.contains("half"), "{skip}");
            assert!(merged.contains("whole"));
            assert_eq!(merged.matches("# TYPE").count(), 1);
        }
        let without_count: String = duration("model_name=\"m\"", None, 1)
            .lines()
            .filter(|line| !line.contains("_count"))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(page(&without_count, &[]), "");
    }

    #[test]
    fn a_page_torn_by_concurrent_writes_still_adds_up() {
        let envoy = duration("", None, 5)
            .replace("_bucket{le=\"0.4\"} 3", "_bucket{le=\"0.4\"} 5")
            .replace("_count{} 3", "_count{} 4");
        let merged = page(&envoy, &[]);
        assert!(merged.contains("_bucket{le=\"0.2\"} 3\n"));
        assert!(merged.contains("_bucket{le=\"0.6\"} 5\n") && merged.contains("_bucket{le=\"+Inf\"} 5\n"));
        assert!(merged.contains(&format!("{DURATION}_count 5\n")));
    }

    #[test]
    fn sums_of_seconds_are_exact_and_other_sums_are_kept() {
        assert_eq!([0, 1, 1_000_000, 10_500_000, 123].map(seconds), ["0", "0.000001", "1", "10.5", "0.000123"]);
        let family = "inference_objective_output_tokens";
        let mut envoy = format!("{family}_sum{{}} 4460\n{family}_count{{}} 61\n");
        for le in Bounds::OUTPUT_TOKENS.le().chain(["+Inf"]) {
            envoy.push_str(&format!("{family}_bucket{{le=\"{le}\"}} 61\n"));
        }
        assert!(page(&envoy, &[]).contains(&format!("{family}_sum 4460\n")));
    }

    #[test]
    fn counters_and_gauges_get_help_and_alphabetical_labels_and_no_duplicates() {
        let merged = page(
            concat!(
                "# TYPE inference_objective_request_error_total counter\n",
                "inference_objective_request_error_total{target_model_name=\"t\",model_name=\"a \\\"b\\\" {x}\",error_code=\"Timeout\"} 2\n",
                "inference_objective_request_error_total{error_code=\"Timeout\",model_name=\"a \\\"b\\\" {x}\",target_model_name=\"t\"} 7\n",
            ),
            &[],
        );
        let lines: Vec<&str> = merged.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with("# HELP inference_objective_request_error_total "));
        assert_eq!(lines[1], "# TYPE inference_objective_request_error_total counter");
        assert_eq!(
            lines[2],
            "inference_objective_request_error_total{error_code=\"Timeout\",model_name=\"a \\\"b\\\" {x}\",target_model_name=\"t\"} 2"
        );
    }

    #[test]
    fn the_sidecars_own_series_replace_those_of_envoy() {
        let own = [OwnFamily {
            name: "inference_pool_ready_pods",
            help: "h",
            kind: "gauge",
            lines: "inference_pool_ready_pods{name=\"p\"} 4\n".to_owned(),
        }];
        let envoy = "# TYPE inference_pool_ready_pods gauge\ninference_pool_ready_pods{name=\"p\"} 3\n";
        assert_eq!(
            page(envoy, &own),
            "# HELP inference_pool_ready_pods h\n# TYPE inference_pool_ready_pods gauge\ninference_pool_ready_pods{name=\"p\"} 4\n"
        );
        assert_eq!(
            page(envoy, &[]),
            "",
            "a value that the sidecar knows to be absent must not come from Envoy's memory"
        );
    }

    #[test]
    fn envoys_own_families_pass_unchanged_and_last() {
        let envoy = concat!(
            "# TYPE envoy_cluster_upstream_rq counter\nenvoy_cluster_upstream_rq{envoy_cluster_name=\"b\"} 1\n",
            "envoy_cluster_upstream_rq{envoy_cluster_name=\"a\"} 1\n",
            "# TYPE envoy_x_ms histogram\nenvoy_x_ms_bucket{le=\"0.5\"} 0\nenvoy_x_ms_bucket{le=\"1\"} 0\nenvoy_x_ms_sum{} 0\n",
        );
        assert_eq!(page(envoy, &[]), envoy);
        let mixed = format!("{envoy}inpick_vm_starts_total 1\n");
        let merged = page(&mixed, &[]);
        assert!(merged.starts_with("# HELP inpick_vm_starts_total") && merged.ends_with(envoy));
        assert!(!merge(mixed.as_bytes(), &[], Selection::Inpick).windows(5).any(|bytes| bytes == b"envoy"));
    }

    #[test]
    fn envoys_own_families_are_made_to_pass_the_check_of_the_page() {
        let envoy = concat!(
            "# TYPE envoy_cluster_upstream_rq counter\nenvoy_cluster_upstream_rq{} 1\n",
            "# TYPE envoy_x_total gauge\nenvoy_x_total{} 1\n",
            "# TYPE envoy_x_ms histogram\nenvoy_x_ms_bucket{le=\"1\"} 0\nenvoy_x_ms_sum{} 0\nenvoy_x_ms_count{} 0\n",
            "# TYPE envoy_live gauge\nenvoy_live{} 1\n",
        );
        assert_eq!(
            String::from_utf8(merge(envoy.as_bytes(), &[], Selection::Strict)).unwrap(),
            concat!(
                "# HELP envoy_cluster_upstream_rq A statistic of Envoy's own.\n# TYPE envoy_cluster_upstream_rq untyped\n",
                "envoy_cluster_upstream_rq{} 1\n",
                "# HELP envoy_x_total A statistic of Envoy's own.\n# TYPE envoy_x_total untyped\nenvoy_x_total{} 1\n",
                "# HELP envoy_live A statistic of Envoy's own.\n# TYPE envoy_live gauge\nenvoy_live{} 1\n",
            )
        );
    }

    #[test]
    fn a_series_that_envoy_repeats_is_printed_once() {
        assert_eq!(page("envoy_x{a=\"1\"} 1\nenvoy_x{a=\"1\"} 2\n", &[]), "envoy_x{a=\"1\"} 1\n");
    }

    #[test]
    fn unreadable_lines_of_ours_are_dropped() {
        for line in ["{a=\"x 1", " one", "", "{a=\"1\",a=\"2\"} 1", "{1a=\"x\"} 1", "{=\"x\"} 1", "{a=\"x\"} 2\" 1"] {
            assert_eq!(page(&format!("inpick_vm_starts_total{line}\n"), &[]), "", "{line}");
        }
        assert!(merge(b"inpick_vm_starts_total{a=\"\xff\"} 1\n", &[], Selection::Inpick).is_empty());
    }

    #[test]
    fn timestamps_are_left_out() {
        assert!(page("inpick_vm_starts_total 3 1700000000000\n", &[]).ends_with("\ninpick_vm_starts_total 3\n"));
    }
}
