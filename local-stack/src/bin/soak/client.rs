//! One client: sends request after request, well and badly behaved, and says how each ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use local_stack::traffic::Job;
use local_stack::{ClientError, HttpClient, HttpResponse};
use rand::Rng as _;
use rand::rngs::SmallRng;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::tally::{MADE_UP, Outcome, Record};
use crate::verdict::{Verdict, is_error};

/// A client that waits longer leaves; a response takes milliseconds unless its pod was told to be silent.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest time that a client which leaves lets its request run before.
const LINGER: Duration = Duration::from_millis(12);
/// Bytes of the response after which a client leaves in the middle of it, at most.
const TASTE: usize = 2048;
/// Envoy closes a connection whose client has gone within this, or something is wrong; a paused one closes none for up to 10 s.
const CLOSE: Duration = Duration::from_secs(25);
/// What a pod puts into each of its responses, errors included.
const POD_HEADER: &str = "x-inference-pod";
/// Share of requests for such a model.
const MADE_UP_SHARE: f64 = 0.03;

/// What all clients of a phase share.
#[derive(Debug)]
pub(crate) struct Phase {
    pub(crate) gateway: SocketAddr,
    pub(crate) start: Instant,
    /// Requests that are still to be begun.
    pub(crate) left: AtomicI64,
    pub(crate) done: AtomicU64,
    /// Every kind of mishap has happened. Until then the clients go on, however many requests that takes.
    pub(crate) is_enough: AtomicBool,
    /// The next request tells the snapshot service to trap.
    pub(crate) trap_service: AtomicBool,
}

impl Phase {
    /// Whether there is more to do.
    pub(crate) fn goes_on(&self) -> bool {
        self.left.load(Ordering::Relaxed) > 0 || !self.is_enough.load(Ordering::Relaxed)
    }

    /// Nothing more is to be begun.
    pub(crate) fn end(&self) {
        self.left.store(0, Ordering::Relaxed);
        self.is_enough.store(true, Ordering::Relaxed);
    }

    /// Takes one request of those that are to be begun.
    fn begin(&self) -> bool {
        let goes_on = self.goes_on();
        self.left.fetch_sub(1, Ordering::Relaxed);
        goes_on
    }
}

/// Sends requests until there are no more to send.
pub(crate) async fn converse(phase: Arc<Phase>, client: HttpClient, mut random: SmallRng) -> Vec<Record> {
    let client = client.with_timeout(PATIENCE);
    let mut records = Vec::new();
    while phase.begin() {
        let mut job = Job::draw(&mut random);
        let is_made_up = random.random_bool(MADE_UP_SHARE);
        if is_made_up {
            rename(&mut job, &mut random);
        }
        let begun = phase.start.elapsed();
        let outcome = match random.random_range(0..100) {
            0..3 => leave_uploading(&phase, &job, &mut random).await,
            3..6 => leave(&phase, &job, Leave::AfterAWhile(LINGER.mul_f64(random.random()))).await,
            6..10 => leave(&phase, &job, Leave::AfterBytes(random.random_range(1..TASTE))).await,
            10..12 => {
                spoil(&mut job, &mut random);
                refused(post(&phase, &client, &job).await)
            }
            12..14 => load_only(client.get(&format!("http://{}/v1/models", phase.gateway)).await),
            _ => outcome(&job, post(&phase, &client, &job).await),
        };
        phase.done.fetch_add(1, Ordering::Relaxed);
        let body_bytes = job.body.len() as u64;
        records.push(Record { outcome, body_bytes, is_made_up, begun, ended: phase.start.elapsed() });
    }
    records
}

async fn post(phase: &Phase, client: &HttpClient, job: &Job) -> Result<HttpResponse, ClientError> {
    let mut request = http::Request::post(format!("http://{}{}", phase.gateway, job.call.path()))
        .header(http::header::CONTENT_TYPE, "application/json");
    if phase.trap_service.swap(false, Ordering::Relaxed) {
        request = request.header("x-inpick-fault", "panic-service");
    }
    client.send(request.body(job.body.clone().into())?).await
}

