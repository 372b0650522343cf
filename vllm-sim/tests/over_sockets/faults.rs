//! Every fault over real sockets, and what the pod tells about itself.

use std::time::{Duration, Instant};

use crate::client::{End, PATIENCE, SILENCE, get, post, post_head, read, send};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use vllm_sim::{Config, FaultSpec, PinnedLoad, Server};

const CHAT: &str = "/v1/chat/completions";
const PLAIN: &str = r#"{"messages":[{"role":"user","content":"hi"}],"max_tokens":8}"#;
const STREAM: &str = r#"{"messages":[{"role":"user","content":"hi"}],"max_tokens":8,"stream":true}"#;
/// The role, eight tokens and the end mark.
const WHOLE_STREAM: usize = 10;

async fn pod() -> Server {
    Server::start(Config::default()).await.unwrap()
}

async fn faulty(fault: &str) -> Server {
    let server = pod().await;
    server.add_fault(FaultSpec::parse(fault).unwrap());
    server
}

/// A pod whose tokens take 20 ms each.
async fn slow_pod() -> Server {
    Server::start(Config { speed: 1.0, step_ms: 20.0, jitter: 0.0, ..Config::default() }).await.unwrap()
}

async fn wait_for(server: &Server, what: &str, wanted: impl Fn(&Value) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !wanted(&server.state()) {
        assert!(Instant::now() < end, "{what}: {}", server.state());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn without_faults_a_stream_is_whole() {
    let server = pod().await;
    let seen = post(server.addr, CHAT, STREAM).await;
    let (chunks, ended) = seen.chunks();
    assert_eq!((chunks.len(), ended, seen.end), (WHOLE_STREAM, true, End::Closed));
    assert_eq!(chunks.last().unwrap(), "data: [DONE]\n\n");
}

#[tokio::test]
async fn status_answers_with_an_error_body_and_count_runs_out() {
    for status in [429, 500, 503] {
        let server = faulty(&format!("kind=status,status={status},count=1")).await;
        let seen = post(server.addr, CHAT, PLAIN).await;
        assert_eq!(seen.status(), status);
        assert_eq!(seen.json()["error"]["code"], status);
        assert_eq!(post(server.addr, CHAT, PLAIN).await.status(), 200);
    }
}

#[tokio::test]
async fn reset_breaks_a_stream_after_its_events() {
    let server = faulty("kind=reset,after_events=4").await;
    let seen = post(server.addr, CHAT, STREAM).await;
    let (chunks, ended) = seen.chunks();
    assert_eq!((chunks.len(), ended, seen.end), (4, false, End::Reset));
}

#[tokio::test]
async fn reset_breaks_a_plain_body_in_the_middle() {
    let server = faulty("kind=reset").await;
    let seen = post(server.addr, CHAT, PLAIN).await;
    let announced: usize = seen.header("content-length").unwrap().parse().unwrap();
    assert_eq!((seen.status(), seen.body().len(), seen.end), (200, announced / 2, End::Reset));
}

#[tokio::test]
async fn reset_after_no_events_comes_before_any_byte() {
    let server = faulty("kind=reset,after_events=0").await;
    let seen = post(server.addr, CHAT, STREAM).await;
    assert_eq!((seen.raw.len(), seen.end), (0, End::Reset));
}

#[tokio::test]
async fn cut_closes_with_the_response_unfinished() {
    let server = faulty("kind=cut,after_events=2").await;
    let seen = post(server.addr, CHAT, STREAM).await;
    let (chunks, ended) = seen.chunks();
    assert_eq!((chunks.len(), ended, seen.end), (2, false, End::Closed));
}

#[tokio::test]
async fn short_ends_properly_with_half_the_content() {
    let server = faulty("kind=short,after_events=2").await;
    let seen = post(server.addr, CHAT, STREAM).await;
    let (chunks, ended) = seen.chunks();
    assert_eq!((chunks.len(), ended), (2, true));
    let seen = post(server.addr, CHAT, PLAIN).await;
    assert_eq!(seen.header("content-length").unwrap(), seen.body().len().to_string());
    assert!(serde_json::from_str::<Value>(&seen.body()).is_err());
}

#[tokio::test]
async fn hang_never_answers() {
    let server = faulty("kind=hang").await;
    let request = post_head(CHAT, PLAIN.as_bytes(), "");
    let seen = send(server.addr, &request, SILENCE).await;
    assert_eq!((seen.raw.len(), seen.end), (0, End::StillOpen));
    assert_eq!(get(server.addr, "/health").await.status(), 200);
}

#[tokio::test]
async fn stall_stops_sending_and_stays_open() {
    let server = faulty("kind=stall,after_events=3").await;
    let request = post_head(CHAT, STREAM.as_bytes(), "");
    let seen = send(server.addr, &request, SILENCE).await;
    assert_eq!((seen.chunks().0.len(), seen.end), (3, End::StillOpen));
}

#[tokio::test]
async fn slow_headers_come_late() {
    let server = faulty("kind=slow_headers,delay_ms=200").await;
    let start = Instant::now();
    let seen = post(server.addr, CHAT, PLAIN).await;
    assert_eq!(seen.status(), 200);
    assert!(start.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn garbage_is_neither_json_nor_events() {
    let server = faulty("kind=garbage").await;
    let seen = post(server.addr, CHAT, PLAIN).await;
    assert_eq!(seen.header("content-type").unwrap(), "application/json");
    assert!(serde_json::from_str::<Value>(&seen.body()).is_err());
    let seen = post(server.addr, CHAT, STREAM).await;
    assert!(seen.header("content-type").unwrap().starts_with("text/event-stream"));
    assert!(!seen.body().contains("data:"));
}

#[tokio::test]
async fn error_event_is_followed_by_done() {
    let server = faulty("kind=error_event,after_events=2").await;
    let seen = post(server.addr, CHAT, STREAM).await;
    let (chunks, ended) = seen.chunks();
    assert_eq!((chunks.len(), ended), (4, true));
    let error: Value = serde_json::from_str(chunks[2].strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(error["error"]["code"], 500);
    assert_eq!(chunks[3], "data: [DONE]\n\n");
    assert_eq!(post(server.addr, CHAT, PLAIN).await.status(), 500);
}

#[tokio::test]
async fn unterminated_leaves_out_the_event_that_ends_each_apis_stream() {
    let input = r#"{"input":"hi","max_output_tokens":4,"stream":true}"#;
    let prompt = r#"{"prompt":"hi","max_tokens":4,"stream":true,"stream_options":{"include_usage":true}}"#;
    for (path, body, end) in [
        (CHAT, STREAM, "[DONE]"),
        ("/v1/completions", prompt, "[DONE]"),
        ("/v1/responses", input, "response.completed"),
        ("/v1/messages", STREAM, "message_stop"),
    ] {
        let server = pod().await;
        let (whole, _) = post(server.addr, path, body).await.chunks();
        server.add_fault(FaultSpec::parse("kind=unterminated,count=1").unwrap());
        let (chunks, ended) = post(server.addr, path, body).await.chunks();
        assert!(whole.last().unwrap().contains(end), "{path}: {whole:?}");
        assert!(ended && chunks.len() == whole.len() - 1, "{path}: {chunks:?}");
        assert!(!chunks.concat().contains(end), "{path}: {chunks:?}");
    }
    let server = faulty("kind=unterminated").await;
    assert!(post(server.addr, CHAT, PLAIN).await.json()["usage"].is_object());
}

#[tokio::test]
async fn a_page_without_engine_statistics_is_200_and_leaves_inference_alone() {
    let server = faulty("kind=disable_log_stats,target=metrics,count=1").await;
    let page = get(server.addr, "/metrics").await;
    assert_eq!((page.status(), vllm_lines(&page.body()).len()), (200, 0));
    assert!(page.body().contains("process_cpu_seconds_total"), "{}", page.body());
    assert_eq!(post(server.addr, CHAT, PLAIN).await.status(), 200);
    assert!(!vllm_lines(&get(server.addr, "/metrics").await.body()).is_empty());
}

#[tokio::test]
async fn a_redirected_page_is_where_the_redirect_leads() {
    let server = faulty("kind=redirect,target=metrics").await;
    for _ in 0..2 {
        let seen = get(server.addr, "/metrics").await;
        assert_eq!((seen.status(), seen.header("location").unwrap().as_str()), (307, "/metrics/"));
        assert!(!vllm_lines(&get(server.addr, "/metrics/").await.body()).is_empty());
    }
    server.clear_faults();
    let elsewhere = r#"{"kind":"redirect","target":"metrics","location":"http://127.0.0.1:1/metrics"}"#;
    server.add_fault(FaultSpec::parse(elsewhere).unwrap());
    assert_eq!(get(server.addr, "/metrics").await.header("location").unwrap(), "http://127.0.0.1:1/metrics");
    assert_eq!(get(server.addr, "/health").await.status(), 200);
}

#[tokio::test]
async fn status_500_on_every_inference_path_leaves_an_idle_page_and_good_health() {
    let server = faulty("kind=status,status=500").await;
    for path in [CHAT, "/v1/completions", "/v1/responses", "/v1/messages"] {
        assert_eq!(post(server.addr, path, PLAIN).await.status(), 500, "{path}");
    }
    assert_eq!(get(server.addr, "/health").await.status(), 200);
    let page = get(server.addr, "/metrics").await.body();
    assert!(
        page.contains("vllm:num_requests_running{engine=\"0\",model_name=\"meta-llama/Llama-3.1-8B-Instruct\"} 0.0")
    );
}

/// A pod that closes idle connections after that many seconds.
async fn closing_after(seconds: f64) -> Server {
    Server::start(Config { timeout_keep_alive: seconds, speed: 1.0, ..Config::default() }).await.unwrap()
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_the_keep_alive_time_and_not_before_a_request() {
    let server = closing_after(0.3).await;
    let mut fresh = TcpStream::connect(server.addr).await.unwrap();
    let mut used = TcpStream::connect(server.addr).await.unwrap();
    for _ in 0..3 {
        used.write_all(b"GET /health HTTP/1.1\r\nhost: pod\r\n\r\n").await.unwrap();
        let seen = read(&mut used, Duration::from_millis(150)).await;
        assert_eq!((seen.status(), seen.end), (200, End::StillOpen));
    }
    let start = Instant::now();
    let seen = read(&mut used, PATIENCE).await;
    assert_eq!((seen.raw.len(), seen.end), (0, End::Closed));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    // One that has sent nothing yet stays open, as in uvicorn.
    assert_eq!(read(&mut fresh, SILENCE).await.end, End::StillOpen);
}

#[tokio::test]
async fn a_connection_is_not_idle_while_its_stream_is_silent() {
    let server = closing_after(0.1).await;
    server.add_fault(FaultSpec::parse("kind=stall,after_events=2,count=1").unwrap());
    let mut stalled = TcpStream::connect(server.addr).await.unwrap();
    stalled.write_all(&post_head(CHAT, STREAM.as_bytes(), "")).await.unwrap();
    let seen = read(&mut stalled, Duration::from_millis(500)).await;
    assert_eq!((seen.chunks().0.len(), seen.end), (2, End::StillOpen));
    server.add_fault(FaultSpec::parse("kind=slow_headers,delay_ms=400,count=1").unwrap());
    assert_eq!(post(server.addr, CHAT, PLAIN).await.status(), 200);
}

#[tokio::test]
async fn metrics_faults_leave_inference_alone() {
    let server = faulty("kind=status,target=metrics,status=500").await;
    assert_eq!(get(server.addr, "/metrics").await.status(), 500);
    assert_eq!(post(server.addr, CHAT, PLAIN).await.status(), 200);
    server.clear_faults();
    server.add_fault(FaultSpec::parse("kind=garbage,target=metrics").unwrap());
    let seen = get(server.addr, "/metrics").await;
    assert_eq!(seen.status(), 200);
    assert!(seen.body().contains("{ oops }"));
    server.clear_faults();
    server.add_fault(FaultSpec::parse("kind=huge,target=metrics,bytes=3000000").unwrap());
    assert_eq!(get(server.addr, "/metrics").await.body().len(), 3_000_000);
    server.clear_faults();
    server.add_fault(FaultSpec::parse("kind=slow_headers,target=metrics,delay_ms=150").unwrap());
    let start = Instant::now();
    assert!(get(server.addr, "/metrics").await.body().contains("vllm:"));
    assert!(start.elapsed() >= Duration::from_millis(150));
}

#[tokio::test]
async fn refuse_closes_the_port_and_reopens_it() {
    let server = Server::start(Config { admin_port: Some(0), ..Config::default() }).await.unwrap();
    let mut idle = TcpStream::connect(server.addr).await.unwrap();
    wait_for(&server, "connected", |state| state["open_connections"] == 1).await;
    let answer = post(server.admin_addr.unwrap(), "/sim/fault", r#"{"kind":"refuse"}"#).await;
    assert_eq!(answer.json()["mode"], "refusing");
    assert_eq!(read(&mut idle, PATIENCE).await.end, End::Closed);
    let refused = TcpStream::connect(server.addr).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let answer = post(server.admin_addr.unwrap(), "/sim/fault", r#"{"kind":"none"}"#).await;
    assert_eq!(answer.json()["mode"], "serving");
    assert_eq!(post(server.addr, CHAT, PLAIN).await.status(), 200);
}

#[tokio::test]
async fn refuse_for_a_time_answers_its_own_request_and_comes_back() {
    let server = pod().await;
    let answer = post(server.addr, "/sim/fault", r#"{"kind":"refuse","duration_ms":200}"#).await;
    assert_eq!(answer.json()["mode"], "refusing");
    assert!(TcpStream::connect(server.addr).await.is_err());
    wait_for(&server, "serving again", |state| state["mode"] == "serving").await;
    assert_eq!(get(server.addr, "/health").await.status(), 200);
}

#[tokio::test]
async fn hang_up_cuts_streams_under_way() {
    let server = slow_pod().await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(&post_head(CHAT, STREAM.as_bytes(), "")).await.unwrap();
    wait_for(&server, "in flight", |state| state["in_flight"] == 1).await;
    post(server.addr, "/sim/fault", r#"{"kind":"hang_up"}"#).await;
    let seen = read(&mut stream, PATIENCE).await;
    assert!(!seen.chunks().1);
    assert_ne!(seen.end, End::StillOpen);
    wait_for(&server, "aborted", |state| state["aborted"] == 1).await;
}

#[tokio::test]
async fn a_frozen_engine_looks_healthy_and_answers_nothing() {
    let server = slow_pod().await;
    let mut busy = TcpStream::connect(server.addr).await.unwrap();
    busy.write_all(&post_head(CHAT, STREAM.as_bytes(), "")).await.unwrap();
    wait_for(&server, "running", |state| state["engines"][0]["running"] == 1).await;
    post(server.addr, "/sim/fault", r#"{"kind":"freeze"}"#).await;
    let before = get(server.addr, "/metrics").await;
    let request = post_head(CHAT, PLAIN.as_bytes(), "");
    let mut hanging = TcpStream::connect(server.addr).await.unwrap();
    hanging.write_all(&request).await.unwrap();
    assert_eq!(read(&mut hanging, SILENCE).await.raw.len(), 0);
    let after = get(server.addr, "/metrics").await;
    assert_eq!(get(server.addr, "/health").await.status(), 200);
    assert_eq!(vllm_lines(&before.body()), vllm_lines(&after.body()));
    assert!(
        after
            .body()
            .contains("vllm:num_requests_running{engine=\"0\",model_name=\"meta-llama/Llama-3.1-8B-Instruct\"} 1.0")
    );
    server.resume();
    assert_eq!(read(&mut hanging, PATIENCE).await.status(), 200);
    assert!(read(&mut busy, PATIENCE).await.end == End::Closed);
}

fn vllm_lines(page: &str) -> Vec<&str> {
    page.lines().filter(|line| line.starts_with("vllm:")).collect()
}

#[tokio::test]
async fn a_draining_pod_finishes_its_streams_and_refuses_new_requests() {
    let server = slow_pod().await;
    let mut busy = TcpStream::connect(server.addr).await.unwrap();
    busy.write_all(&post_head(CHAT, STREAM.as_bytes(), "")).await.unwrap();
    wait_for(&server, "running", |state| state["engines"][0]["running"] == 1).await;
    server.drain();
    let refused = post(server.addr, CHAT, PLAIN).await;
    assert_eq!(refused.status(), 500);
    assert_eq!(refused.json()["error"]["message"], "cannot schedule new futures after shutdown");
    assert_eq!(get(server.addr, "/health").await.status(), 200);
    assert_eq!(get(server.addr, "/metrics").await.status(), 200);
    let seen = read(&mut busy, PATIENCE).await;
    assert_eq!((seen.chunks().0.len(), seen.chunks().1), (WHOLE_STREAM, true));
    assert!(server.finish(PATIENCE).await);
}

#[tokio::test]
async fn a_client_that_leaves_aborts_its_request() {
    let server = slow_pod().await;
    for body in [STREAM, PLAIN] {
        let aborted = server.state()["aborted"].as_u64().unwrap();
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(&post_head(CHAT, body.as_bytes(), "")).await.unwrap();
        wait_for(&server, "running", |state| state["engines"][0]["running"] == 1).await;
        drop(stream);
        wait_for(&server, "aborted", |state| state["aborted"] == aborted + 1 && state["in_flight"] == 0).await;
    }
    let page = get(server.addr, "/metrics").await.body();
    assert!(page.contains("finished_reason=\"abort\",model_name=\"meta-llama/Llama-3.1-8B-Instruct\"} 2.0"));
}

#[tokio::test]
async fn a_full_queue_answers_503() {
    let server = Server::start(Config { speed: 1.0, max_num_queued_reqs: Some(1), ..Config::default() }).await.unwrap();
    let mut busy = TcpStream::connect(server.addr).await.unwrap();
    busy.write_all(&post_head(CHAT, STREAM.as_bytes(), "")).await.unwrap();
    wait_for(&server, "running", |state| state["engines"][0]["running"] == 1).await;
    let refused = post(server.addr, CHAT, PLAIN).await;
    assert_eq!((refused.status(), refused.header("retry-after")), (503, None));
    assert_eq!(refused.json()["error"]["type"], "Service Unavailable");
    let page = get(server.addr, "/metrics").await.body();
    assert!(page.contains("reason=\"max_num_queued_reqs\"} 1.0"));
}

#[tokio::test]
async fn pinned_load_shows_until_it_is_unpinned() {
    let server = pod().await;
    let answer =
        post(server.addr, "/sim/load", r#"{"waiting":5,"running":2,"kv_cache_usage":0.7,"lora_adapters":["a","b"]}"#)
            .await;
    assert_eq!(answer.status(), 200);
    let page = get(server.addr, "/metrics").await.body();
    for line in [
        "vllm:num_requests_running{engine=\"0\",model_name=\"meta-llama/Llama-3.1-8B-Instruct\"} 2.0",
        "vllm:num_requests_waiting{engine=\"0\",model_name=\"meta-llama/Llama-3.1-8B-Instruct\"} 5.0",
        "vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"meta-llama/Llama-3.1-8B-Instruct\"} 0.7",
        "running_lora_adapters=\"a,b\"",
    ] {
        assert!(page.contains(line), "{line}");
    }
    let request = post_head(CHAT, PLAIN.as_bytes(), "endpoint-load-metrics-format: TEXT\r\n");
    let seen = send(server.addr, &request, PATIENCE).await;
    assert_eq!(
        seen.header("endpoint-load-metrics").unwrap(),
        "TEXT named_metrics.num_requests_waiting=5.0, named_metrics.kv_cache_usage_perc=0.7"
    );
    post(server.addr, "/sim/load", "null").await;
    assert_eq!(server.state()["pinned"], Value::Null);
    server.pin_load(Some(PinnedLoad::default()));
    assert!(
        get(server.addr, "/metrics")
            .await
            .body()
            .contains("vllm:num_requests_waiting{engine=\"0\",model_name=\"meta-llama/Llama-3.1-8B-Instruct\"} 0.0")
    );
}

#[tokio::test]
async fn a_pod_with_pinned_requests_counts_steps_and_one_without_does_not() {
    let server = pod().await;
    let steps = async || {
        let page = get(server.addr, "/metrics").await.body();
        let line = page.lines().find(|line| line.starts_with("vllm:iteration_tokens_total_count{")).unwrap();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert_eq!((steps().await, steps().await), (0.0, 0.0));
    server.pin_load(Some(PinnedLoad { waiting: Some(5), ..PinnedLoad::default() }));
    assert_eq!((steps().await, steps().await), (1.0, 2.0));
    for idle in [Some(PinnedLoad { waiting: Some(0), ..PinnedLoad::default() }), None] {
        server.pin_load(idle);
        assert_eq!(steps().await, 2.0, "what was counted stays");
    }
}

#[tokio::test]
async fn the_last_request_is_kept_byte_for_byte() {
    let server = pod().await;
    let body = "{ \"messages\" : [{\"role\":\"user\",\"content\":\"h\\u00ef \u{1F600}\"}],\n\"max_tokens\":1 }";
    let request = post_head(&format!("{CHAT}?a=b"), body.as_bytes(), "x-Trace: One\r\nx-trace: two\r\n");
    assert_eq!(send(server.addr, &request, PATIENCE).await.status(), 200);
    get(server.addr, "/metrics").await;
    let last = server.last_request().unwrap();
    assert_eq!(last.body, body.as_bytes());
    assert_eq!(get(server.addr, "/sim/last-request/body").await.body(), body);
    let told = get(server.addr, "/sim/last-request").await.json();
    assert_eq!(told["path"], format!("{CHAT}?a=b"));
    assert_eq!(told["body_bytes"], body.len());
    assert_eq!(told["body"], body);
    let traces: Vec<&Value> =
        told["headers"].as_array().unwrap().iter().filter(|pair| pair[0] == "x-trace").map(|pair| &pair[1]).collect();
    assert_eq!(traces, [&json!("One"), &json!("two")]);
    assert_eq!(server.state()["received"][CHAT], 1);
}

#[tokio::test]
async fn bad_faults_are_refused() {
    let server = pod().await;
    for body in ["{", r#"{"kind":"explode"}"#, r#"{"kind":"reset","probability":3}"#, r#"{"kind":"freeze","count":1}"#]
    {
        assert_eq!(post(server.addr, "/sim/fault", body).await.status(), 400, "{body}");
    }
    assert_eq!(server.state()["faults"], json!([]));
    assert_eq!(server.state()["mode"], "serving");
}

#[tokio::test]
async fn every_response_names_the_pod() {
    let server = pod().await;
    for path in ["/health", "/metrics", "/v1/models", "/nowhere", "/sim/state"] {
        let seen = get(server.addr, path).await;
        assert_eq!(seen.header("x-inference-pod").unwrap(), server.addr.to_string(), "{path}");
    }
}

#[tokio::test]
async fn a_dead_engine_ends_what_is_in_flight_and_closes_the_port() {
    let server = slow_pod().await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let request = post_head(CHAT, STREAM.as_bytes(), "");
    stream.write_all(&request).await.unwrap();
    let mut plain = TcpStream::connect(server.addr).await.unwrap();
    let request = post_head(CHAT, PLAIN.as_bytes(), "");
    plain.write_all(&request).await.unwrap();
    wait_for(&server, "running", |state| state["engines"][0]["running"] == 2).await;
    server.crash().await;
    let seen = read(&mut stream, PATIENCE).await;
    let (chunks, ended) = seen.chunks();
    assert!(ended && chunks[chunks.len() - 2].contains("\"code\":500"), "{chunks:?}");
    assert_eq!(chunks.last().unwrap(), "data: [DONE]\n\n");
    assert_eq!(read(&mut plain, PATIENCE).await.status(), 500);
    assert!(TcpStream::connect(server.addr).await.is_err());
    assert!(server.accept().await);
    assert_eq!(post(server.addr, CHAT, PLAIN).await.status(), 200);
}
