//! When to push, and when to push again. Pure: time is the duration since the pusher began.

use std::time::Duration;

use super::backoff::RetryPauses;

/// What follows a request that did not get through.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum AfterFailure {
    /// It is sent again at this time.
    Again(Duration),
    /// By then there is something newer to send. Totals lose nothing by it.
    GivenUp,
}

/// One batch an interval; one that does not get through is tried again while it is the newest.
#[derive(Debug)]
pub(crate) struct PushSchedule {
    interval: Duration,
    due: Duration,
    /// Nothing is sent before: the pause after a failure outlasts the batch that failed.
    not_before: Duration,
    pauses: RetryPauses,
}

impl PushSchedule {
    /// The first batch is due after one interval; `seed` is for the pauses after failures.
    pub(crate) fn new(interval: Duration, seed: u64) -> Self {
        Self { interval, due: interval, not_before: Duration::ZERO, pauses: RetryPauses::new(seed) }
    }

    /// When the next batch is made.
    pub(crate) fn due(&self) -> Duration {
        self.due.max(self.not_before)
    }

    /// A batch is made. Intervals that a pause has eaten are not made up for.
    pub(crate) fn begin(&mut self, now: Duration) {
        let next = self.due + self.interval;
        self.due = if next > now { next } else { now + self.interval };
    }

    /// The collector answered, and the request is done with.
    pub(crate) fn answered(&mut self) {
        self.pauses.reset();
    }

    /// A request did not get through; the collector perhaps asked for a pause.
    pub(crate) fn failed(&mut self, now: Duration, asked: Option<Duration>) -> AfterFailure {
        self.not_before = now + self.pauses.after_failure(asked);
        if self.not_before >= self.due { AfterFailure::GivenUp } else { AfterFailure::Again(self.not_before) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(60);

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Runs a schedule against a collector that says at each time whether it is there; gives when batches were made and when requests went out.
    fn run(until: u64, collector: impl Fn(Duration) -> Result<(), Option<Duration>>) -> (Vec<u64>, Vec<Duration>) {
        let mut schedule = PushSchedule::new(INTERVAL, 7);
        let (mut batches, mut sent) = (Vec::new(), Vec::new());
        let mut now = schedule.due();
        while now < seconds(until) {
            batches.push(now.as_secs());
            schedule.begin(now);
            loop {
                sent.push(now);
                match collector(now) {
                    Ok(()) => {
                        schedule.answered();
                        break;
                    }
                    Err(asked) => match schedule.failed(now, asked) {
                        AfterFailure::Again(at) => {
                            assert!(at > now);
                            now = at;
                        }
                        AfterFailure::GivenUp => break,
                    },
                }
            }
            now = now.max(schedule.due());
        }
        (batches, sent)
    }

    #[test]
    fn batches_that_get_through_are_an_interval_apart() {
        let (batches, sent) = run(400, |_| Ok(()));
        assert_eq!(batches, [60, 120, 180, 240, 300, 360]);
        assert_eq!(sent.len(), batches.len());
    }

    #[test]
    fn while_the_collector_is_away_tries_get_rare_and_newer_batches_take_the_place_of_older_ones() {
        let (batches, sent) = run(3600, |_| Err(None));
        assert!((40..=60).contains(&batches.len()), "{} batches", batches.len());
        // Pauses are up to half a minute, so there are two to four tries a minute.
        assert!((120..=250).contains(&sent.len()), "{} tries", sent.len());
        let pauses: Vec<Duration> = sent.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses[0] < seconds(2) && pauses[1] < seconds(3));
        assert!(pauses.iter().all(|pause| *pause <= seconds(30)));
        assert!(pauses[5..].iter().all(|pause| *pause >= seconds(15)), "{pauses:?}");
    }

    #[test]
    fn a_batch_is_sent_again_within_its_interval_and_a_collector_that_is_back_is_heard_of_soon() {
        let (batches, sent) = run(200, |now| if now < seconds(64) { Err(None) } else { Ok(()) });
        assert_eq!(batches, [60, 120, 180], "the batch that failed is not made anew");
        let first: Vec<_> = sent.iter().filter(|at| **at < seconds(120)).collect();
        assert!((3..=6).contains(&first.len()) && *first[first.len() - 1] < seconds(74), "{first:?}");
    }

    #[test]
    fn a_pause_that_the_collector_asks_for_outlasts_batches() {
        let asks = |now: Duration| if now < seconds(61) { Err(Some(seconds(150))) } else { Ok(()) };
        let (batches, sent) = run(400, asks);
        assert_eq!(batches, [60, 210, 270, 330, 390]);
        assert_eq!(sent[1], seconds(210));
    }
}
