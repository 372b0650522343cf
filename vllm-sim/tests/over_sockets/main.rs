//! The simulated pod over real sockets: against recordings of vLLM, in every fault, and as a program.
// Test code: a failed unwrap is a failed test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub
)]

mod captures;
mod client;
mod faults;
mod program;
