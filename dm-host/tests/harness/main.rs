//! The harness itself, with a module that does on request what a module may and may not do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: a failure here is the test's failure"
)]

mod bodies;
mod endings;
mod guest;
mod lending;
mod main_thread;
mod metrics;
mod refusals;
mod rules;
mod support;
mod threads;
