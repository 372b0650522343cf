//! What clients ask for and must not get.

use futures_util::future::join_all;
use serde_json::json;
use tests::{Gateway, MODEL, Mode, Wire, builder, chat_body, figure};

tests::on_bindings! {
    both: [no_request_to_a_shipped_listener_reaches_the_admin_page_or_the_sidecar, no_header_of_a_client_sets_the_target_model_or_the_pod],
}

const CHAT: &str = "/v1/chat/completions";

/// All that comes back on a bare connection.
async fn exchange(gateway: &Gateway, head: &str, body: &str) -> String {
    let mut wire = Wire::open(gateway.gateway).await;
    let length = body.len();
    wire.write(format!("{head}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}").as_bytes()).await;
    wire.read_to_end().await
}

async fn no_request_to_a_shipped_listener_reaches_the_admin_page_or_the_sidecar(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({}))).await;
    assert!(gateway.admin_get("/server_info").await.unwrap().text().contains("hot_restart_version"));
    let body = chat_body(MODEL, false);
    let mut heads = Vec::new();
    for target in [gateway.admin, gateway.sidecar] {
        for path in ["/", "/server_info", "/stats/prometheus", "/metrics", "/snapshot", "/config_dump", "/ready"] {
            // As the host, in the target, and as the endpoint to choose.
            heads.push(format!("GET {path} HTTP/1.1\r\nhost: {target}"));
            heads.push(format!("GET http://{target}{path} HTTP/1.1\r\nhost: {target}"));
            heads.push(format!("GET {path} HTTP/1.1\r\nhost: gateway\r\nx-gateway-destination-endpoint: {target}"));
        }
        heads
            .push(format!("POST /quitquitquit HTTP/1.1\r\nhost: {target}\r\nx-gateway-destination-endpoint: {target}"));
        heads.push(format!("CONNECT {target} HTTP/1.1\r\nhost: {target}"));
        heads.push(format!(
            "POST {CHAT} HTTP/1.1\r\nhost: {target}\r\ncontent-type: application/json\r\nx-gateway-destination-endpoint: {target}"
        ));
    }
    for (name, listener) in &gateway.listeners {
        assert_eq!(*listener, gateway.gateway, "the listener {name} is not asked here");
    }
    // At once: Envoy waits a second for the client to close behind each refusal.
    let answers = join_all(heads.iter().map(async |head| {
        let sent = if head.contains(CHAT) { body.as_str() } else { "" };
        exchange(&gateway, head, sent).await
    }))
    .await;
    for (head, answer) in heads.iter().zip(answers) {
        // Only the inference path is open; on it, the pod answers.
        let by_pod = answer.contains("x-inference-pod: pod-1");
        let refused = answer.starts_with("HTTP/1.1 4");
        assert!(if head.contains(CHAT) { by_pod } else { refused && !by_pod }, "{head}\n{answer}");
        for secret in ["hot_restart_version", "envoy_cluster", "inference_pool", "bootstrap"] {
            assert!(!answer.contains(secret), "{head}\n{answer}");
        }
    }
    assert_eq!(gateway.chat().await.status.as_u16(), 200);
}

async fn no_header_of_a_client_sets_the_target_model_or_the_pod(mode: Mode) {
    let rule = json!([{"name": "canary", "model": "alias", "targets": [{"model": MODEL}]}]);
    let gateway = Gateway::start(builder(mode, 2, json!({"model_rewrites": rule}))).await;
    gateway.pin(0, json!({"waiting": 30})).await;
    gateway.pin(1, json!({"waiting": 3})).await;
    let loaded = gateway.pods[0].addr.clone();
    let headers = [
        ("x-gateway-model-name-rewrite", "forbidden"),
        ("x-llm-d-model-name-rewrite", "forbidden"),
        ("x-gateway-model-name", "forbidden"),
        ("x-gateway-destination-endpoint", loaded.as_str()),
        ("x-gateway-destination-endpoint-subset", loaded.as_str()),
        ("x-gateway-inference-objective", "no-such-objective"),
    ];
    for model in [MODEL, "alias"] {
        let reply = gateway.send("POST", CHAT, &headers, chat_body(model, false)).await;
        assert_eq!((reply.status.as_u16(), gateway.pod_of(&reply)), (200, 1), "{}", reply.text());
        let body: serde_json::Value = serde_json::from_slice(&gateway.last_body(1).await).unwrap();
        assert_eq!(body["model"], MODEL);
    }
    let total = "inference_objective_request_total";
    gateway
        .shows(&[
            figure(total, &[("model_name", MODEL), ("target_model_name", MODEL), ("priority", "0")], 1),
            figure(total, &[("model_name", "alias"), ("target_model_name", MODEL), ("priority", "0")], 1),
            figure(total, &[], 2),
        ])
        .await;
}
