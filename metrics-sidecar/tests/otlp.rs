//! Pushes to an OpenTelemetry collector that is strict, slow, away or ill-tempered.
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test should stop at what it did not expect"
)]
#![cfg(feature = "otlp")]

#[path = "stage/collector.rs"]
mod collector;
mod stage;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use collector::{Answering, Arrival, Collector, Point};
use metrics_sidecar::Running;
use stage::{Manner, Server, envoy, get, page, sidecar, until_text};
use tempfile::NamedTempFile;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tracing::subscriber::DefaultGuard;

const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/local-cert.pem");
const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/local-key.pem");
const PUSHES: &str = "inpick_sidecar_otlp_pushes_total";
const POINTS: &str = "inpick_sidecar_otlp_lost_points_total";

async fn envoy_with(page: String) -> Server {
    Server::start(&[("/stats/prometheus", Manner::Page(page))]).await
}

/// A sidecar with a pod and these flags beside an Envoy.
async fn pushing(envoy: &Server, endpoint: &str, flags: &[&str]) -> (Running, Server) {
    let pod = Server::pod(&page(1, 2, 0.5)).await;
    let (pool, admin) = (format!("p=static:{}", pod.address), format!("http://{}", envoy.address));
    let base = ["--pool", &pool, "--envoy-admin", &admin, "--otlp-endpoint", endpoint];
    (sidecar(&[&base[..], flags].concat()).await, pod)
}

/// The value of a counter of the sidecar's.
async fn count(running: &Running, name: &str, label: &str) -> f64 {
    let text = get(running.addr(), "/metrics?families=sidecar", "").await.text();
    let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")) && line.contains(label));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("{name} {label} is not in\n{text}"))
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn point<'a>(arrival: &'a Arrival, name: &str, pairs: &[(&str, &str)]) -> Option<&'a (u64, Point)> {
    arrival.points.get(&(name.to_owned(), labels(pairs)))
}

#[tokio::test]
async fn a_collector_gets_what_the_page_says_again_and_again() {
    let collector = Collector::start().await;
    let envoy = envoy_with(format!(
        "{}# TYPE envoy_server_uptime gauge\nenvoy_server_uptime{{}} 1000\n",
        envoy::tagged_page(2)
    ))
    .await;
    let (running, pod) = pushing(&envoy, &collector.url(), &["--otlp-interval", "150ms"]).await;
    let arrivals = collector.arrived(3).await;
    let first = &arrivals[0];
    assert_eq!((first.path.as_str(), first.headers.get("content-encoding")), ("/v1/metrics", None));
    assert_eq!(first.resource["service.name"], "inpick");
    assert_eq!(point(first, "inpick_sidecar_envoy_up", &[]), Some(&(0, Point::Gauge(1.0))));

    let prompt = "inference_objective_prompt_cached_tokens";
    let model = "meta-llama/Llama-3.1-1B-Instruct";
    let pairs = [("model_name", model), ("target_model_name", model)];
    let (start, Point::Histogram { count: samples, bounds, buckets, .. }) = point(first, prompt, &pairs).unwrap()
    else {
        panic!("{prompt} is no histogram")
    };
    assert_eq!(*samples, 1000 * bounds.len() as u64);
    assert!(buckets[0] == 0 && buckets[1..].iter().all(|count| *count == 1000));
    let up_for = Duration::from_nanos(first.time_ns - start);
    assert_eq!(up_for, Duration::from_secs(1000), "it counts since Envoy began");
    let scrapes = [("endpoint", pod.address.to_string()), ("outcome", "success".into()), ("pool", "p".into())];
    let scrapes = scrapes.each_ref().map(|(name, value)| (*name, value.as_str()));
    for arrival in &arrivals {
        let (own, Point::Sum(count)) = point(arrival, "inpick_sidecar_scrapes_total", &scrapes).unwrap() else {
            panic!()
        };
        assert!(arrival.time_ns - own < 60_000_000_000 && *count >= 1.0, "it counts since the sidecar began");
    }
    until_text(&running, "/metrics?families=sidecar", |text| {
        text.contains(&format!("{PUSHES}{{outcome=\"success\"}} 3"))
    })
    .await;
    assert_eq!(count(&running, POINTS, "not_sent").await, 0.0);
    running.stop().await;
}

#[tokio::test]
async fn what_a_collector_puts_off_is_sent_again_when_it_says_and_only_then() {
    let collector = Collector::start().await;
    collector.answer(&[
        Answering::Status(503, &[], "restarting"),
        Answering::Status(429, &[("retry-after", "2")], "slowly"),
        Answering::Status(502, &[], ""),
    ]);
    let envoy = envoy_with(String::new()).await;
    let (running, _pod) = pushing(&envoy, &collector.url(), &["--otlp-interval", "60s", "--otlp-timeout", "1s"]).await;
    // The first push is that of the end: nothing is due within a minute.
    running.stop().await;
    assert_eq!(collector.arrivals().len(), 1, "the last push is not tried again");

    let (running, _pod) = pushing(&envoy, &collector.url(), &["--otlp-interval", "5s"]).await;
    let arrivals = collector.until(|arrivals| arrivals.len() >= 4).await;
    let pauses: Vec<Duration> = arrivals[1..].windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    assert!(pauses[0] >= Duration::from_secs(2) && pauses[0] < Duration::from_secs(4), "{pauses:?}");
    assert!(pauses[1] >= Duration::from_millis(900) && pauses[1] < Duration::from_secs(4), "{pauses:?}");
    assert!(arrivals[1..].iter().all(|arrival| arrival.time_ns == arrivals[1].time_ns), "it is the same batch");
    until_text(&running, "/metrics?families=sidecar", |text| {
        text.contains(&format!("{PUSHES}{{outcome=\"success\"}} 1"))
    })
    .await;
    assert_eq!(count(&running, PUSHES, "unavailable").await, 2.0);
    running.stop().await;
}

