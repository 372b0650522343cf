//! Streams that wait in flow control, by the contexts that the host knows them by.
//!
//! Envoy 1.40 answers a stream of a machine that crashed when it would next call the machine about it, which for one that waits is never: its client
//! would get nothing until the connection manager's `stream_idle_timeout`. So those that wait are answered while the machine panics, and are kept
//! apart from all else, which a panic may find borrowed. A trap without a panic, as by a stack that is full, leaves them to that time-out.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use catalogue::{Stat, stat_name};

use crate::abi::Refused;
use crate::host;
use crate::picker::SharedPicker;

/// What Envoy answers to a stream of a machine that crashed. It puts an answer of its own, with this status and these details, in the place of
/// any that passes such a machine, so that nothing else of the answer matters.
const STATUS: u16 = 503;
const DETAILS: &str = "wasm_fail_stream";

thread_local! {
    static WAITING: RefCell<Waiting> = const { RefCell::new(Waiting { contexts: BTreeMap::new(), lost: None }) };
}

struct Waiting {
    /// By the address of who picks for them, and their number there.
    contexts: BTreeMap<(usize, u64), u32>,
    /// The counter of those that a crash ended.
    lost: Option<u32>,
}

fn key(picker: &SharedPicker, number: u64) -> (usize, u64) {
    (Rc::as_ptr(picker).addr(), number)
}

fn with<T: Default>(look: impl FnOnce(&mut Waiting) -> T) -> T {
    WAITING.with(|waiting| waiting.try_borrow_mut().map(|mut waiting| look(&mut waiting)).unwrap_or_default())
}

/// Defines the counter of those that a crash ends, at 0, while nothing is amiss.
pub(crate) fn begin() {
    let lost = host::define_metric(0, &stat_name(Stat::FlowControlLostTotal.family().name, "", &[]));
    match lost {
        Ok(lost) => with(|waiting| waiting.lost = Some(lost)),
        Err(refused) => log::warn!("requests that a crash ends will not be counted: {refused:?}"),
    }
}

/// A stream waits.
pub(crate) fn add(picker: &SharedPicker, number: u64, context: u32) {
    with(|waiting| waiting.contexts.insert(key(picker, number), context));
}

/// It waits no more. Gives its context; `None`: it did not wait.
pub(crate) fn remove(picker: &SharedPicker, number: u64) -> Option<u32> {
    with(|waiting| waiting.contexts.remove(&key(picker, number)))
}

/// The machine panics: answers all that wait, which takes effect after the trap, and counts them.
pub(crate) fn crash() {
    let (contexts, lost) = with(|waiting| (std::mem::take(&mut waiting.contexts), waiting.lost));
    let is_answered = |context: &u32| -> Result<(), Refused> {
        host::turn_to(*context)?;
        host::send_local_reply(STATUS, DETAILS, &[], b"")
    };
    let answered = contexts.values().filter(|context| is_answered(context).is_ok()).count();
    if let Some(lost) = lost.filter(|_| answered > 0) {
        let _ = host::increment_metric(lost, i64::try_from(answered).unwrap_or(i64::MAX));
    }
}
