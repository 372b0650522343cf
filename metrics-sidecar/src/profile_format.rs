//! The format of pprof: <https://github.com/google/pprof/blob/main/proto/profile.proto>, as far as it is written here.

use std::collections::HashMap;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use pprof::{Frames, Report};
use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PprofProfile {
    #[prost(message, repeated, tag = "1")]
    pub(crate) sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) sample: Vec<ProfileSample>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    pub(crate) string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    pub(crate) time_nanos: i64,
    #[prost(int64, tag = "10")]
    pub(crate) duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    pub(crate) period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    pub(crate) period: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct ValueType {
    #[prost(int64, tag = "1")]
    pub(crate) kind: i64,
    #[prost(int64, tag = "2")]
    pub(crate) unit: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ProfileSample {
    #[prost(uint64, repeated, tag = "1")]
    pub(crate) location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    pub(crate) value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) label: Vec<SampleLabel>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct SampleLabel {
    #[prost(int64, tag = "1")]
    pub(crate) key: i64,
    #[prost(int64, tag = "2")]
    pub(crate) text: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Location {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) address: u64,
    #[prost(message, repeated, tag = "4")]
    pub(crate) line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Line {
    #[prost(uint64, tag = "1")]
    pub(crate) function_id: u64,
    #[prost(int64, tag = "2")]
    pub(crate) line: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Function {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(int64, tag = "2")]
    pub(crate) name: i64,
    #[prost(int64, tag = "3")]
    pub(crate) system_name: i64,
    #[prost(int64, tag = "4")]
    pub(crate) filename: i64,
}

/// Numbers things from `first` on, each once.
struct Numbered<T> {
    known: HashMap<T, i64>,
    first: i64,
}

impl<T: std::hash::Hash + Eq> Numbered<T> {
    /// Its number, and whether it is new.
    fn number(&mut self, thing: T) -> (i64, bool) {
        let next = self.first + i64::try_from(self.known.len()).unwrap_or(i64::MAX);
        match self.known.entry(thing) {
            std::collections::hash_map::Entry::Occupied(known) => (*known.get(), false),
            std::collections::hash_map::Entry::Vacant(free) => (*free.insert(next), true),
        }
    }
}

/// Writes what was seen of the CPU within `length`, `frequency` times a second.
///
/// # Errors
///
/// None that happen: it is written to memory.
pub(crate) fn encode(report: &Report, frequency: i32, length: Duration) -> std::io::Result<Vec<u8>> {
    let profile = profile(&report.data, frequency, length, SystemTime::now());
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(&profile.encode_to_vec())?;
    packed.finish()
}

fn profile(stacks: &HashMap<Frames, isize>, frequency: i32, length: Duration, end: SystemTime) -> PprofProfile {
    let nanos = |length: Duration| i64::try_from(length.as_nanos()).unwrap_or(i64::MAX);
    let period = 1_000_000_000 / i64::from(frequency.max(1));
    let mut profile = PprofProfile { period, duration_nanos: nanos(length), ..PprofProfile::default() };
    profile.time_nanos = nanos(end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()) - profile.duration_nanos;
    let mut texts = Numbered { known: HashMap::new(), first: 0 };
    let mut text = |table: &mut Vec<String>, text: &str| {
        let (number, is_new) = texts.number(text.to_owned());
        if is_new {
            table.push(text.to_owned());
        }
        number
    };
    let table = &mut profile.string_table;
    text(table, "");
    let cpu = ValueType { kind: text(table, "cpu"), unit: text(table, "nanoseconds") };
    profile.sample_type = vec![ValueType { kind: text(table, "samples"), unit: text(table, "count") }, cpu];
    profile.period_type = Some(cpu);
    let thread = text(table, "thread");
    let (mut functions, mut locations) =
        (Numbered { known: HashMap::new(), first: 1 }, Numbered { known: HashMap::new(), first: 1 });
    for (frames, count) in stacks {
        let mut location_id = Vec::with_capacity(frames.frames.len());
        for inlined in &frames.frames {
            let mut line = Vec::with_capacity(inlined.len());
            for symbol in inlined {
                let name = text(table, &symbol.name());
                let (system_name, filename) = (text(table, &symbol.sys_name()), text(table, &symbol.filename()));
                let (id, is_new) = functions.number((system_name, filename));
                let id = id.unsigned_abs();
                if is_new {
                    profile.function.push(Function { id, name, system_name, filename });
                }
                line.push(Line { function_id: id, line: i64::from(symbol.lineno()) });
            }
            let address = inlined.first().and_then(|symbol| symbol.addr).map_or(0, |address| address as usize as u64);
            let lines: Vec<(u64, i64)> = line.iter().map(|line| (line.function_id, line.line)).collect();
            let (id, is_new) = locations.number((address, lines));
            let id = id.unsigned_abs();
            if is_new {
                profile.location.push(Location { id, address, line });
            }
            location_id.push(id);
        }
        let count = i64::try_from(*count).unwrap_or(i64::MAX);
        let label = vec![SampleLabel { key: thread, text: text(table, &frames.thread_name_or_id()) }];
        profile.sample.push(ProfileSample { location_id, value: vec![count, count.saturating_mul(period)], label });
    }
    profile
}
