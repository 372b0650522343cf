//! Fake pods, a fake Envoy admin endpoint and a plain HTTP client.

pub mod api_server;
pub mod cluster;
pub mod envoy;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use metrics_sidecar::flags::Flags;
use metrics_sidecar::{Running, Sidecar};
use snapshot::{AdapterUse, EndpointIdentity, Load, Snapshot};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it waits for one response, which may hold tens of megabytes on a machine that is busy.
const LONG_PATIENCE: Duration = Duration::from_secs(60);

/// How a fake server answers.
#[derive(Clone)]
pub enum Manner {
    Page(String),
    Chunked(String),
    /// Closes the connection after each answer.
    Once(String),
    /// Announces the whole body and sends half.
    Half(String),
    /// One byte of body every 20 ms.
    Drip(String),
    /// Reads and never answers.
    Silent,
    Status(u16),
    /// Redirects to this location.
    Redirect(String),
    /// Responds with this page after a pause.
    Slow(Duration, String),
    /// Responds only to requests that hold this text, else with 401.
    Secret(String, String),
}

/// A server on a port of its own; every path has its own manner.
pub struct Server {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    pub requests: Arc<AtomicUsize>,
    manners: Arc<Mutex<Vec<(&'static str, Manner)>>>,
    task: JoinHandle<()>,
}

impl Server {
    pub async fn start(manners: &[(&'static str, Manner)]) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), manners).await
    }

    pub async fn start_at(address: SocketAddr, manners: &[(&'static str, Manner)]) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let manners = Arc::new(Mutex::new(manners.to_vec()));
        let connections = Arc::new(AtomicUsize::new(0));
        let requests = Arc::new(AtomicUsize::new(0));
        let request_counter = Arc::clone(&requests);
        let (shared, counter) = (Arc::clone(&manners), Arc::clone(&connections));
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counter.fetch_add(1, Ordering::Relaxed);
                open.spawn(converse(stream, Arc::clone(&shared), Arc::clone(&request_counter)));
            }
        });
        Self { address, connections, requests, manners, task }
    }

    pub async fn pod(page: &str) -> Self {
        Self::start(&[("/metrics", Manner::Page(page.to_owned()))]).await
    }

    pub fn set(&self, path: &'static str, manner: Manner) {
        let mut manners = self.manners.lock().unwrap();
        manners.retain(|(known, _)| *known != path);
        manners.push((path, manner));
    }

    pub async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

async fn converse(mut stream: TcpStream, manners: Arc<Mutex<Vec<(&'static str, Manner)>>>, requests: Arc<AtomicUsize>) {
    let mut request = vec![0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut request).await {
        requests.fetch_add(1, Ordering::Relaxed);
        let text = String::from_utf8_lossy(&request[..length]).into_owned();
        let path = text.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default();
        let manner = manners.lock().unwrap().iter().find(|(known, _)| *known == path).map(|(_, manner)| manner.clone());
        let head = |length: usize| format!("HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-length: {length}\r\n\r\n");
        let sent = match manner.unwrap_or(Manner::Status(404)) {
            Manner::Page(page) => stream.write_all(format!("{}{page}", head(page.len())).as_bytes()).await,
            Manner::Chunked(page) => {
                let chunks: String = page
                    .as_bytes()
                    .chunks(100)
                    .map(|chunk| format!("{:x}\r\n{}\r\n", chunk.len(), String::from_utf8_lossy(chunk)))
                    .collect();
                let answer = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await
            }
            Manner::Once(page) => {
                let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{page}");
                let _ = stream.write_all(answer.as_bytes()).await;
                return;
            }
            Manner::Half(page) => {
                let half = &page.as_bytes()[..page.len() / 2];
                let _ = stream.write_all(head(page.len()).as_bytes()).await;
                let _ = stream.write_all(half).await;
                return;
            }
            Manner::Drip(page) => {
                let _ = stream.write_all(head(page.len()).as_bytes()).await;
                for byte in page.into_bytes() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    if stream.write_all(&[byte]).await.is_err() {
                        return;
                    }
                }
                Ok(())
            }
            Manner::Redirect(location) => {
                let head =
                    format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(head.as_bytes()).await
            }
            Manner::Slow(pause, page) => {
                tokio::time::sleep(pause).await;
                stream.write_all(format!("{}{page}", head(page.len())).as_bytes()).await
            }
            Manner::Secret(secret, page) if text.contains(&secret) => {
                stream.write_all(format!("{}{page}", head(page.len())).as_bytes()).await
            }
            Manner::Secret(..) => stream.write_all(b"HTTP/1.1 401 X\r\ncontent-length: 0\r\n\r\n").await,
            Manner::Silent => {
                std::future::pending::<()>().await;
                Ok(())
            }
            Manner::Status(code) => {
                stream.write_all(format!("HTTP/1.1 {code} X\r\ncontent-length: 0\r\n\r\n").as_bytes()).await
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// A page with these figures.
pub fn page(waiting: u32, running: u32, usage: f64) -> String {
    format!(
        "# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{{engine=\"0\"}} {waiting}.0\nvllm:num_requests_running{{engine=\"0\"}} {running}.0\nvllm:kv_cache_usage_perc{{engine=\"0\"}} {usage}\n"
    )
}

/// A sidecar with these flags, in this process.
pub async fn sidecar(flags: &[&str]) -> Running {
    let base = ["test", "--listen", "127.0.0.1:0", "--poll-interval", "20ms", "--discovery-interval", "50ms"];
    let flags = Flags::try_parse_from(base.iter().chain(flags)).unwrap();
    Sidecar::start(flags.parse_all().unwrap()).await.unwrap()
}

pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.head.lines().find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }
}

pub async fn get(address: SocketAddr, path: &str, headers: &str) -> Reply {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(LONG_PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head, body: answer[end + 4..].to_vec() }
}

pub async fn snapshot(sidecar: &Running) -> Snapshot {
    let reply = get(sidecar.addr(), "/snapshot", "").await;
    assert_eq!((reply.status, reply.header("content-type").as_deref()), (200, Some(snapshot::CONTENT_TYPE)));
    Snapshot::decode(&reply.body).unwrap()
}

/// An endpoint of a snapshot.
#[derive(Clone, Debug)]
pub struct Seen {
    pub identity: EndpointIdentity,
    pub load: Load,
    pub running_adapters: Vec<String>,
}

impl std::ops::Deref for Seen {
    type Target = Load;

    fn deref(&self) -> &Load {
        &self.load
    }
}

pub async fn endpoint(sidecar: &Running, address: SocketAddr) -> Option<Seen> {
    let Snapshot { membership, loads } = snapshot(sidecar).await;
    let membership = membership.unwrap();
    let endpoints = membership.pools.iter().flat_map(|pool| pool.endpoints.iter().map(move |one| (pool, one)));
    let (at, (pool, identity)) = endpoints.enumerate().find(|(_, (_, identity))| identity.address == address)?;
    let is_running = |used: &&AdapterUse| used.endpoint as usize == at && !used.waiting;
    let running = loads.adapters.iter().filter(is_running).map(|used| pool.adapters[used.adapter as usize].clone());
    Some(Seen { identity: identity.clone(), load: loads.endpoints[at], running_adapters: running.collect() })
}

/// Waits until an endpoint is as wanted.
pub async fn until(sidecar: &Running, address: SocketAddr, wanted: impl Fn(&Seen) -> bool) -> Seen {
    let began = std::time::Instant::now();
    loop {
        let seen = endpoint(sidecar, address).await;
        if let Some(endpoint) = seen.as_ref().filter(|endpoint| wanted(endpoint)) {
            return endpoint.clone();
        }
        assert!(began.elapsed() < PATIENCE, "{address} is still {seen:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until the text at a path is as wanted.
pub async fn until_text(sidecar: &Running, path: &str, wanted: impl Fn(&str) -> bool) -> String {
    let began = std::time::Instant::now();
    loop {
        let text = get(sidecar.addr(), path, "").await.text();
        if wanted(&text) {
            return text;
        }
        assert!(began.elapsed() < PATIENCE, "{path} still says\n{text}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
