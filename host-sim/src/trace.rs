//! What happened, in order: every callback into a guest, every call out of it, and what the host did.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::codes::{ALLOCATE, Callback, Status};

/// Which VM of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum VmName {
    /// The throw-away VM that tries the configuration first.
    Canary,
    /// The VM of a worker thread, by index.
    Worker(usize),
    /// The singleton service.
    Service,
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Canary => f.write_str("canary"),
            Self::Worker(index) => write!(f, "worker{index}"),
            Self::Service => f.write_str("service"),
        }
    }
}

/// Which way the boundary was crossed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// The host called an export of the guest.
    HostToGuest,
    /// The guest called an import.
    GuestToHost,
    /// Nothing was crossed: the host notes something it did, such as a local reply.
    Note,
}

/// One line of the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Monotonic virtual time.
    pub at: Duration,
    /// The VM.
    pub vm: VmName,
    /// The context the callback was made for, or whose callback made the call.
    pub context: u32,
    /// The stream of that context, if it has one.
    pub stream_id: Option<u64>,
    /// Which way.
    pub direction: Direction,
    /// The export's or import's name; for a note, what the host did.
    pub name: &'static str,
    /// The callback during which it happened.
    pub during: Option<Callback>,
    /// Arguments in short.
    pub args: String,
    /// What was returned, in short: an action, `trap: ...`, or nothing.
    pub outcome: String,
    /// The status of a host call.
    pub status: Option<Status>,
    /// Whether the status was injected by a [`Fault`](crate::Fault).
    pub injected: bool,
    /// Fuel that a callback used, calls to `proxy_on_memory_allocate` included; about one per instruction.
    pub fuel: Option<u64>,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.at.as_micros();
        write!(f, "{micros:>10}us {:<8} #{:<3} ", self.vm.to_string(), self.context)?;
        let arrow = match self.direction {
            Direction::HostToGuest => "->",
            Direction::GuestToHost => "   <-",
            Direction::Note => "==",
        };
        write!(f, "{arrow} {}({})", self.name, self.args)?;
        if let Some(status) = self.status {
            write!(f, " {status:?}")?;
        }
        if self.injected {
            f.write_str(" (injected)")?;
        }
        if !self.outcome.is_empty() {
            write!(f, " = {}", self.outcome)?;
        }
        if let Some(fuel) = self.fuel {
            write!(f, " [fuel {fuel}]")?;
        }
        Ok(())
    }
}

/// A log line of a guest, by `proxy_log` or by writing to standard output or error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Monotonic virtual time.
    pub at: Duration,
    /// The VM.
    pub vm: VmName,
    /// 0 trace, 1 debug, 2 info, 3 warn, 4 error, 5 critical.
    pub level: u32,
    /// The text, with bytes that are no UTF-8 replaced.
    pub text: String,
}

/// How often the boundary was crossed, by name, and what each kind of callback took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Crossings {
    host_to_guest: BTreeMap<&'static str, u64>,
    guest_to_host: BTreeMap<&'static str, u64>,
    costs: BTreeMap<Callback, Cost>,
}

/// What all callbacks of one kind took together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// How often the callback was made.
    pub callbacks: u64,
    /// Instructions that the guest ran, those of `proxy_on_memory_allocate` included: the fuel that it used.
    pub instructions: u64,
    /// Host calls that it made.
    pub calls: u64,
    /// Allocations that the host made in it for what those calls return.
    pub allocations: u64,
}

impl Crossings {
    /// Calls of the export, such as `proxy_on_request_body` or `proxy_on_memory_allocate`.
    #[must_use]
    pub fn callbacks(&self, name: &str) -> u64 {
        self.host_to_guest.get(name).copied().unwrap_or(0)
    }

    /// Calls of the import, such as `proxy_get_header_map_value`.
    #[must_use]
    pub fn calls(&self, name: &str) -> u64 {
        self.guest_to_host.get(name).copied().unwrap_or(0)
    }

    /// Re-entrant calls by which the host allocated guest memory for what it returns: each is a crossing on top
    /// of the call that returned data.
    #[must_use]
    pub fn allocations(&self) -> u64 {
        self.callbacks(ALLOCATE)
    }

