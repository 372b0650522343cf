//! Families that Envoy has of its own, gathered from its page and printed with all their samples. Pure.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;

use crate::convention;
use crate::exposition::{LabelPair, Sample, split_name};
use crate::format::Format;
use crate::gathered::is_label;

/// Help text of a family for which Envoy has none.
const HELP: &str = "A statistic of Envoy's own.";
/// Type of a family for which Envoy names none.
const UNTYPED: &str = "untyped";
/// The first piece of a family's lines, doubled for each further one.
const FIRST_PIECE: usize = 256;
/// Its largest piece: a family of any size is grown without being copied.
const LARGEST_PIECE: usize = 64 * 1024;

/// Families in the order in which Envoy prints them.
#[derive(Debug, Default)]
pub(crate) struct Foreign {
    families: Vec<ForeignFamily>,
    by_name: HashMap<Box<str>, usize>,
    /// The one that the last header began.
    current: Option<usize>,
    hasher: RandomState,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct ForeignFamily {
    name: Box<str>,
    kind: Option<Box<str>>,
    help: Option<Box<str>>,
    pieces: Vec<Vec<u8>>,
    /// Its series, each by where it stands in the pieces: of one that Envoy repeats the first counts.
    seen: HashTable<Series>,
}

#[derive(Clone, Copy, Debug)]
struct Series {
    piece: u32,
    start: u32,
    length: u32,
}

impl Foreign {
    /// Takes `# TYPE` and `# HELP`, of which `header` is what follows.
    pub(crate) fn add_header(&mut self, is_type: bool, header: &[u8]) {
        let (name, rest) = split_name(header);
        let (Some(name), Ok(text)) = (metric_name(name), str::from_utf8(rest)) else {
            self.current = None;
            return;
        };
        let index = self.family(name);
        self.current = Some(index);
        let Some(family) = self.families.get_mut(index) else { return };
        let text = text.trim();
        if is_type && ["counter", "gauge", "histogram", "summary", "unknown", UNTYPED].contains(&text) {
            family.kind.get_or_insert_with(|| text.into());
        } else if !is_type && !text.is_empty() {
            family.help.get_or_insert_with(|| text.into());
        }
    }

    /// Takes a sample; what a scraper would refuse is dropped.
    pub(crate) fn add_sample(&mut self, line: &[u8]) {
        let line = line.trim_ascii_end();
        let (name, rest) = split_name(line);
        let (Some(name), Ok(_)) = (metric_name(name), str::from_utf8(line)) else { return };
        let Ok(sample) = Sample::split(rest) else { return };
        let labels = || sample.labels().collect::<Result<Vec<_>, _>>();
        let is_fit = labels().is_ok_and(|mut labels| {
            labels.sort_by_key(|label| label.name);
            labels.iter().all(is_label) && !labels.array_windows().any(|[left, right]| left.name == right.name)
        });
        if !is_fit || sample.value().is_err() {
            return;
        }
        let current = self.current.and_then(|current| Some((current, self.families.get(current)?)));
        let index = match current {
            Some((index, family)) if family.covers(name) => index,
            _ => self.family(name),
        };
        let length = line.len() - sample.tail.len();
        let series = line.get(..length).unwrap_or(line).trim_ascii_end();
        if let Some(family) = self.families.get_mut(index) {
            family.push(line, series.len(), &self.hasher);
        }
    }

    fn family(&mut self, name: &str) -> usize {
        if let Some(index) = self.by_name.get(name) {
            return *index;
        }
        let (kind, help, pieces, seen) = (None, None, Vec::new(), HashTable::new());
        self.families.push(ForeignFamily { name: name.into(), kind, help, pieces, seen });
        self.by_name.insert(name.into(), self.families.len() - 1);
        self.families.len() - 1
    }

    /// No more lines come: what only finds repeated series is given up.
    pub(crate) fn finish(&mut self) {
        for family in &mut self.families {
            family.seen = HashTable::new();
        }
        self.families.retain(|family| !family.pieces.is_empty());
        self.by_name = self.families.iter().enumerate().map(|(at, family)| (family.name.clone(), at)).collect();
        self.current = None;
    }

    /// The family at this place.
    pub(crate) fn get(&self, index: usize) -> Option<&ForeignFamily> {
        self.families.get(index)
    }

    /// The value of the first series of a family.
    #[cfg(feature = "otlp")]
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        let family = self.families.get(*self.by_name.get(name)?)?;
        let line = family.pieces.first()?.split(|byte| *byte == b'\n').next()?;
        let (_, rest) = split_name(line);
        Sample::split(rest).ok()?.value().ok()
    }

