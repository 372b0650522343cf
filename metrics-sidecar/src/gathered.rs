//! Series of catalogued families, gathered from lines that come in any order and printed as Prometheus wants them. Pure.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::sync::OnceLock;

use catalogue::{Bounds, Kind, Label, PERMILLE_SUFFIX, Stat};

use crate::exposition::{LabelPair, Sample, escape_into};
use crate::format::Format;

/// What a line of a catalogued family is to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Part {
    Value,
    /// The value in thousandths.
    Permille,
    Bucket(Bounds),
    Sum,
    /// The sum in millionths.
    ExactSum,
    Count,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Index into [`Stat::ALL`].
    pub(crate) stat: usize,
    pub(crate) part: Part,
}

/// A number as it was spelled.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Number {
    Whole(u64),
    Text(Box<[u8]>),
}

/// One label set of a histogram, as far as Envoy has it.
#[derive(Debug, Default)]
struct Histogram {
    /// One a bound, and `+Inf`.
    buckets: Box<[Option<u64>]>,
    sum: Option<Number>,
    exact_sum: Option<u64>,
    count: Option<u64>,
}

/// Series of one catalogued family while lines come.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// By their label set, which sorts them.
    values: BTreeMap<Box<[u8]>, Number>,
    histograms: Vec<(Box<[u8]>, Histogram)>,
    /// Which of these a label set is, as lines spell it. Envoy spells one alike in all lines.
    spelled: HashMap<Box<[u8]>, Option<usize>>,
    /// The same by the label set in order.
    ordered: HashMap<Box<[u8]>, usize>,
    scratch: Vec<u8>,
    /// The bound of the last bucket and its place: Envoy prints those of one bound together.
    bound: Option<(Box<[u8]>, Option<usize>)>,
}

/// Series of one catalogued family, sorted by their label sets.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    values: Vec<(Box<[u8]>, Number)>,
    histograms: Vec<(Box<[u8]>, Histogram)>,
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
                Kind::Ratio => {
                    // The bare name is that of a page which was merged before.
                    add(family.name.to_owned(), Part::Value);
                    add(format!("{}{PERMILLE_SUFFIX}", family.name), Part::Permille);
                }
                Kind::Histogram(bounds) => {
                    // The bare name carries no sample; it stands in headers of Envoy's own kind of histogram.
                    add(family.name.to_owned(), Part::Value);
                    add(format!("{}_bucket", family.name), Part::Bucket(bounds));
                    add(format!("{}_sum", family.name), Part::Sum);
                    add(format!("{}_count", family.name), Part::Count);
                    if let Some(suffix) = bounds.scale.exact_sum_suffix() {
                        add(format!("{}{suffix}", family.name), Part::ExactSum);
                    }
                }
            }
        }
        places
    })
}

impl Gathered {
    /// Takes what follows the name in a line of a Prometheus page; a line that cannot be read is dropped, since half a series is
    /// worth less than none.
    pub(crate) fn add(&mut self, part: Part, rest: &[u8]) {
        let Ok(sample) = Sample::split(rest) else { return };
        // Behind the value there may be a timestamp, which says nothing here.
        let word = sample.tail.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        let Some((part, number)) = Number::read(word).and_then(|number| number.of(part)) else { return };
        if part == Part::Value {
            if let Some(key) = ordered(&sample, false) {
                self.values.entry(key).or_insert(number);
            }
            return;
        }
        let is_bucket = matches!(part, Part::Bucket(_));
        let mut bound = None;
        let mut spelled = std::mem::take(&mut self.scratch);
        spelled.clear();
        for label in sample.labels() {
            match label {
                Ok(label) if is_bucket && label.name == b"le" && bound.is_none() => bound = Some(label.raw),
                Ok(label) => add_label(&mut spelled, label.name, label.raw),
                // The slow path finds the same fault.
                Err(_) => spelled.push(b','),
            }
        }
        let row = match self.spelled.get(spelled.as_slice()) {
            Some(row) => *row,
            None => {
                let row = ordered(&sample, is_bucket).map(|key| self.row(key));
                self.spelled.insert(spelled.as_slice().into(), row);
                row
            }
        };
        self.scratch = spelled;
        if let Some(row) = row {
            self.set(row, part, bound, number);
        }
    }

