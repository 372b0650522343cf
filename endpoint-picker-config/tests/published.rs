//! Configurations that the projects published, as they stand: each is read, or what inpick cannot do of it is named.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: a failure here is the test's failure"
)]
#![cfg(not(target_arch = "wasm32"))]

use std::collections::BTreeSet;
use std::path::Path;

use endpoint_picker::Plugin;
use endpoint_picker_config::{convert, read};
use serde_json::{Value, json};

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configs")
}

fn document(name: &str) -> Value {
    read(&std::fs::read(folder().join(name)).unwrap()).unwrap()
}

fn scorer(name: &str, weight: f64) -> Value {
    json!({"name": name, "weight": weight})
}

fn with_parameters(name: &str, weight: f64, parameters: Value) -> Value {
    json!({"name": name, "weight": weight, "parameters": parameters})
}

fn three(queue: f64, kv_cache: f64, prefix: f64) -> Vec<Value> {
    vec![
        scorer("queue-scorer", queue),
        scorer("kv-cache-utilization-scorer", kv_cache),
        scorer("prefix-cache-scorer", prefix),
    ]
}

/// What is read, each with the scorers that come of it.
fn readable() -> Vec<(&'static str, Vec<Value>)> {
    let prefix = |weight, parameters| vec![with_parameters("prefix-cache-scorer", weight, parameters)];
    let v04 = json!({"hashBlockSize": 5, "maxPrefixBlocksToMatch": 256, "lruCapacityPerServer": 31250});
    vec![
        ("gie-v1.0-chart.yaml", three(1.0, 1.0, 1.0)),
        ("gie-v1.3-chart.yaml", three(2.0, 2.0, 3.0)),
        ("gie-v1.5-chart.yaml", three(2.0, 2.0, 3.0)),
        ("gie-v1.3-chart-latency-predictor.yaml", vec![scorer("predicted-latency-scorer", 1.0)]),
        (
            "gie-v1.5-guide.yaml",
            prefix(50.0, json!({"blockSizeTokens": 5, "maxPrefixBlocksToMatch": 256, "lruCapacityPerServer": 31250})),
        ),
        ("gie-v1.5-default-config.yaml", [three(1.0, 1.0, 1.0), vec![scorer("lora-affinity-scorer", 1.0)]].concat()),
        ("gie-v1.5-conformance.yaml", vec![]),
        ("llm-d-head-epp-config.yaml", vec![scorer("prefix-cache-scorer", 2.0)]),
        (
            "llm-d-head-epp-estimate-prefix-cache-config.yaml",
            vec![scorer("prefix-cache-scorer", 1.0), scorer("load-aware-scorer", 1.0)],
        ),
        (
            "llm-d-head-sim-epp-config.yaml",
            prefix(2.0, json!({"maxPrefixTokensToMatch": 16384, "lruCapacityPerServer": 31250})),
        ),
        (
            "llm-d-head-decode-only.yaml",
            prefix(2.0, json!({"maxPrefixTokensToMatch": 16384, "lruCapacityPerServer": 256})),
        ),
        (
            "llm-d-head-optimized-baseline.yaml",
            vec![
                scorer("queue-scorer", 2.0),
                scorer("kv-cache-utilization-scorer", 2.0),
                with_parameters("prefix-cache-scorer", 3.0, json!({"maxPrefixTokensToMatch": 100_000})),
                scorer("no-hit-lru-scorer", 2.0),
            ],
        ),
        ("llm-d-v0.4-sim-epp-config.yaml", prefix(2.0, v04.clone())),
        (
            "llm-d-v0.4-sim-epp-no-hit-lru.yaml",
            [prefix(2.0, v04), vec![with_parameters("no-hit-lru-scorer", 1.0, json!({"lruSize": 2048}))]].concat(),
        ),
    ]
}