/// How a request ended that was routed by load alone.
fn load_only(response: Result<HttpResponse, ClientError>) -> Outcome {
    match response {
        Ok(response) if response.status == 200 && response.header(POD_HEADER).is_some() => Outcome::LoadOnly,
        Ok(response) if response.status == 503 && is_crash(&response) => Outcome::NoMachine,
        Ok(response) if response.status.is_server_error() && is_error(&response.text()) => Outcome::LoadOnlyFailed,
        Err(ClientError::Body { .. }) => Outcome::LoadOnlyFailed,
        Err(ClientError::TimedOut { .. }) => Outcome::LoadOnlyLeft,
        Ok(response) => Outcome::Unexplained(format!("{} to /v1/models: {}", response.status, response.text())),
        Err(error) => Outcome::Unexplained(error.to_string()),
    }
}

/// How a whole and valid request ended.
fn outcome(job: &Job, response: Result<HttpResponse, ClientError>) -> Outcome {
    let response = match response {
        Ok(response) => response,
        Err(ClientError::Body { .. }) => return Outcome::BrokenOff,
        Err(ClientError::TimedOut { .. }) => return Outcome::Left,
        Err(error) => return Outcome::Unexplained(error.to_string()),
    };
    let status = response.status.as_u16();
    match (response.header(POD_HEADER).is_some(), status) {
        (true, _) => Outcome::Responded(Verdict::of(job, &response)),
        (false, 503) if is_crash(&response) => Outcome::NoMachine,
        (false, 500..) if is_error(&response.text()) => Outcome::Refused,
        _ => Outcome::Unexplained(format!("{status} {:?} {}", response.headers, response.text())),
    }
}

/// How a request ended whose body is no JSON. A paused Envoy refuses it later, when nobody waits any more.
fn refused(response: Result<HttpResponse, ClientError>) -> Outcome {
    match response {
        Ok(response) if response.status == 400 && is_error(&response.text()) => Outcome::BadRequest,
        Ok(response) if response.status == 503 && is_crash(&response) => Outcome::NoMachine,
        Ok(response) => Outcome::Unexplained(format!("{} to a malformed body: {}", response.status, response.text())),
        Err(ClientError::TimedOut { .. }) => Outcome::BadRequest,
        Err(error) => Outcome::Unexplained(error.to_string()),
    }
}

/// Envoy's local reply in place of a filter whose VM has crashed.
fn is_crash(response: &HttpResponse) -> bool {
    serde_json::from_slice::<Value>(&response.body)
        .is_ok_and(|body| body.pointer("/error/code").is_some_and(|code| code == "wasm_fail_stream"))
}

/// Asks for a model that no pod serves, under a name that was never used before.
fn rename(job: &mut Job, random: &mut SmallRng) {
    let name = format!("{MADE_UP}{:016x}", random.random::<u64>());
    job.body = job.body.replacen(&Value::from(job.model).to_string(), &Value::from(name).to_string(), 1);
}

/// Breaks the JSON: cuts it off, or spoils the byte after its first brace.
fn spoil(job: &mut Job, random: &mut SmallRng) {
    if random.random_bool(0.5) {
        let ends: Vec<usize> = job.body.char_indices().map(|(at, _)| at).skip(1).collect();
        job.body.truncate(ends.get(random.random_range(0..ends.len().max(1))).copied().unwrap_or(1));
    } else {
        job.body.insert(1, '!');
    }
}

enum Leave {
    AfterAWhile(Duration),
    AfterBytes(usize),
}

/// Sends a whole request and leaves at some point of its response.
async fn leave(phase: &Phase, job: &Job, when: Leave) -> Outcome {
    let leaving = async {
        let mut socket = TcpStream::connect(phase.gateway).await?;
        socket.write_all(head(job).as_bytes()).await?;
        socket.write_all(job.body.as_bytes()).await?;
        match when {
            Leave::AfterAWhile(time) => {
                tokio::time::sleep(time).await;
                goodbye(socket).await
            }
            Leave::AfterBytes(count) => {
                let mut response = vec![0; count];
                // The response may be shorter; its connection stays open then, and the client leaves all the same.
                let _ = tokio::time::timeout(LINGER, socket.read_exact(&mut response)).await;
                // What has come and was not read makes the kernel send a reset. Nothing came: only a goodbye proves that the
                // request was read.
                if response.first() == Some(&0) { goodbye(socket).await } else { Ok(()) }
            }
        }
    };
    left(leaving.await, Outcome::Left)
}

