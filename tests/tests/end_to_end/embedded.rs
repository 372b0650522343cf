//! The sidecar in Envoy: what its failures and bad flags cost.

use std::net::TcpListener;

use serde_json::json;
use tests::{Gateway, Mode, builder, eventually, figure};

tests::on_bindings! {
    // The wasm module cannot run a sidecar, which is shown here too.
    wasm: [an_embedded_sidecar_is_refused_by_name],
    native: [
        a_sidecar_whose_address_is_taken_reads_pods_and_listens_there_once_it_can,
        a_sidecar_that_cannot_start_costs_no_request_and_is_started_again,
        every_bad_flag_is_named_in_one_go,
    ],
}

async fn a_sidecar_whose_address_is_taken_reads_pods_and_listens_there_once_it_can(mode: Mode) {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let mut gateway = Gateway::start(builder(mode, 2, json!({})).sidecar_args(["--listen", &listen])).await;
    gateway.pin(0, json!({"waiting": 40})).await;
    gateway.pin(1, json!({"waiting": 1})).await;
    for _ in 0..10 {
        assert_eq!(gateway.pod_of(&gateway.chat().await), 1);
    }
    let figures = [
        figure("inpick_embedded_sidecar_up", &[], 1),
        figure("inpick_embedded_sidecar_restarts_total", &[], 0),
        figure("inpick_picks_total", &[], 10),
        figure("inpick_picks_total", &[("reason", "fallback")], 0),
    ];
    gateway.envoy_shows(&figures).await;
    drop(taken);
    gateway.stack.sidecar = listen.parse().unwrap();
    gateway.shows(&figures).await;
}

async fn a_sidecar_that_cannot_start_costs_no_request_and_is_started_again(mode: Mode) {
    // TEST-NET-1, of which no machine has an address.
    let stack = builder(mode, 2, json!({})).sidecar_args(["--listen", "192.0.2.1:9090"]).wait_for_snapshot(false);
    let gateway = Gateway::start(stack).await;
    for _ in 0..10 {
        assert_eq!(gateway.chat().await.status.as_u16(), 200);
    }
    gateway
        .envoy_shows(&[
            figure("inpick_embedded_sidecar_up", &[], 0),
            figure("inpick_picks_total", &[("reason", "fallback")], 10),
            figure("inference_objective_request_total", &[], 10),
            figure("inference_objective_request_error_total", &[], 0),
        ])
        .await;
    eventually("it is started again", async || {
        let restarts = gateway.envoy_page().await.unwrap().sum("inpick_embedded_sidecar_restarts_total", &[]);
        if restarts >= 1.0 { Ok(()) } else { Err(restarts) }
    })
    .await;
}

/// What Envoy says of a configuration that it does not take.
async fn refusal(mode: Mode, config: serde_json::Value) -> String {
    builder(mode, 1, config).wait_for_snapshot(false).start().await.unwrap_err().to_string()
}

async fn every_bad_flag_is_named_in_one_go(mode: Mode) {
    let embedded = json!({"pool": ["default"], "poll-interval": "often", "threads": 2});
    let said = refusal(mode, json!({"pool": 7, "sidecar": {"embedded": embedded}})).await;
    for wrong in [
        "pool: must be a text",
        "sidecar.embedded.pool \"default\": expected NAME=SOURCE",
        "sidecar.embedded.poll-interval \"often\": expected a number",
        "sidecar.embedded.threads: unknown",
    ] {
        assert!(said.contains(wrong), "{wrong} is not in {said}");
    }
}

async fn an_embedded_sidecar_is_refused_by_name(mode: Mode) {
    let embedded = json!({"pool": ["default=envoy:pool-default"]});
    let said = refusal(mode, json!({"sidecar": {"embedded": embedded}, "flow_control": {"nope": 1}})).await;
    assert!(said.contains("flow_control.nope: unknown"), "{said}");
    assert!(said.contains("sidecar.embedded: only the native module runs the sidecar in Envoy"), "{said}");
}