#[tokio::test]
async fn what_a_collector_refuses_is_not_sent_again_and_what_it_takes_in_part_is_counted() {
    let collector = Collector::start().await;
    collector.answer(&[
        Answering::Status(400, &[], "no"),
        Answering::Partial(3, "three are too old"),
        Answering::Partial(0, "mind"),
    ]);
    let envoy = envoy_with(String::new()).await;
    let (running, _pod) = pushing(&envoy, &collector.url(), &["--otlp-interval", "300ms"]).await;
    let arrivals = collector.arrived(4).await;
    assert!(arrivals.windows(2).all(|pair| pair[0].time_ns < pair[1].time_ns), "each is newer");
    let refused = arrivals[0].points.len() as f64;
    until_text(&running, "/metrics?families=sidecar", |text| {
        text.contains(&format!("{PUSHES}{{outcome=\"success\"}} 2"))
    })
    .await;
    let counts = [count(&running, PUSHES, "refused").await, count(&running, PUSHES, "partial").await];
    assert_eq!((counts, count(&running, POINTS, "rejected").await), ([1.0, 1.0], refused + 3.0));
    running.stop().await;
}

/// What this thread logs, and so the tasks of its runtime.
fn logging() -> (NamedTempFile, DefaultGuard) {
    let log = NamedTempFile::new().unwrap();
    let subscriber = tracing_subscriber::fmt().with_writer(Arc::new(log.reopen().unwrap())).with_ansi(false).finish();
    (log, tracing::subscriber::set_default(subscriber))
}

fn told(log: &NamedTempFile, about: &str) -> Vec<String> {
    let log = std::fs::read_to_string(log.path()).unwrap();
    log.lines().filter(|line| line.contains(about)).map(str::to_owned).collect()
}

