//! Whether an engine gets on: its counters from page to page. Pure: time comes in as an argument, as the duration since the process
//! started.

use std::time::Duration;

use crate::counters::Counters;
use crate::dialect::EngineKind;
use crate::signals::Signals;

/// An engine is seen to stand still on at least so many pages in a row: two may be the ends of a pause of the whole machine.
const PAGES: u32 = 4;

/// How many times an engine began anew.
#[derive(Clone, Copy, Debug, Default)]
pub struct Incarnation {
    number: u32,
    engine: Option<EngineKind>,
    started_at_ms: Option<u64>,
    counters: Counters,
}

impl Incarnation {
    /// Grows when the engine begins anew.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Takes in a page: another engine, one with another start time, or one with a counter that fell has begun anew. What a page lacks
    /// says nothing.
    pub fn see(&mut self, signals: &Signals) {
        let is_other = signals.engine.zip(self.engine).is_some_and(|(now, before)| now != before);
        let started = signals.started_at_ms.zip(self.started_at_ms).is_some_and(|(now, before)| now != before);
        if is_other || started || signals.counters.fell_since(&self.counters) {
            self.number = self.number.wrapping_add(1);
            self.counters = Counters::default();
        }
        self.counters.update(&signals.counters);
        self.started_at_ms = signals.started_at_ms.or(self.started_at_ms);
        self.engine = signals.engine.or(self.engine);
    }
}

/// Since when an engine with requests has stood still.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standstill(Option<Still>);

#[derive(Clone, Copy, Debug)]
struct Still {
    since: Duration,
    pages: u32,
    lasts: Duration,
    frozen_after: Duration,
}

impl Standstill {
    /// Takes in a page and the one before it. Requests that arrive are no sign of life, since the queue of a frozen engine may grow;
    /// KV blocks that are taken or given back are, since a prefill in chunks takes them long before it counts a token.
    pub fn see(&mut self, signals: &Signals, last: Option<&Signals>, at: Duration) {
        let has_requests = [signals.waiting, signals.running].into_iter().flatten().any(|count| count > 0);
        let frozen_after = signals.engine.and_then(|engine| engine.frozen_after());
        let frozen_after = frozen_after.filter(|_| has_requests && signals.counters.count_steps);
        let is_still = |last: &Signals| {
            (signals.engine, signals.counters, signals.kv_cache_usage)
                == (last.engine, last.counters, last.kv_cache_usage)
        };
        self.0 = frozen_after.map(|frozen_after| match self.0.filter(|_| last.is_some_and(is_still)) {
            Some(still) => {
                let lasts = at.saturating_sub(still.since);
                Still { pages: still.pages.saturating_add(1), lasts, frozen_after, ..still }
            }
            None => Still { since: at, pages: 1, lasts: Duration::ZERO, frozen_after },
        });
    }

    /// Takes in a page that could not be read: the whole machine may have paused, so the time begins anew. An engine that is frozen
    /// already stays so until a page shows otherwise.
    pub fn miss(&mut self) {
        if self.frozen_for().is_none() {
            self.0 = None;
        }
    }

