//! Documents of any kind: what they mean here, and what is wrong with them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: a failure here is the test's failure"
)]

use endpoint_picker::scheduling::{NoHitLru, Picker, Scorer};
use endpoint_picker::session::Carrier;
use endpoint_picker::{Config, Plugin};
use endpoint_picker_config::{Conversion, Reading, convert, parse, read};
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const HEAD: &str = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n";

fn converted(body: &str) -> Conversion {
    convert(read(format!("{HEAD}{body}").as_bytes()).unwrap()).unwrap_or_else(|error| panic!("{body}: {error}"))
}

fn refused(body: &str) -> Vec<String> {
    let document = read(format!("{HEAD}{body}").as_bytes()).unwrap();
    match convert(document) {
        Ok(conversion) => panic!("{body}: {:?}", conversion.document),
        Err(error) => error.0,
    }
}

fn filter(bytes: &str) -> (Config, Vec<String>) {
    match parse(bytes.as_bytes()) {
        Ok(Reading { plugin: Plugin::Filter(config), notes }) => (config, notes),
        other => panic!("{other:?}"),
    }
}

/// Whether each place is named once, and nothing else is.
#[track_caller]
fn assert_named(errors: &[String], places: &[&str]) {
    for place in places {
        assert_eq!(errors.iter().filter(|error| error.starts_with(place)).count(), 1, "{place} in {errors:#?}");
    }
    assert_eq!(errors.len(), places.len(), "{errors:#?}");
}

#[test]
fn the_filter_reads_the_endpoint_pickers_yaml_and_json_alike() {
    let yaml = format!(
        "{HEAD}plugins:
- type: no-hit-lru-scorer
  name: cold
  parameters: {{lruSize: 7}}
- type: weighted-random-picker
  parameters:
    maxNumOfEndpoints: 2
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: cold
    weight: 4
  - pluginRef: weighted-random-picker
"
    );
    let (config, notes) = filter(&yaml);
    assert_eq!(config.profile.scorers, [(Scorer::NoHitLru(NoHitLru { lru_size: 7 }), 4.0)]);
    assert_eq!((config.profile.picker, config.profile.ranked), (Picker::WeightedRandom, 2));
    assert_eq!(notes, [""; 0]);
    let as_json = read(yaml.as_bytes()).unwrap().to_string();
    assert_eq!(filter(&as_json), (config, notes));
}

#[test]
fn inpicks_own_document_may_be_yaml_too() {
    let (config, notes) = filter("pool: llama\nscheduling:\n  ranked: 2\n  picker: random-picker\n");
    assert_eq!((config.pool.as_str(), config.profile.ranked, config.profile.picker), ("llama", 2, Picker::Random));
    assert_eq!(notes, [""; 0]);
    for blank in ["", " \n", "\t\r\u{c}", "{}", "# nothing\n", "---\n", "pool:\n"] {
        assert_eq!(filter(blank), filter(""), "{blank:?}");
    }
    let error = parse(b"pool: 7\ntypo: 1\n").unwrap_err();
    assert_named(&error.0, &["pool: must be", "typo: unknown"]);
}

#[test]
fn bytes_that_are_neither_json_nor_yaml_are_refused() {
    for bytes in ["{\"pool\": \"a\"", "a: b: c", "a: [1", "a: 1\na: 2\n", "---\na: 1\n---\nb: 1\n"] {
        let error = parse(bytes.as_bytes()).unwrap_err().0.join("; ");
        assert!(error.starts_with("not JSON: ") && error.contains("; nor YAML: "), "{bytes:?}: {error}");
    }
    assert!(parse(b"\xff\xfe\x00").is_err());
    assert_named(&parse(b"just words").unwrap_err().0, &["the document: must be an object"]);
    assert_named(&parse(b"[]").unwrap_err().0, &["the document: must be an object"]);
}

#[test]
fn a_document_of_another_kind_or_version_is_refused() {
    let document = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}});
    assert_named(
        &convert(document).unwrap_err().0,
        &["apiVersion: must be one of", "kind: must be one of", "metadata: unknown"],
    );
    assert_named(&parse(b"kind: EndpointPickerConfig").unwrap_err().0, &["apiVersion: missing"]);
    assert!(parse(b"apiVersion: inference.networking.x-k8s.io/v1alpha1\nkind: EndpointPickerConfig\n").is_ok());
}

