//! The built `filter.wasm` on the simulated host: what real time, a real network and a well-behaved host would hide.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: a failure here is the test's failure"
)]

mod configurations;
mod crossings;
mod early;
mod endings;
mod imports;
mod lease;
#[path = "../../scenarios/endings.rs"]
mod scenarios;
mod statuses;
mod world;
