//! What a thread of the simulated Envoy is: the main thread or a worker, and a worker's streams.
//!
//! A stream lives in its worker's thread and is reached without a lock, so that the host orders nothing between two threads of the
//! module that the real Envoy would not order.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use crate::process::Process;
use crate::refusals::CallbackName;
use crate::stream_state::{Life, StreamState};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ThreadKind {
    Main,
    Worker(u32),
}

/// Work for a worker's thread.
pub(crate) type Task = Box<dyn FnOnce() + Send>;

pub(crate) struct Role {
    pub(crate) process: Arc<Process>,
    pub(crate) kind: ThreadKind,
    pub(crate) streams: HashMap<usize, StreamState>,
    /// To this thread, if it takes tasks.
    pub(crate) tasks: Option<Sender<Task>>,
}

thread_local! {
    static ROLE: RefCell<Option<Role>> = const { RefCell::new(None) };
}

/// Callbacks of threads that are none of Envoy's.
static STRAYS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Makes this thread one of Envoy's until [`resign`].
pub(crate) fn assume(process: Arc<Process>, kind: ThreadKind, tasks: Option<Sender<Task>>) {
    ROLE.set(Some(Role { process, kind, streams: HashMap::new(), tasks }));
}

/// This thread is no longer one of Envoy's.
pub(crate) fn resign() {
    drop(ROLE.take());
}

/// Notes what the module did on a thread that may be none of Envoy's.
pub(crate) fn stray(what: String) {
    STRAYS.lock().unwrap_or_else(PoisonError::into_inner).push(what);
}

pub(crate) fn take_strays() -> Vec<String> {
    std::mem::take(&mut *STRAYS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// This thread's role, if it has one.
pub(crate) fn look<R>(look: impl FnOnce(&Role) -> R) -> Option<R> {
    ROLE.with_borrow(|role| role.as_ref().map(look))
}

/// What this thread is, if it is one of Envoy's.
pub(crate) fn kind() -> Option<ThreadKind> {
    look(|role| role.kind)
}

/// The process that this thread belongs to.
pub(crate) fn process() -> Option<Arc<Process>> {
    look(|role| Arc::clone(&role.process))
}

/// A callback: counts it, refuses it if it is to be, and notes it if no thread of Envoy makes it.
pub(crate) fn callback<R>(name: CallbackName, refused: R, answer: impl FnOnce(&mut Role) -> R) -> R {
    ROLE.with_borrow_mut(|role| {
        let Some(role) = role else {
            stray(format!("{} was called by a thread that is none of Envoy's", name.name()));
            return refused;
        };
        if role.process.refusals.strike(name) { refused } else { answer(role) }
    })
}

/// A callback that only the main thread may make.
pub(crate) fn main_callback<R: Clone>(name: CallbackName, refused: R, answer: impl FnOnce(&mut Role) -> R) -> R {
    callback(name, refused.clone(), |role| {
        if role.kind != ThreadKind::Main {
            role.process.violation(format!("{} was called on {:?}", name.name(), role.kind));
            return refused;
        }
        answer(role)
    })
}

/// A callback about a stream. One about a stream that is destroyed, or of another thread, is noted.
pub(crate) fn stream_callback<R: Clone>(
    name: CallbackName,
    filter: *mut c_void,
    refused: R,
    answer: impl FnOnce(&mut StreamState) -> R,
) -> R {
    callback(name, refused.clone(), |role| {
        let kind = role.kind;
        match role.streams.get_mut(&filter.addr()) {
            Some(stream) => match stream.life {
                Life::Open | Life::Over | Life::Completed => return answer(stream),
                Life::Destroying => {}
                Life::Destroyed => role.process.violation(format!("{} after destroy", name.name())),
            },
            None => {
                role.process
                    .violation(format!("{} on {kind:?} for a filter that is not there: {filter:?}", name.name()));
            }
        }
        refused
    })
}

/// A stream of this thread.
pub(crate) fn stream<R>(id: usize, look: impl FnOnce(&mut StreamState) -> R) -> Option<R> {
    ROLE.with_borrow_mut(|role| role.as_mut()?.streams.get_mut(&id).map(look))
}

/// Adds a stream to this thread.
pub(crate) fn add_stream(id: usize, stream: StreamState) {
    ROLE.with_borrow_mut(|role| {
        if let Some(role) = role {
            role.streams.insert(id, stream);
        }
    });
}

/// Forgets a stream. It is dropped outside of the role, because that may destroy its configuration.
pub(crate) fn remove_stream(id: usize) {
    let removed = ROLE.with_borrow_mut(|role| role.as_mut()?.streams.remove(&id));
    drop(removed);
}

/// The streams of this thread.
pub(crate) fn stream_ids() -> Vec<usize> {
    ROLE.with_borrow(|role| role.iter().flat_map(|role| role.streams.keys().copied()).collect())
}
