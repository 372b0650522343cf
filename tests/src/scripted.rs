//! A pod that responds with bytes that a test wrote, in the pieces that it wants, and notes when what of each request came.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// An idle engine, as far as the sidecar asks.
const METRICS: &str = "vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 0.0\n\
                       vllm:num_requests_waiting{engine=\"0\",model_name=\"m\"} 0.0\n\
                       vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"m\"} 0.0\n";
/// Long enough that two pieces do not meet in one packet.
const PAUSE: Duration = Duration::from_millis(1);

/// Responds to every POST with what it was told last and to every GET with an idle engine's metrics, until the test's runtime ends.
#[derive(Debug)]
pub struct ScriptedPod {
    /// Where it listens.
    pub addr: SocketAddr,
    response: Arc<Mutex<Arc<Response>>>,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
}

/// A whole HTTP response, and how many bytes of it are sent at a time.
#[derive(Debug)]
struct Response {
    bytes: Vec<u8>,
    piece: usize,
}

/// A POST that came.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// When the first byte of its body was there.
    pub began: Instant,
    /// When the last one was; `None`: it is not.
    pub whole: Option<Instant>,
    /// Its head, in lower case.
    pub head: String,
    /// Its body, as far as it came.
    pub body: Vec<u8>,
}

/// When a POST is answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Patience {
    /// When it is whole.
    Whole,
    /// With the first byte of its body; what still comes is read and thrown away.
    None,
}

impl ScriptedPod {
    /// `response` is a whole HTTP response, sent in pieces of that many bytes.
    pub async fn start(response: impl Into<Vec<u8>>, piece: usize) -> Self {
        Self::with(response.into(), piece, Patience::Whole).await
    }

    /// One that does not wait for a request's body: it responds with the first byte of it.
    pub async fn impatient(response: impl Into<Vec<u8>>) -> Self {
        Self::with(response.into(), usize::MAX, Patience::None).await
    }

    async fn with(response: Vec<u8>, piece: usize, patience: Patience) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let response = Arc::new(Mutex::new(Arc::new(Response { bytes: response, piece })));
        let arrivals = Arc::<Mutex<Vec<Arrival>>>::default();
        let (noted, current) = (Arc::clone(&arrivals), Arc::clone(&response));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (response, arrivals) = (Arc::clone(&current), Arc::clone(&noted));
                let connection = Connection { socket, received: Vec::new(), response, arrivals };
                tokio::spawn(connection.serve(patience));
            }
        });
        Self { addr, response, arrivals }
    }

    /// From the next POST on it responds with this.
    ///
    /// # Panics
    ///
    /// When the pod itself did.
    pub fn respond_with(&self, response: impl Into<Vec<u8>>, piece: usize) {
        *self.response.lock().unwrap() = Arc::new(Response { bytes: response.into(), piece });
    }

    /// The POSTs that came so far.
    ///
    /// # Panics
    ///
    /// When the pod itself did.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().unwrap().clone()
    }
}

/// What is left to come of a request's body.
enum Left {
    Bytes(usize),
    Chunks,
}

struct Connection {
    socket: TcpStream,
    received: Vec<u8>,
    response: Arc<Mutex<Arc<Response>>>,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
}

impl Connection {
    async fn more(&mut self) -> Option<()> {
        (self.socket.read_buf(&mut self.received).await.ok()? > 0).then_some(())
    }

    async fn serve(mut self, patience: Patience) -> Option<()> {
        self.socket.set_nodelay(true).ok()?;
        loop {
            let head_end = loop {
                if let Some(at) = self.received.windows(4).position(|window| window == b"\r\n\r\n") {
                    break at + 4;
                }
                self.more().await?;
            };
            let head = String::from_utf8_lossy(&self.received[..head_end]).to_ascii_lowercase();
            self.received.drain(..head_end);
            if head.starts_with("get ") {
                let page = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{METRICS}",
                    METRICS.len()
                );
                self.socket.write_all(page.as_bytes()).await.ok()?;
                continue;
            }
            let response = Arc::clone(&self.response.lock().unwrap());
            if patience == Patience::None {
                self.socket.write_all(&response.bytes).await.ok()?;
            }
            self.take_body(head).await?;
            if patience == Patience::Whole {
                for bytes in response.bytes.chunks(response.piece) {
                    self.socket.write_all(bytes).await.ok()?;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Takes a body and notes how it comes.
    async fn take_body(&mut self, head: String) -> Option<()> {
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        let is_chunked = head.lines().any(|line| line.starts_with("transfer-encoding:") && line.contains("chunked"));
        let mut left = if is_chunked { Left::Chunks } else { Left::Bytes(length.unwrap_or(0)) };
        let mut place = None;
        loop {
            let (body, is_end) = match &mut left {
                Left::Bytes(count) => {
                    let body: Vec<u8> = self.received.drain(..self.received.len().min(*count)).collect();
                    *count -= body.len();
                    (body, *count == 0)
                }
                Left::Chunks => self.chunks(),
            };
            self.note(&mut place, &head, &body, is_end);
            if is_end {
                return Some(());
            }
            self.more().await?;
        }
    }

    /// More of a body came; `place`: of the request among those that came, once it is one.
    fn note(&self, place: &mut Option<usize>, head: &str, body: &[u8], is_end: bool) {
        let mut arrivals = self.arrivals.lock().unwrap();
        if place.is_none() && (is_end || !body.is_empty()) {
            arrivals.push(Arrival { began: Instant::now(), whole: None, head: head.to_owned(), body: Vec::new() });
            *place = Some(arrivals.len() - 1);
        }
        if let Some(arrival) = place.and_then(|place| arrivals.get_mut(place)) {
            arrival.body.extend_from_slice(body);
            arrival.whole = is_end.then(Instant::now);
        }
    }

    /// The whole chunks that came, and whether the last one is among them.
    fn chunks(&mut self) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        loop {
            let Some(line) = self.received.windows(2).position(|window| window == b"\r\n") else {
                return (body, false);
            };
            let size = std::str::from_utf8(&self.received[..line]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            let Some(chunk) = self.received.get(line + 2..line + 2 + size + 2) else { return (body, false) };
            body.extend_from_slice(&chunk[..size]);
            self.received.drain(..line + 2 + size + 2);
            if size == 0 {
                return (body, true);
            }
        }
    }
}
