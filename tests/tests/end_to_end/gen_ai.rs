//! The GenAI families: what clients asked for and were told, under OpenTelemetry's names.

use catalogue::Bounds;
use local_stack::{ClientError, HttpResponse};
use serde_json::{Value, json};
use tests::{Figure, Gateway, MODEL, Mode, Samples, ScriptedPod, Wire, builder, chat_body, eventually, figure};

tests::on_bindings! {
    both: [every_api_is_counted_under_its_operation, input_contains_cached_tokens_and_output_those_of_reasoning, every_kind_of_failure_has_a_type_of_its_own, the_provider_and_the_switch_are_settings],
}

const DURATION: &str = "gen_ai_client_operation_duration_seconds";
const SERVER: &str = "gen_ai_server_request_duration_seconds";
const USAGE: &str = "gen_ai_client_token_usage";

fn total(kind: &str) -> String {
    format!("gen_ai_client_inference_usage_{kind}_tokens_total")
}

/// What clients of one operation saw.
#[derive(Default)]
struct Tally {
    input: Samples,
    output: Samples,
    cached: u64,
    requests: u64,
    streams: u64,
    long_streams: u64,
}

impl Tally {
    fn add(&mut self, reply: &HttpResponse) {
        assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
        let streamed = reply.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
        let usage = if streamed { stream_usage(&reply.events()) } else { parsed(&reply.text())["usage"].clone() };
        let number = |name: &str| usage.pointer(name).and_then(Value::as_u64);
        let input = number("/prompt_tokens").or_else(|| {
            // Of Anthropic's API, which tells cached tokens apart. The others do not have these members.
            let apart = [number("/cache_read_input_tokens"), number("/cache_creation_input_tokens")];
            Some(number("/input_tokens")? + apart.into_iter().flatten().sum::<u64>())
        });
        self.requests += 1;
        self.input.0.extend(input.filter(|&tokens| tokens > 0));
        let output = number("/completion_tokens").or(number("/output_tokens")).filter(|&tokens| tokens > 0);
        self.output.0.extend(output);
        let cached =
            ["/prompt_tokens_details/cached_tokens", "/input_tokens_details/cached_tokens", "/cache_read_input_tokens"];
        self.cached += cached.into_iter().find_map(number).unwrap_or(0);
        self.streams += u64::from(streamed);
        self.long_streams += u64::from(streamed && output.is_some_and(|tokens| tokens > 1));
    }

