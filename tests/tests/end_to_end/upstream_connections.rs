//! Connections between Envoy and the pods, which close what is idle.

use std::time::Duration;

use crate::shipped;
use futures_util::future::join_all;
use serde_json::json;
use tests::{Gateway, MODEL, Mode, Wire, builder, chat_body, eventually, figure};

tests::on_bindings! {
    both: [requests_that_follow_a_pause_of_the_keep_alive_time_all_succeed, many_requests_at_once_are_not_turned_away, many_retries_at_once_are_not_turned_away],
    // They need a sidecar that can be ended, or that is not there.
    both_beside_a_sidecar: [a_connection_on_which_a_pod_is_silent_is_probed],
}

/// After this uvicorn closes an idle connection.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const POOL: [(&str, &str); 1] = [("envoy_cluster_name", "pool-default")];
/// Requests of a round, each on a connection of its own.
const REQUESTS: u32 = 24;
/// Between two requests of a round; together they span the moment at which the pod closes.
const STEP: Duration = Duration::from_millis(2);

async fn requests_that_follow_a_pause_of_the_keep_alive_time_all_succeed(mode: Mode) {
    for bootstrap in shipped(mode) {
        let closing = ["--timeout-keep-alive".to_owned(), KEEP_ALIVE.as_secs().to_string()];
        let stack = builder(mode, 1, json!({})).config(bootstrap).vllm_sim_args(closing).workers(1);
        let gateway = Gateway::start(stack).await;
        // An answer takes longer than a round, so that none finds the connection of another.
        gateway.fault(0, json!({"kind": "slow_headers", "delay_ms": 150})).await;
        let mut refused = Vec::new();
        let first = STEP * (REQUESTS / 2);
        for pause in [Duration::ZERO, KEEP_ALIVE - first, KEEP_ALIVE - first] {
            tokio::time::sleep(pause).await;
            let step = if pause.is_zero() { Duration::ZERO } else { STEP };
            let replies = (0..REQUESTS).map(|number| {
                let gateway = &gateway;
                async move {
                    tokio::time::sleep(step * number).await;
                    gateway.post("/v1/chat/completions", chat_body(MODEL, false)).await
                }
            });
            let failed = join_all(replies).await.into_iter().filter(|reply| reply.status != 200);
            refused.extend(failed.map(|reply| reply.text()));
        }
        assert!(refused.is_empty(), "{bootstrap}: {} of {}: {refused:?}", refused.len(), 3 * REQUESTS);
        gateway.envoy_shows(&[figure("inference_objective_request_error_total", &[], 0)]).await;
        // Which request meets a close is luck; that no pod comes to close first is not.
        tokio::time::sleep(KEEP_ALIVE + Duration::from_millis(500)).await;
        let page = gateway.envoy_page().await.unwrap();
        let connections = |stat: &str| page.sum(&format!("envoy_cluster_upstream_cx_{stat}"), &POOL);
        assert_eq!(connections("destroy_remote"), 0.0, "{bootstrap}: pods closed idle connections first");
        assert_eq!(connections("idle_timeout"), connections("total"), "{bootstrap}");
        assert!(connections("total") >= f64::from(REQUESTS));
    }
}

/// Whether the kernel will probe an open connection to this port of 127.0.0.1 within that many hundredths of a second: the timer of
/// its line is then the keep-alive's, `02`. Of all that connect to a pod here, only Envoy asks for it.
fn is_probed(port: u16, within: u64) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let remote = format!("0100007F:{port:04X}");
    let rings = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (timer, rings) = fields.get(5)?.split_once(':')?;
        let open = fields.get(2) == Some(&remote.as_str()) && fields.get(3) == Some(&"01");
        (open && timer == "02").then(|| u64::from_str_radix(rings, 16).unwrap())
    });
    rings.min().is_some_and(|rings| rings <= within)
}

async fn a_connection_on_which_a_pod_is_silent_is_probed(mode: Mode) {
    for bootstrap in shipped(mode) {
        let stack = builder(mode, 1, json!({})).config(bootstrap).without_sidecar();
        let gateway = Gateway::start(stack).await;
        gateway.fault(0, json!({"kind": "hang"})).await;
        let _held = Wire::post(gateway.gateway, "/v1/chat/completions", &chat_body(MODEL, false)).await;
        eventually("the request is with the pod", async || {
            let state = gateway.pod_state(0).await;
            if state["in_flight"] == 1 { Ok(()) } else { Err(state) }
        })
        .await;
        let port = gateway.pods[0].addr.rsplit_once(':').unwrap().1.parse().unwrap();
        eventually(
            "Envoy's connection is probed",
            async || {
                if is_probed(port, 3000) { Ok(()) } else { Err(bootstrap) }
            },
        )
        .await;
    }
}

async fn many_requests_at_once_are_not_turned_away(mode: Mode) {
    const AT_ONCE: usize = 1300;
    for bootstrap in shipped(mode) {
        let gateway = Gateway::start(builder(mode, 2, json!({})).config(bootstrap)).await;
        for pod in 0..2 {
            gateway.fault(pod, json!({"kind": "slow_headers", "delay_ms": 1500})).await;
        }
        assert_eq!(refusals(&gateway, AT_ONCE).await, [""; 0], "{bootstrap}");
        let page = gateway.envoy_page().await.unwrap();
        assert!(page.sum("envoy_cluster_upstream_rq_total", &POOL) >= AT_ONCE as f64);
        assert_eq!(page.sum("envoy_cluster_upstream_rq_pending_overflow", &POOL), 0.0, "{bootstrap}");
    }
}

/// Half of the requests are refused at about the same time, long after the last was sent: nobody can learn from the first.
async fn many_retries_at_once_are_not_turned_away(mode: Mode) {
    for bootstrap in shipped(mode) {
        let gateway = Gateway::start(builder(mode, 2, json!({})).config(bootstrap)).await;
        gateway.fault(0, json!({"kind": "status", "status": 503, "delay_ms": 3000})).await;
        gateway.fault(1, json!({"kind": "slow_headers", "delay_ms": 1500})).await;
        let requests = tokio::spawn(refusals(&gateway, 60));
        let held = eventually("many requests are with the pod", async || {
            let state = gateway.pod_state(0).await;
            state["in_flight"].as_u64().filter(|held| *held >= 20).ok_or(state)
        })
        .await;
        assert_eq!(requests.await.unwrap(), [""; 0], "{bootstrap}");
        let page = gateway.envoy_page().await.unwrap();
        assert!(page.sum("envoy_cluster_upstream_rq_retry", &POOL) >= held as f64, "{bootstrap}");
        assert_eq!(page.sum("envoy_cluster_upstream_rq_retry_overflow", &POOL), 0.0, "{bootstrap}");
    }
}

/// Sends that many requests at once; the answers other than 200.
fn refusals(gateway: &Gateway, requests: usize) -> impl Future<Output = Vec<String>> + use<> {
    let (client, url) = (gateway.client.clone(), gateway.url("/v1/chat/completions"));
    async move {
        let replies = join_all((0..requests).map(|_| client.post_json(&url, chat_body(MODEL, false)))).await;
        let refused = replies.into_iter().map(|reply| reply.unwrap()).filter(|reply| reply.status != 200);
        refused.map(|reply| format!("{} {}", reply.status, reply.text())).collect()
    }
}
