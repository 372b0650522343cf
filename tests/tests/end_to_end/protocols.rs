//! HTTP/1.0, WebSockets and compression.

use std::net::SocketAddr;

use crate::shipped;
use local_stack::{Bootstrap, repository};
use serde_json::{Value, json};
use tests::{Gateway, MODEL, Mode, Wire, builder, chat_body, eventually, figure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

tests::on_bindings! {
    both: [http_1_0_is_served_with_and_without_a_host_and_as_a_stream, a_websocket_of_the_realtime_api_is_passed_on_and_one_elsewhere_is_not, a_websocket_is_complete_whoever_closes_it, envoy_compresses_for_a_client_what_the_filter_reads_plain],
}

const CHAT: &str = "/v1/chat/completions";

async fn http_1_0_is_served_with_and_without_a_host_and_as_a_stream(mode: Mode) {
    for bootstrap in shipped(mode) {
        let gateway = Gateway::start(builder(mode, 1, json!({})).config(bootstrap)).await;
        for host in ["", "host: g\r\n"] {
            let mut wire = Wire::open(gateway.gateway).await;
            wire.write(format!("GET /v1/models HTTP/1.0\r\n{host}\r\n").as_bytes()).await;
            let answer = wire.read_to_end().await;
            assert!(answer.starts_with("HTTP/1.0 200") && answer.contains(MODEL), "{answer}");
        }
        for stream in [false, true] {
            let body = chat_body(MODEL, stream);
            let mut wire = Wire::open(gateway.gateway).await;
            let head =
                format!("POST {CHAT} HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {}", body.len());
            wire.write(format!("{head}\r\n\r\n{body}").as_bytes()).await;
            let answer = wire.read_to_end().await;
            assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
            // It knows no chunks: the end of the connection is the end of the answer.
            assert!(!answer.to_ascii_lowercase().contains("transfer-encoding"), "{answer}");
            assert_eq!(answer.ends_with("data: [DONE]\n\n"), stream, "{answer}");
        }
        gateway.shows(&[figure("inference_objective_output_tokens_sum", &[], 10)]).await;
    }
}

/// A pod that accepts WebSockets and sends back what it gets.
async fn echoing_pod() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(echo(socket));
        }
    });
    addr
}

async fn echo(mut socket: TcpStream) -> Option<()> {
    let mut received = Vec::new();
    while !received.ends_with(b"\r\n\r\n") {
        if socket.read_buf(&mut received).await.ok()? == 0 {
            return None;
        }
    }
    if !String::from_utf8_lossy(&received).to_ascii_lowercase().contains("upgrade: websocket") {
        socket.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await.ok()?;
        return None;
    }
    let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    socket.write_all(head.as_bytes()).await.ok()?;
    received.clear();
    while !received.ends_with(GOODBYE) {
        let before = received.len();
        if socket.read_buf(&mut received).await.ok()? == 0 {
            return None;
        }
        socket.write_all(&received[before..]).await.ok()?;
    }
    Some(())
}

async fn a_websocket_of_the_realtime_api_is_passed_on_and_one_elsewhere_is_not(mode: Mode) {
    for bootstrap in shipped(mode) {
        let pod = echoing_pod().await;
        let stack = builder(mode, 0, json!({})).config(bootstrap).pods_at([pod.to_string()]).wait_for_snapshot(false);
        let gateway = Gateway::start(stack).await;
        eventually("the pod is known", async || {
            let known = gateway.envoy_page().await.unwrap().sum("inpick_endpoints", &[]);
            if known == 1.0 { Ok(()) } else { Err(known) }
        })
        .await;
        for path in ["/v1/realtime?model=m", "/gw/v1/realtime"] {
            let mut wire = Wire::open(gateway.gateway).await;
            let upgrade =
                "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: eA==";
            wire.write(format!("GET {path} HTTP/1.1\r\nhost: g\r\n{upgrade}\r\n\r\n").as_bytes()).await;
            let head = wire.read_until("\r\n\r\n").await;
            assert!(head.starts_with("HTTP/1.1 101"), "{bootstrap}: {head}");
            eventually("the tunnel is in flight", async || {
                let in_flight = gateway.envoy_page().await.unwrap().sum("inpick_in_flight_requests", &[]);
                if in_flight == 1.0 { Ok(()) } else { Err(in_flight) }
            })
            .await;
            for text in ["over and", "back"] {
                wire.write(text.as_bytes()).await;
                wire.read_until(text).await;
            }
        }
        for path in [CHAT, "/v1/realtime/sessions", "/metrics"] {
            let mut wire = Wire::open(gateway.gateway).await;
            let upgrade = "connection: Upgrade\r\nupgrade: websocket";
            wire.write(format!("GET {path} HTTP/1.1\r\nhost: g\r\n{upgrade}\r\n\r\n").as_bytes()).await;
            let answer = wire.read_to_end().await;
            assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("{\"error\":{"), "{path}: {answer}");
        }
    }
}

