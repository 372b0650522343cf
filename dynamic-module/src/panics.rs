//! Panics end at the hook in which they happen, and are counted.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! hooks {
    ($($id:ident = $name:literal,)*) => {
        /// A hook of Envoy's in which something of ours runs.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub(crate) enum Hook { $($id,)* }

        impl Hook {
            const ALL: &'static [Self] = &[$(Self::$id,)*];

            /// Its name, without what all names of its kind begin with.
            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$id => $name,)* }
            }
        }
    };
}

hooks! {
    Load = "program_init",
    FilterConfig = "config_new",
    FilterConfigEnd = "config_destroy",
    Stream = "new",
    RequestHeaders = "request_headers",
    RequestBody = "request_body",
    RequestTrailers = "request_trailers",
    ResponseHeaders = "response_headers",
    ResponseBody = "response_body",
    ResponseTrailers = "response_trailers",
    Scheduled = "scheduled",
    StreamComplete = "stream_complete",
    StreamEnd = "destroy",
    ExtensionConfig = "bootstrap_extension_config_new",
    ExtensionConfigEnd = "bootstrap_extension_config_destroy",
    ServerInitialized = "bootstrap_extension_server_initialized",
    TimerFired = "bootstrap_extension_timer_fired",
    CalloutDone = "bootstrap_extension_http_callout_done",
    Shutdown = "bootstrap_extension_shutdown",
}

static COUNTS: [AtomicU64; Hook::ALL.len()] = [const { AtomicU64::new(0) }; Hook::ALL.len()];

/// Runs a hook. If it panics, `recover` makes its answer, and if that panics too, `last` is.
pub(crate) fn guard<T>(hook: Hook, run: impl FnOnce() -> T, recover: impl FnOnce() -> T, last: T) -> T {
    caught(hook, run).or_else(|| caught(hook, recover)).unwrap_or(last)
}

fn caught<T>(hook: Hook, run: impl FnOnce() -> T) -> Option<T> {
    // What a panic can leave behind is looked at again by nobody but `recover`: a stream's state is replaced as a whole.
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(answer) => Some(answer),
        Err(payload) => {
            // Dropping what a panic carries may panic again.
            std::mem::forget(payload);
            if let Some(count) = COUNTS.get(hook as usize) {
                count.fetch_add(1, Ordering::Relaxed);
            }
            None
        }
    }
}

/// Panics since this was last asked, by hook.
pub(crate) fn take() -> impl Iterator<Item = (Hook, u64)> {
    let taken = Hook::ALL.iter().zip(&COUNTS).map(|(&hook, count)| (hook, count.swap(0, Ordering::Relaxed)));
    taken.filter(|&(_, count)| count > 0)
}
