//! The pick: eligibility narrows the pool, scorers rate what is left, a picker ranks it; and what is observed of a request goes back
//! to whoever learns from it.

mod adapters;
mod candidate;
mod decision;
mod eligibility;
mod profile;
mod ranking;
pub mod rendezvous;
mod request;
mod saturation;
mod scorer;
mod subset;

use alloc::vec::Vec;

pub use decision::{Decision, MAX_RANKED, Ranked, Reason};
pub use profile::{Picker, Profile};
pub use request::{Failure, Observation, PickRequest};
pub use saturation::Saturation;
pub use scorer::Scorer;
pub use subset::Subset;

use crate::pool::{Endpoint, EndpointId, Pool};
use crate::rng::Rng;
use crate::time::Timestamp;
use candidate::Candidate;
use eligibility::{Excluded, Ground};
use scorer::Validity;

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
        request: &PickRequest<'_>,
        rng: &mut Rng,
        now: Timestamp,
    ) -> Decision {
        if let Some(id) = request.pinned.filter(|&id| pool.endpoint(id).is_some_and(Endpoint::is_member)) {
            // Each attempt goes there: elsewhere it would only be told that there is no such response.
            let again = |entry| (entry + 1 < profile.ranked).then_some(id);
            return Decision::Picked(Ranked { first: id, rest: core::array::from_fn(again) }, Reason::Pinned);
        }
        let ground = eligibility::narrow(pool, profile, request, now, &mut self.candidates, &mut self.excluded);
        adapters::note(pool, request.target_model, &mut self.candidates);
        self.scores.clear();
        self.scores.resize(self.candidates.len(), 0.0);
        if profile.picker == Picker::MaxScore {
            let validity = Validity { now, max_age_micros: profile.max_snapshot_age_micros };
            for (scorer, weight) in &profile.scorers {
                scorer.add(pool, &self.candidates, validity, *weight, &mut self.scores, &mut self.known);
            }
            if ground == Ground::InFlight {
                self.rank_by_in_flight(pool, profile, now);
            }
        }
        self.prefer(pool, request);
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

    /// What stands above all scores: the order of the subset, or the endpoint of the client's session.
    fn prefer(&mut self, pool: &Pool, request: &PickRequest<'_>) {
        let order = request.subset.filter(|subset| subset.is_order());
        if order.is_none() && request.session.is_none() {
            return;
        }
        for (score, candidate) in self.scores.iter_mut().zip(&self.candidates) {
            let address = pool.endpoint(candidate.id).map(|endpoint| endpoint.identity().address);
            if let Some(position) = order.and_then(|order| order.position(address?)) {
                *score = -(position as f64);
            } else if request.session == Some(candidate.id) {
                *score = f64::INFINITY;
            }
        }
    }

    /// Where no load is fresh, the fewest requests in flight win. What the old loads said decides between equals while the sidecar
    /// confirms that they are the newest there are; after that, chance does.
    fn rank_by_in_flight(&mut self, pool: &Pool, profile: &Profile, now: Timestamp) {
        let age_micros = pool.confirmed_at().map(|at| now.micros_since(at));
        if age_micros.is_none_or(|age| age > profile.max_snapshot_age_micros) {
            self.scores.fill(0.0);
        }
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
            Observation::Failed(Failure::Busy { seconds }) => {
                pool.request_turned_away(endpoint, *seconds, sent_at, now);
                false
            }
            Observation::Failed(_) => pool.request_failed(endpoint, sent_at, now),
            Observation::Abandoned => false,
        }
    }
}

#[cfg(test)]
mod tests;
