//! What a test sends and receives is what both pages say, to the last byte and token.

use catalogue::{Bounds, Kind, Stat};
use local_stack::HttpResponse;
use serde_json::{Value, json};
use tests::{Figure, Gateway, MODEL, Mode, Samples, builder, figure};

tests::on_bindings! {
    both: [requests_bytes_and_tokens_of_every_api_are_counted_exactly_on_both_pages, cached_tokens_are_those_that_the_pod_took_from_its_cache, priorities_come_from_objectives_by_either_header, families_that_are_switched_off_are_not_there],
}

const SPELLINGS: [&str; 2] = ["inference_objective", "inference_model"];

#[derive(Default)]
struct Tally {
    requests: u64,
    sent: Samples,
    received: Samples,
    prompt: Samples,
    cached: Samples,
    generated: Samples,
    streams: Samples,
    long_streams: Samples,
}

impl Tally {
    /// Counts an exchange from the client's point of view.
    fn add(&mut self, body: &str, reply: &HttpResponse) {
        assert_eq!(reply.status.as_u16(), 200, "{body}: {}", reply.text());
        self.requests += 1;
        self.sent.push(body.len() as u64);
        self.received.push(reply.body.len() as u64);
        let streamed = reply.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
        let usage = if streamed { stream_usage(&reply.events()) } else { json_of(&reply.text())["usage"].clone() };
        let number = |names: &[&str]| names.iter().find_map(|name| usage.pointer(name)?.as_u64());
        if let Some(tokens) = number(&["/prompt_tokens", "/input_tokens"]) {
            self.prompt.push(tokens);
        }
        let details =
            ["/prompt_tokens_details/cached_tokens", "/input_tokens_details/cached_tokens", "/cache_read_input_tokens"];
        if let Some(tokens) = number(&details) {
            self.cached.push(tokens);
        }
        let generated = number(&["/completion_tokens", "/output_tokens"]).filter(|tokens| *tokens > 0);
        if let Some(tokens) = generated {
            self.generated.push(tokens);
        }
        if streamed {
            self.streams.push(0);
            if generated.is_some_and(|tokens| tokens > 1) {
                self.long_streams.push(0);
            }
        }
    }

    fn figures(&self, model: &str) -> Vec<Figure> {
        let labels = [("model_name", model), ("target_model_name", model)];
        let mut figures = Vec::new();
        for spelling in SPELLINGS {
            let family = |suffix: &str| format!("{spelling}_{suffix}");
            figures.push(figure(&family("request_total"), &labels, self.requests));
            figures.push(figure(&family("request_error_total"), &labels, 0));
            figures.push(figure(&family("running_requests"), &labels[..1], 0));
            let exact = [
                ("request_sizes", &self.sent),
                ("response_sizes", &self.received),
                ("input_tokens", &self.prompt),
                ("output_tokens", &self.generated),
            ];
            for (suffix, samples) in exact {
                figures.extend(samples.figures(&family(suffix), &labels, &bounds(&family(suffix))));
            }
            let requests = Samples(vec![0; self.requests as usize]);
            figures.extend(requests.count(&family("request_duration_seconds"), &labels));
            figures.extend(self.generated.count(&family("normalized_time_per_output_token_seconds"), &labels));
        }
        let family = "inference_objective_prompt_cached_tokens";
        figures.extend(self.cached.figures(family, &labels, &bounds(family)));
        figures.extend(self.streams.count("inference_objective_request_ttft_seconds", &labels));
        figures.extend(self.long_streams.count("inference_objective_request_tpot_seconds", &labels));
        figures
    }
}

fn bounds(family: &str) -> Vec<&'static str> {
    let bounds: Option<Bounds> = Stat::ALL.iter().find_map(|stat| match stat.family().kind {
        Kind::Histogram(bounds) if stat.family().name == family => Some(bounds),
        _ => None,
    });
    bounds.unwrap_or_else(|| panic!("{family} is no histogram of the catalogue")).le().collect()
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The usage that a stream ended with: of the last event that has one, wherever the API puts it.
fn stream_usage(events: &[String]) -> Value {
    let mut usage = Value::Null;
    for event in events.iter().filter(|event| *event != "[DONE]") {
        let event = json_of(event);
        for place in ["/usage", "/response/usage", "/message/usage"] {
            let Some(found) = event.pointer(place).and_then(Value::as_object) else { continue };
            if usage.is_null() {
                usage = json!({});
            }
            usage.as_object_mut().unwrap().extend(found.clone());
        }
    }
    usage
}

fn bodies() -> Vec<(&'static str, String)> {
    let text = |words: usize| "word ".repeat(words);
    let user = |words| json!([{"role": "user", "content": text(words)}]);
    let mut bodies = Vec::new();
    for (words, tokens) in [(1, 1), (40, 7), (400, 64), (1500, 200)] {
        let chat = json!({"model": MODEL, "messages": user(words), "max_tokens": tokens});
        let mut stream = chat.clone();
        stream["stream"] = json!(true);
        bodies.push(("/v1/chat/completions", chat.to_string()));
        bodies.push(("/v1/chat/completions", stream.to_string()));
        stream["stream_options"] = json!({"include_usage": true});
        bodies.push(("/v1/chat/completions", stream.to_string()));
        stream["stream_options"] = json!({"include_usage": true, "continuous_usage_stats": true});
        bodies.push(("/v1/chat/completions", stream.to_string()));
        let prompt = json!({"model": MODEL, "prompt": text(words), "max_tokens": tokens});
        let mut stream = prompt.clone();
        stream["stream"] = json!(true);
        stream["stream_options"] = json!({"include_usage": true});
        bodies.push(("/v1/completions", prompt.to_string()));
        bodies.push(("/v1/completions", stream.to_string()));
        let response = json!({"model": MODEL, "input": text(words), "max_output_tokens": tokens});
        let mut stream = response.clone();
        stream["stream"] = json!(true);
        bodies.push(("/v1/responses", response.to_string()));
        bodies.push(("/v1/responses", stream.to_string()));
        let message = json!({"model": MODEL, "messages": user(words), "max_tokens": tokens});
        let mut stream = message.clone();
        stream["stream"] = json!(true);
        bodies.push(("/v1/messages", message.to_string()));
        bodies.push(("/v1/messages", stream.to_string()));
        bodies.push(("/v1/embeddings", json!({"model": MODEL, "input": text(words)}).to_string()));
    }
    bodies
}

