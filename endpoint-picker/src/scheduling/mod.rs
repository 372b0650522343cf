//! The pick: eligibility narrows the pool, scorers rate what is left, a picker ranks it; and what is observed of a request goes back
//! to whoever learns from it.

mod adapters;
mod candidate;
mod cold;
mod decision;
mod eligibility;
mod forecast;
mod profile;
mod ranking;
pub mod rendezvous;
mod request;
mod room;
mod saturation;
mod scorer;
mod subset;

use alloc::vec::Vec;

use xxhash_rust::xxh3::xxh3_64;

pub use cold::NoHitLru;
pub use decision::{Decision, Entry, MAX_RANKED, Ranked, Rating, Ratings, Reason};
pub use profile::{Picker, Profile};
pub use request::{Failure, Observation, PickRequest};
pub use room::{Peers, Room};
pub use saturation::Saturation;
pub use scorer::{ActiveRequests, BYTES_PER_TOKEN, LoadAware, PrefixCache, Scorer};
pub use subset::Subset;

use crate::learning::{Answer, Forecast, Learner};
use crate::openai::PrefixMark;
use crate::pool::{Endpoint, EndpointId, Pool};
use crate::prefix_index::PrefixIndex;
use crate::rng::Rng;
use crate::time::Timestamp;
use candidate::Candidate;
use cold::ColdEndpoints;
use eligibility::{Excluded, Ground};
use forecast::Outlook;
use scorer::{Memory, Sight, Validity};

