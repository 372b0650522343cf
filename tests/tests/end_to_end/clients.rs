//! Ways in which clients speak.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use tests::{Gateway, MODEL, Mode, Uploader, Wire, builder, chat_body, figure};

tests::on_bindings! {
    both: [http_1_chunked_and_http_2_bodies_reach_the_pod_byte_for_byte, a_client_that_waits_for_100_continue_or_sends_slowly_is_served, many_streams_of_one_http_2_connection_are_told_apart],
}

const CHAT: &str = "/v1/chat/completions";

fn pieces(body: &str, size: usize) -> Vec<Bytes> {
    body.as_bytes().chunks(size).map(Bytes::copy_from_slice).collect()
}

fn is_answer(body: &[u8]) {
    let json: Value = serde_json::from_slice(body).unwrap();
    assert_eq!(json["choices"][0]["message"]["role"], "assistant", "{json}");
}

async fn http_1_chunked_and_http_2_bodies_reach_the_pod_byte_for_byte(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({}))).await;
    let small = chat_body(MODEL, false);
    let long =
        json!({"messages": [{"role": "user", "content": "ünïcödé ".repeat(1500)}], "model": MODEL, "max_tokens": 2})
            .to_string();
    let mut sent = Vec::new();
    for uploader in [Uploader::http1(), Uploader::http2()] {
        for (body, size) in [(&small, usize::MAX), (&small, 1), (&small, 7), (&long, 1000), (&long, 16_384)] {
            let answer = uploader.post(gateway.gateway, CHAT, pieces(body, size), None).await;
            assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
            is_answer(&answer.body);
            assert_eq!(gateway.last_body(0).await, *body);
            sent.push(body.len() as u64);
        }
        // Trailers behind the body: the body must not be taken for unfinished, nor be lost.
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", HeaderValue::from_static("1"));
        let answer = uploader.post(gateway.gateway, CHAT, pieces(&small, 50), Some(trailers)).await;
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
        assert_eq!(gateway.last_body(0).await, small);
        sent.push(small.len() as u64);
    }
    // With a length, several on one connection.
    for _ in 0..3 {
        is_answer(&gateway.post(CHAT, small.clone()).await.body);
        sent.push(small.len() as u64);
    }
    gateway
        .shows(&[
            figure("inference_objective_request_total", &[("model_name", MODEL)], sent.len() as u64),
            figure("inference_objective_request_sizes_count", &[], sent.len() as u64),
            figure("inference_objective_request_sizes_sum", &[], sent.iter().sum()),
            figure("inference_objective_request_error_total", &[], 0),
        ])
        .await;
}

async fn a_client_that_waits_for_100_continue_or_sends_slowly_is_served(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({}))).await;
    let body = chat_body(MODEL, false);
    let mut wire = Wire::open(gateway.gateway).await;
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    wire.write(head.as_bytes()).await;
    wire.read_until("HTTP/1.1 100").await;
    for piece in body.as_bytes().chunks(40) {
        wire.write(piece).await;
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let answer = wire.read_until("chat.completion").await;
    assert!(answer.contains("HTTP/1.1 200"), "{answer}");
    // Two requests in one packet.
    let mut wire = Wire::open(gateway.gateway).await;
    let one = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let last = one.replacen("host: g", "host: g\r\nconnection: close", 1);
    wire.write(format!("{one}{last}").as_bytes()).await;
    let answers = wire.read_to_end().await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");
    gateway.shows(&[figure("inference_objective_request_total", &[], 3), figure("inpick_picks_total", &[], 3)]).await;
}

async fn many_streams_of_one_http_2_connection_are_told_apart(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 2, json!({})).vllm_sim_args(["--served-model-name", "a,b,c"])).await;
    let uploader = Uploader::http2();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..60 {
        let (uploader, addr) = (uploader.clone(), gateway.gateway);
        let model = ["a", "b", "c"][number % 3];
        tasks.spawn(async move {
            let body = chat_body(model, number % 2 == 0);
            let answer = uploader.post(addr, CHAT, pieces(&body, 13), None).await;
            assert_eq!(answer.status.as_u16(), 200);
            assert!(answer.text().contains(&format!("\"model\":\"{model}\"")), "{}", answer.text());
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let figures: Vec<_> = ["a", "b", "c"]
        .iter()
        .map(|model| figure("inference_objective_output_tokens_sum", &[("model_name", model)], 100))
        .collect();
    gateway.shows(&figures).await;
    gateway
        .shows(&[
            figure("inference_objective_request_ttft_seconds_count", &[], 30),
            figure("inference_objective_running_requests", &[], 0),
        ])
        .await;
}
