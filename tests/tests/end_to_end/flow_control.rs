//! Requests that wait in the proxy while all pods are full.

use std::cell::Cell;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tests::{Gateway, MODEL, Mode, builder, chat_body, eventually, figure};

tests::on_bindings! {
    both: [
        a_burst_is_served_to_its_last_request,
        the_urgent_are_served_as_if_the_pool_were_idle,
        who_may_not_wait_is_told_when_to_come_again,
        who_waits_for_too_long_is_told_so,
        a_request_says_how_long_it_wants_to_wait,
        a_client_that_leaves_the_queue_leaves_nothing_behind,
    ],
}

const CHAT: &str = "/v1/chat/completions";
/// Requests that each pod runs at once.
const SLOTS: usize = 16;
/// Envoy gives up on a client that takes longer, and so does a test.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pods whose answers take half a second, most of it to the first token, however many there are.
fn slow(slots: usize) -> [String; 6] {
    [
        format!("--max-num-seqs={slots}"),
        "--timing-model=apart".to_owned(),
        "--prefill-overhead-ms=400".to_owned(),
        "--inter-token-latency-ms=25".to_owned(),
        "--jitter=0".to_owned(),
        "--speed=1".to_owned(),
    ]
}

async fn a_burst_is_served_to_its_last_request(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 2, json!({"flow_control": {}})).workers(1).vllm_sim_args(slow(2))).await;
    let burst = (0..40).map(|_| gateway.chat());
    let replies = tokio::time::timeout(PATIENCE, join_all(burst)).await.unwrap();
    let statuses: Vec<_> = replies.iter().map(|reply| reply.status.as_u16()).filter(|status| *status != 200).collect();
    assert_eq!(statuses, Vec::<u16>::new());
    gateway
        .shows(&[
            figure("inference_objective_request_total", &[], 40),
            figure("inference_objective_request_error_total", &[], 0),
            figure("inference_objective_running_requests", &[], 0),
        ])
        .await;
}

async fn the_urgent_are_served_as_if_the_pool_were_idle(mode: Mode) {
    let config = json!({"flow_control": {}, "objectives": {"urgent": 10}});
    let gateway = Gateway::start(builder(mode, 2, config).workers(1).vllm_sim_args(slow(SLOTS))).await;
    let before = gateway.learns_slots(SLOTS).await;
    let urgent = async || {
        let began = Instant::now();
        let headers = [("x-gateway-inference-objective", "urgent")];
        let reply = gateway.send("POST", CHAT, &headers, chat_body(MODEL, false)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        began.elapsed()
    };
    let mut idle = Vec::new();
    for _ in 0..10 {
        idle.push(urgent().await);
    }
    // Three times as many clients as there are slots, until the last of the urgent is served.
    let is_over = Cell::new(false);
    let flood = join_all((0..3 * 2 * SLOTS).map(|_| async {
        let mut statuses = Vec::new();
        while !is_over.get() {
            statuses.push(gateway.chat().await.status.as_u16());
        }
        statuses
    }));
    let trickle = async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let mut times = Vec::new();
        for _ in 0..10 {
            times.push(urgent().await);
        }
        is_over.set(true);
        times
    };
    let (flood, mut busy) = tokio::time::timeout(PATIENCE, async { tokio::join!(flood, trickle) }).await.unwrap();
    let statuses: Vec<_> = flood.into_iter().flatten().collect();
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    idle.sort_unstable();
    busy.sort_unstable();
    println!("idle {idle:?}\nbusy {busy:?}\n{} others", statuses.len());
    // Of ten, the last but one is P90.
    assert!(busy[8] < idle[8].mul_f64(1.3), "idle {idle:?}, busy {busy:?}");
    gateway
        .shows(&[
            figure("inference_objective_request_total", &[], before + 20 + statuses.len() as u64),
            figure("inference_objective_request_error_total", &[], 0),
        ])
        .await;
}

