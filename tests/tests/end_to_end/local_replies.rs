//! Errors that Envoy answers itself, in the shape that the API's clients read.

use serde_json::{Value, json};
use tests::{Gateway, MODEL, Mode, Wire, builder, chat_body, figure};

tests::on_bindings! {
    both: [requests_that_the_parser_or_the_connection_manager_refuses, a_client_that_sends_too_slowly_gets_408, a_body_that_is_too_large_gets_413, pods_that_fail_are_503_and_504, answers_of_the_filter_and_of_pods_pass_as_they_are, a_gateway_without_memory_or_connections_to_spare_says_so],
}

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";
const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";

/// Checks that an error is OpenAI's, and returns it.
fn openai(body: &[u8]) -> Value {
    let json: Value =
        serde_json::from_slice(body).unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(body)));
    let error = json["error"].as_object().unwrap_or_else(|| panic!("no error: {json}"));
    let mut members: Vec<&str> = error.keys().map(String::as_str).collect();
    members.sort_unstable();
    assert_eq!(members, ["code", "message", "param", "type"], "{json}");
    assert_eq!(json.as_object().unwrap().len(), 1, "{json}");
    assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{json}");
    assert!(error["type"].is_string() && error["code"].is_string(), "{json}");
    Value::Object(error.clone())
}

/// Checks that an error is Anthropic's, and returns it.
fn anthropic(body: &[u8]) -> Value {
    let json: Value =
        serde_json::from_slice(body).unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(body)));
    assert_eq!((&json["type"], json.as_object().unwrap().len()), (&json!("error"), 2), "{json}");
    let error = json["error"].as_object().unwrap_or_else(|| panic!("no error: {json}"));
    assert!(error.len() == 2 && error["type"].is_string(), "{json}");
    assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{json}");
    Value::Object(error.clone())
}

/// Status, headers and body of what a bare connection gets for these bytes, until Envoy closes it.
async fn answer(gateway: &Gateway, request: &[u8]) -> (u16, String, String) {
    let mut wire = Wire::open(gateway.gateway).await;
    wire.write_while_taken(request).await;
    let answer = wire.read_to_end().await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response: {answer:?}"));
    (head[9..12].parse().unwrap(), head.to_owned(), body.to_owned())
}

async fn requests_that_the_parser_or_the_connection_manager_refuses(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({}))).await;
    let large = format!("GET /v1/models HTTP/1.1\r\nhost: g\r\nx: {}\r\n\r\n", "a".repeat(70_000));
    let many: String = (0..150).map(|number| format!("x-{number}: a\r\n")).collect();
    let many = format!("GET /v1/models HTTP/1.1\r\nhost: g\r\n{many}\r\n");
    let upgrade = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: x";
    let refused: [(u16, String); 11] = [
        (400, "no request at all\r\n\r\n".to_owned()),
        (400, "\u{0}\u{1}\u{2}\r\n\r\n".to_owned()),
        (400, "GET /v1/models HTTP/1.1\r\nhost: g\r\nno header\r\n\r\n".to_owned()),
        (400, "GET /v1/models HTTP/1.1\r\nconnection: close\r\n\r\n".to_owned()),
        (400, format!("POST {CHAT} HTTP/1.1\r\nhost: g\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0")),
        (400, format!("POST {CHAT} HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n")),
        (400, "GET /v1%2fmodels HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\r\n".to_owned()),
        (403, format!("GET /v1/models HTTP/1.1\r\nhost: g\r\n{upgrade}\r\n\r\n")),
        (404, "OPTIONS * HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\r\n".to_owned()),
        (431, large),
        (431, many),
    ];
    for (status, request) in refused {
        let (given, head, body) = answer(&gateway, request.as_bytes()).await;
        let shown: String = request.chars().take(80).collect();
        assert_eq!(given, status, "{shown:?}: {head}");
        assert!(head.to_ascii_lowercase().contains("content-type: application/json"), "{shown:?}: {head}");
        assert_eq!(openai(body.as_bytes())["type"], "invalid_request_error", "{shown:?}");
    }
    // Once the path is known, the shape is its API's.
    let chunk = format!("POST /gw{MESSAGES}?beta=true HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n");
    let (status, _, body) = answer(&gateway, chunk.as_bytes()).await;
    assert_eq!((status, &anthropic(body.as_bytes())["type"]), (400, &json!("invalid_request_error")));
    let upgrade = format!("GET {MESSAGES}/x HTTP/1.1\r\nhost: g\r\n{upgrade}\r\n\r\n");
    let (status, _, body) = answer(&gateway, upgrade.as_bytes()).await;
    assert_eq!((status, &anthropic(body.as_bytes())["type"]), (403, &json!("permission_error")));
    assert_eq!(gateway.chat().await.status.as_u16(), 200);
}