    fn figures(&self, operation: &str) -> Vec<Figure> {
        let labels = [
            ("gen_ai_operation_name", operation),
            ("gen_ai_provider_name", "vllm"),
            ("gen_ai_request_model", MODEL),
            ("gen_ai_response_model", MODEL),
        ];
        let le: Vec<&str> = Bounds::GEN_AI_TOKENS.le().collect();
        let mut figures = Vec::new();
        for (kind, samples) in [("input", &self.input), ("output", &self.output)] {
            let typed: Vec<_> = labels.into_iter().chain([("gen_ai_token_type", kind)]).collect();
            figures.extend(samples.figures(USAGE, &typed, &le));
            figures.push(figure(&total(kind), &labels, samples.0.iter().sum()));
        }
        figures.push(figure(&total("cache_read_input"), &labels, self.cached));
        for family in [DURATION, SERVER] {
            let served: Vec<_> = labels.into_iter().chain([("error_type", "")]).collect();
            figures.extend(Samples(vec![0; self.requests as usize]).count(family, &served));
        }
        figures.push(figure("gen_ai_server_time_to_first_token_seconds_count", &labels, self.streams));
        figures.push(figure("gen_ai_server_time_per_output_token_seconds_count", &labels, self.long_streams));
        figures
    }
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The last of each count that a stream reports, wherever its API puts it.
fn stream_usage(events: &[String]) -> Value {
    let mut usage = serde_json::Map::new();
    for event in events.iter().filter(|event| *event != "[DONE]") {
        let event = parsed(event);
        let places = ["/usage", "/response/usage", "/message/usage"];
        for found in places.iter().filter_map(|place| event.pointer(place)?.as_object()) {
            usage.extend(found.clone());
        }
    }
    Value::Object(usage)
}

async fn every_api_is_counted_under_its_operation(mode: Mode) {
    let stack = builder(mode, 2, json!({})).vllm_sim_args(["--runner", "any", "--enable-prompt-tokens-details"]);
    let gateway = Gateway::start(stack).await;
    let text = "word ".repeat(300);
    let chat = json!({"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 20});
    let completion = json!({"model": MODEL, "prompt": text, "max_tokens": 9});
    let response = json!({"model": MODEL, "input": text, "max_output_tokens": 30});
    let streamed = |body: &Value| {
        let mut body = body.clone();
        body["stream"] = json!(true);
        body
    };
    let with_usage = |body: &Value| {
        let mut body = streamed(body);
        body["stream_options"] = json!({"include_usage": true});
        body
    };
    let requests = [
        ("chat", "/v1/chat/completions", vec![chat.clone(), with_usage(&chat)]),
        ("chat", "/v1/responses", vec![response.clone(), streamed(&response)]),
        ("chat", "/v1/messages", vec![chat.clone(), streamed(&chat)]),
        ("text_completion", "/v1/completions", vec![completion.clone(), with_usage(&completion)]),
        ("embeddings", "/v1/embeddings", vec![json!({"model": MODEL, "input": text})]),
    ];
    let mut tallies =
        [("chat", Tally::default()), ("text_completion", Tally::default()), ("embeddings", Tally::default())];
    for (operation, path, bodies) in &requests {
        let (_, tally) = tallies.iter_mut().find(|(known, _)| known == operation).unwrap();
        // Again, so that prompts are cached.
        for body in bodies.iter().chain(bodies) {
            tally.add(&gateway.post(path, body.to_string()).await);
        }
    }
    assert!(tallies.iter().any(|(_, tally)| tally.cached > 0), "nothing came from a prefix cache");
    let figures: Vec<Figure> = tallies.iter().flat_map(|(operation, tally)| tally.figures(operation)).collect();
    gateway.shows(&figures).await;
    let all = tallies.iter().map(|(_, tally)| tally.requests).sum();
    let unprefixed = "normalized_time_per_output_token_seconds_count";
    let generated = tallies.iter().map(|(_, tally)| tally.output.0.len() as u64).sum();
    gateway
        .shows(&[
            figure(&format!("{DURATION}_count"), &[], all),
            figure(unprefixed, &[("model_name", MODEL), ("target_model_name", MODEL)], generated),
            figure(unprefixed, &[], generated),
        ])
        .await;
}

async fn input_contains_cached_tokens_and_output_those_of_reasoning(mode: Mode) {
    let openai = json!({"model": "dated-name", "choices": [{"message": {"content": "a"}}], "usage": {
        "prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
        "prompt_tokens_details": {"cached_tokens": 64}, "completion_tokens_details": {"reasoning_tokens": 40}}});
    let responses = json!({"id": "resp_1", "object": "response", "model": "dated-name", "status": "completed", "output": [], "usage": {
        "input_tokens": 100, "output_tokens": 50, "total_tokens": 150,
        "input_tokens_details": {"cached_tokens": 64}, "output_tokens_details": {"reasoning_tokens": 40}}});
    let anthropic = json!({"type": "message", "model": "dated-name", "content": [{"type": "text", "text": "a"}], "usage": {
        "input_tokens": 6, "cache_read_input_tokens": 64, "cache_creation_input_tokens": 30, "output_tokens": 50}});
    let pod = ScriptedPod::start("", usize::MAX).await;
    let gateway = Gateway::start(builder(mode, 0, json!({})).pods_at([pod.addr.to_string()])).await;
    eventually("the pod is known", async || {
        let ready = gateway.envoy_page().await.unwrap().sum("inference_pool_ready_pods", &[]);
        if ready == 1.0 { Ok(()) } else { Err(ready) }
    })
    .await;
    let mut reasoned = 0;
    for (round, (path, answer, reasoning)) in (1..).zip([
        ("/v1/chat/completions", openai, 40),
        ("/v1/responses", responses, 40),
        ("/v1/messages", anthropic, 0),
    ]) {
        let answer = answer.to_string();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length";
        pod.respond_with(format!("{head}: {}\r\n\r\n{answer}", answer.len()), usize::MAX);
        let body = json!({"model": "m", "messages": [], "input": "a", "max_tokens": 50}).to_string();
        assert_eq!(gateway.post(path, body).await.status.as_u16(), 200, "{path}");
        reasoned += reasoning;
        let labels = [("gen_ai_request_model", "m"), ("gen_ai_response_model", "dated-name")];
        gateway
            .shows(&[
                figure(&total("input"), &labels, 100 * round),
                figure(&total("cache_read_input"), &labels, 64 * round),
                figure(&total("output"), &labels, 50 * round),
                figure(&total("reasoning_output"), &labels, reasoned),
                figure(&format!("{USAGE}_sum"), &[("gen_ai_token_type", "input")], 100 * round),
                figure(&format!("{USAGE}_sum"), &[("gen_ai_token_type", "output")], 50 * round),
            ])
            .await;
    }
}

async fn every_kind_of_failure_has_a_type_of_its_own(mode: Mode) {
    const CHAT: &str = "/v1/chat/completions";
    let mut gateway = Gateway::start(builder(mode, 1, json!({"unknown_model": "pass"})).patch(|tree| {
        let route = tree.pointer_mut("/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes/0/route");
        route.unwrap()["timeout"] = json!("1.5s");
    }))
    .await;
    let mut expected: Vec<(&str, &str, u64)> = Vec::new();
    for (status, kind) in [
        (400, "400"),
        (401, "401"),
        (404, "404"),
        (422, "422"),
        (429, "rate_limited"),
        (444, "4xx"),
        (500, "500"),
        (501, "501"),
    ] {
        gateway.fault(0, json!({"kind": "status", "status": status, "count": 1})).await;
        assert_eq!(gateway.chat().await.status.as_u16(), status);
        expected.push((kind, MODEL, 1));
    }
    // An error inside a stream, a body that is no answer, and a stream that is cut off.
    for (fault, stream, kind) in [
        ("error_event", true, "server_error"),
        ("garbage", false, "server_error"),
        ("short", true, "upstream_reset"),
        ("reset", true, "upstream_reset"),
    ] {
        gateway.fault(0, json!({"kind": fault, "after_events": 2, "count": 1})).await;
        match gateway.client.post_json(&gateway.url(CHAT), chat_body(MODEL, stream)).await {
            Ok(reply) => assert_eq!(reply.status.as_u16(), 200, "{fault}"),
            Err(ClientError::Body { .. }) if fault == "reset" => {}
            Err(error) => panic!("{fault}: {error}"),
        }
        match expected.iter_mut().find(|(known, ..)| *known == kind) {
            Some((.., count)) => *count += 1,
            None => expected.push((kind, MODEL, 1)),
        }
    }
    gateway.fault(0, json!({"kind": "hang", "count": 1})).await;
    assert_eq!(gateway.chat().await.status.as_u16(), 504);
    expected.push(("timeout", MODEL, 1));
    gateway.fault(0, json!({"kind": "stall", "after_events": 2, "count": 1})).await;
    let mut wire = Wire::post(gateway.gateway, CHAT, &chat_body(MODEL, true)).await;
    wire.read_until("data: ").await;
    drop(wire);
    expected.push(("cancelled", MODEL, 1));
    // Refused here: no JSON, and no model.
    for body in ["{", "{}"] {
        assert_eq!(gateway.post(CHAT, body).await.status.as_u16(), 400);
    }
    expected.push(("invalid_request", "", 2));
    let sent: u64 = expected.iter().filter(|(kind, ..)| *kind != "invalid_request").map(|(.., count)| count).sum();
    let mut figures = Vec::new();
    for (kind, model, count) in &expected {
        let labels = [("error_type", *kind), ("gen_ai_request_model", *model), ("gen_ai_operation_name", "chat")];
        figures.push(figure(&format!("{DURATION}_count"), &labels, *count));
    }
    figures.push(figure(&format!("{DURATION}_count"), &[], sent + 2));
    // What never reached a server took no server any time.
    figures.push(figure(&format!("{SERVER}_count"), &[], sent));
    figures.push(figure("inference_objective_request_error_total", &[], sent + 2));
    gateway.shows(&figures).await;

    // Nobody there.
    gateway.stack.pod(0).unwrap().kill().await;
    let reply = gateway.chat().await;
    assert_eq!(reply.status.as_u16(), 503, "{}", reply.text());
    let page = eventually("it is counted", async || {
        let page = gateway.envoy_page().await.unwrap();
        let count = page.sum(&format!("{DURATION}_count"), &[]);
        if count == (sent + 3) as f64 { Ok(page) } else { Err(count) }
    })
    .await;
    let of = |kind: &str| page.sum(&format!("{DURATION}_count"), &[("error_type", kind)]);
    // By whether Envoy found the connection refused or no host left.
    assert_eq!(of("upstream_reset") + of("no_healthy_upstream"), 3.0);
}

async fn the_provider_and_the_switch_are_settings(mode: Mode) {
    let provider = json!({"metrics": {"gen_ai_provider": "sglang", "objective": false}});
    let gateway = Gateway::start(builder(mode, 1, provider)).await;
    gateway.chat().await;
    gateway.shows(&[figure(&format!("{DURATION}_count"), &[("gen_ai_provider_name", "sglang")], 1)]).await;
    let gateway = Gateway::start(builder(mode, 1, json!({"metrics": {"gen_ai": false}}))).await;
    gateway.chat().await;
    gateway.shows(&[figure("inference_objective_request_total", &[], 1)]).await;
    let page = gateway.sidecar_page().await.unwrap();
    assert!(page.samples().iter().all(|sample| !sample.name.starts_with("gen_ai_")));
}
