//! How fast the queue drains: what a client that is refused is told.

use crate::time::Timestamp;

/// Weight of one dispatch in the mean time between two.
const WEIGHT: f64 = 0.05;
/// A client is told to come again after so many seconds at most: what is further off nobody knows.
const MOST_SECONDS: u32 = 60;

/// The mean time between two requests that leave the queue for an endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    last: Option<Timestamp>,
    mean_micros: Option<f64>,
}

impl Pace {
    /// A request was sent that had waited.
    pub(super) fn dispatched(&mut self, now: Timestamp) {
        if let Some(last) = self.last {
            let micros = now.micros_since(last) as f64;
            let mean = self.mean_micros.get_or_insert(micros);
            *mean += WEIGHT * (micros - *mean);
        }
        self.last = Some(now);
    }

    /// Nobody waits any more: what comes next says nothing of how fast a queue drains.
    pub(super) const fn emptied(&mut self) {
        self.last = None;
    }

    /// Seconds after which a queue of that length should have room; at least 1.
    pub(super) fn retry_after(&self, waiting: u64, now: Timestamp) -> u32 {
        let Some(mean) = self.mean_micros else { return 1 };
        // Who has not been sent for longer than usual is the newest word of the pace.
        let since = self.last.map_or(0.0, |last| now.micros_since(last) as f64);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast from a float saturates")]
        let micros = (mean.max(since) * waiting as f64) as u64;
        let seconds = u32::try_from(micros.div_ceil(1_000_000)).unwrap_or(u32::MAX);
        seconds.clamp(1, MOST_SECONDS)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_micros(millis * 1_000)
    }

    #[test]
    fn a_client_is_told_to_come_when_the_queue_should_be_empty() {
        let mut pace = Pace::default();
        assert_eq!(pace.retry_after(1_000, at(0)), 1, "nothing is known yet");
        for dispatch in 0..200 {
            pace.dispatched(at(100 * dispatch));
        }
        assert_eq!([0, 5, 30, 200, 100_000].map(|waiting| pace.retry_after(waiting, at(19_900))), [1, 1, 3, 20, 60]);
        // Nothing has left for two seconds.
        assert_eq!(pace.retry_after(10, at(21_900)), 20);
    }

    #[test]
    fn the_time_in_which_nobody_waited_is_no_pace() {
        let mut pace = Pace::default();
        pace.dispatched(at(0));
        pace.dispatched(at(100));
        pace.emptied();
        pace.dispatched(at(100_000));
        assert_eq!(pace.retry_after(10, at(100_000)), 1);
    }
}
