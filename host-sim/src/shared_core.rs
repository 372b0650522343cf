//! The core behind a lock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::vm::Core;

/// The core of a host, shared by the host and the handles of its streams.
#[derive(Clone)]
pub(crate) struct SharedCore(Arc<Mutex<Core>>);

impl SharedCore {
    pub(crate) fn new(core: Core) -> Self {
        Self(Arc::new(Mutex::new(core)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` when somebody holds the lock: this thread itself, if a test panics in a callback of the host.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, Core>> {
        self.0.try_lock().ok()
    }
}
