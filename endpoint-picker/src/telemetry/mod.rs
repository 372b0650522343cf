//! Statistics from records: every family that a settled exchange feeds, under each spelling that is switched on.

mod measure;
mod rows;
mod waiting;

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use catalogue::{Label, Stat};
use hashbrown::HashMap;

use self::measure::{Ending, Measure};
pub(crate) use self::rows::{FAIRNESS_ID, PREFIX_PLUGIN};
use self::rows::{Flow, RowId, RowKey, Rows};
use self::waiting::Waiting;
pub use self::waiting::{WaitingKey, WaitingNote};
use crate::accounts::RunningLabels;
use crate::admission::{Admission, Admitted, Caps, OTHER, Subject};
use crate::board::WaitingPost;
use crate::config::Config;
use crate::error_type::ErrorType;
use crate::filter_time::{FilterTime, Phase};
use crate::learning::Forecast;
use crate::ledger::{Ledger, SeriesId};
use crate::pool::{EndpointId, Pool};
use crate::record::{BodyOutcome, End, ExchangeRecord, Pick, ResponseOutcome, ResponseSummary, Served};
use crate::scheduling::{Failure, Reason};

/// Records that wait for their model's name to be admitted, at most: those of one tick. More are counted under [`OTHER`].
const MAX_PENDING: usize = 1_024;

/// Picks, under each spelling.
const ATTEMPTS: [Stat; 2] = [Stat::SchedulerAttemptsTotal, Stat::LlmDSchedulerAttemptsTotal];
/// Names of models that responses to requests for one model may have as labels: a server that makes names up takes no more.
const MAX_RESPONSE_MODELS: usize = 8;

/// The labels of a record that its client chose.
#[derive(Clone, Copy, Debug)]
struct Models {
    model: Option<Admitted>,
    target: Option<Admitted>,
    response: Option<Admitted>,
    /// Whom flow control was fair to; the empty value where it is off.
    fairness: Option<Admitted>,
}

impl Models {
    const fn is_missing(self) -> bool {
        self.model.is_none() || self.target.is_none() || self.response.is_none() || self.fairness.is_none()
    }
}

