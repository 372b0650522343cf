//! A bare connection, for clients that leave, send nonsense or stop half way.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::gateway::DEADLINE;

/// One TCP connection. Dropping it closes it.
#[derive(Debug)]
pub struct Wire {
    socket: TcpStream,
    received: Vec<u8>,
}

impl Wire {
    /// Connects.
    pub async fn open(to: SocketAddr) -> Self {
        Self { socket: TcpStream::connect(to).await.unwrap(), received: Vec::new() }
    }

    /// Connects and POSTs JSON.
    pub async fn post(to: SocketAddr, path: &str, body: &str) -> Self {
        let mut wire = Self::open(to).await;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        wire.write(head.as_bytes()).await;
        wire.write(body.as_bytes()).await;
        wire
    }

    /// Sends bytes.
    pub async fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// Sends bytes until all are sent or the other side takes no more.
    pub async fn write_while_taken(&mut self, bytes: &[u8]) {
        let (mut reader, mut writer) = self.socket.split();
        // What is sent back meanwhile must be read, or neither side gets on.
        let mut response = Vec::new();
        let reading = async { while reader.read_buf(&mut response).await.unwrap_or(0) > 0 {} };
        tokio::select! {
            _ = writer.write_all(bytes) => {}
            () = reading => {}
            () = tokio::time::sleep(DEADLINE) => panic!("the other side neither takes nor refuses"),
        }
        self.received.append(&mut response);
    }

    /// Reads until `text` has come, and returns all that came.
    pub async fn read_until(&mut self, text: &str) -> String {
        tokio::time::timeout(DEADLINE, async {
            loop {
                let so_far = String::from_utf8_lossy(&self.received).into_owned();
                if so_far.contains(text) {
                    return so_far;
                }
                if self.socket.read_buf(&mut self.received).await.unwrap_or(0) == 0 {
                    panic!("the connection ended before {text:?}: {so_far}");
                }
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{text:?} did not come: {}", String::from_utf8_lossy(&self.received)))
    }

    /// Reads until the other side closes or resets, and returns all that came.
    pub async fn read_to_end(mut self) -> String {
        let reading = async { while self.socket.read_buf(&mut self.received).await.unwrap_or(0) > 0 {} };
        assert!(tokio::time::timeout(DEADLINE, reading).await.is_ok(), "the connection stays open");
        String::from_utf8_lossy(&self.received).into_owned()
    }
}
