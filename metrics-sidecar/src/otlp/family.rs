//! One family of the page as one metric. Pure.

use std::collections::HashMap;

use catalogue::Publisher;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum, Summary,
    SummaryDataPoint,
};

use super::starts::{Counting, StreamStarts};
use crate::exposition::Sample;
use crate::page::OWN_PREFIX;

/// Units by what names end with, as UCUM spells them. Only units that the name has already are given: readers that put the unit into a
/// Prometheus name then leave it as it is.
const UNITS: [(&str, &str); 7] = [
    ("_seconds", "s"),
    ("_milliseconds", "ms"),
    ("_microseconds", "us"),
    ("_bytes", "By"),
    ("_ratio", "1"),
    ("_percent", "%"),
    ("_tokens", "{token}"),
];

/// The largest whole number up to which a float skips none.
const LARGEST_WHOLE: f64 = 9_007_199_254_740_992.0;

/// What a family's points are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum PointKind {
    Counter,
    /// A family without a type is one too, since its values may go anywhere.
    Gauge,
    Histogram,
    Summary,
}

/// What a line adds to a point.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum LinePart {
    Value,
    /// Of a histogram, with the label `le`.
    Bucket,
    /// Of a summary, with the label `quantile`.
    Quantile,
    Sum,
    Count,
}

/// A family while its lines come.
#[derive(Debug)]
pub(crate) struct PageFamily {
    name: String,
    help: String,
    kind: PointKind,
    rows: Vec<PointRow>,
    /// Which of these a label set is.
    places: HashMap<Box<[u8]>, usize>,
    key: Vec<u8>,
    unreadable: u64,
}

/// One label set.
#[derive(Debug, Default)]
struct PointRow {
    key: Box<[u8]>,
    attributes: Vec<KeyValue>,
    value: Option<Value>,
    /// Bounds and the samples up to them, or quantiles and their values.
    bounded: Vec<(f64, f64)>,
    sum: Option<f64>,
    count: Option<u64>,
}

impl PageFamily {
    /// A family of that name, and no more known of it.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            help: String::new(),
            kind: PointKind::Gauge,
            rows: Vec::new(),
            places: HashMap::new(),
            key: Vec::new(),
            unreadable: 0,
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Takes the text behind `# HELP NAME`.
    pub(crate) fn describe(&mut self, help: &str) {
        self.help.clear();
        let mut characters = help.chars();
        while let Some(character) = characters.next() {
            match (character, if character == '\\' { characters.clone().next() } else { None }) {
                ('\\', Some(escaped @ ('\\' | 'n'))) => {
                    self.help.push(if escaped == 'n' { '\n' } else { '\\' });
                    characters.next();
                }
                _ => self.help.push(character),
            }
        }
    }

    /// Takes the word behind `# TYPE NAME`.
    pub(crate) fn set_kind(&mut self, word: &str) {
        self.kind = match word {
            "counter" => PointKind::Counter,
            "histogram" => PointKind::Histogram,
            "summary" => PointKind::Summary,
            _ => PointKind::Gauge,
        };
    }

    /// Takes a sample, of which `rest` is what follows its name; false: it is of another family.
    pub(crate) fn add(&mut self, name: &str, rest: &[u8]) -> bool {
        let Some(suffix) = name.strip_prefix(self.name.as_str()) else { return false };
        let part = match (self.kind, suffix) {
            (PointKind::Counter | PointKind::Gauge, "") => LinePart::Value,
            (PointKind::Summary, "") => LinePart::Quantile,
            (PointKind::Histogram, "_bucket") => LinePart::Bucket,
            (PointKind::Histogram | PointKind::Summary, "_sum") => LinePart::Sum,
            (PointKind::Histogram | PointKind::Summary, "_count") => LinePart::Count,
            _ => return false,
        };
        if self.take(part, rest).is_none() {
            self.unreadable += 1;
        }
        true
    }