    /// The type that a family has in a format: OpenMetrics knows counters only by `_total`, and names none like another family.
    fn kind<'a>(&self, family: &'a ForeignFamily, format: Format) -> &'a str {
        let kind = family.kind.as_deref().unwrap_or(UNTYPED);
        let is_free = |name: &str| !self.by_name.contains_key(name);
        match (format, kind, family.name.strip_suffix("_total")) {
            (Format::OpenMetrics, "counter", Some(bare)) if is_free(bare) && is_free(&format!("{bare}_created")) => {
                kind
            }
            (Format::OpenMetrics, "counter", _) => UNTYPED,
            _ => kind,
        }
    }

    /// Prints a family's headers.
    pub(crate) fn print_headers(&self, out: &mut Vec<u8>, family: &ForeignFamily, strict: bool, format: Format) {
        let kind = self.kind(family, format);
        let kind = if strict { convention::kind(&family.name, kind) } else { kind };
        match (&family.help, format) {
            // It has the escapes already.
            (Some(help), Format::Text) => {
                out.extend_from_slice(
                    format!("# HELP {0} {help}\n# TYPE {0} {1}\n", family.name, format.kind(kind)).as_bytes(),
                );
            }
            (help, _) => {
                let raw = help.as_deref().unwrap_or(HELP);
                // A label's value has the same escapes.
                let plain = LabelPair { name: b"", raw: raw.as_bytes() }.value();
                format.print_headers(out, &family.name, plain.as_deref().unwrap_or(raw), kind);
            }
        }
    }
}

impl ForeignFamily {
    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether `promtool check metrics` accepts its name.
    pub(crate) fn is_conventional(&self) -> bool {
        convention::is_conventional(&self.name, self.kind.as_deref().unwrap_or(UNTYPED))
    }

    /// Whether a sample of this name belongs to it.
    fn covers(&self, name: &str) -> bool {
        let suffixes: &[&str] = match self.kind.as_deref() {
            Some("histogram") => &["_bucket", "_sum", "_count"],
            Some("summary") => &["", "_sum", "_count"],
            _ => &[""],
        };
        name.strip_prefix(&*self.name).is_some_and(|suffix| suffixes.contains(&suffix))
    }

    fn push(&mut self, line: &[u8], length: usize, hasher: &RandomState) {
        let series = line.get(..length).unwrap_or(line);
        let Self { pieces, seen, .. } = self;
        let hash = hasher.hash_one(series);
        let is_seen = seen.find(hash, |known| known.text(pieces) == series).is_some();
        if is_seen {
            return;
        }
        let wanted = line.len() + 1;
        if pieces.last().is_none_or(|piece| piece.capacity() - piece.len() < wanted) {
            let grown = pieces.last().map_or(FIRST_PIECE, |piece| (piece.capacity() * 2).min(LARGEST_PIECE));
            pieces.push(Vec::with_capacity(grown.max(wanted)));
        }
        let piece = pieces.len() - 1;
        let Some(last) = pieces.last_mut() else { return };
        let start = last.len();
        last.extend_from_slice(line);
        last.push(b'\n');
        let whole = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let series = Series { piece: whole(piece), start: whole(start), length: whole(length) };
        seen.insert_unique(hash, series, |known| hasher.hash_one(known.text(pieces)));
    }

    /// Prints its next lines; `None` when there are none left. `at` counts calls.
    pub(crate) fn print_piece(&self, out: &mut Vec<u8>, at: usize, format: Format) -> Option<()> {
        let piece = self.pieces.get(at)?;
        match (format, self.kind.as_deref()) {
            (Format::Text, _) => out.extend_from_slice(piece),
            (Format::OpenMetrics, kind) => {
                let bound = match kind {
                    Some("histogram") => "le",
                    Some("summary") => "quantile",
                    _ => "",
                };
                for line in piece.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    print_open_metrics(out, line, bound.as_bytes());
                }
            }
        }
        Some(())
    }
}

impl Series {
    fn text<'a>(&self, pieces: &'a [Vec<u8>]) -> &'a [u8] {
        let start = self.start as usize;
        let piece = pieces.get(self.piece as usize).map(Vec::as_slice).unwrap_or_default();
        piece.get(start..start + self.length as usize).unwrap_or_default()
    }
}

/// Prints a line as OpenMetrics wants it: the bound with a fraction, and without a time, which it would count in another unit.
pub(crate) fn print_open_metrics(out: &mut Vec<u8>, line: &[u8], bound: &[u8]) {
    let (name, rest) = split_name(line);
    let Ok(sample) = Sample::split(rest) else { return };
    out.extend_from_slice(name);
    let mut opened = false;
    for label in sample.labels().flatten() {
        out.push(if opened { b',' } else { b'{' });
        opened = true;
        out.extend_from_slice(label.name);
        out.extend_from_slice(b"=\"");
        match str::from_utf8(label.raw) {
            Ok(raw) if label.name == bound => out.extend_from_slice(Format::OpenMetrics.bound(raw).as_bytes()),
            _ => out.extend_from_slice(label.raw),
        }
        out.push(b'"');
    }
    out.extend_from_slice(if opened { b"} " } else { b" " });
    out.extend_from_slice(sample.tail.split(u8::is_ascii_whitespace).next().unwrap_or_default());
    out.push(b'\n');
}

/// A name that a metric may have.
fn metric_name(name: &[u8]) -> Option<&str> {
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_' || byte == b':';
    let (first, rest) = name.split_first()?;
    let is_name = is_letter(*first) && rest.iter().all(|&byte| is_letter(byte) || byte.is_ascii_digit());
    str::from_utf8(name).ok().filter(|_| is_name)
}