    /// Takes the parts of a stat name: its labels without `le`, how the name spells them, and the bound of a bucket.
    pub(crate) fn add_stat(
        &mut self,
        part: Part,
        labels: &[(Label, &str)],
        spelled: &str,
        bound: Option<&str>,
        value: &[u8],
    ) {
        let Some((part, number)) = Number::read(value).and_then(|number| number.of(part)) else { return };
        let key = || {
            let mut labels: Vec<(&str, &str)> = labels.iter().map(|(label, value)| (label.as_str(), *value)).collect();
            labels.sort_unstable();
            let mut key = Vec::new();
            let mut escaped = String::new();
            for (name, value) in labels {
                escaped.clear();
                escape_into(&mut escaped, value);
                add_label(&mut key, name.as_bytes(), escaped.as_bytes());
            }
            key.into_boxed_slice()
        };
        if part == Part::Value {
            self.values.entry(key()).or_insert(number);
            return;
        }
        let row = match self.spelled.get(spelled.as_bytes()) {
            Some(row) => *row,
            None => {
                let row = self.row(key());
                self.spelled.insert(spelled.as_bytes().into(), Some(row));
                Some(row)
            }
        };
        if let Some(row) = row {
            self.set(row, part, bound.map(str::as_bytes), number);
        }
    }

    fn row(&mut self, key: Box<[u8]>) -> usize {
        if let Some(row) = self.ordered.get(&key) {
            return *row;
        }
        self.histograms.push((key.clone(), Histogram::default()));
        self.ordered.insert(key, self.histograms.len() - 1);
        self.histograms.len() - 1
    }

    fn set(&mut self, row: usize, part: Part, bound: Option<&[u8]>, number: Number) {
        let Some((_, histogram)) = self.histograms.get_mut(row) else { return };
        match part {
            Part::Value | Part::Permille => {}
            Part::Bucket(bounds) => {
                let Some(bound) = bound else { return };
                let index = match &self.bound {
                    Some((last, index)) if **last == *bound => *index,
                    _ => {
                        let index = bounds.le().chain(["+Inf"]).position(|le| le.as_bytes() == bound);
                        self.bound = Some((bound.into(), index));
                        index
                    }
                };
                if histogram.buckets.is_empty() {
                    histogram.buckets = vec![None; bounds.le().count() + 1].into();
                }
                if let Some(bucket) = index.and_then(|index| histogram.buckets.get_mut(index)) {
                    *bucket = bucket.or(number.whole());
                }
            }
            Part::Sum => {
                histogram.sum.get_or_insert(number);
            }
            Part::ExactSum => histogram.exact_sum = histogram.exact_sum.or(number.whole()),
            Part::Count => histogram.count = histogram.count.or(number.whole()),
        }
    }

    /// No more lines come.
    pub(crate) fn finish(self) -> Rows {
        let mut histograms = self.histograms;
        histograms.retain(|(_, histogram)| histogram.is_whole());
        histograms.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        Rows { values: self.values.into_iter().collect(), histograms }
    }
}

impl Rows {
    /// How many label sets there are of a family of this kind.
    pub(crate) fn len(&self, kind: Kind) -> usize {
        match kind {
            Kind::Counter | Kind::Gauge | Kind::Ratio => self.values.len(),
            Kind::Histogram(_) => self.histograms.len(),
        }
    }

    /// Prints the lines of one label set.
    pub(crate) fn print(&self, out: &mut Vec<u8>, row: usize, name: &str, kind: Kind, format: Format) {
        match kind {
            Kind::Counter | Kind::Gauge | Kind::Ratio => {
                if let Some((labels, value)) = self.values.get(row) {
                    print_series(out, name, "", labels, None);
                    value.print(out);
                }
            }
            Kind::Histogram(bounds) => {
                if let Some((labels, histogram)) = self.histograms.get(row) {
                    histogram.print(out, name, bounds, labels, format);
                }
            }
        }
    }
}

impl Number {
    /// `None`: the word is no number.
    fn read(word: &[u8]) -> Option<Self> {
        let is_plain = !word.is_empty()
            && word.len() <= 19
            && word.iter().all(u8::is_ascii_digit)
            && (word.len() == 1 || word.first() != Some(&b'0'));
        if is_plain {
            let digits = word.iter().map(|digit| u64::from(digit - b'0'));
            return Some(Self::Whole(digits.fold(0, |number, digit| number * 10 + digit)));
        }
        let text = str::from_utf8(word).ok()?;
        text.parse::<f64>().is_ok().then(|| Self::Text(word.into()))
    }

    /// The number as the page shows it, with the part that it is then; `None`: no number of thousandths.
    fn of(self, part: Part) -> Option<(Part, Self)> {
        match part {
            Part::Permille => {
                let thousandths = self.whole()?;
                let text = decimal(thousandths / 1_000, thousandths % 1_000, 3);
                Some((Part::Value, Self::Text(text.into_bytes().into_boxed_slice())))
            }
            other => Some((other, self)),
        }
    }

