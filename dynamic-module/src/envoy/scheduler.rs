//! The way back to a stream, for any thread.
#![allow(unsafe_code, reason = "calls Envoy")]

use std::ffi::c_void;
use std::ptr::NonNull;

use crate::abi;

/// Posts events to the thread of a stream. Envoy drops those of a stream that is over; the thread itself must not have ended.
#[derive(Debug)]
pub(crate) struct Scheduler(NonNull<c_void>);

// SAFETY: Envoy lets any thread post an event and give the scheduler back.
unsafe impl Send for Scheduler {}

impl Scheduler {
    /// # Safety
    ///
    /// `filter` must be the stream that Envoy gave the current hook.
    pub(super) unsafe fn new(filter: *mut c_void) -> Option<Self> {
        // SAFETY: see above.
        NonNull::new(unsafe { abi::envoy_dynamic_module_callback_http_filter_scheduler_new(filter) }).map(Self)
    }

    /// Has the hook `scheduled` run with that event, on the stream's thread.
    pub(crate) fn commit(&self, event: u64) {
        // SAFETY: Envoy made the scheduler, and it was not given back yet.
        unsafe { abi::envoy_dynamic_module_callback_http_filter_scheduler_commit(self.0.as_ptr(), event) }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        // SAFETY: Envoy made the scheduler, and nobody uses it any more.
        unsafe { abi::envoy_dynamic_module_callback_http_filter_scheduler_delete(self.0.as_ptr()) }
    }
}