    /// How long the engine has stood still, once that is long enough to call it frozen.
    #[must_use]
    pub fn frozen_for(&self) -> Option<Duration> {
        self.0.filter(|still| still.pages >= PAGES && still.lasts >= still.frozen_after).map(|still| still.lasts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::COUNTERS;

    fn page(engine: EngineKind, running: u32, steps: Option<f64>) -> Signals {
        let mut values = [None; COUNTERS];
        values[0] = steps;
        let counters = Counters { values, count_steps: steps.is_some() };
        Signals { engine: Some(engine), running: Some(running), counters, ..Signals::default() }
    }

    /// Whether the engine counts as frozen after each page; a page every 100 ms.
    fn frozen(pages: impl IntoIterator<Item = Signals>) -> Vec<bool> {
        let mut standstill = Standstill::default();
        let mut last = None;
        let mut seen = Vec::new();
        for (page, at) in pages.into_iter().zip(0..) {
            standstill.see(&page, last.as_ref(), Duration::from_millis(at * 100));
            seen.push(standstill.frozen_for().is_some());
            last = Some(page);
        }
        seen
    }

    fn still(engine: EngineKind, seconds: usize) -> Vec<Signals> {
        vec![page(engine, 2, Some(7.0)); seconds * 10 + 1]
    }

    #[test]
    fn an_engine_that_stands_still_with_requests_is_frozen_until_a_counter_moves() {
        let mut pages = still(EngineKind::Vllm, 5);
        pages.push(page(EngineKind::Vllm, 2, Some(8.0)));
        let seen = frozen(pages);
        assert_eq!((seen[49], seen[50], seen[51]), (false, true, false));
        assert!(!seen[..50].contains(&true));
    }

    #[test]
    fn an_engine_that_gets_on_or_has_nothing_to_do_or_cannot_tell_is_not_frozen() {
        let steps = (0..500).map(|step| page(EngineKind::Vllm, 2, Some(f64::from(step / 40))));
        let idle = vec![page(EngineKind::Vllm, 0, Some(7.0)); 500];
        let silent = vec![page(EngineKind::Vllm, 2, None); 500];
        let usage = |step: u32| Signals {
            kv_cache_usage: Some(f64::from(step / 40) / 100.0),
            ..page(EngineKind::Vllm, 1, Some(7.0))
        };
        let prefill = (0..500).map(usage);
        for pages in [steps.collect::<Vec<_>>(), idle, silent, prefill.collect(), still(EngineKind::TrtllmServe, 50)] {
            assert!(!frozen(pages).contains(&true));
        }
    }

    #[test]
    fn a_queue_that_grows_is_no_sign_of_life() {
        let mut pages = still(EngineKind::Vllm, 5);
        for (page, count) in pages.iter_mut().zip(0..) {
            page.waiting = Some(count);
        }
        assert!(frozen(pages)[50]);
    }

    #[test]
    fn sglang_has_the_time_after_which_it_notices_that_it_is_idle() {
        let seen = frozen(still(EngineKind::Sglang, 40));
        assert_eq!((seen[399], seen[400]), (false, true));
    }

    #[test]
    fn pages_that_could_not_be_read_are_no_standstill() {
        let mut standstill = Standstill::default();
        let signals = page(EngineKind::Vllm, 1, Some(7.0));
        standstill.see(&signals, None, Duration::ZERO);
        standstill.miss();
        for (millis, frozen) in [(9000, false), (9100, false), (9200, false), (13_900, false), (14_000, true)] {
            standstill.see(&signals, Some(&signals), Duration::from_millis(millis));
            assert_eq!(standstill.frozen_for().is_some(), frozen, "{millis}");
        }
        standstill.miss();
        assert!(standstill.frozen_for().is_some(), "a page that is missing unfreezes nothing");
        // Few pages in a long time are no standstill either: the sidecar itself may have stood still.
        let mut standstill = Standstill::default();
        for seconds in [0, 10, 20, 30] {
            standstill.see(&signals, Some(&signals), Duration::from_secs(seconds));
            assert_eq!(standstill.frozen_for().is_some(), seconds == 30);
        }
    }

    #[test]
    fn an_engine_begins_anew_with_another_start_time_or_a_counter_that_fell() {
        let mut incarnation = Incarnation::default();
        let mut see = |started: Option<u64>, steps: Option<f64>| {
            incarnation.see(&Signals { started_at_ms: started, ..page(EngineKind::Vllm, 1, steps) });
            incarnation.number()
        };
        assert_eq!((see(Some(5), Some(9.0)), see(Some(5), Some(9.0)), see(Some(5), Some(10.0))), (0, 0, 0));
        assert_eq!((see(None, None), see(Some(5), Some(11.0))), (0, 0), "what a page lacks says nothing");
        assert_eq!((see(Some(6), Some(12.0)), see(Some(6), Some(12.0))), (1, 1));
        assert_eq!((see(Some(6), Some(3.0)), see(Some(6), Some(4.0))), (2, 2));
        assert_eq!((see(None, None), see(None, Some(3.9))), (2, 3), "known counters outlive a page without them");
        assert_eq!((see(Some(7), Some(2.0)), see(Some(7), Some(3.0))), (4, 4), "both signs of one restart count once");
        incarnation.see(&Signals::default());
        incarnation.see(&page(EngineKind::Tgi, 1, Some(9.0)));
        assert_eq!(incarnation.number(), 5, "another engine at the address");
    }
}
