//! The accumulators of requests whose labels are the same, and how the labels of each family follow from them.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use catalogue::{Kind, Label};
use hashbrown::HashMap;

use super::measure::{Ending, Measure, Takes};
use crate::admission::{Admission, Admitted, Subject};
use crate::config::Config;
use crate::filter_time::Phase;
use crate::flow_control::QueueOutcome;
use crate::ledger::{Accumulator, Ledger, Limits};
use crate::openai::Api;

/// The flow of every request while flow control is off, as the picker whose spelling it is names it.
pub(crate) const FAIRNESS_ID: &str = "default-flow";
/// What that picker calls the plugin that its dashboards know the prefix index by.
pub(crate) const PREFIX_PLUGIN: &str = "approx-prefix-cache-producer";

/// What flow control says of a request.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Flow {
    /// Nothing: it is off.
    Off,
    /// The request is of that fairness id.
    Of(Admitted),
    /// The same, and it is its waiting that is measured, which ended so.
    Queue(Admitted, QueueOutcome),
}

/// What the labels of a request are made of.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct RowKey {
    pub(super) model: Admitted,
    pub(super) target: Admitted,
    /// The model that the response names.
    pub(super) response: Admitted,
    pub(super) api: Option<Api>,
    pub(super) priority: i64,
    pub(super) streamed: bool,
    pub(super) flow: Flow,
}

impl RowKey {
    /// What is measured of all requests together.
    pub(super) const COMMON: Self = Self {
        model: Admitted::NONE,
        target: Admitted::NONE,
        response: Admitted::NONE,
        api: None,
        priority: 0,
        streamed: false,
        flow: Flow::Off,
    };
}

/// A row: one for each key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct RowId(usize);

impl RowId {
    /// That of all requests together.
    pub(super) const COMMON: Self = Self(0);
}

#[derive(Debug)]
struct Row {
    key: RowKey,
    cells: [Option<Box<Accumulator>>; Measure::COUNT],
    /// Durations of requests that were not served.
    unserved: Vec<(Ending, Accumulator)>,
    is_dirty: bool,
}

impl Row {
    fn new(key: RowKey) -> Self {
        Self { key, cells: [const { None }; Measure::COUNT], unserved: Vec::new(), is_dirty: false }
    }
}

/// All rows of one worker.
#[derive(Debug)]
pub(super) struct Rows {
    rows: Vec<Row>,
    by_key: HashMap<RowKey, RowId>,
    /// The row that was found last: most requests are like the one before.
    last: RowId,
    dirty: Vec<RowId>,
    /// `None`: no family that shows the measure is published.
    limits: [Option<Arc<Limits>>; Measure::COUNT],
    pool: String,
    provider: String,
}

impl Rows {
    pub(super) fn new(config: &Config, ledger: &Ledger) -> Self {
        let mut limits = [const { None }; Measure::COUNT];
        for (place, measure) in limits.iter_mut().zip(Measure::ALL) {
            let published = || measure.spellings().iter().filter(|spelling| ledger.is_on(spelling.stat));
            if published().next().is_some() {
                let bounds = published().filter_map(|spelling| match spelling.stat.family().kind {
                    Kind::Histogram(bounds) => Some(bounds),
                    Kind::Counter | Kind::Gauge | Kind::Ratio => None,
                });
                *place = Some(Arc::new(Limits::of(bounds)));
            }
        }
        Self {
            rows: alloc::vec![Row::new(RowKey::COMMON)],
            by_key: HashMap::new(),
            last: RowId::COMMON,
            dirty: Vec::new(),
            limits,
            pool: config.pool.clone(),
            provider: config.gen_ai_provider.clone(),
        }
    }

    /// The row of that key.
    pub(super) fn find(&mut self, key: RowKey) -> RowId {
        if self.rows.get(self.last.0).is_some_and(|row| row.key == key) && self.last != RowId::COMMON {
            return self.last;
        }
        let Self { rows, by_key, .. } = self;
        self.last = *by_key.entry(key).or_insert_with(|| {
            rows.push(Row::new(key));
            RowId(rows.len() - 1)
        });
        self.last
    }

    /// Takes one sample.
    pub(super) fn sample(
        &mut self,
        id: RowId,
        measure: Measure,
        value: u64,
        ledger: &mut Ledger,
        admission: &Admission,
    ) {
        if let Some(accumulator) = self.accumulator(id, measure, ledger, admission) {
            accumulator.record(value);
        }
    }

    /// The accumulator of a measure, which is to take a sample; `None`: no family shows it.
    pub(super) fn accumulator(
        &mut self,
        id: RowId,
        measure: Measure,
        ledger: &mut Ledger,
        admission: &Admission,
    ) -> Option<&mut Accumulator> {
        let Self { rows, limits, dirty, pool, provider, .. } = self;
        let row = rows.get_mut(id.0)?;
        let cell = row.cells.get_mut(measure as usize)?;
        if cell.is_none() {
            let limits = limits.get(measure as usize)?.as_ref()?;
            let names = Names { pool, provider, admission };
            *cell = Some(Box::new(names.accumulator(limits, row.key, measure, Ending::SERVED, ledger)));
        }
        if !row.is_dirty {
            row.is_dirty = true;
            dirty.push(id);
        }
        cell.as_deref_mut()
    }

