//! Envoy's Prometheus page and the sidecar's own series, printed as the page that an endpoint picker would serve. Pure.
//!
//! The page is printed piece by piece from what was gathered of Envoy's, so that it never is in memory as a text.

use std::sync::Arc;

use catalogue::{Family, Publisher, Stat};

use crate::contents::{Contents, ContentsReader};
use crate::foreign::print_open_metrics;
use crate::format::Format;

/// Prefix of families that only the sidecar publishes beside the catalogue's.
pub use crate::contents::OWN_PREFIX;

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
    /// The same, but Envoy's own families as `promtool check metrics` accepts them: typed by what their name says, and without the few
    /// whose very name breaks its rules.
    Strict,
    /// Families of inpick alone.
    Inpick,
}

/// Merges. `envoy` is the body of Envoy's `/stats/prometheus`, empty when Envoy did not answer.
///
/// Catalogued families come first, in the catalogue's order and each with its series sorted by label set; then the sidecar's;
/// then all else that Envoy printed, in Envoy's order. Of a series that Envoy prints twice the first stands. A histogram's label set
/// that Envoy has only in part is left out until it is complete, so that a quantile over it never lies.
#[must_use]
pub fn merge(envoy: &[u8], own: &[OwnFamily], selection: Selection) -> Vec<u8> {
    let mut reader = ContentsReader::default();
    reader.feed(envoy);
    let printer = Printer::new(Arc::new(reader.finish()), own.to_vec(), selection, Format::Text);
    printer.flatten().collect()
}

/// Prints the page; each item is a piece of it. The pieces of two printers of the same contents are the same.
#[derive(Clone, Debug)]
pub struct Printer {
    contents: Arc<Contents>,
    own: Vec<OwnFamily>,
    selection: Selection,
    format: Format,
    at: Place,
}

/// What is printed next.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// A label set of a catalogued family; the headers go before the first.
    Catalogued {
        stat: usize,
        row: usize,
    },
    Own(usize),
    /// Lines of a family of Envoy's own.
    Foreign {
        family: usize,
        piece: usize,
    },
    End,
}

/// A piece is handed on once it has this many bytes.
const PIECE_BYTES: usize = 32 * 1024;

impl Iterator for Printer {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(PIECE_BYTES + PIECE_BYTES / 4);
        while out.len() < PIECE_BYTES && !matches!(self.at, Place::End) {
            self.at = self.step(&mut out);
            if matches!(self.at, Place::End) {
                out.extend_from_slice(self.format.end());
            }
        }
        (!out.is_empty()).then_some(out)
    }
}

impl Printer {
    /// A printer of what was read from Envoy and of what the sidecar knows.
    #[must_use]
    pub const fn new(contents: Arc<Contents>, own: Vec<OwnFamily>, selection: Selection, format: Format) -> Self {
        Self { contents, own, selection, format, at: Place::Catalogued { stat: 0, row: 0 } }
    }

    fn step(&self, out: &mut Vec<u8>) -> Place {
        match self.at {
            Place::Catalogued { stat, row } => match Stat::ALL.get(stat) {
                Some(known) => self.print_catalogued(out, known.family(), stat, row),
                None => Place::Own(0),
            },
            Place::Own(index) => match self.own.get(index) {
                Some(family) => {
                    if catalogue::find(family.name).is_none() {
                        self.print_own(out, family);
                    }
                    Place::Own(index + 1)
                }
                None if self.selection == Selection::Inpick => Place::End,
                None => Place::Foreign { family: 0, piece: 0 },
            },
            Place::Foreign { family, piece } => self.print_foreign(out, family, piece),
            Place::End => Place::End,
        }
    }

