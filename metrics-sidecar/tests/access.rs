//! Who may read the page: a strict API server, token files, TLS, and two places to listen on.
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
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use metrics_sidecar::Running;
use metrics_sidecar::access::{AccessFlagError, Readers};
use metrics_sidecar::flags::{FlagError, Flags};
use metrics_sidecar::settings;
use stage::api_server::{ApiServer, Fault};
use stage::{Manner, Server, get, sidecar, snapshot};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const READER: &str = "system:serviceaccount:default:inference-gateway-sa-metrics-reader";
/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn acceptor() -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_file(fixture("local-cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(fixture("local-key.pem")).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    TlsAcceptor::from(Arc::new(builder.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap()))
}

/// A sidecar that asks an API server, with an Envoy that prints one family.
struct Scene {
    api: ApiServer,
    envoy: Server,
    running: Running,
    token_file: tempfile::NamedTempFile,
}

impl Scene {
    async fn start(tls: bool, ttl: &str) -> Self {
        let api = ApiServer::start(tls.then(acceptor)).await;
        api.with(|world| {
            world.users.insert("good".to_owned(), READER);
            world.users.insert("other".to_owned(), "somebody");
            world.rules = vec![(READER, "get", "/metrics"), (READER, "get", "/debug/pprof/*")];
        });
        let envoy = Server::start(&[("/stats/prometheus", Manner::Page("envoy_x 1\n".to_owned()))]).await;
        let token_file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(token_file.path(), "sidecar-1\n").unwrap();
        let url = format!("{}://{}", if tls { "https" } else { "http" }, api.address);
        let ca = fixture("local-cert.pem");
        let running = sidecar(&[
            "--metrics-endpoint-auth",
            "--metrics-endpoint-auth-ttl",
            ttl,
            "--kubernetes-api-server",
            &url,
            "--kubernetes-token-file",
            token_file.path().to_str().unwrap(),
            "--kubernetes-ca-file",
            ca.to_str().unwrap(),
            "--envoy-admin",
            &format!("http://{}", envoy.address),
            "--pool",
            "p=static:127.0.0.1:1",
        ])
        .await;
        Self { api, envoy, running, token_file }
    }

    async fn status(&self, path: &str, token: &str) -> u16 {
        get(self.running.addr(), path, &format!("Authorization: Bearer {token}\r\n")).await.status
    }

    fn reviews(&self) -> (usize, usize) {
        self.api.with(|world| (world.tokens.len(), world.accesses.len()))
    }

    async fn stop(self) {
        assert_eq!(self.api.with(|world| std::mem::take(&mut world.complaints)), Vec::<String>::new());
        self.running.stop().await;
    }
}

#[tokio::test]
async fn the_api_server_says_who_may_read_what() {
    for tls in [false, true] {
        let scene = Scene::start(tls, "1m").await;
        assert_eq!(scene.status("/metrics", "good").await, 200, "TLS: {tls}");
        assert_eq!(scene.status("/metrics", "other").await, 403);
        assert_eq!(scene.status("/metrics", "nobodys").await, 401);
        // Each path is a right of its own, as a query is not.
        assert_eq!(scene.status("/stats/prometheus", "good").await, 403);
        assert_eq!(scene.status("/metrics?families=inpick", "good").await, 200);
        let refused = get(scene.running.addr(), "/metrics", "").await;
        assert_eq!((refused.status, refused.header("www-authenticate").as_deref()), (401, Some("Bearer")));
        for path in ["/healthz", "/snapshot"] {
            assert_eq!(get(scene.running.addr(), path, "").await.status, 200, "{path}");
        }
        let (user, verb, path) = scene.api.with(|world| world.accesses[0].clone());
        assert_eq!((user.as_str(), verb.as_str(), path.as_str()), (READER, "get", "/metrics"));
        assert!(snapshot(&scene.running).await.membership.is_some());
        scene.stop().await;
    }
}

#[tokio::test]
async fn the_command_of_the_documentation_works_word_for_word() {
    let scene = Scene::start(false, "1m").await;
    let command = r#"curl -H "Authorization: Bearer $TOKEN" localhost:9090/metrics"#;
    let command = command.replace("9090", &scene.running.addr().port().to_string());
    let ran = tokio::process::Command::new("sh").args(["-c", &command]).env("TOKEN", "good").output().await;
    let ran = ran.unwrap();
    let page = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success() && page.ends_with("envoy_x 1\n"), "{page}{}", String::from_utf8_lossy(&ran.stderr));
    scene.stop().await;
}

