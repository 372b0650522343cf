//! Who the endpoints are, which of them is next, and what is in flight to them: all that a pick reads and that requests change.

use alloc::boxed::Box;
use alloc::vec::Vec;

use snapshot::{Loads, Membership};

use crate::accounts::{Accounts, Burden, Charge};
use crate::learning::{Answer, Forecast, Learner};
use crate::load_report::LoadReport;
use crate::openai::PrefixMark;
use crate::pool::{Availability, EndpointId, Offered, OtherMembership, Pool, Standing, Suspicion};
use crate::prefix_index::PrefixIndex;
use crate::rng::Rng;
use crate::scheduling::{Decision, Observation, PickRequest, Profile, Ratings, Room, Scheduler};
use crate::time::Timestamp;

/// Prompts that wait for the next tick at most: what a worker that serves a thousand requests a second sends in four ticks.
const MAX_SENT_PROMPTS: usize = 200;

/// A prompt that was sent to an endpoint: its marks behind those that the endpoint was known to hold.
#[derive(Clone, Debug, PartialEq)]
pub struct SentPrompt {
    /// Where it was sent.
    pub endpoint: EndpointId,
    /// Hash of the last mark that the endpoint held; 0: none.
    pub tail: u64,
    /// The marks that it did not hold.
    pub marks: Vec<PrefixMark>,
}

/// What is known of a request once it is whole that was sent before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upload<'a> {
    pub(crate) prompt_bytes: u64,
    pub(crate) model: &'a str,
    /// Marks of its prompt that its endpoint was given before.
    pub(crate) sent_marks: usize,
    /// Its first token will tell when its prompt was computed.
    pub(crate) streams: bool,
}

/// What came of a pick for a request.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) decision: Decision,
    /// The request on the account of the first of the list; `None`: there is no list.
    pub(crate) charge: Option<Charge>,
    /// What the endpoints of the list were rated by, where somebody may want to know.
    pub(crate) ratings: Option<Box<Ratings>>,
}

/// Pool, scheduler and accounts, of one thread or of a whole process.
#[derive(Debug)]
pub struct Routing {
    pool: Pool,
    scheduler: Scheduler,
    accounts: Accounts,
    rng: Rng,
    /// Prompts that were sent since the other workers were told.
    sent: Vec<SentPrompt>,
    /// Others have routings of their own, and are told of prompts.
    has_others: bool,
}