    fn print_catalogued(&self, out: &mut Vec<u8>, family: &'static Family, stat: usize, row: usize) -> Place {
        let next = Place::Catalogued { stat: stat + 1, row: 0 };
        if family.publisher != Publisher::Envoy {
            // A value that the sidecar knows to be absent must not come from Envoy's memory.
            if let Some(own) = self.own.iter().find(|own| own.name == family.name) {
                self.print_own(out, own);
            }
            return next;
        }
        let Some(rows) = self.contents.rows(stat).filter(|rows| row < rows.len(family.kind)) else { return next };
        if row == 0 {
            self.format.print_headers(out, family.name, family.help, family.kind.as_str());
        }
        rows.print(out, row, family.name, family.kind, self.format);
        Place::Catalogued { stat, row: row + 1 }
    }

    fn print_own(&self, out: &mut Vec<u8>, family: &OwnFamily) {
        if family.lines.is_empty() {
            return;
        }
        self.format.print_headers(out, family.name, family.help, family.kind);
        match (self.format, family.kind) {
            (Format::OpenMetrics, "histogram") => {
                for line in family.lines.lines() {
                    print_open_metrics(out, line.as_bytes(), b"le");
                }
            }
            _ => out.extend_from_slice(family.lines.as_bytes()),
        }
    }

    fn print_foreign(&self, out: &mut Vec<u8>, index: usize, piece: usize) -> Place {
        let foreign = self.contents.foreign();
        let next = Place::Foreign { family: index + 1, piece: 0 };
        let Some(family) = foreign.get(index) else { return Place::End };
        let strict = self.selection == Selection::Strict;
        if (strict && !family.is_conventional()) || self.own.iter().any(|own| own.name == family.name()) {
            return next;
        }
        if piece == 0 {
            foreign.print_headers(out, family, strict, self.format);
        }
        match family.print_piece(out, piece, self.format) {
            Some(()) => Place::Foreign { family: index, piece: piece + 1 },
            None => next,
        }
    }
}

#[cfg(test)]
mod tests {
    use catalogue::Bounds;

    use super::*;
    use crate::gathered::millionths;

    const DURATION: &str = "inference_objective_request_duration_seconds";

    fn page(envoy: &str, own: &[OwnFamily]) -> String {
        String::from_utf8(merge(envoy.as_bytes(), own, Selection::Everything)).unwrap()
    }

    fn open_metrics(envoy: &str, own: &[OwnFamily]) -> String {
        let mut reader = ContentsReader::default();
        reader.feed(envoy.as_bytes());
        let contents = Arc::new(reader.finish());
        let printer = Printer::new(contents, own.to_vec(), Selection::Everything, Format::OpenMetrics);
        String::from_utf8(printer.flatten().collect()).unwrap()
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
        // Three samples; one bucket was read after two more had come, and the count before the third.
        let envoy = duration("", None, 5)
            .replace("_bucket{le=\"0.4\"} 3", "_bucket{le=\"0.4\"} 5")
            .replace("_count{} 3", "_count{} 2");
        let merged = page(&envoy, &[]);
        for bound in ["0.4", "0.6", "+Inf"] {
            assert!(merged.contains(&format!("_bucket{{le=\"{bound}\"}} 2\n")), "{bound} in {merged}");
        }
        assert!(merged.contains(&format!("{DURATION}_count 2\n")));
    }

    #[test]
    fn sums_of_seconds_are_exact_and_other_sums_are_kept() {
        assert_eq!([0, 1, 1_000_000, 10_500_000, 123].map(millionths), ["0", "0.000001", "1", "10.5", "0.000123"]);
        let family = "inference_objective_output_tokens";
        let mut envoy = format!("{family}_sum{{}} 4460\n{family}_count{{}} 61\n");
        for le in Bounds::OUTPUT_TOKENS.le().chain(["+Inf"]) {
            envoy.push_str(&format!("{family}_bucket{{le=\"{le}\"}} 61\n"));
        }
        assert!(page(&envoy, &[]).contains(&format!("{family}_sum 4460\n")));
    }