#[tokio::test]
async fn answers_are_kept_so_that_scrapes_cost_the_api_server_nothing() {
    let scene = Scene::start(false, "10m").await;
    for _ in 0..5 {
        assert_eq!(scene.status("/metrics", "good").await, 200);
        assert_eq!(scene.status("/metrics", "other").await, 403);
        assert_eq!(scene.status("/metrics", "nobodys").await, 401);
    }
    assert_eq!(scene.reviews(), (3, 2));
    // One that many ask for at once is reviewed once.
    scene.api.with(|world| world.users.insert("second".to_owned(), READER));
    let mut scrapes = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let address = scene.running.addr();
        scrapes.spawn(async move { get(address, "/metrics", "Authorization: Bearer second\r\n").await.status });
    }
    assert_eq!(scrapes.join_all().await, vec![200; 20]);
    assert_eq!(scene.reviews(), (4, 3));
    scene.stop().await;
}

#[tokio::test]
async fn a_revoked_token_ends_with_its_answer_and_a_given_right_begins() {
    let scene = Scene::start(false, "600ms").await;
    assert_eq!(scene.status("/metrics", "good").await, 200);
    assert_eq!(scene.status("/metrics", "other").await, 403);
    scene.api.with(|world| {
        world.users.remove("good");
        world.rules.push(("somebody", "get", "/metrics"));
    });
    let began = Instant::now();
    while (scene.status("/metrics", "good").await, scene.status("/metrics", "other").await) != (401, 200) {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    scene.stop().await;
}

#[tokio::test]
async fn whatever_is_wrong_with_the_api_server_nobody_comes_in() {
    for fault in [
        Fault::Status(500, usize::MAX),
        Fault::Status(429, usize::MAX),
        Fault::Status(404, usize::MAX),
        Fault::OtherKind,
        Fault::Nonsense,
        Fault::NoStatus,
        Fault::Silent,
    ] {
        let scene = Scene::start(false, "1m").await;
        scene.api.with(|world| world.fault = fault.clone());
        let reply = get(scene.running.addr(), "/metrics", "Authorization: Bearer good\r\n").await;
        assert_eq!((reply.status, reply.text().as_str()), (500, "Authentication failed\n"), "{fault:?}");
        // Well again, it is asked again soon.
        scene.api.with(|world| world.fault = Fault::None);
        let began = Instant::now();
        while scene.status("/metrics", "good").await != 200 {
            assert!(began.elapsed() < PATIENCE, "{fault:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        scene.stop().await;
    }
    let scene = Scene::start(false, "1m").await;
    scene.api.with(|world| world.fault = Fault::Status(429, 2));
    assert_eq!(scene.status("/metrics", "good").await, 200, "it was asked for patience and had some");
    scene.stop().await;

    // Away altogether, and one whose certificate nobody vouches for.
    let scene = Scene::start(true, "1m").await;
    std::fs::write(scene.token_file.path(), "").unwrap();
    assert_eq!(scene.status("/metrics", "good").await, 500, "without a credential of its own");
    scene.running.stop().await;
    let envoy = "http://127.0.0.1:1";
    for (url, ca) in [
        ("https://127.0.0.1:1".to_owned(), "local-cert.pem"),
        (format!("https://{}", scene.api.address), "pod-cert.pem"),
    ] {
        let (token, ca) = (tempfile::NamedTempFile::new().unwrap(), fixture(ca));
        std::fs::write(token.path(), "sidecar-1").unwrap();
        let (token_file, ca) = (token.path().to_str().unwrap(), ca.to_str().unwrap());
        let flags = ["--metrics-endpoint-auth", "--kubernetes-api-server", &url, "--kubernetes-token-file", token_file];
        let rest = ["--kubernetes-ca-file", ca, "--envoy-admin", envoy, "--pool", "p=static:127.0.0.1:1"];
        let running = sidecar(&[flags.as_slice(), &rest].concat()).await;
        assert_eq!(get(running.addr(), "/metrics", "Authorization: Bearer good\r\n").await.status, 500, "{url}");
        running.stop().await;
    }
}

#[tokio::test]
async fn the_sidecars_own_token_may_be_rotated() {
    let scene = Scene::start(false, "200ms").await;
    assert_eq!(scene.status("/metrics", "good").await, 200);
    scene.api.with(|world| "sidecar-2".clone_into(&mut world.credential));
    let began = Instant::now();
    while scene.status("/metrics", "good").await != 500 {
        assert!(began.elapsed() < PATIENCE, "the old token is refused");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    std::fs::write(scene.token_file.path(), "sidecar-2").unwrap();
    while scene.status("/metrics", "good").await != 200 {
        assert!(began.elapsed() < PATIENCE, "the new token is not used");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    scene.stop().await;
}

#[tokio::test]
async fn a_burst_of_bad_tokens_does_not_reach_the_api_server_nor_keep_scrapers_out() {
    let scene = Scene::start(false, "200ms").await;
    assert_eq!(scene.status("/metrics", "good").await, 200);
    let began = Instant::now();
    let mut refused = [0, 0];
    for index in 0..300 {
        match scene.status("/metrics", &format!("bad-{index}")).await {
            401 => refused[0] += 1,
            429 => refused[1] += 1,
            other => panic!("{other}"),
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "a few hundred")]
    let reviewed = scene.reviews().0 as f64;
    assert!(refused[1] > 0, "{refused:?}");
    assert!(reviewed <= 1.0 + 20.0 + 5.0 * seconds + 1.0, "{reviewed} reviews within {seconds} s");
    // Its answer is over by now, and it is let in all the same.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = scene.reviews().1;
    assert_eq!(scene.status("/metrics", "good").await, 200);
    assert_eq!(scene.reviews().1, before + 1);
    scene.stop().await;
}

#[tokio::test]
async fn the_live_page_is_for_those_who_may_get_live_although_every_account_may_get_what_begins_with_api() {
    let scene = Scene::start(false, "1m").await;
    scene.api.with(|world| world.rules.push(("somebody", "get", "/live")));
    for path in ["/api/state", "/api/events"] {
        // Whoever scrapes does not see requests by that.
        assert_eq!(scene.status(path, "good").await, 403, "{path}");
    }
    assert_eq!(scene.status("/api/state", "other").await, 200);
    assert_eq!(scene.status("/metrics", "other").await, 403);
    scene.stop().await;
}

#[tokio::test]
async fn scrapers_have_a_place_of_their_own_with_tokens_and_without_the_snapshot() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "scraper\n").unwrap();
    let envoy = Server::start(&[("/stats/prometheus", Manner::Page("envoy_x 1\n".to_owned()))]).await;
    let running = sidecar(&[
        "--metrics-listen",
        "127.0.0.1:0",
        "--metrics-endpoint-token-file",
        file.path().to_str().unwrap(),
        "--envoy-admin",
        &format!("http://{}", envoy.address),
        "--pool",
        "p=static:127.0.0.1:1",
    ])
    .await;
    let (own, scrapers) = (running.addr(), running.metrics_addr().unwrap());
    assert_eq!(get(own, "/snapshot", "").await.status, 200);
    assert_eq!(get(scrapers, "/snapshot", "Authorization: Bearer scraper\r\n").await.status, 404);
    for address in [own, scrapers] {
        assert_eq!(get(address, "/healthz", "").await.status, 200);
        assert_eq!(get(address, "/metrics", "").await.status, 401);
        assert_eq!(get(address, "/metrics", "Authorization: Bearer scrape\r\n").await.status, 401);
        assert_eq!(get(address, "/metrics", "Authorization: Bearer scraper\r\n").await.status, 200);
        // A browser sends no token with a page that it opens. What it opens is what the repository has.
        for (path, text) in [
            ("/", include_str!("../assets/live.html")),
            ("/live.css", include_str!("../assets/live.css")),
            ("/live.js", include_str!("../assets/live.js")),
        ] {
            let reply = get(address, path, "").await;
            assert_eq!((reply.status, reply.text().as_str()), (200, text), "{path}");
        }
        for path in ["/api/state", "/api/events"] {
            assert_eq!(get(address, path, "").await.status, 401, "{path}");
        }
        assert_eq!(get(address, "/api/state", "Authorization: Bearer scraper\r\n").await.status, 200);
    }
    running.stop().await;
    assert!(TcpStream::connect(scrapers).await.is_err(), "it is closed with the rest");
}

/// GET over TLS by those who trust one certificate; `None`: there is no connection.
async fn get_securely(address: SocketAddr, trusted: &Path) -> Option<String> {
    let mut roots = tokio_rustls::rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(trusted).unwrap()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let builder = tokio_rustls::rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let connector = TlsConnector::from(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()));
    let stream = TcpStream::connect(address).await.unwrap();
    let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ok()?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    Some(String::from_utf8(answer).unwrap())
}

#[tokio::test]
async fn certificates_are_taken_anew_when_their_files_change() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    let put = |name: &str| {
        std::fs::copy(fixture(&format!("{name}-cert.pem")), &certificate).unwrap();
        std::fs::copy(fixture(&format!("{name}-key.pem")), &key).unwrap();
    };
    put("local");
    let envoy = Server::start(&[("/stats/prometheus", Manner::Page("envoy_x 1\n".to_owned()))]).await;
    let running = sidecar(&[
        "--metrics-listen",
        "127.0.0.1:0",
        "--metrics-tls-cert-file",
        certificate.to_str().unwrap(),
        "--metrics-tls-key-file",
        key.to_str().unwrap(),
        "--envoy-admin",
        &format!("http://{}", envoy.address),
        "--pool",
        "p=static:127.0.0.1:1",
    ])
    .await;
    let address = running.metrics_addr().unwrap();
    // A client that says nothing holds nobody up.
    let _silent = TcpStream::connect(address).await.unwrap();
    assert!(get_securely(address, &fixture("local-cert.pem")).await.unwrap().contains("envoy_x 1"));
    assert_eq!(get_securely(address, &fixture("local-renewed-cert.pem")).await, None);
    // A key that is not the certificate's changes nothing.
    std::fs::copy(fixture("local-renewed-key.pem"), &key).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(get_securely(address, &fixture("local-cert.pem")).await.is_some());
    put("local-renewed");
    let began = Instant::now();
    while get_securely(address, &fixture("local-renewed-cert.pem")).await.is_none() {
        assert!(began.elapsed() < PATIENCE, "the new certificate is not used");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(get_securely(address, &fixture("local-cert.pem")).await, None);
    // Envoy reads its snapshot plainly.
    assert_eq!(get(running.addr(), "/snapshot", "").await.status, 200);
    running.stop().await;
}

fn parse(flags: &[&str]) -> Result<Readers, Vec<String>> {
    let base = ["test", "--pool", "p=static:127.0.0.1:1"];
    let flags = Flags::try_parse_from(base.iter().chain(flags)).map_err(|error| vec![error.to_string()])?;
    let told = |errors: Vec<FlagError>| errors.iter().map(ToString::to_string).collect();
    flags.parse_all().map(|config| config.access.readers).map_err(told)
}

#[test]
fn the_flag_is_that_of_the_endpoint_picker() {
    assert_eq!(parse(&[]), Ok(Readers::Loopback));
    for off in ["false", "0", "F"] {
        assert_eq!(parse(&[&format!("--metrics-endpoint-auth={off}")]), Ok(Readers::Anyone));
    }
    let server = ["--kubernetes-api-server", "https://10.0.0.1:6443"];
    for on in ["--metrics-endpoint-auth", "--metrics-endpoint-auth=true", "--metrics-endpoint-auth=1"] {
        let readers = parse(&[&[on], server.as_slice()].concat()).unwrap();
        assert!(matches!(readers, Readers::Kubernetes { ttl, .. } if ttl == Duration::from_secs(60)), "{readers:?}");
    }
    // The same as settings of the native module.
    let members = serde_json::json!({
        "pool": ["p=static:127.0.0.1:1"], "metrics-endpoint-auth": true, "kubernetes-api-server": "https://kubernetes.default.svc",
    });
    let config = settings::read(members.as_object().unwrap()).unwrap();
    assert!(matches!(config.access.readers, Readers::Kubernetes { .. }));
}

#[test]
fn what_cannot_work_is_told_by_its_flag() {
    let missing = ["--metrics-endpoint-token-file", "/nothing/there"];
    let (cert, key) = (fixture("local-cert.pem"), fixture("local-renewed-key.pem"));
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    for (flags, told) in [
        (&["--metrics-endpoint-auth=maybe"] as &[&str], "--metrics-endpoint-auth \"maybe\": expected true or false"),
        (&["--metrics-endpoint-auth"], "--metrics-endpoint-auth: not in a pod of Kubernetes"),
        (
            &["--metrics-endpoint-auth", "--kubernetes-api-server", "http://10.0.0.1"],
            "--kubernetes-api-server \"http://10.0.0.1\"",
        ),
        (&["--metrics-endpoint-auth", "--kubernetes-api-server", "nowhere"], "--kubernetes-api-server \"nowhere\""),
        (&["--metrics-endpoint-auth-ttl", "0s"], "--metrics-endpoint-auth-ttl \"0s\""),
        (&missing, "--metrics-endpoint-token-file \"/nothing/there\""),
        (
            &["--metrics-endpoint-auth=false", missing[0], missing[1]],
            "--metrics-endpoint-token-file: --metrics-endpoint-auth=false",
        ),
        (&["--metrics-listen", "9090"], "--metrics-listen \"9090\": expected IP:PORT"),
        (&["--metrics-tls-cert-file", cert], "--metrics-tls-cert-file and --metrics-tls-key-file"),
        (
            &["--metrics-tls-cert-file", cert, "--metrics-tls-key-file", key],
            "--metrics-tls-cert-file and --metrics-tls-key-file",
        ),
        (
            &["--metrics-listen", "127.0.0.1:0", "--metrics-tls-cert-file", cert, "--metrics-tls-key-file", key],
            "--metrics-tls-cert-file \"",
        ),
    ] {
        let errors = parse(flags).unwrap_err();
        assert!(errors.len() == 1 && errors[0].starts_with(told), "{flags:?}: {errors:?}");
    }
}

#[test]
fn the_api_server_of_the_pods_cluster_is_found_by_the_environment() {
    let program = env!("CARGO_BIN_EXE_metrics-sidecar");
    let run = |host: &str, listen: &str| {
        let flags = ["--metrics-endpoint-auth", "--pool", "p=static:127.0.0.1:1", "--listen", listen];
        let command = std::process::Command::new(program)
            .args(flags)
            .env("KUBERNETES_SERVICE_HOST", host)
            .env("KUBERNETES_SERVICE_PORT", "443")
            .output();
        command.unwrap()
    };
    // The address cannot be listened on, so that the process ends once its flags are read.
    for (host, code) in [("", 64), ("10.96.0.1", 1), ("fd00::1", 1)] {
        let ended = run(host, "192.0.2.1:1");
        assert_eq!(ended.status.code(), Some(code), "{host}: {}", String::from_utf8_lossy(&ended.stderr));
    }
    let told = AccessFlagError::NoApiServer.to_string();
    assert!(String::from_utf8_lossy(&run("", "127.0.0.1:0").stderr).contains(&told));
}