/// Picks endpoints, and takes in how that went. It keeps its working memory, so that a pick allocates nothing.
#[derive(Clone, Debug, Default)]
pub struct Scheduler {
    candidates: Vec<Candidate>,
    excluded: Excluded,
    scores: Vec<f64>,
    memory: Memory,
    outlooks: Vec<Outlook>,
    counts: Vec<u32>,
    /// Matched bytes by slot.
    matched: Vec<u32>,
    index: PrefixIndex,
    learner: Learner,
    cold: ColdEndpoints,
    /// What the endpoints of the last ranked list were rated by, where that was asked for.
    ratings: Ratings,
    /// Incarnation of each endpoint's engine by slot, as it was when its cache was last emptied.
    incarnations: Vec<Option<(u32, u32)>>,
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
        let bytes_per_token = self.learner.bytes_per_token(model_key(request.target_model));
        let pinned = request.pinned.filter(|&id| pool.endpoint(id).is_some_and(Endpoint::is_member));
        let ground = match pinned {
            Some(id) => {
                self.candidates.clear();
                if request.room.is_none_or(|room| room.is_at(pool, id, now, profile.max_snapshot_age_micros)) {
                    self.candidates.push(Candidate::new(id, false));
                }
                Ground::Load
            }
            None => {
                let (candidates, excluded) = (&mut self.candidates, &mut self.excluded);
                eligibility::narrow(pool, profile, request, bytes_per_token, now, candidates, excluded)
            }
        };
        adapters::note(pool, request.target_model, &mut self.candidates);
        self.scores.clear();
        self.scores.resize(self.candidates.len(), 0.0);
        let mut picker = profile.picker;
        let scores = picker != Picker::Random;
        if scores {
            if profile.needs_prefixes() {
                self.find_prefixes(request);
            }
            if profile.needs_outlooks() {
                self.look(pool, profile, request, bytes_per_token, now);
            }
            self.score(pool, profile, request, ground, now);
            if ground == Ground::InFlight {
                self.rank_by_in_flight(pool);
                picker = Picker::MaxScore;
            }
        }
        if picker == Picker::WeightedRandom {
            ranking::draw(&mut self.scores, rng);
        }
        self.prefer(pool, profile, request);
        let (positions, tied) = ranking::rank(&self.candidates, &self.scores, profile.ranked, rng);
        let is_looked = scores && profile.needs_outlooks();
        if request.is_explained {
            let outlooks: &[Outlook] = if is_looked { &self.outlooks } else { &[] };
            self.ratings = positions.map(|position| {
                let Some(position) = position else { return Rating::default() };
                let score = self.scores.get(position).copied().unwrap_or(0.0);
                let endpoint = self.candidates.get(position).and_then(|candidate| pool.endpoint(candidate.id));
                rating(pool, endpoint, score, outlooks.get(position), now)
            });
        }
        let mut entries = positions.into_iter().flatten().filter_map(|position| {
            let outlook = self.outlooks.get(position).filter(|_| is_looked);
            let forecast = outlook.map_or_else(Forecast::default, |outlook| outlook.forecast);
            let id = self.candidates.get(position)?.id;
            Some(Entry { id, forecast })
        });
        let Some(first) = entries.next() else { return Decision::NoEndpoint };
        if pinned.is_some() {
            // Each attempt goes there: elsewhere it would only be told that there is no such response.
            let mut ranked = Ranked { first, rest: [None; MAX_RANKED - 1] };
            ranked.repeat(profile.ranked);
            return Decision::Picked(ranked, Reason::Pinned);
        }
        let left_out = self.excluded.iter().map(|id| Entry { id, forecast: Forecast::default() });
        let mut entries = entries.chain(left_out).take(profile.ranked.saturating_sub(1));
        let mut ranked = Ranked { first, rest: core::array::from_fn(|_| entries.next()) };
        if self.excluded.has_unable() {
            // Where the list ends Envoy takes anybody, such as one that has never heard of the model.
            ranked.repeat(profile.ranked);
        }
        if request.is_explained {
            for ((place, entry), rated) in self.ratings.iter_mut().zip(ranked.entries()).zip(positions) {
                if rated.is_none() {
                    *place = rating(pool, pool.endpoint(entry.id), 0.0, None, now);
                }
            }
        }
        if let Some(parameters) = profile.no_hit_lru()
            && cold::is_cold(&self.candidates)
        {
            self.cold.note(ranked.first(), parameters);
        }
        let reason = match (picker, ground) {
            (_, Ground::InFlight) => Reason::InFlightOnly,
            (Picker::Random | Picker::WeightedRandom, Ground::Load) => Reason::Random,
            (Picker::MaxScore, Ground::Load) if tied => Reason::Tie,
            (Picker::MaxScore, Ground::Load) => Reason::BestScore,
        };
        Decision::Picked(ranked, reason)
    }

    /// Whether any endpoint may take the request, be it full, stale or ejected. One that is pinned may go to its endpoint alone, and goes there though
    /// that takes nothing.
    #[must_use]
    pub fn has_taker(pool: &Pool, request: &PickRequest<'_>) -> bool {
        let pinned = request.pinned.and_then(|id| pool.endpoint(id)).filter(|endpoint| endpoint.is_member());
        pinned.map_or_else(|| eligibility::has_taker(pool, request), Endpoint::takes_requests)
    }

    /// Whether an endpoint that may take the request has the room that it asks for.
    pub fn has_room(&mut self, pool: &Pool, profile: &Profile, request: &PickRequest<'_>, now: Timestamp) -> bool {
        let Some(room) = request.room else { return true };
        let has_room = |id: EndpointId| room.is_at(pool, id, now, profile.max_snapshot_age_micros);
        if let Some(id) = request.pinned.filter(|&id| pool.endpoint(id).is_some_and(Endpoint::is_member)) {
            return has_room(id);
        }
        let bytes_per_token = self.learner.bytes_per_token(model_key(request.target_model));
        let (candidates, excluded) = (&mut self.candidates, &mut self.excluded);
        let request = PickRequest { room: None, ..*request };
        eligibility::narrow(pool, profile, &request, bytes_per_token, now, candidates, excluded);
        candidates.iter().any(|candidate| has_room(candidate.id))
    }

    /// What a request would cost at that endpoint, in microseconds.
    pub fn cost_at(
        &mut self,
        pool: &Pool,
        profile: &Profile,
        request: &PickRequest<'_>,
        id: EndpointId,
        now: Timestamp,
    ) -> f64 {
        let bytes_per_token = self.learner.bytes_per_token(model_key(request.target_model));
        self.candidates.clear();
        self.candidates.push(Candidate::new(id, false));
        adapters::note(pool, request.target_model, &mut self.candidates);
        if profile.needs_prefixes() {
            self.find_prefixes(request);
        }
        self.look(pool, profile, request, bytes_per_token, now);
        self.outlooks.first().map_or(f64::INFINITY, |outlook| outlook.cost)
    }

    /// What the request of the last pick costs at the first endpoint of its list, in microseconds.
    pub fn picked_cost(&self, first: EndpointId) -> f64 {
        let places = self.candidates.iter().position(|candidate| candidate.id == first);
        places.and_then(|place| self.outlooks.get(place)).map_or(0.0, |outlook| outlook.cost)
    }

    /// What stands above all scores: the order of the subset, or the endpoint of the client's session unless a scorer weighs it.
    fn prefer(&mut self, pool: &Pool, profile: &Profile, request: &PickRequest<'_>) {
        let order = request.subset.filter(|subset| subset.is_order());
        let session = request.session.filter(|_| !profile.weighs_sessions());
        if order.is_none() && session.is_none() {
            return;
        }
        for (score, candidate) in self.scores.iter_mut().zip(&self.candidates) {
            let address = pool.endpoint(candidate.id).map(|endpoint| endpoint.identity().address);
            if let Some(position) = order.and_then(|order| order.position(address?)) {
                *score = -(position as f64);
            } else if session == Some(candidate.id) {
                *score = f64::INFINITY;
            }
        }
    }

    /// Adds up what the profile's scorers say. Engines' figures that the sidecar no longer confirms say nothing.
    fn score(&mut self, pool: &Pool, profile: &Profile, request: &PickRequest<'_>, ground: Ground, now: Timestamp) {
        let max_age_micros = profile.max_snapshot_age_micros;
        let is_confirmed = pool.confirmed_at().is_some_and(|at| now.micros_since(at) <= max_age_micros);
        let sight = Sight {
            pool,
            candidates: &self.candidates,
            request,
            validity: Validity { now, max_age_micros },
            cold: &self.cold,
            outlooks: &self.outlooks,
        };
        for (scorer, weight) in &profile.scorers {
            if ground == Ground::Load || is_confirmed || !scorer.reads_load() {
                scorer.add(&sight, *weight, &mut self.memory, &mut self.scores);
            }
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

    /// Notes how much of the request's prompt each candidate should have.
    fn find_prefixes(&mut self, request: &PickRequest<'_>) {
        let Some(prompt) = request.prompt.filter(|prompt| !prompt.marks.is_empty()) else { return };
        self.matched.fill(0);
        let matched = &mut self.matched;
        self.index.find(&prompt.marks, |slot, bytes| {
            if let Some(known) = matched.get_mut(slot as usize).filter(|known| **known == 0) {
                *known = bytes;
            }
        });
        for candidate in &mut self.candidates {
            candidate.matched_bytes = self.matched.get(candidate.id.slot() as usize).copied().unwrap_or(0);
            if prompt.is_cut && candidate.matched_bytes == prompt.end() {
                // It holds all that is known of the prompt, and should hold as much of the rest as it does of the last prompt that began so.
                let extent = self.index.extent(candidate.id.slot(), prompt.tail());
                let most = u32::try_from(request.prompt_bytes).unwrap_or(u32::MAX);
                candidate.matched_bytes = extent.min(most).max(candidate.matched_bytes);
            }
        }
    }

    /// What the request would take at each candidate.
    fn look(
        &mut self,
        pool: &Pool,
        profile: &Profile,
        request: &PickRequest<'_>,
        bytes_per_token: f64,
        now: Timestamp,
    ) {
        let ground = forecast::Ground {
            pool,
            learner: &self.learner,
            now,
            max_age_micros: profile.max_snapshot_age_micros,
            bytes_per_token,
        };
        ground.look(request, &self.candidates, &mut self.outlooks, &mut self.counts);
    }

    /// A request whose prompt has those marks goes to that endpoint. Gives how many of them it held before.
    pub fn prompt_sent(&mut self, endpoint: EndpointId, marks: &[PrefixMark]) -> usize {
        self.index.insert(endpoint.slot(), marks)
    }

    /// What a request takes at an endpoint, which was forecast before all of its prompt was known. `forecast` says how much of it the
    /// endpoint holds.
    pub fn corrected(
        &self,
        pool: &Pool,
        profile: &Profile,
        request: &PickRequest<'_>,
        endpoint: EndpointId,
        forecast: &Forecast,
        now: Timestamp,
    ) -> Forecast {
        let is_looked = profile.picker != Picker::Random && profile.needs_outlooks();
        let Some(known) = pool.endpoint(endpoint).filter(|_| is_looked) else { return *forecast };
        let ground = self.ground(pool, profile, request, now);
        ground.corrected(known, &self.learner.rates(endpoint), forecast, request.prompt_bytes)
    }

    /// What a request's candidates have in common.
    fn ground<'a>(
        &'a self,
        pool: &'a Pool,
        profile: &Profile,
        request: &PickRequest<'_>,
        now: Timestamp,
    ) -> forecast::Ground<'a> {
        forecast::Ground {
            pool,
            learner: &self.learner,
            now,
            max_age_micros: profile.max_snapshot_age_micros,
            bytes_per_token: self.learner.bytes_per_token(model_key(request.target_model)),
        }
    }

    /// Another worker sent a prompt to that endpoint: `marks` behind the mark of hash `tail`.
    pub fn prompt_learnt(&mut self, endpoint: EndpointId, tail: u64, marks: &[PrefixMark]) {
        self.index.insert_behind(endpoint.slot(), tail, marks);
    }

    /// A request whose prompt ends with the mark of that hash went to that endpoint as well.
    pub fn prompt_moved(&mut self, endpoint: EndpointId, tail: u64) {
        self.index.insert_tail(endpoint.slot(), tail);
    }

    /// The pool has new members or loads: caches of engines that began anew are empty, and others may have another size.
    pub fn pool_installed(&mut self, pool: &Pool, profile: &Profile) {
        let parameters = profile.prefix_cache();
        for (id, endpoint) in pool.endpoints() {
            let place = id.slot() as usize;
            if self.incarnations.len() <= place {
                self.incarnations.resize(place + 1, None);
                self.matched.resize(place + 1, 0);
            }
            let incarnation = Some((id.epoch(), endpoint.incarnation()));
            if let Some(known) = self.incarnations.get_mut(place).filter(|known| **known != incarnation) {
                *known = incarnation;
                self.index.forget(id.slot());
            }
            if endpoint.in_flight().total() > endpoint.in_flight().own() {
                self.learner.peers_seen();
            }
            let load = endpoint.load();
            if let (Some(waiting), Some(running)) = (load.waiting, load.running) {
                self.learner.page_read(waiting.saturating_add(running), endpoint.in_flight().at_page());
            }
            let blocks = load.num_gpu_blocks.filter(|_| parameters.is_none_or(|parameters| parameters.reads_capacity));
            if let (Some(blocks), Some(size)) = (blocks, load.block_size) {
                let tokens = f64::from(blocks) * f64::from(size) * self.learner.cache_part(id);
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a cast from a float saturates"
                )]
                self.index.set_capacity(id.slot(), (tokens * self.learner.mean_bytes_per_token()) as u64);
            } else if let Some(parameters) = parameters {
                self.index.set_capacity(id.slot(), parameters.capacity_bytes);
            }
        }
    }

    /// The first token of a request came.
    pub fn first_token_came(&mut self, endpoint: EndpointId, forecast: &Forecast, after_micros: u64) {
        self.learner.first_token_came(endpoint, forecast, after_micros);
    }

    /// A request was answered to its end.
    pub fn answer_ended(&mut self, endpoint: EndpointId, forecast: &Forecast, answer: &Answer) {
        self.learner.answer_ended(endpoint, forecast, answer);
    }

    /// What the endpoints of the last ranked list were rated by, if [`PickRequest::is_explained`] asked for it.
    #[must_use]
    pub const fn ratings(&self) -> &Ratings {
        &self.ratings
    }

    /// What was learned of the endpoints.
    #[must_use]
    pub const fn learner(&self) -> &Learner {
        &self.learner
    }

    /// Which prefixes they should have.
    #[must_use]
    pub const fn index(&self) -> &PrefixIndex {
        &self.index
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
            Observation::Failed(Failure::Rejected) => pool.request_rejected(endpoint, sent_at, now),
            Observation::Failed(_) => pool.request_failed(endpoint, sent_at, now),
            Observation::Abandoned => false,
        }
    }
}

/// What an endpoint was rated by.
fn rating(pool: &Pool, endpoint: Option<&Endpoint>, score: f64, outlook: Option<&Outlook>, now: Timestamp) -> Rating {
    let load_at = endpoint.and_then(|endpoint| endpoint.load_at(pool.confirmed_at()));
    Rating {
        score_millionths: millionths(score),
        cost_micros: outlook.map(|outlook| micros(outlook.cost)),
        wait_micros: outlook.map_or(0, |outlook| micros(outlook.wait)),
        in_flight: endpoint.map_or(0, |endpoint| endpoint.in_flight().total()),
        signal_age_ms: load_at.map(|at| u32::try_from(now.millis_since(at)).unwrap_or(u32::MAX)),
    }
}

#[allow(clippy::cast_possible_truncation, reason = "a cast from a float saturates")]
fn millionths(score: f64) -> i64 {
    (score * 1e6) as i64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast from a float saturates")]
const fn micros(time: f64) -> u32 {
    time as u32
}

/// Hash by which a model's name is known.
#[must_use]
pub fn model_key(model: &str) -> u64 {
    xxh3_64(model.as_bytes())
}

#[cfg(test)]
mod tests;
