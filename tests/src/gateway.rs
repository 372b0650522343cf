//! A stack with a client, and what tests do to its pods.

use std::fmt::Display;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, header};
use http_body_util::Full;
use local_stack::{Builder, HttpClient, HttpResponse, Mode, Page, Stack};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::figures::{Figure, disagreements};

/// Longer than anything takes on a machine that is busy with other things; only a test that fails waits for it.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks at something that is not there yet.
const POLL: Duration = Duration::from_millis(25);
/// What a page shows must still be so after this: several flushes at the interval of [`builder`].
const STEADY: Duration = Duration::from_millis(350);
/// Gateways that start at a time: with the wasm module Envoy's start takes a core for a second.
const STARTS: usize = 2;
/// Gateways at a time: most of a test is waiting, but each has half a dozen processes.
const AT_A_TIME: usize = 5;

static STARTING: Semaphore = Semaphore::const_new(STARTS);
static TURNS: Semaphore = Semaphore::const_new(AT_A_TIME);

/// A running stack.
#[derive(Debug)]
pub struct Gateway {
    /// Its processes and pages.
    pub stack: Stack,
    /// Keeps connections to it.
    pub client: HttpClient,
    _turn: SemaphorePermit<'static>,
}

impl Deref for Gateway {
    type Target = Stack;

    fn deref(&self) -> &Stack {
        &self.stack
    }
}

impl DerefMut for Gateway {
    fn deref_mut(&mut self) -> &mut Stack {
        &mut self.stack
    }
}

/// Pods keep idle connections for longer than any test takes, because the reserve of a second that Envoy has before a real pod closes one
/// is not enough where a dozen stacks share two cores.
const KEEP_ALIVE: [&str; 2] = ["--timeout-keep-alive", "600"];

/// A stack of pods that respond at once, with statistics ten times a second so that tests need not wait for them.
#[must_use]
pub fn builder(mode: Mode, pods: usize, plugin_config: Value) -> Builder {
    let mut config = plugin_config;
    if config["metrics"]["flush_interval_ms"].is_null() {
        config["metrics"]["flush_interval_ms"] = json!(100);
    }
    Stack::builder()
        .mode(mode)
        .pods(pods)
        .vllm_sim_args(KEEP_ALIVE)
        .vllm_sim_args(["--speed", "0"])
        .plugin_config(config)
}

