//! Every way in which a stream can end, through the real module: what it had in flight is gone and its counters agree.

use std::collections::BTreeMap;
use std::time::Duration;

use host_sim::{Host, HttpOutcome, HttpStream, VmName};

use crate::world::{self, MODEL, answer, chat, complete, picked, settled};

const EVENT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
const KINDS: [&str; 2] = ["application/json", "text/event-stream"];

fn sent(host: &Host) -> (HttpStream, String) {
    let exchange = host.request(chat()).unwrap();
    let endpoint = picked(&exchange);
    exchange.set_property("upstream.address", endpoint.as_str());
    (exchange, endpoint)
}

fn begun(host: &Host, kind: &str) -> HttpStream {
    let (exchange, _) = sent(host);
    let chunks = if kind == KINDS[0] { vec![world::ANSWER] } else { vec![EVENT, "data: [DONE]\n\n"] };
    exchange.respond(answer(kind).body_chunks(chunks).trailer("x", "y")).ok();
    exchange
}

#[track_caller]
fn assert_ended(host: &Host, errors: &[(&str, u64)]) -> BTreeMap<String, u64> {
    let stats = settled(host);
    let running = stats.keys().find(|name| name.ends_with(";inference_objective_running_requests"));
    assert_eq!(running, None, "{stats:#?}");
    assert!(host.stats().gauge("model_name=other;inference_objective_running_requests").is_some());
    // Over all names: one that nobody was served under yet counts under another label.
    let mut by_code: BTreeMap<&str, u64> = BTreeMap::new();
    for (name, value) in &stats {
        if let Some(labels) = name.strip_suffix(";inference_objective_request_error_total") {
            *by_code.entry(labels.rsplit("error_code=").next().unwrap()).or_default() += value;
        }
    }
    let counted: Vec<(&str, u64)> = by_code.into_iter().collect();
    assert_eq!(counted, errors, "{stats:#?}");
    stats
}

#[test]
fn complete_answers_add_up() {
    let host = world::host();
    for _ in 0..5 {
        complete(&host);
    }
    let stats = assert_ended(&host, &[]);
    assert_eq!(stats[&format!("{MODEL}priority=0;inference_objective_request_total")], 5);
    assert_eq!(stats[&format!("{MODEL}inference_objective_input_tokens_sum")], 35);
    assert_eq!(stats[&format!("{MODEL}inference_objective_response_sizes_sum")], 5 * world::ANSWER.len() as u64);
}

#[test]
fn an_answer_that_ends_with_trailers_is_complete() {
    for kind in KINDS {
        let host = world::host();
        begun(&host, kind);
        let stats = assert_ended(&host, &[]);
        assert_eq!(stats[&format!("{MODEL}inference_objective_request_duration_seconds_count")], 1);
    }
}

#[test]
fn a_client_that_leaves_is_cancelled_wherever_the_stream_is() {
    let host = world::host();
    let unfinished = host.request(chat().unfinished()).unwrap();
    unfinished.client_reset().unwrap();
    let (waiting, _) = sent(&host);
    waiting.client_reset().unwrap();
    let (answering, _) = sent(&host);
    answering.respond(answer("text/event-stream").body_chunks([EVENT]).unfinished()).unwrap();
    answering.client_reset().unwrap();
    assert_ended(&host, &[("Cancelled", 3)]);
}

#[test]
fn a_reset_upstream_is_counted_before_and_after_the_headers() {
    let host = world::host();
    let (waiting, _) = sent(&host);
    waiting.upstream_reset().unwrap();
    let (answering, _) = sent(&host);
    answering.respond(answer("text/event-stream").body_chunks([EVENT]).unfinished()).unwrap();
    answering.upstream_reset().unwrap();
    assert_ended(&host, &[("UpstreamReset", 2)]);
}

#[test]
fn a_timeout_and_an_empty_cluster_are_told_apart() {
    let host = world::host();
    sent(&host).0.upstream_timeout().unwrap();
    sent(&host).0.no_healthy_upstream().unwrap();
    assert_ended(&host, &[("ServiceUnavailable", 1), ("Timeout", 1)]);
}

