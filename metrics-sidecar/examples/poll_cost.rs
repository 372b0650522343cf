//! What polling costs in CPU, measured against pods in another process: `cargo run --release --example poll_cost [SECONDS]`.
//!
//! Prints nanoseconds on CPU (`/proc/self/task/*/schedstat`) for each scrape of a 74 KB page: the reading alone, one connection back to back with the
//! sidecar's own client and with hyper's, then whole sidecars at 4 and at 100 endpoints every 50 ms.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a measurement that cannot be set up should stop")]

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use metrics_sidecar::Sidecar;
use metrics_sidecar::flags::Flags;
use metrics_sidecar::scrape::{Buffers, Client, Peer};
use metrics_sidecar::signals::Signals;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PAGE: &[u8] = include_bytes!("../tests/fixtures/vllm-0.32-load.txt");
const WARM_UP: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(5);
const ENDPOINTS: usize = 100;

fn main() {
    let argument = std::env::args().nth(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if argument.as_deref() == Some("pods") {
        runtime.block_on(serve_pods());
        return;
    }
    let seconds = argument.and_then(|text| text.parse().ok()).unwrap_or(5);
    let length = Duration::from_secs(seconds);
    let pods = Pods::start();
    println!("page: {} bytes", PAGE.len());
    let first = *pods.addresses.first().unwrap();
    report("reading the page, no socket", read_only());
    for _ in 0..2 {
        report("own client, back to back", runtime.block_on(own_client(first, length)));
        report("hyper client, back to back", runtime.block_on(hyper_client(first, length)));
    }
    for count in [4, ENDPOINTS] {
        let addresses = pods.addresses.get(..count).unwrap();
        report(&format!("sidecar, {count} endpoints every 50 ms"), runtime.block_on(sidecar(addresses, length)));
    }
}

struct Measured {
    scrapes: u64,
    cpu: Duration,
    wall: Duration,
}

fn report(name: &str, measured: Measured) {
    let Measured { scrapes, cpu, wall } = measured;
    let each = cpu.as_secs_f64() * 1e6 / f64::from(u32::try_from(scrapes).unwrap());
    let core = cpu.as_secs_f64() / wall.as_secs_f64();
    println!(
        "{name:<36} {scrapes:>7} scrapes in {:>5.2} s  {each:>6.1} us CPU each  {core:.3} core",
        wall.as_secs_f64()
    );
}

/// Nanoseconds that this process has spent on CPUs, all threads together.
fn cpu() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let nanos = threads.map(|thread| {
        let text = std::fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0)
    });
    Duration::from_nanos(nanos.sum())
}

fn read_only() -> Measured {
    const READS: u64 = 50_000;
    let (began, before) = (Instant::now(), cpu());
    for _ in 0..READS {
        assert_eq!(Signals::read(std::hint::black_box(PAGE)).unwrap().waiting, Some(16));
    }
    Measured { scrapes: READS, cpu: cpu().checked_sub(before).unwrap(), wall: began.elapsed() }
}

async fn own_client(address: SocketAddr, length: Duration) -> Measured {
    let buffers = Buffers::default();
    let mut client = Client::new(Peer::Address(address), &address.to_string(), "/metrics", PAGE.len() * 2);
    let (began, before, mut scrapes) = (Instant::now(), cpu(), 0);
    while began.elapsed() < length {
        let signals = client.get(&buffers, TIMEOUT, Signals::read).await.unwrap().unwrap();
        assert_eq!(signals.waiting, Some(16));
        scrapes += 1;
    }
    Measured { scrapes, cpu: cpu().checked_sub(before).unwrap(), wall: began.elapsed() }
}

async fn hyper_client(address: SocketAddr, length: Duration) -> Measured {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut page = Vec::with_capacity(PAGE.len() * 2);
    let (began, before, mut scrapes) = (Instant::now(), cpu(), 0);
    while began.elapsed() < length {
        page.clear();
        let read = async {
            sender.ready().await.unwrap();
            let request = hyper::Request::get("/metrics").header("host", "pod").body(Empty::new()).unwrap();
            let mut body = sender.send_request(request).await.unwrap().into_body();
            while let Some(frame) = body.frame().await {
                if let Some(data) = frame.unwrap().data_ref() {
                    page.extend_from_slice(data);
                }
            }
        };
        tokio::time::timeout(TIMEOUT, read).await.unwrap();
        assert_eq!(Signals::read(&page).unwrap().waiting, Some(16));
        scrapes += 1;
    }
    let measured = Measured { scrapes, cpu: cpu().checked_sub(before).unwrap(), wall: began.elapsed() };
    connection.abort();
    measured
}

/// A whole sidecar on this thread. Its own page, asked for at both ends, says how many scrapes there were.
async fn sidecar(addresses: &[SocketAddr], length: Duration) -> Measured {
    let list = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let pool = format!("p=static:{list}");
    let flags =
        ["poll_cost", "--listen", "127.0.0.1:0", "--envoy-admin", "http://127.0.0.1:1", "--pool", pool.as_str()];
    let running = Sidecar::start(Flags::parse_from(flags).parse_all().unwrap()).await.unwrap();
    tokio::time::sleep(WARM_UP).await;
    let first = scrapes(running.addr()).await;
    let (began, before) = (Instant::now(), cpu());
    tokio::time::sleep(length).await;
    let (cpu, wall) = (cpu().checked_sub(before).unwrap(), began.elapsed());
    let scrapes = scrapes(running.addr()).await - first;
    running.stop().await;
    Measured { scrapes, cpu, wall }
}

async fn scrapes(sidecar: SocketAddr) -> u64 {
    let mut client = Client::new(Peer::Address(sidecar), "sidecar", "/metrics?families=sidecar", usize::MAX / 4);
    let page =
        client.get(&Buffers::default(), TIMEOUT, |page| String::from_utf8(page.to_vec()).unwrap()).await.unwrap();
    let successes = page
        .lines()
        .filter(|line| line.starts_with("inpick_sidecar_scrapes_total{") && line.contains("outcome=\"success\""));
    successes.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// Pods in a child process, so that their work is not counted.
struct Pods {
    child: Child,
    addresses: Vec<SocketAddr>,
}

impl Pods {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("pods")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, addresses: line.split_whitespace().map(|address| address.parse().unwrap()).collect() }
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn serve_pods() {
    // The parent's end of the pipe closes when it exits, however it does.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let head = format!(
        "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-length: {}\r\ncontent-type: text/plain\r\n\r\n",
        PAGE.len()
    );
    let response: &'static [u8] = Box::leak([head.as_bytes(), PAGE].concat().into_boxed_slice());
    let mut addresses = Vec::new();
    for _ in 0..ENDPOINTS {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.push(listener.local_addr().unwrap().to_string());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut request = [0; 1024];
                    // The client sends a request in one piece, so one read is one request.
                    while matches!(stream.read(&mut request).await, Ok(1..)) {
                        if stream.write_all(response).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
    }
    println!("{}", addresses.join(" "));
    std::future::pending::<()>().await;
}
