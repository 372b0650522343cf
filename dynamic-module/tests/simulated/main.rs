//! The module in an Envoy for tests: what a well-behaved host, a single thread and usual chunks would hide.
//!
//! The module's state is its process's, so each test runs in a process of its own; `world::alone` sees to it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: a failure here is the test's failure"
)]

// Its hooks are linked by name.
use inpick as _;

/// Makes a test of each scenario, in a process of its own.
macro_rules! tests {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                crate::world::alone(concat!(module_path!(), "::", stringify!($name)), scenarios::$name);
            }
        )*
    };
}

mod bodies;
mod configurations;
mod endings;
mod flow_control;
mod hooks;
#[cfg(feature = "fault-injection")]
mod panics;
mod refusals;
#[path = "../../../tests/scenarios/endings.rs"]
mod scenarios;
mod sidecars;
mod threads;
mod world;
