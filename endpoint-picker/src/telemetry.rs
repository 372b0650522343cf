//! Statistics from records: every family that a settled exchange feeds, under each spelling that is switched on.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use catalogue::Stat;
use hashbrown::HashMap;

use crate::admission::{Admission, Admitted, Caps, OTHER, Subject};
use crate::config::Config;
use crate::learning::Forecast;
use crate::ledger::{Ledger, SeriesId};
use crate::pool::{EndpointId, Pool};
use crate::record::{End, ExchangeRecord, Pick, ResponseSummary, Served};
use crate::reply::ErrorCode;
use crate::scheduling::{Failure, Reason};

/// Records that wait for their model's name to be admitted, at most: those of one tick. More are counted under [`OTHER`].
const MAX_PENDING: usize = 1_024;

/// What is measured once a request and model, and published under every spelling that is switched on.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Measure {
    /// Request headers to end of response, microseconds.
    RequestDuration,
    /// Request body, bytes.
    RequestSize,
    /// Response body, bytes.
    ResponseSize,
    /// Prompt tokens.
    InputTokens,
    /// Generated tokens.
    OutputTokens,
    /// Prompt tokens from the prefix cache.
    CachedTokens,
    /// Duration for each generated token, microseconds.
    NormalizedTimePerOutputToken,
    /// Request headers to first content, microseconds.
    TimeToFirstToken,
    /// Time for each token after the first, microseconds.
    TimePerOutputToken,
}

impl Measure {
    const COUNT: usize = 9;

    const fn stats(self) -> &'static [Stat] {
        match self {
            Self::RequestDuration => &[Stat::ObjectiveRequestDurationSeconds, Stat::ModelRequestDurationSeconds],
            Self::RequestSize => &[Stat::ObjectiveRequestSizes, Stat::ModelRequestSizes],
            Self::ResponseSize => &[Stat::ObjectiveResponseSizes, Stat::ModelResponseSizes],
            Self::InputTokens => &[Stat::ObjectiveInputTokens, Stat::ModelInputTokens],
            Self::OutputTokens => &[Stat::ObjectiveOutputTokens, Stat::ModelOutputTokens],
            Self::CachedTokens => &[Stat::ObjectivePromptCachedTokens],
            Self::NormalizedTimePerOutputToken => {
                &[Stat::ObjectiveNormalizedTimePerOutputToken, Stat::ModelNormalizedTimePerOutputToken]
            }
            Self::TimeToFirstToken => &[Stat::ObjectiveRequestTtftSeconds],
            Self::TimePerOutputToken => &[Stat::ObjectiveRequestTpotSeconds],
        }
    }
}

/// The labels of a record.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Models {
    model: Admitted,
    target: Admitted,
}

/// The series of one pair of model names, found once.
#[derive(Debug, Default)]
struct Row {
    measures: [Option<SeriesId>; Measure::COUNT],
    /// Request counters by priority. Few: priorities come from the configuration.
    requests: Vec<(i64, [Option<SeriesId>; 2])>,
    errors: Vec<(ErrorCode, [Option<SeriesId>; 2])>,
}

impl Models {
    fn or_other(model: Option<Admitted>, target: Option<Admitted>) -> Self {
        Self { model: model.unwrap_or(Admitted::OTHER), target: target.unwrap_or(Admitted::OTHER) }
    }

    fn texts(self, admission: &Admission) -> [&str; 2] {
        [self.model, self.target].map(|name| admission.text(Subject::Model, name))
    }
}

impl Row {
    fn sample(&mut self, ledger: &mut Ledger, admission: &Admission, models: Models, measure: Measure, value: u64) {
        let Some(place) = self.measures.get_mut(measure as usize) else { return };
        if place.is_none() {
            *place = ledger.spelled(measure.stats(), &models.texts(admission));
        }
        if let Some(series) = *place {
            ledger.sample(series, value);
        }
    }
}