    /// Takes the duration of a request that ended so.
    pub(super) fn sample_duration(
        &mut self,
        id: RowId,
        ending: Ending,
        micros: u64,
        ledger: &mut Ledger,
        admission: &Admission,
    ) {
        if ending == Ending::SERVED {
            return self.sample(id, Measure::Duration, micros, ledger, admission);
        }
        let Self { rows, limits, dirty, pool, provider, .. } = self;
        let Some(row) = rows.get_mut(id.0) else { return };
        let place = match row.unserved.iter().position(|(other, _)| *other == ending) {
            Some(place) => place,
            None => {
                let names = Names { pool, provider, admission };
                let Some(Some(limits)) = limits.get(Measure::Duration as usize) else { return };
                let accumulator = names.accumulator(limits, row.key, Measure::Duration, ending, ledger);
                row.unserved.push((ending, accumulator));
                row.unserved.len() - 1
            }
        };
        if let Some((_, accumulator)) = row.unserved.get_mut(place) {
            accumulator.record(micros);
        }
        if !row.is_dirty {
            row.is_dirty = true;
            dirty.push(id);
        }
    }

    /// Gives what came to the series of every family.
    pub(super) fn derive(&mut self, ledger: &mut Ledger) {
        for id in self.dirty.drain(..) {
            let Some(row) = self.rows.get_mut(id.0) else { continue };
            row.is_dirty = false;
            let cells = row.cells.iter_mut().flatten().map(Box::as_mut);
            for accumulator in cells.chain(row.unserved.iter_mut().map(|(_, accumulator)| accumulator)) {
                ledger.absorb(accumulator);
            }
        }
    }
}

/// What labels say.
#[derive(Clone, Copy)]
struct Names<'a> {
    pool: &'a str,
    provider: &'a str,
    admission: &'a Admission,
}

impl<'a> Names<'a> {
    /// An accumulator that gives to every family that shows the measure of requests that end so.
    fn accumulator(
        self,
        limits: &Arc<Limits>,
        key: RowKey,
        measure: Measure,
        ending: Ending,
        ledger: &mut Ledger,
    ) -> Accumulator {
        let mut accumulator = Accumulator::new(Arc::clone(limits));
        for spelling in measure.spellings().iter().filter(|spelling| ending.is(spelling.of, key.streamed)) {
            let family = spelling.stat.family();
            let texts: Vec<_> = family.labels.iter().map(|&label| self.text(label, key, measure, ending)).collect();
            let texts: Vec<&str> = texts.iter().map(Cow::as_ref).collect();
            let Some(series) = ledger.labelled(spelling.stat, &texts) else { continue };
            match (spelling.takes, family.kind) {
                (Takes::Samples, Kind::Histogram(bounds)) => accumulator.give_samples(series, bounds),
                (Takes::Number, _) => accumulator.give_number(series),
                (Takes::Sum, _) => accumulator.give_sum(series),
                (Takes::Samples, Kind::Counter | Kind::Gauge | Kind::Ratio) => {}
            }
        }
        accumulator
    }

    fn text(self, label: Label, key: RowKey, measure: Measure, ending: Ending) -> Cow<'a, str> {
        let model = |model| self.admission.text(Subject::Model, model);
        Cow::Borrowed(match label {
            Label::ModelName | Label::GenAiRequestModel => model(key.model),
            Label::TargetModelName => model(key.target),
            Label::GenAiResponseModel => model(key.response),
            Label::Priority => return Cow::Owned(key.priority.to_string()),
            Label::ErrorCode => ending.failure.map_or("", |(code, _)| code.as_str()),
            Label::ErrorType => ending.failure.map_or("", |(_, kind)| kind.as_str()),
            Label::FairnessId => match key.flow {
                Flow::Off => FAIRNESS_ID,
                Flow::Of(id) | Flow::Queue(id, _) => self.admission.text(Subject::Fairness, id),
            },
            Label::Outcome => match key.flow {
                Flow::Queue(_, outcome) => outcome.label(),
                Flow::Off | Flow::Of(_) => "",
            },
            Label::InferencePool => self.pool,
            Label::Streaming if key.streamed => "true",
            Label::Streaming => "false",
            Label::GenAiOperationName => key.api.map_or("", Api::operation),
            Label::GenAiProviderName => self.provider,
            Label::GenAiTokenType if measure == Measure::InputTokens => "input",
            Label::GenAiTokenType => "output",
            Label::PluginName | Label::PluginType => PREFIX_PLUGIN,
            Label::Pool => self.pool,
            Label::Phase => measure.phase().map_or("", Phase::as_str),
            _ => "",
        })
    }
}