async fn a_client_that_sends_too_slowly_gets_408(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({})).patch(|tree| {
        let manager = tree.pointer_mut(MANAGER).unwrap();
        assert_eq!((&manager["request_headers_timeout"], &manager["request_timeout"]), (&json!("10s"), &json!("120s")));
        manager["request_headers_timeout"] = json!("0.3s");
        manager["request_timeout"] = json!("0.6s");
    }))
    .await;
    let (status, _, body) = answer(&gateway, b"GET /v1/models HTTP/1.1\r\nhost:").await;
    assert_eq!((status, &openai(body.as_bytes())["type"]), (408, &json!("invalid_request_error")));
    for path in [CHAT, MESSAGES] {
        let half = format!(
            "POST {path} HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\ncontent-length: 90\r\n\r\n{{"
        );
        let (status, _, body) = answer(&gateway, half.as_bytes()).await;
        assert_eq!(status, 408, "{body}");
        let error = if path == MESSAGES { anthropic(body.as_bytes()) } else { openai(body.as_bytes()) };
        assert_eq!(error["type"], "invalid_request_error");
    }
    // Nor where the pod has the beginning already.
    let start = json!({"model": MODEL, "messages": [{"role": "user", "content": "a".repeat(100_000)}]}).to_string();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\ncontent-length: 900000");
    let (status, _, body) = answer(&gateway, format!("{head}\r\n\r\n{}", &start[..90_000]).as_bytes()).await;
    assert_eq!((status, &openai(body.as_bytes())["type"]), (408, &json!("invalid_request_error")));
    // All three are the client's doing.
    gateway
        .shows(&[
            figure("inference_objective_request_error_total", &[("error_code", "BadRequest")], 3),
            figure("inference_objective_request_error_total", &[], 3),
            figure("gen_ai_client_operation_duration_seconds_count", &[("error_type", "invalid_request")], 3),
            figure("inpick_request_bodies_total", &[("outcome", "incomplete")], 3),
            figure("inference_objective_running_requests", &[], 0),
        ])
        .await;
    // An answer that takes longer than a request may is no slow request.
    gateway.fault(0, json!({"kind": "slow_headers", "delay_ms": 1500, "count": 1})).await;
    assert_eq!(gateway.chat().await.status.as_u16(), 200);
}

async fn a_body_that_is_too_large_gets_413(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({})).patch(|tree| {
        let host = tree.pointer_mut(&format!("{MANAGER}/route_config/virtual_hosts/0")).unwrap();
        host["request_body_buffer_limit"] = json!(5000);
        tree.pointer_mut("/static_resources/listeners/0").unwrap()["per_connection_buffer_limit_bytes"] = json!(5000);
    }))
    .await;
    let body = json!({"model": MODEL, "messages": [{"role": "user", "content": "a".repeat(60_000)}]}).to_string();
    for path in [CHAT, "/gw/v1/messages?beta=true"] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let (status, head, body) = answer(&gateway, head.as_bytes()).await;
        assert_eq!(status, 413, "{head}");
        if path == CHAT {
            assert_eq!(openai(body.as_bytes())["type"], "invalid_request_error");
        } else {
            assert_eq!(anthropic(body.as_bytes())["type"], "request_too_large");
        }
    }
}