/// One worker's statistics.
#[derive(Debug)]
pub struct Telemetry {
    ledger: Ledger,
    admission: Admission,
    pool: String,
    rules: Vec<String>,
    rows: HashMap<Models, Box<Row>>,
    attempts: HashMap<(Admitted, EndpointId), Option<SeriesId>>,
    picks: HashMap<(EndpointId, Reason), Option<SeriesId>>,
    /// Counters with one label of a fixed set of values.
    outcomes: HashMap<(Stat, &'static str), Option<SeriesId>>,
    /// Served requests for names that are not admitted yet.
    pending: Vec<ExchangeRecord>,
    pick_duration: Option<SeriesId>,
    hit_ratio: Option<SeriesId>,
    hit_bytes: Option<SeriesId>,
    /// Tokens that were predicted to be cached, and that were reported.
    prefix_tokens: [Option<SeriesId>; 2],
}

impl Telemetry {
    /// Empty statistics.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let configured = config
            .rewrites
            .iter()
            .flat_map(|rule| rule.model.iter().chain(rule.targets.iter().map(|target| &target.model)));
        let caps = Caps { models: config.stats.max_models, endpoints: config.stats.max_endpoints };
        let mut ledger = Ledger::new(config.stats);
        Self {
            pick_duration: ledger.labelled(Stat::SchedulerE2eDurationSeconds, &[]),
            hit_ratio: ledger.labelled(Stat::PrefixIndexerHitRatio, &[]),
            hit_bytes: ledger.labelled(Stat::PrefixIndexerHitBytes, &[]),
            ledger,
            admission: Admission::new(caps, configured.map(String::as_str)),
            pool: config.pool.clone(),
            rules: config.rewrites.iter().map(|rule| rule.name.clone()).collect(),
            prefix_tokens: [None; 2],
            rows: HashMap::new(),
            attempts: HashMap::new(),
            picks: HashMap::new(),
            outcomes: HashMap::new(),
            pending: Vec::new(),
        }
    }

    /// The statistics on their way to the host.
    pub const fn ledger_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// The labels that clients can influence.
    #[must_use]
    pub const fn admission(&self) -> &Admission {
        &self.admission
    }

    /// The same, to be merged with the shared table; [`Self::settle_pending`] comes after that.
    pub const fn admission_mut(&mut self) -> &mut Admission {
        &mut self.admission
    }

    /// The label under which a request for that model runs.
    #[must_use]
    pub fn running_label(&self, model: &str) -> Admitted {
        self.admission.find(Subject::Model, model).unwrap_or(Admitted::OTHER)
    }

    /// Records how long one pick took.
    pub fn record_pick_duration(&mut self, micros: u64) {
        if let Some(series) = self.pick_duration {
            self.ledger.sample(series, micros);
        }
    }

