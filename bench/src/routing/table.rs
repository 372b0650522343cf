//! What came of it: a table a load, and whether the limits hold.

use std::fmt::{self, Write as _};
use std::time::Duration;

use simulation::{MeasuredLoad, Simulated};

use super::gateway::Gateway;
use crate::statistics::quantile;

/// A policy is before another one in the simulation where its P90 is lower by this part with every seed.
const TIE: f64 = 0.05;

/// A request's answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Answer {
    pub(crate) first_token: Duration,
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
}

/// Or why there is none.
pub(crate) type Outcome = Result<Answer, String>;

/// A gateway and what it did under one load.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) gateway: Gateway,
    pub(crate) outcomes: Vec<Outcome>,
    /// What the simulation says of it.
    pub(crate) simulated: Option<Simulated>,
}

/// A limit, and whether it holds.
#[derive(Debug)]
pub(crate) struct Verdict {
    what: String,
    pub(crate) is_met: bool,
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "- {}: {}", if self.is_met { "met" } else { "MISSED" }, self.what)
    }
}

impl Row {
    pub(crate) const fn new(gateway: Gateway) -> Self {
        Self { gateway, outcomes: Vec::new(), simulated: None }
    }

    /// Requests without a whole answer.
    pub(crate) fn failed(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.is_err()).count()
    }

    fn answers(&self) -> impl Iterator<Item = &Answer> {
        self.outcomes.iter().flatten()
    }

    /// Time to the first token in milliseconds; not a number where nothing was answered.
    fn first_token(&self, part: f64) -> f64 {
        let mut millis: Vec<f64> = self.answers().map(|answer| answer.first_token.as_secs_f64() * 1e3).collect();
        millis.sort_by(f64::total_cmp);
        quantile(&millis, part).unwrap_or(f64::NAN)
    }

    fn hits(&self) -> f64 {
        let sum = |of: fn(&Answer) -> u64| self.answers().map(of).sum::<u64>() as f64;
        sum(|answer| answer.cached_tokens) / sum(|answer| answer.prompt_tokens).max(1.0)
    }
}

/// The table of a load.
pub(crate) fn markdown(load: &MeasuredLoad, slowness: f64, rows: &[Row]) -> String {
    let mut text = format!(
        "### {}: {} conversations/s, {} prompts, {} tokens out at most",
        load.name, load.rate, load.prompts, load.most_output_tokens
    );
    if slowness != 1.0 {
        let _ = write!(text, "; all times {slowness} times as long, so {} conversations/s", load.rate / slowness);
    }
    text.push_str("\n\nTimes to the first token in milliseconds; hits: cached part of the prompt tokens; on the right what the simulation says.\n\n");
    text.push_str("| gateway | P50 | P90 | P99 | hits | requests | errors | simulated P50 | P90 | hits |\n|---|---|---|---|---|---|---|---|---|---|\n");
    for row in rows {
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|part| row.first_token(part));
        let _ = write!(
            text,
            "| {} | {p50:.0} | {p90:.0} | {p99:.0} | {:.2} | {} | {} |",
            row.gateway,
            row.hits(),
            row.outcomes.len(),
            row.failed()
        );
        let _ = match &row.simulated {
            Some(Simulated { first_token: [p50, p90, _], hits, .. }) => {
                writeln!(text, " {:.0} | {:.0} | {hits:.2} |", p50 * slowness, p90 * slowness)
            }
            None => writeln!(text, " | | |"),
        };
    }
    for error in rows.iter().filter_map(|row| row.outcomes.iter().find_map(|outcome| outcome.as_ref().err())) {
        let _ = writeln!(text, "\nAn error: {error}");
    }
    text
}

