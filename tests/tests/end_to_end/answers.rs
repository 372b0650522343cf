//! Answers in shapes that a simulated pod does not give.

use serde_json::{Value, json};
use tests::{Figure, Gateway, MODEL, Mode, ScriptedPod, builder, chat_body, eventually, figure};

tests::on_bindings! {
    both: [usage_is_found_wherever_packets_split_a_stream, a_plain_answer_is_read_in_pieces_too, an_answer_that_cannot_be_read_passes_and_its_bytes_are_counted, an_answer_without_a_body_ends_the_request, an_error_inside_a_plain_answer_of_status_200_is_counted],
    // The native module asks Envoy whom it tried, so there is no header.
    wasm: [no_pod_says_which_pod_served_and_no_client_hears_it],
}

const CHAT: &str = "/v1/chat/completions";

/// A gateway in front of one pod that gives this answer.
async fn in_front_of(mode: Mode, answer: Vec<u8>, piece: usize) -> (Gateway, ScriptedPod) {
    let pod = ScriptedPod::start(answer, piece).await;
    let gateway = Gateway::start(builder(mode, 0, json!({})).pods_at([pod.addr.to_string()])).await;
    eventually("the pod is known", async || {
        let ready = gateway.envoy_page().await.unwrap().sum("inference_pool_ready_pods", &[]);
        if ready == 1.0 { Ok(()) } else { Err(ready) }
    })
    .await;
    (gateway, pod)
}

fn chunked(content_type: &str, body: &str, piece: usize) -> Vec<u8> {
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n").into_bytes();
    for bytes in body.as_bytes().chunks(piece) {
        answer.extend(format!("{:x}\r\n", bytes.len()).into_bytes());
        answer.extend(bytes);
        answer.extend(b"\r\n");
    }
    answer.extend(b"0\r\n\r\n");
    answer
}

fn with_length(headers: &str, body: &[u8]) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 200 OK\r\n{headers}\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
    answer.extend(body);
    answer
}

fn tokens(prompt: u64, cached: u64, output: u64) -> Vec<Figure> {
    let labels = [("model_name", MODEL)];
    vec![
        figure("inference_objective_input_tokens_sum", &labels, prompt),
        figure("inference_objective_prompt_cached_tokens_sum", &labels, cached),
        figure("inference_objective_output_tokens_sum", &labels, output),
    ]
}

/// A stream with all that the format allows: both line ends, comments, an event of several lines,
/// text that looks like a usage, and no blank behind a colon.
const STREAM: &str = ": ping\n\n\
    data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"index\":0}],\"model\":\"m\"}\n\n\
    data:{\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\":{\\\"completion_tokens\\\":99}\"},\"index\":0}],\"usage\":null}\r\n\r\n\
    : ping\r\n\r\n\
    event: message\nid: 7\ndata: {\"choices\":[{\"delta\":{\"content\":\"\u{e9}\u{1f600}\"},\ndata: \"index\":0}],\"usage\":{\"prompt_tokens\":31,\"completion_tokens\":2}}\n\n\
    data: {\"choices\":[],\"usage\":{\"prompt_tokens\":31,\"total_tokens\":44,\"completion_tokens\":13,\"prompt_tokens_details\":{\"cached_tokens\":16}}}\n\n\
    data: [DONE]\n\n";

async fn usage_is_found_wherever_packets_split_a_stream(mode: Mode) {
    let (gateway, pod) = in_front_of(mode, Vec::new(), 1).await;
    for (round, (chunk, piece)) in (1..).zip([(1, 7), (17, 1000), (STREAM.len(), 3)]) {
        pod.respond_with(chunked("text/event-stream; charset=utf-8", STREAM, chunk), piece);
        for _ in 0..2 {
            let reply = gateway.post(CHAT, chat_body(MODEL, true)).await;
            assert_eq!(reply.text(), STREAM);
        }
        let mut figures = tokens(62 * round, 32 * round, 26 * round);
        figures.extend([
            figure("inference_objective_response_sizes_sum", &[], 2 * round * STREAM.len() as u64),
            figure("inference_objective_request_ttft_seconds_count", &[], 2 * round),
            figure("inference_objective_request_tpot_seconds_count", &[], 2 * round),
            figure("inference_objective_request_error_total", &[], 0),
            figure("inference_objective_running_requests", &[], 0),
        ]);
        gateway.shows(&figures).await;
    }
}

