//! What Envoy calls: every function that Envoy 1.40 looks up in a module of these two kinds.
//!
//! The contract behind each `unsafe`: Envoy passes the pointers that it was given by the hooks that make things, until it has called the hook
//! that ends them, and its own pointers are valid until the hook returns; hooks of one stream run on one thread. What a hook that makes
//! something gives Envoy is a `Box`, whose ownership comes back in the hook that ends it.
//!
//! Each runs in [`guard`](crate::panics::guard), so a panic has a defined answer.

pub mod bootstrap;
pub mod http;

use std::ffi::{c_char, c_void};

use crate::abi::{self, Buffer};
use crate::log_sink;
use crate::panics::{Hook, guard};

/// Envoy has loaded the module and asks for which version of the interface it was built.
#[allow(unsafe_code, reason = "Envoy looks the name up")]
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_program_init() -> *const c_char {
    let version = abi::VERSION.as_ptr();
    let install = || {
        log_sink::install();
        version
    };
    guard(Hook::Load, install, || version, version)
}

/// Bytes that Envoy passed to a hook, for as long as the hook runs.
///
/// # Safety
///
/// The buffer must be one that Envoy passed to the current hook, which `'hook` must not outlive.
#[allow(unsafe_code, reason = "reads Envoy's memory")]
const unsafe fn bytes<'hook>(buffer: Buffer) -> &'hook [u8] {
    if buffer.ptr.is_null() || buffer.length == 0 {
        return &[];
    }
    // SAFETY: Envoy's buffers are valid until the hook returns.
    unsafe { std::slice::from_raw_parts(buffer.ptr.cast(), buffer.length) }
}

/// What a hook that makes something gives Envoy; null: it was not made.
fn give<T>(made: Option<T>) -> *const c_void {
    made.map_or(std::ptr::null(), |made| Box::into_raw(Box::new(made)).cast_const().cast())
}

/// What [`give`] gave Envoy.
///
/// # Safety
///
/// `given` must be null or a result of [`give`] for a `T` that has not been taken back, and `'hook` must not outlive the current hook.
#[allow(unsafe_code, reason = "reads what Envoy carried")]
const unsafe fn given<'hook, T>(given: *const c_void) -> Option<&'hook T> {
    // SAFETY: see above.
    unsafe { given.cast::<T>().as_ref() }
}

/// Takes back what [`give`] gave Envoy.
///
/// # Safety
///
/// `given` must be null or a result of [`give`] for a `T` that nobody has any more.
#[allow(unsafe_code, reason = "takes back what Envoy carried")]
unsafe fn take_back<T>(given: *const c_void) {
    if !given.is_null() {
        // SAFETY: see above.
        drop(unsafe { Box::from_raw(given.cast::<T>().cast_mut()) });
    }
}
