//! The snapshot service is a lease: whoever holds it, picks go by load and the gauges are alive.

use serde_json::{Value, json};
use tests::{Gateway, MODEL, Mode, builder, chat_body, eventually, figure};

use crate::crash::faulty_module;

tests::on_bindings! {
    // The native module has one state for all threads: there is no lease, and nothing that could trap alone.
    wasm: [a_trap_in_the_service_costs_seconds, the_filter_alone_picks_by_load],
}

const CHAT: &str = "/v1/chat/completions";

/// Picks follow new loads, and Envoy's page shows them.
async fn follows_load(gateway: &Gateway) {
    for (low, high) in [(0, 1), (1, 0)] {
        gateway.pin(high, json!({"waiting": 40})).await;
        gateway.pin(low, json!({"waiting": 1})).await;
        eventually("picks follow the load", async || {
            let served = gateway.pod_of(&gateway.chat().await);
            if served == low { Ok(()) } else { Err(served) }
        })
        .await;
    }
}

async fn a_trap_in_the_service_costs_seconds(mode: Mode) {
    let mut gateway = Gateway::start(builder(mode, 2, json!({})).workers(1).module(faulty_module().await)).await;
    follows_load(&gateway).await;
    let starts = gateway.envoy_page().await.unwrap().sum("inpick_vm_starts_total", &[]);
    let reply = gateway.send("POST", CHAT, &[("x-inpick-fault", "panic-service")], chat_body(MODEL, false)).await;
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
    eventually("the service has trapped", async || {
        if gateway.stack.logs().contains("asked for by x-inpick-fault") {
            Ok(())
        } else {
            Err("no trap in Envoy's log")
        }
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    // What was pinned before has long been heard of, so only a living service shows these.
    follows_load(&gateway).await;
    let page = gateway.envoy_page().await.unwrap();
    assert!(page.sum("inpick_snapshot_age_seconds", &[]) <= 1.0);
    assert_eq!(page.sum("inpick_vm_starts_total", &[]), starts, "no worker had to start again");
    gateway.shows(&[figure("inference_objective_running_requests", &[], 0)]).await;
}

async fn the_filter_alone_picks_by_load(mode: Mode) {
    for workers in [1, 2] {
        let stack = builder(mode, 2, json!({})).workers(workers).patch(|tree: &mut Value| {
            tree.as_object_mut().unwrap().remove("bootstrap_extensions");
        });
        let gateway = Gateway::start(stack).await;
        follows_load(&gateway).await;
        let page = gateway.envoy_page().await.unwrap();
        assert_eq!(page.sum("inpick_endpoints", &[("state", "fresh")]), 2.0);
        gateway
            .shows(&[
                figure("inference_objective_running_requests", &[], 0),
                figure("inpick_in_flight_requests", &[], 0),
            ])
            .await;
    }
}