/// Sends the head and a part of the body, and leaves.
async fn leave_uploading(phase: &Phase, job: &Job, random: &mut SmallRng) -> Outcome {
    let part = job.body.as_bytes().get(..random.random_range(0..job.body.len())).unwrap_or_default();
    let leaving = async {
        let mut socket = TcpStream::connect(phase.gateway).await?;
        socket.write_all(head(job).as_bytes()).await?;
        socket.write_all(part).await?;
        goodbye(socket).await
    };
    left(leaving.await, Outcome::LeftUploading)
}

fn left(leaving: std::io::Result<()>, outcome: Outcome) -> Outcome {
    match leaving {
        Ok(()) => outcome,
        Err(error) => Outcome::Unexplained(format!("leaving: {error}")),
    }
}

/// Says that nothing more will come and reads on until the other side closes, so that whatever was sent has been read.
async fn goodbye(mut socket: TcpStream) -> std::io::Result<()> {
    socket.shutdown().await?;
    let mut rest = Vec::new();
    match tokio::time::timeout(CLOSE, socket.read_to_end(&mut rest)).await {
        // A reset is a way to close, too.
        Ok(_) => Ok(()),
        Err(_) => Err(std::io::Error::other("the gateway keeps a connection that its client has closed")),
    }
}

fn head(job: &Job) -> String {
    format!(
        "POST {} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        job.call.path(),
        job.body.len()
    )
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};
    use local_stack::traffic::Call;
    use rand::SeedableRng as _;

    use super::*;

    fn response(status: u16, pod: bool, body: &str) -> HttpResponse {
        let mut headers = HeaderMap::new();
        if pod {
            headers.insert(POD_HEADER, "pod-1".parse().unwrap());
        }
        HttpResponse {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: body.to_owned().into(),
            first_byte: Duration::ZERO,
            duration: Duration::ZERO,
        }
    }

    fn of(streamed: bool, response: HttpResponse) -> Outcome {
        let job = Job { call: Call::Chat, model: "m", streamed, body: String::new() };
        outcome(&job, Ok(response))
    }

    #[test]
    fn responses_of_pods_and_local_replies_are_told_apart() {
        let error = r#"{"error": {"message": "no", "code": 503}}"#;
        assert_eq!(of(false, response(503, true, error)), Outcome::Responded(Verdict::Failed));
        assert_eq!(of(false, response(503, false, error)), Outcome::Refused);
        let crash = r#"{"error": {"message": "failed", "code": "wasm_fail_stream"}}"#;
        assert_eq!(of(false, response(503, false, crash)), Outcome::NoMachine);
        for unexplained in [response(503, false, ""), response(503, false, "text"), response(200, false, "{}")] {
            assert!(matches!(of(false, unexplained), Outcome::Unexplained(_)));
        }
        assert!(matches!(refused(Ok(response(200, true, "{}"))), Outcome::Unexplained(_)));
        assert_eq!(refused(Ok(response(400, false, error))), Outcome::BadRequest);
        assert_eq!(load_only(Ok(response(200, true, "{}"))), Outcome::LoadOnly);
        assert_eq!(load_only(Ok(response(503, false, error))), Outcome::LoadOnlyFailed);
        assert_eq!(load_only(Ok(response(503, false, crash))), Outcome::NoMachine);
        assert!(matches!(load_only(Ok(response(200, false, "{}"))), Outcome::Unexplained(_)));
    }

    #[test]
    fn a_made_up_name_is_the_model_of_an_otherwise_equal_body() {
        let mut random = SmallRng::seed_from_u64(5);
        let mut names = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let mut job = Job::draw(&mut random);
            let mut before: Value = serde_json::from_str(&job.body).unwrap();
            rename(&mut job, &mut random);
            let after: Value = serde_json::from_str(&job.body).unwrap();
            assert!(names.insert(after["model"].as_str().unwrap().to_owned()));
            before["model"] = after["model"].clone();
            assert_eq!(before, after);
        }
        assert!(names.iter().all(|name| name.starts_with(MADE_UP)));
    }

    #[test]
    fn a_spoiled_body_is_no_json() {
        let mut random = SmallRng::seed_from_u64(3);
        for _ in 0..500 {
            let mut job = Job::draw(&mut random);
            spoil(&mut job, &mut random);
            assert!(serde_json::from_str::<Value>(&job.body).is_err() && !job.body.is_empty(), "{}", job.body);
        }
    }
}
