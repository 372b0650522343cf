//! The script guest in every situation a filter meets, one module a theme.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]

mod bodies;
mod cli;
mod failures;
mod guest;
mod loading;
mod maps;
mod properties;
mod replies;
mod sharing;
mod support;
mod time;
mod tracing;
