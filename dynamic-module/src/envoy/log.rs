//! Envoy's log.
#![allow(unsafe_code, reason = "calls Envoy")]

use crate::abi::{self, Buffer};

/// Levels by the ABI's numbers.
#[derive(Clone, Copy)]
pub(crate) enum Level {
    /// Of general interest.
    Info = 2,
    /// Something is not as it should be.
    Warn = 3,
    /// Something failed.
    Error = 4,
    /// A fault of the module's own.
    Critical = 5,
}

/// Writes a line; any thread may.
pub(crate) fn write(level: Level, message: &str, file: &str, line: u32) {
    let (message, file) = (Buffer::of(message.as_bytes()), Buffer::of(file.as_bytes()));
    // SAFETY: Envoy copies both texts during the call.
    unsafe { abi::envoy_dynamic_module_callback_log_v2(level as i32, message, file, line) }
}
