//! Which paths reach a pod, and which tricks do not.

use std::path::Path;

use crate::shipped;
use futures_util::future::join_all;
use local_stack::{Bootstrap, HttpResponse, repository};
use serde_json::{Value, json};
use tests::{Gateway, MODEL, Mode, Wire, builder, chat_body, figure};

tests::on_bindings! {
    both: [inference_paths_pass_below_any_prefix_and_others_are_404_in_the_apis_shape, a_closed_path_is_neither_picked_for_nor_counted, no_spelling_of_a_closed_path_reaches_a_pod],
}

/// What inference clients and load balancers ask for.
const OPEN: [(&str, &str); 26] = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("GET", "/v1/responses/resp_0a1-b.c"),
    ("POST", "/v1/responses/resp_1/cancel"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/meta-llama/Llama-3.1-8B-Instruct"),
    ("POST", "/v1/rerank"),
    ("POST", "/v2/rerank"),
    ("POST", "/rerank"),
    ("POST", "/v1/score"),
    ("POST", "/score"),
    ("POST", "/classify"),
    ("POST", "/pooling"),
    ("POST", "/invocations"),
    ("POST", "/v1/audio/transcriptions"),
    ("POST", "/v1/audio/translations"),
    ("POST", "/v1/audio/speech"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/health"),
    ("GET", "/ping"),
    ("GET", "/version"),
];

/// What vLLM, or the simulated pod, serves to whoever reaches it.
const CLOSED: [(&str, &str); 27] = [
    ("GET", "/metrics"),
    ("GET", "/metrics/"),
    ("POST", "/sleep"),
    ("POST", "/wake_up"),
    ("GET", "/is_sleeping"),
    ("POST", "/reset_prefix_cache"),
    ("POST", "/reset_mm_cache"),
    ("POST", "/collective_rpc"),
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/unload_lora_adapter"),
    ("POST", "/gw/v1/load_lora_adapter"),
    ("GET", "/load"),
    ("GET", "/docs"),
    ("GET", "/redoc"),
    ("GET", "/openapi.json"),
    ("GET", "/server_info"),
    ("POST", "/start_profile"),
    ("POST", "/pause"),
    ("POST", "/update_weights"),
    ("POST", "/scale_elastic_ep"),
    ("GET", "/kv_event_sources"),
    ("POST", "/sim/fault"),
    ("GET", "/sim/state"),
    ("GET", "/"),
    ("GET", "/v1"),
    ("GET", "/v1/"),
    ("POST", "/v1/chat/completions;x"),
];

/// Ways to write a closed path so that it looks like an open one, or like none.
const TRICKS: [&str; 24] = [
    "//metrics",
    "/./metrics",
    "/v1/models/../metrics",
    "/v1/../metrics",
    "/v1/models/../../metrics",
    "/v1/models/%2e%2e/%2e%2e/metrics",
    "/v1/models/.%2e/%2E./metrics",
    "/v1/models/..%2f..%2fmetrics",
    "/v1/models%2f..%2f..%2fmetrics",
    "/v1/models/%252e%252e/%252e%252e/metrics",
    "/v1/models/..\\..\\metrics",
    "/v1/models/..%5c..%5cmetrics",
    "/%6detrics",
    "/%6detrics/v1/models",
    "/metrics/v1/models",
    "/metricsandmore/v1/models",
    "/gw/metrics/v1/chat/completions",
    "/metrics\\v1\\models",
    "/metrics;/v1/models",
    "/v1/models/..;/metrics",
    "/metrics?/v1/models",
    "/metrics#/v1/models",
    "/v1/models%00/../metrics",
    "/sleep%3f/v1/models",
];

fn reached_a_pod(reply: &HttpResponse) -> bool {
    reply.header("x-inference-pod").is_some()
}

async fn inference_paths_pass_below_any_prefix_and_others_are_404_in_the_apis_shape(mode: Mode) {
    for bootstrap in shipped(mode) {
        let gateway =
            Gateway::start(builder(mode, 1, json!({})).config(bootstrap).vllm_sim_args(["--runner", "any"])).await;
        for (method, path) in OPEN {
            for prefix in ["", "/gw", "/team-7/models.internal"] {
                let body = if method == "POST" { chat_body(MODEL, false) } else { String::new() };
                let reply = gateway.send(method, &format!("{prefix}{path}?beta=true"), &[], body).await;
                assert!(reached_a_pod(&reply), "{bootstrap}: {method} {prefix}{path}: {}", reply.text());
            }
        }
        for (method, path) in CLOSED {
            let body = if method == "POST" { chat_body(MODEL, false) } else { String::new() };
            let reply = gateway.send(method, path, &[], body).await;
            assert_eq!((reply.status.as_u16(), reached_a_pod(&reply)), (404, false), "{bootstrap}: {method} {path}");
            let error: Value = serde_json::from_slice(&reply.body).unwrap();
            assert_eq!(error["error"]["type"], "invalid_request_error", "{path}: {error}");
            assert!(error["error"]["message"].as_str().unwrap().contains("not open"), "{path}: {error}");
        }
    }
}

async fn a_closed_path_is_neither_picked_for_nor_counted(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({}))).await;
    for path in ["/v1/load_lora_adapter", "/sleep", "/metrics/v1/chat/completions"] {
        assert_eq!(gateway.post(path, chat_body(MODEL, false)).await.status.as_u16(), 404);
    }
    gateway.chat().await;
    gateway
        .shows(&[
            figure("inpick_picks_total", &[], 1),
            figure("inference_objective_request_total", &[], 1),
            figure("inference_objective_request_error_total", &[], 0),
        ])
        .await;
}

