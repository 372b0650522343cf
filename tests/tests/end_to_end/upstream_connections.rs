//! Connections between Envoy and the pods, which close what is idle.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tests::{Gateway, MODEL, builder, chat_body, figure};

use crate::SHIPPED;

/// After this uvicorn closes an idle connection.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const POOL: [(&str, &str); 1] = [("envoy_cluster_name", "pool-default")];
/// Requests of a round, each on a connection of its own.
const REQUESTS: u32 = 24;
/// Between two requests of a round; together they span the moment at which the pod closes.
const STEP: Duration = Duration::from_millis(2);

#[tokio::test]
async fn requests_that_follow_a_pause_of_the_keep_alive_time_all_succeed() {
    for bootstrap in SHIPPED {
        let gateway = Gateway::start(builder(1, json!({})).config(bootstrap).workers(1)).await;
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