async fn a_plain_answer_is_read_in_pieces_too(mode: Mode) {
    let text = "\"usage\": {\"completion_tokens\": 9} ".repeat(4000);
    let body =
        json!({"choices": [{"message": {"content": text}}], "usage": {"prompt_tokens": 5, "completion_tokens": 6}})
            .to_string();
    let (gateway, _pod) = in_front_of(mode, chunked("application/json", &body, 5000), 40_000).await;
    let reply = gateway.chat().await;
    assert_eq!(reply.text(), body);
    let mut figures = tokens(5, 0, 6);
    figures.push(figure("inference_objective_response_sizes_sum", &[], body.len() as u64));
    figures.push(figure("inference_objective_request_ttft_seconds_count", &[], 0));
    gateway.shows(&figures).await;
}

async fn an_answer_that_cannot_be_read_passes_and_its_bytes_are_counted(mode: Mode) {
    let body: Vec<u8> = (0..=255).cycle().take(3000).collect();
    let (gateway, pod) = in_front_of(mode, Vec::new(), 1).await;
    for (round, headers) in (1..).zip([
        "content-type: application/json\r\ncontent-encoding: gzip",
        "content-type: audio/mpeg",
        "x-nothing: 1",
    ]) {
        pod.respond_with(with_length(headers, &body), 1000);
        let reply = gateway.chat().await;
        assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &body[..]));
        let mut figures = tokens(0, 0, 0);
        figures.extend([
            figure("inference_objective_response_sizes_sum", &[], 3000 * round),
            figure("inference_objective_request_duration_seconds_count", &[], round),
            figure("inference_objective_output_tokens_count", &[], 0),
            figure("inference_objective_request_error_total", &[], 0),
        ]);
        gateway.shows(&figures).await;
    }
}

async fn an_answer_without_a_body_ends_the_request(mode: Mode) {
    let (gateway, _pod) = in_front_of(mode, b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(), 100).await;
    assert_eq!(gateway.chat().await.status.as_u16(), 204);
    gateway
        .shows(&[
            figure("inference_objective_request_duration_seconds_count", &[], 1),
            figure("inference_objective_response_sizes_sum", &[], 0),
            figure("inference_objective_running_requests", &[], 0),
            figure("inference_objective_request_error_total", &[], 0),
        ])
        .await;
}

async fn an_error_inside_a_plain_answer_of_status_200_is_counted(mode: Mode) {
    let body = json!({"error": {"message": "out of memory", "type": "server_error", "code": 500}}).to_string();
    let (gateway, _pod) = in_front_of(mode, with_length("content-type: application/json", body.as_bytes()), 100).await;
    let reply = gateway.chat().await;
    assert_eq!(serde_json::from_slice::<Value>(&reply.body).unwrap()["error"]["code"], 500);
    gateway.shows(&[figure("inference_objective_request_error_total", &[("error_code", "ModelServerError")], 1)]).await;
}

async fn no_pod_says_which_pod_served_and_no_client_hears_it(mode: Mode) {
    let header = "x-inpick-served-endpoint";
    let answer = with_length(
        &format!("content-type: application/json\r\n{header}: 10.9.8.7:1\r\n{header}: 10.9.8.7:2"),
        br#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#,
    );
    // Read from the header as shipped, and asked for as a property.
    for source in ["header", "property"] {
        let pod = ScriptedPod::start(answer.clone(), 4_096).await;
        let addr = pod.addr.to_string();
        let builder = builder(mode, 0, json!({"served_endpoint": source})).pods_at([addr.clone()]);
        let gateway = Gateway::start(builder).await;
        eventually("the pod is known", async || {
            let ready = gateway.envoy_page().await.unwrap().sum("inference_pool_ready_pods", &[]);
            if ready == 1.0 { Ok(()) } else { Err(ready) }
        })
        .await;
        let answers =
            [gateway.chat().await, gateway.post("/v1/tokenize", "{}").await, gateway.post("/tokenize", "{}").await];
        for answer in &answers {
            assert!(answer.headers.get(header).is_none(), "{source}: {answer:?}");
        }
        let of_pod = [("endpoint", addr.as_str())];
        gateway.envoy_shows(&[figure("inpick_picks_total", &of_pod, 3)]).await;
        assert_eq!(gateway.envoy_page().await.unwrap().sum("inpick_picks_total", &[]), 3.0, "{source}");
    }
}
