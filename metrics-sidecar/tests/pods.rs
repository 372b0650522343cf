//! A whole sidecar against pods that are slow, die and return, redirect, and want a port, a path or a token of their own.
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

use metrics_sidecar::Running;
use snapshot::State;
use stage::{Manner, Server, endpoint, page, sidecar, snapshot, until, until_text};

#[tokio::test]
async fn one_redirect_to_the_same_origin_is_followed_and_remembered() {
    let pod = Server::start(&[("/metrics/", Manner::Page(page(4, 1, 0.1)))]).await;
    let location = format!("http://{}/metrics/", pod.address);
    pod.set("/metrics", Manner::Redirect(location));
    let running = sidecar(&["--pool", &format!("p=static:{}", pod.address)]).await;
    until(&running, pod.address, |endpoint| endpoint.waiting == Some(4)).await;
    // A pod whose page moves again is found again.
    pod.set("/metrics/", Manner::Status(404));
    pod.set("/metrics", Manner::Page(page(5, 1, 0.1)));
    until(&running, pod.address, |endpoint| endpoint.waiting == Some(5)).await;
    running.stop().await;
}

#[tokio::test]
async fn redirects_to_others_and_second_ones_are_refused_and_counted() {
    let other = Server::pod(&page(9, 1, 0.1)).await;
    let away = Server::start(&[("/metrics", Manner::Redirect(format!("http://{}/metrics", other.address)))]).await;
    let twice = Server::start(&[
        ("/metrics", Manner::Redirect("/a".into())),
        ("/a", Manner::Redirect("/b".into())),
        ("/b", Manner::Page(page(9, 1, 0.1))),
    ])
    .await;
    let running = sidecar(&["--pool", &format!("p=static:{},{}", away.address, twice.address)]).await;
    for pod in [&away, &twice] {
        let line =
            format!("inpick_sidecar_scrapes_total{{endpoint=\"{}\",outcome=\"redirect\",pool=\"p\"}}", pod.address);
        until_text(&running, "/metrics?families=sidecar", |text| text.contains(&line)).await;
        assert_eq!(endpoint(&running, pod.address).await.unwrap().state, State::Unknown);
    }
    let problems = until_text(&running, "/readyz", |_| true).await;
    assert!(problems.contains("is another host") && problems.contains("is a second redirect"), "{problems}");
    assert_eq!(other.requests.load(Ordering::Relaxed), 0);
    running.stop().await;
}

#[tokio::test]
async fn a_pod_that_was_dead_for_three_seconds_is_fresh_at_once() {
    let pod = Server::pod(&page(7, 1, 0.1)).await;
    let address = pod.address;
    let running = sidecar(&["--pool", &format!("p=static:{address}")]).await;
    until(&running, address, |endpoint| endpoint.state == State::Fresh).await;
    pod.stop().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(endpoint(&running, address).await.unwrap().state, State::Stale);
    let pod = Server::start_at(address, &[("/metrics", Manner::Page(page(0, 0, 0.0)))]).await;
    let began = Instant::now();
    until(&running, address, |endpoint| endpoint.state == State::Fresh && endpoint.waiting == Some(0)).await;
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    drop(pod);
    running.stop().await;
}

