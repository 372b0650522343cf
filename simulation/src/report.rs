//! Tables in Markdown.

use std::fmt::Write as _;

use crate::experiment::Result;
use crate::score::Score;

const HEAD: &str = "| policy | TTFT P50 | P90 | worst P90 | P99 | end to end P50 | P90 | P99 | hits | spread | prefilled, k | failed |
|---|---|---|---|---|---|---|---|---|---|---|---|
";

/// One experiment's table: a row a contender, means over the seeds in milliseconds.
pub(crate) fn table(result: &Result) -> String {
    let mut text = format!("### {}\n\n{HEAD}", result.experiment.name);
    for (contender, scores) in result.experiment.contenders.iter().zip(&result.scores) {
        let mean = Score::mean(scores);
        let worst = scores.iter().map(|score| score.first_token[1]).fold(0.0, f64::max);
        let [p50, p90, p99] = mean.first_token;
        let [whole50, whole90, whole99] = mean.whole;
        let _ = writeln!(
            text,
            "| {} | {p50:.0} | {p90:.0} | {worst:.0} | {p99:.0} | {whole50:.0} | {whole90:.0} | {whole99:.0} | {:.3} | {:.2} | {:.0} | {:.4} |",
            contender.name, mean.hits, mean.spread, mean.prefilled_thousands, mean.failed
        );
    }
    text
}
