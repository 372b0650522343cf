//! What Envoy prints of many models, with and without the bootstrap's `stats_tags`.

use std::fmt::Write as _;

use catalogue::{Kind, Label, PERMILLE_SUFFIX, Stat, stat_name};

/// Calls `add` with every stat of so many models: its kind, its name with suffix, its labels and its value.
fn stats(models: usize, mut add: impl FnMut(&str, &str, &[(Label, &str)], u64)) {
    for family in Stat::published_by_envoy().map(Stat::family) {
        let has_models = family.labels.iter().any(|label| label.as_str().contains("model"));
        for model in 0..if has_models { models } else { 1 } {
            let value = |label: Label| match label.as_str() {
                name if name.contains("model") => format!("meta-llama/Llama-3.1-{model}B-Instruct"),
                name => format!("{name}:1"),
            };
            let values: Vec<(Label, String)> = family.labels.iter().map(|label| (*label, value(*label))).collect();
            let labels: Vec<(Label, &str)> = values.iter().map(|(label, value)| (*label, value.as_str())).collect();
            match family.kind {
                Kind::Counter => add("counter", family.name, &labels, 12_345),
                Kind::Gauge => add("gauge", family.name, &labels, 7),
                Kind::Ratio => add("gauge", &format!("{}{PERMILLE_SUFFIX}", family.name), &labels, 7),
                Kind::Histogram(bounds) => {
                    let bucket = format!("{}_bucket", family.name);
                    for (count, le) in bounds.le().chain(["+Inf"]).enumerate() {
                        let with_bound: Vec<_> = [(Label::Le, le)].into_iter().chain(labels.iter().copied()).collect();
                        add("counter", &bucket, &with_bound, 1000 * count as u64);
                    }
                    for suffix in ["_sum", "_count"].into_iter().chain(bounds.scale.exact_sum_suffix()) {
                        add("counter", &format!("{}{suffix}", family.name), &labels, 1_234_567_890);
                    }
                }
            }
        }
    }
}

/// Families of Envoy's own, as the page of a small gateway has them.
fn own(page: &mut String) {
    for cluster in 0..100 {
        for name in ["upstream_rq_total", "upstream_cx_total", "membership_healthy"] {
            let _ = writeln!(page, "# TYPE envoy_cluster_{name}{cluster} counter");
            let _ = writeln!(page, "envoy_cluster_{name}{cluster}{{envoy_cluster_name=\"c\"}} {cluster}");
        }
    }
}

/// Envoy's page for Prometheus.
pub fn tagged_page(models: usize) -> String {
    let mut page = String::new();
    let mut last = String::new();
    stats(models, |kind, name, labels, value| {
        if name != last {
            let _ = writeln!(page, "# TYPE {name} {kind}");
            name.clone_into(&mut last);
        }
        let labels: Vec<String> =
            labels.iter().map(|(label, value)| format!("{}=\"{value}\"", label.as_str())).collect();
        let _ = writeln!(page, "{name}{{{}}} {value}", labels.join(","));
    });
    own(&mut page);
    page
}

/// The same without `stats_tags`, and Envoy's list of stats by their names.
pub fn untagged_page(models: usize) -> (String, String) {
    let (mut page, mut names) = (String::new(), String::new());
    stats(models, |kind, name, labels, value| {
        let name = stat_name(name, "", labels);
        let _ = writeln!(names, "wasmcustom.{name}: {value}");
        let name = name.replace(|character: char| !character.is_ascii_alphanumeric(), "_");
        let _ = writeln!(page, "# TYPE {name} {kind}\n{name}{{}} {value}");
    });
    own(&mut page);
    (page, names)
}
