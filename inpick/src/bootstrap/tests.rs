//! The shipped bootstraps, whole and with a piece taken out or bent.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test should stop at what it did not expect"
)]

use super::*;

const WASM: [&str; 2] = [include_str!("../../../envoy/standalone.yaml"), include_str!("../../../envoy/fragment.yaml")];
const NATIVE: [&str; 2] =
    [include_str!("../../../envoy/native.yaml"), include_str!("../../../envoy/native-fragment.yaml")];

fn document(yaml: &str) -> Value {
    serde_saphyr::from_str(yaml).unwrap()
}

/// What is found once each `from` is replaced by `to`.
fn found(yaml: &str, from: &str, to: &str) -> Vec<Finding> {
    assert!(yaml.contains(from), "{from}");
    check(&document(&yaml.replace(from, to)))
}

fn has(findings: &[Finding], severity: Severity, text: &str) -> bool {
    findings.iter().any(|finding| finding.severity == severity && finding.to_string().contains(text))
}

#[test]
fn the_shipped_bootstraps_have_no_fault() {
    for yaml in WASM.into_iter().chain(NATIVE) {
        assert_eq!(check(&document(yaml)), []);
    }
}

#[test]
fn a_piece_of_the_wasm_filter_that_is_missing_or_wrong_is_named() {
    use Severity::{Error, Warning};
    let cases = [
        (
            "allow_on_headers_stop_iteration: true",
            "fail_open: false",
            Error,
            "typed_config.config.allow_on_headers_stop_iteration: expected true",
        ),
        ("failure_policy: FAIL_RELOAD", "failure_policy: FAIL_CLOSED", Warning, "failure_policy: expected FAIL_RELOAD"),
        (
            "root_id: inpick\n",
            "root_id: other\n",
            Error,
            "static_resources.listeners: no connection manager has a filter of inpick",
        ),
        ("{\"pool\": \"default\",", "{\"pool\": 3,", Error, "configuration.value: pool: "),
        (
            "{\"pool\": \"default\",",
            "{\"sidecar\": {\"embedded\": {\"pool\": [\"default=envoy:b\"]}}, \"pool\": \"default\",",
            Error,
            "configuration.value: sidecar.embedded: only the native module",
        ),
        ("tag_name: reason,", "tag_name: cause,", Error, "stats_config.stats_tags: no tag for reason"),
        ("(reason=([^;]*);)", "(cause=([^;]*);)", Error, ".regex: expected '"),
        ("root_id: inpick-snapshot", "root_id: x", Warning, "bootstrap_extensions: no WasmService"),
        (
            "{\"cluster\": \"inpick-sidecar\"}",
            "{\"cluster\": \"nobody\"}",
            Error,
            "snapshot_service.cluster: there is no cluster nobody",
        ),
        (
            "{\"snapshot_service\": {\"cluster\": \"inpick-sidecar\"}}",
            "{\"pool\": \"x\"}",
            Error,
            "snapshot_service: missing",
        ),
        ("- name: inpick-sidecar\n", "- name: other\n", Error, "sidecar.cluster: there is no cluster inpick-sidecar"),
        ("request_body_buffer_limit: 33554432", "x: 1", Warning, "request_body_buffer_limit: missing"),
        ("retry_policy:\n", "other_policy:\n", Warning, "virtual_hosts[0].retry_policy: missing"),
        ("override_host.v3.OverrideHost", "random.v3.Random", Error, "load_balancing_policy: no override_host policy"),
        (
            "- header: x-gateway-destination-endpoint",
            "- header: x-other",
            Error,
            "override_host_sources: no source {header: x-gateway-",
        ),
        ("fallback_policy:", "second_policy:", Error, "fallback_policy: missing"),
        (
            "- remove: x-gateway-destination-endpoint",
            "- remove: x-other",
            Error,
            "removes x-gateway-destination-endpoint",
        ),
        ("key: x-inpick-served-endpoint", "key: x-other", Error, "writes x-inpick-served-endpoint"),
        ("circuit_breakers:", "outlier_detection:", Warning, "outlier_detection: override_host does not ask it"),
        ("circuit_breakers:", "outlier_detection:", Warning, "circuit_breakers: missing"),
    ];
    for yaml in WASM {
        for (from, to, severity, text) in cases {
            // The two ask the sidecar in different words.
            if !yaml.contains(from) && from.contains("\"cluster\": \"inpick-sidecar\"") {
                continue;
            }
            let findings = found(yaml, from, to);
            assert!(has(&findings, severity, text), "{from} -> {to}: {findings:#?}");
        }
    }
    let one = WASM[1].replacen("vm_id: inpick", "vm_id: other", 1);
    assert!(has(&check(&document(&one)), Error, "vm_config.vm_id: expected the same"), "one of the two ids");
}

#[test]
fn a_piece_of_the_native_module_that_is_missing_or_wrong_is_named() {
    use Severity::Error;
    let cases = [
        ("extension_name: inpick", "extension_name: other", ""),
        ("bootstrap.v3", "bootstrap.v3", ""),
        ("dynamic_modules_strip_custom_stat_prefix: true", "other: true", "layered_runtime.layers: no layer sets"),
        ("key: x-gateway-destination-endpoint", "key: x-other", "override_host_sources: no source {metadata: "),
        ("\"pool\": \"default\", \"access_log\"", "\"pool\": \"\", \"access_log\"", "filter_config.value: pool: "),
        ("\"embedded\": {\"pool\"", "\"cluster\": \"nobody\", \"unheard\": {\"pool\"", "filter_config.value: sidecar."),
        ("\"embedded\": {\"pool\"", "\"embedded\": {\"threads\": 2, \"pool\"", "sidecar.embedded.threads: unknown"),
        (
            "\"pool\": \"default\", \"access_log\"",
            "\"pool\": \"other\", \"access_log\"",
            "sidecar.embedded.pool: none is named \"other\"",
        ),
        (
            "extension_name: inpick",
            "extension_name: inpick\n    extension_config: {value: '{\"snapshot_service\": {\"embedded\": {}}}'}",
            "extension_config.value: snapshot_service.embedded.pool is missing",
        ),
        ("DynamicModuleBootstrapExtension", "Other", "bootstrap_extensions: no DynamicModuleBootstrapExtension"),
    ];
    for yaml in NATIVE {
        for (from, to, text) in cases.into_iter().filter(|(_, _, text)| !text.is_empty()) {
            let findings = found(yaml, from, to);
            assert!(has(&findings, Error, text), "{from} -> {to}: {findings:#?}");
        }
    }
}

#[test]
fn a_filter_behind_the_router_is_never_called() {
    let mut document = document(WASM[1]);
    let path = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters";
    document.pointer_mut(path).unwrap().as_array_mut().unwrap().reverse();
    assert!(has(&check(&document), Severity::Error, "http_filters[1]: it stands behind the router"));
}

#[test]
fn clusters_and_routes_that_envoy_is_told_elsewhere_are_not_missed() {
    let mut document = document(WASM[1]);
    document["static_resources"].as_object_mut().unwrap().remove("clusters");
    document["dynamic_resources"] = serde_json::json!({ "cds_config": { "path": "/x" } });
    assert_eq!(check(&document), []);
}

#[test]
fn what_is_printed_is_what_is_expected() {
    let printed = document(&stats_tags());
    let mut with = document(WASM[1]);
    with["stats_config"] = printed["stats_config"].clone();
    assert_eq!(check(&with), []);
}
