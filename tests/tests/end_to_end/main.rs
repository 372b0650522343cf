//! The whole gateway: the real Envoy with the real module, the real sidecar, and simulated pods.

// Helpers outside of test functions fail by panicking too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod answers;
mod bad_bodies;
mod bootstraps;
mod clients;
mod counting;
mod crash;
mod endings;
mod failover;
mod membership;
mod model_names;
mod page;
mod picking;
mod rewriting;
mod trust;
