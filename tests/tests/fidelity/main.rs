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
#[path = "../../../host-sim/tests/scenarios/guest.rs"]
mod guest;
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

/// Names in a text that a scenario or a test could have: in backticks, and a sentence by their first word.
fn names(text: &str) -> impl Iterator<Item = &str> {
    const FIRST_WORDS: [&str; 7] = ["a", "an", "the", "after", "of", "two", "without"];
    text.split('`').skip(1).step_by(2).filter(|name| {
        name.split_once('_').is_some_and(|(first, _)| FIRST_WORDS.contains(&first))
            && name.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
    })
}

#[test]
fn every_scenario_that_host_sim_names_is_there() {
    let crate_folder = local_stack::repository().join("host-sim");
    let read = |folder: &str| -> String {
        let files = std::fs::read_dir(crate_folder.join(folder)).unwrap().map(|file| file.unwrap().path());
        files.map(|file| std::fs::read_to_string(file).unwrap()).collect()
    };
    let tests = read("tests/scenarios");
    let known: Vec<&str> = all().iter().map(|scenario| scenario.name).collect();
    let mut named = 0;
    for text in [read("src"), std::fs::read_to_string(crate_folder.join("README.md")).unwrap()] {
        for name in names(&text) {
            named += 1;
            let is_test = tests.contains(&format!("fn {name}("));
            assert!(known.contains(&name) || is_test, "host-sim names the scenario {name}, which is not there");
        }
    }
    assert!(named > 50, "{named}");
}

/// Plays the scenario of this name on both, and compares.
#[track_caller]
fn agree(name: &str) {
    let envoy = real::Envoy::shared(all);
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
