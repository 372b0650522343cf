//! inpick's binding to Envoy as a native dynamic module: an HTTP filter and a bootstrap extension in one shared library.
//!
//! The HTTP filter ([`stream`]) turns Envoy's hooks into calls of the endpoint picker's core and its directives into calls of Envoy, on the
//! worker threads. The bootstrap extension ([`main_thread`]) gives the core's machines between requests their turns on the main thread.
//! Neither decides anything. What all of them share is in [`process`].
//!
//! Unsafe code is in [`abi`], where Envoy's functions are declared, in [`envoy`], which calls them, and in [`hooks`], which Envoy calls; all
//! else is safe. A panic never leaves a hook.

#![deny(unsafe_code)]

pub mod abi;
mod clock;
mod envoy;
#[cfg(feature = "fault-injection")]
mod fault;
pub mod hooks;
mod log_sink;
mod main_thread;
mod panics;
mod parking;
mod plugin;
mod process;
mod shared_memory;
mod sidecar;
mod stats;
mod stream;
