//! Pods and sidecars that die and come back.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use local_stack::HttpClient;
use serde_json::{Value, json};
use tests::{Gateway, Mode, builder, eventually, figure};

tests::on_bindings! {
    both: [a_dead_pod_is_retried_on_the_next_and_then_left_out, a_frozen_engine_gets_few_requests_though_its_page_looks_idle, a_pod_that_answers_503_is_retried_on_the_next, a_retry_sends_the_rewritten_body_again, with_all_pods_dead_the_answer_is_a_well_formed_503],
    // They need a sidecar that can be ended, or that is not there.
    both_beside_a_sidecar: [with_no_endpoint_and_fail_closed_the_refusal_is_ours, without_a_sidecar_envoys_own_policy_chooses_and_a_late_one_is_found, a_stale_snapshot_falls_back_to_requests_in_flight_until_the_sidecar_returns],
}

/// The sidecar goes on calling a pod fresh, so that it is the filter and Envoy that must cope with its death.
const PATIENT: [&str; 2] = ["--staleness", "60s"];

fn picks(gateway: &Gateway, pod: usize, reason: &str, count: u64) -> tests::Figure {
    figure("inpick_picks_total", &[("endpoint", &gateway.pods[pod].addr), ("reason", reason)], count)
}

async fn a_dead_pod_is_retried_on_the_next_and_then_left_out(mode: Mode) {
    let mut gateway = Gateway::start(builder(mode, 2, json!({})).sidecar_args(PATIENT).workers(1)).await;
    gateway.pin(0, json!({"waiting": 1})).await;
    gateway.pin(1, json!({"waiting": 60})).await;
    assert_eq!(gateway.pod_of(&gateway.chat().await), 0);
    gateway.stack.pod(0).unwrap().kill().await;
    for _ in 0..6 {
        let reply = gateway.chat().await;
        assert_eq!((reply.status.as_u16(), gateway.pod_of(&reply)), (200, 1), "{}", reply.text());
    }
    let retried = eventually("retries are counted", async || {
        let page = gateway.envoy_page().await.unwrap();
        let total = page.sum("inpick_picks_total", &[]);
        let retried = page.sum("inpick_picks_total", &[("reason", "retry")]);
        if total == 7.0 && retried > 0.0 {
            Ok(retried as u64)
        } else {
            Err(format!("{total} picks, {retried} retries"))
        }
    })
    .await;
    // A failure puts a pod last for a second, and a second one takes it out.
    assert!(retried <= 2, "{retried} of 6 requests met the dead pod");
    gateway
        .shows(&[
            picks(&gateway, 0, "best_score", 1),
            figure("inpick_picks_total", &[("endpoint", &gateway.pods[1].addr)], 6),
            figure("inference_objective_request_error_total", &[], 0),
            figure("inference_objective_request_total", &[], 7),
            figure("inference_objective_running_requests", &[], 0),
        ])
        .await;
    // One failure puts the pod last for a second. The next one after that takes it out.
    let dead = [("endpoint", gateway.pods[0].addr.as_str())];
    eventually("the dead pod is ejected", async || {
        assert_eq!(gateway.chat().await.status.as_u16(), 200);
        tokio::time::sleep(Duration::from_millis(250)).await;
        let page = gateway.envoy_page().await.unwrap();
        if page.sum("inpick_ejections_total", &dead) > 0.0 { Ok(()) } else { Err("no ejection") }
    })
    .await;
    let page = gateway.envoy_page().await.unwrap();
    let failures = page.sum("inpick_endpoint_failures_total", &[dead[0], ("reason", "no_answer")]);
    assert!((2.0..=3.0).contains(&failures), "{failures} requests met the dead pod");

    // It comes back, and once its time out is over it is the least loaded again.
    gateway.stack.restart_pod(0).await.unwrap();
    eventually("the pod that came back gets requests", async || {
        let served = gateway.pod_of(&gateway.chat().await);
        if served == 0 { Ok(()) } else { Err(served) }
    })
    .await;
}

async fn a_frozen_engine_gets_few_requests_though_its_page_looks_idle(mode: Mode) {
    const REQUESTS: u32 = 30;
    // Longer than an answer takes on a busy machine: the healthy pod has nothing in flight when the next request comes.
    const EVERY: Duration = Duration::from_millis(120);
    let gateway = Gateway::start(builder(mode, 2, json!({})).workers(1)).await;
    gateway.fault(0, json!({"kind": "freeze"})).await;
    let client = HttpClient::new().with_timeout(Duration::from_secs(5));
    let (url, body) = (gateway.stack.url("/v1/chat/completions"), tests::chat_body(tests::MODEL, false));
    let requests = (0..REQUESTS).map(|number| {
        let (client, url, body) = (&client, &url, body.clone());
        async move {
            tokio::time::sleep(EVERY * number).await;
            client.post_json(url, body).await
        }
    });
    let answered =
        join_all(requests).await.into_iter().filter(|reply| reply.as_ref().is_ok_and(|reply| reply.status == 200));
    // What hangs there is in flight, so the next request goes elsewhere; only the first ones can meet it, and those that come while a busy
    // machine keeps as many at the healthy pod. By its page alone it would get half or more.
    let answered = answered.count();
    assert!(answered >= 22, "{answered} of {REQUESTS} requests were answered");
}

