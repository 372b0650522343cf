//! host-sim against the real Envoy: each scenario runs on both, and both must show the same to the client, to the upstream, in the
//! stats and to the guest.
//!
//! A scenario is data ([`scenario`]). [`simulated`] plays it on host-sim, [`real`] on one Envoy process with a listener a scenario;
//! each gives an [`observed::Observed`].
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: a failure here is the test's failure"
)]

mod bootstrap;
mod modules;
mod observed;
mod real;
mod scenario;
mod simulated;
mod upstream;
mod wire;

/// Names scenarios, makes a test of each, and lists them for Envoy's bootstrap.
macro_rules! scenarios {
    ($($(#[$attribute:meta])* $name:ident: $scenario:expr;)*) => {
        pub(crate) fn all() -> Vec<crate::scenario::Scenario> {
            vec![$($scenario.named(stringify!($name))),*]
        }

        $(
            $(#[$attribute])*
            #[test]
            fn $name() {
                crate::agree(stringify!($name));
            }
        )*
    };
}

mod bodies;
mod endings;
mod failures;
mod maps;
mod picking;
mod properties;
mod replies;
mod sharing;

fn all() -> Vec<scenario::Scenario> {
    let themes = [
        bodies::all(),
        endings::all(),
        failures::all(),
        maps::all(),
        picking::all(),
        properties::all(),
        replies::all(),
        sharing::all(),
    ];
    themes.into_iter().flatten().collect()
}

/// Plays the scenario of this name on both, and compares.
#[track_caller]
fn agree(name: &str) {
    let envoy = real::Envoy::shared();
    let scenario = envoy.scenario(name);
    let simulated = simulated::observe(scenario, envoy.upstreams());
    let real = envoy.observe(scenario, &simulated);
    println!("seen on Envoy:\n{}\n", real.lines().join("\n"));
    let difference = observed::difference(&simulated, &real);
    if scenario.differs {
        assert!(
            !difference.is_empty(),
            "{name}: host-sim and Envoy agree; the README of host-sim says that they do not"
        );
        return;
    }
    assert!(difference.is_empty(), "{name}: host-sim (-) and Envoy (+) differ\n{difference}");
}