#[tokio::test]
async fn slow_pages_yield_their_load_and_neither_flap_nor_delay_others() {
    let slow = Server::start(&[("/metrics", Manner::Slow(Duration::from_secs(1), page(3, 1, 0.1)))]).await;
    let quick = Server::pod(&page(1, 1, 0.1)).await;
    let pool = format!("p=static:{},{}", slow.address, quick.address);
    let running = sidecar(&["--pool", &pool, "--staleness", "700ms"]).await;
    until(&running, slow.address, |endpoint| endpoint.waiting == Some(3)).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(3500) {
        let seen = endpoint(&running, slow.address).await.unwrap();
        assert_eq!((seen.state, seen.waiting), (State::Stale, Some(3)));
        assert!(seen.age_ms.unwrap() < 3000, "{seen:?}");
        assert_eq!(endpoint(&running, quick.address).await.unwrap().state, State::Fresh);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn a_page_has_a_port_a_path_and_a_token_of_its_own() {
    let pod = Server::start(&[]).await;
    let exporter =
        Server::start(&[("/stats", Manner::Secret("Authorization: Bearer one\r\n".into(), page(1, 0, 0.1)))]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "one\n").unwrap();
    let options = [
        format!("p=metrics-port={}", exporter.address.port()),
        "p=metrics-path=/stats".to_owned(),
        format!("p=metrics-token-file={}", file.display()),
    ];
    let mut flags = vec!["--pool".to_owned(), format!("p=static:{}", pod.address)];
    for option in options {
        flags.extend(["--pool-option".to_owned(), option]);
    }
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let running = sidecar(&flags).await;
    until(&running, pod.address, |endpoint| endpoint.waiting == Some(1)).await;
    exporter.set("/stats", Manner::Secret("Authorization: Bearer two\r\n".into(), page(2, 0, 0.1)));
    std::fs::write(&file, "two\n").unwrap();
    until(&running, pod.address, |endpoint| endpoint.waiting == Some(2)).await;
    running.stop().await;
}

/// Name, parent and length of a model.
type Model<'a> = (&'a str, &'a str, Option<u32>);

/// Waits until each endpoint is said to serve these; `None`: it is not said what it serves.
async fn until_served(sidecar: &Running, wanted: &[Option<&[Model<'_>]>]) {
    let began = Instant::now();
    loop {
        let pool = snapshot(sidecar).await.membership.unwrap().pools.remove(0);
        let model = |at: &u32| {
            let model = &pool.models[*at as usize];
            (model.name.as_str(), model.parent.as_str(), model.max_model_len)
        };
        let served =
            pool.endpoints.iter().map(|one| one.models.as_deref().map(|models| models.iter().map(model).collect()));
        let seen: Vec<Option<Vec<Model<'_>>>> = served.collect();
        if seen.iter().map(Option::as_deref).eq(wanted.iter().copied()) {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{seen:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn models(entries: &str) -> Manner {
    Manner::Page(format!(r#"{{"object":"list","data":[{entries}]}}"#))
}

#[tokio::test]
async fn models_are_listed_at_once_and_again_after_a_restart() {
    let started = |seconds: u32| Manner::Page(format!("{}process_start_time_seconds {seconds}.5\n", page(1, 0, 0.1)));
    let base = r#"{"id":"m","parent":null,"max_model_len":4096}"#;
    let both = format!(r#"{base},{{"id":"lora-a","parent":"m","max_model_len":null}}"#);
    let one = Server::start(&[("/metrics", started(1000)), ("/v1/models", models(&both))]).await;
    let two = Server::start(&[("/metrics", started(1000)), ("/v1/models", models(base))]).await;
    let none = Server::pod(&page(1, 0, 0.1)).await;
    let mut pods = [&one, &two, &none];
    pods.sort_by_key(|pod| pod.address);
    let pool = format!("p=static:{},{},{}", one.address, two.address, none.address);
    let running = sidecar(&["--pool", &pool, "--models-interval", "1m"]).await;
    let base = [("m", "", Some(4096))];
    let both = [("lora-a", "m", None), base[0]];
    let other = [("other", "", None)];
    let expect = async |of_one: &[Model<'_>]| {
        let of = |pod: &&Server| match pod.address {
            address if address == one.address => Some(of_one),
            address if address == two.address => Some(base.as_slice()),
            _ => None,
        };
        until_served(&running, &pods.iter().map(of).collect::<Vec<_>>()).await;
    };
    expect(&both).await;
    assert_eq!(endpoint(&running, one.address).await.unwrap().started_at_ms, Some(1_000_500));
    one.set("/v1/models", models(r#"{"id":"other"}"#));
    one.set("/metrics", started(2000));
    expect(&other).await;
    assert_eq!(endpoint(&running, one.address).await.unwrap().incarnation, 1);
    running.stop().await;
}

#[tokio::test]
async fn a_restart_that_only_counters_show_is_a_new_incarnation_whose_models_are_read() {
    let tokens = |tokens: u32| Manner::Page(format!("{}vllm:generation_tokens_total {tokens}.0\n", page(1, 1, 0.1)));
    let pod = Server::start(&[("/metrics", tokens(900)), ("/v1/models", models(r#"{"id":"m"}"#))]).await;
    let running = sidecar(&["--pool", &format!("p=static:{}", pod.address), "--models-interval", "1m"]).await;
    until_served(&running, &[Some(&[("m", "", None)])]).await;
    pod.set("/metrics", tokens(901));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(endpoint(&running, pod.address).await.unwrap().incarnation, 0);
    pod.set("/v1/models", models(r#"{"id":"n"}"#));
    pod.set("/metrics", tokens(5));
    until(&running, pod.address, |endpoint| endpoint.incarnation == 1).await;
    until_served(&running, &[Some(&[("n", "", None)])]).await;
    running.stop().await;
}

#[tokio::test]
async fn what_was_listed_last_stands_when_a_list_cannot_be_read() {
    let pod =
        Server::start(&[("/metrics", Manner::Page(page(1, 0, 0.1))), ("/v1/models", models(r#"{"id":"m"}"#))]).await;
    let running = sidecar(&["--pool", &format!("p=static:{}", pod.address), "--models-interval", "20ms"]).await;
    let served = [("m", "", None)];
    until_served(&running, &[Some(&served)]).await;
    for manner in [
        Manner::Status(503),
        Manner::Page("<html>".to_owned()),
        Manner::Status(404),
        Manner::Half("{\"data\":[]}".to_owned()),
    ] {
        pod.set("/v1/models", manner);
        tokio::time::sleep(Duration::from_millis(150)).await;
        until_served(&running, &[Some(&served)]).await;
    }
    let failed = |text: &str| !text.contains("inpick_sidecar_models_failures_total{pool=\"p\"} 0\n");
    until_text(&running, "/metrics?families=sidecar", failed).await;
    pod.set("/v1/models", models(""));
    until_served(&running, &[Some(&[])]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_list_that_is_too_long_does_not_say_what_is_not_served() {
    let many: Vec<String> = (0..1500).map(|index| format!(r#"{{"id":"{index}"}}"#)).collect();
    let huge = format!(r#"{{"id":"n","root":"{}"}}"#, "x".repeat(2_000_000));
    let pod =
        Server::start(&[("/metrics", Manner::Page(page(1, 0, 0.1))), ("/v1/models", models(r#"{"id":"m"}"#))]).await;
    let running = sidecar(&["--pool", &format!("p=static:{}", pod.address), "--models-interval", "20ms"]).await;
    for (list, left_out, listed) in [(many.join(","), 500, 1000), (huge, 1, 0)] {
        pod.set("/v1/models", models(r#"{"id":"m"}"#));
        until_served(&running, &[Some(&[("m", "", None)])]).await;
        pod.set("/v1/models", models(&list));
        until_text(&running, "/metrics?families=sidecar", |text| {
            text.contains(&format!("inpick_sidecar_models_left_out{{pool=\"p\"}} {left_out}\n"))
        })
        .await;
        let pool = snapshot(&running).await.membership.unwrap().pools.remove(0);
        assert_eq!((pool.models.len(), &pool.endpoints[0].models), (listed, &None));
    }
    running.stop().await;
}

#[tokio::test]
async fn a_frozen_engine_is_shown_until_a_counter_moves() {
    let busy = include_str!("fixtures/vllm-0.32-load.txt");
    let pod = Server::pod(busy).await;
    let silent = Server::pod(&page(4, 2, 0.5)).await;
    let pool = format!("p=static:{},{}", pod.address, silent.address);
    let running = sidecar(&["--pool", &pool]).await;
    until(&running, pod.address, |endpoint| endpoint.state == State::Fresh).await;
    let began = Instant::now();
    let frozen = until(&running, pod.address, |endpoint| endpoint.state == State::Frozen).await;
    assert!(began.elapsed() > Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!((frozen.waiting, frozen.running), (Some(16), Some(16)));
    let text = until_text(&running, "/metrics?families=sidecar", |_| true).await;
    assert!(text.contains("inpick_sidecar_endpoints{pool=\"p\",state=\"frozen\"} 1\n"), "{text}");
    let ready = until_text(&running, "/readyz", |_| true).await;
    assert!(ready.contains(&format!("{}: frozen: it has requests, and no counter moved for", pod.address)), "{ready}");
    assert_eq!(
        endpoint(&running, silent.address).await.unwrap().state,
        State::Fresh,
        "a page without counters does not tell"
    );
    let tokens = "vllm:generation_tokens_total{engine=\"0\",model_name=\"meta-llama/Llama-3.1-8B-Instruct\"} ";
    assert!(busy.contains(tokens));
    pod.set("/metrics", Manner::Page(busy.replace(tokens, &format!("{tokens}9"))));
    until(&running, pod.address, |endpoint| endpoint.state == State::Fresh).await;
    running.stop().await;
}

/// A pod that speaks TLS with the certificate of `pod.test`.
async fn tls_pod(page: String) -> std::net::SocketAddr {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio_rustls::rustls::{ServerConfig, crypto::ring};
    let certificate = CertificateDer::from_pem_slice(include_bytes!("fixtures/pod-cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("fixtures/pod-key.pem")).unwrap();
    let builder = ServerConfig::builder_with_provider(std::sync::Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = builder.with_single_cert(vec![certificate], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, page) = (acceptor.clone(), page.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = [0; 1024];
                while matches!(stream.read(&mut request).await, Ok(1..)) {
                    let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{page}", page.len());
                    if stream.write_all(response.as_bytes()).await.is_err() || stream.flush().await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn pages_are_read_over_tls_from_pods_that_are_trusted() {
    const CA: &str = concat!("=metrics-ca-file=", env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/pod-cert.pem");
    let address = tls_pod(page(6, 1, 0.1)).await;
    let mut flags = Vec::new();
    for (pool, options) in [
        ("named", [CA, "=metrics-server-name=pod.test"].as_slice()),
        ("any", &["=metrics-tls-verify=off"]),
        ("other", &[CA, "=metrics-server-name=other.test"]),
        ("address", &[CA]),
    ] {
        flags.extend(["--pool".to_owned(), format!("{pool}=static:{address}")]);
        for option in [&["=metrics-scheme=https"], options].concat() {
            flags.extend(["--pool-option".to_owned(), format!("{pool}{option}")]);
        }
    }
    let running = sidecar(&flags.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let count = |pool: &str, outcome: &str| {
        format!("inpick_sidecar_scrapes_total{{endpoint=\"{address}\",outcome=\"{outcome}\",pool=\"{pool}\"}}")
    };
    let wanted = [("named", "success"), ("any", "success"), ("other", "connect"), ("address", "connect")];
    let text = until_text(&running, "/metrics?families=sidecar", |text| {
        wanted.iter().all(|(pool, outcome)| text.contains(&count(pool, outcome)))
    })
    .await;
    assert!(!text.contains(&count("other", "success")) && !text.contains(&count("address", "success")), "{text}");
    running.stop().await;
}

/// Its page does not change, so that a second shows at most a fourth of the polls, and a new one is seen all the same.
#[tokio::test]
async fn a_pod_at_rest_is_read_less_often_and_its_first_request_is_seen() {
    let pod = Server::pod(&page(0, 0, 0.0)).await;
    let sidecar = sidecar(&["--pool", &format!("default=static:{}", pod.address)]).await;
    until(&sidecar, pod.address, |seen| seen.state == State::Fresh).await;
    let read = || pod.requests.load(Ordering::Relaxed);
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let before = read();
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Every 20 ms: 50 a second at work, 12 or 13 at rest; the list of models is asked for as well.
        if read() - before <= 20 {
            break;
        }
        assert!(Instant::now() < deadline, "{} in the last second", read() - before);
    }
    pod.set("/metrics", Manner::Page(page(3, 1, 0.5)));
    until(&sidecar, pod.address, |seen| seen.waiting == Some(3)).await;
}