    /// All calls of imports, logging and WASI included.
    #[must_use]
    pub fn total_calls(&self) -> u64 {
        self.guest_to_host.values().sum()
    }

    /// All calls of exports, allocations included.
    #[must_use]
    pub fn total_callbacks(&self) -> u64 {
        self.host_to_guest.values().sum()
    }

    /// Both ways together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total_calls() + self.total_callbacks()
    }

    /// Every name with its direction and count.
    pub fn iter(&self) -> impl Iterator<Item = (Direction, &'static str, u64)> {
        let inward = self.host_to_guest.iter().map(|(name, count)| (Direction::HostToGuest, *name, *count));
        let outward = self.guest_to_host.iter().map(|(name, count)| (Direction::GuestToHost, *name, *count));
        inward.chain(outward)
    }

    /// What each kind of callback took, in the order of a stream.
    pub fn costs(&self) -> impl Iterator<Item = (Callback, Cost)> {
        self.costs.iter().map(|(callback, cost)| (*callback, *cost))
    }

    /// What all callbacks of one kind took together.
    #[must_use]
    pub fn cost(&self, callback: Callback) -> Cost {
        self.costs.get(&callback).copied().unwrap_or_default()
    }

    /// Instructions that the guest ran in all callbacks.
    #[must_use]
    pub fn instructions(&self) -> u64 {
        self.costs.values().map(|cost| cost.instructions).sum()
    }

    pub(crate) fn add(&mut self, direction: Direction, name: &'static str, during: Callback) {
        let cost = self.costs.entry(during).or_default();
        match direction {
            Direction::HostToGuest => {
                *self.host_to_guest.entry(name).or_default() += 1;
                if name == ALLOCATE {
                    cost.allocations += 1;
                } else {
                    cost.callbacks += 1;
                }
            }
            Direction::GuestToHost => {
                *self.guest_to_host.entry(name).or_default() += 1;
                cost.calls += 1;
            }
            Direction::Note => {}
        }
    }

    pub(crate) fn spend(&mut self, during: Callback, instructions: u64) {
        self.costs.entry(during).or_default().instructions += instructions;
    }
}

/// The records and the worst fuel of each callback.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    records: Vec<Record>,
    forgotten: usize,
    recording: bool,
    logs: Vec<LogLine>,
    worst_fuel: BTreeMap<&'static str, u64>,
}

impl Trace {
    pub(crate) fn recording(recording: bool) -> Self {
        Self { recording, ..Self::default() }
    }

    pub(crate) const fn is_recording(&self) -> bool {
        self.recording
    }

    /// Appends a record and returns its number, by which [`Trace::complete`] can add the outcome.
    pub(crate) fn push(&mut self, record: Record) -> usize {
        if self.recording {
            self.records.push(record);
        }
        (self.forgotten + self.records.len()).saturating_sub(1)
    }

    pub(crate) fn complete(&mut self, number: usize, name: &'static str, outcome: &str, fuel: u64) {
        let worst = self.worst_fuel.entry(name).or_default();
        *worst = fuel.max(*worst);
        if let Some(record) = self.record(number) {
            outcome.clone_into(&mut record.outcome);
            record.fuel = Some(fuel);
        }
    }

    /// Adds the arguments and the status to the record of a host call.
    pub(crate) fn returned(&mut self, number: usize, args: String, status: Option<Status>) {
        if let Some(record) = self.record(number) {
            record.args = args;
            record.status = status;
        }
    }

    fn record(&mut self, number: usize) -> Option<&mut Record> {
        if !self.recording {
            return None;
        }
        let index = number.checked_sub(self.forgotten)?;
        self.records.get_mut(index)
    }

    pub(crate) fn log(&mut self, line: LogLine) {
        self.logs.push(line);
    }

    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    pub(crate) fn logs(&self) -> &[LogLine] {
        &self.logs
    }

    pub(crate) fn worst_fuel(&self, name: &str) -> Option<u64> {
        self.worst_fuel.get(name).copied()
    }

    pub(crate) fn clear(&mut self) {
        self.forgotten += self.records.len();
        self.records.clear();
        self.logs.clear();
        self.worst_fuel.clear();
    }
}