#[tokio::test]
async fn the_log_tells_what_changed_and_not_each_failure() {
    let (log, _guard) = logging();
    let collector = Collector::start().await;
    let (away, no) = (Answering::Status(503, &[], "later"), Answering::Status(400, &[], "not so"));
    let part = Answering::Partial(1, "too old");
    let answers = [away.clone(), away, Answering::Taken, Answering::Taken, no.clone(), no, part.clone(), part];
    collector.answer(&answers);
    let envoy = envoy_with(String::new()).await;
    let (running, _pod) = pushing(&envoy, &collector.url(), &["--otlp-interval", "150ms"]).await;
    collector.arrived(answers.len() + 3).await;
    running.stop().await;
    let told = told(&log, "OpenTelemetry collector");
    let expected = [
        ("WARN", "metrics do not reach", "status 503: later"),
        ("INFO", "metrics reach", ""),
        ("WARN", "refuses metrics", "status 400: not so"),
        ("WARN", "takes metrics in part", "too old"),
        ("INFO", "metrics reach", ""),
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (line, (level, what, problem)) in told.iter().zip(expected) {
        assert!(line.contains(level) && line.contains(what) && line.contains(problem), "{line}");
    }
}

#[tokio::test]
async fn while_envoy_is_away_the_sidecar_tells_of_itself() {
    let (log, _guard) = logging();
    let collector = Collector::start().await;
    let envoy = Server::start(&[]).await;
    let (running, _pod) = pushing(&envoy, &collector.url(), &["--otlp-interval", "150ms"]).await;
    let away = collector.arrived(2).await;
    assert_eq!(point(&away[0], "inpick_sidecar_envoy_up", &[]), Some(&(0, Point::Gauge(0.0))));
    assert!(point(&away[0], "inference_pool_ready_pods", &[("name", "p")]).is_some());
    let page =
        |uptime: u64, starts: u64| format!("envoy_server_uptime{{}} {uptime}\ninpick_vm_starts_total {starts}\n");
    envoy.set("/stats/prometheus", Manner::Page(page(100, 7)));
    let starts = |arrivals: &[Arrival]| -> Vec<(u64, Point)> {
        arrivals.iter().filter_map(|arrival| point(arrival, "inpick_vm_starts_total", &[]).cloned()).collect()
    };
    collector.until(|arrivals| !starts(arrivals).is_empty()).await;
    envoy.set("/stats/prometheus", Manner::Page(page(0, 9)));
    let arrivals =
        collector.until(|arrivals| starts(arrivals).iter().any(|(_, point)| *point == Point::Sum(9.0))).await;
    let seen = starts(&arrivals);
    let (before, after) = (seen[0].0, seen[seen.len() - 1].0);
    assert!(after - before > 90_000_000_000, "Envoy began anew, though the counter is larger than it was");
    running.stop().await;
    let told = told(&log, "pushed");
    let [_, without, again] = told.as_slice() else { panic!("{told:#?}") };
    assert!(
        without.contains("WARN") && without.contains("only the sidecar's own") && without.contains("status 404"),
        "{without}"
    );
    assert!(again.contains("the whole page is pushed again"), "{again}");
}

#[tokio::test]
async fn the_last_figures_are_pushed_at_the_end_and_a_silent_collector_does_not_hold_it() {
    let collector = Collector::start().await;
    let envoy = envoy_with("inpick_vm_starts_total 7\n".to_owned()).await;
    let (running, _pod) = pushing(&envoy, &collector.url(), &[]).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(collector.arrivals().is_empty(), "the first is due after a minute");
    running.stop().await;
    let arrivals = collector.arrived(1).await;
    assert!(matches!(point(&arrivals[0], "inpick_vm_starts_total", &[]), Some((_, Point::Sum(7.0)))));

    collector.answer_always(Answering::Silent);
    let (running, _pod) = pushing(&envoy, &collector.url(), &["--otlp-timeout", "700ms"]).await;
    let began = Instant::now();
    running.stop().await;
    assert!((700..3000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_silent_collector_or_none_is_a_failure_and_the_page_stays() {
    let collector = Collector::start().await;
    collector.answer_always(Answering::Silent);
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let envoy = envoy_with("inpick_vm_starts_total 7\n".to_owned()).await;
    for endpoint in [collector.url(), format!("http://{nobody}")] {
        let (running, _pod) =
            pushing(&envoy, &endpoint, &["--otlp-interval", "100ms", "--otlp-timeout", "200ms"]).await;
        until_text(&running, "/metrics", |text| text.contains(&format!("{PUSHES}{{outcome=\"unavailable\"}} 2"))).await;
        assert!(get(running.addr(), "/metrics", "").await.text().contains("\ninpick_vm_starts_total 7\n"));
        running.stop().await;
    }
}

/// A place that speaks TLS and passes on what comes.
async fn behind_tls(to: std::net::SocketAddr) -> std::net::SocketAddr {
    let certificates = CertificateDer::pem_file_iter(CERTIFICATE).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(KEY).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let acceptor =
        TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_single_cert(certificates, key).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut inner = TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut inner).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn requests_are_compressed_and_go_over_tls_to_whom_the_given_certificates_trust() {
    let collector = Collector::start().await;
    let address = behind_tls(collector.address).await;
    let url = format!("https://{address}/tenant/");
    let envoy = envoy_with(envoy::tagged_page(3)).await;
    let flags = ["--otlp-interval", "100ms", "--otlp-compression", "gzip", "--otlp-ca-file", CERTIFICATE];
    let (running, _pod) = pushing(&envoy, &url, &flags).await;
    let arrivals = collector.arrived(1).await;
    assert_eq!(
        (arrivals[0].path.as_str(), &arrivals[0].headers["content-encoding"]),
        ("/tenant/v1/metrics", &"gzip".parse().unwrap())
    );
    let (sent, decoded) = arrivals[0].bytes;
    assert!(sent * 5 < decoded, "{sent} of {decoded} bytes");
    running.stop().await;

    let before = collector.arrivals().len();
    let other = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/pod-cert.pem");
    let flags = ["--otlp-interval", "100ms", "--otlp-timeout", "2s", "--otlp-ca-file", other];
    let (running, _pod) = pushing(&envoy, &url, &flags).await;
    until_text(&running, "/metrics?families=sidecar", |text| {
        text.contains(&format!("{PUSHES}{{outcome=\"unavailable\"}} 1"))
    })
    .await;
    running.stop().await;
    assert_eq!(collector.arrivals().len(), before, "nobody else gets anything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_page_goes_in_requests_that_a_collector_takes() {
    let collector = Collector::start().await;
    let envoy = envoy_with(envoy::tagged_page(300)).await;
    let (running, _pod) =
        pushing(&envoy, &collector.url(), &["--otlp-interval", "500ms", "--otlp-timeout", "60s"]).await;
    let is_whole = |arrivals: &[Arrival]| {
        let first = arrivals.first().map(|arrival| arrival.time_ns);
        arrivals.iter().any(|arrival| Some(arrival.time_ns) > first)
    };
    let arrivals = collector.until(is_whole).await;
    let first: Vec<&Arrival> = arrivals.iter().filter(|arrival| arrival.time_ns == arrivals[0].time_ns).collect();
    let bytes: usize = first.iter().map(|arrival| arrival.bytes.1).sum();
    // What is in two requests of a reading, the collector has found fault with.
    let points: usize = first.iter().map(|arrival| arrival.points.len()).sum();
    assert!(points > 15_000, "{points}");
    assert!(first.len() > 1 && bytes > 4 * 1024 * 1024);
    assert!(first[0].bytes.1 > 3 * 1024 * 1024, "requests are filled");
    running.stop().await;
}
