//! The whole gateway: the real Envoy with the real module, the real sidecar, and simulated pods.

// Helpers outside of test functions fail by panicking too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod answers;
mod bad_bodies;
mod bootstraps;
mod clients;
mod conformance;
mod counting;
mod crash;
mod early_pick;
mod endings;
mod failover;
mod health;
mod lease;
mod local_replies;
mod membership;
mod model_names;
mod open_paths;
mod page;
mod picking;
mod prefix_affinity;
mod protocols;
mod responses;
mod rewriting;
mod trust;
mod upstream_connections;

/// The shipped bootstraps: the one that stacks use unless told otherwise, and the one to paste from.
const SHIPPED: [&str; 2] = ["envoy/standalone.yaml", "envoy/fragment.yaml"];
