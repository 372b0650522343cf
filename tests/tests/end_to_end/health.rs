//! Sick pods and slow pages against the real Envoy: what they can do to their own share, and not to the others'.

use std::time::Duration;

use futures_util::future::join_all;
use local_stack::{Builder, HttpClient};
use serde_json::{Value, json};
use tests::{Gateway, MODEL, Mode, builder, chat_body, eventually, figure};

tests::on_bindings! {
    both: [a_pod_that_answers_500_at_once_does_not_take_the_pool, a_pod_that_rejects_what_the_others_serve_does_not_take_the_pool, slow_pages_do_not_send_everything_to_one_pod, without_engine_statistics_requests_in_flight_decide, a_pod_that_died_and_came_back_has_its_share_a_second_later, time_outs_and_limits_of_the_proxy_blame_no_pod, a_stream_without_its_end_is_a_failure_once, a_pod_that_is_left_out_is_counted_as_ejected_until_it_serves_again],
}

const CHAT: &str = "/v1/chat/completions";

/// Makes every request to a pod take a second. The picker learns how fast pods answer, and on a busy machine it learns delays of tens
/// of milliseconds too; only beside long answers do these not decide who gets what.
const LONG_ANSWERS: [&str; 2] = ["--fault", "kind=slow_headers,delay_ms=1000"];
/// Between two of them.
const EVERY: Duration = Duration::from_millis(25);

/// Two workers that get connections in turn.
fn two_workers(stack: Builder) -> Builder {
    stack.workers(2).patch(|tree| {
        tree["static_resources"]["listeners"][0]["connection_balance_config"] = json!({"exact_balance": {}});
    })
}

/// Sends requests over two connections in turn, each so long after the last answer. Returns how many failed.
async fn failures(gateway: &Gateway, requests: usize, pause: Duration) -> usize {
    let clients = [HttpClient::new(), HttpClient::new()];
    let mut failed = 0;
    for client in clients.iter().cycle().take(requests) {
        let reply = client.post_json(&gateway.url(CHAT), chat_body(MODEL, false)).await.unwrap();
        failed += usize::from(reply.status != 200);
        tokio::time::sleep(pause).await;
    }
    failed
}

/// Sends requests at a fixed rate, whatever is still to be answered. All must succeed. Returns how many each pod got.
async fn shares(gateway: &Gateway, requests: u32) -> Vec<usize> {
    let clients = [HttpClient::new(), HttpClient::new()];
    let replies = join_all(clients.iter().cycle().zip(0..requests).map(|(client, number)| async move {
        tokio::time::sleep(EVERY * number).await;
        client.post_json(&gateway.url(CHAT), chat_body(MODEL, false)).await.unwrap()
    }));
    let mut shares = vec![0; gateway.pods.len()];
    for reply in replies.await {
        assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
        shares[gateway.pod_of(&reply)] += 1;
    }
    shares
}

async fn a_pod_that_answers_500_at_once_does_not_take_the_pool(mode: Mode) {
    for fault in
        [json!({"kind": "status", "status": 500}), json!({"kind": "drain"}), json!({"kind": "status", "status": 502})]
    {
        let gateway = Gateway::start(two_workers(builder(mode, 3, json!({})))).await;
        for pod in [1, 2] {
            gateway.pin(pod, json!({"waiting": 5})).await;
        }
        gateway.fault(0, fault.clone()).await;
        let failed = failures(&gateway, 300, Duration::from_millis(10)).await;
        assert!(failed <= 10, "{fault}: {failed} of 300 requests failed");
    }
}

async fn a_pod_that_rejects_what_the_others_serve_does_not_take_the_pool(mode: Mode) {
    let gateway = Gateway::start(two_workers(builder(mode, 3, json!({})))).await;
    // Each worker gets to know it by requests in a row, and the others take long beside it.
    for pod in [1, 2] {
        gateway.fault(pod, json!({"kind": "slow_headers", "delay_ms": 100})).await;
    }
    failures(&gateway, 20, Duration::ZERO).await;
    gateway.fault(0, json!({"kind": "status", "status": 401})).await;
    let failed = failures(&gateway, 100, Duration::ZERO).await;
    assert!(failed <= 30, "{failed} of 100 failed");
    gateway.shows(&[figure("inpick_endpoint_failures_total", &[("reason", "rejected")], failed as u64)]).await;
}

async fn slow_pages_do_not_send_everything_to_one_pod(mode: Mode) {
    let gateway = Gateway::start(two_workers(builder(mode, 4, json!({})).vllm_sim_args(LONG_ANSWERS))).await;
    for pod in 0..3 {
        gateway.fault(pod, json!({"kind": "slow_headers", "target": "metrics", "delay_ms": 5_000})).await;
    }
    eventually("three pages are stale", async || {
        let stale = gateway.envoy_page().await.unwrap().sum("inpick_endpoints", &[("state", "stale")]);
        if stale == 3.0 { Ok(()) } else { Err(stale) }
    })
    .await;
    let shares = shares(&gateway, 120).await;
    assert!(shares.iter().all(|&share| share >= 20), "{shares:?}");
}