impl Routing {
    /// Of one of several that tell one another. The seed decides ties: draw it at random.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            pool: Pool::default(),
            scheduler: Scheduler::default(),
            accounts: Accounts::default(),
            rng: Rng::new(seed),
            sent: Vec::new(),
            has_others: true,
        }
    }

    /// The only one of its process, which nobody needs to be told of.
    #[must_use]
    pub fn only(seed: u64) -> Self {
        Self { has_others: false, ..Self::new(seed) }
    }

    /// What is known of the endpoints.
    #[must_use]
    pub const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Which endpoint should have which prefixes.
    #[must_use]
    pub const fn prefix_index(&self) -> &PrefixIndex {
        self.scheduler.index()
    }

    /// What was learned of the endpoints' times.
    #[must_use]
    pub const fn learner(&self) -> &Learner {
        self.scheduler.learner()
    }

    /// What is in flight.
    #[must_use]
    pub const fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    pub(crate) const fn pool_and_rng(&mut self) -> (&Pool, &mut Rng) {
        (&self.pool, &mut self.rng)
    }

    /// Replaces who the endpoints are by the pool of that name.
    pub fn install_membership(&mut self, membership: &Membership, pool: &str, profile: &Profile) {
        self.pool.install_membership(membership, pool);
        self.scheduler.pool_installed(&self.pool, profile);
    }

    /// Takes over who the endpoints are from another routing, with their ids; its requests are not this one's.
    pub(crate) fn adopt(&mut self, pool: &Pool, profile: &Profile) {
        self.pool = pool.clone();
        self.pool.forget_requests();
        self.scheduler.pool_installed(&self.pool, profile);
    }

    /// Replaces how loaded the endpoints are by what this host received at `received_at`.
    ///
    /// # Errors
    ///
    /// When the loads are those of another membership: then nothing changes.
    pub fn install_loads(
        &mut self,
        loads: &Loads,
        received_at: Timestamp,
        profile: &Profile,
    ) -> Result<(), OtherMembership> {
        self.pool.install_loads(loads, received_at)?;
        self.scheduler.pool_installed(&self.pool, profile);
        Ok(())
    }

    /// The installed loads were still true at that moment.
    pub fn confirm(&mut self, at: Timestamp) {
        self.pool.confirm(at);
    }

    /// Whether any endpoint has room.
    pub(crate) fn has_room(&self, room: &Room, profile: &Profile, now: Timestamp) -> bool {
        self.pool.members().iter().any(|&id| room.is_at(&self.pool, id, now, profile.max_snapshot_age_micros))
    }

    /// Whether any endpoint may take a request now or later: where none may, it has nothing to wait for.
    pub(crate) fn has_taker(&self, request: &PickRequest<'_>) -> bool {
        Scheduler::has_taker(&self.pool, request)
    }

    /// Whether an endpoint that may take a request has room for it.
    pub(crate) fn may_send(&mut self, profile: &Profile, request: &PickRequest<'_>, now: Timestamp) -> bool {
        self.scheduler.has_room(&self.pool, profile, request, now)
    }

    /// What a request costs where it would go, in microseconds; `None`: nobody has the room that it asks for. Where no costs are known, all cost the
    /// same.
    pub(crate) fn least_cost(&mut self, profile: &Profile, request: &PickRequest<'_>, now: Timestamp) -> Option<f64> {
        match self.scheduler.pick(&self.pool, profile, request, &mut self.rng, now) {
            Decision::Picked(ranked, _) if profile.needs_outlooks() => Some(self.scheduler.picked_cost(ranked.first())),
            Decision::Picked(..) => Some(0.0),
            Decision::NoEndpoint => None,
        }
    }

    /// What a request costs at that endpoint, in microseconds.
    pub(crate) fn cost_at(
        &mut self,
        profile: &Profile,
        request: &PickRequest<'_>,
        id: EndpointId,
        now: Timestamp,
    ) -> f64 {
        self.scheduler.cost_at(&self.pool, profile, request, id, now)
    }

    /// Whether a request may be sent to any endpoint.
    pub(crate) fn takes_any(&self, request: &PickRequest<'_>) -> bool {
        let offered = self.pool.served().offered(request.target_model);
        request.pinned.is_none() && request.subset.is_none() && !matches!(offered, Offered::By(_))
    }

    /// Whether an endpoint is one of the pool's, its load is fresh and its requests do not fail.
    pub(crate) fn is_well(&self, id: EndpointId, profile: &Profile, now: Timestamp) -> bool {
        self.pool.endpoint(id).is_some_and(|endpoint| {
            endpoint.is_member()
                && endpoint.health().standing(now) == Standing::Good
                && self.pool.availability(endpoint, now, profile.max_snapshot_age_micros) == Availability::Fresh
        })
    }

    /// Whether such an endpoint has room.
    pub(crate) fn is_open(&self, id: EndpointId, room: &Room, profile: &Profile, now: Timestamp) -> bool {
        room.is_at(&self.pool, id, now, profile.max_snapshot_age_micros) && self.is_well(id, profile, now)
    }

    /// Fills `open` with those endpoints.
    pub(crate) fn list_open(&self, room: &Room, profile: &Profile, now: Timestamp, open: &mut Vec<EndpointId>) {
        open.clear();
        open.extend(self.pool.members().iter().copied().filter(|&id| self.is_open(id, room, profile, now)));
    }

    pub(crate) fn set_others_in_flight(&mut self, counts: impl IntoIterator<Item = (u32, u32)>) {
        self.pool.set_others_in_flight(counts);
    }

    pub(crate) fn set_wanted(&mut self, is_wanted: bool) {
        self.pool.set_wanted(is_wanted);
    }

    pub(crate) fn learn_slots(&mut self, slots: impl IntoIterator<Item = u32>) {
        self.pool.learn_slots(slots);
    }

    pub(crate) fn learn_suspicion(&mut self, place: usize, suspicion: Suspicion, now: Timestamp) {
        self.pool.learn_suspicion(place, suspicion, now);
    }

    pub(crate) fn learn_prompt(&mut self, place: usize, tail: u64, marks: &[PrefixMark]) {
        if let Some(&endpoint) = self.pool.members().get(place) {
            self.scheduler.prompt_learnt(endpoint, tail, marks);
        }
    }

    pub(crate) fn take_sent_prompts(&mut self) -> impl Iterator<Item = SentPrompt> {
        self.sent.drain(..)
    }

    /// Ranks the endpoints for one request.
    pub(crate) fn pick(&mut self, profile: &Profile, request: &PickRequest<'_>, now: Timestamp) -> Decision {
        self.scheduler.pick(&self.pool, profile, request, &mut self.rng, now)
    }

    /// Ranks the endpoints for one request, and charges it to the first, which therefore has its prompt soon.
    pub(crate) fn choose(
        &mut self,
        profile: &Profile,
        request: &PickRequest<'_>,
        burden: Burden,
        now: Timestamp,
    ) -> Choice {
        let decision = self.pick(profile, request, now);
        self.take(decision, request, burden, now)
    }

    /// Charges a request to the first of the ranked list that was made for it last.
    pub(crate) fn take(
        &mut self,
        decision: Decision,
        request: &PickRequest<'_>,
        burden: Burden,
        now: Timestamp,
    ) -> Choice {
        let Decision::Picked(ranked, _) = decision else { return Choice { decision, charge: None, ratings: None } };
        let ratings = request.is_explained.then(|| Box::new(*self.ratings()));
        let (first, forecast) = (ranked.first(), ranked.forecast(ranked.first()).unwrap_or_default());
        let marks = request.prompt.map_or(&[][..], |prompt| &prompt.marks);
        let charge = Some(self.charge(Some(first), forecast, burden, marks, now));
        Choice { decision, charge, ratings }
    }

    /// What the endpoints of the last ranked list were rated by.
    pub(crate) const fn ratings(&self) -> &Ratings {
        self.scheduler.ratings()
    }

    /// Charges a request that is sent now to `endpoint`, which therefore has its prompt soon.
    pub(crate) fn charge(
        &mut self,
        endpoint: Option<EndpointId>,
        forecast: Forecast,
        burden: Burden,
        marks: &[PrefixMark],
        now: Timestamp,
    ) -> Charge {
        if let Some(endpoint) = endpoint {
            self.note_prompt(endpoint, marks);
        }
        self.accounts.charge(&mut self.pool, endpoint, forecast, burden, now)
    }

    /// An endpoint is sent a prompt. Gives how many of its marks it held before.
    pub(crate) fn note_prompt(&mut self, endpoint: EndpointId, marks: &[PrefixMark]) -> usize {
        if marks.is_empty() {
            return 0;
        }
        let held = self.scheduler.prompt_sent(endpoint, marks);
        if self.has_others && self.sent.len() < MAX_SENT_PROMPTS {
            let tail = held.checked_sub(1).and_then(|last| marks.get(last)).map_or(0, |mark| mark.hash);
            let marks = marks.get(held..).unwrap_or_default().to_vec();
            self.sent.push(SentPrompt { endpoint, tail, marks });
        }
        held
    }

    /// The last of a request was sent that was charged before it was whole; `marks` are those of all its prompt.
    pub(crate) fn became_whole(
        &mut self,
        profile: &Profile,
        charge: &mut Charge,
        upload: &Upload<'_>,
        marks: &[PrefixMark],
        now: Timestamp,
    ) {
        let mut forecast = *charge.forecast();
        if let Some(endpoint) = charge.endpoint() {
            let held = self.note_prompt(endpoint, marks);
            let end = |count: usize| count.checked_sub(1).and_then(|last| marks.get(last)).map_or(0, |mark| mark.end);
            // Its own first marks say nothing: how many of them the endpoint held before, the pick saw.
            let sent = upload.sent_marks;
            forecast.matched_bytes = if held > sent { end(held) } else { forecast.matched_bytes.min(end(sent)) };
            let request =
                PickRequest { target_model: upload.model, prompt_bytes: upload.prompt_bytes, ..PickRequest::default() };
            forecast = self.scheduler.corrected(&self.pool, profile, &request, endpoint, &forecast, now);
        }
        self.accounts.became_whole(&mut self.pool, charge, forecast, upload.streams, now);
    }

    /// The same of a request of which is expected what the pick expected.
    pub(crate) fn became_whole_as_expected(
        &mut self,
        charge: &mut Charge,
        streams: bool,
        marks: &[PrefixMark],
        now: Timestamp,
    ) {
        if let Some(endpoint) = charge.endpoint() {
            self.note_prompt(endpoint, marks);
        }
        let forecast = *charge.forecast();
        self.accounts.became_whole(&mut self.pool, charge, forecast, streams, now);
    }

    /// Moves a request to the endpoint that turned out to serve it; `tail` is [`crate::openai::PromptDigest::tail`] of its prompt.
    pub(crate) fn transfer(
        &mut self,
        charge: Charge,
        to: Option<EndpointId>,
        forecast: Forecast,
        tail: u64,
        now: Timestamp,
    ) -> Charge {
        if let Some(endpoint) = to.filter(|_| tail != 0 && charge.endpoint() != to) {
            self.scheduler.prompt_moved(endpoint, tail);
        }
        self.accounts.transfer(&mut self.pool, charge, to, forecast, now)
    }

    /// The first token of a request came; `teaches`: its times tell what a prompt costs.
    pub(crate) fn first_token_came(&mut self, charge: &mut Charge, teaches: bool, now: Timestamp) {
        let Some(endpoint) = charge.endpoint() else { return };
        let (sent_at, after_micros) = (charge.sent_at(), now.micros_since(charge.whole_at()));
        self.observe(endpoint, &Observation::FirstToken { after_micros }, sent_at, now);
        if teaches {
            self.scheduler.first_token_came(endpoint, charge.forecast(), after_micros);
        }
        self.accounts.computed(&mut self.pool, charge, now);
    }

    /// An endpoint served a request to its end; `teaches` as in [`Self::first_token_came`].
    pub(crate) fn answer_ended(
        &mut self,
        endpoint: EndpointId,
        forecast: &Forecast,
        answer: &Answer,
        teaches: bool,
        sent_at: Timestamp,
        now: Timestamp,
    ) {
        let finished = Observation::Finished { usage: answer.usage, after_micros: answer.total_micros };
        self.observe(endpoint, &finished, sent_at, now);
        if teaches {
            self.scheduler.answer_ended(endpoint, forecast, answer);
        }
    }

    /// Takes a request off the accounts.
    pub(crate) fn finish(&mut self, charge: Charge, now: Timestamp) {
        self.accounts.finish(&mut self.pool, charge, now);
    }

    /// Takes in what became of a request that was sent to `endpoint` at `sent_at`. True: the endpoint is ejected from now on.
    pub(crate) fn observe(
        &mut self,
        endpoint: EndpointId,
        observation: &Observation,
        sent_at: Timestamp,
        now: Timestamp,
    ) -> bool {
        self.scheduler.observe(&mut self.pool, endpoint, observation, sent_at, now)
    }

    /// Takes over what an endpoint said of its load in an answer that came `at`.
    pub(crate) fn report_load(&mut self, endpoint: EndpointId, report: &LoadReport, at: Timestamp) {
        self.pool.report_load(endpoint, report, at);
    }
}
