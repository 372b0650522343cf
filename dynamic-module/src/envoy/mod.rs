//! Envoy as safe calls: what a hook may ask for, and nothing that outlives it.

mod extension;
pub(crate) mod log;
mod scheduler;
mod stream;

pub(crate) use extension::{Callout, ExtensionConfig, MetricId, MetricKind, Timer};
pub(crate) use scheduler::Scheduler;
pub(crate) use stream::{Attribute, Body, HttpStream, Map, Text};

use crate::abi;

/// Whether Envoy only checks its configuration.
///
/// To be asked on the main thread.
#[allow(unsafe_code, reason = "a call without arguments")]
pub(crate) fn is_validation_mode() -> bool {
    // SAFETY: takes nothing and touches nothing of ours.
    unsafe { abi::envoy_dynamic_module_callback_is_validation_mode() }
}
