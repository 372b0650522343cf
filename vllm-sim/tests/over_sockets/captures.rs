//! Pages and bodies against those recorded from vLLM 0.32.0.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::client::{End, PATIENCE, Seen, get, post, post_head, send};
use serde_json::{Value, json};
use vllm_sim::{Config, MetricsDialect, Runner, Server};

fn fixture(path: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    std::fs::read(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn text(path: &str) -> String {
    String::from_utf8(fixture(path)).unwrap()
}

fn recorded(path: &str) -> Seen {
    Seen { raw: fixture(path), end: End::Closed }
}

/// Set up like the server the captures came from.
fn config() -> Config {
    Config {
        max_model_len: Some(1024),
        block_size: 128,
        num_gpu_blocks: 32768,
        max_loras: 2,
        lora_modules: vec!["lora-a".to_owned(), "lora-b".to_owned()],
        ..Config::default()
    }
}

async fn pod() -> Server {
    Server::start(config()).await.unwrap()
}

/// The keys of a JSON value, in order, with `null` told apart from the rest; list items beyond the first are left out.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Array(fields.iter().map(|(name, value)| json!([name, shape(value)])).collect()),
        Value::Array(items) => json!({"list": items.first().map(shape)}),
        Value::Null => json!("null"),
        Value::String(_) => json!("string"),
        Value::Number(_) => json!("number"),
        Value::Bool(_) => json!("bool"),
    }
}

/// An event as its name and the shape of its data.
fn event_shape(event: &str) -> Value {
    let mut parts = Vec::new();
    for line in event.lines().filter(|line| !line.is_empty()) {
        match line.strip_prefix("data: ") {
            Some(data) => parts.push(serde_json::from_str::<Value>(data).map_or(json!(data), |value| shape(&value))),
            None => parts.push(json!(line)),
        }
    }
    Value::Array(parts)
}

fn event_shapes(seen: &Seen) -> Vec<Value> {
    let (chunks, ended) = seen.chunks();
    assert!(ended);
    let mut shapes: Vec<Value> = chunks.iter().map(|chunk| event_shape(chunk)).collect();
    shapes.dedup();
    shapes
}

#[tokio::test]
async fn plain_answers_have_the_recorded_shape() {
    let server = pod().await;
    for (name, path) in [
        ("chat-plain", "/v1/chat/completions"),
        ("chat-content-parts", "/v1/chat/completions"),
        ("chat-max_completion_tokens", "/v1/chat/completions"),
        ("err-missing-model", "/v1/chat/completions"),
        ("completions-plain", "/v1/completions"),
        ("completions-prompt-list", "/v1/completions"),
        ("completions-token-ids", "/v1/completions"),
        ("messages-plain", "/v1/messages"),
        ("messages-count-tokens", "/v1/messages/count_tokens"),
        ("responses-plain", "/v1/responses"),
        ("tokenize", "/tokenize"),
    ] {
        let wanted = recorded(&format!("vllm-0.32.0/{name}.raw.txt"));
        let request = text(&format!("vllm-0.32.0/{name}.request.json"));
        let seen = post(server.addr, path, &request).await;
        assert_eq!(seen.status(), wanted.status(), "{name}");
        assert_eq!(seen.header("content-type"), wanted.header("content-type"), "{name}");
        assert_eq!(shape(&seen.json()), shape(&wanted.json()), "{name}");
        let tokens = |seen: &Seen| seen.json()["usage"]["completion_tokens"].clone();
        assert_eq!(tokens(&seen), tokens(&wanted), "{name}");
    }
}

