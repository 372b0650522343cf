//! Envoy's stats as the ledger wants them, with a bound on the time that one callback gives to them.

use endpoint_picker::Timestamp;
use endpoint_picker::ledger::{Ledger, SinkKind, StatSink};

use crate::host;

/// Time that one tick gives to stats. A worker serves nobody meanwhile; a definition takes tens of microseconds, so a tick that
/// began its last one just in time still ends far below two milliseconds.
const BUDGET_MICROS: u64 = 1_000;

/// Stats defined in one tick at most: at some 100 us each, the bound on time for a clock that stands still.
const MAX_DEFINITIONS: u32 = 16;

/// Stats of Envoy, for the length of one callback.
struct EnvoyStats {
    started: Timestamp,
    defined: u32,
}

impl EnvoyStats {
    fn begin() -> Self {
        Self { started: host::now(), defined: 0 }
    }
}

impl StatSink for EnvoyStats {
    fn define(&mut self, kind: SinkKind, name: &str) -> Option<u32> {
        self.defined += 1;
        let kind = match kind {
            SinkKind::Counter => 0,
            SinkKind::Gauge => 1,
        };
        host::define_metric(kind, name).inspect_err(|refused| log::warn!("stat {name} refused: {refused:?}")).ok()
    }

    fn add(&mut self, id: u32, delta: u64) {
        // An unknown id is the only reason to refuse, and ids come from `define`.
        let _ = host::increment_metric(id, i64::try_from(delta).unwrap_or(i64::MAX));
    }

    fn set(&mut self, id: u32, value: u64) {
        let _ = host::record_metric(id, value);
    }

    fn has_time(&mut self) -> bool {
        self.defined < MAX_DEFINITIONS && host::now().micros_since(self.started) < BUDGET_MICROS
    }
}

/// Carries a ledger to Envoy, a slice a tick.
#[derive(Debug, Default)]
pub(crate) struct Flusher {
    last: Timestamp,
    unfinished: bool,
}

impl Flusher {
    /// Defines what is new and, every `interval_ms`, flushes what was recorded.
    pub(crate) fn tick(&mut self, ledger: &mut Ledger, interval_ms: u64, now: Timestamp) {
        ledger.define(&mut EnvoyStats::begin());
        if !self.unfinished && now.millis_since(self.last) >= interval_ms {
            self.last = now;
            ledger.begin_flush();
            self.unfinished = true;
        }
        if self.unfinished {
            // A budget of its own, or a long line of new stats would keep the old ones from moving.
            self.unfinished = !ledger.flush(&mut EnvoyStats::begin());
        }
    }
}
