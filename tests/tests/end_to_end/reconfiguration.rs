//! What readers of metrics see of a configuration that takes another's place while Envoy runs.

use std::time::Duration;

use local_stack::HttpClient;
use serde_json::json;
use tests::{Gateway, ListenerFile, MODEL, Mode, builder, chat_body, eventually, figure};

tests::on_bindings! {
    both: [a_new_configuration_starts_no_machine],
    // Where the sidecar is a process of its own, no configuration of the filter's changes it.
    native: [a_new_sidecar_in_envoy_knows_the_load_while_the_old_one_has_its_address],
}

const UPDATES: &str = "envoy_listener_manager_listener_in_place_updated";

/// Snapshots that nobody confirmed for so long count no more.
const SNAPSHOT_AGE: Duration = Duration::from_secs(2);

/// Puts one text of the listener in the place of another, and waits until Envoy has it.
async fn change(gateway: &Gateway, listener: &ListenerFile, from: &str, to: &str) {
    let updates = async || gateway.envoy_page().await.unwrap().sum(UPDATES, &[]);
    let before = updates().await;
    listener.change(from, to);
    eventually("Envoy takes the new listener", async || {
        let now = updates().await;
        if now > before { Ok(()) } else { Err(now) }
    })
    .await;
}

/// Asks over a connection of its own: one that was there before keeps the configuration that it began with.
async fn chat_anew(gateway: &Gateway) -> local_stack::HttpResponse {
    let reply = HttpClient::new().post_json(&gateway.url("/v1/chat/completions"), chat_body(MODEL, false)).await;
    reply.unwrap()
}

async fn a_new_configuration_starts_no_machine(mode: Mode) {
    let listener = ListenerFile::new();
    let stack = builder(mode, 1, json!({"unknown_model": "reject"})).workers(1).drain_seconds(30);
    let gateway = Gateway::start(stack.patch(listener.patch()).envoy_args(ListenerFile::NODE)).await;
    assert_eq!(chat_anew(&gateway).await.status, 200);
    for (from, to) in [("reject", "pass"), ("pass", "reject")] {
        let said = |what: &str| format!(r#"\"unknown_model\":\"{what}\""#);
        change(&gateway, &listener, &said(from), &said(to)).await;
        assert_eq!(chat_anew(&gateway).await.status, 200);
    }
    // What was counted before the requests is on the page when they are.
    gateway.shows(&[figure("inference_objective_request_total", &[], 3)]).await;
    // The worker's and the main thread's, of which the latter serves nothing.
    let machines = if mode == Mode::Wasm { 2.0 } else { 1.0 };
    let starts = gateway.envoy_page().await.unwrap().sum("inpick_vm_starts_total", &[]);
    assert!((1.0..=machines).contains(&starts), "{starts} starts of {machines} machines");
}

async fn a_new_sidecar_in_envoy_knows_the_load_while_the_old_one_has_its_address(mode: Mode) {
    let listener = ListenerFile::new();
    let stack = builder(mode, 2, json!({})).workers(1).drain_seconds(600).sidecar_args(["--poll-interval", "53ms"]);
    let gateway = Gateway::start(stack.patch(listener.patch()).envoy_args(ListenerFile::NODE)).await;
    // A connection that is kept keeps the old configuration.
    assert_eq!(gateway.chat().await.status, 200);
    change(&gateway, &listener, "53ms", "54ms").await;
    assert_eq!(chat_anew(&gateway).await.status, 200);
    // What the new configuration has of the old one's is too old then.
    tokio::time::sleep(SNAPSHOT_AGE * 2).await;
    gateway.pin_unseen(0, json!({"waiting": 40})).await;
    eventually("picks go by load", async || {
        let mut served = Vec::new();
        for _ in 0..8 {
            served.push(gateway.pod_of(&chat_anew(&gateway).await));
        }
        if served.iter().all(|pod| *pod == 1) { Ok(()) } else { Err(format!("{served:?}")) }
    })
    .await;
    gateway
        .shows(&[
            figure("inpick_embedded_sidecar_up", &[], 1),
            figure("inpick_embedded_sidecar_restarts_total", &[], 0),
            figure("inpick_endpoints", &[("state", "fresh")], 2),
        ])
        .await;
}
