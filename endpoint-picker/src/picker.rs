//! Everything that one worker knows: configuration, pool, statistics, and the generator that breaks ties.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::SocketAddr;

use catalogue::Stat;
use hashbrown::HashMap;
use snapshot::Snapshot;

use crate::board::{Board, Count, Post};
use crate::config::Config;
use crate::ledger::{Ledger, ModelId, SeriesId};
use crate::pool::Pool;
use crate::reply::ErrorCode;
use crate::rng::Rng;
use crate::scheduling::{Decision, Place, Reason, Scheduler};
use crate::time::Timestamp;

/// One worker's endpoint picker. Exchanges borrow it for the length of a callback.
#[derive(Debug)]
pub struct EndpointPicker {
    pub(crate) config: Config,
    pub(crate) rng: Rng,
    pub(crate) ledger: Ledger,
    pub(crate) pool: Pool,
    scheduler: Scheduler,
    worker: u64,
    running: HashMap<ModelId, u32>,
    attempts: HashMap<(Option<ModelId>, SocketAddr), Option<SeriesId>>,
    picks: HashMap<(SocketAddr, Reason), Option<SeriesId>>,
    /// Series that every request feeds, looked up once.
    parsed_bodies: Option<SeriesId>,
    pick_duration: Option<SeriesId>,
}

impl EndpointPicker {
    /// A picker that knows no endpoint yet. The seed decides ties and is the worker's id on the board: draw it at random.
    #[must_use]
    pub fn new(config: Config, seed: u64) -> Self {
        let pinned: Vec<String> = config
            .rewrites
            .iter()
            .flat_map(|rule| rule.model.iter().chain(rule.targets.iter().map(|target| &target.model)))
            .cloned()
            .collect();
        let mut ledger = Ledger::new(config.stats, pinned.iter().map(String::as_str));
        Self {
            parsed_bodies: ledger.labelled(Stat::RequestBodiesTotal, &["parsed"]),
            pick_duration: ledger.labelled(Stat::SchedulerE2eDurationSeconds, &[]),
            ledger,
            config,
            rng: Rng::new(seed),
            pool: Pool::default(),
            scheduler: Scheduler::default(),
            worker: seed,
            running: HashMap::new(),
            attempts: HashMap::new(),
            picks: HashMap::new(),
        }
    }

    /// The settings in force.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The statistics, to be carried to the host.
    pub const fn ledger_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// What is known of the endpoints.
    #[must_use]
    pub const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Replaces what is known of the endpoints' load.
    pub fn install(&mut self, snapshot: &Snapshot) {
        self.pool.install(snapshot, &self.config.pool);
        // A pod may have a new name at an old address.
        self.attempts.clear();
    }

    /// The installed snapshot was still true at that moment.
    pub const fn confirm(&mut self, at: Timestamp) {
        self.pool.confirm(at);
    }

    /// What this worker has in flight, for the other workers; `memory_bytes` is the size of its virtual machine.
    #[must_use]
    pub fn post(&self, memory_bytes: u64, now: Timestamp) -> Post {
        let mut models: Vec<Count> = self
            .running
            .iter()
            .map(|(&model, &count)| Count { name: self.ledger.model_labels(model).0.to_string(), count })
            .collect();
        // Model names that share the name `other` may come more than once; readers sum them. Sorted, equal posts are equal.
        models.sort_by(|left, right| left.name.cmp(&right.name).then(left.count.cmp(&right.count)));
        let endpoints = self.pool.endpoints().iter().filter(|endpoint| endpoint.own_in_flight() > 0);
        Post {
            worker: self.worker,
            written_at_micros: now.as_micros(),
            endpoints: endpoints
                .map(|endpoint| Count { name: endpoint.address.clone(), count: endpoint.own_in_flight() })
                .collect(),
            models,
            objective: self.config.stats.objective,
            model: self.config.stats.model,
            pool: self.config.pool.clone(),
            memory_bytes,
        }
    }

    /// Takes over what the other workers have in flight.
    pub fn take_board(&mut self, board: &Board) {
        self.pool.set_others_in_flight(&board.others_in_flight(self.worker));
    }

    /// Records how long one pick took.
    pub fn record_pick_duration(&mut self, micros: u64) {
        if let Some(series) = self.pick_duration {
            self.ledger.sample(series, micros);
        }
    }

