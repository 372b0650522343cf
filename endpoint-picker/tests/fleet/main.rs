//! Scenarios of whole fleets, in virtual time: what sick pods, slow pages and odd clients can and cannot do to the rest.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: a failure here is the test's failure"
)]

mod fleet;
mod pod;
mod scenarios;
#[path = "../plain/stats.rs"]
mod stats;