async fn without_engine_statistics_requests_in_flight_decide(mode: Mode) {
    let gateway = Gateway::start(two_workers(builder(mode, 2, json!({})))).await;
    for (pod, delay_ms) in [(0, 1_000), (1, 50)] {
        gateway.fault(pod, json!({"kind": "disable_log_stats", "target": "metrics"})).await;
        gateway.fault(pod, json!({"kind": "slow_headers", "delay_ms": delay_ms})).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let clients = (0..8).map(|_| async {
        let mut shares = [0, 0];
        let client = HttpClient::new();
        for _ in 0..25 {
            let reply = client.post_json(&gateway.url(CHAT), chat_body(MODEL, false)).await.unwrap();
            shares[gateway.pod_of(&reply)] += 1;
        }
        shares
    });
    let shares =
        join_all(clients).await.into_iter().fold([0, 0], |sum, shares| [sum[0] + shares[0], sum[1] + shares[1]]);
    assert!(shares[0] <= 50 && shares[0] >= 2, "a pod of 1 s beside one of 50 ms: {shares:?}");
}

async fn a_pod_that_died_and_came_back_has_its_share_a_second_later(mode: Mode) {
    let mut gateway = Gateway::start(two_workers(builder(mode, 3, json!({})).vllm_sim_args(LONG_ANSWERS))).await;
    shares(&gateway, 20).await;
    gateway.stack.pod(0).unwrap().kill().await;
    assert_eq!(shares(&gateway, 90).await[0], 0);
    gateway.stack.restart_pod(0).await.unwrap();
    eventually("the pod's page is read", async || {
        let fresh = gateway.envoy_page().await.unwrap().sum("inpick_endpoints", &[("state", "fresh")]);
        if fresh == 3.0 { Ok(()) } else { Err(fresh) }
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let shares = shares(&gateway, 90).await;
    assert!(shares[0] >= 20, "{shares:?}");
}

async fn time_outs_and_limits_of_the_proxy_blame_no_pod(mode: Mode) {
    let route = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes/0/route";
    let gateway = Gateway::start(builder(mode, 2, json!({})).patch(move |tree: &mut Value| {
        tree.pointer_mut(route).unwrap()["timeout"] = json!("0.3s");
    }))
    .await;
    for pod in 0..2 {
        gateway.fault(pod, json!({"kind": "hang"})).await;
    }
    for _ in 0..6 {
        assert_eq!(gateway.chat().await.status.as_u16(), 504);
    }
    gateway
        .shows(&[
            figure("inference_objective_request_error_total", &[("error_code", "Timeout")], 6),
            figure("inpick_endpoint_failures_total", &[], 0),
            figure("inpick_ejections_total", &[], 0),
        ])
        .await;

    let gateway = Gateway::start(builder(mode, 1, json!({})).patch(|tree: &mut Value| {
        let clusters = tree["static_resources"]["clusters"].as_array_mut().unwrap();
        let pool = clusters.iter_mut().find(|cluster| cluster["name"] == "pool-default").unwrap();
        pool["circuit_breakers"]["thresholds"] =
            json!([{"max_requests": 1, "max_pending_requests": 1, "max_connections": 1}]);
    }))
    .await;
    gateway.fault(0, json!({"kind": "slow_headers", "delay_ms": 300})).await;
    let answers = join_all(
        (0..8).map(|_| async { HttpClient::new().post_json(&gateway.url(CHAT), chat_body(MODEL, false)).await }),
    );
    let refused = answers.await.into_iter().filter(|reply| reply.as_ref().unwrap().status == 503).count() as u64;
    assert!(refused > 0, "nothing overflowed");
    gateway
        .shows(&[
            figure("inference_objective_request_error_total", &[("error_code", "ResourceExhausted")], refused),
            figure("inpick_endpoint_failures_total", &[], 0),
        ])
        .await;
}

async fn a_stream_without_its_end_is_a_failure_once(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({}))).await;
    gateway.fault(0, json!({"kind": "short", "after_events": 2, "count": 1})).await;
    assert_eq!(gateway.post(CHAT, chat_body(MODEL, true)).await.status.as_u16(), 200);
    gateway
        .shows(&[
            figure("inference_objective_request_error_total", &[("error_code", "UpstreamReset")], 1),
            figure("inference_objective_request_error_total", &[], 1),
            figure("inpick_response_bodies_total", &[("outcome", "truncated")], 1),
            figure("inpick_endpoint_failures_total", &[("reason", "broken_off")], 1),
        ])
        .await;
}

async fn a_pod_that_is_left_out_is_counted_as_ejected_until_it_serves_again(mode: Mode) {
    let gateway = Gateway::start(two_workers(builder(mode, 3, json!({})))).await;
    // Each look comes after more requests, so that trials of a pod that is not well eject it again, and for longer.
    let states = async || {
        failures(&gateway, 10, Duration::from_millis(10)).await;
        let pages = [gateway.envoy_page().await.unwrap(), gateway.sidecar_page().await.unwrap()];
        pages.map(|page| {
            let of = |labels: &[(&str, &str)]| page.sum("inpick_endpoints", labels);
            [of(&[("state", "fresh")]), of(&[("state", "ejected")]), of(&[])]
        })
    };
    let shows = async |[fresh, ejected]: [f64; 2]| {
        eventually("the endpoints by state", async || {
            let seen = states().await;
            // Each endpoint has one state.
            if seen == [[fresh, ejected, 3.0]; 2] { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await;
    };
    shows([3.0, 0.0]).await;
    gateway.fault(0, json!({"kind": "status", "status": 500})).await;
    shows([2.0, 1.0]).await;
    gateway.heal(0).await;
    shows([3.0, 0.0]).await;
}
