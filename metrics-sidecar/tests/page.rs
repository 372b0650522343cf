//! The page as it is sent: formats, compression, and what it takes of memory.
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

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use metrics_sidecar::contents::ContentsReader;
use metrics_sidecar::format::Format;
use metrics_sidecar::page::{Printer, Selection};
use stage::envoy::{tagged_page, untagged_page};
use stage::{Manner, Server, get, sidecar};

const PATH: &str = "/stats/prometheus";

/// Lines of a page but for what the requests themselves change, and for families that are there once the sidecar has read a pod.
fn steady(page: &str) -> Vec<&str> {
    let is_own = |line: &str| {
        let name = line.trim_start_matches("# HELP ").trim_start_matches("# TYPE ");
        name.starts_with("inpick_sidecar_")
    };
    page.lines().filter(|line| !is_own(line)).collect()
}

/// The bytes of a body that is sent in chunks, and whether its end came.
fn dechunked(mut body: &[u8]) -> (Vec<u8>, bool) {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|pair| pair == b"\r\n") {
        let size = usize::from_str_radix(str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return (whole, true);
        }
        whole.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 2 + size + 2..];
    }
    (whole, false)
}

fn body_of(reply: &stage::Reply) -> Vec<u8> {
    match reply.header("transfer-encoding") {
        None => reply.body.clone(),
        Some(_) => {
            let (body, is_whole) = dechunked(&reply.body);
            assert!(is_whole, "the page broke off");
            body
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_the_same_in_every_encoding_and_comes_in_the_format_that_is_asked_for() {
    let envoy = Server::start(&[(PATH, Manner::Page(tagged_page(20)))]).await;
    let admin = format!("http://{}", envoy.address);
    let running = sidecar(&["--envoy-admin", &admin, "--pool", "p=static:127.0.0.1:1"]).await;
    let plain = get(running.addr(), "/metrics", "").await;
    assert_eq!(plain.header("content-type").as_deref(), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(plain.header("content-encoding"), None);
    assert_eq!(plain.header("vary").as_deref(), Some("accept, accept-encoding"));
    let plain = String::from_utf8(body_of(&plain)).unwrap();
    assert!(plain.len() > 500_000, "{} bytes", plain.len());

    let packed = get(running.addr(), "/metrics", "accept-encoding: deflate, gzip;q=0.5\r\n").await;
    assert_eq!(packed.header("content-encoding").as_deref(), Some("gzip"));
    let packed = body_of(&packed);
    assert!(packed.len() * 5 < plain.len(), "{} of {} bytes", packed.len(), plain.len());
    let mut unpacked = String::new();
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut unpacked).unwrap();
    assert_eq!(steady(&unpacked), steady(&plain));

    let accept = "accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5\r\n";
    for path in ["/metrics", PATH, "/metrics?families=sidecar", "/metrics?families=inpick"] {
        let reply = get(running.addr(), path, accept).await;
        let kind = reply.header("content-type");
        assert_eq!(kind.as_deref(), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"), "{path}");
        let text = String::from_utf8(body_of(&reply)).unwrap();
        assert!(text.ends_with("\n# EOF\n"), "{path}");
    }
    let packed = get(running.addr(), "/metrics?families=sidecar", "accept-encoding: gzip\r\n").await;
    let mut unpacked = String::new();
    flate2::read::GzDecoder::new(packed.body.as_slice()).read_to_string(&mut unpacked).unwrap();
    assert!(unpacked.contains("inpick_sidecar_envoy_up 1\n"));
    running.stop().await;
}

#[tokio::test]
async fn each_sample_of_envoys_page_is_on_ours() {
    let text = tagged_page(3);
    let envoy = Server::start(&[(PATH, Manner::Chunked(text.clone()))]).await;
    let admin = format!("http://{}", envoy.address);
    let running = sidecar(&["--envoy-admin", &admin, "--pool", "p=static:127.0.0.1:1"]).await;
    let ours = String::from_utf8(body_of(&get(running.addr(), "/metrics", "").await)).unwrap();
    let headed = ours.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert_eq!(ours.lines().filter(|line| line.starts_with("# HELP ")).count(), headed, "each family has a help text");
    let mut compared = 0;
    for line in text.lines().filter(|line| line.starts_with("envoy_")) {
        assert!(ours.lines().any(|known| known == line), "{line} was dropped");
        compared += 1;
    }
    assert_eq!(compared, 300);
    running.stop().await;
}

#[tokio::test]
async fn an_envoy_without_stats_tags_gives_the_same_page() {
    let (garbled, names) = untagged_page(5);
    let tagged = Server::start(&[(PATH, Manner::Page(tagged_page(5)))]).await;
    let untagged = Server::start(&[(PATH, Manner::Chunked(garbled)), ("/stats", Manner::Chunked(names))]).await;
    let mut pages = Vec::new();
    for envoy in [&tagged, &untagged] {
        let admin = format!("http://{}", envoy.address);
        let running = sidecar(&["--envoy-admin", &admin, "--pool", "p=static:127.0.0.1:1"]).await;
        pages.push(String::from_utf8(body_of(&get(running.addr(), "/metrics", "").await)).unwrap());
        running.stop().await;
    }
    assert_eq!(steady(&pages[1]), steady(&pages[0]));
    assert!(pages[0].contains("model_name=\"meta-llama/Llama-3.1-4B-Instruct\""));
    assert_eq!((tagged.requests.load(Ordering::Relaxed), untagged.requests.load(Ordering::Relaxed)), (1, 2));

    // Half of the truth is none.
    untagged.set("/stats", Manner::Status(500));
    let admin = format!("http://{}", untagged.address);
    let running = sidecar(&["--envoy-admin", &admin, "--pool", "p=static:127.0.0.1:1"]).await;
    let reply = get(running.addr(), "/metrics", "").await;
    assert_eq!((reply.status, reply.text().contains("status 500")), (503, true));
    running.stop().await;
}

#[test]
fn the_page_is_never_whole_in_memory() {
    let text = tagged_page(100);
    let mut printed = 0;
    let took = allocation_counter::measure(|| {
        let mut reader = ContentsReader::default();
        for piece in text.as_bytes().chunks(16 * 1024) {
            reader.feed(piece);
        }
        let contents = Arc::new(reader.finish());
        for format in [Format::Text, Format::OpenMetrics] {
            printed = Printer::new(Arc::clone(&contents), Vec::new(), Selection::Everything, format)
                .map(|piece| piece.len())
                .sum();
        }
    });
    assert!(printed * 10 > text.len() * 9, "{printed} of {} bytes", text.len());
    let most = usize::try_from(took.bytes_max).unwrap();
    assert!(most * 2 < printed, "{most} bytes for a page of {printed}");
}

/// Scrapers add parameters of their own, and a page of millions of bytes is no answer to a word that is misspelled.
#[tokio::test]
async fn a_selection_counts_wherever_it_stands_in_the_query_and_an_unknown_one_is_refused() {
    let envoy = Server::start(&[(PATH, Manner::Page(tagged_page(1)))]).await;
    let admin = format!("http://{}", envoy.address);
    let running = sidecar(&["--envoy-admin", &admin, "--pool", "p=static:127.0.0.1:1"]).await;
    for (query, has_envoys, has_filters) in [
        ("", true, true),
        ("?usedonly&text_readouts", true, true),
        ("?usedonly&families=inpick", false, true),
        ("?families=inpick&usedonly", false, true),
        ("?families=sidecar&x=", false, false),
        ("?families=strict&families=inpick", true, true),
    ] {
        let reply = get(running.addr(), &format!("/metrics{query}"), "").await;
        assert_eq!(reply.status, 200, "{query}");
        let text = String::from_utf8(body_of(&reply)).unwrap();
        let has = |prefix: &str| text.lines().any(|line| line.starts_with(prefix));
        assert_eq!((has("envoy_"), has("inference_objective_")), (has_envoys, has_filters), "{query}");
        assert!(has("inpick_sidecar_"), "{query}");
    }
    for query in ["families=inpik", "families=", "x=1&families=envoy"] {
        let reply = get(running.addr(), &format!("/metrics?{query}"), "").await;
        assert_eq!(reply.status, 400, "{query}");
        assert!(reply.text().contains("families: expected inpick, sidecar or strict"), "{}", reply.text());
    }
    running.stop().await;
}