/// What is not, each with the places that are named.
const REFUSED: &[(&str, &[&str])] = &[
    (
        "gie-v1.5-chart-latency-predictor.yaml",
        &["plugins[6].type", "plugins[7].type", "plugins[8].type", "plugins[10].type", "plugins[11].type"],
    ),
    ("gie-v1.5-datalayer-config.yaml", &["plugins[5].type"]),
    ("gie-v1.5-request-attribute-reporter-config.yaml", &["plugins[1].type"]),
    ("llm-d-head-dp-epp-config.yaml", &["plugins[3].type"]),
    ("llm-d-head-epp-burst-prefix-cache-config.yaml", &["plugins[0].type", "plugins[3].type"]),
    (
        "llm-d-head-epp-mm-embeddings-cache-config.yaml",
        &["plugins[0].type", "plugins[4].type", "plugins[5].type", "plugins[6].type"],
    ),
    ("llm-d-head-epp-precise-prefix-cache-config.yaml", &["plugins[0].type", "plugins[6].type"]),
    ("llm-d-head-pd-epp-config.yaml", &["plugins[6].parameters.deciders", "plugins[3].type", "schedulingProfiles"]),
    (
        "llm-d-head-pd-topology-epp-config.yaml",
        &[
            "plugins[6].type",
            "plugins[9].parameters.deciders",
            "plugins[3].type",
            "plugins[7].type",
            "plugins[8].type",
            "schedulingProfiles",
        ],
    ),
    ("llm-d-head-probabilistic-admitter-epp-config.yaml", &["plugins[0].type"]),
    (
        "llm-d-head-sim-e-p-d-epp-config.yaml",
        &["plugins[4].parameters.deciders", "plugins[1].type", "plugins[2].type", "schedulingProfiles"],
    ),
    (
        "llm-d-head-sim-e-pd-epp-config.yaml",
        &["plugins[4].parameters.deciders", "plugins[0].type", "schedulingProfiles"],
    ),
    (
        "llm-d-head-sim-epp-gpu-config.yaml",
        &["plugins[0].type", "plugins[1].type", "plugins[2].type", "plugins[3].type"],
    ),
    ("llm-d-head-sim-epp-kvcache-config.yaml", &["plugins[0].type", "plugins[1].type"]),
    ("llm-d-head-sim-epp-no-hit-lru.yaml", &["plugins[0].type"]),
    ("llm-d-head-sim-epp-tokenizer-vllm-http-config.yaml", &["plugins[0].type", "plugins[1].type"]),
    ("llm-d-head-sim-pd-epp-config.yaml", &["plugins[7].parameters.deciders", "plugins[3].type", "schedulingProfiles"]),
    ("llm-d-head-sim-program-aware-config.yaml", &["flowControl.defaultPriorityBand.fairnessPolicyRef"]),
    ("llm-d-head-soft-reflective-ceiling-epp-config.yaml", &["flowControl.usageLimitPolicyPluginRef"]),
    ("llm-d-v0.4-epp-precise-prefix-cache-config.yaml", &["plugins[2].type"]),
    (
        "llm-d-v0.4-sim-epp-kvcache-config.yaml",
        &["plugins[0].parameters.mode", "plugins[0].parameters.kvEventsConfig", "plugins[0].parameters.indexerConfig"],
    ),
];

#[test]
fn what_is_the_same_here_is_read() {
    for (name, scorers) in readable() {
        let conversion = convert(document(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(conversion.document["scheduling"]["scorers"], Value::from(scorers), "{name}");
        assert_eq!(conversion.document["scheduling"]["picker"], "max-score-picker", "{name}");
        assert!(matches!(Plugin::read(conversion.document.into()), Ok(Plugin::Filter(_))), "{name}");
    }
}

#[test]
fn what_cannot_be_done_is_named_all_at_once() {
    for (name, places) in REFUSED {
        let error = convert(document(name)).unwrap_err();
        let named: BTreeSet<_> = error.0.iter().map(|message| message.split(": ").next().unwrap()).collect();
        assert_eq!(named, places.iter().copied().collect(), "{name}: {error}");
        assert_eq!(error.0.len(), places.len(), "{name}: {error}");
    }
}

#[test]
fn every_file_is_expected_to_be_read_or_refused() {
    let files: BTreeSet<_> =
        std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let read = readable().into_iter().map(|(name, _)| name);
    let expected: BTreeSet<_> = read.chain(REFUSED.iter().map(|(name, _)| *name)).map(str::to_owned).collect();
    assert_eq!(files, expected);
}
