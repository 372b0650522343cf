//! The merged page when Envoy is slow, silent or has much to say.
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

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use snapshot::State;
use stage::{Manner, Server, endpoint, get, page, sidecar, until};

const PATH: &str = "/stats/prometheus";

#[tokio::test]
async fn a_page_that_is_late_too_large_or_refused_is_503_with_the_reason() {
    let pod = Server::pod(&page(1, 0, 0.1)).await;
    let envoy = Server::start(&[]).await;
    let (admin, pool) = (format!("http://{}", envoy.address), format!("p=static:{}", pod.address));
    let limits = ["--envoy-page-timeout", "200ms", "--max-envoy-page-bytes", "1000"];
    let running = sidecar(&[&["--envoy-admin", &admin, "--pool", &pool], limits.as_slice()].concat()).await;
    for (manner, reason) in [
        (Manner::Silent, "no complete response within 200 ms"),
        (Manner::Page("x 1\n".repeat(1000)), "more than 1000 bytes"),
        (Manner::Status(500), "status 500"),
        (Manner::Half("x 1\n".repeat(100)), "connection closed"),
    ] {
        envoy.set(PATH, manner);
        for path in ["/metrics", PATH, "/metrics?families=inpick", "/metrics?families=strict"] {
            let reply = get(running.addr(), path, "").await;
            assert_eq!(reply.status, 503, "{path}");
            assert_eq!(reply.header("content-type").as_deref(), Some("text/plain; charset=utf-8"));
            assert!(reply.text().contains(reason), "{} does not say {reason}", reply.text());
        }
    }
    envoy.set(PATH, Manner::Page("# TYPE envoy_x counter\nenvoy_x{} 1\n".to_owned()));
    let reply = get(running.addr(), "/metrics", "").await;
    assert!(reply.status == 200 && reply.text().ends_with("# TYPE envoy_x counter\nenvoy_x{} 1\n"));
    assert!(reply.text().contains("inpick_sidecar_envoy_page_failures_total 16\n"), "{}", reply.text());
    running.stop().await;
}

#[tokio::test]
async fn scrapes_that_come_together_share_one_page() {
    let envoy = Server::start(&[(PATH, Manner::Slow(Duration::from_millis(500), "envoy_x 1\n".to_owned()))]).await;
    let admin = format!("http://{}", envoy.address);
    let running = sidecar(&["--envoy-admin", &admin, "--pool", "p=static:127.0.0.1:1"]).await;
    let mut scrapes = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let address = running.addr();
        scrapes.spawn(async move { get(address, "/metrics", "").await.text() });
    }
    for text in scrapes.join_all().await {
        assert!(text.ends_with("envoy_x 1\n"), "{text}");
    }
    assert_eq!(envoy.requests.load(Ordering::Relaxed), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_sixty_megabytes_does_not_delay_polls() {
    let pod = Server::pod(&page(1, 0, 0.1)).await;
    let line = format!("envoy_x{{a=\"{}\"", "y".repeat(2000));
    let mut large = String::with_capacity(61 << 20);
    for index in 0.. {
        if large.len() > 60 << 20 {
            break;
        }
        large.push_str(&format!("{line},b=\"{index}\"}} 1\n"));
    }
    let envoy = Server::start(&[(PATH, Manner::Page(large))]).await;
    let admin = format!("http://{}", envoy.address);
    // The sidecar polls on one thread, as its process does.
    let (sender, ready) = tokio::sync::oneshot::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let address = pod.address;
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let pool = format!("p=static:{address}");
            let limits = ["--envoy-page-timeout", "1m"];
            let running = sidecar(&[&["--envoy-admin", &admin, "--pool", &pool], limits.as_slice()].concat()).await;
            until(&running, address, |endpoint| endpoint.state == State::Fresh).await;
            sender.send(running.addr()).unwrap();
            let mut oldest = 0;
            let watch = async {
                loop {
                    oldest = oldest.max(endpoint(&running, address).await.unwrap().age_ms.unwrap());
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::select! {
                () = watch => {}
                _ = stopped => {}
            }
            running.stop().await;
            oldest
        })
    });
    let sidecar = ready.await.unwrap();
    let began = Instant::now();
    let reply = get(sidecar, "/metrics", "").await;
    // On a busy machine everything takes longer, the page most of all.
    let limit = began.elapsed().div_f64(4.0).max(Duration::from_millis(400));
    assert_eq!(reply.status, 200);
    assert!(reply.body.len() > 60 << 20);
    stop.send(()).unwrap();
    let oldest = thread.join().unwrap();
    assert!(u128::from(oldest) < limit.as_millis(), "a page was {oldest} ms old, at a poll interval of 20 ms");
}
