//! What Envoy's page holds: series of catalogued families, taken apart, and families of Envoy's own as they are. Pure.
//!
//! The filter's histograms reach Envoy as counters, one a bucket, because Envoy's own histograms neither keep sub-second bounds
//! nor exact sums. Envoy prints each of them as a family of its own; here they are put together again.

use catalogue::{Label, Stat, split_stat_name};

use crate::exposition::split_name;
use crate::foreign::Foreign;
use crate::gathered::{Gathered, Part, Place, Rows, places};
use crate::lines::Lines;

/// Prefix of families that only the sidecar publishes beside the catalogue's.
pub const OWN_PREFIX: &str = "inpick_sidecar_";

/// What Envoy puts in front of the stats of a wasm module.
const NAMESPACE: &str = "wasmcustom.";

/// What was read of Envoy's page, ready to be printed.
#[derive(Debug, Default)]
pub struct Contents {
    /// One for each of [`Stat::ALL`].
    rows: Vec<Rows>,
    foreign: Foreign,
}

/// Reads Envoy's page as it arrives, and the list of its stats where the page has lost their labels.
#[derive(Debug)]
pub struct ContentsReader {
    lines: Lines,
    page: PageReader,
    names: NamesReader,
}

#[derive(Debug)]
struct PageReader {
    gathered: Vec<Gathered>,
    foreign: Foreign,
    /// Lines of families that look like stats of ours whose labels nobody cut out of their names.
    garbled: Vec<u8>,
}

/// Reads `NAME: VALUE`, the lines of Envoy's `/stats`.
#[derive(Debug)]
struct NamesReader {
    lines: Lines,
    gathered: Vec<Gathered>,
    /// Which of [`Stat::ALL`] there are.
    found: Vec<bool>,
}

impl Contents {
    /// The series of one of [`Stat::ALL`].
    pub(crate) fn rows(&self, stat: usize) -> Option<&Rows> {
        self.rows.get(stat)
    }

    /// The value of the first series of a family of Envoy's own.
    #[cfg(feature = "otlp")]
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        self.foreign.value(name)
    }

    /// What is not catalogued.
    pub(crate) fn foreign(&self) -> &Foreign {
        &self.foreign
    }
}

impl Default for ContentsReader {
    fn default() -> Self {
        Self {
            lines: Lines::default(),
            page: PageReader { gathered: none_gathered(), foreign: Foreign::default(), garbled: Vec::new() },
            names: NamesReader {
                lines: Lines::default(),
                gathered: none_gathered(),
                found: vec![false; Stat::ALL.len()],
            },
        }
    }
}

fn none_gathered() -> Vec<Gathered> {
    std::iter::repeat_with(Gathered::default).take(Stat::ALL.len()).collect()
}

impl ContentsReader {
    /// Takes the next bytes of `/stats/prometheus`.
    pub fn feed(&mut self, bytes: &[u8]) {
        let Self { lines, page, .. } = self;
        lines.feed(bytes, |line| page.line(line));
    }

    /// Whether the page, now that all of it was read, shows stats of ours with their labels in their names: the bootstrap has not the
    /// `stats_tags`, and the labels must be read from `/stats`.
    #[must_use]
    pub fn wants_names(&mut self) -> bool {
        let Self { lines, page, .. } = self;
        lines.finish(|line| page.line(line));
        !page.garbled.is_empty()
    }

    /// Takes the next bytes of `/stats`.
    pub fn feed_names(&mut self, bytes: &[u8]) {
        let NamesReader { lines, gathered, found } = &mut self.names;
        lines.feed(bytes, |line| read_stat(gathered, found, line));
    }

    /// No more bytes come.
    #[must_use]
    pub fn finish(mut self) -> Contents {
        let has_garbled = self.wants_names();
        let Self { page: PageReader { mut gathered, mut foreign, garbled }, names, .. } = self;
        let NamesReader { mut lines, gathered: mut named, mut found } = names;
        lines.finish(|line| read_stat(&mut named, &mut found, line));
        if has_garbled {
            for line in garbled.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let is_ours = garbled_place(header(line).map_or(line, |(_, header)| header))
                    .is_some_and(|place| found.get(place.stat) == Some(&true));
                if !is_ours {
                    add_foreign(&mut foreign, line);
                }
            }
            for ((gathered, named), _) in gathered.iter_mut().zip(named).zip(found).filter(|(_, found)| *found) {
                *gathered = named;
            }
        }
        drop(garbled);
        foreign.finish();
        Contents { rows: gathered.into_iter().map(Gathered::finish).collect(), foreign }
    }
}

