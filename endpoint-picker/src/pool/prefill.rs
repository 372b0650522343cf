//! Prompts that an endpoint has yet to compute, of requests of this proxy.

use super::ring::{self, Ring};
use crate::time::Timestamp;

/// Width of one slot of the record of requests that tell nothing before their end.
const SLOT_MICROS: u64 = 64_000;
/// Slots: together some four seconds. What is expected later than that counts as expected then.
const SLOTS: u64 = ring::LENGTH;

/// A prompt that was sent to an endpoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Prefill {
    /// Tokens to compute.
    pub tokens: u32,
    /// When the endpoint should have computed them.
    pub expected_at: Timestamp,
    /// The request asks for a stream, whose first token tells when the prompt was computed; else it counts until `expected_at`.
    pub is_told: bool,
}

/// Prompts that one endpoint has yet to compute.
#[derive(Clone, Debug, Default)]
pub struct PrefillQueue {
    told_tokens: u64,
    told_requests: u32,
    /// Since when no first token came although one was waited for.
    quiet_since: Timestamp,
    /// When the last one of those waited for then should have come.
    expected_at: Timestamp,
    /// Tokens of requests that tell nothing, by the slot in which they should be computed.
    untold: Ring<u32>,
    /// Of all slots: a pick asks each endpoint, most of which have no such request.
    untold_tokens: u64,
    /// The oldest slot that is not empty by right.
    first_slot: u64,
    others_tokens: u64,
}

impl PrefillQueue {
    /// Tokens of requests of this worker.
    #[must_use]
    pub fn own_tokens(&self, now: Timestamp) -> u64 {
        if self.untold_tokens == 0 {
            return self.told_tokens;
        }
        let computed: u64 = self.passed(slot(now)).map(|number| u64::from(self.untold.get(number))).sum();
        self.told_tokens.saturating_add(self.untold_tokens.saturating_sub(computed))
    }

    /// The same over all workers of the proxy.
    #[must_use]
    pub fn total_tokens(&self, now: Timestamp) -> u64 {
        self.own_tokens(now).saturating_add(self.others_tokens)
    }

    /// Microseconds by which first tokens are late: none has come since all that are waited for should have.
    #[must_use]
    pub fn overdue_micros(&self, now: Timestamp) -> u64 {
        if self.told_requests == 0 { 0 } else { now.micros_since(self.expected_at.max(self.quiet_since)) }
    }

    pub(super) const fn set_others(&mut self, tokens: u64) {
        self.others_tokens = tokens;
    }

    pub(super) fn begin(&mut self, prefill: Prefill, now: Timestamp) {
        if prefill.is_told {
            if self.told_requests == 0 {
                self.quiet_since = now;
                self.expected_at = prefill.expected_at;
            }
            self.expected_at = self.expected_at.max(prefill.expected_at);
            self.told_tokens = self.told_tokens.saturating_add(u64::from(prefill.tokens));
            self.told_requests = self.told_requests.saturating_add(1);
            return;
        }
        self.advance(slot(now));
        self.change_untold(prefill.expected_at, |tokens| tokens.saturating_add(prefill.tokens));
    }

    /// A prompt is computed, or nobody waits for it any more.
    pub(super) fn end(&mut self, prefill: Prefill, now: Timestamp) {
        if prefill.is_told {
            self.told_tokens = self.told_tokens.saturating_sub(u64::from(prefill.tokens));
            self.told_requests = self.told_requests.saturating_sub(1);
            self.quiet_since = now;
            return;
        }
        self.advance(slot(now));
        if prefill.expected_at >= now {
            self.change_untold(prefill.expected_at, |tokens| tokens.saturating_sub(prefill.tokens));
        }
    }

