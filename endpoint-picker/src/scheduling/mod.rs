//! The pick: eligibility narrows the pool, scorers rate what is left, a picker ranks it; and what is observed of a request goes back
//! to whoever learns from it.

mod candidate;
mod cold;
mod decision;
mod eligibility;
mod profile;
mod ranking;
mod request;
mod scorer;

use alloc::vec::Vec;

pub use cold::NoHitLru;
pub use decision::{Decision, MAX_RANKED, Ranked, Reason};
pub use profile::{Picker, Profile};
pub use request::{Failure, Observation, PickRequest};
pub use scorer::{ActiveRequests, BYTES_PER_TOKEN, LoadAware, PrefixCache, Scorer};

use crate::pool::{EndpointId, Pool};
use crate::rng::Rng;
use crate::time::Timestamp;
use candidate::Candidate;
use cold::ColdEndpoints;
use eligibility::{Excluded, Ground};
use scorer::{Memory, Sight, Validity};

/// Picks endpoints, and takes in how that went. It keeps its working memory, so that a pick allocates nothing.
#[derive(Clone, Debug, Default)]
pub struct Scheduler {
    candidates: Vec<Candidate>,
    excluded: Excluded,
    /// What the request costs on each candidate, by the forecast of the scorer that is asked.
    costs: Vec<f64>,
    scores: Vec<f64>,
    memory: Memory,
    cold: ColdEndpoints,
}

impl Scheduler {
    /// Ranks the endpoints of `pool` for one request. The same pool, profile, request, generator and time give the same answer.
    pub fn pick(
        &mut self,
        pool: &Pool,
        profile: &Profile,
        request: &PickRequest<'_>,
        rng: &mut Rng,
        now: Timestamp,
    ) -> Decision {
        let ground = eligibility::narrow(pool, profile, now, &mut self.candidates, &mut self.excluded);
        self.scores.clear();
        self.scores.resize(self.candidates.len(), 0.0);
        let mut picker = profile.picker;
        if picker != Picker::Random {
            self.score(pool, profile, request, ground, now);
            if ground == Ground::InFlight {
                self.rank_by_in_flight(pool);
                picker = Picker::MaxScore;
            }
        }
        if picker == Picker::WeightedRandom {
            ranking::draw(&mut self.scores, rng);
        }
        let (positions, tied) = ranking::rank(&self.candidates, &self.scores, profile.ranked, rng);
        let mut ids = positions.into_iter().flatten().filter_map(|position| Some(self.candidates.get(position)?.id));
        let Some(first) = ids.next() else { return Decision::NoEndpoint };
        let ranked = Ranked { first, rest: core::array::from_fn(|_| ids.next()) };
        if let Some(lru) = profile.no_hit_lru()
            && cold::is_cold(&self.candidates)
        {
            self.cold.note(first, lru);
        }
        let reason = match (picker, ground) {
            (_, Ground::InFlight) => Reason::InFlightOnly,
            (Picker::Random | Picker::WeightedRandom, Ground::Load) => Reason::Random,
            (Picker::MaxScore, Ground::Load) if tied => Reason::Tie,
            (Picker::MaxScore, Ground::Load) => Reason::BestScore,
        };
        Decision::Picked(ranked, reason)
    }

    /// Adds up what the profile's scorers say. Engines' figures that the sidecar no longer confirms say nothing.
    fn score(&mut self, pool: &Pool, profile: &Profile, request: &PickRequest<'_>, ground: Ground, now: Timestamp) {
        let max_age_micros = profile.max_snapshot_age_micros;
        let is_confirmed = pool.confirmed_at().is_some_and(|at| now.micros_since(at) <= max_age_micros);
        for (scorer, weight) in &profile.scorers {
            if ground == Ground::InFlight && !is_confirmed && scorer.reads_load() {
                continue;
            }
            let sight = Sight {
                pool,
                candidates: &self.candidates,
                request,
                validity: Validity { now, max_age_micros },
                cold: &self.cold,
                costs: &self.costs,
            };
            scorer.add(&sight, *weight, &mut self.memory, &mut self.scores);
        }
    }

    /// Where no load is fresh, the fewest requests in flight win, and the scores decide between equals.
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
