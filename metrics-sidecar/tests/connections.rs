//! Who holds connections without asking for anything: nobody else waits for them, and they end.
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test should stop at what it did not expect"
)]

mod stage;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics_sidecar::Running;
use stage::{Manner, Server, get, sidecar};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};

/// What a request may take at most while others hold connections.
const PROMPT: Duration = Duration::from_secs(3);
/// How long a client may take to ask, and what a busy machine takes more.
const ASKED_BY_NOW: Duration = Duration::from_secs(18);
const HALF: &[u8] = b"GET /metrics HTTP/1.1\r\nhost: test\r\nx: ";
const WHOLE: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A sidecar with a plain place for scrapers, or one with TLS.
async fn with_scrapers(tls: bool) -> (Running, Server) {
    let envoy = Server::start(&[("/stats/prometheus", Manner::Page("envoy_x 1\n".to_owned()))]).await;
    let admin = format!("http://{}", envoy.address);
    let (certificate, key) = (fixture("local-cert.pem"), fixture("local-key.pem"));
    let tls_flags =
        ["--metrics-tls-cert-file", certificate.to_str().unwrap(), "--metrics-tls-key-file", key.to_str().unwrap()];
    let flags = ["--metrics-listen", "127.0.0.1:0", "--envoy-admin", &admin, "--pool", "p=static:127.0.0.1:1"];
    let running = sidecar(&[flags.as_slice(), if tls { &tls_flags } else { &[] }].concat()).await;
    (running, envoy)
}

async fn secured(address: SocketAddr) -> TlsStream<TcpStream> {
    let mut roots = tokio_rustls::rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(fixture("local-cert.pem")).unwrap()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let builder = tokio_rustls::rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let connector = TlsConnector::from(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()));
    let stream = TcpStream::connect(address).await.unwrap();
    connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
}

async fn scraped_securely(address: SocketAddr) -> String {
    let mut stream = secured(address).await;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

/// Waits until the other end closes a connection; false: it did not within that time.
async fn ends(mut stream: impl AsyncRead + Unpin, patience: Duration) -> bool {
    let mut rest = Vec::new();
    tokio::time::timeout(patience, stream.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test]
async fn silent_clients_hold_up_nobodys_handshake() {
    let (running, _envoy) = with_scrapers(true).await;
    let address = running.metrics_addr().unwrap();
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    for _ in 0..3 {
        let began = Instant::now();
        assert!(scraped_securely(address).await.contains("envoy_x 1"));
        assert!(began.elapsed() < PROMPT, "{:?}", began.elapsed());
    }
    running.stop().await;
}

#[tokio::test]
async fn who_does_not_ask_is_sent_away_and_who_asks_again_is_not() {
    let (plain, _envoy) = with_scrapers(false).await;
    let (secure, _other) = with_scrapers(true).await;
    let (address, tls) = (plain.metrics_addr().unwrap(), secure.metrics_addr().unwrap());
    let silent = TcpStream::connect(address).await.unwrap();
    let silent_in_tls = TcpStream::connect(tls).await.unwrap();
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(HALF).await.unwrap();
    let greeted = secured(tls).await;
    let mut half_of_the_next = TcpStream::connect(address).await.unwrap();
    half_of_the_next.write_all(WHOLE).await.unwrap();
    half_of_the_next.read_exact(&mut [0; 12]).await.unwrap();
    half_of_the_next.write_all(HALF).await.unwrap();
    let mut dripping = TcpStream::connect(address).await.unwrap();
    let drip = async {
        dripping.write_all(HALF).await.unwrap();
        // Until it is refused.
        while dripping.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    let mut kept = TcpStream::connect(address).await.unwrap();
    let again = async {
        for _ in 0..2 {
            kept.write_all(WHOLE).await.unwrap();
            let mut status = [0; 12];
            kept.read_exact(&mut status).await.unwrap();
            assert_eq!(&status, b"HTTP/1.1 200");
            let mut rest = [0; 4096];
            assert!(kept.read(&mut rest).await.unwrap() > 0);
            tokio::time::sleep(Duration::from_secs(13)).await;
        }
    };
    let ended = async {
        tokio::join!(
            ends(silent, ASKED_BY_NOW),
            ends(silent_in_tls, ASKED_BY_NOW),
            ends(half, ASKED_BY_NOW),
            ends(greeted, ASKED_BY_NOW),
            ends(half_of_the_next, ASKED_BY_NOW),
            async { tokio::time::timeout(ASKED_BY_NOW, drip).await.is_ok() },
        )
    };
    let (ended, ()) = tokio::join!(ended, again);
    assert_eq!(ended, (true, true, true, true, true, true));
    plain.stop().await;
    secure.stop().await;
}

#[tokio::test]
async fn a_flood_of_half_requests_keeps_no_scraper_out_and_few_open() {
    const FLOOD: usize = 900;
    let (running, _envoy) = with_scrapers(false).await;
    let address = running.metrics_addr().unwrap();
    let mut flood = Vec::new();
    for _ in 0..FLOOD {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The one before it may be closed for it, and so may it.
        let _ = stream.write_all(HALF).await;
        flood.push(stream);
    }
    for address in [address, running.addr()] {
        let began = Instant::now();
        assert_eq!(get(address, "/metrics", "").await.status, 200);
        assert!(began.elapsed() < PROMPT, "{:?}", began.elapsed());
    }
    let ending = flood.into_iter().map(|stream| ends(stream, Duration::from_millis(500)));
    let ended = futures_util::future::join_all(ending).await.into_iter().filter(|ended| *ended).count();
    // Well before their time is over.
    assert!((FLOOD - 300..FLOOD).contains(&ended), "{ended} of {FLOOD} are closed");
    running.stop().await;
}

#[tokio::test]
async fn without_file_descriptors_the_oldest_idle_connection_goes_and_the_log_says_so_once() {
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -n 48; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_metrics-sidecar")])
        .args(["--listen", "127.0.0.1:0", "--pool", "p=static:127.0.0.1:1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
    let address: SocketAddr = line.trim().strip_prefix("listening on http://").unwrap().parse().unwrap();
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let began = Instant::now();
    assert_eq!(get(address, "/metrics?families=sidecar", "").await.status, 200);
    assert!(began.elapsed() < PROMPT, "{:?}", began.elapsed());
    child.kill().await.unwrap();
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).await.unwrap();
    assert_eq!(log.matches("connections cannot be accepted").count(), 1, "{log}");
}
