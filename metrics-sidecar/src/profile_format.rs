//! The format of pprof: <https://github.com/google/pprof/blob/main/proto/profile.proto>, as far as it is written here.

use std::collections::HashMap;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
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
#[derive(Default)]
struct Numbered<T> {
    known: HashMap<T, i64>,
    first: i64,
}

impl<T: std::hash::Hash + Eq> Numbered<T> {
    fn from_one() -> Self {
        Self { known: HashMap::new(), first: 1 }
    }

    /// Its number, and whether it is new.
    fn number(&mut self, thing: T) -> (i64, bool) {
        let next = self.first + i64::try_from(self.known.len()).unwrap_or(i64::MAX);
        match self.known.entry(thing) {
            std::collections::hash_map::Entry::Occupied(known) => (*known.get(), false),
            std::collections::hash_map::Entry::Vacant(free) => (*free.insert(next), true),
        }
    }
}

/// A profile that is being put together: each text, function and place of code once.
pub(crate) struct ProfileBuilder {
    profile: PprofProfile,
    texts: Numbered<String>,
    functions: Numbered<(i64, i64)>,
    locations: Numbered<(u64, Vec<(u64, i64)>)>,
}

impl ProfileBuilder {
    /// A profile of the last `length`, with one sample a `period` of what `period_type` says, by name and unit. `values`: what each sample
    /// has, by name and unit too.
    pub(crate) fn new(values: &[[&str; 2]], period_type: [&str; 2], period: i64, length: Duration) -> Self {
        let mut builder = Self {
            profile: PprofProfile { period, duration_nanos: nanos(length), ..PprofProfile::default() },
            texts: Numbered::default(),
            functions: Numbered::from_one(),
            locations: Numbered::from_one(),
        };
        let end = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        builder.profile.time_nanos = nanos(end) - builder.profile.duration_nanos;
        builder.text("");
        builder.profile.sample_type = values.iter().map(|value| builder.value_type(*value)).collect();
        builder.profile.period_type = Some(builder.value_type(period_type));
        builder
    }

    fn value_type(&mut self, [kind, unit]: [&str; 2]) -> ValueType {
        ValueType { kind: self.text(kind), unit: self.text(unit) }
    }

    fn text(&mut self, text: &str) -> i64 {
        let (number, is_new) = self.texts.number(text.to_owned());
        if is_new {
            self.profile.string_table.push(text.to_owned());
        }
        number
    }

    /// A line of a function of that name, for people and for the linker.
    pub(crate) fn line(&mut self, name: &str, mangled: &str, file: &str, line: u32) -> Line {
        let (name, system_name, filename) = (self.text(name), self.text(mangled), self.text(file));
        let (id, is_new) = self.functions.number((system_name, filename));
        let id = id.unsigned_abs();
        if is_new {
            self.profile.function.push(Function { id, name, system_name, filename });
        }
        Line { function_id: id, line: i64::from(line) }
    }

    /// The number of a place of code; `line`: the functions there, the innermost first.
    pub(crate) fn location(&mut self, address: u64, line: Vec<Line>) -> u64 {
        let lines: Vec<(u64, i64)> = line.iter().map(|line| (line.function_id, line.line)).collect();
        let (id, is_new) = self.locations.number((address, lines));
        let id = id.unsigned_abs();
        if is_new {
            self.profile.location.push(Location { id, address, line });
        }
        id
    }

    /// Adds a sample: numbers of locations, the innermost first, one value for each kind, and labels.
    pub(crate) fn sample(&mut self, location_id: Vec<u64>, value: Vec<i64>, labels: &[[&str; 2]]) {
        let label =
            labels.iter().map(|[key, text]| SampleLabel { key: self.text(key), text: self.text(text) }).collect();
        self.profile.sample.push(ProfileSample { location_id, value, label });
    }

    /// The bytes of its file, compressed.
    ///
    /// # Errors
    ///
    /// None that happen: it is written to memory.
    pub(crate) fn pack(&self) -> std::io::Result<Vec<u8>> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(&self.profile.encode_to_vec())?;
        packed.finish()
    }
}

fn nanos(length: Duration) -> i64 {
    i64::try_from(length.as_nanos()).unwrap_or(i64::MAX)
}