/// One worker's statistics.
#[derive(Debug)]
pub struct Telemetry {
    ledger: Ledger,
    admission: Admission,
    pool: String,
    rows: Rows,
    waiting: Waiting,
    /// The newest spelling is published.
    has_llm_d: bool,
    /// Models that responses to requests for a model and target named, where it was neither of them.
    response_models: HashMap<(Admitted, Admitted), Vec<Admitted>>,
    attempts: HashMap<(Admitted, EndpointId), [Option<SeriesId>; 2]>,
    picks: HashMap<(EndpointId, Reason), Option<SeriesId>>,
    request_bodies: [Option<SeriesId>; BodyOutcome::ALL.len()],
    response_bodies: [Option<SeriesId>; ResponseOutcome::ALL.len()],
    /// Served requests for names that are not admitted yet.
    pending: Vec<ExchangeRecord>,
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
        let caps = Caps {
            models: config.stats.max_models,
            endpoints: config.stats.max_endpoints,
            fairness_ids: config.stats.max_fairness_ids,
        };
        let ledger = Ledger::new(config.stats);
        Self {
            rows: Rows::new(config, &ledger),
            waiting: Waiting::default(),
            has_llm_d: config.stats.llm_d,
            ledger,
            admission: Admission::new(caps, configured.map(String::as_str)),
            pool: config.pool.clone(),
            prefix_tokens: [None; 2],
            response_models: HashMap::new(),
            attempts: HashMap::new(),
            picks: HashMap::new(),
            request_bodies: [None; BodyOutcome::ALL.len()],
            response_bodies: [None; ResponseOutcome::ALL.len()],
            pending: Vec::new(),
        }
    }

    /// Makes every family of what was measured: the statistics, whole, on their way to the host.
    pub fn derive(&mut self) -> &mut Ledger {
        for (label, count) in [Label::Endpoint, Label::PodName].into_iter().zip(self.admission.take_overflows()) {
            self.count_overflows(label, count);
        }
        self.rows.derive(&mut self.ledger);
        &mut self.ledger
    }

    /// The statistics on their way to the host, without what came since the last [`Self::derive`].
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

    /// What a request runs under.
    #[must_use]
    pub fn running(&self, record: &ExchangeRecord) -> RunningLabels {
        let label = |name: &str| self.admission.find(Subject::Model, name).unwrap_or(Admitted::OTHER);
        let model = label(&record.model);
        let target = if record.target_model == record.model { model } else { label(&record.target_model) };
        let queued = record.queued.as_ref().filter(|_| self.has_llm_d);
        let fairness_id = queued.map(|queued| self.fairness_label(&queued.fairness_id));
        RunningLabels { model, target, priority: record.priority, fairness_id }
    }

    /// Records how long one pick took.
    pub fn record_pick_duration(&mut self, micros: u64) {
        self.sample(Measure::PickDuration, micros);
    }

    /// Records how long one look for requests to send took.
    pub fn record_dispatch_cycle(&mut self, micros: u64) {
        self.sample(Measure::DispatchCycle, micros);
    }

    /// The label of a fairness id.
    #[must_use]
    pub fn fairness_label(&self, id: &str) -> Admitted {
        self.admission.find(Subject::Fairness, id).unwrap_or(Admitted::OTHER)
    }

    /// Counts a request that began or ceased to wait in flow control.
    pub fn note_waiting(&mut self, note: WaitingNote) {
        self.waiting.note(note);
    }

    /// Flows in which requests wait may have labels.
    pub fn propose_waiting(&mut self) {
        let Self { admission, waiting, .. } = self;
        for (key, ..) in waiting.iter() {
            if admission.find(Subject::Fairness, &key.fairness_id).is_none() {
                admission.propose(Subject::Fairness, &key.fairness_id);
            }
        }
    }

    /// What waits in flow control: labels, requests, bytes of their bodies.
    pub fn waiting(&self) -> impl Iterator<Item = WaitingPost> {
        let model = |name: &str| self.admission.find(Subject::Model, name).unwrap_or(Admitted::OTHER);
        self.waiting.iter().map(move |(key, requests, bytes)| {
            let (model, target) = (model(&key.model), model(&key.target));
            let running = RunningLabels { model, target, priority: key.priority, fairness_id: None };
            WaitingPost::of(self.fairness_label(&key.fairness_id), running, requests, bytes)
        })
    }

    /// Records what the filter took for one request.
    pub fn record_filter_time(&mut self, time: &FilterTime) {
        for (phase, measure) in Phase::ALL.into_iter().zip(Measure::FILTER_TIMES) {
            if let Some(micros) = time.micros(phase) {
                self.sample(measure, micros);
            }
        }
        let response = [Phase::ResponseHeaders, Phase::ResponseBody].map(|phase| time.micros(phase));
        if response.iter().any(Option::is_some) {
            self.sample(Measure::ResponseProcessing, response.into_iter().flatten().sum());
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
        let models = self.labels(&record);
        let is_missing = models.is_missing() || self.lacks_address(&record);
        if is_missing && record.is_served() && self.pending.len() < MAX_PENDING {
            self.admission.propose(Subject::Model, &record.model);
            self.admission.propose(Subject::Model, &record.target_model);
            if let Some(model) = &record.response_model {
                self.admission.propose(Subject::Model, model);
            }
            if let Some(queued) = &record.queued {
                self.admission.propose(Subject::Fairness, &queued.fairness_id);
            }
            if let Some(Served { address, endpoint: None, .. }) = record.served {
                self.admission.propose(Subject::Endpoint, &address.to_string());
            }
            self.pending.push(*record);
        } else {
            self.count(pool, &record, models);
        }
    }

    /// Counts what waited: the names were admitted, or will not be.
    pub fn settle_pending(&mut self, pool: &Pool) {
        for record in core::mem::take(&mut self.pending) {
            let models = self.labels(&record);
            self.count(pool, &record, models);
        }
    }

    /// The labels of a record, as far as they are admitted.
    fn labels(&self, record: &ExchangeRecord) -> Models {
        let find = |name: &str| self.admission.find(Subject::Model, name);
        let model = find(&record.model);
        let target = if record.target_model == record.model { model } else { find(&record.target_model) };
        let response = match record.response_model.as_deref() {
            None => Some(Admitted::NONE),
            Some(name) if name == record.target_model => target,
            Some(name) => find(name),
        };
        let fairness = match &record.queued {
            None => Some(Admitted::NONE),
            Some(queued) => self.admission.find(Subject::Fairness, &queued.fairness_id),
        };
        Models { model, target, response, fairness }
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
        let target = models.target.unwrap_or(Admitted::OTHER);
        if let Some(outcome) = record.request.outcome {
            let Self { request_bodies, ledger, .. } = self;
            count_one_of(request_bodies, outcome as usize, ledger, Stat::RequestBodiesTotal, outcome.as_str());
        }
        self.count_pick(pool, record, target);
        if let Some(ResponseSummary { outcome, .. }) = record.response {
            let Self { response_bodies, ledger, .. } = self;
            count_one_of(response_bodies, outcome as usize, ledger, Stat::ResponseBodiesTotal, outcome.as_str());
        }
        self.measure_queueing(record, models);
        if record.api.is_none() {
            let outcome = match record.end {
                End::Complete => "complete",
                End::Failed(code) => code.as_str(),
            };
            self.ledger.count(Stat::LoadOnlyRequestsTotal, &[outcome]);
            return;
        }
        let model = models.model.unwrap_or(Admitted::OTHER);
        if let Some(rule) = &record.rewrite_rule {
            let [model, target] = [model, target].map(|name| self.admission.text(Subject::Model, name));
            for stat in [Stat::ModelRewriteDecisionsTotal, Stat::LlmDModelRewriteDecisionsTotal] {
                self.ledger.count(stat, &[rule, model, target]);
            }
        }
        self.count_name_overflows(record, models);
        let response = self.response_model(model, target, models.response.unwrap_or(Admitted::OTHER));
        let key = RowKey {
            model,
            target,
            response,
            api: record.api,
            priority: record.priority,
            streamed: record.response.is_some_and(|response| response.streamed),
            // Only the newest spelling tells requests apart by it.
            flow: match (&record.queued, self.has_llm_d) {
                (Some(_), true) => Flow::Of(models.fairness.unwrap_or(Admitted::OTHER)),
                _ => Flow::Off,
            },
        };
        self.measure(record, key);
    }

    /// The label of the model that a response names, of which there are only so many for each model.
    fn response_model(&mut self, model: Admitted, target: Admitted, response: Admitted) -> Admitted {
        if [target, model, Admitted::NONE, Admitted::OTHER].contains(&response) {
            return response;
        }
        let known = self.response_models.entry((model, target)).or_default();
        if known.contains(&response) {
            response
        } else if known.len() < MAX_RESPONSE_MODELS {
            known.push(response);
            response
        } else {
            self.count_overflows(Label::GenAiResponseModel, 1);
            Admitted::OTHER
        }
    }

    /// Counts names that would have had a label if there were a place for one.
    fn count_name_overflows(&mut self, record: &ExchangeRecord, models: Models) {
        let is_other = |label: Option<Admitted>, name: &str| label == Some(Admitted::OTHER) && name != OTHER;
        let response = record.response_model.as_deref().unwrap_or(OTHER);
        let (model, target) = (record.model.as_str(), record.target_model.as_str());
        let overflown = [
            (Label::ModelName, is_other(models.model, model)),
            (Label::TargetModelName, target != model && is_other(models.target, target)),
            (Label::GenAiResponseModel, response != target && is_other(models.response, response)),
            (
                Label::FairnessId,
                record.queued.as_ref().is_some_and(|queued| is_other(models.fairness, &queued.fairness_id)),
            ),
        ];
        if overflown.iter().any(|(_, is_overflown)| *is_overflown) && record.is_served() {
            for (label, is_overflown) in overflown {
                self.count_overflows(label, u64::from(is_overflown));
            }
        }
    }

    fn count_overflows(&mut self, label: Label, count: u64) {
        if count > 0 {
            self.ledger.add(Stat::LabelOverflowsTotal, &[label.as_str()], count);
        }
    }

    fn count_pick(&mut self, pool: &Pool, record: &ExchangeRecord, target: Admitted) {
        match record.pick {
            Pick::None => {}
            Pick::NoEndpoint => {
                let target = self.admission.text(Subject::Model, target);
                for stat in ATTEMPTS {
                    self.ledger.count(stat, &["failure", target, "", "", ""]);
                }
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
                self.add(series);
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
        if let Some(millionths) = (known * 1_000_000).checked_div(prompt) {
            self.sample(Measure::HitRatio, millionths);
            self.sample(Measure::HitBytes, u64::from(forecast.matched_bytes));
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

    fn measure(&mut self, record: &ExchangeRecord, key: RowKey) {
        self.measure_prediction(record);
        let Self { ledger, admission, rows, .. } = self;
        let row = rows.find(key);
        let times = &record.times;
        let duration = times.ended.micros_since(times.started);
        let complete = record.response.filter(|response| response.complete);
        let ending = Ending {
            failure: match record.end {
                End::Complete => None,
                End::Failed(code) => ErrorType::of_record(record).map(|kind| (code, kind)),
            },
            is_complete: complete.is_some(),
            is_sent: times.sent.is_some(),
        };
        rows.sample_duration(row, ending, duration, ledger, admission);
        let processed = times.sent.unwrap_or(times.ended).micros_since(times.started);
        rows.sample(RowId::COMMON, Measure::RequestProcessing, processed, ledger, admission);
        let mut sample = |measure, value| rows.sample(row, measure, value, ledger, admission);
        if record.request.bytes > 0 {
            sample(Measure::RequestSize, record.request.bytes);
        }
        let Some(response) = complete else { return };
        sample(Measure::ResponseSize, response.bytes);
        let usage = &response.usage;
        // A count of 0 says that there was nothing of the kind (no output of an embedding), not that a sample of 0 was taken.
        if let Some(tokens) = usage.prompt_tokens.filter(|&tokens| tokens > 0) {
            sample(Measure::InputTokens, tokens);
        }
        if let Some(tokens) = usage.cached_tokens {
            sample(Measure::CachedTokens, tokens);
        }
        if let Some(tokens) = usage.reasoning_tokens {
            sample(Measure::ReasoningTokens, tokens);
        }
        if let Some(intervals) = &record.intervals {
            let (counts, sum) = intervals.samples();
            if let Some(accumulator) = rows.accumulator(row, Measure::InterTokenTime, ledger, admission) {
                accumulator.add(counts, sum);
            }
        }
        let mut sample = |measure, value| rows.sample(row, measure, value, ledger, admission);
        let generated = usage.completion_tokens.filter(|&tokens| tokens > 0);
        if let Some(tokens) = generated {
            sample(Measure::OutputTokens, tokens);
            sample(Measure::NormalizedTime, duration / tokens);
        }
        if let (true, Some(first), Some(last)) = (response.streamed, times.first_content, times.last_content) {
            sample(Measure::TimeToFirstToken, first.micros_since(times.started));
            if let Some(tokens) = generated.filter(|&tokens| tokens > 1) {
                sample(Measure::TimePerOutputToken, last.micros_since(first) / (tokens - 1));
            }
        }
    }

    /// What a request's time in flow control was.
    fn measure_queueing(&mut self, record: &ExchangeRecord, models: Models) {
        let Some(queued) = &record.queued else { return };
        // Only the newest spelling names the models.
        let model = |label: Option<Admitted>| match self.has_llm_d {
            true => label.unwrap_or(Admitted::OTHER),
            false => Admitted::NONE,
        };
        let key = RowKey {
            model: model(models.model),
            target: model(models.target),
            priority: queued.priority,
            flow: Flow::Queue(models.fairness.unwrap_or(Admitted::OTHER), queued.outcome),
            ..RowKey::COMMON
        };
        let Self { ledger, admission, rows, .. } = self;
        let row = rows.find(key);
        rows.sample(row, Measure::QueueTime, queued.waited_micros, ledger, admission);
        rows.sample(row, Measure::EnqueueTime, queued.enqueue_micros, ledger, admission);
    }

    /// How much longer the first token took than the pick predicted, where the first endpoint that was tried served it.
    fn measure_prediction(&mut self, record: &ExchangeRecord) {
        let times = &record.times;
        let Some((first, sent)) = times.first_content.zip(times.whole.or(times.sent)) else { return };
        if record.failed.iter().any(Option::is_some) {
            return;
        }
        let predicted = u64::from(record.forecast(record.served.and_then(|served| served.endpoint)).ttft_micros);
        if let Some(ratio) = first.micros_since(sent).saturating_mul(1_000_000).checked_div(predicted) {
            self.sample(Measure::TtftRatio, ratio);
        }
    }

    /// Takes a sample of what is measured of all requests together.
    fn sample(&mut self, measure: Measure, value: u64) {
        let Self { ledger, admission, rows, .. } = self;
        rows.sample(RowId::COMMON, measure, value, ledger, admission);
    }

    fn attempt_series(&mut self, pool: &Pool, target: Admitted, id: EndpointId) -> [Option<SeriesId>; 2] {
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
        ATTEMPTS.map(|stat| self.ledger.labelled(stat, &["success", target, pod, namespace, port]))
    }

    fn endpoint_label(&self, pool: &Pool, id: EndpointId) -> String {
        let label =
            pool.endpoint(id).and_then(|endpoint| self.admission.find(Subject::Endpoint, endpoint.destination()));
        self.admission.text(Subject::Endpoint, label.unwrap_or(Admitted::OTHER)).to_string()
    }

    fn add<const N: usize>(&mut self, series: [Option<SeriesId>; N]) {
        for id in series.into_iter().flatten() {
            self.ledger.add_to(id, 1);
        }
    }
}

/// Counts one of a fixed set of outcomes, whose series are found once.
fn count_one_of(series: &mut [Option<SeriesId>], place: usize, ledger: &mut Ledger, stat: Stat, outcome: &'static str) {
    let Some(known) = series.get_mut(place) else { return };
    if known.is_none() {
        *known = ledger.labelled(stat, &[outcome]);
    }
    if let Some(id) = *known {
        ledger.add_to(id, 1);
    }
}

#[cfg(test)]
mod tests;