async fn requests_bytes_and_tokens_of_every_api_are_counted_exactly_on_both_pages(mode: Mode) {
    // What clients see is what is counted: usage that only the filter asked for has tests of its own.
    let config = json!({"metrics": {"model": true}, "ask_for_usage": false});
    let stack = builder(mode, 3, config).vllm_sim_args(["--runner", "any", "--enable-prompt-tokens-details"]);
    let gateway = Gateway::start(stack).await;
    let mut tally = Tally::default();
    for (path, body) in bodies() {
        let reply = gateway.post(path, body.clone()).await;
        tally.add(&body, &reply);
    }
    // The same again, so that prompts are cached, by many clients at once.
    let mut tasks = tokio::task::JoinSet::new();
    for (path, body) in bodies().into_iter().chain(bodies()) {
        let (client, url) = (gateway.client.clone(), gateway.url(path));
        tasks.spawn(async move {
            let reply = client.post_json(&url, body.clone()).await.unwrap();
            (body, reply)
        });
    }
    while let Some(done) = tasks.join_next().await {
        let (body, reply) = done.unwrap();
        tally.add(&body, &reply);
    }
    assert_eq!(tally.requests as usize, 3 * bodies().len());
    assert!(tally.cached.0.iter().any(|tokens| *tokens > 0), "nothing came from a prefix cache");
    gateway.shows(&tally.figures(MODEL)).await;

    // The sidecar's sums of seconds and ratios are exact, Envoy's are whole ones that lag by less than one a worker.
    let (envoy, sidecar) = (gateway.envoy_page().await.unwrap(), gateway.sidecar_page().await.unwrap());
    for (family, suffix) in [
        ("inference_objective_request_duration_seconds", "_sum_microseconds"),
        ("inference_objective_request_ttft_seconds", "_sum_microseconds"),
        ("inpick_ttft_ratio", "_sum_millionths"),
        ("inference_extension_prefix_indexer_hit_ratio", "_sum_millionths"),
    ] {
        let whole = envoy.sum(&format!("{family}_sum"), &[]);
        let exact = sidecar.sum(&format!("{family}_sum"), &[]);
        let twin = envoy.sum(&format!("{family}{suffix}"), &[]);
        assert!((exact - twin / 1e6).abs() < 1e-9, "{family}: {exact} and {twin} millionths");
        assert!(whole <= exact && exact < whole + 2.0, "{family}: {whole} and {exact}");
        assert!(exact > 0.0);
    }
}

async fn cached_tokens_are_those_that_the_pod_took_from_its_cache(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({})).vllm_sim_args(["--enable-prompt-tokens-details"])).await;
    let body =
        json!({"model": MODEL, "prompt": "A long prompt that fills several blocks. ".repeat(40), "max_tokens": 2})
            .to_string();
    let mut cached = Samples::default();
    for _ in 0..3 {
        let reply = gateway.post("/v1/completions", body.clone()).await;
        cached.push(
            json_of(&reply.text()).pointer("/usage/prompt_tokens_details/cached_tokens").unwrap().as_u64().unwrap(),
        );
    }
    assert!(cached.0[0] == 0 && cached.0[1] > 0, "{cached:?}");
    let family = "inference_objective_prompt_cached_tokens";
    gateway.shows(&cached.figures(family, &[("model_name", MODEL)], &bounds(family))).await;
    let hits = gateway.pod_page(0).await.unwrap().sum("vllm:prefix_cache_hits_total", &[]);
    assert_eq!(hits as u64, cached.0.iter().sum::<u64>());
}

async fn priorities_come_from_objectives_by_either_header(mode: Mode) {
    let gateway = Gateway::start(builder(
        mode,
        1,
        json!({"objectives": {"batch": -1, "urgent": 7}, "metrics": {"objective": true}}),
    ))
    .await;
    let body = tests::chat_body(MODEL, false);
    let headers: [&[(&str, &str)]; 5] = [
        &[("x-gateway-inference-objective", "batch")],
        &[("x-llm-d-inference-objective", "urgent")],
        &[("x-gateway-inference-objective", "urgent")],
        &[("x-gateway-inference-objective", "nobody")],
        &[],
    ];
    for headers in headers {
        assert_eq!(gateway.send("POST", "/v1/chat/completions", headers, body.clone()).await.status.as_u16(), 200);
    }
    let total = "inference_objective_request_total";
    gateway
        .shows(&[
            figure(total, &[("priority", "-1")], 1),
            figure(total, &[("priority", "7")], 2),
            figure(total, &[("priority", "0")], 2),
        ])
        .await;
}

async fn families_that_are_switched_off_are_not_there(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({"metrics": {"objective": false, "model": false}}))).await;
    gateway.chat().await;
    gateway.shows(&[figure("inpick_picks_total", &[], 1)]).await;
    for page in [gateway.envoy_page().await.unwrap(), gateway.sidecar_page().await.unwrap()] {
        let stray = page.samples().iter().find(|sample| {
            sample.name.starts_with("inference_objective") || sample.name.starts_with("inference_model")
        });
        assert!(stray.is_none(), "{stray:?}");
    }
}
