//! One worker's endpoint picker: configuration, routing and telemetry, which exchanges borrow for the length of a callback.
//!
//! Its routing is its own, or that of the whole process ([`SharedState`]); nothing else differs between the two.

mod queue;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;

use snapshot::{Loads, Membership};

use crate::accounts::{Accounts, Burden, Charge};
use crate::config::{Config, NoEndpoint};
use crate::director::Director;
use crate::filter_time::FilterTime;
use crate::head::{OBJECTIVE_HEADER, OBJECTIVE_HEADER_LLM_D, REQUEST_ID_HEADER};
use crate::learning::{Answer, Forecast, Learner};
use crate::load_report::LoadReport;
use crate::openai::{PrefixMark, PromptDigest, Usage};
use crate::pool::{EndpointId, OtherMembership, Pool, Suspicion, Version};
use crate::prefix_index::PrefixIndex;
use crate::recent_picks::RecentPicks;
use crate::record::{ExchangeRecord, Pick};
use crate::rewrite::{Rule, Target};
pub use crate::routing::SentPrompt;
use crate::routing::{Choice, Routing, Upload};
use crate::scheduling::{Decision, Failure, Observation, PickRequest, model_key};
use crate::shared_state::{Note, SharedState, View};
use crate::telemetry::Telemetry;
use crate::time::Timestamp;

/// Notes that the keeper takes in at once: a tenth of a millisecond's work.
const NOTES_AT_ONCE: usize = 64;

/// One worker's endpoint picker.
#[derive(Debug)]
pub struct EndpointPicker {
    config: Config,
    /// The routing in use with its queue; beside a shared one, what this thread knows by itself.
    director: Director,
    telemetry: Telemetry,
    recent: RecentPicks,
    shared: Option<Shared>,
}

/// A thread's part in a process that shares its routing.
#[derive(Debug)]
struct Shared {
    state: Arc<dyn SharedState>,
    /// What of it was taken over.
    view: Arc<View>,
    role: Role,
}

#[derive(Debug)]
enum Role {
    /// Serves requests.
    Serving,
    /// Counts, and installs what the sidecar sends; the membership that it installed last.
    Keeping(Option<Version>),
}

impl EndpointPicker {
    /// A picker that knows no endpoint yet. The seed decides ties: draw it at random.
    #[must_use]
    pub fn new(config: Config, seed: u64) -> Self {
        Self {
            telemetry: Telemetry::new(&config),
            director: Director::new(Routing::new(seed), config.flow_control),
            recent: RecentPicks::default(),
            shared: None,
            config,
        }
    }

    /// A picker of a thread that serves requests and shares its routing.
    #[must_use]
    pub fn serving(config: Config, seed: u64, state: Arc<dyn SharedState>) -> Self {
        let shared = Shared { state, view: Arc::default(), role: Role::Serving };
        Self { shared: Some(shared), ..Self::new(config, seed) }
    }

    /// The picker of the one thread that keeps the statistics of those that serve, and installs what the sidecar sends.
    #[must_use]
    pub fn keeping(config: Config, seed: u64, state: Arc<dyn SharedState>) -> Self {
        let shared = Shared { state, view: Arc::default(), role: Role::Keeping(None) };
        Self { shared: Some(shared), ..Self::new(config, seed) }
    }

    /// Whether what endpoints are rated by is noted with each pick: the access log shows it, or somebody watches.
    #[must_use]
    pub fn explains_picks(&self) -> bool {
        let is_watched = self.shared.as_ref().map_or(self.recent.is_watched(), |shared| shared.view.is_watched);
        is_watched || self.config.rules.access_log
    }

    /// The settings in force.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// What is known of the endpoints. Where the routing is shared, who they are and their loads are as of the last [`Self::catch_up`].
    #[must_use]
    pub const fn pool(&self) -> &Pool {
        self.director.routing.pool()
    }

    /// Which endpoint should have which prefixes, by this thread's own knowledge.
    #[must_use]
    pub const fn prefix_index(&self) -> &PrefixIndex {
        self.director.routing.prefix_index()
    }

    /// What was learned of the endpoints' times, by this thread's own knowledge.
    #[must_use]
    pub const fn learner(&self) -> &Learner {
        self.director.routing.learner()
    }

    /// What is in flight, by this thread's own knowledge.
    #[must_use]
    pub const fn accounts(&self) -> &Accounts {
        self.director.routing.accounts()
    }