#[test]
fn every_mistake_is_named_by_its_place() {
    let errors = refused(
        "plugins:
- type: queue-scorer
  parameters: {depth: 1}
- type: no-such-scorer
- type: precise-prefix-cache-producer
- name: prefix
  type: prefix-cache-scorer
  parameters: {autoTune: 3, prefixMatchInfoProducerName: nobody}
- name: prefix
  type: lora-affinity-scorer
- type: random-picker
  parameters: {maxNumOfEndpoints: 0, seed: 1}
- {}
- type: utilization-detector
  parameters: {kvCacheUtilThreshold: 2, metricsStalenessThreshold: soon, queueDepth: 1}
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: heavy}
  - {pluginRef: nobody}
  - {weight: 1}
  - {pluginRef: prefix, priority: 1}
featureGates: [queueControl, unheardOf, dataLayer=maybe, 7]
dataLayer:
  sources: [{pluginRef: nobody, extractors: [{pluginRef: queue-scorer}, {}]}]
  discovery: {pluginRef: file-discovery}
parser: {pluginRef: vllmgrpc-parser}
requestHandler: {parsers: [{pluginRef: nobody}]}
flowControl: {maxByte: 1}
typo: 1
",
    );
    assert_named(
        &errors,
        &[
            "plugins[0].parameters.depth: unknown",
            "plugins[1].type: no-such-scorer is unknown",
            "plugins[2].type: precise-prefix-cache-producer is not supported: ",
            "plugins[3].parameters.autoTune: must be",
            "plugins[3].parameters.prefixMatchInfoProducerName: no plugin is called nobody",
            "plugins[4].name: another plugin is called prefix",
            "plugins[5].parameters.maxNumOfEndpoints: must be",
            "plugins[5].parameters.seed: unknown",
            "plugins[6].type: missing",
            "plugins[7].parameters.kvCacheUtilThreshold: must be",
            "plugins[7].parameters.metricsStalenessThreshold: must be a duration",
            "plugins[7].parameters.queueDepth: unknown",
            "schedulingProfiles[0].plugins[0].weight: must be",
            "schedulingProfiles[0].plugins[1].pluginRef: no plugin is called nobody",
            "schedulingProfiles[0].plugins[2].pluginRef: missing",
            "schedulingProfiles[0].plugins[3].priority: unknown",
            "featureGates[0]: queueControl is unknown",
            "featureGates[1]: unheardOf is unknown",
            "featureGates[2]: must be",
            "featureGates[3]: must be",
            "dataLayer.sources[0].pluginRef: no plugin is called nobody",
            "dataLayer.sources[0].extractors[1].pluginRef: missing",
            "dataLayer.discovery: is not supported: ",
            "parser.pluginRef: vllmgrpc-parser is not supported: ",
            "requestHandler.parsers[0].pluginRef: no plugin is called nobody",
            "flowControl.maxByte: unknown",
            "typo: unknown",
        ],
    );
}

#[test]
fn without_profiles_every_plugin_counts_and_without_a_picker_the_declared_one() {
    let all = converted("plugins: [{type: queue-scorer}, {type: random-picker}, {type: lora-affinity-scorer}]");
    assert_eq!(
        Value::Object(all.document),
        json!({"scheduling": {
            "scorers": [{"name": "queue-scorer", "weight": 1.0}, {"name": "lora-affinity-scorer", "weight": 1.0}],
            "picker": "random-picker",
        }})
    );
    let declared = converted(
        "plugins: [{type: queue-scorer}, {type: kv-cache-utilization-scorer}, {type: random-picker, parameters: {maxNumOfEndpoints: 3}}]
schedulingProfiles: [{name: default, plugins: [{pluginRef: queue-scorer}]}]",
    );
    assert_eq!(
        Value::Object(declared.document),
        json!({"scheduling": {
            "scorers": [{"name": "queue-scorer", "weight": 1.0}],
            "picker": {"name": "random-picker", "parameters": {"maxNumOfEndpoints": 3}},
        }})
    );
    let none = converted("plugins: []\nschedulingProfiles: []");
    assert_eq!(none.document["scheduling"], json!({"scorers": [], "picker": "max-score-picker"}));
    let two = refused(
        "plugins: [{type: random-picker}, {type: max-score-picker}]
schedulingProfiles: [{name: default, plugins: [{pluginRef: random-picker}, {pluginRef: max-score-picker}]}]",
    );
    assert_named(&two, &["plugins[1]: a second picker"]);
}

