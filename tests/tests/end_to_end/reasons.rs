//! Why-metrics: what the picker predicted, what it knew and how old that was, and what the filter itself took.

use serde_json::json;
use tests::{Gateway, MODEL, Mode, builder, chat_body, eventually, figure};

tests::on_bindings! {
    both: [predictions_signals_and_the_filters_own_time_are_told, names_without_a_place_are_counted],
}

const CHAT: &str = "/v1/chat/completions";

async fn predictions_signals_and_the_filters_own_time_are_told(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 2, json!({})).workers(1)).await;
    // The first request of a worker is timed, and each sixteenth after it. Streams alone tell a time to the first token.
    for _ in 0..17 {
        assert_eq!(gateway.post(CHAT, chat_body(MODEL, true)).await.status.as_u16(), 200);
    }
    let phases = ["request_headers", "request_body", "response_headers", "response_body"];
    let mut figures: Vec<_> =
        phases.iter().map(|phase| figure("inpick_filter_time_seconds_count", &[("phase", *phase)], 2)).collect();
    figures.push(figure("inpick_ttft_ratio_count", &[("pool", "default")], 17));
    figures.push(figure("inpick_label_overflows_total", &[], 0));
    gateway.shows(&figures).await;
    let page = gateway.sidecar_page().await.unwrap();
    // Reading a body, hashing its prompt and picking is work; a callback of a second would be a fault.
    let spent = page.sum("inpick_filter_time_seconds_sum", &[("phase", "request_body")]);
    assert!(spent > 0.0 && spent < 2.0, "{spent}");
    assert_eq!(page.kind("inpick_ttft_ratio"), Some("histogram"));
    // Signals are read every 50 ms, however slow the machine: their age is below what makes them stale, and told for each pod.
    for pod in &gateway.pods {
        eventually("the age of its signals is told", async || {
            let page = gateway.envoy_page().await.map_err(|error| error.to_string())?;
            let labels = [("pool", "default"), ("endpoint", pod.addr.as_str())];
            let ages = page.select("inpick_signal_age_thousandths", &labels).map(|sample| sample.value);
            match ages.collect::<Vec<_>>().as_slice() {
                [age] if *age < 60_000.0 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
    // A simulated pod's page has every signal, a page of nothing has none.
    gateway.sidecar_shows(&[figure("inpick_missing_signals", &[], 0)]).await;
}

async fn names_without_a_place_are_counted(mode: Mode) {
    let config = json!({"metrics": {"max_models": 2, "max_endpoints": 1}, "unknown_model": "pass"});
    let args = ["a", "b", "c", "d"].map(|name| format!("--served-model-name={name}"));
    let gateway = Gateway::start(builder(mode, 2, config).workers(1).vllm_sim_args(args)).await;
    let mut served = 0;
    for model in ["a", "b", "c", "d"] {
        for _ in 0..2 {
            let reply = gateway.post(CHAT, chat_body(model, false)).await;
            served += u64::from(reply.status.as_u16() == 200);
        }
    }
    assert_eq!(served, 8);
    gateway
        .shows(&[
            figure("inference_objective_request_total", &[("model_name", "other")], 4),
            figure("inpick_label_overflows_total", &[("label", "model_name")], 4),
        ])
        .await;
    eventually("endpoints overflow too", async || {
        let page = gateway.envoy_page().await.map_err(|error| error.to_string())?;
        let of = |label: &str| page.sum("inpick_label_overflows_total", &[("label", label)]);
        let counts = ["endpoint", "pod_name"].map(of);
        if counts.iter().all(|count| *count >= 1.0) { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
}
