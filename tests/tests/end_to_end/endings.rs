//! How requests end, other than well: accounts must be settled once, and nothing may stay in flight.

use local_stack::ClientError;
use serde_json::{Value, json};
use tests::{Figure, Gateway, MODEL, Mode, ScriptedPod, Wire, builder, chat_body, eventually, figure};

tests::on_bindings! {
    both: [a_client_that_leaves_is_cancelled_and_no_longer_in_flight, a_client_that_leaves_behind_the_last_event_was_served, an_answer_that_breaks_off_is_an_upstream_reset_and_no_longer_in_flight, errors_of_the_model_server_are_counted_wherever_they_stand, a_pod_that_is_silent_for_too_long_is_a_timeout, an_answer_that_is_nonsense_passes_and_hurts_nobody, among_many_failures_every_request_ends_exactly_once],
}

const CHAT: &str = "/v1/chat/completions";

fn running(count: u64) -> Figure {
    figure("inference_objective_running_requests", &[("model_name", MODEL)], count)
}

fn errors(code: &str, count: u64) -> [Figure; 2] {
    let family = "inference_objective_request_error_total";
    [figure(family, &[("error_code", code)], count), figure(family, &[], count)]
}

async fn pods_are_idle(gateway: &Gateway) {
    for pod in 0..gateway.pods.len() {
        eventually("the pod notices that its client left", async || {
            let state = gateway.pod_state(pod).await;
            if state["in_flight"] == 0 { Ok(()) } else { Err(state) }
        })
        .await;
    }
}

async fn a_client_that_leaves_is_cancelled_and_no_longer_in_flight(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 2, json!({}))).await;

    // In the middle of a stream.
    for pod in 0..2 {
        gateway.fault(pod, json!({"kind": "stall", "after_events": 2})).await;
    }
    let mut wires = Vec::new();
    for _ in 0..3 {
        let mut wire = Wire::post(gateway.gateway, CHAT, &chat_body(MODEL, true)).await;
        wire.read_until("data: ").await;
        wires.push(wire);
    }
    gateway.envoy_shows(&[running(3), figure("inference_objective_request_error_total", &[], 0)]).await;
    drop(wires);
    gateway.shows(&[&[running(0)], errors("Cancelled", 3).as_slice()].concat()).await;
    pods_are_idle(&gateway).await;

    // Before the first byte of the answer.
    for pod in 0..2 {
        gateway.heal(pod).await;
        gateway.fault(pod, json!({"kind": "hang"})).await;
    }
    let wire = Wire::post(gateway.gateway, CHAT, &chat_body(MODEL, false)).await;
    gateway.envoy_shows(&[running(1)]).await;
    drop(wire);
    gateway.shows(&[&[running(0)], errors("Cancelled", 4).as_slice()].concat()).await;
    pods_are_idle(&gateway).await;

    // While its body is coming: no model is known yet.
    let mut wire = Wire::open(gateway.gateway).await;
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: g\r\ncontent-length: 1000\r\n\r\n{{\"model\": \"{MODEL}\"");
    wire.write(head.as_bytes()).await;
    eventually("the request has begun", async || {
        let active = gateway
            .envoy_page()
            .await
            .unwrap()
            .sum("envoy_http_downstream_rq_active", &[("envoy_http_conn_manager_prefix", "gateway")]);
        if active >= 1.0 { Ok(()) } else { Err(active) }
    })
    .await;
    drop(wire);
    gateway
        .shows(&[
            running(0),
            figure("inpick_request_bodies_total", &[("outcome", "incomplete")], 1),
            figure("inference_objective_request_error_total", &[("error_code", "Cancelled"), ("model_name", "")], 1),
            figure("inference_objective_request_error_total", &[], 5),
            // Each error belongs to a request that is counted.
            figure("inference_objective_request_total", &[], 5),
            // A request that did not end well has neither a duration nor tokens.
            figure("inference_objective_request_duration_seconds_count", &[], 0),
            figure("inference_objective_output_tokens_count", &[], 0),
            figure("inference_objective_request_sizes_count", &[], 4),
        ])
        .await;
}

