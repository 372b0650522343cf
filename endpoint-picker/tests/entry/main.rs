//! What becomes of a request on its way in: whether it is sent, to which endpoints, and what else it is answered.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: a failure here is the test's failure"
)]

#[path = "../plain/host.rs"]
mod host;
#[path = "../plain/shared.rs"]
mod shared;
#[path = "../plain/stats.rs"]
mod stats;

mod attempts;
mod early;
mod endings;
mod hermetic;
mod rules;
mod scene;
mod usage;
