//! Requests that wait until an endpoint has room for them, in virtual time.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: a failure here is the test's failure"
)]
#![cfg(not(target_arch = "wasm32"))]

#[path = "../plain/host.rs"]
mod host;
mod outages;
mod queue;
mod rig;
#[path = "../plain/stats.rs"]
mod stats;
