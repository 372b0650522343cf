//! A client that shows what came over the socket, and how it ended.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How the other side ended a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    Closed,
    Reset,
    StillOpen,
}

/// One response, and how its connection ended.
#[derive(Debug)]
pub struct Seen {
    pub raw: Vec<u8>,
    pub end: End,
}

impl Seen {
    pub fn head(&self) -> String {
        let end = find(&self.raw, b"\r\n\r\n").unwrap_or(self.raw.len());
        String::from_utf8_lossy(&self.raw[..end]).into_owned()
    }

    pub fn status(&self) -> u16 {
        self.head().split(' ').nth(1).map_or(0, |code| code.parse().unwrap())
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.head().lines().skip(1).find_map(|line| {
            let (known, value) = line.split_once(": ")?;
            known.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    }

    fn after_head(&self) -> &[u8] {
        find(&self.raw, b"\r\n\r\n").map_or(&[], |end| &self.raw[end + 4..])
    }

    /// The pieces of a chunked body, and whether the closing one came.
    pub fn chunks(&self) -> (Vec<String>, bool) {
        let mut rest = self.after_head();
        let mut chunks = Vec::new();
        while let Some(line) = find(rest, b"\r\n") {
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
            if size == 0 {
                return (chunks, true);
            }
            let start = line + 2;
            if rest.len() < start + size + 2 {
                break;
            }
            chunks.push(String::from_utf8_lossy(&rest[start..start + size]).into_owned());
            rest = &rest[start + size + 2..];
        }
        (chunks, false)
    }

    pub fn body(&self) -> String {
        if self.header("transfer-encoding").is_some() {
            return self.chunks().0.concat();
        }
        String::from_utf8_lossy(self.after_head()).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body()).unwrap_or_else(|error| panic!("{error}: {}", self.body()))
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

pub fn post_head(path: &str, body: &[u8], more: &str) -> Vec<u8> {
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nhost: pod\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n{more}\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

pub async fn send(addr: SocketAddr, request: &[u8], patience: Duration) -> Seen {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request).await.unwrap();
    read(&mut stream, patience).await
}

/// Reads until the other side ends, or nothing has come for `patience`.
pub async fn read(stream: &mut TcpStream, patience: Duration) -> Seen {
    let mut raw = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let end = loop {
        match tokio::time::timeout(patience, stream.read(&mut buffer)).await {
            Err(_) => break End::StillOpen,
            Ok(Ok(0)) => break End::Closed,
            Ok(Ok(size)) => raw.extend_from_slice(&buffer[..size]),
            Ok(Err(error)) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                break End::Reset;
            }
        }
    };
    Seen { raw, end }
}

/// Longer than anything takes that answers at all.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough to say that nothing will come.
pub const SILENCE: Duration = Duration::from_millis(300);

pub async fn post(addr: SocketAddr, path: &str, body: &str) -> Seen {
    send(addr, &post_head(path, body.as_bytes(), ""), PATIENCE).await
}

pub async fn get(addr: SocketAddr, path: &str) -> Seen {
    let request = format!("GET {path} HTTP/1.1\r\nhost: pod\r\nconnection: close\r\n\r\n");
    send(addr, request.as_bytes(), PATIENCE).await
}
