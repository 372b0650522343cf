//! Panics on demand, for tests of what one costs. No shipped module has them.
#![allow(clippy::panic, reason = "a panic is what the feature is for")]

use std::sync::Mutex;
use std::sync::PoisonError;

use crate::envoy::{HttpStream, Map};
use crate::panics::Hook;

/// The hook, of those that are not about a stream's headers or bodies, that is to panic next.
static ORDER: Mutex<Option<String>> = Mutex::new(None);

/// Panics in the hook that `x-inpick-fault` of the request names, or leaves the order to a hook that knows no request. `panic` and
/// `panic-service` are what tests of either module say.
pub(crate) fn inject(hook: Hook, envoy: &HttpStream<'_>) {
    let asked = match envoy.values(Map::Request, "x-inpick-fault").next() {
        None => return,
        Some(b"panic") => Hook::RequestHeaders.as_str().as_bytes(),
        Some(b"panic-service") => Hook::TimerFired.as_str().as_bytes(),
        Some(asked) => asked,
    };
    if asked == hook.as_str().as_bytes() {
        panic!("asked for by x-inpick-fault");
    }
    if hook == Hook::RequestHeaders
        && let Ok(name) = std::str::from_utf8(asked)
    {
        *ORDER.lock().unwrap_or_else(PoisonError::into_inner) = Some(name.to_owned());
    }
}

/// Panics, once, in a hook that a request named.
pub(crate) fn inject_if_ordered(hook: Hook) {
    let is_ordered =
        ORDER.lock().unwrap_or_else(PoisonError::into_inner).take_if(|name| name == hook.as_str()).is_some();
    if is_ordered {
        panic!("asked for by x-inpick-fault");
    }
}
