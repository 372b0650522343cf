//! Series of catalogued families, gathered from the lines of Envoy's page and printed as Prometheus wants them. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use catalogue::{Bounds, Kind, SUM_MICROSECONDS_SUFFIX, Scale, Stat};

use crate::exposition::{LabelPair, Sample, split_name};

/// What a line of a catalogued family is to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Part {
    Value,
    Bucket(Bounds),
    Sum,
    SumMicroseconds,
    Count,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Index into [`Stat::ALL`].
    pub(crate) stat: usize,
    pub(crate) part: Part,
}

/// One label set of a histogram, as far as Envoy has it.
#[derive(Debug, Default)]
struct Histogram {
    /// One a bound, and `+Inf`.
    buckets: Vec<Option<u64>>,
    sum: Option<Vec<u8>>,
    sum_microseconds: Option<u64>,
    count: Option<u64>,
}

/// Series of one catalogued family by their label set, which sorts them.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    histograms: BTreeMap<Vec<u8>, Histogram>,
}

/// Where lines of catalogued families belong, by the name at their start.
pub(crate) fn places() -> &'static HashMap<&'static [u8], Place> {
    static PLACES: OnceLock<HashMap<&'static [u8], Place>> = OnceLock::new();
    PLACES.get_or_init(|| {
        let mut places: HashMap<&'static [u8], Place> = HashMap::new();
        for (stat, family) in Stat::ALL.iter().map(|stat| stat.family()).enumerate() {
            let mut add = |name: String, part: Part| {
                places.insert(Box::leak(name.into_boxed_str()).as_bytes(), Place { stat, part });
            };
            match family.kind {
                Kind::Counter | Kind::Gauge => add(family.name.to_owned(), Part::Value),
                Kind::Histogram(bounds) => {
                    // The bare name carries no sample; it stands in headers of Envoy's own kind of histogram.
                    add(family.name.to_owned(), Part::Value);
                    add(format!("{}_bucket", family.name), Part::Bucket(bounds));
                    add(format!("{}_sum", family.name), Part::Sum);
                    add(format!("{}_count", family.name), Part::Count);
                    if bounds.scale == Scale::Microseconds {
                        add(format!("{}{SUM_MICROSECONDS_SUFFIX}", family.name), Part::SumMicroseconds);
                    }
                }
            }
        }
        places
    })
}

impl Gathered {
    /// Takes a line; one that cannot be read is dropped, since half a series is worth less than none.
    pub(crate) fn add(&mut self, part: Part, line: &[u8]) {
        let (_, rest) = split_name(line);
        let Ok(sample) = Sample::split(rest) else { return };
        let Ok(mut labels) = sample.labels().collect::<Result<Vec<_>, _>>() else { return };
        labels.sort_by_key(|label| label.name);
        let is_twice = labels.array_windows().any(|[left, right]| left.name == right.name);
        if is_twice || !labels.iter().all(is_label) || sample.value().is_err() {
            return;
        }
        // Behind the value there may be a timestamp, which says nothing here.
        let value = sample.tail.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        let bound = labels.iter().find(|label| label.name == b"le").map(|label| label.raw);
        let mut key = Vec::with_capacity(sample.labels.len());
        for label in labels.iter().filter(|label| !(matches!(part, Part::Bucket(_)) && label.name == b"le")) {
            if !key.is_empty() {
                key.push(b',');
            }
            key.extend_from_slice(label.name);
            key.extend_from_slice(b"=\"");
            key.extend_from_slice(label.raw);
            key.push(b'"');
        }
        let number = || str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok());
        match part {
            Part::Value => {
                self.values.entry(key).or_insert_with(|| value.to_vec());
            }
            Part::Bucket(bounds) => {
                let last = bounds.le().count();
                let index = match bound {
                    Some(b"+Inf") => Some(last),
                    Some(bound) => bounds.le().position(|le| le.as_bytes() == bound),
                    None => None,
                };
                let buckets = &mut self.histograms.entry(key).or_default().buckets;
                buckets.resize(last + 1, None);
                if let Some(bucket) = index.and_then(|index| buckets.get_mut(index)) {
                    *bucket = bucket.or_else(number);
                }
            }
            Part::Sum => {
                let sum = &mut self.histograms.entry(key).or_default().sum;
                sum.get_or_insert_with(|| value.to_vec());
            }
            Part::SumMicroseconds => {
                let sum = &mut self.histograms.entry(key).or_default().sum_microseconds;
                *sum = sum.or_else(number);
            }
            Part::Count => {
                let count = &mut self.histograms.entry(key).or_default().count;
                *count = count.or_else(number);
            }
        }
    }

    /// Its sample lines.
    pub(crate) fn lines(&self, name: &str, kind: Kind) -> Vec<u8> {
        let mut out = Vec::new();
        match kind {
            Kind::Counter | Kind::Gauge => {
                for (labels, value) in &self.values {
                    print_sample(&mut out, name, "", labels, None, value);
                }
            }
            Kind::Histogram(bounds) => {
                for (labels, histogram) in &self.histograms {
                    histogram.print(&mut out, name, bounds, labels);
                }
            }
        }
        out
    }
}

impl Histogram {
    fn print(&self, out: &mut Vec<u8>, name: &str, bounds: Bounds, labels: &[u8]) {
        let sum = match (self.sum_microseconds, &self.sum) {
            (Some(micros), _) => seconds(micros).into_bytes(),
            (None, Some(sum)) => sum.clone(),
            (None, None) => return,
        };
        let Some(count) = self.count else { return };
        let Some(buckets) = self.buckets.iter().copied().collect::<Option<Vec<u64>>>().filter(|all| !all.is_empty())
        else {
            return;
        };
        // Envoy reads its counters while workers add to them, so a page may show a bucket ahead of the next larger one. Each of
        // them only grows, so the running maximum does too, and is never below what was counted.
        let mut least = 0;
        let total = buckets.iter().copied().chain([count]).max().unwrap_or(count);
        for (index, le) in bounds.le().chain(["+Inf"]).enumerate() {
            least = buckets.get(index).copied().unwrap_or(0).max(least);
            let value = if le == "+Inf" { total } else { least };
            print_sample(out, name, "_bucket", labels, Some(le), value.to_string().as_bytes());
        }
        print_sample(out, name, "_sum", labels, None, &sum);
        print_sample(out, name, "_count", labels, None, total.to_string().as_bytes());
    }
}

/// Whether a label may stand on a page.
fn is_label(label: &LabelPair<'_>) -> bool {
    let (first, rest) = label.name.split_first().map_or((b' ', label.name), |(first, rest)| (*first, rest));
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    is_letter(first) && rest.iter().all(|&byte| is_letter(byte) || byte.is_ascii_digit()) && label.value().is_ok()
}

/// Whole microseconds as seconds, exactly.
pub(crate) fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn print_sample(out: &mut Vec<u8>, name: &str, suffix: &str, labels: &[u8], le: Option<&str>, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(suffix.as_bytes());
    if !labels.is_empty() || le.is_some() {
        out.push(b'{');
        out.extend_from_slice(labels);
        if let Some(le) = le {
            if !labels.is_empty() {
                out.push(b',');
            }
            out.extend_from_slice(format!("le=\"{le}\"").as_bytes());
        }
        out.push(b'}');
    }
    out.push(b' ');
    out.extend_from_slice(value);
    out.push(b'\n');
}
