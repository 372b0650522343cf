//! Virtual time: a wall clock, a monotonic clock, and what is due when.

use std::collections::BTreeMap;
use std::time::Duration;

/// The wall clock at the start of a host, in time since the Unix epoch: 2026-01-01T00:00:00Z. Any fixed
/// value keeps runs alike; a recent one keeps dates in logs plausible.
pub const DEFAULT_WALL_START: Duration = Duration::from_secs(1_767_225_600);

/// Two clocks that move only when told to.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    monotonic: Duration,
    wall: Duration,
}

impl Clock {
    pub(crate) const fn starting_at(wall: Duration) -> Self {
        Self { monotonic: Duration::ZERO, wall }
    }

    /// Time since the host was built.
    pub(crate) const fn monotonic(&self) -> Duration {
        self.monotonic
    }

    /// Time since the Unix epoch.
    pub(crate) const fn wall(&self) -> Duration {
        self.wall
    }

    /// Moves both clocks forward to `then` on the monotonic clock; a past time changes nothing.
    pub(crate) fn advance_to(&mut self, then: Duration) {
        let step = then.saturating_sub(self.monotonic);
        self.monotonic = self.monotonic.saturating_add(step);
        self.wall = self.wall.saturating_add(step);
    }

    /// Sets the wall clock alone, as a time server would.
    pub(crate) const fn set_wall(&mut self, wall: Duration) {
        self.wall = wall;
    }
}

/// Events ordered by due time, then by the order in which they were armed.
#[derive(Debug)]
pub(crate) struct Schedule<E> {
    due: BTreeMap<(Duration, u64), E>,
    next: u64,
}

impl<E> Default for Schedule<E> {
    fn default() -> Self {
        Self { due: BTreeMap::new(), next: 0 }
    }
}

impl<E> Schedule<E> {
    /// Arms an event at a monotonic time.
    pub(crate) fn arm(&mut self, at: Duration, event: E) {
        self.due.insert((at, self.next), event);
        self.next += 1;
    }

    /// Disarms every event for which `which` returns true.
    pub(crate) fn disarm(&mut self, which: impl Fn(&E) -> bool) {
        self.due.retain(|_, event| !which(event));
    }

    /// Takes the first event that is due at or before `limit`, with its time.
    pub(crate) fn pop_until(&mut self, limit: Duration) -> Option<(Duration, E)> {
        let entry = self.due.first_entry()?;
        let (at, _) = *entry.key();
        (at <= limit).then(|| (at, entry.remove()))
    }

    /// The time of the first event.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.due.keys().next().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_of_time_then_of_arming() {
        let mut schedule = Schedule::default();
        schedule.arm(Duration::from_millis(5), "b");
        schedule.arm(Duration::from_millis(1), "a");
        schedule.arm(Duration::from_millis(5), "c");
        schedule.arm(Duration::from_millis(9), "late");
        let mut seen = Vec::new();
        while let Some((_, event)) = schedule.pop_until(Duration::from_millis(5)) {
            seen.push(event);
        }
        assert_eq!(seen, ["a", "b", "c"]);
        assert_eq!(schedule.next_due(), Some(Duration::from_millis(9)));
    }

    #[test]
    fn the_wall_clock_can_jump_without_the_monotonic_one() {
        let mut clock = Clock::starting_at(Duration::from_secs(100));
        clock.advance_to(Duration::from_secs(5));
        clock.set_wall(Duration::from_secs(50));
        clock.advance_to(Duration::from_secs(6));
        assert_eq!((clock.monotonic(), clock.wall()), (Duration::from_secs(6), Duration::from_secs(51)));
    }
}
