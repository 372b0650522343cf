//! Configurations of the filter in the forms in which operators have them.

use std::time::Duration;

use crate::world::{self, chat, loaded, picked, sidecar};

/// As the endpoint picker's chart has it.
const THEIRS: &str = "apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
- type: metrics-data-source
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: queue-scorer
    weight: 2
  - pluginRef: kv-cache-utilization-scorer
    weight: 2
  - pluginRef: prefix-cache-scorer
    weight: 3
";

#[test]
fn the_endpoint_pickers_document_is_read_as_it_stands() {
    let snapshot = loaded([9, 0]);
    let host = world::builder().plugin_configuration(THEIRS).cluster_script("inpick-sidecar", sidecar(&snapshot));
    let host = host.build().expect("the filter accepts it");
    host.advance(Duration::from_secs(2));
    assert_eq!(picked(&host.request(chat()).expect("a request")), "10.0.0.2:8000");
    let noted = host.logs().iter().any(|line| line.text.contains("plugins[3].type: metrics-data-source has no effect"));
    assert!(noted, "{:?}", host.logs());
}

#[test]
fn all_that_the_filter_cannot_do_is_refused_at_once() {
    let refusal = |config: &str| match world::builder().plugin_configuration(config).build() {
        Ok(_) => panic!("accepted: {config}"),
        Err(error) => error.to_string(),
    };
    let theirs =
        THEIRS.replace("type: queue-scorer", "type: unheard-of").replace("metrics-data-source", "token-producer");
    let error = refusal(&theirs);
    for named in
        ["plugins[0].type: unheard-of is unknown", "plugins[3].type: token-producer is not supported", "queue-scorer"]
    {
        assert!(error.contains(named), "{named} in {error}");
    }
    let error = refusal("pool: 7\ntypo: 1\n");
    assert!(error.contains("pool: must be") && error.contains("typo: unknown"), "{error}");
}