#[test]
fn a_retry_is_served_by_the_next_and_settled_there() {
    let host = world::host();
    let (exchange, first) = sent(&host);
    let second = if first == "10.0.0.1:8000" { "10.0.0.2:8000" } else { "10.0.0.1:8000" };
    exchange.set_property("upstream.address", second);
    exchange.set_property("upstream.request_attempt_count", 2_u64);
    exchange.respond(answer("application/json").body(world::ANSWER)).unwrap();
    let stats = assert_ended(&host, &[]);
    assert_eq!(stats[&format!("pool=default;endpoint={second};reason=retry;inpick_picks_total")], 1);
}

#[test]
fn our_own_reply_is_counted_once() {
    let host = world::host();
    complete(&host);
    let exchange = host.request(host_sim::Request::post("/v1/completions").body("nonsense")).unwrap();
    let reply = exchange.local_reply().expect("a refusal");
    assert_eq!(reply.status, 400);
    assert_ended(&host, &[("BadRequest", 1)]);
}

#[test]
fn a_worker_that_is_replaced_leaves_the_gauges_with_its_machine() {
    // Enough work for any usual callback, too little for a body of a million escapes: that ends a machine, as a bug would.
    const FUEL: u64 = 500_000;
    let host = world::builder().workers(2).fuel_limit(FUEL).build().unwrap();
    host.advance(Duration::from_secs(1));
    let held: Vec<HttpStream> = (0..2)
        .map(|worker| {
            let exchange = host.request(chat().worker(worker)).unwrap();
            assert!(exchange.local_reply().is_none());
            exchange
        })
        .collect();
    host.advance(Duration::from_secs(5));
    // Nobody was served under that name yet, so it has no label of its own.
    let running = "model_name=other;inference_objective_running_requests";
    assert_eq!(host.stats().gauge(running), Some(2));
    let heavy = format!(r#"{{"model":"m","prompt":"{}"}}"#, r"\u0041\n".repeat(100_000));
    let crashed = host.request(host_sim::Request::post("/v1/completions").body(heavy).worker(0)).unwrap();
    assert_eq!(crashed.response_status(), Some(503));
    host.advance(Duration::from_secs(10));
    let next = host.request(chat().worker(0)).unwrap();
    assert!(next.local_reply().is_none(), "a new machine serves the next request");
    next.client_reset().unwrap();
    assert_eq!(host.reloads(VmName::Worker(0)), 1);
    host.advance(Duration::from_secs(10));
    assert_eq!(host.stats().gauge(running), Some(1));
    drop(held);
}

#[test]
fn without_a_sidecar_requests_are_left_to_envoys_own_policy() {
    let host = world::builder().cluster_script("inpick-sidecar", |_| HttpOutcome::unreachable()).build().unwrap();
    host.advance(Duration::from_secs(2));
    let exchange = host.request(chat().header("x-gateway-destination-endpoint", "6.6.6.6:6")).unwrap();
    assert!(exchange.request_headers().get("x-gateway-destination-endpoint").is_none());
    exchange.set_property("upstream.address", "10.0.0.9:8000");
    exchange.respond(answer("application/json").body(world::ANSWER)).unwrap();
    let stats = assert_ended(&host, &[]);
    assert_eq!(stats["pool=default;endpoint=10.0.0.9:8000;reason=fallback;inpick_picks_total"], 1);
    assert!(stats["outcome=error_status;inpick_snapshot_fetches_total"] > 1);
}

#[test]
fn a_sidecar_that_dies_makes_picks_go_by_requests_in_flight() {
    let mut left = 3;
    let mut sidecar = world::sidecar(&world::snapshot());
    let script = move |call: &host_sim::HttpCall| {
        left -= 1;
        if left >= 0 { sidecar(call) } else { HttpOutcome::unreachable() }
    };
    let host = world::builder().cluster_script("inpick-sidecar", script).build().unwrap();
    host.advance(Duration::from_secs(10));
    complete(&host);
    let stats = assert_ended(&host, &[]);
    let by_in_flight: u64 =
        stats.iter().filter(|(name, _)| name.contains("reason=in_flight_only")).map(|(_, value)| value).sum();
    assert_eq!(by_in_flight, 1, "{stats:#?}");
    assert!(stats["inpick_snapshot_age_seconds"] >= 9);
}
