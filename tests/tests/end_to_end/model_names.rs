//! Model names come from clients and become labels.

use serde_json::json;
use tests::{Gateway, builder, chat_body, figure};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn odd_model_names_are_safe_labels_on_both_pages() {
    let gateway = Gateway::start(builder(1, json!({}))).await;
    let names = [
        ("meta-llama/Llama-3.1-8B:Instruct@v0.1", "meta-llama/Llama-3.1-8B:Instruct@v0.1"),
        ("a.b.c_bucket", "a.b.c_bucket"),
        ("quo\"ted", "quo\"ted"),
        ("back\\slash\\n", "back\\slash\\n"),
        ("模型/ünïcödé 😀", "模型/ünïcödé 😀"),
        ("semi;colon", "semi_colon"),
        ("m;target_model_name=forged;le=1;", "m_target_model_name=forged_le=1_"),
        ("line\nfeed\ttab\u{0}nul\u{7f}", "line_feed_tab_nul_"),
        ("{curly=\"x\",} 7", "{curly=\"x\",} 7"),
        ("=", "="),
        ("#comment", "#comment"),
        (".*(group)[^x]*$", ".*(group)[^x]*$"),
        ("..leading.and..inner", "..leading.and..inner"),
        // Envoy drops dots at the end of a label, where they would make two names one.
        ("trailing", "trailing"),
        ("trailing.", "trailing_"),
        ("trailing..", "trailing__"),
        (" blank ", " blank "),
    ];
    let long = "é".repeat(200);
    let cut = "é".repeat(64);
    let names: Vec<(&str, &str)> = names.into_iter().chain([(long.as_str(), cut.as_str())]).collect();
    let mut figures = Vec::new();
    for (name, label) in &names {
        // The pod knows none of them, which is as good an ending as any: the error is counted under the same labels.
        let reply = gateway.post(CHAT, chat_body(name, false)).await;
        assert_eq!(reply.status.as_u16(), 404, "{name}: {}", reply.text());
        let labels = [("model_name", *label), ("target_model_name", *label)];
        let request: Vec<_> = labels.iter().copied().chain([("priority", "0")]).collect();
        figures.push(figure("inference_objective_request_total", &request, 1));
        figures.push(figure("inference_objective_request_error_total", &labels, 1));
        figures.push(figure("inference_objective_request_sizes_count", &labels, 1));
        let bucket: Vec<_> = labels.iter().copied().chain([("le", "+Inf")]).collect();
        figures.push(figure("inference_objective_request_sizes_bucket", &bucket, 1));
        figures.push(figure("inference_extension_scheduler_attempts_total", &[("target_model_name", *label)], 1));
    }
    figures.push(figure("inference_objective_request_total", &[], names.len() as u64));
    figures.push(figure("inference_objective_request_error_total", &[], names.len() as u64));
    gateway.shows(&figures).await;

    // No series stands on a page twice, and no label of one series has leaked into another, or into a name.
    for page in [gateway.envoy_page().await.unwrap(), gateway.sidecar_page().await.unwrap()] {
        let mut series = std::collections::BTreeSet::new();
        for sample in page.samples() {
            assert!(series.insert((&sample.name, &sample.labels)), "{} {:?} twice", sample.name, sample.labels);
            if sample.name == "inference_objective_request_total" {
                let labels: Vec<&str> = sample.labels.keys().map(String::as_str).collect();
                assert_eq!(labels, ["model_name", "priority", "target_model_name"]);
            }
            assert!(!sample.name.contains("wasmcustom") && !sample.name.contains("model_name"), "{}", sample.name);
        }
    }
}

#[tokio::test]
async fn model_names_beyond_the_cap_share_one_label() {
    let rule = json!([{"name": "alias", "model": "pinned", "targets": [{"model": "pinned-target"}]}]);
    let gateway =
        Gateway::start(builder(1, json!({"metrics": {"max_models": 4}, "model_rewrites": rule})).workers(1)).await;
    for number in 0..10 {
        gateway.post(CHAT, chat_body(&format!("model-{number}"), false)).await;
    }
    // Those that the configuration names are known from the start.
    gateway.post(CHAT, chat_body("pinned", false)).await;
    gateway.post(CHAT, chat_body("model-1", false)).await;
    let total = "inference_objective_request_total";
    gateway
        .shows(&[
            figure(total, &[("model_name", "model-0")], 1),
            figure(total, &[("model_name", "model-1")], 2),
            figure(total, &[("model_name", "model-2")], 0),
            figure(total, &[("model_name", "other"), ("target_model_name", "other")], 8),
            figure(total, &[("model_name", "pinned"), ("target_model_name", "pinned-target")], 1),
            figure(total, &[], 12),
            figure("inference_objective_request_sizes_count", &[("model_name", "other")], 8),
            figure("inference_objective_request_error_total", &[("model_name", "other")], 8),
        ])
        .await;
}