/// What has an echoing pod close the connection, as a server of WebSockets does at the end of each session (RFC 6455 section 7.1.1).
const GOODBYE: &[u8] = b"goodbye";

async fn a_websocket_is_complete_whoever_closes_it(mode: Mode) {
    let pod = echoing_pod().await;
    let stack = builder(mode, 0, json!({})).pods_at([pod.to_string()]).wait_for_snapshot(false);
    let gateway = Gateway::start(stack).await;
    eventually("the pod is known", async || {
        let known = gateway.envoy_page().await.unwrap().sum("inpick_endpoints", &[]);
        if known == 1.0 { Ok(()) } else { Err(known) }
    })
    .await;
    let upgrade = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: eA==";
    for is_pods in [true, false, true, false, true] {
        let mut wire = Wire::open(gateway.gateway).await;
        wire.write(format!("GET /v1/realtime HTTP/1.1\r\nhost: g\r\n{upgrade}\r\n\r\n").as_bytes()).await;
        assert!(wire.read_until("\r\n\r\n").await.starts_with("HTTP/1.1 101"));
        wire.write(b"over and back").await;
        wire.read_until("over and back").await;
        if is_pods {
            wire.write(GOODBYE).await;
            assert!(wire.read_to_end().await.ends_with("goodbye"));
        }
    }
    gateway
        .envoy_shows(&[
            figure("inpick_load_only_requests_total", &[("outcome", "complete")], 5),
            figure("inpick_load_only_requests_total", &[], 5),
            figure("inpick_endpoint_failures_total", &[], 0),
            figure("inpick_ejections_total", &[], 0),
            figure("inpick_in_flight_requests", &[], 0),
        ])
        .await;
}

/// The compressor as envoy/README.md shows it.
fn documented_compressor() -> Value {
    let page = std::fs::read_to_string(repository().join("envoy/README.md")).unwrap();
    let blocks = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split_once("```"));
    let (block, _) =
        blocks.into_iter().find(|(block, _)| block.starts_with("- name: envoy.filters.http.compressor")).unwrap();
    Bootstrap::parse(block).unwrap().tree_mut()[0].clone()
}

async fn envoy_compresses_for_a_client_what_the_filter_reads_plain(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({})).patch(|tree| {
        let filters = tree
            .pointer_mut("/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters")
            .unwrap()
            .as_array_mut()
            .unwrap();
        filters.insert(0, documented_compressor());
    }))
    .await;
    let gzip = [("accept-encoding", "gzip, deflate")];
    let plain = gateway.chat().await;
    assert_eq!(plain.header("content-encoding"), None);
    let reply = gateway.send("POST", CHAT, &gzip, chat_body(MODEL, false)).await;
    assert_eq!((reply.status.as_u16(), reply.header("content-encoding")), (200, Some("gzip")));
    assert!(reply.body.starts_with(b"\x1f\x8b") && reply.body.len() < plain.body.len(), "{:?}", reply.body);
    assert!(!gateway.last_headers(0).await.unwrap().contains("accept-encoding"));
    // A stream stays as it is: each event reaches the client at once.
    let reply = gateway.send("POST", CHAT, &gzip, chat_body(MODEL, true)).await;
    assert_eq!(reply.header("content-encoding"), None);
    assert_eq!(reply.events().last().map(String::as_str), Some("[DONE]"));
    gateway
        .shows(&[
            figure("inference_objective_output_tokens_sum", &[], 15),
            figure("inference_objective_output_tokens_count", &[], 3),
            figure("inference_objective_response_sizes_count", &[], 3),
        ])
        .await;
    eventually("nothing is in flight", async || {
        let running = gateway.envoy_page().await.unwrap().sum("inference_objective_running_requests", &[]);
        if running == 0.0 { Ok(()) } else { Err(running) }
    })
    .await;
}
