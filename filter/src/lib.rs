//! inpick's binding to Envoy: a proxy-wasm module with two kinds of plugin.
//!
//! Envoy calls [`exports`], and [`dispatcher`] finds who is meant. The HTTP filter ([`plugin`], [`stream`]) turns callbacks into calls of
//! the endpoint picker's core and its directives into host calls, and so does the singleton snapshot service of a bootstrap, which is a
//! [`plugin`] too. Neither decides anything; [`envoy`] gives the core's machines what they ask for between requests, [`host`] is the only
//! file that calls Envoy.

mod abi;
mod dispatcher;
mod envoy;
mod exports;
#[cfg(feature = "fault-injection")]
mod fault;
mod filter_state;
mod host;
mod log_sink;
mod picker;
mod plugin;
mod stream;
mod waiting;