async fn who_may_not_wait_is_told_when_to_come_again(mode: Mode) {
    let config = json!({"flow_control": {"max_requests": 6}});
    let gateway = Gateway::start(builder(mode, 1, config).workers(1).vllm_sim_args(slow(1))).await;
    gateway.learns_slots(1).await;
    let replies = join_all((0..30).map(|_| gateway.chat())).await;
    let (served, refused): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 200);
    assert!(!served.is_empty() && !refused.is_empty());
    for reply in &refused {
        assert_eq!(reply.status, 429, "{}", reply.text());
        let seconds: u32 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&seconds), "{seconds}");
        let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(body["error"]["code"], "queue_full", "{body}");
    }
    let labels = [("error_code", "ResourceExhausted")];
    gateway.shows(&[figure("inference_objective_request_error_total", &labels, refused.len() as u64)]).await;
}

async fn who_waits_for_too_long_is_told_so(mode: Mode) {
    let config = json!({"flow_control": {"ttl_ms": 600}});
    let gateway = Gateway::start(builder(mode, 1, config).workers(1).vllm_sim_args(slow(1))).await;
    gateway.learns_slots(1).await;
    let replies = join_all((0..12).map(|_| gateway.chat())).await;
    let (served, refused): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 200);
    assert!(!served.is_empty() && !refused.is_empty());
    for reply in &refused {
        assert_eq!(reply.status, 503, "{}", reply.text());
        let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(body["error"]["code"], "queue_timeout", "{body}");
    }
    let labels = [("error_code", "ServiceUnavailable")];
    gateway.shows(&[figure("inference_objective_request_error_total", &labels, refused.len() as u64)]).await;
    // Those who were answered while another was held are over, and nothing is left of them.
    assert_eq!(gateway.chat().await.status, 200);
}

async fn a_request_says_how_long_it_wants_to_wait(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({"flow_control": {}})).workers(1).vllm_sim_args(slow(1))).await;
    gateway.learns_slots(1).await;
    let chat = async |ttl: &'static str| {
        let began = Instant::now();
        let reply = gateway.send("POST", CHAT, &[("x-llm-d-inference-ttl", ttl)], chat_body(MODEL, false)).await;
        (reply, began.elapsed())
    };
    // Twelve take the pod six seconds.
    let (patient, hurried) =
        tokio::join!(join_all((0..6).map(|_| chat("soon"))), join_all((0..6).map(|_| chat("300ms"))));
    assert!(patient.iter().all(|(reply, _)| reply.status == 200), "a bad value says nothing");
    let refused: Vec<_> = hurried.iter().filter(|(reply, _)| reply.status != 200).collect();
    assert!(!refused.is_empty());
    for (reply, took) in &refused {
        assert_eq!(reply.status, 503, "{}", reply.text());
        let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(body["error"]["code"], "queue_timeout", "{body}");
        assert!(*took >= Duration::from_millis(300), "{took:?}");
    }
    let labels = [("error_code", "ServiceUnavailable")];
    gateway.shows(&[figure("inference_objective_request_error_total", &labels, refused.len() as u64)]).await;
}

async fn a_client_that_leaves_the_queue_leaves_nothing_behind(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({"flow_control": {}})).workers(1).vllm_sim_args(slow(1))).await;
    gateway.learns_slots(1).await;
    let stay = join_all((0..3).map(|_| gateway.chat()));
    let leave = join_all((0..10).map(|_| tokio::time::timeout(Duration::from_millis(300), gateway.chat())));
    let (stay, left) = tokio::join!(stay, leave);
    assert!(stay.iter().all(|reply| reply.status == 200));
    let left = left.iter().filter(|reply| reply.is_err()).count() as u64;
    assert!(left >= 8, "{left} of 10 left");
    let labels = [("error_code", "Cancelled")];
    gateway.shows(&[figure("inference_objective_request_error_total", &labels, left)]).await;
    eventually("the pod runs nothing", async || {
        let state = gateway.pod_state(0).await;
        if state["in_flight"] == 0 { Ok(()) } else { Err(state) }
    })
    .await;
    assert_eq!(gateway.chat().await.status, 200);
}
