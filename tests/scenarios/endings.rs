//! Every way in which a stream can end: what it had in flight is gone and its counters agree. One list for both bindings; `world` is
//! the test program's host.

use std::collections::BTreeMap;

use crate::world::{self, ANSWER, Host, MODEL, Stream, answer, chat, complete, picked, request, respond, settled};

const EVENT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
const KINDS: [&str; 2] = ["application/json", "text/event-stream"];

/// Gives the name of each scenario to a macro that makes tests of them. One that is not listed is dead code, which is refused.
macro_rules! each_ending {
    ($tests:ident) => {
        $tests! {
            complete_answers_add_up
            an_answer_that_ends_with_trailers_is_complete
            a_client_that_leaves_is_cancelled_wherever_the_stream_is
            a_reset_upstream_is_counted_before_and_after_the_headers
            a_timeout_and_an_empty_cluster_are_told_apart
            a_retry_is_served_by_the_next_and_settled_there
            our_own_reply_is_counted_once
            without_a_sidecar_requests_are_left_to_envoys_own_policy
        }
    };
}
pub(crate) use each_ending;

fn sent(host: &Host) -> (Stream, String) {
    let stream = request(host, chat());
    let endpoint = picked(&stream);
    world::serve(&stream, &endpoint);
    (stream, endpoint)
}

fn begun(host: &Host, kind: &str) -> Stream {
    let (stream, _) = sent(host);
    let chunks = if kind == KINDS[0] { vec![ANSWER] } else { vec![EVENT, "data: [DONE]\n\n"] };
    respond(&stream, answer(kind).body_chunks(chunks).trailer("x", "y"));
    stream
}

#[track_caller]
pub(crate) fn assert_ended(host: &Host, errors: &[(&str, u64)]) -> BTreeMap<String, u64> {
    let stats = settled(host);
    let running = stats.keys().find(|name| name.ends_with(";inference_objective_running_requests"));
    assert_eq!(running, None, "{stats:#?}");
    assert!(world::gauge(host, "model_name=other;inference_objective_running_requests").is_some());
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

pub(crate) fn complete_answers_add_up() {
    let host = world::host();
    for _ in 0..5 {
        complete(&host);
    }
    let stats = assert_ended(&host, &[]);
    assert_eq!(stats[&format!("{MODEL}priority=0;inference_objective_request_total")], 5);
    assert_eq!(stats[&format!("{MODEL}inference_objective_input_tokens_sum")], 35);
    assert_eq!(stats[&format!("{MODEL}inference_objective_response_sizes_sum")], 5 * ANSWER.len() as u64);
}

pub(crate) fn an_answer_that_ends_with_trailers_is_complete() {
    let host = world::host();
    for kind in KINDS {
        begun(&host, kind);
    }
    let stats = assert_ended(&host, &[]);
    assert_eq!(stats[&format!("{MODEL}inference_objective_request_duration_seconds_count")], 2);
}

pub(crate) fn a_client_that_leaves_is_cancelled_wherever_the_stream_is() {
    let host = world::host();
    let unfinished = request(&host, chat().unfinished());
    world::client_reset(&unfinished);
    let (waiting, _) = sent(&host);
    world::client_reset(&waiting);
    let (answering, _) = sent(&host);
    respond(&answering, answer("text/event-stream").body_chunks([EVENT]).unfinished());
    world::client_reset(&answering);
    assert_ended(&host, &[("Cancelled", 3)]);
}

pub(crate) fn a_reset_upstream_is_counted_before_and_after_the_headers() {
    let host = world::host();
    let (waiting, _) = sent(&host);
    world::upstream_reset(&waiting);
    let (answering, _) = sent(&host);
    respond(&answering, answer("text/event-stream").body_chunks([EVENT]).unfinished());
    world::upstream_reset(&answering);
    assert_ended(&host, &[("UpstreamReset", 2)]);
}

pub(crate) fn a_timeout_and_an_empty_cluster_are_told_apart() {
    let host = world::host();
    world::upstream_timeout(&sent(&host).0);
    world::no_healthy_upstream(&sent(&host).0);
    assert_ended(&host, &[("ServiceUnavailable", 1), ("Timeout", 1)]);
}

pub(crate) fn a_retry_is_served_by_the_next_and_settled_there() {
    let host = world::host();
    let (stream, first) = sent(&host);
    let second = if first == "10.0.0.1:8000" { "10.0.0.2:8000" } else { "10.0.0.1:8000" };
    world::retry(&stream, second);
    respond(&stream, answer("application/json").body(ANSWER));
    let stats = assert_ended(&host, &[]);
    assert_eq!(stats[&format!("pool=default;endpoint={second};reason=retry;inpick_picks_total")], 1);
}

pub(crate) fn our_own_reply_is_counted_once() {
    let host = world::host();
    complete(&host);
    let stream = request(&host, world::post("/v1/completions").body("nonsense"));
    assert_eq!(world::reply_status(&stream), Some(400));
    assert_ended(&host, &[("BadRequest", 1)]);
}

pub(crate) fn without_a_sidecar_requests_are_left_to_envoys_own_policy() {
    let host = world::without_sidecar();
    let stream = request(&host, chat().header("x-gateway-destination-endpoint", "6.6.6.6:6"));
    assert_eq!(world::destination(&stream), None);
    world::serve(&stream, "10.0.0.9:8000");
    respond(&stream, answer("application/json").body(ANSWER));
    let stats = assert_ended(&host, &[]);
    assert_eq!(stats["pool=default;endpoint=10.0.0.9:8000;reason=fallback;inpick_picks_total"], 1);
    assert!(stats["outcome=error_status;inpick_snapshot_fetches_total"] > 1);
}
