//! Requests that wait in the proxy while all pods are full.

use std::cell::Cell;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use local_stack::{Builder, ClientError, HttpClient, HttpResponse};
use serde_json::{Value, json};
use tests::{Gateway, ListenerFile, MODEL, Mode, builder, chat_body, eventually, figure};

use crate::crash::faulty_module;
use crate::membership;

tests::on_bindings! {
    both: [
        a_burst_is_served_to_its_last_request,
        the_urgent_are_served_as_if_the_pool_were_idle,
        the_urgent_of_any_worker_come_before_the_others_of_all,
        who_may_not_wait_is_told_when_to_come_again,
        who_waits_for_too_long_is_told_so,
        a_request_says_how_long_it_wants_to_wait,
        a_client_that_leaves_the_queue_leaves_nothing_behind,
        who_waits_while_the_configuration_changes_is_served,
        who_waits_for_longer_than_connections_drain_is_counted,
        who_waits_while_listeners_drain_is_served,
        who_waits_goes_on_when_no_pod_takes_requests,
    ],
    both_beside_a_sidecar: [who_waits_goes_on_when_the_sidecar_dies],
    // Native code that crashes takes Envoy with it; a panic is caught.
    wasm: [
        a_crash_answers_who_waits,
        after_a_trap_without_a_panic_who_waits_is_answered_when_the_stream_was_idle,
    ],
}

const CHAT: &str = "/v1/chat/completions";
/// Requests that each pod runs at once.
const SLOTS: usize = 16;
/// Envoy gives up on a client that takes longer, and so does a test.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is answered at once, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(20);
const TTL_MILLIS: u64 = 50_000;
/// They take a pod of one slot eight seconds.
const CLIENTS: usize = 16;
const QUEUE_SIZE: &str = "inference_extension_flow_control_queue_size";
const LOST: &str = "inpick_flow_control_lost_total";

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

/// Returns when Envoy's page shows that so many requests wait.
async fn wait(gateway: &Gateway, requests: usize) {
    eventually("requests wait", async || {
        let waiting = gateway.envoy_page().await.map_err(|error| error.to_string())?.sum(QUEUE_SIZE, &[]);
        if waiting >= requests as f64 { Ok(()) } else { Err(waiting.to_string()) }
    })
    .await;
}