#[tokio::test]
async fn streams_have_the_recorded_events_one_a_chunk() {
    let server = pod().await;
    for (name, path) in [
        ("chat-stream", "/v1/chat/completions"),
        ("chat-stream-usage", "/v1/chat/completions"),
        ("chat-stream-usage-continuous", "/v1/chat/completions"),
        ("completions-stream", "/v1/completions"),
        ("completions-stream-usage", "/v1/completions"),
        ("messages-stream", "/v1/messages"),
        ("responses-stream", "/v1/responses"),
    ] {
        let wanted = recorded(&format!("vllm-0.32.0/{name}.raw.txt"));
        let request = text(&format!("vllm-0.32.0/{name}.request.json"));
        let seen = post(server.addr, path, &request).await;
        assert_eq!(seen.status(), 200, "{name}");
        assert_eq!(seen.header("content-type"), wanted.header("content-type"), "{name}");
        assert_eq!(event_shapes(&seen), event_shapes(&wanted), "{name}");
        if !name.starts_with("responses") {
            // The recorded server joined three tokens in one event of the responses stream.
            assert_eq!(seen.chunks().0.len(), wanted.chunks().0.len(), "{name}");
        }
    }
}

#[tokio::test]
async fn errors_are_the_recorded_ones_to_the_byte() {
    let server = pod().await;
    let chat = "/v1/chat/completions";
    for (name, path) in [
        ("err-malformed-json", chat),
        ("err-empty-body", chat),
        ("err-missing-messages", chat),
        ("err-negative-max-tokens", chat),
        ("err-max-tokens-too-big", "/v1/completions"),
        ("err-too-long-chat", chat),
        ("err-unknown-model-chat", chat),
        ("err-unknown-model-completions", "/v1/completions"),
        ("err-unknown-model-responses", "/v1/responses"),
        ("messages-err-model", "/v1/messages"),
        ("embeddings-on-generate-model", "/v1/embeddings"),
    ] {
        let wanted = recorded(&format!("vllm-0.32.0/{name}.raw.txt"));
        let request = text(&format!("vllm-0.32.0/{name}.request.json"));
        let seen = post(server.addr, path, &request).await;
        assert_eq!(seen.status(), wanted.status(), "{name}");
        assert_eq!(seen.body(), wanted.body(), "{name}");
    }
    let wanted = recorded("vllm-0.32.0/err-wrong-content-type.raw.txt");
    let request = b"POST /v1/chat/completions HTTP/1.1\r\nhost: pod\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\n{}";
    let seen = send(server.addr, request, PATIENCE).await;
    assert_eq!((seen.status(), seen.body()), (wanted.status(), wanted.body()));
}