    fn take(&mut self, part: LinePart, rest: &[u8]) -> Option<()> {
        let sample = Sample::split(rest).ok()?;
        let bound_label: &[u8] = match part {
            LinePart::Bucket => b"le",
            LinePart::Quantile => b"quantile",
            LinePart::Value | LinePart::Sum | LinePart::Count => b"",
        };
        let mut labels = sample.labels().collect::<Result<Vec<_>, _>>().ok()?;
        labels.sort_by_key(|label| label.name);
        self.key.clear();
        let mut bound = None;
        for label in &labels {
            if label.name == bound_label {
                bound = label.value().ok()?.parse::<f64>().ok();
                continue;
            }
            self.key.extend_from_slice(label.name);
            self.key.extend_from_slice(b"=\"");
            self.key.extend_from_slice(label.raw);
            self.key.extend_from_slice(b"\",");
        }
        let at = match self.places.get(self.key.as_slice()) {
            Some(at) => *at,
            None => {
                let mut attributes = Vec::with_capacity(labels.len());
                for label in labels.iter().filter(|label| label.name != bound_label) {
                    let key = str::from_utf8(label.name).ok()?;
                    attributes.push(attribute(key, &label.value().ok()?));
                }
                let key: Box<[u8]> = self.key.as_slice().into();
                self.places.insert(key.clone(), self.rows.len());
                self.rows.push(PointRow { key, attributes, ..PointRow::default() });
                self.rows.len() - 1
            }
        };
        let row = self.rows.get_mut(at)?;
        let value = sample.value().ok()?;
        match part {
            LinePart::Value => {
                let word = sample.tail.split(u8::is_ascii_whitespace).next().unwrap_or_default();
                let whole = str::from_utf8(word).ok().and_then(|word| word.parse::<i64>().ok());
                // Of a series that is there twice the first counts.
                row.value.get_or_insert(whole.map_or(Value::AsDouble(value), Value::AsInt));
            }
            LinePart::Bucket | LinePart::Quantile => row.bounded.push((bound.filter(|bound| !bound.is_nan())?, value)),
            LinePart::Sum => {
                row.sum.get_or_insert(value);
            }
            LinePart::Count => {
                row.count.get_or_insert(whole(value)?);
            }
        }
        Some(())
    }

    /// The metric, and how many samples or label sets of the page are not in it since they cannot be read. `None`: it has no points.
    pub(crate) fn finish(self, time: u64, starts: &mut StreamStarts) -> (Option<Metric>, u64) {
        let Self { name, help, kind, rows, mut unreadable, .. } = self;
        let counting = counting(&name);
        let found = rows.len();
        let mut start = |key: &[u8], value: f64| starts.of(counting, &name, key, value);
        let cumulative = AggregationTemporality::Cumulative.into();
        let (points, data) = match kind {
            PointKind::Gauge => {
                let data_points: Vec<_> = rows.into_iter().filter_map(|row| row.number(time, |_, _| 0)).collect();
                (data_points.len(), Data::Gauge(Gauge { data_points }))
            }
            PointKind::Counter => {
                let fit = |row: &PointRow| row.value.is_some_and(|value| float(value) >= 0.0);
                let rows = rows.into_iter().filter(fit);
                let data_points: Vec<_> = rows.filter_map(|row| row.number(time, &mut start)).collect();
                let sum = Sum { data_points, aggregation_temporality: cumulative, is_monotonic: true };
                (sum.data_points.len(), Data::Sum(sum))
            }
            PointKind::Histogram => {
                let data_points: Vec<_> = rows.into_iter().filter_map(|row| row.histogram(time, &mut start)).collect();
                (data_points.len(), Data::Histogram(Histogram { data_points, aggregation_temporality: cumulative }))
            }
            PointKind::Summary => {
                let data_points: Vec<_> = rows.into_iter().filter_map(|row| row.summary(time, &mut start)).collect();
                (data_points.len(), Data::Summary(Summary { data_points }))
            }
        };
        // A line that could not be read has perhaps left a label set without a value: it counts once.
        unreadable = unreadable.max(u64::try_from(found - points).unwrap_or(u64::MAX));
        let unit = unit(&name).to_owned();
        let metric = Metric { name, description: help, unit, metadata: Vec::new(), data: Some(data) };
        ((points > 0).then_some(metric), unreadable)
    }
}

