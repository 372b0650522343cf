//! A stream that waits in flow control, as other threads see it.

use std::sync::{Mutex, PoisonError};

use endpoint_picker::flow_control::Wake;

use crate::envoy::Scheduler;

/// Has a stream go on that waits, from any thread, until the stream is over.
///
/// Its lock is held for one post to the thread of the stream, by who wakes it or by who ends it: nobody else takes it.
#[derive(Debug)]
pub(crate) struct ParkedStream {
    /// What flow control knows it by.
    number: u64,
    /// `None`: the stream does not wait any more. Its thread may end then, which a scheduler must not outlive.
    scheduler: Mutex<Option<Scheduler>>,
}

impl ParkedStream {
    pub(crate) const fn new(number: u64, scheduler: Scheduler) -> Self {
        Self { number, scheduler: Mutex::new(Some(scheduler)) }
    }

    /// What flow control knows it by.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// It does not wait any more.
    pub(crate) fn close(&self) {
        self.scheduler.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Wake for ParkedStream {
    fn wake(&self) {
        if let Some(scheduler) = &*self.scheduler.lock().unwrap_or_else(PoisonError::into_inner) {
            scheduler.commit(self.number);
        }
    }
}