#[tokio::test]
async fn small_paths_answer_as_recorded() {
    let server = pod().await;
    for (name, path) in [
        ("health", "/health"),
        ("ping", "/ping"),
        ("version", "/version"),
        ("load", "/load"),
        ("not-found-path", "/nowhere"),
        ("method-not-allowed", "/v1/completions"),
    ] {
        let wanted = recorded(&format!("vllm-0.32.0/{name}.raw.txt"));
        let seen = get(server.addr, path).await;
        assert_eq!((seen.status(), seen.body()), (wanted.status(), wanted.body()), "{name}");
        for header in ["content-type", "content-length", "allow", "server", "vary"] {
            assert_eq!(seen.header(header), wanted.header(header), "{name}: {header}");
        }
    }
    let wanted = recorded("vllm-0.32.0/load-lora-adapter-disabled.raw.txt");
    let seen = post(server.addr, "/v1/load_lora_adapter", r#"{"lora_name":"x","lora_path":"x"}"#).await;
    assert_eq!((seen.status(), seen.body()), (wanted.status(), wanted.body()));
}

#[tokio::test]
async fn models_list_base_names_and_adapters() {
    for (folder, aliases) in [
        ("vllm-0.32.0", vec![]),
        ("vllm-0.32.0-lora", vec!["meta-llama/Llama-3.1-8B-Instruct".to_owned(), "llama-alias".to_owned()]),
    ] {
        let wanted = recorded(&format!("{folder}/models.raw.txt")).json();
        let server = Server::start(Config { served_model_name: aliases, ..config() }).await.unwrap();
        let seen = get(server.addr, "/v1/models").await.json();
        let listed = |list: &Value| -> Vec<(Value, Value)> {
            list["data"]
                .as_array()
                .unwrap()
                .iter()
                .map(|model| (model["id"].clone(), model["parent"].clone()))
                .collect()
        };
        assert_eq!(listed(&seen), listed(&wanted));
        let shapes = |list: &Value| -> Vec<Value> { list["data"].as_array().unwrap().iter().map(shape).collect() };
        assert_eq!(shapes(&seen), shapes(&wanted));
    }
}

#[tokio::test]
async fn adapters_load_and_unload_as_recorded() {
    let server = Server::start(Config { allow_runtime_lora_updating: true, ..config() }).await.unwrap();
    for (name, path, body) in [
        ("load-lora", "/v1/load_lora_adapter", json!({"lora_name": "lora-c", "lora_path": "lora-b"})),
        ("load-lora-again", "/v1/load_lora_adapter", json!({"lora_name": "lora-c", "lora_path": "lora-b"})),
        ("load-lora-missing", "/v1/load_lora_adapter", json!({"lora_name": "lora-x", "lora_path": "nonexistent"})),
        ("unload-lora", "/v1/unload_lora_adapter", json!({"lora_name": "lora-c"})),
        ("unload-lora-unknown", "/v1/unload_lora_adapter", json!({"lora_name": "lora-zz"})),
    ] {
        let wanted = recorded(&format!("vllm-0.32.0-lora/{name}.raw.txt"));
        let seen = post(server.addr, path, &body.to_string()).await;
        assert_eq!((seen.status(), seen.body()), (wanted.status(), wanted.body()), "{name}");
        assert_eq!(seen.header("content-type"), wanted.header("content-type"), "{name}");
        if name == "load-lora-again" {
            let chat = json!({"model": "lora-c", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]});
            let seen = post(server.addr, "/v1/chat/completions", &chat.to_string()).await;
            assert_eq!((seen.status(), seen.json()["model"].clone()), (200, json!("lora-c")));
        }
    }
    let page = get(server.addr, "/metrics").await.body();
    assert!(page.contains("running_lora_adapters=\"lora-c\",waiting_lora_adapters=\"lora-c\""));
}

