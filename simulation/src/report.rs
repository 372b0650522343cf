//! The results in Markdown.

use std::fmt::Write as _;

use crate::aims::{self, Aim};
use crate::experiment::Comparison;
use crate::score::Score;

const HEAD: &str = "| policy | TTFT P50 | P90 | worst P90 | P99 | end to end P50 | P90 | P99 | hits | load spread | prefilled, k | failed, % |
|---|---|---|---|---|---|---|---|---|---|---|---|
";

/// The whole report: aims, where there are any, and a table an experiment.
pub(crate) fn text(results: &[Comparison], aims: &[Aim], seeds: u64) -> String {
    let mut text = format!(
        "Means over {seeds} seeds, times in milliseconds; worst P90: of the seeds. Hits: cached part of the prompt tokens. Load spread: mean \
         load of the busiest pod over the mean of all. Prefilled: prompt tokens that the engines computed. `ours` is the real core, every \
         other row a model; `oracle` knows the engines' coefficients, queues and caches.\n\n"
    );
    if !aims.is_empty() {
        text.push_str(&aims::table(aims));
        text.push('\n');
    }
    for result in results {
        text.push_str(&table(result));
        text.push('\n');
    }
    text
}

/// One experiment: a row a contender.
fn table(result: &Comparison) -> String {
    let mut text = format!("### {}\n\n{HEAD}", result.experiment.name);
    for (contender, scores) in result.experiment.contenders.iter().zip(&result.scores) {
        let mean = Score::mean(scores);
        let worst = Score::worst(scores).first_token[1];
        let [p50, p90, p99] = mean.first_token;
        let [whole50, whole90, whole99] = mean.whole;
        let _ = writeln!(
            text,
            "| {} | {p50:.0} | {p90:.0} | {worst:.0} | {p99:.0} | {whole50:.0} | {whole90:.0} | {whole99:.0} | {:.3} | {:.2} | {:.0} | {:.2} |",
            contender.name,
            mean.hits,
            mean.spread,
            mean.prefilled_thousands,
            mean.failed * 100.0
        );
    }
    text
}
