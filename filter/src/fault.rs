//! Crashes on demand, for tests of what one costs. No shipped module has them.
#![allow(clippy::panic, reason = "a crash is what the feature is for")]

use crate::host::{self, Pairs};

/// Where a stream leaves the order to the singleton service.
const SERVICE_KEY: &str = "inpick.fault";

/// Ends the stream's virtual machine, by a panic or without one, or orders the singleton service to end its own, when the request asks for it.
pub(crate) fn inject(pairs: &Pairs) {
    match pairs.iter().find(|(name, _)| *name == b"x-inpick-fault") {
        Some((_, b"panic")) => panic!("asked for by x-inpick-fault"),
        #[cfg(target_arch = "wasm32")]
        Some((_, b"trap")) => std::arch::wasm32::unreachable(),
        Some((_, b"panic-service")) => {
            let _ = host::set_shared_data(SERVICE_KEY, b"panic", 0);
        }
        _ => {}
    }
}

/// Ends the virtual machine of the singleton service, once, when a request has asked for it.
pub(crate) fn trap_if_asked_for() {
    if host::shared_data(SERVICE_KEY).is_some_and(|(value, _)| !value.is_empty()) {
        let _ = host::set_shared_data(SERVICE_KEY, b"", 0);
        panic!("asked for by x-inpick-fault");
    }
}
