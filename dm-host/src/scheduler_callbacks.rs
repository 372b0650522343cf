//! How a module comes back to a stream from another thread: the one callback that any thread may make.
#![expect(unsafe_code, reason = "exported under the names that the module is linked against")]

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use crate::config_state::{new_handle, pointer};
use crate::filter_chain;
use crate::refusals::CallbackName;
use crate::role::{self, stream_callback};

/// Posts an event to the thread of a stream.
type Post = Box<dyn Fn(u64) + Send>;

/// Who posts for which scheduler; by any thread, so of the whole program.
static SCHEDULERS: Mutex<Option<HashMap<usize, Post>>> = Mutex::new(None);

fn with_schedulers<R>(look: impl FnOnce(&mut HashMap<usize, Post>) -> R) -> R {
    look(SCHEDULERS.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_scheduler_new(filter: *mut c_void) -> *mut c_void {
    let is_there = stream_callback(CallbackName::SchedulerNew, filter, false, |_| true);
    let Some(tasks) = role::look(|role| role.tasks.clone()).flatten().filter(|_| is_there) else {
        return std::ptr::null_mut();
    };
    let stream = filter.addr();
    let post = move |event| {
        // A worker that has ended takes nothing more, as Envoy's dispatcher then.
        drop(tasks.send(Box::new(move || filter_chain::scheduled(stream, event))));
    };
    let handle = new_handle();
    with_schedulers(|schedulers| schedulers.insert(handle, Box::new(post)));
    pointer(handle)
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_scheduler_commit(scheduler: *mut c_void, event: u64) {
    with_schedulers(|schedulers| match schedulers.get(&scheduler.addr()) {
        Some(post) => post(event),
        None => role::stray("http_filter_scheduler_commit was called for a scheduler that is not there".to_owned()),
    });
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_scheduler_delete(scheduler: *mut c_void) {
    if with_schedulers(|schedulers| schedulers.remove(&scheduler.addr())).is_none() {
        role::stray("http_filter_scheduler_delete was called for a scheduler that is not there".to_owned());
    }
}