#[test]
fn the_index_of_prefixes_takes_its_parameters_from_its_producer() {
    let scorers = |body: &str| converted(body).document["scheduling"]["scorers"].clone();
    let named = "plugins:
- {type: approx-prefix-cache-producer, name: short, parameters: {maxPrefixTokensToMatch: 100, autoTune: false}}
- {type: approx-prefix-cache-producer, name: long, parameters: {maxPrefixTokensToMatch: 9000}}
- {type: prefix-cache-scorer, parameters: {prefixMatchInfoProducerName: long, matchLengthWeight: 0.5}}
schedulingProfiles: [{name: default, plugins: [{pluginRef: prefix-cache-scorer}]}]";
    assert_eq!(scorers(named)[0]["parameters"], json!({"maxPrefixTokensToMatch": 9000, "matchLengthWeight": 0.5}));
    let alone = "plugins: [{type: approx-prefix-cache-producer, parameters: {blockSizeTokens: 32}}, {type: prefix-cache-scorer}]";
    assert_eq!(scorers(alone)[0]["parameters"], json!({"blockSizeTokens": 32}));
    let errors = refused("plugins: [{type: approx-prefix-cache-producer, parameters: {blockSizeTokens: -1, x: 1}}]");
    assert_named(&errors, &["plugins[0].parameters.blockSizeTokens: must be", "plugins[0].parameters.x: unknown"]);
}

#[test]
fn thresholds_of_saturation_come_from_wherever_a_version_has_them() {
    let saturation = |body: &str| converted(body).document.get("saturation").cloned().unwrap_or_default();
    let expected = json!({"queue_depth": 10, "kv_cache_usage": 0.7, "staleness_ms": 150});
    let thresholds = "{queueDepthThreshold: 10, kvCacheUtilThreshold: 0.7, metricsStalenessThreshold: 150ms}";
    let detector = format!("plugins: [{{type: utilization-detector, name: full, parameters: {thresholds}}}]\n");
    assert_eq!(saturation(&format!("saturationDetector: {thresholds}")), expected, "v1.3");
    assert_eq!(saturation(&format!("{detector}saturationDetector: {{pluginRef: full}}")), expected, "v1.5");
    assert_eq!(
        saturation(&format!("{detector}flowControl: {{saturationDetector: {{pluginRef: full}}}}")),
        expected,
        "llm-d"
    );
    let both = format!(
        "{detector}saturationDetector: {{queueDepthThreshold: 3}}\nflowControl: {{saturationDetector: {{pluginRef: full}}}}"
    );
    assert_eq!(saturation(&both), expected, "the newer place counts");
    let unnamed = format!("plugins: [{{type: utilization-detector, parameters: {thresholds}}}]\n");
    for reference in ["", "saturationDetector: {}\n", "saturationDetector: {pluginRef: utilization-detector}\n"] {
        assert_eq!(saturation(&format!("{unnamed}{reference}")), expected, "{reference}");
    }
    assert_eq!(saturation(&format!("{detector}saturationDetector: {{pluginRef: utilization-detector}}")), Value::Null);
    assert_eq!(saturation("saturationDetector: {queueDepthThreshold: 999999999}"), json!({"queue_depth": 1_000_000}));
}

/// The section of flow control that comes of a document with the gate open.
fn flow_control(body: &str) -> Value {
    let document = format!("{HEAD}featureGates: [flowControl]\n{body}");
    let (config, _) = filter(&document);
    assert!(config.flow_control.is_some());
    convert(read(document.as_bytes()).unwrap()).unwrap().document["flow_control"].clone()
}