    fn change_untold(&mut self, at: Timestamp, change: impl Fn(u32) -> u32) {
        let number = slot(at).clamp(self.first_slot, self.first_slot + SLOTS - 1);
        let Some(tokens) = self.untold.get_mut(number) else { return };
        let before = core::mem::replace(tokens, change(*tokens));
        self.untold_tokens = self.untold_tokens.saturating_sub(u64::from(before)).saturating_add(u64::from(*tokens));
    }

    fn advance(&mut self, first: u64) {
        for number in self.passed(first) {
            if let Some(tokens) = self.untold.get_mut(number) {
                self.untold_tokens = self.untold_tokens.saturating_sub(u64::from(core::mem::take(tokens)));
            }
        }
        self.first_slot = self.first_slot.max(first);
    }

    /// Slots of the record before `first`.
    fn passed(&self, first: u64) -> core::ops::Range<u64> {
        self.first_slot..first.min(self.first_slot.saturating_add(SLOTS))
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

    fn prefill(tokens: u32, expected_millis: u64, is_told: bool) -> Prefill {
        Prefill { tokens, expected_at: at(expected_millis), is_told }
    }

    #[test]
    fn a_stream_counts_until_its_first_token() {
        let mut queue = PrefillQueue::default();
        queue.begin(prefill(100, 1_200, true), at(1_000));
        queue.begin(prefill(50, 1_300, true), at(1_100));
        assert_eq!((queue.own_tokens(at(9_000)), queue.overdue_micros(at(1_250))), (150, 0));
        queue.end(prefill(100, 1_200, true), at(1_250));
        assert_eq!((queue.own_tokens(at(1_250)), queue.overdue_micros(at(1_400))), (50, 100_000));
        queue.end(prefill(50, 1_300, true), at(1_500));
        assert_eq!((queue.own_tokens(at(1_500)), queue.overdue_micros(at(9_000))), (0, 0));
    }

    #[test]
    fn what_tells_nothing_counts_until_it_should_be_computed() {
        let mut queue = PrefillQueue::default();
        queue.begin(prefill(100, 1_200, false), at(1_000));
        queue.begin(prefill(70, 60_000, false), at(1_000));
        assert_eq!(queue.own_tokens(at(1_100)), 170);
        assert_eq!(queue.own_tokens(at(1_300)), 70);
        assert_eq!(queue.own_tokens(at(6_000)), 0);
        queue.begin(prefill(5, 6_500, false), at(6_000));
        assert_eq!(queue.own_tokens(at(6_000)), 5);
        queue.end(prefill(5, 6_500, false), at(6_100));
        queue.end(prefill(100, 1_200, false), at(6_100));
        assert_eq!(queue.own_tokens(at(6_100)), 0);
    }

    #[test]
    fn what_tells_nothing_is_the_sum_of_the_slots_to_come_whatever_came_before() {
        let mut queue = PrefillQueue::default();
        let mut rng = crate::rng::Rng::new(1);
        let mut open = alloc::vec::Vec::new();
        for step in 0..2_000 {
            // Now and then a pause that is longer than the record.
            let now = step * 10 + step / 500 * 10_000;
            if rng.below(2) == 0 {
                let sent = prefill(rng.below(100) as u32, now + rng.below(6_000), false);
                queue.begin(sent, at(now));
                open.push(sent);
            } else if let Some(ended) = open.pop() {
                queue.end(ended, at(now));
            }
            for later in [0, 70, 1_000, 5_000] {
                let first = slot(at(now + later)).max(queue.first_slot);
                let slots = first..queue.first_slot + SLOTS;
                let sum: u64 = slots.map(|number| u64::from(queue.untold.get(number))).sum();
                assert_eq!(queue.own_tokens(at(now + later)), sum, "step {step}, {later} ms later");
            }
        }
    }

    #[test]
    fn others_are_added() {
        let mut queue = PrefillQueue::default();
        queue.set_others(7);
        queue.begin(prefill(100, 1_200, true), at(1_000));
        assert_eq!((queue.own_tokens(at(1_000)), queue.total_tokens(at(1_000))), (100, 107));
    }
}