impl PointRow {
    fn number(self, time: u64, start: impl FnOnce(&[u8], f64) -> u64) -> Option<NumberDataPoint> {
        let value = self.value?;
        Some(NumberDataPoint {
            start_time_unix_nano: start(&self.key, float(value)),
            attributes: self.attributes,
            time_unix_nano: time,
            value: Some(value),
            ..NumberDataPoint::default()
        })
    }

    fn histogram(self, time: u64, start: impl FnOnce(&[u8], f64) -> u64) -> Option<HistogramDataPoint> {
        let Self { key, attributes, mut bounded, sum, count, .. } = self;
        bounded.sort_by(|(left, _), (right, _)| left.total_cmp(right));
        bounded.dedup_by(|(later, _), (earlier, _)| later == earlier);
        let all = bounded.pop_if(|(bound, _)| *bound == f64::INFINITY);
        let count = match all {
            Some((_, all)) => whole(all)?,
            None => count?,
        };
        // As on the page, a sample counts once every larger bucket has it.
        let mut at_most = count;
        let mut totals = Vec::with_capacity(bounded.len());
        for (_, total) in bounded.iter().rev() {
            at_most = at_most.min(whole(*total)?);
            totals.push(at_most);
        }
        let mut below = 0;
        let bucket_counts =
            totals.into_iter().rev().chain([count]).map(|total| total - std::mem::replace(&mut below, total));
        #[allow(clippy::cast_precision_loss, reason = "whether it fell is seen in a rounded count too")]
        let start_time_unix_nano = start(&key, count as f64);
        Some(HistogramDataPoint {
            start_time_unix_nano,
            attributes,
            time_unix_nano: time,
            count,
            sum: sum.filter(|sum| sum.is_finite()),
            bucket_counts: bucket_counts.collect(),
            explicit_bounds: bounded.iter().map(|(bound, _)| *bound).collect(),
            ..HistogramDataPoint::default()
        })
    }

    fn summary(self, time: u64, start: impl FnOnce(&[u8], f64) -> u64) -> Option<SummaryDataPoint> {
        let (count, sum) = (self.count?, self.sum?);
        let mut quantiles = self.bounded;
        quantiles.retain(|(quantile, value)| (0.0..=1.0).contains(quantile) && !value.is_nan());
        quantiles.sort_by(|(left, _), (right, _)| left.total_cmp(right));
        quantiles.dedup_by(|(later, _), (earlier, _)| later == earlier);
        #[allow(clippy::cast_precision_loss, reason = "whether it fell is seen in a rounded count too")]
        let start_time_unix_nano = start(&self.key, count as f64);
        Some(SummaryDataPoint {
            start_time_unix_nano,
            attributes: self.attributes,
            time_unix_nano: time,
            count,
            sum,
            quantile_values: quantiles
                .into_iter()
                .map(|(quantile, value)| ValueAtQuantile { quantile, value })
                .collect(),
            flags: 0,
        })
    }
}

/// An attribute with a text.
pub(crate) fn attribute(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

/// Who counts a family: as on the page, the sidecar's own word stands where both publish it.
fn counting(name: &str) -> Counting {
    let is_own = |family: &catalogue::Family| family.publisher != Publisher::Envoy;
    if name.starts_with(OWN_PREFIX) || catalogue::find(name).is_some_and(is_own) {
        Counting::Sidecar
    } else {
        Counting::Envoy
    }
}

/// The unit that a name ends with, `_total` aside; empty without one.
fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    UNITS.iter().find(|(suffix, _)| name.ends_with(suffix)).map_or("", |(_, unit)| unit)
}

#[allow(clippy::cast_precision_loss, reason = "whether it fell is seen in a rounded value too")]
fn float(value: Value) -> f64 {
    match value {
        Value::AsDouble(value) => value,
        Value::AsInt(value) => value as f64,
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is whole and within bounds")]
fn whole(value: f64) -> Option<u64> {
    ((0.0..=LARGEST_WHOLE).contains(&value) && value.fract() == 0.0).then_some(value as u64)
}