async fn a_pod_that_answers_503_is_retried_on_the_next(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 2, json!({}))).await;
    gateway.pin(0, json!({"waiting": 1})).await;
    gateway.pin(1, json!({"waiting": 60})).await;
    gateway.fault(0, json!({"kind": "status", "status": 503, "count": 1})).await;
    let reply = gateway.chat().await;
    assert_eq!((reply.status.as_u16(), gateway.pod_of(&reply)), (200, 1));
    // A pod that is full for a moment comes last for a second, and is not out.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let reply = gateway.chat().await;
    assert_eq!((reply.status.as_u16(), gateway.pod_of(&reply)), (200, 0));
    gateway
        .shows(&[
            picks(&gateway, 1, "retry", 1),
            picks(&gateway, 0, "best_score", 1),
            figure("inpick_picks_total", &[], 2),
            figure("inference_objective_request_total", &[], 2),
            figure("inference_objective_request_error_total", &[], 0),
            figure("inference_objective_output_tokens_count", &[], 2),
            figure("inference_objective_running_requests", &[], 0),
        ])
        .await;

    // Full everywhere: the pod's own 503 reaches the client.
    for pod in 0..2 {
        gateway.fault(pod, json!({"kind": "status", "status": 503})).await;
    }
    let reply = gateway.chat().await;
    assert_eq!(reply.status.as_u16(), 503);
    gateway.pod_of(&reply);
    gateway
        .shows(&[
            figure("inference_objective_request_error_total", &[("error_code", "ModelServerError")], 1),
            figure("inference_objective_request_error_total", &[], 1),
            figure("inference_objective_running_requests", &[], 0),
        ])
        .await;
}

async fn a_retry_sends_the_rewritten_body_again(mode: Mode) {
    let rules = json!({"model_rewrites": [{"name": "r", "targets": [{"model": tests::MODEL}]}]});
    let mut gateway = Gateway::start(builder(mode, 2, rules).sidecar_args(PATIENT)).await;
    gateway.pin(0, json!({"waiting": 1})).await;
    gateway.pin(1, json!({"waiting": 60})).await;
    let body = tests::chat_body("some other model", false);
    let rewritten = tests::chat_body(tests::MODEL, false);
    // Refused once after it was read, and once by a port that is closed.
    gateway.fault(0, json!({"kind": "status", "status": 503, "count": 1})).await;
    for _ in 0..2 {
        let reply = gateway.post("/v1/chat/completions", body.clone()).await;
        assert_eq!((reply.status.as_u16(), gateway.pod_of(&reply)), (200, 1), "{}", reply.text());
        assert_eq!(gateway.last_body(1).await, rewritten);
        gateway.stack.pod(0).unwrap().kill().await;
        // So long one failure puts a pod last.
        tokio::time::sleep(Duration::from_millis(1_200)).await;
    }
    gateway
        .shows(&[
            figure("inpick_picks_total", &[("reason", "retry")], 2),
            figure("inference_objective_request_total", &[("target_model_name", tests::MODEL)], 2),
            figure("inference_extension_model_rewrite_decisions_total", &[], 2),
        ])
        .await;
}

async fn with_all_pods_dead_the_answer_is_a_well_formed_503(mode: Mode) {
    let mut gateway = Gateway::start(builder(mode, 2, json!({}))).await;
    for pod in 0..2 {
        gateway.stack.pod(pod).unwrap().kill().await;
    }
    let mut sent = 0;
    for _ in 0..8 {
        let reply = gateway.chat().await;
        assert_eq!(reply.status.as_u16(), 503, "{}", reply.text());
        let json: Value = serde_json::from_slice(&reply.body).unwrap_or_else(|_| panic!("no JSON: {}", reply.text()));
        assert!(json["error"]["message"].is_string() && json["error"]["type"].is_string(), "{json}");
        sent += 1;
    }
    gateway
        .shows(&[
            figure("inference_objective_request_total", &[], sent),
            figure("inference_objective_request_error_total", &[], sent),
            figure("inference_objective_request_error_total", &[("error_code", "ModelServerError")], 0),
            figure("inference_objective_request_error_total", &[("error_code", "Cancelled")], 0),
            figure("inference_objective_running_requests", &[], 0),
        ])
        .await;
    // The sidecar notices, and says so where one looks.
    gateway.shows(&[figure("inference_pool_ready_pods", &[("name", "default")], 0)]).await;

    for pod in 0..2 {
        gateway.stack.restart_pod(pod).await.unwrap();
    }
    eventually("pods that came back serve both", async || {
        let mut served = BTreeSet::new();
        for _ in 0..10 {
            let reply = gateway.chat().await;
            if reply.status.is_success() {
                served.insert(gateway.pod_of(&reply));
            }
        }
        if served.len() == 2 { Ok(()) } else { Err(format!("{served:?}")) }
    })
    .await;
    gateway.shows(&[figure("inference_pool_ready_pods", &[("name", "default")], 2)]).await;
}

