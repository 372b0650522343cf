//! In which pieces a request's body is fetched from the host.

/// A body is fetched in slabs of this size: each costs a call, and scanning one takes a fraction of a millisecond.
pub const SLAB_BYTES: usize = 256 * 1024;

/// A range of the host's buffer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Slab {
    /// Its first byte.
    pub start: usize,
    /// Bytes, more than 0 and at most [`SLAB_BYTES`].
    pub length: usize,
}

/// What to do when more of a body came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Due {
    /// Nobody reads this body: let it pass.
    Pass,
    /// Too little for a slab: wait for more.
    Wait,
    /// Fetch it, slab by slab.
    Fetch,
}

/// How far a body has been fetched.
#[derive(Debug, Default)]
pub struct Slabs {
    is_wanted: bool,
    fetched: usize,
    /// Where fetching pauses, since more may not be wanted.
    look: Option<usize>,
}

impl Slabs {
    /// Whether the body is wanted from now on.
    pub const fn set_wanted(&mut self, is_wanted: bool) {
        self.is_wanted = is_wanted;
    }

    /// Whether the body is wanted.
    #[must_use]
    pub const fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// Fetching pauses at that offset of the body, because more may not be wanted; `None`: nowhere.
    pub fn set_look(&mut self, look: Option<u64>) {
        self.look = look.and_then(|look| usize::try_from(look).ok());
    }

    /// The host holds `buffered` bytes of the body; `end`: and no more will come.
    #[must_use]
    pub const fn due(&self, buffered: usize, end: bool) -> Due {
        if !self.is_wanted {
            Due::Pass
        } else if end || self.unread(buffered) >= self.most() {
            Due::Fetch
        } else {
            Due::Wait
        }
    }

    /// The next slab of the `buffered` bytes that the host holds; `None`: all of them were fetched. Where it is not known how many there
    /// are, give [`usize::MAX`] until [`Self::fetched`] says that it was the last.
    #[must_use]
    pub const fn next(&self, buffered: usize) -> Option<Slab> {
        match self.unread(buffered) {
            0 => None,
            unread if unread < self.most() => Some(Slab { start: self.fetched, length: unread }),
            _ => Some(Slab { start: self.fetched, length: self.most() }),
        }
    }

    /// How many of the `buffered` bytes that the host holds were not fetched.
    #[must_use]
    pub const fn unread(&self, buffered: usize) -> usize {
        buffered.saturating_sub(self.fetched)
    }

    /// Most bytes of the next slab.
    const fn most(&self) -> usize {
        match self.look {
            Some(look) if look > self.fetched && look - self.fetched < SLAB_BYTES => look - self.fetched,
            _ => SLAB_BYTES,
        }
    }

    /// The host gave `bytes` bytes of that slab. True: the buffer ends there.
    pub const fn fetched(&mut self, slab: Slab, bytes: usize) -> bool {
        self.fetched = slab.start.saturating_add(bytes);
        bytes < slab.length
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    /// Fetches all that is due.
    fn fetch(slabs: &mut Slabs, buffered: usize) -> Vec<usize> {
        let mut lengths = Vec::new();
        while let Some(slab) = slabs.next(buffered) {
            lengths.push(slab.length);
            assert!(!slabs.fetched(slab, slab.length));
        }
        lengths
    }

    #[test]
    fn a_body_that_nobody_wants_passes() {
        assert_eq!(Slabs::default().due(10 * SLAB_BYTES, true), Due::Pass);
    }

    #[test]
    fn a_body_is_fetched_when_a_slab_is_there_or_its_end() {
        let mut slabs = Slabs::default();
        slabs.set_wanted(true);
        assert_eq!(slabs.due(SLAB_BYTES - 1, false), Due::Wait);
        assert_eq!(slabs.due(SLAB_BYTES + 7, false), Due::Fetch);
        assert_eq!(fetch(&mut slabs, SLAB_BYTES + 7), [SLAB_BYTES, 7]);
        assert_eq!(slabs.due(SLAB_BYTES + 8, false), Due::Wait);
        assert_eq!(slabs.due(SLAB_BYTES + 8, true), Due::Fetch);
        assert_eq!(fetch(&mut slabs, SLAB_BYTES + 8), [1]);
    }

    #[test]
    fn an_end_without_bytes_fetches_nothing() {
        let mut slabs = Slabs::default();
        slabs.set_wanted(true);
        assert_eq!((slabs.due(0, true), slabs.next(0)), (Due::Fetch, None));
    }

    #[test]
    fn a_body_that_is_there_at_once_comes_in_slabs() {
        let mut slabs = Slabs::default();
        slabs.set_wanted(true);
        assert_eq!(fetch(&mut slabs, 3 * SLAB_BYTES + 1), [SLAB_BYTES, SLAB_BYTES, SLAB_BYTES, 1]);
    }

    #[test]
    fn a_buffer_of_unknown_size_is_read_until_it_gives_less_than_was_asked_for() {
        let mut slabs = Slabs::default();
        let slab = slabs.next(usize::MAX).unwrap();
        assert_eq!(slab, Slab { start: 0, length: SLAB_BYTES });
        assert!(!slabs.fetched(slab, SLAB_BYTES));
        let slab = slabs.next(usize::MAX).unwrap();
        assert!(slabs.fetched(slab, 5));
        assert_eq!(slabs.next(SLAB_BYTES + 5), None);
    }

    #[test]
    fn fetching_pauses_where_more_may_not_be_wanted() {
        let mut slabs = Slabs::default();
        slabs.set_wanted(true);
        slabs.set_look(Some(100));
        assert_eq!([99, 100].map(|buffered| slabs.due(buffered, false)), [Due::Wait, Due::Fetch]);
        let slab = slabs.next(250).unwrap();
        assert_eq!(slab, Slab { start: 0, length: 100 });
        assert!(!slabs.fetched(slab, 100));
        assert_eq!(slabs.unread(250), 150);
        slabs.set_look(Some(200));
        assert_eq!((slabs.due(199, false), slabs.next(250)), (Due::Wait, Some(Slab { start: 100, length: 100 })));
        slabs.set_look(None);
        assert_eq!((slabs.due(250, false), slabs.next(250)), (Due::Wait, Some(Slab { start: 100, length: 150 })));
    }
}