/// The official Python client closes its connection when it has read `[DONE]`, and servers end the body in a packet of its own behind that.
async fn a_client_that_leaves_behind_the_last_event_was_served(mode: Mode) {
    let chunk = r#"data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}],"model":"m"}"#;
    let usage = r#"data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;
    let events = format!("{chunk}\n\n{usage}\n\ndata: [DONE]\n\n");
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked";
    // It never ends the body.
    let pod = ScriptedPod::start(format!("{head}\r\n\r\n{:x}\r\n{events}\r\n", events.len()), usize::MAX).await;
    let gateway = Gateway::start(builder(mode, 0, json!({})).pods_at([pod.addr.to_string()])).await;
    eventually("the pod is known", async || {
        let ready = gateway.envoy_page().await.unwrap().sum("inference_pool_ready_pods", &[]);
        if ready == 1.0 { Ok(()) } else { Err(ready) }
    })
    .await;
    // Whether its client asked for usage or not.
    for body in [chat_body(MODEL, true), chat_body(MODEL, true).replace("\"include_usage\":true", "")] {
        let mut wire = Wire::post(gateway.gateway, CHAT, &body).await;
        wire.read_until("data: [DONE]\n\n").await;
        gateway.envoy_shows(&[figure("inference_objective_running_requests", &[], 1)]).await;
        drop(wire);
        gateway.envoy_shows(&[figure("inference_objective_running_requests", &[], 0)]).await;
    }
    gateway
        .shows(&[
            figure("inference_objective_request_total", &[], 2),
            figure("inference_objective_request_error_total", &[], 0),
            figure("inference_objective_request_duration_seconds_count", &[], 2),
            figure("inference_objective_output_tokens_sum", &[("model_name", MODEL)], 6),
            figure("inpick_response_bodies_total", &[("outcome", "parsed")], 2),
            figure("inpick_response_bodies_total", &[], 2),
        ])
        .await;
}

async fn an_answer_that_breaks_off_is_an_upstream_reset_and_no_longer_in_flight(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({}))).await;
    let mut broken = 0;
    for kind in ["reset", "cut"] {
        for stream in [true, false] {
            gateway.fault(0, json!({"kind": kind, "after_events": 2, "count": 1})).await;
            let wire = Wire::post(gateway.gateway, CHAT, &chat_body(MODEL, stream)).await;
            let answer = wire.read_to_end().await;
            assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("[DONE]"), "{kind}: {answer}");
            broken += 1;
        }
    }
    gateway.shows(&[&[running(0)], errors("UpstreamReset", broken).as_slice()].concat()).await;

    // Before the first byte: Envoy answers in the pod's place, and not with a retry, since the pod may have done the work.
    gateway.fault(0, json!({"kind": "reset", "after_events": 0})).await;
    let reply = gateway.chat().await;
    assert_eq!(reply.status.as_u16(), 503, "{}", reply.text());
    let json: Value = serde_json::from_slice(&reply.body).unwrap();
    assert!(json["error"]["message"].is_string() && json["error"]["type"].is_string(), "{json}");
    gateway.shows(&[&[running(0)], errors("UpstreamReset", broken + 1).as_slice()].concat()).await;

    gateway.heal(0).await;
    // The one pod failed, but it is all there is.
    assert_eq!(gateway.chat().await.status.as_u16(), 200);
    gateway
        .shows(&[
            running(0),
            figure("inference_objective_request_total", &[], broken + 2),
            figure("inference_objective_request_duration_seconds_count", &[], 1),
        ])
        .await;
}

async fn errors_of_the_model_server_are_counted_wherever_they_stand(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({"unknown_model": "pass"}))).await;
    // An error event inside a stream whose status is 200.
    gateway.fault(0, json!({"kind": "error_event", "after_events": 2, "count": 1})).await;
    let reply = gateway.post(CHAT, chat_body(MODEL, true)).await;
    assert_eq!(reply.status.as_u16(), 200);
    assert!(reply.events().iter().any(|event| event.contains("\"error\"")), "{}", reply.text());
    // Statuses, with their bodies passed on as they are.
    for status in [400, 401, 404, 422, 429, 500] {
        gateway.fault(0, json!({"kind": "status", "status": status, "count": 1})).await;
        let reply = gateway.chat().await;
        assert_eq!((reply.status.as_u16(), gateway.pod_of(&reply)), (status, 0), "{}", reply.text());
    }
    // A model that the pod does not have: no name of a client's making is a label.
    let reply = gateway.post(CHAT, chat_body("no/such-model", false)).await;
    assert_eq!(reply.status.as_u16(), 404);
    assert!(reply.text().contains("no/such-model"));
    // A pod that is shutting down.
    gateway.fault(0, json!({"kind": "drain"})).await;
    assert_eq!(gateway.chat().await.status.as_u16(), 500);

    let family = "inference_objective_request_error_total";
    gateway
        .shows(&[
            running(0),
            figure(
                family,
                &[("error_code", "ModelServerError"), ("model_name", MODEL), ("target_model_name", MODEL)],
                3,
            ),
            figure(family, &[("error_code", "ModelServerRejected"), ("model_name", MODEL)], 4),
            figure(family, &[("error_code", "ModelServerRejected"), ("model_name", "other")], 1),
            figure(family, &[("error_code", "ResourceExhausted"), ("model_name", MODEL)], 1),
            figure(family, &[], 9),
            figure("inference_objective_request_total", &[], 9),
        ])
        .await;
}