    /// Counts a request body that was read and understood.
    pub(crate) fn count_parsed_body(&mut self) {
        if let Some(series) = self.parsed_bodies {
            self.ledger.add_to(series, 1);
        }
    }

    /// Picks for one request and counts the attempt.
    pub(crate) fn pick(&mut self, model: Option<ModelId>, now: Timestamp) -> Decision {
        let decision = self.scheduler.pick(&self.pool, &self.config.profile, &mut self.rng, now);
        match decision {
            Decision::Picked(ranked, _) => {
                let place = ranked.first();
                let series = match self.attempts.get(&(model, place.address)) {
                    Some(&known) => known,
                    None => {
                        let series = self.attempt_series(model, place);
                        self.attempts.insert((model, place.address), series);
                        series
                    }
                };
                if let Some(series) = series {
                    self.ledger.add_to(series, 1);
                }
            }
            Decision::NoEndpoint => {
                let target = self.target(model);
                self.ledger.count(Stat::SchedulerAttemptsTotal, &["failure", &target, "", "", ""]);
            }
        }
        decision
    }

    /// The request was sent to `address`; its counterpart is [`Self::finished`].
    pub(crate) fn sent(&mut self, address: Option<SocketAddr>, model: Option<ModelId>) {
        if let Some(address) = address {
            self.pool.request_sent(address);
        }
        if let Some(model) = model {
            *self.running.entry(model).or_default() += 1;
        }
    }

    /// The request no longer burdens `address`, and its model is no longer running it.
    pub(crate) fn finished(&mut self, address: Option<SocketAddr>, model: Option<ModelId>) {
        if let Some(address) = address {
            self.pool.request_finished(address);
        }
        if let Some(model) = model
            && let Some(count) = self.running.get_mut(&model)
        {
            // A model that ran once is posted with 0 from then on: a gauge that vanishes says nothing.
            *count = count.saturating_sub(1);
        }
    }

    /// Another endpoint than the picked one turned out to serve: move the request over. Returns whose count holds it now.
    pub(crate) fn moved(&mut self, from: Option<SocketAddr>, to: SocketAddr) -> Option<SocketAddr> {
        if let Some(from) = from {
            self.pool.request_finished(from);
        }
        self.pool.request_sent(to).then_some(to)
    }

    /// Counts who served and what decided.
    pub(crate) fn count_pick(&mut self, served: SocketAddr, reason: Reason) {
        let series = match self.picks.get(&(served, reason)) {
            Some(&known) => known,
            None => {
                let address = served.to_string();
                let values = [self.config.pool.as_str(), &address, reason.as_str()];
                let series = self.ledger.labelled(Stat::PicksTotal, &values);
                self.picks.insert((served, reason), series);
                series
            }
        };
        if let Some(series) = series {
            self.ledger.add_to(series, 1);
        }
    }

    /// The endpoint could not be reached.
    pub(crate) fn failed(&mut self, address: SocketAddr, now: Timestamp) {
        if self.pool.record_failure(address, now) {
            self.ledger.count(Stat::EjectionsTotal, &[&self.config.pool, &address.to_string()]);
        }
    }

    /// Counts a request that failed; without a model the labels are empty, as for a body that names none.
    pub(crate) fn count_error(&mut self, model: Option<ModelId>, code: ErrorCode) {
        let (model, target) = model.map_or((String::new(), String::new()), |model| {
            let (model, target) = self.ledger.model_labels(model);
            (model.to_string(), target.to_string())
        });
        for stat in [Stat::ObjectiveRequestErrorTotal, Stat::ModelRequestErrorTotal] {
            self.ledger.count(stat, &[&model, &target, code.as_str()]);
        }
    }

    fn attempt_series(&mut self, model: Option<ModelId>, place: Place) -> Option<SeriesId> {
        let target = self.target(model);
        let endpoint = self.pool.endpoints().get(place.index)?;
        let values = ["success", &target, &endpoint.pod, &endpoint.load.namespace, &endpoint.port];
        self.ledger.labelled(Stat::SchedulerAttemptsTotal, &values)
    }

    fn target(&self, model: Option<ModelId>) -> String {
        model.map_or("", |model| self.ledger.model_labels(model).1).to_string()
    }
}
