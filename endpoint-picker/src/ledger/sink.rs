//! The host's stats, as far as a ledger needs them.

use catalogue::Label;

/// The host's stats.
pub trait StatSink {
    /// Defines a counter or gauge; `None` if the host refuses. The name is `family` followed by `suffix`; values of `labels`, which stand
    /// in [`Label`]'s order, have been through [`catalogue::label_value`]. Slow: tens of microseconds.
    fn define(&mut self, kind: SinkKind, family: &str, suffix: &str, labels: &[(Label, &str)]) -> Option<u32>;
    /// Adds to a counter.
    fn add(&mut self, id: u32, delta: u64);
    /// Sets a gauge.
    fn set(&mut self, id: u32, value: u64);
    /// Whether the current callback has time left for more.
    fn has_time(&mut self) -> bool;
}

/// What the host can define.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SinkKind {
    /// Only grows.
    Counter,
    /// Is set.
    Gauge,
}