async fn a_pod_that_is_silent_for_too_long_is_a_timeout(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({})).patch(|tree| {
        let route = tree.pointer_mut("/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes/0/route");
        route.unwrap()["timeout"] = json!("0.4s");
    }))
    .await;
    gateway.fault(0, json!({"kind": "hang", "count": 1})).await;
    let reply = gateway.chat().await;
    assert_eq!(reply.status.as_u16(), 504, "{}", reply.text());
    let json: Value = serde_json::from_slice(&reply.body).unwrap();
    assert!(json["error"]["message"].is_string(), "{json}");
    gateway.shows(&[&[running(0)], errors("Timeout", 1).as_slice()].concat()).await;
}

async fn an_answer_that_is_nonsense_passes_and_hurts_nobody(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({}))).await;
    for stream in [true, false] {
        gateway.fault(0, json!({"kind": "garbage", "count": 1})).await;
        let reply = gateway.post(CHAT, chat_body(MODEL, stream)).await;
        assert_eq!(reply.status.as_u16(), 200);
        assert!(reply.body.starts_with(b"\x00\xff\xfe"));
        gateway.fault(0, json!({"kind": "short", "after_events": 2, "count": 1})).await;
        let reply = gateway.post(CHAT, chat_body(MODEL, stream)).await;
        assert_eq!(reply.status.as_u16(), 200);
    }
    assert_eq!(gateway.chat().await.status.as_u16(), 200);
    gateway
        .shows(&[
            running(0),
            figure("inference_objective_request_total", &[], 5),
            // Neither garbage nor half a stream nor half a JSON text is an answer, whatever its status.
            figure("inference_objective_request_error_total", &[("error_code", "ModelServerError")], 2),
            figure("inference_objective_request_error_total", &[("error_code", "UpstreamReset")], 2),
            figure("inference_objective_request_error_total", &[], 4),
            figure("inference_objective_request_duration_seconds_count", &[], 5),
            figure("inference_objective_output_tokens_count", &[], 1),
            figure("inference_objective_output_tokens_sum", &[], 5),
        ])
        .await;
}

/// Pods that break in every way at once: what the clients saw is what was counted, each request once.
async fn among_many_failures_every_request_ends_exactly_once(mode: Mode) {
    const REQUESTS: usize = 400;
    const CLIENTS: usize = 16;
    let gateway = Gateway::start(builder(mode, 3, json!({}))).await;
    for pod in 0..3 {
        let faults = [
            json!({"kind": "reset", "probability": 0.08}),
            json!({"kind": "reset", "after_events": 0, "probability": 0.08}),
            json!({"kind": "cut", "probability": 0.08}),
            json!({"kind": "error_event", "probability": 0.08}),
            json!({"kind": "status", "status": 500, "probability": 0.08}),
            json!({"kind": "status", "status": 503, "probability": 0.2}),
        ];
        gateway.fault(pod, json!(faults)).await;
    }
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let (client, url) = (gateway.client.clone(), gateway.url(CHAT));
        clients.spawn(async move {
            let mut failed = 0_u64;
            for request in 0..REQUESTS / CLIENTS {
                let stream = (number + request) % 2 == 0;
                match client.post_json(&url, chat_body(MODEL, stream)).await {
                    Ok(reply) if reply.status == 200 && !reply.text().contains("\"error\":") => {}
                    Ok(_) | Err(ClientError::Body { .. }) => failed += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            failed
        });
    }
    let mut failed = 0;
    while let Some(done) = clients.join_next().await {
        failed += done.unwrap();
    }
    assert!(failed > 40, "only {failed} of {REQUESTS} failed");
    gateway
        .shows(&[
            running(0),
            figure("inference_objective_request_total", &[], REQUESTS as u64),
            figure("inference_objective_request_error_total", &[], failed),
            figure("inference_objective_request_error_total", &[("error_code", "Cancelled")], 0),
            figure("inference_objective_request_error_total", &[("error_code", "Timeout")], 0),
            figure("inference_extension_scheduler_attempts_total", &[("status", "success")], REQUESTS as u64),
            figure("inference_objective_request_sizes_count", &[], REQUESTS as u64),
            figure("inference_objective_output_tokens_count", &[], REQUESTS as u64 - failed),
        ])
        .await;
    pods_are_idle(&gateway).await;
}
