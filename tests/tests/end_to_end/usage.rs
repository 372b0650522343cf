//! Usage of streams whose clients did not ask for it.

use std::time::Duration;

use serde_json::json;
use tests::{Gateway, MODEL, Mode, ScriptedPod, Wire, builder, eventually, figure};

tests::on_bindings! {
    both: [tokens_are_counted_though_the_client_did_not_ask_and_sees_no_usage, a_recorded_stream_loses_its_event_of_usage_and_no_other_byte, whoever_asks_gets_what_it_asked_for, nobody_is_asked_where_it_is_switched_off, a_server_that_refuses_is_asked_once, a_long_body_that_goes_on_early_asks_where_it_can],
}

const CHAT: &str = "/v1/chat/completions";

/// A gateway in front of one pod that gives this answer.
async fn in_front_of(mode: Mode, answer: Vec<u8>, piece: usize, config: serde_json::Value) -> (Gateway, ScriptedPod) {
    let pod = ScriptedPod::start(answer, piece).await;
    let gateway = Gateway::start(builder(mode, 0, config).pods_at([pod.addr.to_string()])).await;
    eventually("the pod is known", async || {
        let ready = gateway.envoy_page().await.unwrap().sum("inference_pool_ready_pods", &[]);
        if ready == 1.0 { Ok(()) } else { Err(ready) }
    })
    .await;
    (gateway, pod)
}

fn body(stream_options: &str) -> String {
    format!(
        r#"{{ "model" : "{MODEL}","messages":[{{"role":"user","content":"hi"}}],"stream":true{stream_options},"seed":12345678901234567890}}"#
    )
}

/// The same body with what asks for usage.
fn asking() -> String {
    body("").replacen('{', r#"{"stream_options":{"include_usage":true},"#, 1)
}

async fn tokens_are_counted_though_the_client_did_not_ask_and_sees_no_usage(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({}))).await;
    for path in [CHAT, "/v1/completions"] {
        let prompt = if path == CHAT {
            json!({"messages": [{"role": "user", "content": "Say something."}]})
        } else {
            json!({"prompt": "Say"})
        };
        let mut request = json!({"model": MODEL, "stream": true, "max_tokens": 5});
        request.as_object_mut().unwrap().extend(prompt.as_object().unwrap().clone());
        let plain = gateway.post(path, request.to_string()).await;
        assert_eq!(plain.status, 200);
        assert!(!plain.text().contains("\"usage\":{"), "{}", plain.text());
        assert!(plain.text().ends_with("data: [DONE]\n\n"), "{}", plain.text());
        assert_eq!(plain.header("content-length"), None);
        let sent = String::from_utf8(gateway.last_body(0).await.to_vec()).unwrap();
        assert_eq!(sent, request.to_string().replacen('{', r#"{"stream_options":{"include_usage":true},"#, 1));
        // It has the events of one whom nobody asked for more.
        request["stream_options"] = json!({"include_usage": true});
        let asked = gateway.post(path, request.to_string()).await;
        assert_eq!(asked.events().len(), plain.events().len() + 1, "{}", asked.text());
    }
    let labels = [("model_name", MODEL)];
    gateway
        .shows(&[
            figure("inference_objective_output_tokens_count", &labels, 4),
            figure("inference_objective_output_tokens_sum", &labels, 20),
            figure("inference_objective_input_tokens_count", &labels, 4),
        ])
        .await;
}

async fn a_recorded_stream_loses_its_event_of_usage_and_no_other_byte(mode: Mode) {
    let (gateway, pod) = in_front_of(mode, Vec::new(), 1, json!({})).await;
    let mut requests = 0;
    for name in ["chat-stream-usage", "completions-stream-usage"] {
        let file = local_stack::repository().join(format!("endpoint-picker/tests/fixtures/{name}.raw.txt"));
        let recorded = std::fs::read(file).unwrap();
        let text = String::from_utf8(recorded.clone()).unwrap();
        let expected: String = text
            .split("data: ")
            .skip(1)
            .filter(|event| !event.contains("\"usage\":{"))
            .map(|event| format!("data: {}\n\n", event.lines().next().unwrap()))
            .collect();
        for piece in [7, 4096] {
            pod.respond_with(recorded.clone(), piece);
            let answer = gateway.post(CHAT, body("")).await;
            assert_eq!(answer.text(), expected, "{name} in pieces of {piece}");
            assert_eq!(String::from_utf8_lossy(&pod.arrivals()[requests].body), asking());
            // The same stream with what a proxy in between may do to it.
            let usage = format!(
                "data: {}\r\n\r\n",
                text.lines().find(|line| line.contains("\"usage\":{")).unwrap().trim_start_matches("data: ")
            );
            let stream = format!(
                ": ping\r\n\r\ndata: {{\"choices\":[{{\"delta\":{{\"content\":\"\\\"usage\\\"\"}}}}],\"usage\":null}}\r\n\r\n: x\r\n{usage}data:[DONE]\r\n\r\n"
            );
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\netag: \"e\"\r\nrepr-digest: sha-256=:AA==:\r\nx-other: o\r\n\r\n",
                stream.len()
            );
            pod.respond_with(format!("{head}{stream}"), piece);
            let answer = gateway.post(CHAT, body("")).await;
            assert_eq!(answer.text(), stream.replace(&usage, ""), "in pieces of {piece}");
            let told = ["content-length", "etag", "repr-digest", "x-other"].map(|name| answer.header(name));
            assert_eq!(told, [None, None, None, Some("o")]);
            requests += 2;
            let labels = [("model_name", MODEL)];
            gateway.envoy_shows(&[figure("inference_objective_output_tokens_count", &labels, requests as u64)]).await;
        }
    }
}

