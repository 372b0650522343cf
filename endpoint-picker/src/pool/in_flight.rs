//! Requests in flight to one endpoint, by the time at which they were sent.
//!
//! An endpoint's page says what its engine had when the page was made. Whatever was sent since is not in it, so the picker adds it.
//! How much that is depends on the age of that endpoint's own page, hence the record by time.

use super::ring::{self, Ring};
use crate::time::Timestamp;

/// Width of one slot of the record. A request sent in the same slot as the page was made counts as not contained in it, so a figure is too
/// high by what 20 ms bring.
const SLOT_MICROS: u64 = 20_000;
/// Slots: together 1.28 s. A page that is older is stale within the second, and everything recorded counts as sent since.
const SLOTS: u64 = ring::LENGTH;
/// A slot that is left to other workers is theirs for so long. They are told within 0.15 s, but whoever is first may wait for another endpoint and leave it to
/// the next: in the simulation of twice the load that pods can take, 0.2 s gave the high band a P90 of 1.5 s, and this 1.1 s.
const LEFT_MICROS: u64 = 1_000_000;
/// Where nobody took it, slots are not left again for so long: those that wait there want another endpoint.
const SPURNED_MICROS: u64 = 10_000_000;

/// Requests of this proxy in flight to one endpoint.
#[derive(Clone, Debug, Default)]
pub struct InFlight {
    own: u32,
    /// Those of `own` that were sent in each of the last [`SLOTS`] slots, a ring indexed by the slot's number.
    recent: Ring<u16>,
    /// `own` at the start of each of the same slots.
    history: Ring<u32>,
    /// Number of the newest slot.
    newest: u64,
    others: u32,
    /// `own` when `others` was last told.
    own_when_told: u32,
    /// `others` when the endpoint's current page was installed.
    others_at_page: u32,
    /// All when that page was made.
    at_page: u32,
    /// When a request of this worker ended whose place was left to others and has not been taken yet, and the fewest that all had in flight since.
    vacancy: Option<(Timestamp, u32)>,
    /// Until when a place that nobody took in time is not left to others again.
    spurned_until: Timestamp,
}

impl InFlight {
    /// Requests that this worker has sent and that have not finished.
    #[must_use]
    pub const fn own(&self) -> u32 {
        self.own
    }

    /// The same over all workers of the proxy.
    #[must_use]
    pub const fn total(&self) -> u32 {
        self.own.saturating_add(self.others)
    }

    /// Requests in flight when the endpoint's current page was made.
    #[must_use]
    pub const fn at_page(&self) -> u32 {
        self.at_page
    }

    /// Requests in flight that were sent after `page_at`, and what the other workers' have grown by since that page was installed.
    #[must_use]
    pub fn sent_since(&self, page_at: Timestamp) -> u32 {
        let from = slot(page_at);
        let oldest = self.newest.saturating_sub(SLOTS - 1);
        let own: u32 = (from.max(oldest)..=self.newest)
            .fold(0_u32, |sum, number| sum.saturating_add(u32::from(self.recent.get(number))));
        own.saturating_add(self.others.saturating_sub(self.others_at_page))
    }

    pub(super) fn sent(&mut self, at: Timestamp) {
        self.advance(slot(at));
        if let Some((since, _)) = self.vacancy.take()
            && at.micros_since(since) >= LEFT_MICROS
        {
            self.spurned_until = at.plus_micros(SPURNED_MICROS);
        }
        self.own = self.own.saturating_add(1);
        if let Some(count) = self.recorded(at) {
            *count = count.saturating_add(1);
        }
    }

    /// A request ended; `is_wanted`: its place is left to other workers.
    pub(super) fn finished(&mut self, sent_at: Timestamp, is_wanted: bool, now: Timestamp) {
        self.advance(slot(now));
        self.own = self.own.saturating_sub(1);
        self.vacancy = is_wanted.then(|| (now, self.total()));
        if let Some(count) = self.recorded(sent_at) {
            *count = count.saturating_sub(1);
        }
    }

    /// How many more this worker has in flight than when it was last told of the others; negative: fewer.
    #[must_use]
    pub fn own_since_told(&self) -> i64 {
        i64::from(self.own) - i64::from(self.own_when_told)
    }

    /// Whether what this worker freed last was left to others for long enough, or was so a moment ago, and nobody took it.
    #[must_use]
    pub fn is_spurned(&self, now: Timestamp) -> bool {
        now < self.spurned_until || self.vacancy.is_some_and(|(since, _)| now.micros_since(since) >= LEFT_MICROS)
    }

    /// Nobody else waits for a place any more.
    pub(super) const fn forget_vacancy(&mut self) {
        self.vacancy = None;
    }

    pub(super) fn set_others(&mut self, others: u32) {
        self.others = others;
        self.own_when_told = self.own;
        let total = self.total();
        // More than the fewest since then: somebody took a place.
        self.vacancy = self.vacancy.filter(|(_, left)| total <= *left).map(|(since, left)| (since, left.min(total)));
    }

