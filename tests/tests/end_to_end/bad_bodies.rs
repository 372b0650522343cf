//! Bodies that cannot be served, cannot be read, or only look odd.

use bytes::Bytes;
use serde_json::{Value, json};
use tests::{Gateway, MODEL, Mode, Uploader, Wire, builder, chat_body, figure};

tests::on_bindings! {
    both: [a_body_that_cannot_be_served_is_refused_in_openai_shape_and_counted, a_body_without_a_model_passes_to_the_base_model_when_configured_so, odd_but_valid_bodies_are_served_as_they_are, a_compressed_body_is_routed_by_load_and_counted_as_unparsed, a_body_beyond_the_limit_gets_413_in_openai_shape_and_one_at_the_limit_is_routed, a_body_beyond_the_limit_passes_where_it_need_not_be_held],
}

const CHAT: &str = "/v1/chat/completions";
/// `request_body_buffer_limit` of the shipped bootstraps.
const LIMIT: usize = 32 << 20;

fn error_of(status: u16, body: &[u8]) -> Value {
    let json: Value = serde_json::from_slice(body).unwrap_or_else(|error| {
        panic!("{status} with a body that is no JSON ({error}): {}", String::from_utf8_lossy(body))
    });
    let error = json["error"].clone();
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{json}");
    assert!(error["type"].is_string(), "{json}");
    assert!(
        error.as_object().unwrap().contains_key("param") && error.as_object().unwrap().contains_key("code"),
        "{json}"
    );
    error
}