#[test]
fn flow_control_keeps_its_limits_times_and_policies() {
    let defaults = json!({
        "max_requests": 1_000_000, "max_bytes": 1_u64 << 40, "fairness": "best_head", "ordering": "first_come",
    });
    for none in
        ["", "flowControl: {}", "flowControl: {maxRequests: 0, maxBytes: \"0\", defaultPriorityBand: {maxRequests: 0}}"]
    {
        assert_eq!(flow_control(none), defaults, "{none}");
    }
    let all = "plugins:
- {type: round-robin-fairness-policy, name: turns}
- {type: edf-ordering-policy}
- {type: static-usage-limit-policy, name: one}
- {type: utilization-detector, parameters: {queueDepthThreshold: 3, kvCacheUtilThreshold: 0.7}}
flowControl:
  maxRequests: 2k
  maxBytes: 1.5Gi
  defaultRequestTTL: 1m30s
  noEndpointRequestTTL: 5m
  usageLimitPolicyPluginRef: one
  enableEviction: false
  defaultPriorityBand: {priority: 0, maxRequests: 70, maxBytes: 500M, fairnessPolicyRef: turns, orderingPolicyRef: edf-ordering-policy}
  defaultNegativePriorityBand: {maxRequests: 70}
  priorityBands:
  - {priority: 100, maxRequests: 70, maxBytes: 500M, fairnessPolicyRef: turns}
  - {priority: -1, defaultRequestTTL: 90s}
";
    let expected = json!({
        "max_requests": 2_000, "max_bytes": 1_610_612_736_u64, "ttl_ms": 90_000, "max_band_requests": 70,
        "max_band_bytes": 500_000_000, "fairness": "round_robin", "ordering": "earliest_deadline", "queue_depth": 3,
        "kv_cache_usage": 0.7,
    });
    assert_eq!(flow_control(all), expected);
    assert_named(
        &converted(&format!("featureGates: [flowControl=true]\n{all}")).notes,
        &["flowControl.noEndpointRequestTTL: has no effect", "flowControl.usageLimitPolicyPluginRef: has no effect"],
    );
    assert_eq!(flow_control("flowControl: {defaultRequestTTL: 0s}")["ttl_ms"], 86_400_000, "as long as its client");
    assert_eq!(converted("featureGates: [flowControl=false]").document.get("flow_control"), None);
}

#[test]
fn what_flow_control_cannot_do_is_named_by_its_place() {
    let errors = refused(
        "featureGates: [flowControl]
plugins: [{type: program-aware-fairness, name: aware}, {type: priority-holdback-policy}]
flowControl:
  maxRequests: many
  maxBytes: -1
  defaultRequestTTL: soon
  enableEviction: true
  usageLimitPolicyPluginRef: priority-holdback-policy
  defaultPriorityBand: {maxBytes: 1x, fairnessPolicyRef: aware, orderingPolicyRef: nobody, maxBand: 1}
  defaultNegativePriorityBand: {maxRequests: 3}
  priorityBands:
  - {priority: 5, orderingPolicyRef: edf-ordering-policy}
  - {priority: 6, fairnessPolicyRef: slo-deadline-ordering-policy}
  - {priority: 7, weight: 2}
  typo: 1
",
    );
    assert_named(
        &errors,
        &[
            "flowControl.maxRequests: must be a quantity",
            "flowControl.maxBytes: must be a quantity",
            "flowControl.defaultRequestTTL: must be a duration",
            "flowControl.enableEviction: is not supported",
            "flowControl.usageLimitPolicyPluginRef: priority-holdback-policy is not supported",
            "flowControl.defaultPriorityBand.maxBytes: must be a quantity",
            "flowControl.defaultPriorityBand.fairnessPolicyRef: program-aware-fairness is not supported",
            "flowControl.defaultPriorityBand.orderingPolicyRef: no plugin is called nobody",
            "flowControl.defaultPriorityBand.maxBand: unknown",
            "flowControl.defaultNegativePriorityBand: is not supported",
            "flowControl.priorityBands[0]: is not supported",
            "flowControl.priorityBands[1].fairnessPolicyRef: slo-deadline-ordering-policy is not supported",
            "flowControl.priorityBands[2].weight: unknown",
            "flowControl.typo: unknown",
        ],
    );
}

