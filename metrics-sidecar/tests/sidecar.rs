//! A whole sidecar against pods and a proxy that behave and misbehave.
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

use std::fmt::Write as _;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use catalogue::Bounds;
use snapshot::State;
use stage::{Manner, Server, endpoint, get, page, sidecar, snapshot, until, until_text};
use tokio::io::{AsyncBufReadExt, BufReader};

const BUSY: &str = include_str!("fixtures/vllm-0.32-load.txt");

fn hosts(cluster: &str, hosts: &[(std::net::SocketAddr, &str)]) -> String {
    let hosts: Vec<String> = hosts
        .iter()
        .map(|(address, health)| {
            format!(
                r#"{{"address":{{"socket_address":{{"address":"{}","port_value":{}}}}},"health_status":{{{health}}}}}"#,
                address.ip(),
                address.port()
            )
        })
        .collect();
    format!(r#"{{"cluster_statuses":[{{"name":"{cluster}","host_statuses":[{}]}}]}}"#, hosts.join(","))
}

#[tokio::test]
async fn a_pods_load_reaches_the_snapshot() {
    let pod = Server::pod(BUSY).await;
    let running = sidecar(&["--pool", &format!("p=static:ns/pod-0@{}", pod.address)]).await;
    let seen = until(&running, pod.address, |endpoint| endpoint.state == State::Fresh).await;
    assert_eq!((seen.identity.pod.as_str(), seen.identity.namespace.as_str()), ("pod-0", "ns"));
    assert_eq!((seen.waiting, seen.running, seen.kv_cache_usage), (Some(16), Some(16), Some(0.001)));
    assert_eq!((seen.block_size, seen.num_gpu_blocks, seen.max_lora), (Some(128), Some(32768), Some(2)));
    assert_eq!(seen.running_adapters, ["lora-a", "lora-b"]);
    assert!(seen.age_ms.unwrap() < 2000);
    running.stop().await;
}

#[tokio::test]
async fn an_unchanged_snapshot_is_answered_without_a_body() {
    let pod = Server::pod(&page(1, 2, 0.5)).await;
    let running = sidecar(&["--pool", &format!("p=static:{}", pod.address)]).await;
    until(&running, pod.address, |endpoint| endpoint.waiting == Some(1)).await;
    let first = get(running.addr(), "/snapshot", "").await;
    let tag = first.header("etag").unwrap();
    let decoded = snapshot::Snapshot::decode(&first.body).unwrap();
    assert_eq!(tag, decoded.loads.tag().to_string());
    assert!(decoded.loads.belong_to(decoded.membership.as_ref().unwrap()));
    let condition = format!("if-none-match: {tag}\r\n");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let unchanged = get(running.addr(), "/snapshot", &condition).await;
    assert_eq!((unchanged.status, unchanged.body.len(), unchanged.header("etag")), (304, 0, Some(tag)));
    pod.set("/metrics", Manner::Page(page(3, 2, 0.5)));
    until(&running, pod.address, |endpoint| endpoint.waiting == Some(3)).await;
    let changed = get(running.addr(), "/snapshot", &condition).await;
    assert_eq!(changed.status, 200);
    let changed = snapshot::Snapshot::decode(&changed.body).unwrap();
    assert!(changed.loads.generation > decoded.loads.generation);
    assert_eq!(changed.membership, None, "the reader has it");
    assert!(changed.loads.belong_to(decoded.membership.as_ref().unwrap()));
    for other in ["\"1.1.1\"", "\"nonsense\"", "*"] {
        let whole = get(running.addr(), "/snapshot", &format!("if-none-match: {other}\r\n")).await;
        assert!(snapshot::Snapshot::decode(&whole.body).unwrap().membership.is_some(), "{other}");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_reader_that_waits_is_answered_when_something_changes() {
    let pod = Server::pod(&page(1, 2, 0.5)).await;
    let running = sidecar(&["--pool", &format!("p=static:{}", pod.address)]).await;
    until(&running, pod.address, |endpoint| endpoint.waiting == Some(1)).await;
    let first = get(running.addr(), "/snapshot", "").await;
    let condition = format!("if-none-match: {}\r\n", first.header("etag").unwrap());
    let begun = Instant::now();
    let unchanged = get(running.addr(), "/snapshot?wait_ms=100", &condition).await;
    assert_eq!(unchanged.status, 304);
    assert!(begun.elapsed() >= Duration::from_millis(100));
    let change = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        pod.set("/metrics", Manner::Page(page(3, 2, 0.5)));
    };
    let (changed, ()) = tokio::join!(get(running.addr(), "/snapshot?wait_ms=9000", &condition), change);
    assert_eq!(changed.status, 200);
    assert!(begun.elapsed() < Duration::from_secs(8));
    let at_once = get(running.addr(), "/snapshot?wait_ms=9000", "").await;
    assert_eq!(at_once.status, 200, "a reader that knows nothing does not wait");
    running.stop().await;
}

#[tokio::test]
async fn each_bad_pod_fails_alone_and_says_why() {
    let good = Server::pod(&page(1, 1, 0.1)).await;
    let huge = format!("{}{}", page(1, 1, 0.1), "x 1\n".repeat(100_000));
    let manners = [
        ("timeout", Manner::Silent),
        ("timeout", Manner::Drip(page(1, 1, 0.1))),
        ("protocol", Manner::Half(page(1, 1, 0.1))),
        ("too_large", Manner::Page(huge.clone())),
        ("too_large", Manner::Chunked(huge)),
        ("malformed", Manner::Page("vllm:num_requests_waiting{engine=\"0\" 1\n".to_owned())),
        ("malformed", Manner::Page("<html></html>\n".to_owned())),
        ("status", Manner::Status(503)),
    ];
    let mut bad = Vec::new();
    for (outcome, manner) in manners {
        bad.push((outcome, Server::start(&[("/metrics", manner)]).await));
    }
    let dead = Server::pod("").await;
    let dead_address = dead.address;
    dead.stop().await;
    let mut pool = format!("p=static:{},{dead_address}", good.address);
    for (_, server) in &bad {
        write!(pool, ",{}", server.address).unwrap();
    }
    let flags = ["--pool", &pool, "--request-timeout", "200ms", "--max-page-bytes", "100000", "--staleness", "1s"];
    let running = sidecar(&flags).await;
    let mut expected: Vec<(&str, _)> = bad.iter().map(|(outcome, server)| (*outcome, server.address)).collect();
    expected.push(("connect", dead_address));
    let text = until_text(&running, "/metrics?families=sidecar", |text| {
        expected
            .iter()
            .all(|(outcome, address)| text.contains(&format!("{{endpoint=\"{address}\",outcome=\"{outcome}\"")))
    })
    .await;
    assert!(text.contains("inpick_sidecar_endpoints{pool=\"p\",state=\"fresh\"} 1\n"), "{text}");
    for (outcome, address) in expected {
        assert_eq!(endpoint(&running, address).await.unwrap().state, State::Unknown, "{outcome}");
        let success = format!("{{endpoint=\"{address}\",outcome=\"success\"");
        assert!(!text.contains(&success), "{outcome}");
    }
    // The slow ones hold no one up: over a second the good pod's page is never old.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        let seen = endpoint(&running, good.address).await.unwrap();
        assert_eq!(seen.state, State::Fresh);
        assert!(seen.age_ms.unwrap() < 900, "{seen:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(get(running.addr(), "/readyz", "").await.status, 200, "every endpoint was tried");
    running.stop().await;
}

#[tokio::test]
async fn one_connection_carries_every_poll() {
    let pod = Server::pod(BUSY).await;
    let running = sidecar(&["--pool", &format!("p=static:{}", pod.address)]).await;
    let many = |text: &str| {
        let line = text.lines().find(|line| line.starts_with("inpick_sidecar_scrapes_total{"));
        line.is_some_and(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap() >= 10)
    };
    until_text(&running, "/metrics?families=sidecar", many).await;
    assert_eq!(pod.connections.load(Ordering::Relaxed), 2, "one for the page and one for the models");
    running.stop().await;
}

#[tokio::test]
async fn chunked_pages_and_pods_that_hang_up_are_read_too() {
    let chunked = Server::start(&[("/metrics", Manner::Chunked(page(4, 1, 0.1)))]).await;
    let once = Server::start(&[("/metrics", Manner::Once(page(5, 1, 0.1)))]).await;
    let running = sidecar(&["--pool", &format!("p=static:{},{}", chunked.address, once.address)]).await;
    until(&running, chunked.address, |endpoint| endpoint.waiting == Some(4)).await;
    until(&running, once.address, |endpoint| endpoint.waiting == Some(5)).await;
    running.stop().await;
}

#[tokio::test]
async fn a_pod_that_restarts_goes_stale_and_comes_back() {
    let pod = Server::pod(&page(7, 1, 0.1)).await;
    let address = pod.address;
    let running = sidecar(&["--pool", &format!("p=static:{address}"), "--staleness", "300ms"]).await;
    until(&running, address, |endpoint| endpoint.state == State::Fresh).await;
    let generation = snapshot(&running).await.loads.generation;
    pod.stop().await;
    let stale = until(&running, address, |endpoint| endpoint.state == State::Stale).await;
    assert_eq!(stale.waiting, Some(7), "what was last known stays, with its age");
    assert!(stale.age_ms.unwrap() >= 300);
    assert!(snapshot(&running).await.loads.generation > generation);
    let pod = Server::start_at(address, &[("/metrics", Manner::Page(page(0, 0, 0.0)))]).await;
    until(&running, address, |endpoint| endpoint.state == State::Fresh && endpoint.waiting == Some(0)).await;
    drop(pod);
    running.stop().await;
}

#[tokio::test]
async fn a_sleeping_pod_is_told_apart() {
    let asleep = "vllm:engine_sleep_state{sleep_state=\"awake\"} 0.0\nvllm:engine_sleep_state{sleep_state=\"discard_all\"} 1.0\n";
    let pod = Server::pod(&format!("{}{asleep}", page(0, 0, 0.0))).await;
    let running = sidecar(&["--pool", &format!("p=static:{}", pod.address)]).await;
    until(&running, pod.address, |endpoint| endpoint.state == State::Sleeping).await;
    running.stop().await;
}

#[tokio::test]
async fn clusters_of_the_proxy_are_followed_and_outlive_its_admin_endpoint() {
    let (one, two) = (Server::pod(&page(1, 0, 0.1)).await, Server::pod(&page(2, 0, 0.1)).await);
    let healthy = r#""eds_health_status":"HEALTHY""#;
    let envoy = Server::start(&[("/clusters", Manner::Page(hosts("vllm", &[(one.address, healthy)])))]).await;
    let admin = format!("http://{}", envoy.address);
    let running = sidecar(&["--envoy-admin", &admin, "--pool", "a=envoy:vllm", "--pool", "b=envoy:other"]).await;
    until(&running, one.address, |endpoint| endpoint.state == State::Fresh).await;
    let reply = get(running.addr(), "/readyz", "").await;
    assert_eq!(reply.status, 503);
    assert!(reply.text().contains(r#"pool b: Envoy knows no cluster \"other\""#), "{}", reply.text());

    let failed = r#""failed_active_health_check":true,"eds_health_status":"HEALTHY""#;
    envoy.set("/clusters", Manner::Page(hosts("vllm", &[(one.address, failed), (two.address, healthy)])));
    until(&running, one.address, |endpoint| endpoint.state == State::Unready).await;
    until(&running, two.address, |endpoint| endpoint.state == State::Fresh).await;

    envoy.set("/clusters", Manner::Page(hosts("vllm", &[(two.address, healthy)])));
    let began = Instant::now();
    while endpoint(&running, one.address).await.is_some() {
        assert!(began.elapsed() < Duration::from_secs(10));
    }
    envoy.stop().await;
    until_text(&running, "/readyz", |text| text.contains("Envoy's admin endpoint")).await;
    until(&running, two.address, |endpoint| endpoint.state == State::Fresh).await;
    running.stop().await;
}

#[tokio::test]
async fn names_are_resolved() {
    let pod = Server::pod(&page(1, 0, 0.1)).await;
    let running = sidecar(&["--pool", &format!("p=dns:localhost:{}", pod.address.port())]).await;
    until(&running, pod.address, |endpoint| endpoint.state == State::Fresh).await;
    running.stop().await;
}

/// What Envoy's page shows of the filter's stats: one whole histogram, one that is not yet defined in full, a counter.
fn envoy_page() -> String {
    let family = "inference_objective_request_duration_seconds";
    let mut text = String::from("# TYPE envoy_server_live gauge\nenvoy_server_live{} 1\n");
    for (model, skip) in [("whole/m:1", None), ("half", Some("+Inf"))] {
        for le in Bounds::LATENCY.le().chain(["+Inf"]).filter(|le| Some(*le) != skip) {
            writeln!(text, "# TYPE {family}_bucket counter\n{family}_bucket{{target_model_name=\"t\",model_name=\"{model}\",le=\"{le}\"}} 2").unwrap();
        }
        for (suffix, value) in [("sum", 0), ("sum_microseconds", 7600), ("count", 2)] {
            writeln!(text, "{family}_{suffix}{{model_name=\"{model}\",target_model_name=\"t\"}} {value}").unwrap();
        }
    }
    text.push_str("# TYPE inference_objective_request_total counter\n");
    text.push_str("inference_objective_request_total{model_name=\"m\",priority=\"0\",target_model_name=\"t\"} 61\n");
    text.push_str("# TYPE inference_pool_ready_pods gauge\ninference_pool_ready_pods{name=\"p\"} 9\n");
    text
}

#[tokio::test]
async fn the_merged_page_is_the_pickers_page() {
    let pod = Server::pod(&page(3, 0, 0.25)).await;
    let envoy = Server::start(&[("/stats/prometheus", Manner::Chunked(envoy_page()))]).await;
    let admin = format!("http://{}", envoy.address);
    let running = sidecar(&["--envoy-admin", &admin, "--pool", &format!("p=static:{}", pod.address)]).await;
    until(&running, pod.address, |endpoint| endpoint.state == State::Fresh).await;
    let reply = get(running.addr(), "/metrics", "").await;
    assert_eq!(reply.header("content-type").as_deref(), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = reply.text();
    for line in [
        "# TYPE inference_objective_request_duration_seconds histogram",
        "inference_objective_request_duration_seconds_bucket{model_name=\"whole/m:1\",target_model_name=\"t\",le=\"+Inf\"} 2",
        "inference_objective_request_duration_seconds_sum{model_name=\"whole/m:1\",target_model_name=\"t\"} 0.0076",
        "inference_objective_request_total{model_name=\"m\",priority=\"0\",target_model_name=\"t\"} 61",
        "inference_pool_ready_pods{name=\"p\"} 1",
        "inference_pool_average_kv_cache_utilization{name=\"p\"} 0.25",
        "inference_pool_average_queue_size{name=\"p\"} 3",
        "envoy_server_live{} 1",
        "inpick_sidecar_envoy_up 1",
    ] {
        assert!(text.lines().any(|known| known == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("\"half\"") && !text.contains("sum_microseconds"));
    let mut series: Vec<&str> =
        text.lines().filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series).collect();
    series.sort_unstable();
    let count = series.len();
    series.dedup();
    assert_eq!(series.len(), count, "no series twice");
    // Everything but what the requests themselves count is the same under the other path.
    let steady = |text: &str| {
        text.lines().filter(|line| !line.starts_with("inpick_sidecar_sc")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(steady(&get(running.addr(), "/stats/prometheus", "").await.text()), steady(&text));
    running.stop().await;
}

#[tokio::test]
async fn the_live_page_reads_labels_from_the_names_of_stats_where_envoys_page_has_lost_them() {
    let pod = Server::pod(&page(3, 0, 0.25)).await;
    let address = pod.address.to_string();
    let (mut garbled, mut names) = (String::new(), String::new());
    for (labels, family, value) in [
        (format!("pool=p;endpoint={address};reason=tie;"), "inpick_picks_total", 40),
        (format!("pool=p;endpoint={address};reason=retry;"), "inpick_picks_total", 2),
        (format!("pool=p;endpoint={address};"), "inpick_in_flight_requests", 5),
        (format!("pool=p;endpoint={address};"), "inpick_ejections_total", 1),
        (format!("pool=p;endpoint={address};"), "inpick_learned_fixed_time_millionths", 20_000),
    ] {
        let stat = format!("{labels}{family}");
        let name = stat.replace(|character: char| !character.is_ascii_alphanumeric(), "_");
        writeln!(garbled, "# TYPE {name} gauge\n{name}{{}} {value}").unwrap();
        writeln!(names, "wasmcustom.{stat}: {value}").unwrap();
    }
    names.push_str("wasmcustom.pool=p;inpick_picks_total: 7\ncluster.inpick_picks_total: 9\nwasmcustom.other: 1\n");
    let envoy = Server::start(&[("/stats/prometheus", Manner::Page(garbled)), ("/stats", Manner::Page(names))]).await;
    let admin = format!("http://{}", envoy.address);
    let running = sidecar(&["--envoy-admin", &admin, "--pool", &format!("p=static:{address}")]).await;
    until(&running, pod.address, |endpoint| endpoint.state == State::Fresh).await;
    let state = async || -> serde_json::Value {
        serde_json::from_str(&get(running.addr(), "/api/state", "").await.text()).unwrap()
    };
    let figures = |state: &serde_json::Value| {
        let endpoint = &state["endpoints"][0];
        ["in_flight", "picks", "failures", "ejections", "predicted_wait_ms"].map(|name| endpoint[name].as_u64())
    };
    assert_eq!(figures(&state().await), [5, 42, 0, 1, 20].map(Some));
    // The proxy begins anew with a bootstrap that has the tags.
    let label = format!("{{pool=\"p\",endpoint=\"{address}\"}}");
    envoy.set("/stats", Manner::Page(String::new()));
    envoy.set("/stats/prometheus", Manner::Page(format!("inpick_in_flight_requests{label} 8\n")));
    let began = Instant::now();
    while figures(&state().await) != [Some(8), Some(0), Some(0), Some(0), None] {
        assert!(began.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn without_envoy_the_merged_page_is_503_and_says_why() {
    let pod = Server::pod(&page(3, 0, 0.25)).await;
    let pool = format!("p=static:{}", pod.address);
    let running = sidecar(&["--envoy-admin", "http://127.0.0.1:1", "--pool", &pool]).await;
    until(&running, pod.address, |endpoint| endpoint.state == State::Fresh).await;
    let reply = get(running.addr(), "/metrics", "").await;
    assert_eq!((reply.status, reply.text().contains("cannot connect")), (503, true), "{}", reply.text());
    let reply = get(running.addr(), "/metrics?families=sidecar", "").await;
    assert_eq!(reply.status, 200);
    assert!(reply.text().contains("inpick_sidecar_envoy_up 0\n"));
    assert!(reply.text().contains("inference_pool_average_queue_size{name=\"p\"} 3\n"));
    assert_eq!(get(running.addr(), "/healthz", "").await.status, 200);
    assert_eq!(get(running.addr(), "/nothing", "").await.status, 404);
    running.stop().await;
}

#[tokio::test]
async fn a_stopped_sidecar_leaves_its_pods_alone() {
    let pod = Server::pod(&page(3, 0, 0.25)).await;
    let running = sidecar(&["--pool", &format!("p=static:{}", pod.address)]).await;
    until(&running, pod.address, |endpoint| endpoint.state == State::Fresh).await;
    let address = running.addr();
    running.stop().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    tokio::time::sleep(Duration::from_millis(100)).await;
    let connections = pod.connections.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(pod.connections.load(Ordering::Relaxed), connections);
}

#[tokio::test]
async fn the_process_reports_bad_flags_and_ends_on_sigterm() {
    let program = env!("CARGO_BIN_EXE_metrics-sidecar");
    let bad = tokio::process::Command::new(program).args(["--pool", "x", "--listen", "y"]).output().await.unwrap();
    assert_eq!(bad.status.code(), Some(64));
    let errors = String::from_utf8(bad.stderr).unwrap();
    assert!(errors.contains("--pool \"x\"") && errors.contains("--listen \"y\""), "{errors}");
    assert_eq!(tokio::process::Command::new(program).arg("--nonsense").output().await.unwrap().status.code(), Some(64));

    let mut child = tokio::process::Command::new(program)
        .args(["--listen", "127.0.0.1:0", "--pool", "p=static:127.0.0.1:1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap().parse().unwrap();
    assert_eq!(get(address, "/healthz", "").await.status, 200);
    let began = Instant::now();
    let killed =
        tokio::process::Command::new("kill").args(["-TERM", &child.id().unwrap().to_string()]).status().await.unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(2));
}