    /// Looks at the routing in use. `None`: another thread holds it.
    pub fn look<T>(&self, look: impl FnOnce(&Routing) -> T) -> Option<T> {
        self.look_at_all(|director| look(&director.routing))
    }

    /// The same with the queue in front of it.
    fn look_at_all<T>(&self, look: impl FnOnce(&Director) -> T) -> Option<T> {
        match &self.shared {
            None => Some(look(&self.director)),
            Some(shared) => run(&*shared.state, |director| look(director)).0,
        }
    }

    /// The statistics.
    #[must_use]
    pub const fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// The statistics, to be carried to the host.
    pub const fn telemetry_mut(&mut self) -> &mut Telemetry {
        &mut self.telemetry
    }

    /// Says whether somebody watches which endpoints are picked; to be called on ticks of whoever counts.
    pub fn set_watched(&mut self, is_watched: bool, now: Timestamp) {
        self.recent.set_watched(is_watched, now);
        if let Some(shared) = &self.shared
            && shared.view.is_watched != is_watched
        {
            shared.state.change_view(&mut |view| view.is_watched = is_watched);
        }
    }

    /// What is explained of exchanges that settled, for whoever watches.
    pub const fn recent_picks_mut(&mut self) -> &mut RecentPicks {
        &mut self.recent
    }

    /// Takes over what changed for all threads; to be called when a request comes, and on the keeper's ticks. Nothing is to be done where
    /// the routing is the picker's own.
    pub fn catch_up(&mut self) {
        let Some(shared) = &mut self.shared else { return };
        let newest = shared.state.view();
        if Arc::ptr_eq(&newest, &shared.view) {
            return;
        }
        let known = core::mem::replace(&mut shared.view, newest);
        let (view, is_keeping) = (Arc::clone(&shared.view), matches!(shared.role, Role::Keeping(_)));
        let is_other = !Arc::ptr_eq(&view.pool, &known.pool);
        if is_other {
            if is_keeping {
                // What was told before is of endpoints that the new pool may not have any more.
                while self.hear() {}
            }
            self.director.routing.adopt(&view.pool, &self.config.profile);
            if is_keeping {
                self.telemetry.membership_installed(self.director.routing.pool());
            }
        }
        if let Some((loads, at)) = &view.loads
            && (is_other || known.loads.as_ref().is_none_or(|(known, _)| !Arc::ptr_eq(known, loads)))
        {
            // Loads of another membership: those of this one come soon.
            let _ = self.director.routing.install_loads(loads, *at, &self.config.profile);
        }
        if let Some(at) = view.confirmed_at {
            self.director.routing.confirm(at);
        }
        if let Some(labels) = &view.labels
            && !is_keeping
            && known.labels.as_ref().is_none_or(|known| !Arc::ptr_eq(known, labels))
        {
            self.telemetry.admission_mut().learn(labels);
        }
    }

    /// The keeper counts some of what it was told. True: there may be more.
    pub fn hear(&mut self) -> bool {
        let Some(state) = self.shared.as_ref().map(|shared| Arc::clone(&shared.state)) else { return false };
        for _ in 0..NOTES_AT_ONCE {
            let pool = self.director.routing.pool();
            match state.hear() {
                None => return false,
                Some(Note::Settled(record)) => {
                    self.recent.see(&record, pool, &self.config.pool);
                    self.telemetry.record(pool, record);
                }
                Some(Note::Failed(endpoint, failure)) => self.telemetry.count_failure(pool, endpoint, failure),
                Some(Note::Ejected(endpoint)) => self.telemetry.count_ejection(pool, endpoint),
                Some(Note::Timed(time)) => self.telemetry.record_filter_time(&time),
                Some(Note::Picked(micros)) => self.telemetry.record_pick_duration(micros),
                Some(Note::Waiting(note)) => self.telemetry.note_waiting(note),
                Some(Note::Dispatched(micros)) => self.telemetry.record_dispatch_cycle(micros),
                Some(Note::Alone) => self.telemetry.count_lone_pick(),
            }
        }
        true
    }

    /// Whether other threads share the routing.
    pub(crate) const fn is_sharing(&self) -> bool {
        self.shared.is_some()
    }

