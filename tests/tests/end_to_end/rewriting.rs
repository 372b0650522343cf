//! Model rewrites: what the pod gets is the client's body with another name, and nothing else.

use bytes::Bytes;
use http::HeaderMap;
use serde_json::{Value, json};
use tests::{Gateway, Mode, Uploader, builder, chat_body, figure};

tests::on_bindings! {
    both: [a_rewritten_body_differs_in_the_model_alone, weighted_targets_share_the_requests_and_each_is_counted_as_it_went],
}

const CHAT: &str = "/v1/chat/completions";
const NAMES: [&str; 2] = ["--served-model-name", "base,stable,canary,quo\"ted/ünï"];
/// Everything that a parser and a printer would change.
const ODD: &str = r#" {
  "z": 12345678901234567890123, "seed":1e+02,	"model" : "ask\u002dfor", "messages":[{"content":"caf\u00e9 \ud83d\ude00\/","role":"user"}],
  "a":-0.0,"nested":{"model":"left alone"}, "max_tokens":3, "dup":1,"dup":2 }  "#;

async fn received(gateway: &Gateway) -> String {
    String::from_utf8(gateway.last_body(0).await.to_vec()).unwrap()
}

async fn received_length(gateway: &Gateway) -> Option<String> {
    let headers = gateway.last_request(0).await["headers"].clone();
    let pairs: Vec<(String, String)> = serde_json::from_value(headers).unwrap();
    pairs.into_iter().find(|(name, _)| name == "content-length").map(|(_, value)| value)
}

async fn a_rewritten_body_differs_in_the_model_alone(mode: Mode) {
    let rules = json!({"model_rewrites": [
        {"name": "exact", "model": "ask-for", "targets": [{"model": "quo\"ted/ünï"}]},
        {"name": "same", "model": "stable", "targets": [{"model": "stable"}]},
        {"name": "default", "targets": [{"model": "base"}]}
    ]});
    let gateway = Gateway::start(builder(mode, 1, rules).vllm_sim_args(NAMES)).await;
    let spliced = ODD.replace(r#""ask\u002dfor""#, r#""quo\"ted/ünï""#);
    assert_ne!(spliced, ODD);

    // With a length.
    let reply = gateway.post(CHAT, ODD).await;
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
    assert_eq!(received(&gateway).await, spliced);
    assert_eq!(received_length(&gateway).await, Some(spliced.len().to_string()));
    assert_eq!(serde_json::from_slice::<Value>(&reply.body).unwrap()["model"], "quo\"ted/ünï");
    // In chunks, over HTTP/2 and with trailers.
    let pieces: Vec<Bytes> = ODD.as_bytes().chunks(11).map(Bytes::copy_from_slice).collect();
    for (uploader, trailers) in [
        (Uploader::http1(), None),
        (Uploader::http2(), None),
        (Uploader::http2(), Some(HeaderMap::from_iter([(http::header::ETAG, "x".parse().unwrap())]))),
    ] {
        let answer = uploader.post(gateway.gateway, CHAT, pieces.clone(), trailers).await;
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
        assert_eq!(received(&gateway).await, spliced);
        assert!(received_length(&gateway).await.is_none_or(|length| length == spliced.len().to_string()));
    }
    // A body of many slabs, with the name at its end.
    let long =
        format!(r#"{{"messages": [{{"role": "user", "content": "{}"}}], "model": "ask-for"}}"#, "x ".repeat(600_000));
    gateway.post(CHAT, long.clone()).await;
    assert_eq!(received(&gateway).await, long.replace(r#""ask-for""#, r#""quo\"ted/ünï""#));
    // Every one of several models, whichever counts.
    let twice = r#"{"model": "old", "messages": [{"role": "user", "content": "x"}], "model": "ask-for"}"#;
    gateway.post(CHAT, twice).await;
    let name = r#""quo\"ted/ünï""#;
    assert_eq!(received(&gateway).await, twice.replace(r#""old""#, name).replace(r#""ask-for""#, name));

    // The default rule, for what no exact rule names; a rule that changes nothing; the other paths.
    let reply = gateway.post(CHAT, chat_body("anything else", false)).await;
    assert_eq!(serde_json::from_slice::<Value>(&reply.body).unwrap()["model"], "base");
    let body = chat_body("stable", true);
    let reply = gateway.post(CHAT, body.clone()).await;
    assert_eq!((reply.status.as_u16(), received(&gateway).await), (200, body));
    let reply = gateway.post("/v1/completions", r#"{"prompt":"x","model":"ask-for"}"#).await;
    assert_eq!(reply.status.as_u16(), 200);
    assert_eq!(received(&gateway).await, format!(r#"{{"prompt":"x","model":{name}}}"#));

    let decisions = "inference_extension_model_rewrite_decisions_total";
    let target = "quo\"ted/ünï";
    gateway
        .shows(&[
            figure(
                decisions,
                &[("model_rewrite_name", "exact"), ("model_name", "ask-for"), ("target_model", target)],
                7,
            ),
            figure(
                decisions,
                &[("model_rewrite_name", "default"), ("model_name", "anything else"), ("target_model", "base")],
                1,
            ),
            figure(
                decisions,
                &[("model_rewrite_name", "same"), ("model_name", "stable"), ("target_model", "stable")],
                1,
            ),
            figure(decisions, &[], 9),
            figure("inference_objective_request_total", &[("model_name", "ask-for"), ("target_model_name", target)], 7),
            figure(
                "inference_objective_request_total",
                &[("model_name", "anything else"), ("target_model_name", "base")],
                1,
            ),
            figure("inference_extension_scheduler_attempts_total", &[("target_model_name", target)], 7),
            // One prompt was too long for the pod.
            figure("inference_objective_request_error_total", &[], 1),
            figure("inference_objective_running_requests", &[], 0),
            figure(
                "inference_objective_request_sizes_sum",
                &[("model_name", "stable")],
                chat_body("stable", true).len() as u64,
            ),
        ])
        .await;
}

async fn weighted_targets_share_the_requests_and_each_is_counted_as_it_went(mode: Mode) {
    let rules = json!({"model_rewrites": [{"name": "canary", "model": "base", "targets": [
        {"model": "stable", "weight": 3}, {"model": "canary", "weight": 1}, {"model": "never", "weight": 0}
    ]}]});
    let gateway = Gateway::start(builder(mode, 1, rules).vllm_sim_args(NAMES)).await;
    let (mut stable, mut canary) = (0_u64, 0_u64);
    for _ in 0..120 {
        let reply = gateway.post(CHAT, chat_body("base", false)).await;
        match serde_json::from_slice::<Value>(&reply.body).unwrap()["model"].as_str() {
            Some("stable") => stable += 1,
            Some("canary") => canary += 1,
            other => panic!("{other:?}"),
        }
    }
    // 90 and 30 expected; a deviation of 26 is 5.5 standard deviations.
    assert!((64..=116).contains(&stable), "{stable} stable, {canary} canary");
    let decisions = "inference_extension_model_rewrite_decisions_total";
    let mut figures = Vec::new();
    for (target, count) in [("stable", stable), ("canary", canary)] {
        figures.push(figure(
            decisions,
            &[("model_rewrite_name", "canary"), ("model_name", "base"), ("target_model", target)],
            count,
        ));
        figures.push(figure(
            "inference_objective_request_total",
            &[("model_name", "base"), ("target_model_name", target)],
            count,
        ));
        figures.push(figure("inference_objective_output_tokens_sum", &[("target_model_name", target)], 5 * count));
    }
    gateway.shows(&figures).await;
}