/// The limits of a load: against round robin in the same run, and the order that the simulation gives.
pub(crate) fn verdicts(load: &MeasuredLoad, rows: &[Row]) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    let row = |gateway| rows.iter().find(|row| row.gateway == gateway);
    if let (Some(ours), Some(plain)) = (row(Gateway::Ours), row(Gateway::RoundRobin)) {
        let ratio = ours.first_token(0.9) / plain.first_token(0.9);
        let what = format!("P90 of inpick is {ratio:.2} of plain round robin's, at most {:.2}", load.limit);
        verdicts.push(Verdict { what, is_met: ratio <= load.limit });
    }
    let mut inverted = Vec::new();
    let mut pairs = 0;
    for faster in rows {
        for slower in rows.iter().filter(|slower| is_before(faster, slower)) {
            pairs += 1;
            if faster.first_token(0.9) > slower.first_token(0.9) {
                inverted.push(format!("{} before {}", slower.gateway, faster.gateway));
            }
        }
    }
    if pairs > 0 {
        let mut what = format!("{} of {pairs} pairs by P90 are in the simulation's order", pairs - inverted.len());
        if !inverted.is_empty() {
            let _ = write!(what, "; not: {}", inverted.join("; "));
        }
        verdicts.push(Verdict { what, is_met: inverted.is_empty() });
    }
    verdicts
}

/// Whether the simulation has one before the other with every seed.
fn is_before(faster: &Row, slower: &Row) -> bool {
    let (Some(faster), Some(slower)) = (&faster.simulated, &slower.simulated) else { return false };
    let mut seeds = faster.p90_by_seed.iter().zip(&slower.p90_by_seed);
    !faster.p90_by_seed.is_empty() && seeds.all(|(faster, slower)| faster * (1.0 + TIE) < *slower)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(gateway: Gateway, millis: u64, simulated: f64) -> Row {
        let answer = Answer { first_token: Duration::from_millis(millis), prompt_tokens: 10, cached_tokens: 9 };
        let simulated =
            Simulated { first_token: [simulated; 3], p90_by_seed: vec![simulated, 2.0 * simulated], hits: 0.8 };
        Row { gateway, outcomes: vec![Ok(answer); 10], simulated: Some(simulated) }
    }

    fn met(rows: &[Row]) -> Vec<bool> {
        verdicts(&MeasuredLoad::LIGHT, rows).iter().map(|verdict| verdict.is_met).collect()
    }

    #[test]
    fn limits_are_of_round_robin_and_order_is_of_the_simulation() {
        let plain = row(Gateway::RoundRobin, 200, 190.0);
        assert_eq!(met(&[plain, row(Gateway::Ours, 70, 60.0)]), [true, true]);
        let plain = row(Gateway::RoundRobin, 200, 190.0);
        assert_eq!(met(&[plain, row(Gateway::Ours, 71, 60.0)]), [false, true]);
        let plain = row(Gateway::RoundRobin, 200, 190.0);
        assert_eq!(met(&[plain, row(Gateway::Ours, 201, 60.0)]), [false, false]);
        assert!(met(&[row(Gateway::Lmetric, 61, 60.0), row(Gateway::Ours, 60, 61.0)]).is_empty(), "a tie");
        let mut unsteady = row(Gateway::EppProfile, 600, 60.0);
        if let Some(simulated) = &mut unsteady.simulated {
            simulated.p90_by_seed = vec![60.0, 600.0];
        }
        assert!(
            met(&[unsteady, row(Gateway::Lmetric, 200, 190.0)]).is_empty(),
            "before it with one seed, behind with the other"
        );
    }

    #[test]
    fn nothing_answered_meets_no_limit() {
        let mut ours = row(Gateway::Ours, 60, 60.0);
        ours.outcomes = vec![Err("status 503".to_owned())];
        assert_eq!(ours.failed(), 1);
        let rows = [row(Gateway::RoundRobin, 200, 190.0), ours];
        assert!(!met(&rows)[0]);
        assert!(markdown(&MeasuredLoad::LIGHT, 1.0, &rows).contains("An error: status 503"));
    }

    #[test]
    fn hits_are_of_all_tokens() {
        let mut ours = row(Gateway::Ours, 60, 60.0);
        ours.outcomes.push(Ok(Answer { first_token: Duration::ZERO, prompt_tokens: 100, cached_tokens: 0 }));
        assert!((ours.hits() - 0.45).abs() < 1e-9);
    }
}