async fn pods_that_fail_are_503_and_504(mode: Mode) {
    let mut gateway = Gateway::start(builder(mode, 1, json!({})).patch(|tree| {
        let route = tree.pointer_mut(&format!("{MANAGER}/route_config/virtual_hosts/0/routes/0/route")).unwrap();
        route["timeout"] = json!("0.4s");
    }))
    .await;
    gateway.fault(0, json!({"kind": "hang"})).await;
    let reply = gateway.chat().await;
    assert_eq!((reply.status.as_u16(), &openai(&reply.body)["type"]), (504, &json!("server_error")));
    let reply = gateway.post(MESSAGES, chat_body(MODEL, false)).await;
    assert_eq!((reply.status.as_u16(), &anthropic(&reply.body)["type"]), (504, &json!("timeout_error")));
    gateway.stack.pod(0).unwrap().kill().await;
    let reply = gateway.chat().await;
    assert_eq!((reply.status.as_u16(), &openai(&reply.body)["type"]), (503, &json!("server_error")));
    let reply = gateway.post(MESSAGES, chat_body(MODEL, false)).await;
    assert_eq!((reply.status.as_u16(), &anthropic(&reply.body)["type"]), (503, &json!("overloaded_error")));
}

async fn answers_of_the_filter_and_of_pods_pass_as_they_are(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({}))).await;
    for path in [CHAT, MESSAGES] {
        let reply = gateway.post(path, "{").await;
        assert_eq!((reply.status.as_u16(), reply.header("content-type")), (400, Some("application/json")));
        let error: Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(error["error"]["type"], "invalid_request_error", "{error}");
        assert!(!reply.text().contains("The gateway answers"), "{error}");
    }
    for status in [400, 404, 429, 500] {
        gateway.fault(0, json!({"kind": "status", "status": status, "count": 1})).await;
        let reply = gateway.chat().await;
        assert_eq!(reply.status.as_u16(), status);
        assert!(reply.text().contains("The simulator was told"), "{}", reply.text());
    }
}

async fn a_gateway_without_memory_or_connections_to_spare_says_so(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({})).patch(|tree| {
        let monitors = tree.pointer_mut("/overload_manager/resource_monitors").unwrap();
        monitors[1]["typed_config"]["max_heap_size_bytes"] = json!(1_000_000);
    }))
    .await;
    tests::eventually("requests are refused", async || {
        let reply = gateway.chat().await;
        if reply.status != 503 {
            return Err(reply.status);
        }
        assert_eq!(openai(&reply.body)["type"], "server_error");
        Ok(())
    })
    .await;
    drop(gateway);

    let gateway = Gateway::start(builder(mode, 1, json!({})).patch(|tree| {
        let monitors = tree.pointer_mut("/overload_manager/resource_monitors").unwrap();
        monitors[0]["typed_config"]["max_active_downstream_connections"] = json!(3);
    }))
    .await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut wire = Wire::post(gateway.gateway, CHAT, &chat_body(MODEL, false)).await;
        wire.read_until("chat.completion").await;
        held.push(wire);
    }
    let mut fourth = Wire::open(gateway.gateway).await;
    fourth.write_while_taken(b"GET /v1/models HTTP/1.1\r\nhost: g\r\n\r\n").await;
    assert_eq!(fourth.read_to_end().await, "");
    // The sidecar and the operator still reach the admin page.
    for _ in 0..5 {
        assert_eq!(gateway.admin_get("/ready").await.unwrap().status.as_u16(), 200);
    }
    drop(held);
    tests::eventually("connections are accepted again", async || {
        gateway.client.get(&gateway.url("/v1/models")).await.map(|_| ())
    })
    .await;
}
