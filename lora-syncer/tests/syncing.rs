//! The syncer beside a simulated vLLM, which answers these calls as vLLM 0.32 was recorded to.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test should stop at what it did not expect")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use lora_syncer::{Syncer, SyncerFlags};
use tokio::sync::oneshot;
use vllm_sim::{Config, Server};

const DEADLINE: Duration = Duration::from_secs(60);

/// A running syncer; ends with the test.
struct Running {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

async fn start(file: &Path) -> Running {
    let flags = SyncerFlags {
        config: file.to_owned(),
        health_check_timeout: 1,
        health_check_interval: 1,
        reconcile_trigger: 1,
        config_validation: true,
        metrics_host: IpAddr::V4(Ipv4Addr::LOCALHOST),
        metrics_port: 0,
    };
    let syncer = Syncer::bind(flags).await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let address = syncer.address();
    tokio::spawn(syncer.run(async {
        _ = stopped.await;
    }));
    Running { address, _stop: stop }
}

async fn server(port: u16) -> Server {
    let config = Config { port, allow_runtime_lora_updating: true, max_loras: 2, ..Config::default() };
    Server::start(config).await.unwrap()
}

async fn get(url: &str) -> String {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let response = client.request(Request::get(url).body(Full::default()).unwrap()).await.unwrap();
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

impl Running {
    async fn page(&self) -> String {
        get(&format!("http://{}/metrics", self.address)).await
    }

    /// Waits until the page has these lines.
    async fn shows(&self, lines: &[&str]) {
        let began = Instant::now();
        loop {
            let page = self.page().await;
            let missing: Vec<_> = lines.iter().filter(|line| !page.lines().any(|other| other == **line)).collect();
            if missing.is_empty() {
                return;
            }
            assert!(began.elapsed() < DEADLINE, "no {missing:?} in {page}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn loaded(id: &str, value: u8) -> String {
    format!("lora_syncer_adapter_status{{adapter_name=\"{id}\"}} {value}")
}

fn file(port: u16, wanted: &str, unwanted: &str) -> String {
    format!(
        "vLLMLoRAConfig:\n  host: 127.0.0.1\n  port: {port}\n  ensureExist: {{models: [{wanted}]}}\n  ensureNotExist: {{models: [{unwanted}]}}\n"
    )
}

/// As the kubelet does it: another file under the same name.
fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(next, path).unwrap();
}

#[tokio::test]
async fn adapters_are_loaded_and_unloaded_as_the_file_says() {
    let server = server(0).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("configmap.yaml");
    std::fs::write(&path, file(server.addr.port(), "{id: a, source: /a}, {id: b, source: /b}", "{id: c, source: /c}"))
        .unwrap();
    let syncer = start(&path).await;
    syncer.shows(&[&loaded("a", 1), &loaded("b", 1), &loaded("c", 0), "lora_syncer_config_valid 1"]).await;
    let models = get(&format!("{}/v1/models", server.url())).await;
    assert!(models.contains("\"id\":\"a\"") && models.contains("\"id\":\"b\""), "{models}");
    assert_eq!(get(&format!("http://{}/healthz", syncer.address)).await, "ok\n");
    replace(&path, &file(server.addr.port(), "{id: b, source: /b}", "{id: a, source: /a}"));
    syncer
        .shows(&[
            &loaded("a", 0),
            &loaded("b", 1),
            r#"lora_syncer_operations_total{operation="unload",outcome="success"} 1"#,
        ])
        .await;
    assert!(!syncer.page().await.contains("adapter_name=\"c\""), "it is no longer named");
    assert!(!get(&format!("{}/v1/models", server.url())).await.contains("\"id\":\"a\""));
    // Nothing is loaded twice.
    assert!(syncer.page().await.contains(r#"lora_syncer_operations_total{operation="load",outcome="success"} 2"#));
}

#[tokio::test]
async fn a_file_that_cannot_be_used_changes_nothing_and_is_told() {
    let server = server(0).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("configmap.yaml");
    let syncer = start(&path).await;
    syncer.shows(&["lora_syncer_config_valid 0"]).await;
    replace(&path, &file(server.addr.port(), "{id: a, source: /a}", ""));
    syncer.shows(&[&loaded("a", 1), "lora_syncer_config_valid 1"]).await;
    replace(&path, "vLLMLoRAConfig: {port: none}");
    syncer.shows(&["lora_syncer_config_valid 0", &loaded("a", 1)]).await;
}

#[tokio::test]
async fn a_server_that_comes_late_or_begins_anew_gets_its_adapters() {
    // A port that is free, as far as anybody can know.
    let first = server(0).await;
    let port = first.addr.port();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("configmap.yaml");
    std::fs::write(&path, file(port, "{id: a, source: /a}", "")).unwrap();
    let syncer = start(&path).await;
    syncer.shows(&[&loaded("a", 1), "lora_syncer_server_healthy 1"]).await;
    first.refuse().await;
    syncer.shows(&[&loaded("a", 0), "lora_syncer_server_healthy 0"]).await;
    let second = server(port).await;
    syncer.shows(&[&loaded("a", 1), "lora_syncer_server_healthy 1"]).await;
    assert!(get(&format!("{}/v1/models", second.url())).await.contains("\"id\":\"a\""));
}

#[tokio::test]
async fn an_adapter_that_cannot_be_loaded_is_tried_again_less_and_less() {
    let config = Config { port: 0, allow_runtime_lora_updating: false, ..Config::default() };
    let server = Server::start(config).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("configmap.yaml");
    std::fs::write(&path, file(server.addr.port(), "{id: a, source: /a}", "")).unwrap();
    let syncer = start(&path).await;
    let failures = r#"lora_syncer_operations_total{operation="load",outcome="failure"}"#;
    syncer.shows(&[&loaded("a", 0), &format!("{failures} 1")]).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(syncer.page().await.contains(&format!("{failures} 1")), "it rests for 5 s, not for the interval of 1 s");
}
