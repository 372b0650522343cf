//! A host's stats by name. Tests include this file.

use catalogue::{Label, stat_name};
use endpoint_picker::ledger::{Ledger, SinkKind, StatSink};

/// Envoy's stats, as far as a ledger was carried to them.
#[derive(Default)]
pub(crate) struct Stats(pub(crate) Vec<(String, u64)>);

impl Stats {
    /// All that a ledger holds.
    pub(crate) fn of(ledger: &mut Ledger) -> Self {
        let mut stats = Self::default();
        ledger.define(&mut stats);
        ledger.begin_flush();
        assert!(ledger.flush(&mut stats));
        stats
    }
}

impl StatSink for Stats {
    fn define(&mut self, _: SinkKind, family: &str, suffix: &str, labels: &[(Label, &str)]) -> Option<u32> {
        self.0.push((stat_name(family, suffix, labels), 0));
        u32::try_from(self.0.len() - 1).ok()
    }

    fn add(&mut self, id: u32, delta: u64) {
        self.0[id as usize].1 += delta;
    }

    fn set(&mut self, id: u32, value: u64) {
        self.0[id as usize].1 = value;
    }

    fn has_time(&mut self) -> bool {
        true
    }
}