#[tokio::test]
async fn pooling_answers_have_the_recorded_shape() {
    let server = Server::start(Config {
        runner: Runner::Pooling,
        served_model_name: vec!["tiny-embed".to_owned()],
        ..Config::default()
    })
    .await
    .unwrap();
    for (name, path, body) in [
        ("embeddings", "/v1/embeddings", json!({"model": "tiny-embed", "input": "hello world"})),
        ("embeddings-base64", "/v1/embeddings", json!({"input": ["a", "b"], "encoding_format": "base64"})),
        ("pooling", "/pooling", json!({"model": "tiny-embed", "input": "a"})),
        ("rerank", "/v1/rerank", json!({"query": "a", "documents": ["b", "c"]})),
        ("score", "/v1/score", json!({"text_1": "a", "text_2": "b"})),
    ] {
        let wanted = recorded(&format!("vllm-0.32.0-embeddings/{name}.raw.txt"));
        let seen = post(server.addr, path, &body.to_string()).await;
        assert_eq!((seen.status(), shape(&seen.json())), (wanted.status(), shape(&wanted.json())), "{name}");
    }
    let vector = |seen: Seen| seen.json()["data"][0]["embedding"].clone();
    let wanted = vector(recorded("vllm-0.32.0-embeddings/embeddings.raw.txt"));
    let seen = vector(post(server.addr, "/v1/embeddings", r#"{"input":"hello"}"#).await);
    assert_eq!(seen.as_array().unwrap().len(), wanted.as_array().unwrap().len());
    assert_eq!(post(server.addr, "/v1/completions", r#"{"prompt":"a"}"#).await.status(), 404);
}

#[tokio::test]
async fn load_reports_are_the_recorded_ones_to_the_byte() {
    let server = pod().await;
    let body = br#"{"prompt":"a","max_tokens":2}"#;
    for format in ["TEXT", "JSON"] {
        let wanted = recorded(&format!("vllm-0.32.0/orca-completions-{format}.raw.txt"));
        let request = post_head("/v1/completions", body, &format!("endpoint-load-metrics-format: {format}\r\n"));
        let seen = send(server.addr, &request, PATIENCE).await;
        assert_eq!(seen.header("endpoint-load-metrics"), wanted.header("endpoint-load-metrics"));
    }
    let request = post_head(
        "/v1/completions",
        br#"{"prompt":"a","max_tokens":2,"stream":true}"#,
        "endpoint-load-metrics-format: TEXT\r\n",
    );
    assert_eq!(send(server.addr, &request, PATIENCE).await.header("endpoint-load-metrics"), None);
}

#[tokio::test]
async fn cached_tokens_are_told_when_asked_for() {
    let server = Server::start(Config { enable_prompt_tokens_details: true, block_size: 16, ..Config::default() })
        .await
        .unwrap();
    let chat =
        json!({"messages": [{"role": "user", "content": "the cat sat on the mat ".repeat(40)}], "max_tokens": 2});
    let cached = |seen: Seen| seen.json()["usage"]["prompt_tokens_details"]["cached_tokens"].clone();
    assert_eq!(cached(post(server.addr, "/v1/chat/completions", &chat.to_string()).await), 0);
    let again = cached(post(server.addr, "/v1/chat/completions", &chat.to_string()).await);
    assert!(again.as_u64().unwrap() > 200, "{again}");
    let mut stream = chat.clone();
    stream["stream"] = json!(true);
    stream["stream_options"] = json!({"include_usage": true});
    let seen = post(server.addr, "/v1/chat/completions", &stream.to_string()).await;
    assert!(seen.body().contains(&format!("\"prompt_tokens_details\":{{\"cached_tokens\":{again}}}")));
}

#[derive(Debug, Default, Eq, PartialEq)]
struct Family {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
    bounds: Vec<String>,
}

/// Families of a page in order, with the label names and bucket bounds of their series.
fn families(page: &str) -> (Vec<String>, BTreeMap<String, Family>) {
    let mut order = Vec::new();
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            order.push(name.to_owned());
            families.entry(name.to_owned()).or_default().help = help.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            families.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else {
            let family = families.get_mut(order.last().unwrap()).unwrap();
            let Some((_, rest)) = line.split_once('{') else { continue };
            let (labels, _) = rest.rsplit_once('}').unwrap();
            for pair in labels.split("\",") {
                let (name, value) = pair.split_once("=\"").unwrap();
                family.labels.insert(name.to_owned());
                if name == "le" && !family.bounds.contains(&value.to_owned()) {
                    family.bounds.push(value.trim_end_matches('"').to_owned());
                    family.bounds.dedup();
                }
            }
        }
    }
    (order, families)
}

fn compare_pages(seen: &str, wanted: &str) {
    let (seen_order, seen) = families(seen);
    let (wanted_order, wanted) = families(wanted);
    assert_eq!(seen_order, wanted_order);
    for (name, family) in &wanted {
        assert_eq!(&seen[name], family, "{name}");
    }
}

#[tokio::test]
async fn a_fresh_metrics_page_has_the_recorded_lines() {
    let server = pod().await;
    let seen = get(server.addr, "/metrics").await;
    assert_eq!(seen.header("content-type").unwrap(), "text/plain; version=1.0.0; charset=utf-8");
    let page = seen.body();
    // 128 is the block size vLLM chooses by itself on a CPU; here it is a flag.
    let wanted = text("vllm-0.32.0/metrics-idle-fresh.txt")
        .replace("user_specified_block_size=\"False\"", "user_specified_block_size=\"True\"");
    compare_pages(&page, &wanted);
    let names = |page: &str| -> Vec<String> {
        page.lines()
            .map(|line| if line.starts_with('#') { line } else { line.rsplit_once(' ').unwrap().0 }.to_owned())
            .collect()
    };
    for (seen, wanted) in names(&page).iter().zip(&names(&wanted)) {
        assert_eq!(seen, wanted);
    }
    assert_eq!(page.lines().count(), wanted.lines().count());
    let zeroes = |page: &str| -> Vec<String> {
        page.lines().filter(|line| line.starts_with("vllm:") && !line.contains("_created")).map(str::to_owned).collect()
    };
    assert_eq!(zeroes(&page), zeroes(&wanted));
}

#[tokio::test]
async fn a_used_metrics_page_has_the_recorded_families() {
    let server = pod().await;
    for (name, path) in [("chat-plain", "/v1/chat/completions"), ("completions-plain", "/v1/completions")] {
        post(server.addr, path, &text(&format!("vllm-0.32.0/{name}.request.json"))).await;
    }
    post(server.addr, "/v1/completions", r#"{"model":"lora-a","prompt":"a","max_tokens":3}"#).await;
    post(server.addr, "/v1/completions", r#"{"model":"nope","prompt":"a"}"#).await;
    let page = get(server.addr, "/metrics").await.body();
    compare_pages(&page, &text("vllm-0.32.0/metrics-idle-after-load.txt"));
    let model = "model_name=\"meta-llama/Llama-3.1-8B-Instruct\"";
    for line in [
        format!("vllm:request_success_total{{engine=\"0\",finished_reason=\"length\",{model}}} 3.0"),
        format!("vllm:generation_tokens_total{{engine=\"0\",{model}}} 19.0"),
        format!("vllm:time_to_first_token_seconds_count{{engine=\"0\",{model}}} 3.0"),
        format!("vllm:inter_token_latency_seconds_count{{engine=\"0\",{model}}} 16.0"),
        "http_requests_total{handler=\"/v1/completions\",method=\"POST\",status=\"2xx\"} 2.0".to_owned(),
        "http_requests_total{handler=\"/v1/completions\",method=\"POST\",status=\"4xx\"} 1.0".to_owned(),
    ] {
        assert!(page.contains(&line), "{line}");
    }
}

#[tokio::test]
async fn the_newest_adapter_set_is_the_current_one() {
    let server = pod().await;
    for model in ["lora-a", "lora-b"] {
        let body = json!({"model": model, "prompt": "a", "max_tokens": 1});
        post(server.addr, "/v1/completions", &body.to_string()).await;
    }
    let page = get(server.addr, "/metrics").await.body();
    let mut series: Vec<(f64, &str)> = page
        .lines()
        .filter(|line| line.starts_with("vllm:lora_requests_info{"))
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(labels, value)| (value.parse().unwrap(), labels))
        .collect();
    assert_eq!(series.len(), 3);
    series.sort_by(|one, two| one.0.total_cmp(&two.0));
    assert!(series[2].1.contains("running_lora_adapters=\"\""), "{series:?}");
}

#[tokio::test]
async fn several_engines_are_several_series() {
    let server = Server::start(Config { engines: 3, ..config() }).await.unwrap();
    let page = get(server.addr, "/metrics").await.body();
    let series: Vec<&str> = page.lines().filter(|line| line.starts_with("vllm:kv_cache_usage_perc{")).collect();
    assert_eq!(series.len(), 3);
    assert!(series[2].contains("engine=\"2\""));
}

#[tokio::test]
async fn without_log_stats_the_page_has_no_engine_series() {
    let server = Server::start(Config { disable_log_stats: true, ..config() }).await.unwrap();
    let seen = get(server.addr, "/metrics").await;
    assert_eq!(seen.status(), 200);
    assert!(!seen.body().contains("vllm:"));
    assert!(seen.body().contains("process_cpu_seconds_total"));
}

#[tokio::test]
async fn the_legacy_dialect_has_the_old_names_only() {
    let server = Server::start(Config { metrics_dialect: MetricsDialect::Legacy, ..config() }).await.unwrap();
    let page = get(server.addr, "/metrics").await.body();
    assert!(page.contains("\nvllm:gpu_cache_usage_perc{"));
    assert!(page.contains("\nvllm:gpu_prefix_cache_hits_total{"));
    assert!(!page.contains("vllm:kv_cache_usage_perc"));
    assert!(!page.contains("vllm:num_requests_waiting_by_reason"));
}