async fn a_burst_is_served_to_its_last_request(mode: Mode) {
    let stack = builder(mode, 2, json!({"flow_control": {}})).workers(1).vllm_sim_args(slow(2));
    let mut gateway = Gateway::start(stack).await;
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
    let logs = gateway.logs();
    let complaint = logs.lines().find(|line| line.contains("inpick: ") && !line.contains("inpick: no snapshot"));
    assert_eq!(complaint, None);
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

async fn the_urgent_of_any_worker_come_before_the_others_of_all(mode: Mode) {
    let config = json!({"flow_control": {}, "objectives": {"urgent": 10}});
    let gateway = Gateway::start(builder(mode, 1, config).workers(4).vllm_sim_args(slow(1))).await;
    gateway.learns_slots(1).await;
    let timed = async |headers: &[(&str, &str)]| {
        let began = Instant::now();
        // On a connection of its own, which any of the workers may have.
        let headers: Vec<_> = headers.iter().copied().chain([("connection", "close")]).collect();
        let reply = gateway.send("POST", CHAT, &headers, chat_body(MODEL, false)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        began.elapsed()
    };
    let is_over = Cell::new(false);
    let flood = join_all((0..CLIENTS).map(|_| async {
        let mut times = Vec::new();
        while !is_over.get() {
            times.push(timed(&[]).await);
        }
        times
    }));
    let trickle = async {
        wait(&gateway, CLIENTS / 2).await;
        // What came at once each worker sent before it had heard of the others; the pod serves that first.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let mut times = Vec::new();
        for _ in 0..8 {
            times.push(timed(&[("x-gateway-inference-objective", "urgent")]).await);
        }
        is_over.set(true);
        times
    };
    let (flood, urgent) = tokio::time::timeout(2 * PATIENCE, async { tokio::join!(flood, trickle) }).await.unwrap();
    let others: Vec<_> = flood.into_iter().flatten().collect();
    let mean = others.iter().sum::<Duration>() / u32::try_from(others.len()).unwrap();
    println!("urgent {urgent:?}, {} others in {mean:?} in the mean", others.len());
    assert!(urgent.iter().all(|time| *time < mean / 2), "urgent {urgent:?}, others {mean:?}");
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
        let body: Value = serde_json::from_slice(&reply.body).unwrap();
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
        let body: Value = serde_json::from_slice(&reply.body).unwrap();
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
        let body: Value = serde_json::from_slice(&reply.body).unwrap();
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

/// What became of clients of whom most waited when the module crashed.
struct Crash {
    gateway: Gateway,
    replies: Vec<HttpResponse>,
    /// Those of them that had been sent.
    sent: u64,
}

impl Crash {
    /// Has clients wait for a pod that serves two in a second, and then the module end by that fault.
    async fn of(builder: Builder, fault: &str) -> Self {
        let gateway = Gateway::start(builder.workers(1).vllm_sim_args(slow(1)).module(faulty_module().await)).await;
        gateway.learns_slots(1).await;
        let served = async || gateway.pod_page(0).await.unwrap().sum("vllm:request_success_total", &[]) as u64;
        let before = served().await;
        gateway.envoy_shows(&[figure(LOST, &[], 0)]).await;
        let crash = async {
            wait(&gateway, CLIENTS / 2).await;
            gateway.send("POST", CHAT, &[("x-inpick-fault", fault)], chat_body(MODEL, false)).await
        };
        let clients = tokio::time::timeout(SOON, join_all((0..CLIENTS).map(|_| gateway.chat())));
        let (crash, replies) = tokio::join!(crash, clients);
        assert_eq!(crash.status, 503);
        let replies = replies.expect("nobody waits for good");
        let sent = served().await - before;
        assert!(sent < CLIENTS as u64 / 2);
        Self { gateway, replies, sent }
    }

    /// Those who had not been sent.
    fn waited(&self) -> u64 {
        self.replies.len() as u64 - self.sent
    }

    /// Nobody waits in the page's eyes, and another machine serves and has requests wait.
    async fn is_over(&self, lost: u64) {
        eventually("the filter works again", async || {
            let status = self.gateway.chat().await.status.as_u16();
            if status == 200 { Ok(()) } else { Err(status) }
        })
        .await;
        let is_idle = [
            figure(QUEUE_SIZE, &[], 0),
            figure("inference_extension_flow_control_queue_bytes", &[], 0),
            figure("inference_objective_running_requests", &[], 0),
            figure("inpick_in_flight_requests", &[], 0),
            figure(LOST, &[], lost),
        ];
        self.gateway.envoy_shows(&is_idle).await;
        let replies = join_all((0..4).map(|_| self.gateway.chat()));
        let replies = tokio::time::timeout(PATIENCE, replies).await.unwrap();
        assert!(replies.iter().all(|reply| reply.status == 200), "{replies:?}");
    }
}

async fn a_crash_answers_who_waits(mode: Mode) {
    let crash = Crash::of(builder(mode, 1, json!({"flow_control": {}})), "panic").await;
    let refused: Vec<_> = crash.replies.iter().filter(|reply| reply.status != 200).collect();
    assert!(refused.len() as u64 >= crash.waited());
    for reply in refused {
        assert_eq!(reply.status, 503);
        let body: Value = serde_json::from_slice(&reply.body).unwrap();
        let error = &body["error"];
        assert_eq!((&error["type"], &error["code"]), (&json!("server_error"), &json!("wasm_fail_stream")));
    }
    crash.is_over(crash.waited()).await;
}

async fn after_a_trap_without_a_panic_who_waits_is_answered_when_the_stream_was_idle(mode: Mode) {
    const IDLE: Duration = Duration::from_secs(3);
    let stack = builder(mode, 1, json!({"flow_control": {}})).patch(|bootstrap| {
        let manager =
            &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
        manager["stream_idle_timeout"] = json!("3s");
        for route in manager["route_config"]["virtual_hosts"][0]["routes"].as_array_mut().unwrap() {
            if route.get("route").is_some() {
                route["route"]["idle_timeout"] = json!("3s");
            }
        }
    });
    let crash = Crash::of(stack, "trap").await;
    // Envoy's answer passes the filter, whose machine is gone: what would be 504 is 503.
    let timed_out = |reply: &&HttpResponse| reply.status == 503 && reply.first_byte >= IDLE.mul_f64(0.9);
    assert_eq!(crash.replies.iter().filter(timed_out).count() as u64, crash.waited(), "{:?}", crash.replies);
    crash.is_over(0).await;
}

/// Gives the filter another configuration, by which requests wait for half as long.
fn change(listener: &ListenerFile) {
    let ttl = |millis: u64| format!(r#"\"ttl_ms\":{millis}"#);
    listener.change(&ttl(TTL_MILLIS), &ttl(TTL_MILLIS / 2));
}

/// Requests of as many clients that wait for a pod which serves two in a second while `change` happens; what became of them, and how many others had been
/// served before.
async fn waiting(gateway: &Gateway, change: impl AsyncFnOnce()) -> (Vec<Result<HttpResponse, ClientError>>, u64) {
    let before = gateway.learns_slots(1).await;
    let (url, body) = (gateway.url(CHAT), chat_body(MODEL, false));
    let chats = join_all((0..CLIENTS).map(|_| gateway.client.post_json(&url, body.clone())));
    let change = async {
        wait(gateway, CLIENTS / 2).await;
        change().await;
    };
    let (replies, ()) = tokio::join!(tokio::time::timeout(SOON, chats), change);
    (replies.expect("nobody waits for good"), before)
}

/// Each of so many requests has an outcome, of which so many are that clients left.
async fn shows_outcomes(gateway: &Gateway, requests: u64, left: u64) {
    let outcomes = "inference_extension_flow_control_request_queue_duration_seconds_count";
    gateway
        .envoy_shows(&[
            figure("inference_objective_request_total", &[], requests),
            figure("inference_objective_request_error_total", &[("error_code", "Cancelled")], left),
            figure(outcomes, &[], requests),
            figure("inference_objective_running_requests", &[], 0),
            figure("inpick_in_flight_requests", &[], 0),
            figure(QUEUE_SIZE, &[], 0),
            figure("inference_extension_flow_control_queue_bytes", &[], 0),
        ])
        .await;
}

async fn who_waits_while_the_configuration_changes_is_served(mode: Mode) {
    let listener = ListenerFile::new();
    let stack = builder(mode, 1, json!({"flow_control": {"ttl_ms": TTL_MILLIS}})).drain_seconds(30);
    let stack = stack.workers(1).vllm_sim_args(slow(1)).patch(listener.patch()).envoy_args(ListenerFile::NODE);
    let gateway = Gateway::start(stack).await;
    let (replies, before) = waiting(&gateway, async || change(&listener)).await;
    assert!(replies.iter().all(|reply| reply.as_ref().is_ok_and(|reply| reply.status == 200)), "{replies:?}");
    assert_eq!(gateway.chat().await.status, 200);
    shows_outcomes(&gateway, before + CLIENTS as u64 + 1, 0).await;
}

async fn who_waits_for_longer_than_connections_drain_is_counted(mode: Mode) {
    let listener = ListenerFile::new();
    let stack = builder(mode, 1, json!({"flow_control": {"ttl_ms": TTL_MILLIS}}));
    let stack = stack.workers(1).vllm_sim_args(slow(1)).patch(listener.patch()).envoy_args(ListenerFile::NODE);
    let gateway = Gateway::start(stack).await;
    let (replies, before) = waiting(&gateway, async || change(&listener)).await;
    let left = replies.iter().filter(|reply| reply.is_err()).count();
    assert!(left > 0 && left < CLIENTS, "{replies:?}");
    assert!(replies.iter().flatten().all(|reply| reply.status == 200), "{replies:?}");
    // On a connection of its own: one that the client keeps may be closed at any time.
    let reply = HttpClient::new().post_json(&gateway.url(CHAT), chat_body(MODEL, false)).await.unwrap();
    assert_eq!(reply.status, 200);
    shows_outcomes(&gateway, before + CLIENTS as u64 + 1, left as u64).await;
}

async fn who_waits_while_listeners_drain_is_served(mode: Mode) {
    let stack = builder(mode, 1, json!({"flow_control": {}})).workers(1).vllm_sim_args(slow(1));
    let gateway = Gateway::start(stack).await;
    let drain = async || {
        let url = format!("http://{}/drain_listeners", gateway.admin);
        assert_eq!(gateway.client.post_json(&url, "").await.unwrap().status, 200);
    };
    let (replies, before) = waiting(&gateway, drain).await;
    assert!(replies.iter().all(|reply| reply.as_ref().is_ok_and(|reply| reply.status == 200)), "{replies:?}");
    shows_outcomes(&gateway, before + CLIENTS as u64, 0).await;
}

async fn who_waits_goes_on_when_no_pod_takes_requests(mode: Mode) {
    for no_endpoint in ["fail_open", "fail_closed"] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pool.json");
        let config = json!({"flow_control": {"ttl_ms": TTL_MILLIS}, "no_endpoint": no_endpoint});
        let stack = builder(mode, 1, config).workers(1).vllm_sim_args(slow(1));
        let stack = stack.envoy_args(membership::NODE).patch(membership::discover(&file, 1));
        let gateway = Gateway::start(stack).await;
        let (replies, before) = waiting(&gateway, async || {
            // Envoy's fallback policy takes such a pod where there is no other.
            let mut unready = membership::member(&gateway.pods[0].addr);
            unready["health_status"] = json!("UNHEALTHY");
            membership::publish(&file, &[unready]);
        })
        .await;
        let replies: Vec<_> = replies.into_iter().map(Result::unwrap).collect();
        let refused: Vec<_> = replies.iter().filter(|reply| reply.status != 200).collect();
        for reply in &refused {
            let body: Value = serde_json::from_slice(&reply.body).unwrap();
            assert_eq!((reply.status.as_u16(), &body["error"]["code"]), (503, &json!("no_endpoint")), "{body}");
        }
        match no_endpoint {
            "fail_open" => assert_eq!(refused.len(), 0),
            _ => assert!((CLIENTS / 4..CLIENTS).contains(&refused.len()), "{} of {CLIENTS}", refused.len()),
        }
        let outcomes = "inference_extension_flow_control_request_queue_duration_seconds_count";
        let evicted = [("outcome", "EvictedNoEndpoints")];
        gateway
            .envoy_shows(&[
                figure(outcomes, &evicted, refused.len() as u64),
                figure(outcomes, &[], before + CLIENTS as u64),
                figure(QUEUE_SIZE, &[], 0),
                figure("inference_extension_flow_control_pool_saturation_permille", &[], 1_000),
            ])
            .await;
    }
}

async fn who_waits_goes_on_when_the_sidecar_dies(mode: Mode) {
    let config = json!({"flow_control": {"ttl_ms": TTL_MILLIS}, "scheduling": {"max_snapshot_age_ms": 1_000}});
    let mut gateway = Gateway::start(builder(mode, 2, config).workers(1)).await;
    for pod in 0..2 {
        gateway.pin(pod, json!({"waiting": 1, "kv_cache_usage": 0.95})).await;
    }
    let (url, client) = (gateway.url(CHAT), gateway.client.clone());
    let chats = (0..CLIENTS).map(|_| client.post_json(&url, chat_body(MODEL, false)));
    let kill = async {
        wait(&gateway, CLIENTS).await;
        gateway.stack.sidecar_process().unwrap().kill().await;
    };
    let (replies, ()) = tokio::join!(tokio::time::timeout(SOON, join_all(chats)), kill);
    for reply in replies.expect("nobody waits for what the last page said") {
        let reply = reply.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    // With nobody who waits before it a request goes at once.
    assert_eq!(tokio::time::timeout(SOON, gateway.chat()).await.unwrap().status, 200);
    gateway
        .envoy_shows(&[
            figure(QUEUE_SIZE, &[], 0),
            figure("inference_objective_request_total", &[], CLIENTS as u64 + 1),
            figure("inference_objective_request_error_total", &[], 0),
            figure("inference_extension_flow_control_pool_saturation_permille", &[], 1_000),
        ])
        .await;
}
