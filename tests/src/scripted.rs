//! A pod that responds with bytes that a test wrote, in the pieces that it wants.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// An idle engine, as far as the sidecar asks.
const METRICS: &str = "vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 0.0\n\
                       vllm:num_requests_waiting{engine=\"0\",model_name=\"m\"} 0.0\n\
                       vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"m\"} 0.0\n";
/// Long enough that two pieces do not meet in one packet.
const PAUSE: Duration = Duration::from_millis(1);

/// Responds to every POST in the same way and to every GET with an idle engine's metrics, until the test's runtime ends.
#[derive(Debug)]
pub struct ScriptedPod {
    /// Where it listens.
    pub addr: SocketAddr,
}

impl ScriptedPod {
    /// `response` is a whole HTTP response, sent in pieces of that many bytes.
    pub async fn start(response: impl Into<Vec<u8>>, piece: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let response: Arc<Vec<u8>> = Arc::new(response.into());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, Arc::clone(&response), piece));
            }
        });
        Self { addr }
    }
}

async fn serve(mut socket: TcpStream, response: Arc<Vec<u8>>, piece: usize) -> Option<()> {
    socket.set_nodelay(true).ok()?;
    let mut received = Vec::new();
    loop {
        let head_end = loop {
            if let Some(at) = received.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if socket.read_buf(&mut received).await.ok()? == 0 {
                return None;
            }
        };
        let head = String::from_utf8_lossy(&received[..head_end]).to_ascii_lowercase();
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok()).unwrap_or(0_usize);
        while received.len() < head_end + length {
            if socket.read_buf(&mut received).await.ok()? == 0 {
                return None;
            }
        }
        received.drain(..head_end + length);
        if head.starts_with("get ") {
            let page = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{METRICS}",
                METRICS.len()
            );
            socket.write_all(page.as_bytes()).await.ok()?;
        } else {
            for bytes in response.chunks(piece) {
                socket.write_all(bytes).await.ok()?;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
