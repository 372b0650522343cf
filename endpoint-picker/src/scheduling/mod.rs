//! The pick: eligibility narrows the pool, scorers rate what is left, a picker ranks it; and what is observed of a request goes back
//! to whoever learns from it.

mod eligibility;
mod ranking;
mod request;
mod scorer;

use alloc::vec::Vec;

pub use request::{Failure, Observation, PickRequest, estimated_tokens};
pub use scorer::Scorer;

use crate::pool::{EndpointId, Pool};
use crate::rng::Rng;
use crate::time::Timestamp;
use eligibility::{Candidate, Excluded, Ground};
use scorer::Validity;

/// Longest ranked list. Envoy takes the next entry for each attempt, and more than two retries help nobody.
pub const MAX_RANKED: usize = 3;

/// How to pick.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Scorers with their weights; 1 is the best score.
    pub scorers: Vec<(Scorer, f64)>,
    /// What ranks the scores.
    pub picker: Picker,
    /// Entries of the ranked list, 1 to [`MAX_RANKED`].
    pub ranked: usize,
    /// Loads that were last confirmed longer ago than this are stale; microseconds.
    pub max_snapshot_age_micros: u64,
    /// Staleness and ejection together leave out at most this part of a pool, 0 to 100 percent.
    pub max_excluded_percent: u8,
}

/// What ranks the scores.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Picker {
    /// Highest score first, ties in random order.
    MaxScore,
    /// Random order, whatever the scores.
    Random,
}

/// What came of a pick.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decision {
    /// Endpoints to try in this order.
    Picked(Ranked, Reason),
    /// The pool has no endpoint that may take traffic.
    NoEndpoint,
}

/// What decided.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Reason {
    /// One endpoint had the highest score.
    BestScore,
    /// Several had it; chance decided between them.
    Tie,
    /// The random picker was asked for.
    Random,
    /// No endpoint had fresh load: the one with the fewest requests in flight was taken.
    InFlightOnly,
    /// Nothing was picked: Envoy's fallback policy chose.
    Fallback,
    /// The picked endpoint failed and a later entry of the list served.
    Retry,
}

impl Reason {
    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BestScore => "best_score",
            Self::Tie => "tie",
            Self::Random => "random",
            Self::InFlightOnly => "in_flight_only",
            Self::Fallback => "fallback",
            Self::Retry => "retry",
        }
    }
}

/// One to [`MAX_RANKED`] endpoints, best first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ranked {
    first: EndpointId,
    rest: [Option<EndpointId>; MAX_RANKED - 1],
}

impl Ranked {
    /// The endpoint that was picked.
    #[must_use]
    pub const fn first(&self) -> EndpointId {
        self.first
    }

    /// All of them, best first.
    pub fn iter(&self) -> impl Iterator<Item = EndpointId> {
        core::iter::once(self.first).chain(self.rest.into_iter().flatten())
    }
}

/// Picks endpoints, and takes in how that went. It keeps its working memory, so that a pick allocates nothing.
#[derive(Clone, Debug, Default)]
pub struct Scheduler {
    candidates: Vec<Candidate>,
    excluded: Excluded,
    scores: Vec<f64>,
    known: Vec<f64>,
}

impl Scheduler {
    /// Ranks the endpoints of `pool` for one request. The same pool, profile, request, generator and time give the same answer.
    pub fn pick(
        &mut self,
        pool: &Pool,
        profile: &Profile,
        _request: &PickRequest<'_>,
        rng: &mut Rng,
        now: Timestamp,
    ) -> Decision {
        let ground = eligibility::narrow(pool, profile, now, &mut self.candidates, &mut self.excluded);
        self.scores.clear();
        self.scores.resize(self.candidates.len(), 0.0);
        if profile.picker == Picker::MaxScore {
            let validity = Validity { now, max_age_micros: profile.max_snapshot_age_micros };
            for (scorer, weight) in &profile.scorers {
                scorer.add(pool, &self.candidates, validity, *weight, &mut self.scores, &mut self.known);
            }
            if ground == Ground::InFlight {
                self.rank_by_in_flight(pool);
            }
        }
        let (positions, tied) = ranking::rank(&self.candidates, &self.scores, profile.ranked, rng);
        let mut ids = positions.into_iter().flatten().filter_map(|position| Some(self.candidates.get(position)?.id));
        let Some(first) = ids.next() else { return Decision::NoEndpoint };
        let reason = match (profile.picker, ground) {
            (_, Ground::InFlight) => Reason::InFlightOnly,
            (Picker::Random, Ground::Load) => Reason::Random,
            (Picker::MaxScore, Ground::Load) if tied => Reason::Tie,
            (Picker::MaxScore, Ground::Load) => Reason::BestScore,
        };
        Decision::Picked(Ranked { first, rest: core::array::from_fn(|_| ids.next()) }, reason)
    }

    /// Where no load is fresh, the fewest requests in flight win; what the old loads said decides between equals.
    fn rank_by_in_flight(&mut self, pool: &Pool) {
        let lowest = self.scores.iter().copied().fold(f64::INFINITY, f64::min);
        let span = 1.0 + self.scores.iter().copied().fold(lowest, f64::max) - lowest;
        for (score, candidate) in self.scores.iter_mut().zip(&self.candidates) {
            let in_flight = pool.endpoint(candidate.id).map_or(0, |endpoint| endpoint.in_flight().total());
            *score = (*score - lowest) / span - f64::from(in_flight);
        }
    }

    /// Takes in what became of a request that was sent to `endpoint` at `sent_at`. True: the endpoint is ejected from now on.
    pub fn observe(
        &mut self,
        pool: &mut Pool,
        endpoint: EndpointId,
        observation: &Observation,
        sent_at: Timestamp,
        now: Timestamp,
    ) -> bool {
        match observation {
            Observation::FirstToken { .. } => {
                pool.request_answered(endpoint, sent_at, now);
                false
            }
            Observation::Finished { .. } => {
                pool.request_succeeded(endpoint, sent_at, now);
                false
            }
            Observation::Failed(_) => pool.request_failed(endpoint, sent_at, now),
            Observation::Abandoned => false,
        }
    }
}

#[cfg(test)]
mod tests;