impl PageReader {
    fn line(&mut self, line: &[u8]) {
        if line.is_empty() {
            return;
        }
        let header = header(line);
        let text = header.map_or(line, |(_, header)| header);
        let (name, rest) = split_name(text);
        if let Some(place) = places().get(name) {
            if header.is_none()
                && let Some(series) = self.gathered.get_mut(place.stat)
            {
                series.add(place.part, rest);
            }
        } else if garbled_place(text).is_some() {
            self.garbled.extend_from_slice(line);
            self.garbled.push(b'\n');
        } else {
            add_foreign(&mut self.foreign, line);
        }
    }
}

fn add_foreign(foreign: &mut Foreign, line: &[u8]) {
    match header(line) {
        Some((_, header)) if split_name(header).0.starts_with(OWN_PREFIX.as_bytes()) => {}
        Some((is_type, header)) => foreign.add_header(is_type, header),
        None if line.first() == Some(&b'#') || line.starts_with(OWN_PREFIX.as_bytes()) => {}
        None => foreign.add_sample(line),
    }
}

/// What follows `# TYPE ` or, with `false`, `# HELP `.
fn header(line: &[u8]) -> Option<(bool, &[u8])> {
    let types = line.strip_prefix(b"# TYPE ").map(|header| (true, header));
    types.or_else(|| line.strip_prefix(b"# HELP ").map(|header| (false, header)))
}

/// Whose series a line is whose name is that of a stat with labels in front, as far as no `stats_tags` cut them out, and with `_` for
/// whatever Prometheus allows in no name.
pub(crate) fn garbled_place(line: &[u8]) -> Option<Place> {
    // Most of what Envoy has of its own is told by this.
    if line.starts_with(b"envoy_") {
        return None;
    }
    let (name, _) = split_name(line);
    let mut starts = memchr::memchr_iter(b'_', name).filter_map(|at| Some((name.get(..at)?, name.get(at + 1..)?)));
    let begins_with =
        |label: &Label| name.strip_prefix(label.as_str().as_bytes()).is_some_and(|rest| rest.first() == Some(&b'_'));
    if !Label::ALL.iter().any(begins_with) {
        return None;
    }
    starts.find_map(|(_, rest)| places().get(rest).copied()).filter(|place| {
        let labels = Stat::ALL.get(place.stat).map_or(&[][..], |stat| stat.family().labels);
        let bound = matches!(place.part, Part::Bucket(_)).then_some(&Label::Le);
        labels.iter().chain(bound).any(begins_with)
    })
}

/// A stat of ours, as a line of Envoy's `/stats` has it.
pub(crate) struct NamedStat<'a> {
    pub(crate) place: Place,
    /// In the order of the name.
    pub(crate) labels: Vec<(Label, &'a str)>,
    /// The labels as the name spells them.
    spelled: &'a str,
    pub(crate) value: &'a str,
}

impl<'a> NamedStat<'a> {
    /// `None`: the line is of no stat of ours.
    pub(crate) fn read(line: &'a [u8]) -> Option<Self> {
        let (name, value) = str::from_utf8(line).ok()?.strip_prefix(NAMESPACE)?.rsplit_once(": ")?;
        let (labels, family) = split_stat_name(name)?;
        let place = *places().get(family.as_bytes())?;
        Some(Self { place, labels, spelled: name.strip_suffix(family)?, value })
    }
}

fn read_stat(gathered: &mut [Gathered], found: &mut [bool], line: &[u8]) {
    let Some(NamedStat { place, labels, spelled, value }) = NamedStat::read(line) else { return };
    let (bound, labels) = match labels.as_slice() {
        [(Label::Le, bound), rest @ ..] => (Some(*bound), rest),
        all => (None, all),
    };
    let from = bound.map_or(0, |bound| Label::Le.as_str().len() + bound.len() + "=;".len());
    let spelled = spelled.get(from..).unwrap_or_default();
    if let (Some(series), Some(found)) = (gathered.get_mut(place.stat), found.get_mut(place.stat)) {
        *found = true;
        series.add_stat(place.part, labels, spelled, bound, value.as_bytes());
    }
}