async fn with_no_endpoint_and_fail_closed_the_refusal_is_ours(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({"no_endpoint": "fail_closed"})).without_sidecar()).await;
    let reply = gateway.chat().await;
    assert_eq!(reply.status.as_u16(), 503, "{}", reply.text());
    let json: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!((&json["error"]["code"], &json["error"]["type"]), (&json!("no_endpoint"), &json!("server_error")));
    gateway
        .envoy_shows(&[
            figure("inference_objective_request_total", &[], 1),
            figure("inference_objective_request_error_total", &[("error_code", "ServiceUnavailable")], 1),
            figure("inference_extension_scheduler_attempts_total", &[("status", "failure")], 1),
            figure("inpick_picks_total", &[], 0),
        ])
        .await;
}

async fn without_a_sidecar_envoys_own_policy_chooses_and_a_late_one_is_found(mode: Mode) {
    let mut gateway = Gateway::start(builder(mode, 2, json!({})).without_sidecar()).await;
    for _ in 0..10 {
        assert_eq!(gateway.chat().await.status.as_u16(), 200);
    }
    gateway
        .envoy_shows(&[
            figure("inpick_picks_total", &[("reason", "fallback")], 10),
            figure("inpick_picks_total", &[], 10),
            figure("inference_extension_scheduler_attempts_total", &[("status", "failure")], 10),
            figure("inference_objective_request_total", &[], 10),
            figure("inference_objective_request_error_total", &[], 0),
            figure("inference_objective_output_tokens_count", &[], 10),
        ])
        .await;
    gateway.stack.restart_sidecar().await.unwrap();
    gateway.pin(0, json!({"waiting": 40})).await;
    gateway.pin(1, json!({"waiting": 2})).await;
    eventually("picks go by load", async || {
        let before = gateway.envoy_page().await.unwrap().sum("inpick_picks_total", &[("reason", "best_score")]);
        let served = gateway.pod_of(&gateway.chat().await);
        if served == 1 && before > 0.0 { Ok(()) } else { Err(format!("pod {served}, {before} picks by score")) }
    })
    .await;
}

async fn a_stale_snapshot_falls_back_to_requests_in_flight_until_the_sidecar_returns(mode: Mode) {
    let mut gateway = Gateway::start(builder(mode, 2, json!({"scheduling": {"max_snapshot_age_ms": 500}}))).await;
    gateway.pin(0, json!({"waiting": 40})).await;
    gateway.pin(1, json!({"waiting": 2})).await;
    assert_eq!(gateway.pod_of(&gateway.chat().await), 1);
    gateway.stack.sidecar_process().unwrap().kill().await;
    gateway.snapshot_is_old().await;
    // Both pods serve now, whatever load was last heard of them. Answers are long enough for all requests to be in flight at once.
    for pod in 0..2 {
        gateway.fault(pod, json!({"kind": "slow_headers", "delay_ms": 1_000})).await;
    }
    let mut served = [0; 2];
    for reply in join_all((0..20).map(|_| gateway.chat())).await {
        assert_eq!(reply.status.as_u16(), 200);
        served[gateway.pod_of(&reply)] += 1;
    }
    assert!(served.iter().all(|count| *count >= 5), "{served:?}");
    for pod in 0..2 {
        gateway.heal(pod).await;
    }
    gateway
        .envoy_shows(&[
            figure("inpick_picks_total", &[("reason", "in_flight_only")], 20),
            figure("inpick_picks_total", &[("reason", "best_score")], 1),
            figure("inference_objective_request_error_total", &[], 0),
        ])
        .await;

    gateway.stack.restart_sidecar().await.unwrap();
    eventually("picks go by load again", async || {
        for _ in 0..6 {
            let served = gateway.pod_of(&gateway.chat().await);
            if served != 1 {
                return Err(format!("pod {served} got one"));
            }
        }
        let by_score = gateway.envoy_page().await.unwrap().sum("inpick_picks_total", &[("reason", "best_score")]);
        if by_score > 1.0 { Ok(()) } else { Err(format!("{by_score} by score")) }
    })
    .await;
    let fetches = gateway.envoy_page().await.unwrap();
    assert!(fetches.sum("inpick_snapshot_fetches_total", &[("outcome", "changed")]) >= 2.0);
    let failed: f64 = ["no_answer", "refused", "error_status"]
        .iter()
        .map(|outcome| fetches.sum("inpick_snapshot_fetches_total", &[("outcome", outcome)]))
        .sum();
    assert!(failed >= 1.0, "a dead sidecar leaves no trace");
}
