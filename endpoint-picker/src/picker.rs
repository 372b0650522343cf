//! One worker's endpoint picker: configuration, routing, accounts and telemetry, which exchanges borrow for the length of a callback.

use alloc::boxed::Box;
use alloc::vec::Vec;

use snapshot::{Loads, Membership};

use crate::accounts::{Accounts, Charge};
use crate::config::Config;
use crate::learning::{Answer, Learner};
use crate::load_report::LoadReport;
use crate::openai::{PrefixMark, PromptDigest, Usage};
use crate::pool::{EndpointId, OtherMembership, Pool, Suspicion};
use crate::prefix_index::PrefixIndex;
use crate::record::{ExchangeRecord, Pick};
use crate::rewrite::{Rule, Target};
use crate::rng::Rng;
use crate::scheduling::{Decision, Failure, Observation, PickRequest, Scheduler, model_key};
use crate::telemetry::Telemetry;
use crate::time::Timestamp;

/// One worker's endpoint picker.
#[derive(Debug)]
pub struct EndpointPicker {
    config: Config,
    routing: Routing,
    accounts: Accounts,
    telemetry: Telemetry,
}

/// Who the endpoints are and which of them is next.
#[derive(Debug)]
struct Routing {
    pool: Pool,
    scheduler: Scheduler,
    rng: Rng,
    /// Prompts that were sent since the other workers were told.
    sent: Vec<SentPrompt>,
}

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

/// Prompts that wait for the next tick at most: what a worker that serves a thousand requests a second sends in four ticks.
const MAX_SENT_PROMPTS: usize = 200;

impl EndpointPicker {
    /// A picker that knows no endpoint yet. The seed decides ties: draw it at random.
    #[must_use]
    pub fn new(config: Config, seed: u64) -> Self {
        Self {
            telemetry: Telemetry::new(&config),
            routing: Routing {
                pool: Pool::default(),
                scheduler: Scheduler::default(),
                rng: Rng::new(seed),
                sent: Vec::new(),
            },
            accounts: Accounts::default(),
            config,
        }
    }

    /// The settings in force.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// What is known of the endpoints.
    #[must_use]
    pub const fn pool(&self) -> &Pool {
        &self.routing.pool
    }

    /// Which endpoint should have which prefixes.
    #[must_use]
    pub const fn prefix_index(&self) -> &PrefixIndex {
        self.routing.scheduler.index()
    }

    /// What was learned of the endpoints' times.
    #[must_use]
    pub const fn learner(&self) -> &Learner {
        self.routing.scheduler.learner()
    }

