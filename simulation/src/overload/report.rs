//! The results in Markdown.

use std::fmt::Write as _;

use super::{CAPACITY, IN_TIME, Row, Score};

const HEAD: &str = "| load | flow control | goodput, requests/s | high TTFT P50 | P90 | P99 | low TTFT P50 | P90 | P99 | trickle P90 | hits | fairness | high refused, % | low refused, % |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
";

/// The table of every load.
pub(crate) fn table(rows: &[Row]) -> String {
    let [high, low] = IN_TIME.map(|micros| micros as f64 / 1e6);
    let mut text = format!(
        "### flow control, as multiples of {CAPACITY} requests/s, which the pods complete while some always wait\n\n\
         Goodput: requests of the loaded time whose first token came in time, within {high} s in the high band and {low} s in the low \
         one. Fairness: Jain's index over the tenants of the low band, a flood and a trickle, of what each was \
         served in the loaded time, measured by its max-min fair share. Times in milliseconds; means of the seeds.\n\n{HEAD}"
    );
    for row in rows {
        let Score { goodput, first_token, refused, hits, least_tenant, fairness } = Score::mean(&row.scores);
        let [[high50, high90, high99], [low50, low90, low99]] = first_token;
        let [high_refused, low_refused] = refused.map(|part| part * 100.0);
        let _ = writeln!(
            text,
            "| {} × | {} | {goodput:.1} | {high50:.0} | {high90:.0} | {high99:.0} | {low50:.0} | {low90:.0} | {low99:.0} | {least_tenant:.0} | {hits:.3} | {fairness:.3} | {high_refused:.1} | {low_refused:.1} |",
            row.load, row.contender
        );
    }
    text
}
