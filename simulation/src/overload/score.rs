//! What a contender came to at one load: goodput, times by band, hits, and how fairly tenants of one band were served.

use crate::distribution::{Distribution, mean};
use crate::workload::tenants::{Tenant, Tenants};
use crate::world::{Outcome, Record};

/// One run in figures; times in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Score {
    /// Requests sent each second whose first token came in time.
    pub(crate) goodput: f64,
    /// Time to the first token of those that were answered, P50, P90 and P99: of the high band, and of the low one.
    pub(crate) first_token: [[f64; 3]; 2],
    /// Part of the requests that were refused or lost, by band.
    pub(crate) refused: [f64; 2],
    /// Cached part of the prompt tokens.
    pub(crate) hits: f64,
    /// Time to the first token of the tenant of the low band that asks for least, P90.
    pub(crate) least_tenant: f64,
    /// Jain's index over the tenants of the low band, of what each was served while they sent: 1 when each got its fair share.
    pub(crate) fairness: f64,
}

const PARTS: [f64; 3] = [0.5, 0.9, 0.99];

impl Score {
    /// Of the requests that were sent within these microseconds. `in_time`: microseconds to the first token, by band.
    pub(crate) fn of(record: &Record, tenants: &[Tenant], in_time: [u64; 2], sent: std::ops::Range<u64>) -> Self {
        let seconds = (sent.end - sent.start) as f64 / 1e6;
        let band_of = |outcome: &Outcome| usize::from(tenants[Tenants::tenant_of(outcome.ticket)].objective.is_none());
        let counted: Vec<&Outcome> = record.outcomes.iter().filter(|outcome| sent.contains(&outcome.sent_at)).collect();
        let waited = |outcome: &Outcome| Some(outcome.first_token? - outcome.sent_at);
        let is_good = |outcome: &&&Outcome| {
            outcome.done.is_some() && waited(outcome).is_some_and(|waited| waited <= in_time[band_of(outcome)])
        };
        let of_band = |band: usize| counted.iter().filter(move |outcome| band_of(outcome) == band);
        let quantiles = |band: usize| {
            let samples = of_band(band).filter_map(|outcome| waited(outcome)).map(|micros| micros as f64 / 1e3);
            let distribution = Distribution::new(samples.collect());
            PARTS.map(|part| distribution.quantile(part))
        };
        let refused = |band: usize| {
            let lost = of_band(band).filter(|outcome| outcome.done.is_none()).count();
            lost as f64 / of_band(band).count().max(1) as f64
        };
        let sum = |figure: fn(&Outcome) -> u32| -> u64 {
            let answered = counted.iter().filter(|outcome| outcome.first_token.is_some());
            answered.map(|outcome| u64::from(figure(outcome))).sum()
        };
        let rates: Vec<(f64, f64)> = (0..tenants.len())
            .filter(|&tenant| tenants[tenant].objective.is_none())
            .map(|tenant| {
                let own = || counted.iter().filter(move |outcome| Tenants::tenant_of(outcome.ticket) == tenant);
                let served = own().filter(|outcome| outcome.first_token.is_some_and(|at| at < sent.end));
                (own().count() as f64, served.count() as f64)
            })
            .collect();
        let low = (0..tenants.len()).filter(|&tenant| tenants[tenant].objective.is_none());
        let least = low.min_by(|&one, &other| tenants[one].share.total_cmp(&tenants[other].share));
        let of_least = counted.iter().filter(|outcome| Some(Tenants::tenant_of(outcome.ticket)) == least);
        let of_least = of_least.filter_map(|outcome| waited(outcome)).map(|micros| micros as f64 / 1e3);
        Self {
            goodput: counted.iter().filter(is_good).count() as f64 / seconds,
            first_token: [0, 1].map(quantiles),
            refused: [0, 1].map(refused),
            hits: sum(|outcome| outcome.cached_tokens) as f64 / sum(|outcome| outcome.prompt_tokens).max(1) as f64,
            least_tenant: Distribution::new(of_least.collect()).quantile(0.9),
            fairness: fairness(&rates),
        }
    }

    /// Figure by figure.
    pub(crate) fn mean(scores: &[Self]) -> Self {
        let figure = |of: &dyn Fn(&Self) -> f64| mean(scores.iter().map(of));
        Self {
            goodput: figure(&|score| score.goodput),
            first_token: [0, 1].map(|band| [0, 1, 2].map(|place| figure(&|score| score.first_token[band][place]))),
            refused: [0, 1].map(|band| figure(&|score| score.refused[band])),
            hits: figure(&|score| score.hits),
            least_tenant: figure(&|score| score.least_tenant),
            fairness: figure(&|score| score.fairness),
        }
    }
}

/// Jain's index of what each tenant got, measured by its fair share: that of max-min fairness, in which nobody gets more than it asks for
/// and what one leaves is divided among the others. `tenants`: what each asked for and what it got.
fn fairness(tenants: &[(f64, f64)]) -> f64 {
    let mut left: f64 = tenants.iter().map(|(_, got)| got).sum();
    let mut by_demand = tenants.to_vec();
    by_demand.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (mut sum, mut squares) = (0.0, 0.0);
    for (place, (asked, got)) in by_demand.iter().enumerate() {
        let share = asked.min(left / (by_demand.len() - place) as f64);
        left -= share;
        let part = if share > 0.0 { got / share } else { 1.0 };
        sum += part;
        squares += part * part;
    }
    if squares > 0.0 { sum * sum / (by_demand.len() as f64 * squares) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Ticket;

    #[test]
    fn the_index_is_1_when_the_small_one_gets_all_and_the_large_one_the_rest() {
        assert_eq!(fairness(&[(10.0, 10.0), (100.0, 30.0)]), 1.0);
        assert_eq!(fairness(&[(10.0, 10.0), (100.0, 100.0)]), 1.0);
        assert_eq!(fairness(&[]), 1.0);
        // Shares of what was sent: the small one gets 4 of its 10, and the large one its 6 beside.
        let unfair = fairness(&[(10.0, 4.0), (100.0, 40.0)]);
        assert!((0.8..0.87).contains(&unfair), "{unfair}");
        assert!((fairness(&[(50.0, 50.0), (50.0, 0.0)]) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_request_is_good_when_it_is_answered_in_time_for_its_band() {
        const TENANTS: &[Tenant] = &[
            Tenant { name: "a", objective: Some("high"), share: 0.5, prompts: 1 },
            Tenant { name: "b", objective: None, share: 0.5, prompts: 1 },
        ];
        let outcome = |tenant: u32, first: Option<u64>| Outcome {
            ticket: Ticket { conversation: tenant << 24, turn: 0 },
            sent_at: 1_000_000,
            first_token: first.map(|millis| 1_000_000 + millis * 1_000),
            done: first.map(|_| 9_000_000),
            prompt_tokens: 10,
            cached_tokens: 5,
            is_failed: first.is_none(),
        };
        let outcomes = vec![outcome(0, Some(100)), outcome(0, Some(400)), outcome(1, Some(400)), outcome(1, None)];
        let record = Record { outcomes, ..Record::default() };
        let score = Score::of(&record, TENANTS, [200_000, 500_000], 0..2_000_000);
        assert_eq!(score.goodput, 1.0);
        assert_eq!(score.first_token, [[100.0, 400.0, 400.0], [400.0; 3]]);
        assert_eq!((score.refused, score.hits, score.fairness), ([0.0, 0.5], 0.5, 1.0));
        assert_eq!(Score::of(&record, TENANTS, [200_000, 500_000], 0..1).goodput, 0.0);
    }
}
