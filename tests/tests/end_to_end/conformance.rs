//! The data path's part of the upstream conformance suite, each test under its upstream name, and the endpoint picker protocol's other ways to
//! confine a request.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tests::{Gateway, MODEL, Mode, builder, chat_body};

tests::on_bindings! {
    both: [gateway_destination_endpoint_served, gateway_following_epp_routing, gateway_following_epp_routing_with_data_parallelism, without_its_switch_the_selection_is_a_header_like_any_other, a_subset_in_the_proxys_metadata_confines, a_load_report_is_asked_for_and_kept_from_clients, a_session_stays_with_its_pod, a_batch_is_shed_while_the_pool_is_full_and_told_when_to_come_back],
    // They need a sidecar that can be ended, or that is not there.
    both_beside_a_sidecar: [epp_unavailable_fail_open],
}

const CHAT: &str = "/v1/chat/completions";
const SELECTION: &str = "test-epp-endpoint-selection";
const SERVED: &str = "x-conformance-test-served-endpoint";

fn conformance(mode: Mode, pods: usize) -> local_stack::Builder {
    builder(mode, pods, json!({"conformance": true}))
}

async fn epp_unavailable_fail_open(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 3, json!({})).without_sidecar().wait_for_snapshot(false)).await;
    for _ in 0..10 {
        let reply = gateway.chat().await;
        assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
        gateway.pod_of(&reply);
    }
}

async fn gateway_destination_endpoint_served(mode: Mode) {
    let mut gateway = Gateway::start(conformance(mode, 3).sidecar_args(["--staleness", "60s"])).await;
    let addrs: Vec<String> = gateway.pods.iter().map(|pod| pod.addr.clone()).collect();
    for (pod, addr) in addrs.iter().enumerate() {
        for body in [chat_body(MODEL, false), chat_body(MODEL, true)] {
            let reply = gateway.send("POST", CHAT, &[(SELECTION, addr)], body).await;
            assert_eq!((reply.status.as_u16(), gateway.pod_of(&reply)), (200, pod));
            assert_eq!(reply.header(SERVED), Some(addr.as_str()));
        }
    }
    // Who serves after a retry is who served.
    gateway.stack.pod(0).unwrap().kill().await;
    let both = format!("{},{}", addrs[0], addrs[2]);
    let reply = gateway.send("POST", CHAT, &[(SELECTION, &both)], chat_body(MODEL, false)).await;
    assert_eq!((reply.status.as_u16(), reply.header(SERVED)), (200, Some(addrs[2].as_str())), "{}", reply.text());
}

/// 100 requests, ten at a time, with a choice of one, two and three pods.
async fn gateway_following_epp_routing(mode: Mode) {
    let gateway = Gateway::start(conformance(mode, 4)).await;
    let addrs: Vec<String> = gateway.pods.iter().map(|pod| pod.addr.clone()).collect();
    for chosen in [&[2][..], &[3, 1], &[0, 2, 3]] {
        let list = chosen.iter().map(|&pod| addrs[pod].as_str()).collect::<Vec<_>>().join(", ");
        let mut served = BTreeSet::new();
        for _ in 0..10 {
            let headers = [(SELECTION, list.as_str())];
            let requests = (0..10).map(|_| gateway.send("POST", CHAT, &headers, chat_body(MODEL, false)));
            for reply in join_all(requests).await {
                assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
                served.insert(gateway.pod_of(&reply));
            }
        }
        assert!(served.iter().all(|pod| chosen.contains(pod)), "{served:?} of {chosen:?}");
        assert_eq!(served.first(), chosen.iter().find(|pod| served.contains(pod)), "{served:?}");
    }
}

/// All pods share an IP and differ in their ports.
async fn gateway_following_epp_routing_with_data_parallelism(mode: Mode) {
    let gateway = Gateway::start(conformance(mode, 3)).await;
    let addrs: Vec<String> = gateway.pods.iter().map(|pod| pod.addr.clone()).collect();
    for (pod, addr) in addrs.iter().enumerate() {
        for _ in 0..20 {
            let reply = gateway.send("POST", CHAT, &[(SELECTION, addr)], chat_body(MODEL, false)).await;
            assert_eq!((reply.status.as_u16(), gateway.pod_of(&reply)), (200, pod));
        }
    }
    // Without a port, every one at that IP may serve.
    let reply = gateway.send("POST", CHAT, &[(SELECTION, "127.0.0.1")], chat_body(MODEL, false)).await;
    assert!(addrs.iter().any(|addr| reply.header(SERVED) == Some(addr)));
    for extra in [&[][..], &[(SELECTION, "127.0.0.1:1, 192.0.2.1")]] {
        let reply = gateway.send("POST", CHAT, extra, chat_body(MODEL, false)).await;
        let is_ip_known = !extra.is_empty();
        assert_eq!(reply.status.as_u16(), if is_ip_known { 200 } else { 429 }, "{}", reply.text());
    }
    let reply = gateway.send("POST", CHAT, &[(SELECTION, "192.0.2.1")], chat_body(MODEL, false)).await;
    assert_eq!(reply.status.as_u16(), 429);
    assert_eq!(gateway.get("/v1/models").await.status.as_u16(), 200, "without a body nothing is scheduled");
}