async fn no_spelling_of_a_closed_path_reaches_a_pod(mode: Mode) {
    for bootstrap in shipped(mode) {
        let gateway = Gateway::start(builder(mode, 1, json!({})).config(bootstrap)).await;
        // At once: Envoy waits a second for the client to close behind each refusal.
        let requests = TRICKS.iter().flat_map(|path| ["GET", "POST", "OPTIONS"].map(|method| (method, path)));
        join_all(requests.map(async |(method, path)| {
            let mut wire = Wire::open(gateway.gateway).await;
            let head = format!("{method} {path} HTTP/1.1\r\nhost: g\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            wire.write(head.as_bytes()).await;
            let answer = wire.read_to_end().await;
            assert!(answer.starts_with("HTTP/1.1 4"), "{bootstrap}: {method} {path}: {answer}");
            assert!(!answer.contains("x-inference-pod") && !answer.contains("vllm:"), "{method} {path}: {answer}");
            assert!(answer.contains("{\"error\":{"), "{method} {path}: {answer}");
        }))
        .await;
        // What resolves to an open path is that path.
        for path in ["//v1//models", "/x/../v1/models", "/v1/./models", "/%76%31/models"] {
            let reply = gateway.get(path).await;
            assert_eq!((reply.status.as_u16(), reached_a_pod(&reply)), (200, true), "{path}: {}", reply.text());
        }
        assert!(
            gateway.pod_state(0).await["received"]
                .as_object()
                .unwrap()
                .keys()
                .all(|path| { ["/v1/models", "/metrics"].contains(&path.as_str()) })
        );
    }
}

fn tree(bootstrap: &str) -> Value {
    let text = std::fs::read_to_string(repository().join(Path::new(bootstrap))).unwrap();
    Bootstrap::parse(&text).unwrap().tree_mut().clone()
}

#[test]
fn both_bootstraps_have_the_same_connection_manager_and_the_same_care_for_pods() {
    for mode in [Mode::Wasm, Mode::Native] {
        let [whole, fragment] = shipped(mode).map(tree);
        for place in ["/static_resources/listeners", "/overload_manager", "/stats_config", "/layered_runtime"] {
            assert_eq!(whole.pointer(place), fragment.pointer(place), "{mode} {place}");
        }
        let cluster = |tree: &Value| {
            let mut cluster = tree["static_resources"]["clusters"][0].as_object().unwrap().clone();
            assert!(cluster.remove("type").is_some() && cluster.remove("load_assignment").is_some());
            cluster
        };
        assert_eq!(cluster(&whole), cluster(&fragment), "{mode}");
    }
}
