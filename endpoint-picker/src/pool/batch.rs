//! How many requests an engine runs at once, as its pages tell.

use snapshot::Load;

/// Pages in a row on which requests wait before the batch counts as full. A new request waits for the engine's next step, which is over
/// by the next page.
const FULL_PAGES: u8 = 3;

/// What was seen of an engine's batch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Batch {
    /// The most requests that ran while others waited; `None`: none waited yet.
    pub(super) slots: Option<u32>,
    /// Pages in a row on which requests waited.
    waiting_pages: u8,
}

impl Batch {
    /// Takes in a new page. A batch that is smaller than before while requests wait (long prompts fill the cache) is believed by and by.
    pub(super) fn read(&mut self, load: &Load) {
        let (Some(waiting), Some(running)) = (load.waiting, load.running) else { return };
        let is_waiting = waiting > 0 && running > 0;
        self.waiting_pages = if is_waiting { self.waiting_pages.saturating_add(1).min(FULL_PAGES) } else { 0 };
        let is_full = self.waiting_pages >= FULL_PAGES;
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

    fn after(pages: &[(u32, u32)]) -> Option<u32> {
        let mut batch = Batch::default();
        for &(waiting, running) in pages {
            batch.read(&Load { waiting: Some(waiting), running: Some(running), ..Load::default() });
        }
        batch.slots
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
