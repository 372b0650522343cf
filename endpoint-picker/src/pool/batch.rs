//! How many requests an engine runs at once, as its pages tell.

use snapshot::Load;

use crate::time::Timestamp;

/// Pages in a row on which requests wait before the batch counts as full. A new request waits for the engine's next step, which is over
/// by the next page.
const FULL_PAGES: u8 = 3;
/// Microseconds for which requests wait before the batch counts as full whose page stays the same: the sidecar sends no second one then, but
/// says that it is still true. A step with a long prompt in it is over by then.
const FULL_MICROS: u64 = 1_000_000;

/// What was seen of an engine's batch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Batch {
    /// The most requests that ran while others waited; `None`: none waited yet.
    pub(super) slots: Option<u32>,
    /// Pages in a row on which requests waited.
    waiting_pages: u8,
    /// When the first of them was made; `None`: no request waits.
    waiting_since: Option<Timestamp>,
}

impl Batch {
    /// Takes in a new page, made at that moment.
    pub(super) fn read(&mut self, load: &Load, at: Timestamp) {
        let (Some(waiting), Some(running)) = (load.waiting, load.running) else { return };
        if waiting > 0 && running > 0 {
            self.waiting_pages = self.waiting_pages.saturating_add(1).min(FULL_PAGES);
            self.waiting_since.get_or_insert(at);
        } else {
            (self.waiting_pages, self.waiting_since) = (0, None);
        }
        self.learn(running, self.waiting_pages >= FULL_PAGES);
    }

    /// Its newest page was still true at that moment.
    pub(super) fn confirm(&mut self, load: &Load, at: Timestamp) {
        let (Some(waiting), Some(running)) = (load.waiting, load.running) else { return };
        let is_waiting = waiting > 0 && running > 0;
        if is_waiting && self.waiting_since.is_some_and(|since| at.micros_since(since) >= FULL_MICROS) {
            self.waiting_pages = FULL_PAGES;
            self.learn(running, true);
        }
    }

    /// So many run. A batch that is smaller than before while requests wait (long prompts fill the cache) is believed by and by.
    fn learn(&mut self, running: u32, is_full: bool) {
        self.slots = match self.slots {
            Some(slots) if running >= slots => Some(running),
            Some(slots) if is_full => Some(slots - (slots - running).div_ceil(8)),
            None if is_full => Some(running),
            known => known,
        };
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn load(waiting: u32, running: u32) -> Load {
        Load { waiting: Some(waiting), running: Some(running), ..Load::default() }
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_micros(millis * 1_000)
    }

    fn after(pages: &[(u32, u32)]) -> Option<u32> {
        let mut batch = Batch::default();
        for (place, &(waiting, running)) in (0..).zip(pages) {
            batch.read(&load(waiting, running), at(50 * place));
        }
        batch.slots
    }

    #[test]
    fn a_page_that_stays_the_same_tells_a_full_batch_once_requests_have_waited_for_a_second() {
        let mut batch = Batch::default();
        batch.read(&load(0, 4), at(0));
        batch.confirm(&load(0, 4), at(5_000));
        assert_eq!(batch.slots, None, "nobody waits");
        batch.read(&load(2, 4), at(5_050));
        batch.confirm(&load(2, 4), at(6_049));
        assert_eq!(batch.slots, None, "a step may last for as long");
        batch.confirm(&load(2, 4), at(6_050));
        assert_eq!(batch.slots, Some(4));
        // Who waits anew has a second again.
        let mut batch = Batch::default();
        batch.read(&load(2, 4), at(0));
        batch.read(&load(0, 4), at(900));
        batch.read(&load(2, 4), at(950));
        batch.confirm(&load(2, 4), at(1_500));
        assert_eq!(batch.slots, None);
    }

    #[test]
    fn a_batch_is_full_while_requests_go_on_waiting() {
        assert_eq!(after(&[(0, 5), (0, 9)]), None);
        assert_eq!(after(&[(1, 2), (0, 3), (1, 2), (1, 3)]), None);
        assert_eq!(after(&[(1, 8), (2, 8), (3, 8)]), Some(8));
        assert_eq!(after(&[(1, 8), (2, 8), (3, 8), (0, 10)]), Some(10));
    }

    #[test]
    fn a_smaller_batch_is_believed_by_and_by() {
        assert_eq!(after(&[(1, 16), (1, 16), (1, 16), (1, 8)]), Some(15));
        assert_eq!(after(&[[(1, 16); 3].as_slice(), &[(1, 8); 60]].concat()), Some(8));
        assert_eq!(after(&[(1, 16), (1, 16), (1, 16), (0, 8), (0, 3)]), Some(16));
    }
}
