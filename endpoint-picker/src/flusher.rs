//! When a ledger goes to the host, and how much of it in one callback.

use catalogue::Label;

use crate::ledger::{Ledger, SinkKind, StatSink};
use crate::time::Timestamp;

/// Time that one tick gives to stats. A worker serves nobody meanwhile; a definition takes tens of microseconds, so a tick that
/// began its last one just in time still ends far below two milliseconds.
pub const BUDGET_MICROS: u64 = 1_000;
/// Stats defined in one tick at most: at some 100 us each, the bound on time for a clock that stands still.
pub const MAX_DEFINITIONS: u32 = 16;

/// The host's stats and its clock, without any bound.
pub trait HostStats {
    /// See [`StatSink::define`].
    fn define_stat(&mut self, kind: SinkKind, family: &str, suffix: &str, labels: &[(Label, &str)]) -> Option<u32>;
    /// Adds to a counter.
    fn add_to_stat(&mut self, id: u32, delta: u64);
    /// Sets a gauge.
    fn set_stat(&mut self, id: u32, value: u64);
    /// The current time.
    fn now(&mut self) -> Timestamp;
}

/// The host's stats for the length of one callback.
struct Budget<'a, H: HostStats> {
    host: &'a mut H,
    started: Timestamp,
    definitions: u32,
}

impl<'a, H: HostStats> Budget<'a, H> {
    fn begin(host: &'a mut H) -> Self {
        Self { started: host.now(), host, definitions: 0 }
    }
}

impl<H: HostStats> StatSink for Budget<'_, H> {
    fn define(&mut self, kind: SinkKind, family: &str, suffix: &str, labels: &[(Label, &str)]) -> Option<u32> {
        self.definitions += 1;
        self.host.define_stat(kind, family, suffix, labels)
    }

    fn add(&mut self, id: u32, delta: u64) {
        self.host.add_to_stat(id, delta);
    }

    fn set(&mut self, id: u32, value: u64) {
        self.host.set_stat(id, value);
    }

    fn has_time(&mut self) -> bool {
        self.definitions < MAX_DEFINITIONS && self.host.now().micros_since(self.started) < BUDGET_MICROS
    }
}

/// Carries a ledger to the host, a slice a tick.
#[derive(Debug, Default)]
pub struct Flusher {
    last: Timestamp,
    unfinished: bool,
}

impl Flusher {
    /// Whether the next [`Self::tick`] begins a flush.
    #[must_use]
    pub const fn is_due(&self, interval_ms: u64, now: Timestamp) -> bool {
        !self.unfinished && now.millis_since(self.last) >= interval_ms
    }

    /// Defines what is new and, every `interval_ms`, flushes what was recorded.
    pub fn tick(&mut self, ledger: &mut Ledger, host: &mut impl HostStats, interval_ms: u64, now: Timestamp) {
        if ledger.undefined() > 0 {
            ledger.define(&mut Budget::begin(host));
        }
        if self.is_due(interval_ms, now) {
            self.last = now;
            ledger.begin_flush();
            self.unfinished = true;
        }
        if self.unfinished {
            // A budget of its own, or a long line of new stats would keep the old ones from moving.
            self.unfinished = !ledger.flush(&mut Budget::begin(host));
        }
    }

    /// Carries everything over, however long it takes: the last chance before the ledger is gone.
    pub fn finish(&mut self, ledger: &mut Ledger, host: &mut impl HostStats) {
        ledger.define(&mut Unbounded(host));
        for _ in 0..2 {
            // First what a flush under way began with, then what came since.
            ledger.flush(&mut Unbounded(host));
            ledger.begin_flush();
        }
        ledger.flush(&mut Unbounded(host));
        self.unfinished = false;
    }
}

struct Unbounded<'a, H: HostStats>(&'a mut H);

impl<H: HostStats> StatSink for Unbounded<'_, H> {
    fn define(&mut self, kind: SinkKind, family: &str, suffix: &str, labels: &[(Label, &str)]) -> Option<u32> {
        self.0.define_stat(kind, family, suffix, labels)
    }

    fn add(&mut self, id: u32, delta: u64) {
        self.0.add_to_stat(id, delta);
    }

    fn set(&mut self, id: u32, value: u64) {
        self.0.set_stat(id, value);
    }

    fn has_time(&mut self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use catalogue::Stat;

    use super::*;
    use crate::config::StatsConfig;

    /// A host whose clock moves by `step` with each definition.
    #[derive(Default)]
    struct Host {
        micros: u64,
        step: u64,
        defined: u32,
        added: u64,
    }

    impl HostStats for Host {
        fn define_stat(&mut self, _: SinkKind, _: &str, _: &str, _: &[(Label, &str)]) -> Option<u32> {
            self.micros += self.step;
            self.defined += 1;
            Some(self.defined)
        }

        fn add_to_stat(&mut self, _: u32, delta: u64) {
            self.added += delta;
        }

        fn set_stat(&mut self, _: u32, _: u64) {}

        fn now(&mut self) -> Timestamp {
            Timestamp::from_micros(self.micros)
        }
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(StatsConfig::default());
        let id = ledger.labelled(Stat::SchedulerE2eDurationSeconds, &[]).unwrap();
        ledger.sample(id, 1);
        for index in 0..40 {
            ledger.count(Stat::RequestBodiesTotal, &[&alloc::format!("{index}")]);
        }
        ledger
    }

    #[test]
    fn a_tick_defines_no_more_than_there_is_time_for() {
        for (step, most) in [(0, MAX_DEFINITIONS), (300, 4)] {
            let (mut ledger, mut host) = (ledger(), Host { step, ..Host::default() });
            let mut flusher = Flusher::default();
            let mut before = 0;
            while ledger.undefined() > 0 {
                flusher.tick(&mut ledger, &mut host, 1_000, Timestamp::default());
                assert!(host.defined > before && host.defined - before <= most, "{} after {before}", host.defined);
                before = host.defined;
            }
        }
    }

    #[test]
    fn the_last_flush_leaves_nothing_behind() {
        let (mut ledger, mut host) = (ledger(), Host { step: 300, ..Host::default() });
        let mut flusher = Flusher::default();
        flusher.tick(&mut ledger, &mut host, 0, Timestamp::default());
        ledger.count(Stat::RequestBodiesTotal, &["0"]);
        flusher.finish(&mut ledger, &mut host);
        assert_eq!(ledger.undefined(), 0);
        let sample = host.added - 41;
        assert!(sample > 2, "all buckets above the sample, and its count: {sample}");
    }
}
