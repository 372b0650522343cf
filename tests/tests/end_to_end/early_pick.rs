//! Requests that go on to a pod while the client still sends their bodies.

use std::time::{Duration, Instant};

use bytes::Bytes;
use local_stack::Stack;
use serde_json::{Value, json};
use tests::{Gateway, MODEL, Mode, ScriptedPod, Uploader, Wire, builder, eventually, figure};

tests::on_bindings! {
    both: [a_slow_upload_reaches_the_pod_while_it_lasts, a_body_goes_on_where_nothing_that_matters_is_still_to_come, a_rest_that_is_malformed_is_the_pods_to_refuse_and_is_counted, a_pod_may_answer_before_the_rest_and_a_client_may_leave_in_the_middle, a_model_is_rewritten_in_what_is_held_and_the_length_is_right, a_retry_sends_what_envoy_kept_and_there_is_none_beyond_its_limit, slow_uploaders_pin_no_memory],
}

const CHAT: &str = "/v1/chat/completions";
/// Anything longer than this comes in pieces that a client sends apart.
const GAP: Duration = Duration::from_millis(300);

/// A short answer.
fn short_answer() -> String {
    let body = format!(
        r#"{{"model":"{MODEL}","choices":[{{"message":{{"content":"ab"}}}}],"usage":{{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}}}"#
    );
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// A text that does not repeat.
fn words(bytes: usize) -> String {
    (0..bytes / 10).map(|word| format!("w{word:08} ")).collect()
}

fn model_first(bytes: usize) -> String {
    format!(r#"{{"model":"{MODEL}","messages":[{{"role":"user","content":"{}"}}],"max_tokens":3}}"#, words(bytes))
}

/// The order of the official Python client.
fn model_behind_the_prompt(bytes: usize) -> String {
    format!(r#"{{"messages":[{{"role":"user","content":"{}"}}],"model":"{MODEL}","max_tokens":3}}"#, words(bytes))
}

async fn in_front_of(mode: Mode, pod: &ScriptedPod, config: Value) -> Gateway {
    let gateway = Gateway::start(builder(mode, 0, config).pods_at([pod.addr.to_string()])).await;
    eventually("the pod is known", async || {
        let ready = gateway.envoy_page().await.unwrap().sum("inference_pool_ready_pods", &[]);
        if ready == 1.0 { Ok(()) } else { Err(ready) }
    })
    .await;
    gateway
}

async fn begin(gateway: &Stack, length: usize) -> Wire {
    let mut wire = Wire::open(gateway.gateway).await;
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    wire.write(head.as_bytes()).await;
    wire
}

async fn a_slow_upload_reaches_the_pod_while_it_lasts(mode: Mode) {
    const PIECES: usize = 40;
    let pod = ScriptedPod::start(short_answer(), usize::MAX).await;
    let body = model_first(4 << 20);
    let mut firsts = Vec::new();
    for early in [json!({}), json!({"early_pick_rest": "pass"}), json!({"early_pick_bytes": 0})] {
        let gateway = in_front_of(mode, &pod, early.clone()).await;
        let before = pod.arrivals().len();
        let mut wire = begin(&gateway, body.len()).await;
        let start = Instant::now();
        for piece in body.as_bytes().chunks(body.len().div_ceil(PIECES)) {
            wire.write(piece).await;
            tokio::time::sleep(Duration::from_secs(2) / PIECES as u32).await;
        }
        let answer = wire.read_to_end().await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let arrival = pod.arrivals()[before].clone();
        assert!(arrival.body == body.as_bytes(), "the pod got another body");
        let first = arrival.began - start;
        println!("{early}: first byte at the pod after {first:?}, last after {:?}", arrival.whole.unwrap() - start);
        firsts.push(first);
        let outcome = if early["early_pick_rest"] == "pass" { "unread" } else { "parsed" };
        gateway
            .shows(&[
                figure("inpick_request_bodies_total", &[("outcome", outcome)], 1),
                figure("inpick_request_bodies_total", &[], 1),
                figure("inference_objective_request_sizes_sum", &[("model_name", MODEL)], body.len() as u64),
                figure("inference_objective_output_tokens_sum", &[("model_name", MODEL)], 3),
                figure("inference_objective_running_requests", &[], 0),
            ])
            .await;
    }
    assert!(firsts[0] < Duration::from_secs(1) && firsts[1] < Duration::from_secs(1), "{firsts:?}");
    assert!(firsts[2] > Duration::from_millis(1_900), "{firsts:?}");
}

/// Whether a body is at the pod before its last byte was sent.
async fn is_early(gateway: &Gateway, pod: &ScriptedPod, body: &str, is_chunked: bool) -> bool {
    let before = pod.arrivals().len();
    let (start, last) = body.split_at(body.len() - 2);
    let arrived = if is_chunked {
        let mut wire = Wire::open(gateway.gateway).await;
        let head =
            format!("POST {CHAT} HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n");
        wire.write(format!("{head}{:x}\r\n{start}\r\n", start.len()).as_bytes()).await;
        tokio::time::sleep(GAP).await;
        let arrived = pod.arrivals().len() > before;
        wire.write(format!("{:x}\r\n{last}\r\n0\r\n\r\n", last.len()).as_bytes()).await;
        assert!(wire.read_to_end().await.starts_with("HTTP/1.1 200"));
        arrived
    } else {
        let mut wire = begin(gateway, body.len()).await;
        wire.write(start.as_bytes()).await;
        tokio::time::sleep(GAP).await;
        let arrived = pod.arrivals().len() > before;
        wire.write(last.as_bytes()).await;
        assert!(wire.read_to_end().await.starts_with("HTTP/1.1 200"));
        arrived
    };
    assert!(pod.arrivals()[before].body == body.as_bytes(), "the pod got another body");
    let requests = before as u64 + 1;
    gateway.envoy_shows(&[figure("inference_objective_request_total", &[("model_name", MODEL)], requests)]).await;
    arrived
}

async fn a_body_goes_on_where_nothing_that_matters_is_still_to_come(mode: Mode) {
    let any_model = json!({"missing_model": "pass", "unknown_model": "pass"});
    let unread = json!({"missing_model": "pass", "unknown_model": "pass", "early_pick_rest": "pass"});
    let (first, behind) = (model_first(100_000), model_behind_the_prompt(100_000));
    for (config, cases) in [
        (
            json!({}),
            &[
                (&first, false, true),
                (&first, true, true),
                (&model_first(30_000), false, false),
                (&behind, false, false),
            ][..],
        ),
        (json!({"early_pick_bytes": 200_000}), &[(&first, true, false)]),
        (any_model, &[(&behind, false, true)]),
        (unread, &[(&behind, true, true)]),
    ] {
        let pod = ScriptedPod::start(short_answer(), usize::MAX).await;
        let gateway = in_front_of(mode, &pod, config.clone()).await;
        for (body, is_chunked, expected) in cases {
            let early = is_early(&gateway, &pod, body, *is_chunked).await;
            assert_eq!(early, *expected, "{config}: {} bytes, chunked: {is_chunked}: {}", body.len(), &body[..40]);
        }
    }
}

async fn a_rest_that_is_malformed_is_the_pods_to_refuse_and_is_counted(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({}))).await;
    let body = model_first(200_000).replace("\"max_tokens\":3", "\"max_tokens\":");
    let pieces = body.as_bytes().chunks(50_000).map(Bytes::copy_from_slice).collect();
    let answer = Uploader::http2().post(gateway.gateway, CHAT, pieces, None).await;
    assert_eq!(answer.status.as_u16(), 400, "{}", answer.text());
    assert!(answer.headers.contains_key("x-inference-pod"), "the pod did not say so");
    gateway
        .shows(&[
            figure("inpick_request_bodies_total", &[("outcome", "malformed")], 1),
            figure("inference_objective_request_error_total", &[("error_code", "ModelServerRejected")], 1),
            figure("inference_objective_request_total", &[("model_name", MODEL)], 1),
            figure("inference_objective_running_requests", &[], 0),
        ])
        .await;
}

async fn a_pod_may_answer_before_the_rest_and_a_client_may_leave_in_the_middle(mode: Mode) {
    let refusal = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: 26\r\n\r\n{\"error\":{\"message\":\"no\"}}";
    let pod = ScriptedPod::impatient(refusal).await;
    let gateway = in_front_of(mode, &pod, json!({})).await;
    let body = model_first(1 << 20);
    let mut wire = begin(&gateway, body.len()).await;
    wire.write(&body.as_bytes()[..100_000]).await;
    let answer = wire.read_until("\"no\"}}").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    drop(wire);

    let pod = ScriptedPod::start(short_answer(), usize::MAX).await;
    let other = in_front_of(mode, &pod, json!({})).await;
    let mut wire = begin(&other, body.len()).await;
    wire.write(&body.as_bytes()[..100_000]).await;
    eventually("the pod has the beginning", async || if pod.arrivals().is_empty() { Err("no") } else { Ok(()) }).await;
    drop(wire);

    for (gateway, code) in [(gateway, "ModelServerRejected"), (other, "Cancelled")] {
        gateway
            .shows(&[
                figure("inpick_request_bodies_total", &[("outcome", "incomplete")], 1),
                figure("inpick_request_bodies_total", &[], 1),
                figure("inference_objective_request_error_total", &[("error_code", code)], 1),
                figure("inference_objective_request_total", &[], 1),
                figure("inference_objective_running_requests", &[], 0),
            ])
            .await;
    }
}

async fn a_model_is_rewritten_in_what_is_held_and_the_length_is_right(mode: Mode) {
    let pod = ScriptedPod::start(short_answer(), usize::MAX).await;
    let rules = json!({"model_rewrites": [{"name": "r", "targets": [{"model": "a \"longer\" name"}]}]});
    let gateway = in_front_of(mode, &pod, rules).await;
    let body = model_first(300_000);
    let renamed = body.replacen(&format!("\"{MODEL}\""), r#""a \"longer\" name""#, 1);
    let mut wire = begin(&gateway, body.len()).await;
    wire.write(&body.as_bytes()[..120_000]).await;
    tokio::time::sleep(GAP).await;
    let arrival = pod.arrivals()[0].clone();
    assert!(arrival.head.contains(&format!("content-length: {}\r\n", renamed.len())), "{}", arrival.head);
    wire.write(&body.as_bytes()[120_000..]).await;
    assert!(wire.read_to_end().await.starts_with("HTTP/1.1 200"));
    assert!(pod.arrivals()[0].body == renamed.as_bytes(), "the pod got another body");
    let pieces = body.as_bytes().chunks(70_000).map(Bytes::copy_from_slice).collect();
    let answer = Uploader::http1().post(gateway.gateway, CHAT, pieces, None).await;
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
    assert!(pod.arrivals()[1].body == renamed.as_bytes(), "the pod got another body");
}

fn virtual_host(tree: &mut Value) -> &mut Value {
    tree.pointer_mut(
        "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0",
    )
    .unwrap()
}

async fn a_retry_sends_what_envoy_kept_and_there_is_none_beyond_its_limit(mode: Mode) {
    const LIMIT: usize = 1 << 20;
    let stack =
        builder(mode, 2, json!({})).patch(|tree| virtual_host(tree)["request_body_buffer_limit"] = json!(LIMIT));
    let gateway = Gateway::start(stack).await;
    gateway.pin(1, json!({"waiting": 40})).await;
    let upload = async |bytes| {
        let body = model_first(bytes);
        let pieces = body.as_bytes().chunks(100_000).map(Bytes::copy_from_slice).collect();
        (Uploader::http2().post(gateway.gateway, CHAT, pieces, None).await, body)
    };
    gateway.fault(0, json!({"kind": "status", "status": 503, "count": 1})).await;
    let (answer, body) = upload(LIMIT / 2).await;
    assert_eq!(answer.headers["x-inference-pod"], gateway.pods[1].name.as_str(), "{}", answer.text());
    assert!(gateway.last_body(1).await == body, "the next pod got another body");
    for pod in [0, 1] {
        gateway.fault(pod, json!({"kind": "status", "status": 503, "count": 1})).await;
    }
    let (answer, _) = upload(4 * LIMIT).await;
    assert_eq!(answer.status.as_u16(), 503, "{}", answer.text());
}

/// Resident memory of a process in bytes.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

async fn slow_uploaders_pin_no_memory(mode: Mode) {
    const UPLOADERS: u64 = 24;
    const SENT: usize = 4 << 20;
    let body = model_first(SENT + (1 << 20));
    let mut taken = Vec::new();
    for early in [json!({}), json!({"early_pick_bytes": 0})] {
        let pod = ScriptedPod::start(short_answer(), usize::MAX).await;
        let stack = builder(mode, 0, early.clone()).pods_at([pod.addr.to_string()]).patch(|tree| {
            // For a retry, Envoy keeps a copy of what it sends.
            virtual_host(tree).as_object_mut().unwrap().remove("retry_policy");
        });
        let mut gateway = Gateway::start(stack).await;
        eventually("the pod is known", async || {
            let ready = gateway.envoy_page().await.unwrap().sum("inference_pool_ready_pods", &[]);
            if ready == 1.0 { Ok(()) } else { Err(ready) }
        })
        .await;
        let process = gateway.envoy().unwrap().id();
        let before = resident(process);
        let mut wires = Vec::new();
        for _ in 0..UPLOADERS {
            let mut wire = begin(&gateway, body.len()).await;
            wire.write(&body.as_bytes()[..SENT]).await;
            wires.push(wire);
        }
        tokio::time::sleep(GAP).await;
        let each = resident(process).saturating_sub(before) / UPLOADERS;
        println!("{early}: {each} bytes for each of {UPLOADERS} uploaders that sent {SENT} bytes");
        taken.push(each);
        for mut wire in wires {
            wire.write(&body.as_bytes()[SENT..]).await;
            assert!(wire.read_to_end().await.starts_with("HTTP/1.1 200"));
        }
    }
    assert!(taken[0] < 1 << 20, "{taken:?}");
    assert!(taken[1] > SENT as u64 / 2, "{taken:?}");
}