async fn whoever_asks_gets_what_it_asked_for(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({}))).await;
    for options in [
        r#","stream_options":{"include_usage":true}"#,
        r#","stream_options":{"include_usage":true,"continuous_usage_stats":true}"#,
    ] {
        let answer = gateway.post(CHAT, body(options)).await;
        assert!(answer.text().contains("\"choices\":[],\"usage\":{"), "{}", answer.text());
        assert_eq!(gateway.last_body(0).await, body(options), "byte for byte");
    }
    for (options, sent) in [
        (r#","stream_options":null"#, r#","stream_options":{"include_usage":true}"#),
        (r#","stream_options":{ "include_usage" : false }"#, r#","stream_options":{ "include_usage" : true }"#),
    ] {
        let answer = gateway.post(CHAT, body(options)).await;
        assert!(!answer.text().contains("\"usage\":{"), "{}", answer.text());
        assert_eq!(gateway.last_body(0).await, body(sent));
    }
    // Nobody streams.
    let plain = body("").replace("\"stream\":true", "\"stream\":false");
    gateway.post(CHAT, plain.clone()).await;
    assert_eq!(gateway.last_body(0).await, plain);
}

async fn nobody_is_asked_where_it_is_switched_off(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({"ask_for_usage": false}))).await;
    let answer = gateway.post(CHAT, body("")).await;
    assert!(!answer.text().contains("\"usage\":{"), "{}", answer.text());
    assert_eq!(gateway.last_body(0).await, body(""));
}

async fn a_server_that_refuses_is_asked_once(mode: Mode) {
    let error = r#"{"error":{"message":"Unrecognized request argument supplied: stream_options","type":"invalid_request_error","param":null,"code":400}}"#;
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{error}",
        error.len()
    );
    let (gateway, pod) = in_front_of(mode, answer.into_bytes(), 9, json!({})).await;
    let first = gateway.post(CHAT, body("")).await;
    assert_eq!((first.status.as_u16(), first.text().as_str()), (400, error), "the client is told");
    for _ in 0..6 {
        gateway.post(CHAT, body("")).await;
    }
    let other = body("").replace(MODEL, "another");
    gateway.post(CHAT, other.clone()).await;
    let bodies: Vec<String> =
        pod.arrivals().iter().map(|arrival| String::from_utf8_lossy(&arrival.body).into_owned()).collect();
    assert_eq!(bodies.len(), 8);
    assert_eq!(bodies[0], asking());
    assert!(bodies[1..7].iter().all(|sent| *sent == body("")), "{bodies:?}");
    assert_ne!(bodies[7], other, "another model may have another server");
    // In other words, or without saying why.
    let long = format!(r#"{{"detail":[{{"loc":["body","stream_options"]}}],"body":"{}"}}"#, "x".repeat(9_000));
    for (place, (status, kind, error)) in [
        ("400 Bad Request", "text/plain", "unknown field \"stream_options\""),
        ("400 Bad Request", "text/event-stream", "data: {\"error\":{\"message\":\"stream_options\"}}\n\n"),
        ("422 Unprocessable Entity", "application/json", long.as_str()),
        ("422 Unprocessable Entity", "application/json", r#"{"error":{"message":"Extra inputs are not permitted"}}"#),
        ("400 Bad Request", "text/plain", ""),
        ("501 Not Implemented", "text/plain", "stream_options is not supported"),
    ]
    .into_iter()
    .enumerate()
    {
        let length = error.len();
        let head = format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n");
        pod.respond_with(format!("{head}{error}"), 4096);
        let plain = body("").replace(MODEL, &format!("refused-{place}"));
        for is_asked in [true, false, false] {
            let answer = gateway.post(CHAT, plain.clone()).await;
            assert_eq!(answer.text(), error, "the client is told");
            let arrivals = pod.arrivals();
            let sent = String::from_utf8_lossy(&arrivals.last().unwrap().body).into_owned();
            assert_eq!(sent != plain, is_asked, "{status} {kind}: {error}");
        }
    }
}

async fn a_long_body_that_goes_on_early_asks_where_it_can(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({"early_pick_bytes": 2048}))).await;
    let text: String = (0..1_000).map(|word| format!("w{word:04} ")).collect();
    let messages = format!(r#""messages":[{{"role":"user","content":"{text}"}}]"#);
    // What it wants is known before it goes on.
    let known = format!(r#"{{"model":"{MODEL}","stream":true,"max_tokens":3,{messages}}}"#);
    // It turns out to ask by itself only when its beginning is gone.
    let late = format!(
        r#"{{"model":"{MODEL}","stream":true,"max_tokens":3,{messages},"stream_options":{{"include_usage":true}}}}"#
    );
    // That it streams is known too late.
    let unknown = format!(r#"{{"model":"{MODEL}","max_tokens":3,{messages},"stream":true}}"#);
    let asked = |body: &str| body.replacen('{', r#"{"stream_options":{"include_usage":true},"#, 1);
    for (body, sent, has_usage) in
        [(&known, asked(&known), false), (&late, asked(&late), true), (&unknown, unknown.clone(), false)]
    {
        let mut wire = Wire::open(gateway.gateway).await;
        let head = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let (beginning, rest) = body.split_at(body.len() / 2);
        wire.write(format!("{head}{beginning}").as_bytes()).await;
        // Two pieces that do not meet in one packet: the first goes on by itself.
        tokio::time::sleep(Duration::from_millis(300)).await;
        wire.write(rest.as_bytes()).await;
        let answer = wire.read_to_end().await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("[DONE]"), "{answer}");
        assert_eq!(answer.contains("\"choices\":[],\"usage\":{"), has_usage, "{answer}");
        let got = gateway.last_body(0).await;
        assert!(got == sent, "{}", String::from_utf8_lossy(&got[..80]));
    }
}