#[test]
fn sections_of_the_filter_that_come_of_plugins_are_valid() {
    let body = "plugins:
- {type: header-based-testing-filter}
- {type: utilization-detector, parameters: {queueDepthThreshold: 7, metricsStalenessThreshold: 1s}}
- {type: session-affinity-scorer, parameters: {encodedEndpointHeaderConfig: {header: X-Stay}}}
";
    let (config, notes) = filter(&format!("{HEAD}{body}"));
    assert_eq!(notes, [""; 0]);
    assert!(config.rules.conformance);
    assert_eq!(config.rules.shedding.unwrap().queue_depth, 7);
    assert_eq!(config.rules.session.unwrap().carrier, Carrier::Header("x-stay".into()));
    let apart = "schedulingProfiles: [{name: default, plugins: []}]\n";
    let (config, _) = filter(&format!("{HEAD}{body}{apart}"));
    assert!(!config.rules.conformance && config.rules.session.is_none(), "no profile refers to them");
}

#[test]
fn sessions_are_kept_by_the_token_that_names_the_endpoint() {
    let default = converted("plugins: [{type: session-affinity-scorer}]");
    assert_eq!(default.document["session"], json!({"header": "x-session-token"}));
    let named = converted(
        "plugins: [{type: session-affinity-scorer, parameters: {strategy: encoded_endpoint_header, profileName: decode, sessionIdConfig: {}}}]",
    );
    assert_eq!(named.document["session"], json!({"header": "x-session-token"}));
    assert_named(&named.notes, &["plugins[0].parameters.sessionIdConfig: ", "plugins[0].parameters.profileName: "]);
    let errors = refused(
        "plugins:
- {type: session-affinity-scorer, name: a, parameters: {strategy: session_id}}
- {type: session-affinity-scorer, name: b, parameters: {strategy: best, encodedEndpointHeaderConfig: {head: x}, ttl: 1}}",
    );
    assert_named(
        &errors,
        &[
            "plugins[0].parameters.strategy: session_id is not supported",
            "plugins[1].parameters.strategy: must be one of",
            "plugins[1].parameters.encodedEndpointHeaderConfig.head: unknown",
            "plugins[1].parameters.ttl: unknown",
        ],
    );
}

#[test]
fn what_has_no_effect_is_noted() {
    let notes = converted(
        "plugins:
- {type: single-profile-handler}
- {type: decode-filter}
- {type: active-request-scorer, parameters: {requestTimeout: 2m, inFlightLoadProducerName: inflight-load-producer}}
- {type: no-hit-lru-scorer, parameters: {prefixPluginType: prefix-cache-scorer}}
- {type: prefill-filter}
schedulingProfiles: [{name: default, plugins: [{pluginRef: decode-filter}]}]
featureGates: [dataLayer, flowControl=false]
flowControl: {maxBytes: 1Gi}
",
    )
    .notes;
    assert_named(
        &notes,
        &[
            "plugins[0].type: single-profile-handler has no effect: ",
            "plugins[1].type: decode-filter has no effect: ",
            "plugins[2].parameters.requestTimeout: has no effect: ",
            "plugins[3].parameters.prefixPluginType: has no effect: ",
            "plugins[4].type: prefill-filter has no effect: no profile refers to it",
            "featureGates[0]: dataLayer has no effect: ",
            "flowControl.maxBytes: has no effect without flow control",
        ],
    );
}

#[cfg(not(target_arch = "wasm32"))]
mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Err(error) = parse(&bytes) {
                prop_assert!(!error.0.is_empty());
            }
        }

        /// A document with lines left out, doubled or moved is read, or refused for a reason.
        #[test]
        fn a_disordered_document_is_read_or_refused(lines in prop::collection::vec(0_usize..30, 0..40)) {
            let file = include_str!("configs/llm-d-head-pd-topology-epp-config.yaml");
            let known: Vec<_> = file.lines().filter(|line| !line.starts_with('#')).collect();
            let text: Vec<_> = lines.iter().filter_map(|&line| known.get(line).copied()).collect();
            if let Err(error) = parse(text.join("\n").as_bytes()) {
                prop_assert!(!error.0.is_empty());
            }
        }
    }
}