    /// The keeper tells the others which labels there are.
    pub(crate) fn publish_labels(&self, table: &[u8]) {
        if let Some(shared) = &self.shared {
            let labels: Arc<[u8]> = table.into();
            shared.state.change_view(&mut |view| view.labels = Some(Arc::clone(&labels)));
        }
    }

    /// Replaces who the endpoints are.
    pub fn install_membership(&mut self, membership: &Membership) {
        let name = self.config.pool.as_str();
        let models = membership.pool(name).map(|(pool, _)| pool.models.as_slice()).unwrap_or_default();
        self.telemetry.propose_models(models.iter().map(|model| model.name.as_str()));
        match &mut self.shared {
            None => {
                self.director.routing.install_membership(membership, name, &self.config.profile);
                self.telemetry.membership_installed(self.director.routing.pool());
            }
            Some(shared) => {
                shared.role = Role::Keeping(Some(Version { epoch: membership.epoch, version: membership.version }));
                let (state, membership) = (Arc::clone(&shared.state), membership.clone());
                let (name, profile) = (self.config.pool.clone(), self.config.profile.clone());
                self.leave(move |routing| {
                    routing.install_membership(&membership, &name, &profile);
                    let pool = Arc::new(routing.pool().clone());
                    state.change_view(&mut |view| view.pool = Arc::clone(&pool));
                });
            }
        }
    }

    /// Replaces how loaded the endpoints are by what this host received at `received_at`.
    ///
    /// # Errors
    ///
    /// When the loads are those of another membership: then nothing changes.
    pub fn install_loads(&mut self, loads: &Loads, received_at: Timestamp) -> Result<(), OtherMembership> {
        let Some(shared) = &self.shared else {
            return self.director.routing.install_loads(loads, received_at, &self.config.profile);
        };
        let version = Version { epoch: loads.epoch, version: loads.membership_version };
        if !matches!(shared.role, Role::Keeping(Some(installed)) if installed == version) {
            return Err(OtherMembership);
        }
        let (state, loads, profile) = (Arc::clone(&shared.state), Arc::new(loads.clone()), self.config.profile.clone());
        self.leave(move |routing| {
            if routing.install_loads(&loads, received_at, &profile).is_ok() {
                state.change_view(&mut |view| {
                    view.loads = Some((Arc::clone(&loads), received_at));
                    view.confirmed_at = view.confirmed_at.max(Some(received_at));
                });
            }
        });
        Ok(())
    }

    /// The installed loads were still true at that moment.
    pub fn confirm(&mut self, at: Timestamp) {
        let Some(shared) = &self.shared else { return self.director.routing.confirm(at) };
        let state = Arc::clone(&shared.state);
        self.leave(move |routing| {
            routing.confirm(at);
            state.change_view(&mut |view| view.confirmed_at = view.confirmed_at.max(Some(at)));
        });
    }

    /// Takes over what the other workers have in flight to the members, in the order of the membership: requests, and tokens of prompts
    /// that are yet to be computed.
    pub fn set_others_in_flight(&mut self, counts: impl IntoIterator<Item = (u32, u32)>) {
        self.director.routing.set_others_in_flight(counts);
    }

    /// Takes over how many requests the members run at once, as other workers learned it, in the order of the membership; 0: they did not.
    pub(crate) fn learn_slots(&mut self, slots: impl IntoIterator<Item = u32>) {
        self.director.routing.learn_slots(slots);
    }

    /// Takes over what another worker holds against the member at that place of the membership.
    pub fn learn_suspicion(&mut self, place: usize, suspicion: Suspicion, now: Timestamp) {
        self.director.routing.learn_suspicion(place, suspicion, now);
    }

    /// Takes over that another worker sent a prompt to the member at that place of the membership: `marks` behind the mark of hash `tail`.
    pub fn learn_prompt(&mut self, place: usize, tail: u64, marks: &[PrefixMark]) {
        self.director.routing.learn_prompt(place, tail, marks);
    }

    /// Prompts that were sent since this was last asked.
    pub fn take_sent_prompts(&mut self) -> impl Iterator<Item = SentPrompt> {
        self.director.routing.take_sent_prompts()
    }

    /// Counts what waited for the shared table of labels, which was merged or cannot be.
    pub fn settle_pending(&mut self) {
        self.telemetry.settle_pending(self.director.routing.pool());
    }

    /// Records how long one pick took.
    pub fn record_pick_duration(&mut self, micros: u64) {
        match &self.shared {
            None => self.telemetry.record_pick_duration(micros),
            Some(shared) => shared.state.tell(Note::Picked(micros)),
        }
    }

