use serde_json::{Value, json};

use super::*;

/// A pod that serves, with changes laid over it.
fn pod(change: Value) -> PodObject {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "namespace": "models", "labels": {"b": "2", "a": "1"}, "annotations": {"x": "y"}, "managedFields": [{"manager": "m"}]},
        "spec": {"containers": [{"name": "vllm", "ports": [{"containerPort": 9}]}]},
        "status": {
            "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
            "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"}],
        },
    });
    lay_over(&mut pod, change);
    serde_json::from_value(pod).unwrap()
}

fn lay_over(onto: &mut Value, change: Value) {
    match (onto, change) {
        (Value::Object(onto), Value::Object(change)) => {
            for (key, value) in change {
                lay_over(onto.entry(key).or_insert(Value::Null), value);
            }
        }
        (onto, change) => *onto = change,
    }
}

fn addresses(pod: &PodObject, ports: &[u16], family: Option<IpFamily>) -> Vec<String> {
    pod.endpoints(ports, family).iter().map(|endpoint| endpoint.address.to_string()).collect()
}

#[test]
fn a_ready_pod_is_an_endpoint_with_its_name_namespace_and_labels() {
    let endpoints = pod(json!({})).endpoints(&[8000], None);
    let expected = PodEndpoint {
        address: "10.0.0.1:8000".parse().unwrap(),
        pod: "a".to_owned(),
        namespace: "models".to_owned(),
        rank: None,
        labels: vec![("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())],
    };
    assert_eq!(endpoints, [expected]);
}

#[test]
fn a_pod_that_does_not_serve_is_none() {
    let ready = |status: &str| json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
    for (why, change) in [
        ("to be deleted", json!({"metadata": {"deletionTimestamp": "2026-11-26T10:00:00Z"}})),
        ("not ready", ready("False")),
        ("nobody knows", ready("Unknown")),
        (
            "a readiness gate is open",
            json!({"status": {"conditions": [{"type": "ContainersReady", "status": "True"}, {"type": "example.com/gate", "status": "False"}, {"type": "Ready", "status": "False"}]}}),
        ),
        ("no condition yet", json!({"status": {"conditions": null}})),
        ("no condition Ready", json!({"status": {"conditions": [{"type": "ContainersReady", "status": "True"}]}})),
        ("no address yet", json!({"status": {"podIP": null, "podIPs": null}})),
        ("an empty address", json!({"status": {"podIP": "", "podIPs": []}})),
        ("no address but a name", json!({"status": {"podIP": "node", "podIPs": []}})),
        ("it has ended well", json!({"status": {"phase": "Succeeded"}})),
        ("it has failed", json!({"status": {"phase": "Failed"}})),
        ("no status", json!({"status": {"conditions": 3}})),
    ] {
        assert_eq!(pod(change).endpoints(&[8000], None), [], "{why}");
    }
    let pod: PodObject = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
    assert_eq!(pod.endpoints(&[8000], None), []);
}

#[test]
fn what_of_a_status_is_malformed_is_told_and_nothing_else_is_lost() {
    assert_eq!(pod(json!({})).trouble(), None);
    let list: Vec<PodObject> = serde_json::from_value(json!([
        {"metadata": {"name": "bad"}, "status": {"podIP": 7}},
        {"metadata": {"name": "good"}, "status": {"podIP": "10.0.0.2", "conditions": [{"type": "Ready", "status": "True"}]}},
    ]))
    .unwrap();
    assert!(list[0].trouble().unwrap().contains("expected a string"), "{:?}", list[0].trouble());
    assert_eq!(endpoints(&list, &[80], None).len(), 1);
}

#[test]
fn each_port_is_an_endpoint_with_its_rank() {
    let ranks = |change| {
        let endpoints = pod(change).endpoints(&[8000, 8001, 8002], None);
        endpoints.iter().map(|endpoint| (endpoint.address.port(), endpoint.rank)).collect::<Vec<_>>()
    };
    let of = |text: &str| json!({"metadata": {"annotations": {"inference.networking.k8s.io/active-ports": text}}});
    assert_eq!(ranks(json!({})), [(8000, Some(0)), (8001, Some(1)), (8002, Some(2))]);
    assert_eq!(ranks(of("8002, 8000")), [(8000, Some(0)), (8002, Some(2))]);
    assert_eq!(ranks(of(" 8001 ,9999,x,-1,70000,")), [(8001, Some(1))]);
    assert_eq!(ranks(of("")), []);
    let newer = json!({"metadata": {"annotations": {"llm-d.ai/active-ports": "8001", "inference.networking.k8s.io/active-ports": "8002"}}});
    assert_eq!(ranks(newer), [(8001, Some(1))]);
}

#[test]
fn the_first_address_counts_unless_a_family_is_asked_for() {
    let dual = pod(json!({}));
    assert_eq!(addresses(&dual, &[80], None), ["10.0.0.1:80"]);
    assert_eq!(addresses(&dual, &[80], Some(IpFamily::Ipv4)), ["10.0.0.1:80"]);
    assert_eq!(addresses(&dual, &[80], Some(IpFamily::Ipv6)), ["[fd00::1]:80"]);
    let six_first = pod(json!({"status": {"podIP": "fd00::1", "podIPs": [{"ip": "fd00::1"}, {"ip": "10.0.0.1"}]}}));
    assert_eq!(addresses(&six_first, &[80], None), ["[fd00::1]:80"]);
    assert_eq!(addresses(&six_first, &[80], Some(IpFamily::Ipv4)), ["10.0.0.1:80"]);
    let six = pod(json!({"status": {"podIP": "fd00::1", "podIPs": [{"ip": "fd00::1"}]}}));
    assert_eq!(addresses(&six, &[80], None), ["[fd00::1]:80"]);
    assert_eq!(addresses(&six, &[80], Some(IpFamily::Ipv4)), Vec::<String>::new());
    let old = pod(json!({"status": {"podIP": "10.0.0.9", "podIPs": null}}));
    assert_eq!(addresses(&old, &[80], None), ["10.0.0.9:80"]);
}

#[test]
fn pods_in_their_nodes_network_are_told_apart_by_nothing_but_the_address() {
    let named = |name: &str, ip: &str| {
        pod(
            json!({"metadata": {"name": name}, "spec": {"hostNetwork": true}, "status": {"podIP": ip, "podIPs": [{"ip": ip}]}}),
        )
    };
    let pods = [named("c", "10.0.0.3"), named("b", "10.0.0.1"), named("a", "10.0.0.1")];
    let seen: Vec<_> = endpoints(&pods, &[80], None)
        .into_iter()
        .map(|endpoint| (endpoint.pod, endpoint.address.to_string()))
        .collect();
    assert_eq!(seen, [("a".to_owned(), "10.0.0.1:80".to_owned()), ("c".to_owned(), "10.0.0.3:80".to_owned())]);
}

#[test]
fn what_is_forgotten_changes_no_endpoint() {
    for change in [json!({}), json!({"metadata": {"annotations": {"llm-d.ai/active-ports": "8001"}}})] {
        let before = pod(change);
        let mut after = before.clone();
        after.shrink();
        assert_eq!(after.endpoints(&[8000, 8001], None), before.endpoints(&[8000, 8001], None));
        assert_eq!(after.metadata.managed_fields, None);
        assert!(!after.metadata.annotations.unwrap_or_default().contains_key("x"));
    }
}