/// Calls `look` until it succeeds; panics with its last failure at the deadline.
pub async fn eventually<T, E: Display>(what: &str, mut look: impl AsyncFnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(why) if start.elapsed() > DEADLINE => panic!("{what}: not within {DEADLINE:?}: {why}"),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

impl Gateway {
    /// Starts a stack when it is its turn.
    pub async fn start(builder: Builder) -> Self {
        let turn = TURNS.acquire().await.unwrap();
        let start = STARTING.acquire().await.unwrap();
        let stack = builder.start().await.unwrap();
        drop(start);
        Self { stack, client: HttpClient::new(), _turn: turn }
    }

    /// POST of a JSON text.
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> HttpResponse {
        self.client.post_json(&self.url(path), body).await.unwrap()
    }

    /// A request with headers of its own.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> HttpResponse {
        let mut request = Request::builder().method(method).uri(self.url(path));
        if !headers.iter().any(|(name, _)| *name == "content-type") && method == "POST" {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.client.send(request.body(Full::new(body.into())).unwrap()).await.unwrap()
    }

    /// A short chat completion with the pods' own model.
    pub async fn chat(&self) -> HttpResponse {
        self.post("/v1/chat/completions", chat_body(crate::MODEL, false)).await
    }

    /// Has pods tell how many requests they run at once: some wait there for three pages, perhaps more than once on a busy machine. Gives how
    /// many requests that took.
    pub async fn learns_slots(&self, slots: usize) -> u64 {
        let mut sent = 0;
        eventually("pods tell their slots", async || {
            let burst = self.pods.len() * (2 * slots + 3);
            sent += burst as u64;
            assert!(join_all((0..burst).map(|_| self.chat())).await.iter().all(|reply| reply.status == 200));
            // The gauge is told once a second.
            tokio::time::sleep(Duration::from_millis(1_200)).await;
            let page = self.envoy_page().await.map_err(|error| error.to_string())?;
            let told = |addr: &str| page.sum("inpick_learned_slots", &[("endpoint", addr)]);
            let known: Vec<_> = self.pods.iter().map(|pod| told(&pod.addr)).collect();
            if known.iter().all(|known| *known * 2.0 >= slots as f64) { Ok(()) } else { Err(format!("{known:?}")) }
        })
        .await;
        sent
    }

    /// GET.
    pub async fn get(&self, path: &str) -> HttpResponse {
        self.client.get(&self.url(path)).await.unwrap()
    }

    /// Pins the load that a pod's metrics show, and waits until Envoy has heard of a pinned queue.
    pub async fn pin(&self, pod: usize, load: Value) {
        self.pin_unseen(pod, load.clone()).await;
        if let Some(waiting) = load["waiting"].as_u64() {
            let addr = self.pods[pod].addr.clone();
            let expected =
                [crate::figure("inference_pool_per_pod_queue_size", &[("model_server_pod", &addr)], waiting)];
            eventually("a pinned load reaches Envoy", async || {
                let wrong = disagreements(&self.envoy_page().await.unwrap(), &expected);
                if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
            })
            .await;
        }
    }

    /// Pins the load that a pod's metrics show, or frees it with `{}`, and waits for nothing.
    pub async fn pin_unseen(&self, pod: usize, load: Value) {
        self.ask_pod(pod, "POST", "/sim/load", load.to_string()).await;
    }

    /// Waits until the snapshot is older than a second, the unit in which Envoy's page tells its age.
    pub async fn snapshot_is_old(&self) {
        eventually("the snapshot grows old", async || {
            let age = self.envoy_page().await.unwrap().sum("inpick_snapshot_age_seconds", &[]);
            if age >= 1.0 { Ok(()) } else { Err(age) }
        })
        .await;
    }

    /// Gives a pod a fault.
    pub async fn fault(&self, pod: usize, fault: Value) {
        self.ask_pod(pod, "POST", "/sim/fault", fault.to_string()).await;
    }

    /// Ends a pod's faults.
    pub async fn heal(&self, pod: usize) {
        self.ask_pod(pod, "DELETE", "/sim/fault", String::new()).await;
    }

    /// What a pod last received, as `/sim/last-request` describes it.
    pub async fn last_request(&self, pod: usize) -> Value {
        let response = self.ask_pod(pod, "GET", "/sim/last-request", String::new()).await;
        serde_json::from_slice(&response.body).unwrap()
    }

    /// The headers that a pod last received, as JSON text; `None` if it received nothing yet.
    pub async fn last_headers(&self, pod: usize) -> Option<String> {
        let response = self.client.get(&self.pod_url(pod, "/sim/last-request").unwrap()).await.unwrap();
        let request: Value = serde_json::from_slice(&response.body).unwrap();
        response.status.is_success().then(|| request["headers"].to_string())
    }

    /// The body that a pod last received.
    pub async fn last_body(&self, pod: usize) -> Bytes {
        self.ask_pod(pod, "GET", "/sim/last-request/body", String::new()).await.body
    }

    /// What a pod knows of itself.
    pub async fn pod_state(&self, pod: usize) -> Value {
        let response = self.ask_pod(pod, "GET", "/sim/state", String::new()).await;
        serde_json::from_slice(&response.body).unwrap()
    }

    async fn ask_pod(&self, pod: usize, method: &str, path: &str, body: String) -> HttpResponse {
        let request = Request::builder().method(method).uri(self.pod_url(pod, path).unwrap());
        let response = self.client.send(request.body(Full::new(body.into())).unwrap()).await.unwrap();
        assert!(response.status.is_success(), "{method} {path} of pod {pod}: {}", response.text());
        response
    }

    /// Index of the pod that sent a response.
    pub fn pod_of(&self, response: &HttpResponse) -> usize {
        let name =
            response.header("x-inference-pod").unwrap_or_else(|| panic!("no pod responded: {}", response.text()));
        self.pods.iter().position(|pod| pod.name == name).unwrap()
    }

    /// Waits until both pages show every figure, and checks that they go on showing them.
    pub async fn shows(&self, figures: &[Figure]) {
        // Together, as each must be steady for a while.
        tokio::join!(self.envoy_shows(figures), self.sidecar_shows(figures));
    }

    /// The same for Envoy's page alone.
    pub async fn envoy_shows(&self, figures: &[Figure]) {
        self.page_shows("Envoy's page", figures, async || self.envoy_page().await.map_err(|error| error.to_string()))
            .await;
    }

    /// The same for the sidecar's page alone.
    pub async fn sidecar_shows(&self, figures: &[Figure]) {
        self.page_shows("the sidecar's page", figures, async || {
            self.sidecar_page().await.map_err(|error| error.to_string())
        })
        .await;
    }

    async fn page_shows(&self, whose: &str, figures: &[Figure], mut page: impl AsyncFnMut() -> Result<Page, String>) {
        eventually(whose, async || {
            // Who serves it may not be up yet.
            let wrong = disagreements(&page().await?, figures);
            if wrong.is_empty() { Ok(()) } else { Err(format!("\n{}", wrong.join("\n"))) }
        })
        .await;
        tokio::time::sleep(STEADY).await;
        let wrong = disagreements(&page().await.unwrap(), figures);
        assert!(wrong.is_empty(), "{whose} had the right figures and lost them:\n{}", wrong.join("\n"));
    }
}

/// A chat completion of a few tokens.
#[must_use]
pub fn chat_body(model: &str, stream: bool) -> String {
    let mut body =
        json!({"model": model, "messages": [{"role": "user", "content": "Say something short."}], "max_tokens": 5});
    if stream {
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
    }
    body.to_string()
}
