//! Model names come from clients and become labels.

use std::collections::BTreeSet;

use local_stack::HttpClient;
use serde_json::json;
use tests::{Gateway, MODEL, Mode, builder, chat_body, figure};

tests::on_bindings! {
    both: [odd_model_names_are_safe_labels_on_both_pages, model_names_beyond_the_cap_share_one_label_whatever_path_they_take, names_that_no_pod_serves_take_no_label, a_model_is_asked_only_of_the_pods_that_serve_it],
}

const CHAT: &str = "/v1/chat/completions";

async fn odd_model_names_are_safe_labels_on_both_pages(mode: Mode) {
    let any = json!([{"name": "any", "targets": [{"model": MODEL}]}]);
    let gateway = Gateway::start(builder(mode, 1, json!({"model_rewrites": any}))).await;
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
        let reply = gateway.post(CHAT, chat_body(name, false)).await;
        assert_eq!(reply.status.as_u16(), 200, "{name}: {}", reply.text());
        let labels = [("model_name", *label), ("target_model_name", MODEL)];
        let request: Vec<_> = labels.iter().copied().chain([("priority", "0")]).collect();
        figures.push(figure("inference_objective_request_total", &request, 1));
        figures.push(figure("inference_objective_request_sizes_count", &labels, 1));
        let bucket: Vec<_> = labels.iter().copied().chain([("le", "+Inf")]).collect();
        figures.push(figure("inference_objective_request_sizes_bucket", &bucket, 1));
        let decision = [("model_name", *label), ("target_model", MODEL)];
        figures.push(figure("inference_extension_model_rewrite_decisions_total", &decision, 1));
    }
    figures.push(figure("inference_objective_request_total", &[], names.len() as u64));
    figures.push(figure("inference_objective_request_error_total", &[], 0));
    gateway.shows(&figures).await;

    // No series stands on a page twice, and no label of one series has leaked into another, or into a name.
    for page in [gateway.envoy_page().await.unwrap(), gateway.sidecar_page().await.unwrap()] {
        let mut series = BTreeSet::new();
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

async fn model_names_beyond_the_cap_share_one_label_whatever_path_they_take(mode: Mode) {
    const CAP: usize = 8;
    let rules = json!([{"name": "alias", "model": "pinned", "targets": [{"model": MODEL}]},
                       {"name": "any", "targets": [{"model": MODEL}]}]);
    // Two connections, and so two workers: the cap is one for both.
    let stack = builder(mode, 1, json!({"metrics": {"max_models": CAP}, "model_rewrites": rules})).workers(2);
    let gateway = Gateway::start(stack).await;
    for number in 0..40 {
        let client = HttpClient::new();
        let url = gateway.url(CHAT);
        let name = format!("model-{}", number % 20);
        assert_eq!(client.post_json(&url, chat_body(&name, false)).await.unwrap().status.as_u16(), 200);
    }
    gateway.post(CHAT, chat_body("pinned", false)).await;
    let total = "inference_objective_request_total";
    gateway.shows(&[figure(total, &[], 41), figure(total, &[("model_name", "pinned")], 1)]).await;
    let page = gateway.envoy_page().await.unwrap();
    let label = |family: &str, label: &str| -> BTreeSet<String> {
        let of_family = page.samples().iter().filter(|sample| sample.name == family);
        of_family.filter_map(|sample| sample.labels.get(label).cloned()).filter(|name| name != "other").collect()
    };
    for family in [total, "inference_extension_model_rewrite_decisions_total", "inference_objective_running_requests"] {
        let names = label(family, "model_name");
        assert!(names.len() <= CAP, "{family}: {names:?}");
        // Requests that run have a name of their own once one with that name was served, which the last ones may come too soon for.
        let is_running = family == "inference_objective_running_requests";
        assert!(is_running || names.iter().any(|name| name.starts_with("model-")), "{family}: {names:?}");
    }
    assert!(page.sum(total, &[("model_name", "other")]) >= 20.0);
}

/// Refused here, and by the pod where such names pass.
async fn names_that_no_pod_serves_take_no_label(mode: Mode) {
    for (unknown_model, code) in [("reject", "BadRequest"), ("pass", "ModelServerRejected")] {
        let gateway = Gateway::start(builder(mode, 1, json!({"unknown_model": unknown_model}))).await;
        let is_ours = unknown_model == "reject";
        // Until the pod's list is read, it might serve anything.
        let passed = passed_on(&gateway, is_ours).await;
        for number in 0..30 {
            let reply = gateway.post(CHAT, chat_body(&format!("junk-{number}"), false)).await;
            assert_eq!(reply.status.as_u16(), 404);
            assert_eq!(reply.header("x-inference-pod").is_none(), is_ours, "{}", reply.text());
        }
        gateway
            .shows(&[
                figure("inference_objective_request_total", &[("model_name", "other")], 31 + passed),
                figure("inference_objective_request_total", &[], 31 + passed),
                figure("inference_objective_request_error_total", &[("error_code", code)], 31),
            ])
            .await;
    }
}

/// Asks for a model that does not exist until it is refused by this proxy (`is_ours`) or once by the pod. How many requests were answered otherwise.
async fn passed_on(gateway: &Gateway, is_ours: bool) -> u64 {
    let mut passed = 0;
    tests::eventually("the pod's list is read", async || {
        let reply = gateway.post(CHAT, chat_body("junk", false)).await;
        assert_eq!(reply.status.as_u16(), 404, "{}", reply.text());
        if reply.header("x-inference-pod").is_none() == is_ours {
            return Ok(passed);
        }
        passed += 1;
        Err("another answered")
    })
    .await
}

async fn a_model_is_asked_only_of_the_pods_that_serve_it(mode: Mode) {
    let stack = builder(mode, 3, json!({})).pod_args(2, ["--served-model-name", "another"]);
    let gateway = Gateway::start(stack).await;
    passed_on(&gateway, true).await;
    for (model, pods) in [(MODEL, &[0, 1][..]), ("another", &[2])] {
        for _ in 0..12 {
            let reply = gateway.post(CHAT, chat_body(model, false)).await;
            assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
            assert!(pods.contains(&gateway.pod_of(&reply)));
        }
    }
}
