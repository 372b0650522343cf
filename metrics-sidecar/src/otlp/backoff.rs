//! How long to wait before a request is sent again. Pure: randomness is a seed.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

/// Longest first pause, doubled for each further one.
const FIRST: Duration = Duration::from_secs(1);
/// Longest of all: a collector that is back hears of it within half a minute.
const LONGEST: Duration = Duration::from_secs(30);
/// Longest pause that a collector may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);

/// Pauses that grow while tries fail.
#[derive(Debug)]
pub(crate) struct RetryPauses {
    next: Duration,
    random: SmallRng,
}

impl RetryPauses {
    /// Pauses as after a success.
    pub(crate) fn new(seed: u64) -> Self {
        Self { next: FIRST, random: SmallRng::seed_from_u64(seed) }
    }

    /// The pause after a failure: half of what is due to all of it, so that sidecars that failed together do not come back together; no less
    /// than what the collector asked for.
    pub(crate) fn after_failure(&mut self, asked: Option<Duration>) -> Duration {
        let due = self.next;
        self.next = (due * 2).min(LONGEST);
        let pause = due.mul_f64(self.random.random_range(0.5..=1.0));
        pause.max(asked.unwrap_or_default().min(LONGEST_ASKED))
    }

    /// A try succeeded.
    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_half_a_minute_and_differ_between_sidecars() {
        let mut others = Vec::new();
        for seed in 0..50 {
            let mut pauses = RetryPauses::new(seed);
            for most in [1, 2, 4, 8, 16, 30, 30] {
                let pause = pauses.after_failure(None);
                assert!(pause <= Duration::from_secs(most) && pause * 2 >= Duration::from_secs(most), "{pause:?}");
            }
            pauses.reset();
            let first = pauses.after_failure(None);
            assert!(first <= FIRST);
            others.push(first);
        }
        others.sort();
        others.dedup();
        assert!(others.len() > 40);
    }

    #[test]
    fn what_the_collector_asks_for_is_kept_up_to_an_hour() {
        let mut pauses = RetryPauses::new(1);
        let asked = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(pauses.after_failure(asked(7)), Duration::from_secs(7));
        assert!(pauses.after_failure(asked(0)) >= Duration::from_secs(1));
        assert_eq!(pauses.after_failure(asked(1_000_000)), LONGEST_ASKED);
    }
}
