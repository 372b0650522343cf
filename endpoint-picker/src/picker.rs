//! One worker's endpoint picker: configuration, routing, accounts and telemetry, which exchanges borrow for the length of a callback.

use alloc::boxed::Box;

use snapshot::{Loads, Membership};

use crate::accounts::{Accounts, Charge};
use crate::config::Config;
use crate::load_report::LoadReport;
use crate::pool::{EndpointId, OtherMembership, Pool, Suspicion};
use crate::record::ExchangeRecord;
use crate::rewrite::{Rule, Target};
use crate::rng::Rng;
use crate::scheduling::{Decision, Failure, Observation, PickRequest, Scheduler};
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
}

impl EndpointPicker {
    /// A picker that knows no endpoint yet. The seed decides ties: draw it at random.
    #[must_use]
    pub fn new(config: Config, seed: u64) -> Self {
        Self {
            telemetry: Telemetry::new(&config),
            routing: Routing { pool: Pool::default(), scheduler: Scheduler::default(), rng: Rng::new(seed) },
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
        let models = membership.pool(name).map(|(pool, _)| pool.models.as_slice()).unwrap_or_default();
        self.telemetry.membership_installed(&self.routing.pool, models.iter().map(|model| model.name.as_str()));
    }

    /// Replaces how loaded the endpoints are by what this host received at `received_at`.
    ///
    /// # Errors
    ///
    /// When the loads are those of another membership: then nothing changes.
    pub fn install_loads(&mut self, loads: &Loads, received_at: Timestamp) -> Result<(), OtherMembership> {
        self.routing.pool.install_loads(loads, received_at)
    }

    /// The installed loads were still true at that moment.
    pub fn confirm(&mut self, at: Timestamp) {
        self.routing.pool.confirm(at);
    }

    /// Takes over what the other workers have in flight to the members, in the order of the membership.
    pub fn set_others_in_flight(&mut self, counts: impl IntoIterator<Item = u32>) {
        self.routing.pool.set_others_in_flight(counts);
    }

    /// Takes over what another worker holds against the member at that place of the membership.
    pub fn learn_suspicion(&mut self, place: usize, suspicion: Suspicion, now: Timestamp) {
        self.routing.pool.learn_suspicion(place, suspicion, now);
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
        let Routing { pool, scheduler, rng } = &mut self.routing;
        scheduler.pick(pool, &self.config.profile, request, rng, now)
    }

    /// Charges a request that is sent now; `model` is what the client asked for, where it asked for a model.
    pub(crate) fn charge(&mut self, endpoint: Option<EndpointId>, model: Option<&str>, now: Timestamp) -> Charge {
        let model = model.map(|model| self.telemetry.running_label(model));
        self.accounts.charge(&mut self.routing.pool, endpoint, model, now)
    }

    /// Moves a request to the endpoint that turned out to serve it.
    pub(crate) fn transfer(&mut self, charge: Charge, to: Option<EndpointId>) -> Charge {
        self.accounts.transfer(&mut self.routing.pool, charge, to)
    }

    /// Takes a request off the accounts and counts what it was.
    pub(crate) fn settle(&mut self, charge: Option<Charge>, record: Box<ExchangeRecord>) {
        self.telemetry.record(&self.routing.pool, record);
        if let Some(charge) = charge {
            self.accounts.finish(&mut self.routing.pool, charge);
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