    /// What is in flight.
    #[must_use]
    pub const fn accounts(&self) -> &Accounts {
        &self.accounts
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

    /// Replaces who the endpoints are.
    pub fn install_membership(&mut self, membership: &Membership) {
        let name = self.config.pool.as_str();
        self.routing.pool.install_membership(membership, name);
        self.routing.scheduler.pool_installed(&self.routing.pool, &self.config.profile);
        let models = membership.pool(name).map(|(pool, _)| pool.models.as_slice()).unwrap_or_default();
        self.telemetry.membership_installed(&self.routing.pool, models.iter().map(|model| model.name.as_str()));
    }

    /// Replaces how loaded the endpoints are by what this host received at `received_at`.
    ///
    /// # Errors
    ///
    /// When the loads are those of another membership: then nothing changes.
    pub fn install_loads(&mut self, loads: &Loads, received_at: Timestamp) -> Result<(), OtherMembership> {
        self.routing.pool.install_loads(loads, received_at)?;
        self.routing.scheduler.pool_installed(&self.routing.pool, &self.config.profile);
        Ok(())
    }

    /// The installed loads were still true at that moment.
    pub fn confirm(&mut self, at: Timestamp) {
        self.routing.pool.confirm(at);
    }

    /// Takes over what the other workers have in flight to the members, in the order of the membership: requests, and tokens of prompts
    /// that are yet to be computed.
    pub fn set_others_in_flight(&mut self, counts: impl IntoIterator<Item = (u32, u32)>) {
        self.routing.pool.set_others_in_flight(counts);
    }

    /// Takes over what another worker holds against the member at that place of the membership.
    pub fn learn_suspicion(&mut self, place: usize, suspicion: Suspicion, now: Timestamp) {
        self.routing.pool.learn_suspicion(place, suspicion, now);
    }

    /// Takes over that another worker sent a prompt to the member at that place of the membership: `marks` behind the mark of hash `tail`.
    pub fn learn_prompt(&mut self, place: usize, tail: u64, marks: &[PrefixMark]) {
        if let Some(&endpoint) = self.routing.pool.members().get(place) {
            self.routing.scheduler.prompt_learnt(endpoint, tail, marks);
        }
    }

    /// Prompts that were sent since this was last asked.
    pub fn take_sent_prompts(&mut self) -> impl Iterator<Item = SentPrompt> {
        self.routing.sent.drain(..)
    }

    /// Counts what waited for the shared table of labels, which was merged or cannot be.
    pub fn settle_pending(&mut self) {
        self.telemetry.settle_pending(&self.routing.pool);
    }

    /// Records how long one pick took.
    pub fn record_pick_duration(&mut self, micros: u64) {
        self.telemetry.record_pick_duration(micros);
    }

    /// The rule for a model, its place in the configuration, and a target drawn by weight.
    pub(crate) fn rewrite(&mut self, model: &str) -> Option<(usize, &Target)> {
        let (place, rule) = Rule::find(&self.config.rewrites, model)?;
        Some((place, rule.draw(&mut self.routing.rng)?))
    }

    /// Ranks the endpoints for one request.
    pub(crate) fn pick(&mut self, request: &PickRequest<'_>, now: Timestamp) -> Decision {
        let Routing { pool, scheduler, rng, .. } = &mut self.routing;
        scheduler.pick(pool, &self.config.profile, request, rng, now)
    }

    /// How many endpoints should have a prompt as far as its mark of that hash.
    pub(crate) fn holders(&self, hash: u64) -> u32 {
        self.routing.scheduler.index().holders(hash)
    }

    /// Charges a request that is sent now to the first of its ranked list. Where it is not whole yet, [`Self::became_whole`] follows.
    pub(crate) fn charge(
        &mut self,
        record: &ExchangeRecord,
        prompt: &PromptDigest,
        is_whole: bool,
        now: Timestamp,
    ) -> Charge {
        let model = record.api.map(|_| self.telemetry.running_label(&record.model));
        let first = record.ranked().map(|ranked| ranked.first());
        let forecast = record.forecast(first);
        if let Some(endpoint) = first {
            self.routing.note_prompt(endpoint, prompt);
        }
        let streams = is_whole.then_some(record.request.stream);
        self.accounts.charge(&mut self.routing.pool, first, forecast, streams, model, now)
    }

    /// The endpoint of a request in flight is sent a prompt.
    pub(crate) fn note_prompt(&mut self, charge: &Charge, prompt: &PromptDigest) {
        if let Some(endpoint) = charge.endpoint() {
            self.routing.note_prompt(endpoint, prompt);
        }
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
        let mut forecast = *charge.forecast();
        if let Some(endpoint) = charge.endpoint() {
            let held = self.routing.note_prompt(endpoint, prompt);
            let end =
                |marks: usize| marks.checked_sub(1).and_then(|last| prompt.marks.get(last)).map_or(0, |mark| mark.end);
            // Its own first marks say nothing: how many of them the endpoint held before, the pick saw.
            forecast.matched_bytes =
                if held > sent_marks { end(held) } else { forecast.matched_bytes.min(end(sent_marks)) };
            let request = PickRequest {
                target_model: &record.target_model,
                prompt_bytes: record.request.prompt_bytes,
                ..PickRequest::default()
            };
            let Routing { pool, scheduler, .. } = &self.routing;
            forecast = scheduler.corrected(pool, &self.config.profile, &request, endpoint, &forecast, now);
            if let Pick::Ranked(ranked, _) = &mut record.pick {
                ranked.set_forecast(endpoint, forecast);
            }
        }
        self.accounts.became_whole(&mut self.routing.pool, charge, forecast, record.request.stream, now);
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
        let Routing { pool, scheduler, .. } = &mut self.routing;
        if let Some(endpoint) = to.filter(|_| tail != 0 && charge.endpoint() != to) {
            scheduler.prompt_moved(endpoint, tail);
        }
        self.accounts.transfer(pool, charge, to, record.forecast(to), now)
    }

    /// The first token of a request came from its endpoint.
    pub(crate) fn first_token_came(&mut self, charge: &mut Charge, record: &ExchangeRecord, now: Timestamp) {
        let Some(endpoint) = charge.endpoint() else { return };
        let (sent_at, after_micros) = (charge.sent_at(), now.micros_since(charge.whole_at()));
        self.observe(endpoint, &Observation::FirstToken { after_micros }, sent_at, now);
        let Routing { pool, scheduler, .. } = &mut self.routing;
        if record.teaches() && self.config.profile.needs_prefixes() {
            scheduler.first_token_came(endpoint, charge.forecast(), after_micros);
        }
        self.accounts.computed(pool, charge, now);
    }

    /// An endpoint served a request to its end.
    pub(crate) fn answer_ended(&mut self, charge: &Charge, record: &ExchangeRecord, usage: Usage, now: Timestamp) {
        let Some(endpoint) = charge.endpoint() else { return };
        let (sent_at, whole_at) = (charge.sent_at(), charge.whole_at());
        let total_micros = now.micros_since(whole_at);
        self.observe(endpoint, &Observation::Finished { usage, after_micros: total_micros }, sent_at, now);
        if record.teaches() && self.config.profile.needs_prefixes() {
            let answer = Answer {
                first_token_micros: record.times.first_content.map(|at| at.micros_since(whole_at)),
                total_micros,
                usage,
                prompt_bytes: record.request.prompt_bytes,
                model: model_key(&record.target_model),
            };
            self.routing.scheduler.answer_ended(endpoint, charge.forecast(), &answer);
        }
    }

    /// Takes a request off the accounts and counts what it was.
    pub(crate) fn settle(&mut self, charge: Option<Charge>, record: Box<ExchangeRecord>, now: Timestamp) {
        self.telemetry.record(&self.routing.pool, record);
        if let Some(charge) = charge {
            self.accounts.finish(&mut self.routing.pool, charge, now);
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
        let Routing { pool, scheduler, .. } = &mut self.routing;
        let is_ejected = scheduler.observe(pool, endpoint, observation, sent_at, now);
        if let Observation::Failed(failure) = *observation {
            self.telemetry.count_failure(pool, endpoint, failure);
        }
        if is_ejected {
            self.telemetry.count_ejection(pool, endpoint);
        }
    }

    /// Takes over what an endpoint said of its load in an answer that came `at`.
    pub(crate) fn report_load(&mut self, endpoint: EndpointId, report: &LoadReport, at: Timestamp) {
        self.routing.pool.report_load(endpoint, report, at);
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
}

impl Routing {
    /// An endpoint is sent a prompt. Gives how many of its marks the endpoint held before.
    fn note_prompt(&mut self, endpoint: EndpointId, prompt: &PromptDigest) -> usize {
        if prompt.marks.is_empty() {
            return 0;
        }
        let held = self.scheduler.prompt_sent(endpoint, prompt);
        if self.sent.len() < MAX_SENT_PROMPTS {
            let tail = held.checked_sub(1).and_then(|last| prompt.marks.get(last)).map_or(0, |mark| mark.hash);
            let marks = prompt.marks.get(held..).unwrap_or_default().to_vec();
            self.sent.push(SentPrompt { endpoint, tail, marks });
        }
        held
    }
}