    /// Models that endpoints list: they may have labels.
    pub fn propose_models<'a>(&mut self, models: impl Iterator<Item = &'a str>) {
        for model in models {
            self.admission.propose(Subject::Model, model);
        }
    }

    /// The pool has new members: they may have labels, and series of endpoints that are gone are let go of.
    pub fn membership_installed(&mut self, pool: &Pool) {
        for &id in pool.members() {
            if let Some(endpoint) = pool.endpoint(id) {
                self.admission.propose(Subject::Endpoint, endpoint.destination());
                self.admission.propose(Subject::Pod, endpoint.name());
            }
        }
        self.attempts.retain(|(_, id), _| pool.endpoint(*id).is_some());
        self.picks.retain(|(id, _), _| pool.endpoint(*id).is_some());
    }

    /// Counts a pick that was made while another thread held the shared routing.
    pub fn count_lone_pick(&mut self) {
        self.ledger.count(Stat::LonePicksTotal, &[]);
    }

    /// Counts an endpoint that is left out from now on.
    pub fn count_ejection(&mut self, pool: &Pool, id: EndpointId) {
        let endpoint = self.endpoint_label(pool, id);
        self.ledger.count(Stat::EjectionsTotal, &[&self.pool, &endpoint]);
    }

    /// Counts an endpoint that failed a request.
    pub fn count_failure(&mut self, pool: &Pool, id: EndpointId, failure: Failure) {
        let endpoint = self.endpoint_label(pool, id);
        self.ledger.count(Stat::EndpointFailuresTotal, &[&self.pool, &endpoint, failure.as_str()]);
    }

    /// Counts an exchange that has settled. One that was served under a name, or from an address, that may still be admitted waits for
    /// that.
    pub fn record(&mut self, pool: &Pool, record: Box<ExchangeRecord>) {
        let (model, target) = self.labels(&record);
        let is_missing = model.is_none() || target.is_none() || self.lacks_address(&record);
        if is_missing && record.is_served() && self.pending.len() < MAX_PENDING {
            self.admission.propose(Subject::Model, &record.model);
            self.admission.propose(Subject::Model, &record.target_model);
            if let Some(Served { address, endpoint: None, .. }) = record.served {
                self.admission.propose(Subject::Endpoint, &address.to_string());
            }
            self.pending.push(*record);
        } else {
            self.count(pool, &record, Models::or_other(model, target));
        }
    }

    /// Counts what waited: the names were admitted, or will not be.
    pub fn settle_pending(&mut self, pool: &Pool) {
        for record in core::mem::take(&mut self.pending) {
            let (model, target) = self.labels(&record);
            self.count(pool, &record, Models::or_other(model, target));
        }
    }

    /// The labels of a record's model and target, as far as they are admitted.
    fn labels(&self, record: &ExchangeRecord) -> (Option<Admitted>, Option<Admitted>) {
        let model = self.admission.find(Subject::Model, &record.model);
        if record.target_model == record.model {
            (model, model)
        } else {
            (model, self.admission.find(Subject::Model, &record.target_model))
        }
    }

    /// It was served from an address outside the pool that has no label yet.
    fn lacks_address(&self, record: &ExchangeRecord) -> bool {
        match record.served {
            Some(Served { address, endpoint: None, .. }) => {
                self.admission.find(Subject::Endpoint, &address.to_string()).is_none()
            }
            _ => false,
        }
    }

    fn count(&mut self, pool: &Pool, record: &ExchangeRecord, models: Models) {
        if let Some(outcome) = record.request.outcome {
            self.count_outcome(Stat::RequestBodiesTotal, outcome.as_str());
        }
        self.count_pick(pool, record, models.target);
        if let Some(response) = record.response {
            self.count_outcome(Stat::ResponseBodiesTotal, response.outcome.as_str());
        }
        if record.api.is_none() {
            let outcome = match record.end {
                End::Complete => "complete",
                End::Failed(code) => code.as_str(),
            };
            self.count_outcome(Stat::LoadOnlyRequestsTotal, outcome);
            return;
        }
        self.count_request(record, models);
        if let Some(rule) = record.rewrite_rule.and_then(|rule| self.rules.get(rule)) {
            let [model, target] = models.texts(&self.admission);
            self.ledger.count(Stat::ModelRewriteDecisionsTotal, &[rule, model, target]);
        }
        if record.request.bytes > 0 {
            let Self { ledger, admission, rows, .. } = self;
            let row = rows.entry(models).or_default();
            row.sample(ledger, admission, models, Measure::RequestSize, record.request.bytes);
        }
        if let Some(response) = record.response.filter(|response| response.complete) {
            self.measure(record, &response, models);
        }
    }

    fn count_outcome(&mut self, stat: Stat, outcome: &'static str) {
        let ledger = &mut self.ledger;
        let series = *self.outcomes.entry((stat, outcome)).or_insert_with(|| ledger.labelled(stat, &[outcome]));
        self.add([series]);
    }

    fn count_request(&mut self, record: &ExchangeRecord, models: Models) {
        let priority = record.priority;
        let known = self.row(models).requests.iter().find(|(other, _)| *other == priority).map(|&(_, series)| series);
        let series = known.unwrap_or_else(|| {
            let [model, target] = models.texts(&self.admission);
            let series = [
                self.ledger.labelled(Stat::ObjectiveRequestTotal, &[model, target, &priority.to_string()]),
                self.ledger.labelled(Stat::ModelRequestTotal, &[model, target]),
            ];
            self.row(models).requests.push((priority, series));
            series
        });
        self.add(series);
        let End::Failed(code) = record.end else { return };
        let known = self.row(models).errors.iter().find(|(other, _)| *other == code).map(|&(_, series)| series);
        let series = known.unwrap_or_else(|| {
            let [model, target] = models.texts(&self.admission);
            let series = [Stat::ObjectiveRequestErrorTotal, Stat::ModelRequestErrorTotal]
                .map(|stat| self.ledger.labelled(stat, &[model, target, code.as_str()]));
            self.row(models).errors.push((code, series));
            series
        });
        self.add(series);
    }

    fn count_pick(&mut self, pool: &Pool, record: &ExchangeRecord, target: Admitted) {
        match record.pick {
            Pick::None => {}
            Pick::NoEndpoint => {
                let target = self.admission.text(Subject::Model, target);
                self.ledger.count(Stat::SchedulerAttemptsTotal, &["failure", target, "", "", ""]);
            }
            Pick::Ranked(ranked, _) => {
                let key = (target, ranked.first());
                let series = match self.attempts.get(&key) {
                    Some(&known) => known,
                    None => {
                        let series = self.attempt_series(pool, target, ranked.first());
                        self.attempts.insert(key, series);
                        series
                    }
                };
                self.add([series]);
                self.count_hit(&record.forecast(Some(ranked.first())));
            }
        }
        let Some(served) = record.served else { return };
        self.count_prediction(record, served);
        let series = match served.endpoint {
            Some(id) => match self.picks.get(&(id, served.reason)) {
                Some(&known) => known,
                None => {
                    let endpoint = self.endpoint_label(pool, id);
                    let series =
                        self.ledger.labelled(Stat::PicksTotal, &[&self.pool, &endpoint, served.reason.as_str()]);
                    self.picks.insert((id, served.reason), series);
                    series
                }
            },
            None => {
                let label = self.admission.find(Subject::Endpoint, &served.address.to_string());
                let endpoint = self.admission.text(Subject::Endpoint, label.unwrap_or(Admitted::OTHER));
                self.ledger.labelled(Stat::PicksTotal, &[&self.pool, endpoint, served.reason.as_str()])
            }
        };
        self.add([series]);
    }

    /// How much of the prompt the picked endpoint should have; nothing of a request without a prompt.
    fn count_hit(&mut self, forecast: &Forecast) {
        let known = u64::from(forecast.guess.known_tokens);
        let prompt = u64::from(forecast.uncached_tokens.saturating_add(forecast.cached_tokens));
        if let (Some(ratio), Some(bytes), Some(millionths)) =
            (self.hit_ratio, self.hit_bytes, (known * 1_000_000).checked_div(prompt))
        {
            self.ledger.sample(ratio, millionths);
            self.ledger.sample(bytes, u64::from(forecast.matched_bytes));
        }
    }

    /// What the endpoint should have had in its cache beside what it had, where it says so and the pick looked.
    fn count_prediction(&mut self, record: &ExchangeRecord, served: Served) {
        let forecast = record.forecast(served.endpoint);
        let reported = record.response.and_then(|response| response.usage.cached_tokens);
        if let Some(reported) = reported.filter(|_| forecast.uncached_tokens > 0) {
            let predicted = u64::from(forecast.guess.known_tokens);
            let stats = [(Stat::PrefixPredictedTokensTotal, predicted), (Stat::PrefixReportedTokensTotal, reported)];
            for (place, (stat, tokens)) in self.prefix_tokens.iter_mut().zip(stats) {
                if place.is_none() {
                    *place = self.ledger.labelled(stat, &[&self.pool]);
                }
                if let Some(series) = *place {
                    self.ledger.add_to(series, tokens);
                }
            }
        }
    }

    fn measure(&mut self, record: &ExchangeRecord, response: &ResponseSummary, models: Models) {
        let Self { ledger, admission, rows, .. } = self;
        let row = rows.entry(models).or_default();
        let mut sample = |measure, value| row.sample(ledger, admission, models, measure, value);
        let times = &record.times;
        let duration = times.ended.micros_since(times.started);
        sample(Measure::RequestDuration, duration);
        sample(Measure::ResponseSize, response.bytes);
        // A count of 0 says that there was nothing of the kind (no output of an embedding), not that a sample of 0 was taken.
        if let Some(tokens) = response.usage.prompt_tokens.filter(|&tokens| tokens > 0) {
            sample(Measure::InputTokens, tokens);
        }
        if let Some(tokens) = response.usage.cached_tokens {
            sample(Measure::CachedTokens, tokens);
        }
        let generated = response.usage.completion_tokens.filter(|&tokens| tokens > 0);
        if let Some(tokens) = generated {
            sample(Measure::OutputTokens, tokens);
            sample(Measure::NormalizedTimePerOutputToken, duration / tokens);
        }
        if let (true, Some(first), Some(last)) = (response.streamed, times.first_content, times.last_content) {
            sample(Measure::TimeToFirstToken, first.micros_since(times.started));
            if let Some(tokens) = generated.filter(|&tokens| tokens > 1) {
                sample(Measure::TimePerOutputToken, last.micros_since(first) / (tokens - 1));
            }
        }
    }

    fn attempt_series(&mut self, pool: &Pool, target: Admitted, id: EndpointId) -> Option<SeriesId> {
        let target = self.admission.text(Subject::Model, target);
        let endpoint = pool.endpoint(id);
        let admitted = endpoint.filter(|endpoint| {
            self.admission.find(Subject::Pod, endpoint.name()).is_some_and(|label| label != Admitted::OTHER)
        });
        let (port, values) = (admitted.map(|endpoint| endpoint.identity().address.port().to_string()), admitted);
        let values = match (&values, &port) {
            (Some(endpoint), Some(port)) => [endpoint.name(), endpoint.identity().namespace.as_str(), port],
            _ => [OTHER, "", ""],
        };
        let [pod, namespace, port] = values;
        self.ledger.labelled(Stat::SchedulerAttemptsTotal, &["success", target, pod, namespace, port])
    }

    fn endpoint_label(&self, pool: &Pool, id: EndpointId) -> String {
        let label =
            pool.endpoint(id).and_then(|endpoint| self.admission.find(Subject::Endpoint, endpoint.destination()));
        self.admission.text(Subject::Endpoint, label.unwrap_or(Admitted::OTHER)).to_string()
    }

    fn row(&mut self, models: Models) -> &mut Row {
        self.rows.entry(models).or_default()
    }

    fn add<const N: usize>(&mut self, series: [Option<SeriesId>; N]) {
        for id in series.into_iter().flatten() {
            self.ledger.add_to(id, 1);
        }
    }
}
