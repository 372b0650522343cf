//! A crash of the filter costs one request. The module of this test is built with the feature `fault-injection`, which no shipped
//! one has.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tests::{Gateway, MODEL, Mode, Wire, builder, chat_body, eventually, figure};

tests::on_bindings! {
    both: [the_shipped_module_knows_no_fault],
    // Native code that crashes takes Envoy with it. What a panic costs there is shown in `native`.
    wasm: [a_crash_of_the_filter_costs_one_request_and_the_next_one_works],
}

const CHAT: &str = "/v1/chat/completions";

/// Builds the module, in a profile of its own so that the shipped one is never replaced by it.
pub(crate) async fn faulty_module() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_owned();
    let module = target.join("wasm32-wasip1/wasm-fault/filter.wasm");
    tokio::task::spawn_blocking(move || {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "filter", "--features", "fault-injection"])
            .args(["--profile", "wasm-fault", "--target", "wasm32-wasip1"])
            .current_dir(local_stack::repository())
            .env("CARGO_TARGET_DIR", &target)
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    })
    .await
    .unwrap();
    module
}

async fn a_crash_of_the_filter_costs_one_request_and_the_next_one_works(mode: Mode) {
    let stack = builder(mode, 2, json!({})).workers(1).module(faulty_module().await);
    let gateway = Gateway::start(stack).await;
    gateway.pin(0, json!({"waiting": 30})).await;
    gateway.pin(1, json!({"waiting": 3})).await;
    assert_eq!(gateway.chat().await.status.as_u16(), 200);
    gateway
        .envoy_shows(&[figure("inpick_picks_total", &[], 1), figure("inference_objective_request_total", &[], 1)])
        .await;
    let starts = gateway.envoy_page().await.unwrap().sum("inpick_vm_starts_total", &[]);

    // A stream that was under way when the machine died is nobody's any more, but is not counted for ever either.
    gateway.fault(1, json!({"kind": "stall", "after_events": 1, "count": 1})).await;
    let mut held = Wire::post(gateway.gateway, CHAT, &chat_body(MODEL, true)).await;
    held.read_until("data: ").await;
    let at = gateway.pods[1].addr.clone();
    let held_by = [("pool", "default"), ("endpoint", at.as_str())];
    let held_figures =
        [figure("inference_objective_running_requests", &[], 1), figure("inpick_in_flight_requests", &held_by, 1)];
    gateway.envoy_shows(&held_figures).await;

    let reply = gateway.send("POST", CHAT, &[("x-inpick-fault", "panic")], chat_body(MODEL, false)).await;
    assert_eq!(reply.status.as_u16(), 503, "{}", reply.text());
    let error: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(
        (&error["error"]["type"], &error["error"]["code"]),
        (&json!("server_error"), &json!("wasm_fail_stream"))
    );
    let reply = gateway.chat().await;
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
    drop(held);

    eventually("picks go by load again", async || {
        let reply = gateway.chat().await;
        let page = gateway.envoy_page().await.unwrap();
        let (new_starts, by_score) =
            (page.sum("inpick_vm_starts_total", &[]), page.sum("inpick_picks_total", &[("reason", "best_score")]));
        if reply.status.is_success() && gateway.pod_of(&reply) == 1 && new_starts > starts && by_score > 2.0 {
            Ok(())
        } else {
            Err(format!("{}, {new_starts} starts, {by_score} picks by score", reply.status))
        }
    })
    .await;
    gateway
        .envoy_shows(&[
            figure("inference_objective_running_requests", &[], 0),
            figure("inpick_in_flight_requests", &[], 0),
        ])
        .await;

    // Crashes in a row are slowed down by Envoy, and then it is well again.
    for _ in 0..3 {
        gateway.send("POST", CHAT, &[("x-inpick-fault", "panic")], chat_body(MODEL, false)).await;
    }
    eventually("the filter works again", async || {
        let status = gateway.chat().await.status.as_u16();
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
}

async fn the_shipped_module_knows_no_fault(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({})).workers(1)).await;
    let reply = gateway.send("POST", CHAT, &[("x-inpick-fault", "panic")], chat_body(MODEL, false)).await;
    assert_eq!(reply.status.as_u16(), 200);
}