async fn a_body_that_cannot_be_served_is_refused_in_openai_shape_and_counted(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({}))).await;
    let deep_array = format!(r#"{{"model": "{MODEL}", "messages": {}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let deep_object = format!(r#"{{"model": "{MODEL}", "x": {}1{}}}"#, r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
    let long_model = json!({"model": "m".repeat(100_000), "messages": []}).to_string();
    let many_models = format!("{{{}\"x\": 1}}", format!("\"model\": \"{MODEL}\", ").repeat(1000));
    let cases: Vec<(&str, Vec<u8>, &str, &str)> = vec![
        ("malformed", br#"{"model": "#.to_vec(), "malformed", "invalid_json"),
        ("trailing comma", br#"{"model": "m",}"#.to_vec(), "malformed", "invalid_json"),
        ("two documents", br#"{"model": "m"}{"model": "m"}"#.to_vec(), "malformed", "invalid_json"),
        ("single quotes", b"{'model': 'm'}".to_vec(), "malformed", "invalid_json"),
        ("form", b"model=m&prompt=x".to_vec(), "malformed", "invalid_json"),
        ("not UTF-8 in the model", b"{\"model\": \"m\xff\"}".to_vec(), "malformed", "invalid_json"),
        (
            "not UTF-8 in the prompt",
            b"{\"model\": \"m\", \"prompt\": \"\xc3\x28\"}".to_vec(),
            "malformed",
            "invalid_json",
        ),
        ("deep arrays", deep_array.into_bytes(), "malformed", "invalid_json"),
        ("deep objects", deep_object.into_bytes(), "malformed", "invalid_json"),
        ("nothing", Vec::new(), "empty", "empty_body"),
        ("white space", b" \r\n\t ".to_vec(), "empty", "empty_body"),
        ("array", br#"["model"]"#.to_vec(), "invalid", "invalid_type"),
        ("string", br#""model""#.to_vec(), "invalid", "invalid_type"),
        ("null", b"null".to_vec(), "invalid", "invalid_type"),
        ("empty model", br#"{"model": ""}"#.to_vec(), "invalid", "invalid_model"),
        ("number for a model", br#"{"model": 7}"#.to_vec(), "invalid", "invalid_model"),
        ("list for a model", br#"{"model": ["m"]}"#.to_vec(), "invalid", "invalid_model"),
        ("endless model", long_model.into_bytes(), "invalid", "invalid_model"),
        ("many models", many_models.into_bytes(), "invalid", "invalid_model"),
        ("no model", br#"{"messages": []}"#.to_vec(), "missing_model", "missing_model"),
        ("null model", br#"{"model": null, "prompt": "x"}"#.to_vec(), "missing_model", "missing_model"),
        ("model further in", br#"{"x": {"model": "m"}}"#.to_vec(), "missing_model", "missing_model"),
    ];
    let mut outcomes = std::collections::BTreeMap::<&str, u64>::new();
    for (name, body, outcome, code) in &cases {
        let reply = gateway.post(CHAT, body.clone()).await;
        assert_eq!(reply.status.as_u16(), 400, "{name}: {}", reply.text());
        assert_eq!(reply.header("content-type"), Some("application/json"), "{name}");
        let error = error_of(400, &reply.body);
        assert_eq!((&error["type"], &error["code"]), (&json!("invalid_request_error"), &json!(code)), "{name}");
        *outcomes.entry(outcome).or_default() += 1;
    }
    // The same without a length: an empty body in no chunk at all, and a broken one in pieces.
    for (pieces, outcome) in [(vec![], "empty"), (vec!["{\"mod", "el\": ", "}"], "malformed")] {
        let pieces = pieces.into_iter().map(Bytes::from).collect();
        let answer = Uploader::http1().post(gateway.gateway, CHAT, pieces, None).await;
        assert_eq!(answer.status.as_u16(), 400, "{}", answer.text());
        error_of(400, &answer.body);
        *outcomes.entry(outcome).or_default() += 1;
    }

    // The gateway is none the worse for it.
    assert_eq!(gateway.chat().await.status.as_u16(), 200);
    assert_eq!(gateway.pod_state(0).await["received"][CHAT], 1);
    let refused: u64 = outcomes.values().sum();
    let mut figures = vec![
        figure("inference_objective_request_error_total", &[("error_code", "BadRequest"), ("model_name", "")], refused),
        figure("inference_objective_request_error_total", &[], refused),
        // Each error belongs to a request that is counted.
        figure("inference_objective_request_total", &[("model_name", "")], refused),
        figure("inference_objective_request_total", &[], refused + 1),
        figure("inpick_picks_total", &[], 1),
        figure("inpick_request_bodies_total", &[("outcome", "parsed")], 1),
        figure("inpick_request_bodies_total", &[], refused + 1),
        figure("inference_objective_running_requests", &[], 0),
    ];
    figures.extend(
        outcomes.iter().map(|(outcome, count)| figure("inpick_request_bodies_total", &[("outcome", outcome)], *count)),
    );
    gateway.shows(&figures).await;
}

async fn a_body_without_a_model_passes_to_the_base_model_when_configured_so(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({"missing_model": "pass"}))).await;
    for body in [
        r#"{"messages": [{"role": "user", "content": "x"}]}"#,
        r#"{"model": null, "messages": [{"role": "user", "content": "x"}]}"#,
    ] {
        let reply = gateway.post(CHAT, body).await;
        assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
        let answer: Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(answer["model"], MODEL);
        assert_eq!(gateway.last_body(0).await, body);
    }
    // An empty name is no missing one.
    assert_eq!(gateway.post(CHAT, r#"{"model": ""}"#).await.status.as_u16(), 400);
    gateway
        .shows(&[
            figure("inference_objective_request_total", &[("model_name", ""), ("target_model_name", "")], 3),
            figure("inference_objective_output_tokens_count", &[("model_name", "")], 2),
            figure("inference_objective_request_error_total", &[], 1),
            figure("inpick_picks_total", &[], 2),
        ])
        .await;
}

async fn odd_but_valid_bodies_are_served_as_they_are(mode: Mode) {
    let gateway =
        Gateway::start(builder(mode, 1, json!({})).vllm_sim_args(["--served-model-name", "first,second"])).await;
    let messages = r#""messages": [{"role": "user", "content": "x"}]"#;
    // Of several models the last one counts, as in the model server's own parser.
    let body = format!(r#"{{"model": "first", {messages}, "model": "second"}}"#);
    let reply = gateway.post(CHAT, body.clone()).await;
    assert_eq!(serde_json::from_slice::<Value>(&reply.body).unwrap()["model"], "second");
    assert_eq!(gateway.last_body(0).await, body);
    // A name may be written with escapes, and so may the member.
    let escaped = format!(r#"{{"mod\u0065l": "\u0066irst", {messages}}}"#);
    let reply = gateway.post(CHAT, escaped.clone()).await;
    assert_eq!(serde_json::from_slice::<Value>(&reply.body).unwrap()["model"], "first");
    assert_eq!(gateway.last_body(0).await, escaped);
    // Depth that the limit allows, and every kind of value.
    let deep = format!(
        r#"{{"model": "first", {messages}, "x": {}{}, "y": [1e300, -0.0, true, null, "\ud83d\ude00"]}}"#,
        "[".repeat(60),
        "]".repeat(60)
    );
    gateway.post(CHAT, deep.clone()).await;
    assert_eq!(gateway.last_body(0).await, deep);
    let reply = gateway.send("POST", CHAT, &[("content-encoding", "identity")], chat_body("second", false)).await;
    assert_eq!(reply.status.as_u16(), 200);
    gateway
        .shows(&[
            figure("inference_objective_request_total", &[("model_name", "first")], 2),
            figure("inference_objective_request_total", &[("model_name", "second")], 2),
            figure("inpick_request_bodies_total", &[("outcome", "parsed")], 4),
            figure("inpick_picks_total", &[], 4),
        ])
        .await;
}

/// What `gzip` makes of `{"model": "x"}`.
const GZIP: &[u8] =
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xabV\xca\xcdOI\xcdQ\xb2RP\xaaP\xaa\x05\x00Z\xe3~~\x0e\x00\x00\x00";

async fn a_compressed_body_is_routed_by_load_and_counted_as_unparsed(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 2, json!({}))).await;
    gateway.pin(0, json!({"waiting": 40})).await;
    gateway.pin(1, json!({"waiting": 1})).await;
    for encoding in ["gzip", "br", "zstd", "gzip, deflate"] {
        gateway.send("POST", CHAT, &[("content-encoding", encoding)], GZIP).await;
        assert_eq!(gateway.last_body(1).await, GZIP, "{encoding}");
    }
    let received: u64 = gateway.pod_state(1).await["received"][CHAT].as_u64().unwrap();
    assert_eq!(received, 4);
    gateway
        .shows(&[
            figure("inpick_request_bodies_total", &[("outcome", "unparsed")], 4),
            figure("inpick_request_bodies_total", &[], 4),
            figure("inpick_picks_total", &[("endpoint", &gateway.pods[1].addr), ("reason", "best_score")], 4),
            figure("inpick_picks_total", &[], 4),
            // The pod could not read them either.
            figure("inference_objective_request_error_total", &[("error_code", "ModelServerRejected")], 4),
            figure("inference_objective_request_total", &[("model_name", "")], 4),
            figure("inference_objective_running_requests", &[], 0),
        ])
        .await;
}

/// A chat body of exactly that many bytes.
fn sized(bytes: usize) -> Bytes {
    let (start, end) = (format!(r#"{{"model": "{MODEL}", "messages": [{{"role": "user", "content": ""#), r#""}]}"#);
    let filler = "a".repeat(bytes - start.len() - end.len());
    Bytes::from(format!("{start}{filler}{end}"))
}

async fn a_body_beyond_the_limit_gets_413_in_openai_shape_and_one_at_the_limit_is_routed(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({"early_pick_bytes": 0}))).await;
    // The pod finds it too long for its context, but it is the pod that says so.
    let reply = gateway.post(CHAT, sized(LIMIT)).await;
    assert_eq!(gateway.pod_of(&reply), 0, "{}", reply.text());

    let body = sized(LIMIT + (1 << 20));
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut wire = Wire::open(gateway.gateway).await;
    wire.write(head.as_bytes()).await;
    wire.write_while_taken(&body).await;
    let answer = wire.read_until("\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let answer = wire.read_to_end().await;
    let (_, json) = answer.split_once("\r\n\r\n").unwrap();
    error_of(413, json.as_bytes());

    // Without a length, over HTTP/2.
    let pieces = vec![body.slice(..LIMIT / 2), body.slice(LIMIT / 2..)];
    let answer = Uploader::http2().post(gateway.gateway, CHAT, pieces, None).await;
    assert_eq!(answer.status.as_u16(), 413);
    error_of(413, &answer.body);

    gateway
        .shows(&[
            figure("inpick_request_bodies_total", &[("outcome", "too_large")], 2),
            figure("inpick_request_bodies_total", &[("outcome", "parsed")], 1),
            figure("inpick_request_bodies_total", &[], 3),
            figure("inference_objective_request_error_total", &[("error_code", "BadRequest")], 2),
            figure("inference_objective_request_total", &[], 3),
            figure("inference_objective_request_sizes_sum", &[], LIMIT as u64),
            figure("inference_objective_running_requests", &[], 0),
        ])
        .await;
}

async fn a_body_beyond_the_limit_passes_where_it_need_not_be_held(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({}))).await;
    let body = sized(LIMIT + (1 << 20));
    let pieces = body.chunks(1 << 20).map(Bytes::copy_from_slice).collect();
    let answer = Uploader::http2().post(gateway.gateway, CHAT, pieces, None).await;
    // The pod finds it too long for its context.
    assert_eq!(answer.status.as_u16(), 400, "{}", answer.text());
    assert!(answer.headers.contains_key("x-inference-pod"), "{}", answer.text());
    gateway
        .shows(&[
            figure("inpick_request_bodies_total", &[("outcome", "parsed")], 1),
            figure("inpick_request_bodies_total", &[], 1),
            figure("inference_objective_request_sizes_sum", &[], body.len() as u64),
            figure("inference_objective_running_requests", &[], 0),
        ])
        .await;
}
