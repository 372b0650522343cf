//! The whole gateway: the real Envoy with the real module, the real sidecar, and simulated pods.

// Helpers outside of test functions fail by panicking too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use tests::Mode;

mod answers;
mod bad_bodies;
mod bootstraps;
mod clients;
#[path = "../../../metrics-sidecar/tests/stage/cluster.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod cluster;
#[path = "../../../metrics-sidecar/tests/stage/collector.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod collector;
mod conformance;
mod counting;
mod crash;
mod early_pick;
mod embedded;
mod endings;
mod explanations;
mod failover;
mod flow_control;
mod gen_ai;
mod health;
mod kubernetes;
mod lease;
mod local_replies;
mod membership;
mod model_names;
mod open_paths;
mod otlp;
mod page;
mod picking;
mod prefix_affinity;
mod protocols;
mod reasons;
mod reconfiguration;
mod responses;
mod rewriting;
mod tracing;
mod trust;
mod upstream_connections;
mod usage;

/// The shipped bootstraps of a binding: the one that stacks use unless told otherwise, and the one to paste from.
fn shipped(mode: Mode) -> [&'static str; 2] {
    match mode {
        Mode::Wasm => ["envoy/standalone.yaml", "envoy/fragment.yaml"],
        Mode::NativeSidecar | Mode::Native => ["envoy/native.yaml", "envoy/native-fragment.yaml"],
    }
}