    #[test]
    fn sums_of_ratios_are_exact_and_the_twin_is_not_printed() {
        let family = "inpick_ttft_ratio";
        let mut envoy = String::new();
        for le in Bounds::PREDICTION_RATIO.le().chain(["+Inf"]) {
            envoy.push_str(&format!("{family}_bucket{{pool=\"p\",le=\"{le}\"}} 4\n"));
        }
        envoy.push_str(&format!("{family}_sum{{pool=\"p\"}} 0\n{family}_count{{pool=\"p\"}} 4\n"));
        let without_twin = page(&envoy, &[]);
        assert!(without_twin.contains("_sum{pool=\"p\"} 0\n"), "a module without the twin");
        envoy.push_str(&format!("{family}_sum_millionths{{pool=\"p\"}} 400004\n"));
        let merged = page(&envoy, &[]);
        assert_eq!(merged, without_twin.replace("_sum{pool=\"p\"} 0\n", "_sum{pool=\"p\"} 0.400004\n"));
        assert_eq!(page(&merged, &[]), merged);
    }

    #[test]
    fn a_ratio_that_envoy_has_in_thousandths_is_printed_as_a_ratio_and_passes_again() {
        let name = "inference_extension_flow_control_pool_saturation";
        let line =
            |pool: &str, thousandths: &str| format!("{name}_permille{{inference_pool=\"{pool}\"}} {thousandths}\n");
        let envoy = format!(
            "# TYPE {name}_permille gauge\n{}{}{}{}{}",
            line("a", "0"),
            line("b", "875"),
            line("c", "1000"),
            line("d", "12340"),
            line("e", "0.5")
        );
        let merged = page(&envoy, &[]);
        let lines: Vec<&str> = merged.lines().skip(1).collect();
        let shown = |pool: &str, value: &str| format!("{name}{{inference_pool=\"{pool}\"}} {value}");
        let expected = [shown("a", "0"), shown("b", "0.875"), shown("c", "1"), shown("d", "12.34")];
        assert_eq!(lines[0], format!("# TYPE {name} gauge"));
        assert_eq!(lines[1..], expected);
        assert_eq!(page(&merged, &[]), merged);
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
    fn envoys_own_families_pass_with_all_their_samples_and_last() {
        let envoy = concat!(
            "# TYPE envoy_cluster_upstream_rq counter\nenvoy_cluster_upstream_rq{envoy_cluster_name=\"b\"} 1\n",
            "envoy_cluster_upstream_rq{envoy_cluster_name=\"a\"} 1\n",
            "# TYPE envoy_x_ms histogram\nenvoy_x_ms_bucket{le=\"0.5\"} 0\nenvoy_x_ms_bucket{le=\"1\"} 0\nenvoy_x_ms_sum{} 0\n",
        );
        let help = |name| format!("# HELP {name} A statistic of Envoy's own.\n# TYPE {name} ");
        let printed = ["envoy_cluster_upstream_rq", "envoy_x_ms"]
            .into_iter()
            .fold(envoy.to_owned(), |page, name| page.replace(&format!("# TYPE {name} "), &help(name)));
        assert_eq!(page(envoy, &[]), printed);
        assert_eq!(page(&printed, &[]), printed, "its own page passes unchanged");
        let mixed = format!("{envoy}inpick_vm_starts_total 1\n");
        let merged = page(&mixed, &[]);
        assert!(merged.starts_with("# HELP inpick_vm_starts_total") && merged.ends_with(&printed));
        assert!(!merge(mixed.as_bytes(), &[], Selection::Inpick).windows(5).any(|bytes| bytes == b"envoy"));
    }

    #[test]
    fn a_family_that_comes_in_parts_is_printed_in_one_and_what_no_scraper_reads_is_not() {
        let envoy = concat!(
            "# HELP a What\\nit \\\\ is.\n# TYPE a gauge\na 1\n# TYPE b counter\nb 2\n# a remark\na{x=\"1\"} 3 1700000000000\n",
            "c{x=\"y} 1\nd{} one\n1e 2\ne{x=\"1\",x=\"2\"} 1\n",
        );
        let (text, open_metrics) = (page(envoy, &[]), open_metrics(envoy, &[]));
        let b = "# HELP b A statistic of Envoy's own.\n# TYPE b counter\nb 2\n";
        assert_eq!(
            text,
            format!("# HELP a What\\nit \\\\ is.\n# TYPE a gauge\na 1\na{{x=\"1\"}} 3 1700000000000\n{b}")
        );
        let b = b.replace(" counter", " unknown");
        assert_eq!(
            open_metrics,
            format!("# HELP a What\\nit \\\\ is.\n# TYPE a gauge\na 1\na{{x=\"1\"}} 3\n{b}# EOF\n")
        );
    }

    #[test]
    fn open_metrics_names_counters_without_total_and_bounds_with_a_fraction() {
        let own = [OwnFamily {
            name: "inpick_sidecar_x",
            help: "Says \"x\".",
            kind: "histogram",
            lines: "inpick_sidecar_x_bucket{le=\"1\"} 0\ninpick_sidecar_x_bucket{pool=\"p\",le=\"+Inf\"} 1\n"
                .to_owned(),
        }];
        let envoy = format!(
            "{}{}",
            duration("model_name=\"m\"", None, 1),
            concat!(
                "inpick_vm_starts_total 3\n",
                "# TYPE envoy_a_total counter\nenvoy_a_total{} 1\n",
                "# TYPE envoy_b counter\nenvoy_b{} 1\n",
                "# TYPE envoy_b_total counter\nenvoy_b_total{} 1\n",
                "# TYPE envoy_t histogram\nenvoy_t_bucket{x=\"1\",le=\"5\"} 0\nenvoy_t_bucket{x=\"1\",le=\"+Inf\"} 0\n",
                "# TYPE envoy_s summary\nenvoy_s{quantile=\"1\"} 0\n",
            )
        );
        let text = open_metrics(&envoy, &own);
        for line in [
            &format!("# TYPE {DURATION} histogram"),
            &format!("{DURATION}_bucket{{model_name=\"m\",le=\"3.0\"}} 3"),
            &format!("{DURATION}_bucket{{model_name=\"m\",le=\"0.005\"}} 0"),
            "# TYPE inpick_vm_starts counter",
            "inpick_vm_starts_total 3",
            "# HELP inpick_sidecar_x Says \\\"x\\\".",
            "inpick_sidecar_x_bucket{le=\"1.0\"} 0",
            "inpick_sidecar_x_bucket{pool=\"p\",le=\"+Inf\"} 1",
            "# TYPE envoy_a counter",
            "envoy_a_total 1",
            "# TYPE envoy_b unknown",
            "# TYPE envoy_b_total unknown",
            "envoy_t_bucket{x=\"1\",le=\"5.0\"} 0",
            "envoy_s{quantile=\"1.0\"} 0",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("\n# EOF\n") && text.matches("# EOF").count() == 1);
    }

    #[test]
    fn names_of_open_metrics_families_are_unique() {
        let mut names = std::collections::BTreeSet::new();
        for family in Stat::ALL.iter().map(|stat| stat.family()) {
            let bare = Format::OpenMetrics.family(family.name, family.kind.as_str());
            let suffixes: &[&str] = match family.kind {
                catalogue::Kind::Counter => &["", "_total", "_created"],
                catalogue::Kind::Gauge | catalogue::Kind::Ratio => &[""],
                catalogue::Kind::Histogram(_) => &["", "_bucket", "_sum", "_count", "_created"],
            };
            for suffix in suffixes {
                assert!(names.insert(format!("{bare}{suffix}")), "{bare}{suffix} is there twice");
            }
        }
    }

    /// A stat: its labels, its name and its value.
    type Stated<'a> = (&'a [(catalogue::Label, &'a str)], &'a str, u64);

    /// The lines of `/stats` that are behind a page, and the page as it is without `stats_tags`.
    fn without_tags(series: &[Stated<'_>]) -> (String, String) {
        let mut names: Vec<String> = Vec::new();
        let mut garbled = String::new();
        for (labels, name, value) in series {
            let stat = catalogue::stat_name(name, "", labels);
            let plain = |character: char| if character.is_ascii_alphanumeric() { character } else { '_' };
            let bare: String = stat.chars().map(plain).collect();
            garbled.push_str(&format!("# TYPE {bare} counter\n{bare}{{}} {value}\n"));
            names.push(format!("wasmcustom.{stat}: {value}\n"));
        }
        names.sort();
        (names.concat(), garbled)
    }

    #[test]
    fn labels_are_read_from_the_names_of_stats_when_the_page_has_lost_them() {
        use catalogue::Label::{ErrorCode, Le, ModelName, TargetModelName};
        let bucket = format!("{DURATION}_bucket");
        let (sum, count) = (format!("{DURATION}_sum_microseconds"), format!("{DURATION}_count"));
        let pair = [(ModelName, "meta-llama/L-3.1:8b=x \"q\" \\"), (TargetModelName, "模型")];
        let les: Vec<&str> = Bounds::LATENCY.le().chain(["+Inf"]).collect();
        let buckets: Vec<_> = les.iter().map(|le| [(Le, *le), pair[0], pair[1]]).collect();
        let mut series: Vec<Stated<'_>> =
            buckets.iter().map(|labels| (labels.as_slice(), bucket.as_str(), 2)).collect();
        let error = [(ModelName, "m"), (TargetModelName, "t"), (ErrorCode, "Timeout")];
        series.extend([
            (pair.as_slice(), sum.as_str(), 1_500_000),
            (&pair, &count, 2),
            (&error, "inference_objective_request_error_total", 7),
            (&[], "inpick_vm_starts_total", 1),
        ]);
        let (names, garbled) = without_tags(&series);
        // A stat of somebody else that looks like one of ours stays.
        let foreign = "# TYPE envoy_x counter\nenvoy_x{} 1\n# TYPE reason_of_inpick_panics_total counter\nreason_of_inpick_panics_total{} 1\n";
        let envoy = format!("{garbled}{foreign}");
        let mut reader = ContentsReader::default();
        for piece in envoy.as_bytes().chunks(7) {
            reader.feed(piece);
        }
        assert!(reader.wants_names());
        for piece in names.as_bytes().chunks(11) {
            reader.feed_names(piece);
        }
        let printer = Printer::new(Arc::new(reader.finish()), Vec::new(), Selection::Everything, Format::Text);
        let text = String::from_utf8(printer.flatten().collect()).unwrap();

        let labels = "model_name=\"meta-llama/L-3.1:8b=x \\\"q\\\" \\\\\",target_model_name=\"模型\"";
        let mut tagged = String::new();
        for le in les {
            tagged.push_str(&format!("{bucket}{{le=\"{le}\",{labels}}} 2\n"));
        }
        tagged.push_str(&format!("{sum}{{{labels}}} 1500000\n{count}{{{labels}}} 2\n"));
        tagged.push_str("inference_objective_request_error_total{model_name=\"m\",target_model_name=\"t\",error_code=\"Timeout\"} 7\n");
        tagged.push_str("inpick_vm_starts_total 1\n");
        assert_eq!(text, page(&format!("{tagged}{foreign}"), &[]));
        assert!(text.contains("_sum{model_name=\"meta-llama") && text.contains("reason_of_inpick_panics_total{} 1\n"));
    }

    #[test]
    fn a_page_with_labels_wants_no_names() {
        let mut reader = ContentsReader::default();
        reader.feed(b"inpick_picks_total{pool=\"p\",endpoint=\"e\",reason=\"r\"} 1\nenvoy_pool_x_inpick_picks_total 1\npool_x 1\n");
        assert!(!reader.wants_names());
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
        assert!(page("envoy_x{a=\"1\"} 1\nenvoy_x{a=\"1\"} 2\n", &[]).ends_with("untyped\nenvoy_x{a=\"1\"} 1\n"));
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