    pub(super) fn page_installed(&mut self, page_at: Timestamp) {
        self.others_at_page = self.others;
        self.at_page = self.own_at(page_at).saturating_add(self.others);
    }

    /// What this worker had in flight at that moment, between the counts at both ends of its slot.
    fn own_at(&self, at: Timestamp) -> u32 {
        let count = |number: u64| {
            let age = self.newest.checked_sub(number)?;
            (age < SLOTS).then(|| self.history.get(number))
        };
        let number = slot(at);
        let Some(start) = count(number) else { return self.own };
        let end = count(number + 1).unwrap_or(self.own);
        let part = at.as_micros() % SLOT_MICROS;
        let mean = u64::from(start) * (SLOT_MICROS - part) + u64::from(end) * part;
        u32::try_from((mean + SLOT_MICROS / 2) / SLOT_MICROS).unwrap_or(u32::MAX)
    }

    /// The slot of that moment; `None` when it is older than the record, or newer.
    fn recorded(&mut self, at: Timestamp) -> Option<&mut u16> {
        let age = self.newest.checked_sub(slot(at))?;
        if age < SLOTS { self.recent.get_mut(slot(at)) } else { None }
    }

    /// Empties the slots between the newest one and `number`.
    fn advance(&mut self, number: u64) {
        if number <= self.newest {
            return;
        }
        let first = (self.newest + 1).max(number.saturating_sub(SLOTS - 1));
        for skipped in first..=number {
            if let (Some(count), Some(own)) = (self.recent.get_mut(skipped), self.history.get_mut(skipped)) {
                (*count, *own) = (0, self.own);
            }
        }
        self.newest = number;
    }
}

const fn slot(at: Timestamp) -> u64 {
    at.as_micros() / SLOT_MICROS
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
    fn only_what_was_sent_after_the_page_counts_as_sent_since() {
        let mut in_flight = InFlight::default();
        for millis in [1_000, 1_100, 1_200] {
            in_flight.sent(at(millis));
        }
        assert_eq!([900, 1_050, 1_150, 1_300].map(|page| in_flight.sent_since(at(page))), [3, 2, 1, 0]);
        assert_eq!(in_flight.total(), 3);
    }

    #[test]
    fn what_finished_is_in_no_figure() {
        let mut in_flight = InFlight::default();
        in_flight.sent(at(1_000));
        in_flight.sent(at(1_100));
        in_flight.finished(at(1_100), false, at(1_100));
        assert_eq!((in_flight.own(), in_flight.sent_since(at(900)), in_flight.sent_since(at(1_050))), (1, 1, 0));
    }

    #[test]
    fn slots_are_used_again_and_old_requests_leave_no_trace_in_them() {
        let mut in_flight = InFlight::default();
        in_flight.sent(at(0));
        in_flight.sent(at(5_000));
        assert_eq!((in_flight.own(), in_flight.sent_since(at(0))), (2, 1));
        in_flight.finished(at(0), false, at(5_000));
        assert_eq!((in_flight.own(), in_flight.sent_since(at(0))), (1, 1));
    }

    #[test]
    fn a_request_that_was_sent_long_ago_and_moves_here_now_is_not_a_recent_one() {
        let mut in_flight = InFlight::default();
        in_flight.sent(at(10_000));
        in_flight.sent(at(1_000));
        assert_eq!((in_flight.own(), in_flight.sent_since(at(9_900))), (2, 1));
        in_flight.finished(at(1_000), false, at(10_000));
        assert_eq!((in_flight.own(), in_flight.sent_since(at(9_900))), (1, 1));
    }

    #[test]
    fn what_others_had_when_the_page_came_is_in_the_page() {
        let mut in_flight = InFlight::default();
        in_flight.set_others(4);
        in_flight.sent(at(1_000));
        in_flight.page_installed(at(900));
        in_flight.set_others(6);
        assert_eq!((in_flight.total(), in_flight.sent_since(at(900)), in_flight.at_page()), (7, 3, 4));
    }

    #[test]
    fn what_finished_since_the_page_is_in_the_page() {
        let mut in_flight = InFlight::default();
        for millis in [1_000, 1_010, 1_020] {
            in_flight.sent(at(millis));
        }
        in_flight.finished(at(1_000), false, at(1_100));
        in_flight.finished(at(1_010), false, at(1_100));
        in_flight.sent(at(1_110));
        in_flight.page_installed(at(1_060));
        assert_eq!((in_flight.at_page(), in_flight.total()), (3, 2));
        in_flight.page_installed(at(1_100));
        assert_eq!(in_flight.at_page(), 3);
        in_flight.page_installed(at(1_120));
        assert_eq!(in_flight.at_page(), 2);
    }

    #[test]
    fn finishing_more_than_was_sent_stays_at_zero() {
        let mut in_flight = InFlight::default();
        in_flight.finished(at(7), false, at(8));
        assert_eq!(in_flight.total(), 0);
    }
}