async fn without_its_switch_the_selection_is_a_header_like_any_other(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 2, json!({}))).await;
    for (pod, waiting) in [(0, 50), (1, 1)] {
        gateway.pin(pod, json!({"waiting": waiting})).await;
    }
    let addr = gateway.pods[0].addr.clone();
    let reply = gateway.send("POST", CHAT, &[(SELECTION, &addr)], chat_body(MODEL, false)).await;
    assert_eq!((gateway.pod_of(&reply), reply.header(SERVED)), (1, None));
}

/// Metadata that a filter in front of this one sets, as a list and as a text.
async fn a_subset_in_the_proxys_metadata_confines(mode: Mode) {
    for as_list in [true, false] {
        let stack = builder(mode, 3, json!({"subset_hint": "metadata"})).patch(move |tree| {
            let clusters = tree["static_resources"]["clusters"].as_array().unwrap();
            let pool = clusters.iter().find(|cluster| cluster["name"] == "pool-default").unwrap();
            let pods = pool["load_assignment"]["endpoints"][0]["lb_endpoints"].as_array().unwrap();
            let addr = |pod: usize| {
                let socket = &pods[pod]["endpoint"]["address"]["socket_address"];
                format!("{}:{}", socket["address"].as_str().unwrap(), socket["port_value"])
            };
            let hint = if as_list { json!([addr(1), addr(2)]) } else { json!(format!("{},{}", addr(1), addr(2))) };
            let filter = json!({
                "name": "hint",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config",
                    "metadata": [{
                        "metadata_namespace": "envoy.lb.subset_hint",
                        "value": {"x-gateway-destination-endpoint-subset": hint}
                    }]
                }
            });
            http_filters(tree).insert(0, filter);
        });
        let gateway = Gateway::start(stack).await;
        let first = gateway.pods[0].addr.clone();
        let mut served = BTreeSet::new();
        for _ in 0..30 {
            // What a client sends is no hint.
            let headers = [("x-gateway-destination-endpoint-subset", first.as_str())];
            let reply = gateway.send("POST", CHAT, &headers, chat_body(MODEL, false)).await;
            assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
            served.insert(gateway.pod_of(&reply));
        }
        assert_eq!(served, BTreeSet::from([1, 2]), "as a list: {as_list}");
    }
}

fn http_filters(tree: &mut Value) -> &mut Vec<Value> {
    let manager = &mut tree["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
    manager["http_filters"].as_array_mut().unwrap()
}

async fn a_load_report_is_asked_for_and_kept_from_clients(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({"orca": true}))).await;
    let reply = gateway.chat().await;
    assert_eq!((reply.status.as_u16(), reply.header("endpoint-load-metrics")), (200, None));
    assert!(gateway.last_headers(0).await.unwrap().contains("endpoint-load-metrics-format"));
    let asking = [("endpoint-load-metrics-format", "JSON")];
    let reply = gateway.send("POST", CHAT, &asking, chat_body(MODEL, false)).await;
    assert!(reply.header("endpoint-load-metrics").unwrap().starts_with("JSON {"));
}

async fn a_session_stays_with_its_pod(mode: Mode) {
    for cookie in [false, true] {
        let session = if cookie { json!({"cookie": "pod"}) } else { json!({"header": "x-session-token"}) };
        let gateway = Gateway::start(builder(mode, 4, json!({"session": session}))).await;
        let reply = gateway.chat().await;
        let pod = gateway.pod_of(&reply);
        let (name, set) = if cookie { ("cookie", "set-cookie") } else { ("x-session-token", "x-session-token") };
        let token = reply.header(set).unwrap().split(';').next().unwrap().to_owned();
        for _ in 0..12 {
            let reply = gateway.send("POST", CHAT, &[(name, &token)], chat_body(MODEL, false)).await;
            assert_eq!((reply.status.as_u16(), gateway.pod_of(&reply)), (200, pod));
            assert_eq!(reply.header(set), None);
        }
    }
}

async fn a_batch_is_shed_while_the_pool_is_full_and_told_when_to_come_back(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 2, json!({"objectives": {"batch": -1}}))).await;
    let batch = [("x-gateway-inference-objective", "batch")];
    let reply = gateway.send("POST", CHAT, &batch, chat_body(MODEL, false)).await;
    assert_eq!(reply.status.as_u16(), 200, "an idle pool takes it: {}", reply.text());
    // Long after the last change, the sidecar only confirms.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    for _ in 0..10 {
        let reply = gateway.send("POST", CHAT, &batch, chat_body(MODEL, false)).await;
        assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
        tokio::time::sleep(std::time::Duration::from_millis(70)).await;
    }
    for pod in 0..2 {
        gateway.pin(pod, json!({"waiting": 12})).await;
    }
    let reply = gateway.send("POST", CHAT, &batch, chat_body(MODEL, false)).await;
    assert_eq!((reply.status.as_u16(), reply.header("retry-after")), (429, Some("1")), "{}", reply.text());
    assert_eq!(gateway.chat().await.status.as_u16(), 200);
}