    fn whole(&self) -> Option<u64> {
        match self {
            Self::Whole(number) => Some(*number),
            Self::Text(text) => str::from_utf8(text).ok()?.parse().ok(),
        }
    }

    /// Prints it and the end of the line.
    fn print(&self, out: &mut Vec<u8>) {
        match self {
            Self::Whole(number) => print_whole(out, *number),
            Self::Text(text) => {
                out.extend_from_slice(text);
                out.push(b'\n');
            }
        }
    }
}

impl Histogram {
    /// Whether Envoy has all of it: a quantile over a part would lie.
    fn is_whole(&self) -> bool {
        let has_sum = self.exact_sum.is_some() || self.sum.is_some();
        has_sum && self.count.is_some() && !self.buckets.is_empty() && self.buckets.iter().all(Option::is_some)
    }

    fn print(&self, out: &mut Vec<u8>, name: &str, bounds: Bounds, labels: &[u8], format: Format) {
        // Envoy reads its counters one after the other while workers add to them, so a page may show a bucket without a sample that a
        // smaller one has. A sample counts once every larger bucket and the count have it: of counters that only grow, the least does too.
        // Taking the most instead would put what the smaller buckets miss beyond the largest bound, where a quantile then looks.
        let mut at_most = self.count.unwrap_or(0);
        let mut counts: Vec<u64> = self
            .buckets
            .iter()
            .rev()
            .map(|bucket| {
                at_most = at_most.min(bucket.unwrap_or(0));
                at_most
            })
            .collect();
        let total = counts.first().copied().unwrap_or(0);
        counts.reverse();
        for (le, count) in bounds.le().chain(["+Inf"]).zip(counts) {
            print_series(out, name, "_bucket", labels, Some(&format.bound(le)));
            print_whole(out, count);
        }
        print_series(out, name, "_sum", labels, None);
        match (self.exact_sum, &self.sum) {
            (Some(exact), _) => {
                out.extend_from_slice(millionths(exact).as_bytes());
                out.push(b'\n');
            }
            (None, Some(sum)) => sum.print(out),
            (None, None) => print_whole(out, 0),
        }
        print_series(out, name, "_count", labels, None);
        print_whole(out, total);
    }
}

/// A sample's labels as the page prints them, sorted by name; `None` if one of them may not stand there.
fn ordered(sample: &Sample<'_>, without_bound: bool) -> Option<Box<[u8]>> {
    let mut labels = sample.labels().collect::<Result<Vec<_>, _>>().ok()?;
    labels.sort_by_key(|label| label.name);
    let is_twice = labels.array_windows().any(|[left, right]| left.name == right.name);
    if is_twice || !labels.iter().all(is_label) {
        return None;
    }
    let mut key = Vec::with_capacity(sample.labels.len());
    for label in labels.iter().filter(|label| !(without_bound && label.name == b"le")) {
        add_label(&mut key, label.name, label.raw);
    }
    Some(key.into_boxed_slice())
}

fn add_label(out: &mut Vec<u8>, name: &[u8], raw: &[u8]) {
    if !out.is_empty() {
        out.push(b',');
    }
    out.extend_from_slice(name);
    out.extend_from_slice(b"=\"");
    out.extend_from_slice(raw);
    out.push(b'"');
}

/// Whether a label may stand on a page.
pub(crate) fn is_label(label: &LabelPair<'_>) -> bool {
    let (first, rest) = label.name.split_first().map_or((b' ', label.name), |(first, rest)| (*first, rest));
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    is_letter(first) && rest.iter().all(|&byte| is_letter(byte) || byte.is_ascii_digit()) && label.value().is_ok()
}

/// Whole millionths of a unit as that unit, exactly.
pub(crate) fn millionths(count: u64) -> String {
    decimal(count / 1_000_000, count % 1_000_000, 6)
}

/// A whole number and so many digits behind the point, without those that say nothing.
fn decimal(whole: u64, fraction: u64, digits: usize) -> String {
    let text = format!("{whole}.{fraction:0digits$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn print_series(out: &mut Vec<u8>, name: &str, suffix: &str, labels: &[u8], le: Option<&str>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(suffix.as_bytes());
    if !labels.is_empty() || le.is_some() {
        out.push(b'{');
        out.extend_from_slice(labels);
        if let Some(le) = le {
            out.extend_from_slice(if labels.is_empty() { b"le=\"" } else { b",le=\"" });
            out.extend_from_slice(le.as_bytes());
            out.push(b'"');
        }
        out.push(b'}');
    }
    out.push(b' ');
}

fn print_whole(out: &mut Vec<u8>, number: u64) {
    // Writing to a vector cannot fail.
    let _ = writeln!(out, "{number}");
}
