//! What a policy came to: one run, and several.

use crate::distribution::{Distribution, mean};
use crate::world::Record;

/// One run in figures; times in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Score {
    /// Time to the first token: P50, P90, P99.
    pub(crate) first_token: [f64; 3],
    /// Time to the end: P50, P90, P99.
    pub(crate) whole: [f64; 3],
    /// Cached part of the prompt tokens.
    pub(crate) hits: f64,
    /// The busiest pod's mean load over the mean of all.
    pub(crate) spread: f64,
    /// Tokens of prompts that were computed, in thousands.
    pub(crate) prefilled_thousands: f64,
    pub(crate) requests: f64,
    /// Part of the requests that got no complete answer.
    pub(crate) failed: f64,
    pub(crate) preemptions: f64,
}

const PARTS: [f64; 3] = [0.5, 0.9, 0.99];

impl Score {
    /// Of the requests that were sent within these microseconds.
    pub(crate) fn of(record: &Record, sent: std::ops::Range<u64>) -> Self {
        let outcomes = || record.outcomes.iter().filter(|outcome| sent.contains(&outcome.sent_at));
        let millis = |since: u64, until: u64| (until - since) as f64 / 1e3;
        let quantiles = |samples: Vec<f64>| {
            let distribution = Distribution::new(samples);
            PARTS.map(|part| distribution.quantile(part))
        };
        let first = outcomes().filter_map(|outcome| Some(millis(outcome.sent_at, outcome.first_token?)));
        let whole = outcomes().filter_map(|outcome| Some(millis(outcome.sent_at, outcome.done?)));
        let answered = || outcomes().filter(|outcome| outcome.first_token.is_some());
        let prompt: u64 = answered().map(|outcome| u64::from(outcome.prompt_tokens)).sum();
        let cached: u64 = answered().map(|outcome| u64::from(outcome.cached_tokens)).sum();
        let requests = outcomes().count();
        let failed = outcomes().filter(|outcome| outcome.is_failed || outcome.done.is_none()).count();
        let average = mean(record.mean_load.iter().copied());
        let busiest = record.mean_load.iter().copied().fold(0.0, f64::max);
        Self {
            first_token: quantiles(first.collect()),
            whole: quantiles(whole.collect()),
            hits: cached as f64 / prompt.max(1) as f64,
            spread: if average > 0.0 { busiest / average } else { 1.0 },
            prefilled_thousands: record.prefilled_tokens as f64 / 1e3,
            requests: requests as f64,
            failed: failed as f64 / requests.max(1) as f64,
            preemptions: record.preemptions as f64,
        }
    }

    /// Figure by figure, what `merge` makes of several.
    pub(crate) fn merged(scores: &[Self], merge: impl Fn(&mut dyn Iterator<Item = f64>) -> f64) -> Self {
        let figure = |of: &dyn Fn(&Self) -> f64| merge(&mut scores.iter().map(of));
        Self {
            first_token: [0, 1, 2].map(|place| figure(&|score| score.first_token[place])),
            whole: [0, 1, 2].map(|place| figure(&|score| score.whole[place])),
            hits: figure(&|score| score.hits),
            spread: figure(&|score| score.spread),
            prefilled_thousands: figure(&|score| score.prefilled_thousands),
            requests: figure(&|score| score.requests),
            failed: figure(&|score| score.failed),
            preemptions: figure(&|score| score.preemptions),
        }
    }

    pub(crate) fn mean(scores: &[Self]) -> Self {
        Self::merged(scores, |figures| mean(figures))
    }

    /// The worst of each figure.
    pub(crate) fn worst(scores: &[Self]) -> Self {
        let worst = Self::merged(scores, |figures| figures.fold(0.0, f64::max));
        let hits = scores.iter().map(|score| score.hits).fold(1.0, f64::min);
        Self { hits, ..worst }
    }
}