    /// Records what the filter took for one request.
    pub fn record_filter_time(&mut self, time: FilterTime) {
        match &self.shared {
            None => self.telemetry.record_filter_time(&time),
            Some(shared) => shared.state.tell(Note::Timed(time)),
        }
    }

    /// The rule for a model, of the configuration or of the pool, and a target drawn by weight.
    pub(crate) fn rewrite(&mut self, model: &str) -> Option<(&str, &Target)> {
        let (pool, rng) = self.director.routing.pool_and_rng();
        let rule = Rule::find(&[&self.config.rewrites, &pool.policies().rewrites], model)?;
        Some((&rule.name, rule.draw(rng)?))
    }

    /// Whether a model may be served instead of another.
    pub(crate) fn has_rewrites(&self) -> bool {
        !self.config.rewrites.is_empty() || !self.pool().policies().rewrites.is_empty()
    }

    /// The request headers that matter now beyond those that the settings name ([`Config::request_headers`]), for a host that looks each up by
    /// its name: of objectives while they have priorities, which a pool may bring at any time, and the request's id while it is told to somebody.
    pub fn more_request_headers(&self) -> impl Iterator<Item = &'static str> {
        let has_objectives = !self.config.objectives.is_empty() || !self.pool().policies().objectives.is_empty();
        let is_told = self.explains_picks() || self.config.rules.explain.is_some();
        let objectives = has_objectives.then_some([OBJECTIVE_HEADER, OBJECTIVE_HEADER_LLM_D]);
        objectives.into_iter().flatten().chain(is_told.then_some(REQUEST_ID_HEADER))
    }

    /// The priority of an objective, by the configuration or else by the pool; 0 if neither knows it.
    pub(crate) fn priority(&self, objective: &str) -> i64 {
        let known = self.config.objectives.get(objective);
        known.or_else(|| self.pool().policies().objectives.get(objective)).copied().unwrap_or(0)
    }

    /// Whether a request for which nothing can be picked is refused.
    pub(crate) fn fails_closed(&self) -> bool {
        match self.config.no_endpoint {
            Some(no_endpoint) => no_endpoint == NoEndpoint::FailClosed,
            None => self.pool().policies().fail_closed.unwrap_or(false),
        }
    }

    /// The endpoint at an address, as of now.
    pub(crate) fn find(&mut self, address: SocketAddr) -> Option<EndpointId> {
        self.catch_up();
        self.director.routing.pool().find(address)
    }

    /// How many endpoints should have a prompt as far as its mark of that hash.
    pub(crate) fn holders(&self, hash: u64) -> u32 {
        self.look(|routing| routing.prefix_index().holders(hash)).unwrap_or(0)
    }

    /// Ranks the endpoints for one request, and charges it to the first of them. Where there is none, nothing is charged. Where the request is
    /// not whole yet, [`Self::became_whole`] follows.
    pub(crate) fn pick(
        &mut self,
        request: &PickRequest<'_>,
        record: &ExchangeRecord,
        prompt: &PromptDigest,
        is_whole: bool,
        now: Timestamp,
    ) -> Choice {
        let (profile, burden) = (&self.config.profile, burden(&self.telemetry, record, is_whole));
        let take = |Director { routing, .. }: &mut Director| routing.choose(profile, request, burden, now);
        let Some(shared) = &self.shared else { return take(&mut self.director) };
        if let (Some(taken), _) = run(&*shared.state, take) {
            // The list may name who joined a moment ago.
            self.catch_up();
            return taken;
        }
        shared.state.tell(Note::Alone);
        let decision = self.director.routing.pick(profile, request, now);
        let Decision::Picked(ranked, _) = decision else { return Choice { decision, charge: None, ratings: None } };
        let ratings = request.is_explained.then(|| Box::new(*self.director.routing.ratings()));
        let (first, forecast) = (Some(ranked.first()), ranked.forecast(ranked.first()).unwrap_or_default());
        let marks = prompt.marks.clone();
        self.leave(move |routing| {
            // The same charge as the one that the exchange holds, which takes it off again.
            drop(routing.charge(first, forecast, burden, &marks, now));
        });
        Choice { decision, charge: Some(Charge::begun(first, forecast, burden, now)), ratings }
    }

    /// Charges a request that is sent now to an endpoint that no pick gave, or to nobody known.
    pub(crate) fn charge_to(
        &mut self,
        endpoint: Option<EndpointId>,
        record: &ExchangeRecord,
        prompt: &PromptDigest,
        is_whole: bool,
        now: Timestamp,
    ) -> Charge {
        let (burden, forecast) = (burden(&self.telemetry, record, is_whole), Forecast::default());
        let marks = if endpoint.is_some() { prompt.marks.clone() } else { Vec::new() };
        let charge = move |routing: &mut Routing| routing.charge(endpoint, forecast, burden, &marks, now);
        self.act(charge).unwrap_or_else(|| Charge::begun(endpoint, forecast, burden, now))
    }

    /// The endpoint of a request in flight is sent a prompt.
    pub(crate) fn note_prompt(&mut self, charge: &Charge, prompt: &PromptDigest) {
        let Some(endpoint) = charge.endpoint() else { return };
        let marks = prompt.marks.clone();
        self.act(move |routing| routing.note_prompt(endpoint, &marks));
    }

    /// The last of a request was sent that was charged before it was whole; `prompt` is all that is known of its prompt, the first
    /// `sent_marks` of whose marks the endpoint was already given.
    pub(crate) fn became_whole(
        &mut self,
        charge: &mut Charge,
        record: &mut ExchangeRecord,
        prompt: &PromptDigest,
        sent_marks: usize,
        now: Timestamp,
    ) {
        record.times.whole = Some(now);
        let streams = record.request.stream;
        let upload =
            Upload { prompt_bytes: record.request.prompt_bytes, model: &record.target_model, sent_marks, streams };
        let profile = &self.config.profile;
        let Some(shared) = &self.shared else {
            self.director.routing.became_whole(profile, charge, &upload, &prompt.marks, now);
            return note_forecast(charge, record);
        };
        let (done, _) = run(&*shared.state, |Director { routing, .. }: &mut Director| {
            routing.became_whole(profile, charge, &upload, &prompt.marks, now);
        });
        if done.is_some() {
            return note_forecast(charge, record);
        }
        // By what the pick expected, so that both copies of the charge say the same.
        let (mut copy, marks) = (charge.copy(), prompt.marks.clone());
        charge.become_whole(*charge.forecast(), streams, now);
        self.leave(move |routing| routing.became_whole_as_expected(&mut copy, streams, &marks, now));
    }

    /// Moves a request to the endpoint that turned out to serve it; `tail` is [`PromptDigest::tail`] of its prompt.
    pub(crate) fn transfer(
        &mut self,
        charge: Charge,
        to: Option<EndpointId>,
        record: &ExchangeRecord,
        tail: u64,
        now: Timestamp,
    ) -> Charge {
        let forecast = record.forecast(to);
        let moved = charge.moved(to, forecast);
        let transfer = move |routing: &mut Routing| routing.transfer(charge, to, forecast, tail, now);
        self.act(transfer).unwrap_or(moved)
    }

    /// The first token of a request came from its endpoint.
    pub(crate) fn first_token_came(&mut self, charge: &mut Charge, record: &ExchangeRecord, now: Timestamp) {
        let teaches = record.teaches() && self.config.profile.needs_prefixes();
        let mut held = charge.split_prefill();
        self.act(move |routing| routing.first_token_came(&mut held, teaches, now));
    }

    /// An endpoint served a request to its end.
    pub(crate) fn answer_ended(&mut self, charge: &Charge, record: &ExchangeRecord, usage: Usage, now: Timestamp) {
        let Some(endpoint) = charge.endpoint() else { return };
        let (sent_at, whole_at) = (charge.sent_at(), charge.whole_at());
        let answer = Answer {
            first_token_micros: record.times.first_content.map(|at| at.micros_since(whole_at)),
            total_micros: now.micros_since(whole_at),
            usage,
            prompt_bytes: record.request.prompt_bytes,
            model: model_key(&record.target_model),
        };
        let (forecast, teaches) = (*charge.forecast(), record.teaches() && self.config.profile.needs_prefixes());
        self.act(move |routing| routing.answer_ended(endpoint, &forecast, &answer, teaches, sent_at, now));
    }

    /// Takes a request off the accounts and counts what it was.
    pub(crate) fn settle(&mut self, charge: Option<Charge>, record: Box<ExchangeRecord>, now: Timestamp) {
        match &self.shared {
            None => {
                self.recent.see(&record, self.director.routing.pool(), &self.config.pool);
                self.telemetry.record(self.director.routing.pool(), record);
            }
            // Before its charge is taken off: an endpoint is known as long as it has some.
            Some(shared) => shared.state.tell(Note::Settled(record)),
        }
        if let Some(charge) = charge {
            self.act(move |routing| routing.finish(charge, now));
        }
    }

    /// Takes in what became of a request that was sent to `endpoint` at `sent_at`.
    pub(crate) fn observe(
        &mut self,
        endpoint: EndpointId,
        observation: &Observation,
        sent_at: Timestamp,
        now: Timestamp,
    ) {
        let failure = match *observation {
            Observation::Failed(failure) => Some(failure),
            _ => None,
        };
        let observation = *observation;
        match &self.shared {
            None => {
                let is_ejected = self.director.routing.observe(endpoint, &observation, sent_at, now);
                if let Some(failure) = failure {
                    self.telemetry.count_failure(self.director.routing.pool(), endpoint, failure);
                }
                if is_ejected {
                    self.telemetry.count_ejection(self.director.routing.pool(), endpoint);
                }
            }
            Some(shared) => {
                let state = Arc::clone(&shared.state);
                if let Some(failure) = failure {
                    state.tell(Note::Failed(endpoint, failure));
                }
                self.act(move |routing| {
                    if routing.observe(endpoint, &observation, sent_at, now) {
                        state.tell(Note::Ejected(endpoint));
                    }
                });
            }
        }
    }

    /// Takes over what an endpoint said of its load in an answer that came `at`.
    pub(crate) fn report_load(&mut self, endpoint: EndpointId, report: &LoadReport, at: Timestamp) {
        let report = *report;
        self.act(move |routing| routing.report_load(endpoint, &report, at));
    }

    /// Takes in that an endpoint was tried first, or among the first, and failed.
    pub(crate) fn observe_failed(
        &mut self,
        record: &mut ExchangeRecord,
        endpoint: EndpointId,
        failure: Failure,
        sent_at: Timestamp,
        now: Timestamp,
    ) {
        record.note_failed(endpoint, failure);
        self.observe(endpoint, &Observation::Failed(failure), sent_at, now);
    }

    /// Acts on the routing in use, now or, where another thread holds it, later: then there is no result.
    fn act<T>(&mut self, step: impl FnOnce(&mut Routing) -> T + Send + 'static) -> Option<T> {
        self.direct(move |director| step(&mut director.routing))
    }

    /// The same with the queue in front of it.
    fn direct<T>(&mut self, step: impl FnOnce(&mut Director) -> T + Send + 'static) -> Option<T> {
        let Some(shared) = &self.shared else { return Some(step(&mut self.director)) };
        let (result, step) = run(&*shared.state, step);
        if let Some(step) = step {
            shared.state.leave(Box::new(move |director| drop(step(director))));
        }
        result
    }

    /// Acts on the shared routing behind all that was left before, and sees to it that somebody does.
    fn leave(&self, step: impl FnOnce(&mut Routing) + Send + 'static) {
        if let Some(shared) = &self.shared {
            shared.state.leave(Box::new(move |director| step(&mut director.routing)));
            shared.state.try_run(&mut |_| ());
        }
    }
}

/// Runs a step on a shared routing: its result, or the step itself where another thread holds the routing.
fn run<T, S: FnOnce(&mut Director) -> T>(state: &dyn SharedState, step: S) -> (Option<T>, Option<S>) {
    let (mut step, mut result) = (Some(step), None);
    state.try_run(&mut |director| {
        if let Some(step) = step.take() {
            result = Some(step(director));
        }
    });
    (result, step)
}

/// Notes in the record what is expected now of a request at its endpoint.
fn note_forecast(charge: &Charge, record: &mut ExchangeRecord) {
    if let (Some(endpoint), Pick::Ranked(ranked, _)) = (charge.endpoint(), &mut record.pick) {
        ranked.set_forecast(endpoint, *charge.forecast());
    }
}

/// What a request burdens an endpoint with.
fn burden(telemetry: &Telemetry, record: &ExchangeRecord, is_whole: bool) -> Burden {
    let running = record.api.map(|_| telemetry.running(record));
    Burden { running, streams: is_whole.then_some(record.request.stream) }
}
