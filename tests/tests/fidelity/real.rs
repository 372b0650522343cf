//! Plays a scenario on Envoy: one process for all scenarios, a client of its own for each stream.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bootstrap;
use crate::observed::{self, Milestone, Observed};
use crate::scenario::{Module, Scenario, Step};
use crate::simulated;
use crate::upstream::Upstreams;
use crate::wire;

/// How long Envoy may take to start with all its modules.
const START: Duration = Duration::from_secs(60);
/// How long a step may have no effect before it is taken to have none.
const NO_EFFECT: Duration = Duration::from_millis(30);
/// How long an effect that is expected may take.
const EFFECT: Duration = Duration::from_secs(3);
/// How long nothing may happen before a step's effects are over.
const QUIET: Duration = Duration::from_millis(8);
/// How long what is expected may take to come.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same where a difference is expected.
const PATIENCE_FOR_NOTHING: Duration = Duration::from_millis(500);
/// How often is looked.
const POLL: Duration = Duration::from_millis(2);

/// Runs a command and kills it when the standard input of this shell ends: with the process that holds its other end.
const LEASH: &str = r#""$@" < /dev/null & child=$!; cat > /dev/null; kill -KILL $child"#;

/// Envoy with every scenario's listener.
pub(crate) struct Envoy {
    scenarios: Vec<Scenario>,
    upstreams: Upstreams,
    ports: HashMap<String, u16>,
    admin: SocketAddr,
    logs: Arc<Mutex<Logs>>,
    _process: Child,
    _folder: tempfile::TempDir,
}

#[derive(Debug, Default)]
struct Logs {
    /// What guests have said, by plugin.
    said: HashMap<String, Vec<String>>,
    /// Details of streams that are over, by the value of `x-stream`.
    details: HashMap<String, String>,
    /// Everything else, for an error's message.
    other: Vec<String>,
}

impl Envoy {
    /// The one of this process, which the first call starts with these scenarios.
    pub(crate) fn shared(scenarios: fn() -> Vec<Scenario>) -> &'static Self {
        static SHARED: OnceLock<Envoy> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(scenarios()))
    }

    pub(crate) fn scenario(&self, name: &str) -> &Scenario {
        self.scenarios.iter().find(|scenario| scenario.name == name).expect("the scenario is in the list of all")
    }

    pub(crate) const fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    fn start(scenarios: Vec<Scenario>) -> Self {
        let upstreams = Upstreams::start();
        upstreams.set_snapshot(simulated::snapshot(scenarios.iter(), &upstreams));
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("envoy.json");
        std::fs::write(&config, bootstrap::bootstrap(&scenarios, &upstreams).to_string()).unwrap();
        let admin_file = folder.path().join("admin");
        let binary = local_stack::Artifact::Envoy.find().expect("`make setup` fetches Envoy");
        let mut process = Command::new("sh")
            .args(["-c", LEASH, "envoy"])
            .arg(binary)
            .args(["--concurrency", "1", "--disable-hot-restart", "--log-format", "%v", "--log-level", "warn"])
            .args(["--component-log-level", "wasm:info", "--file-flush-interval-msec", "10"])
            .arg("--admin-address-path")
            .arg(&admin_file)
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let logs = Arc::new(Mutex::new(Logs::default()));
        let (stdout, stderr) = (process.stdout.take().unwrap(), process.stderr.take().unwrap());
        let out = Arc::clone(&logs);
        std::thread::spawn(move || each_line(stdout, |line| out.lock().unwrap().over(line)));
        let err = Arc::clone(&logs);
        std::thread::spawn(move || each_line(stderr, |line| err.lock().unwrap().said(line)));
        let deadline = Instant::now() + START;
        let wait = |what: &str| {
            assert!(Instant::now() < deadline, "no {what}:\n{}", logs.lock().unwrap().other.join("\n"));
            std::thread::sleep(POLL);
        };
        let admin = loop {
            if let Some(admin) = std::fs::read_to_string(&admin_file).ok().and_then(|text| text.parse().ok()) {
                break admin;
            }
            wait("admin address");
        };
        let ports = loop {
            let ports = listening(admin);
            if ports.len() == scenarios.len() {
                break ports;
            }
            wait("listener");
        };
        while !upstreams.snapshot_is_known() {
            wait("snapshot");
        }
        Self { scenarios, upstreams, ports, admin, logs, _process: process, _folder: folder }
    }

    /// Plays it. What `expected` has is waited for, so that only what never comes is missing.
    pub(crate) fn observe(&self, scenario: &Scenario, expected: &Observed) -> Observed {
        let address = SocketAddr::from(([127, 0, 0, 1], self.ports[scenario.name]));
        let mut playing = Playing { envoy: self, scenario, address, clients: Vec::new(), retried: HashMap::new() };
        let mut impossible = Vec::new();
        for (step, milestone) in scenario.steps.iter().zip(&expected.milestones) {
            impossible.extend(playing.take(step, *milestone));
        }
        let deadline = Instant::now() + if scenario.differs { PATIENCE_FOR_NOTHING } else { PATIENCE };
        loop {
            let mut observed = playing.observed();
            observed.impossible.clone_from(&impossible);
            if observed::difference(expected, &observed).is_empty() || Instant::now() > deadline {
                return observed;
            }
            std::thread::sleep(POLL * 5);
        }
    }

    fn stats(&self, scenario: &Scenario) -> BTreeMap<String, u64> {
        let page = get(self.admin, &format!("/stats?filter={}", scenario.name)).unwrap_or_default();
        let values = page.lines().filter_map(|line| line.rsplit_once(": "));
        values
            .filter_map(|(name, value)| {
                let name = name.strip_prefix("wasmcustom.").or_else(|| name.starts_with("wasm.").then_some(name))?;
                Some((name.to_owned(), value.parse().ok()?))
            })
            .filter(|(name, value)| Observed::compares(name, *value, scenario.name))
            .collect()
    }
}

impl Logs {
    /// `wasm log PLUGIN ROOT VM: text`; what a text has behind its first line comes without that in front.
    fn said(&mut self, line: &str) {
        let words = line.strip_prefix("wasm log ").and_then(|rest| rest.split_once(": "));
        match words.and_then(|(who, text)| Some((who.split(' ').next()?, text))) {
            Some((plugin, text)) => self.said.entry(plugin.to_owned()).or_default().push(text.trim_end().to_owned()),
            None => self.other.push(line.to_owned()),
        }
    }

    fn over(&mut self, line: &str) {
        if let Some((stream, details)) = line.strip_suffix(" .").and_then(|line| line.split_once(' ')) {
            self.details.insert(stream.to_owned(), details.to_owned());
        }
    }
}

fn each_line(from: impl std::io::Read, mut what: impl FnMut(&str)) {
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        what(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
}

fn get(from: SocketAddr, path: &str) -> Option<String> {
    let mut socket = TcpStream::connect(from).ok()?;
    write!(socket, "GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").ok()?;
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).ok()?;
    let message = wire::read_response(&bytes, true, false)?;
    Some(String::from_utf8_lossy(&message.body).into_owned())
}

fn listening(admin: SocketAddr) -> HashMap<String, u16> {
    let page: Value =
        get(admin, "/listeners?format=json").and_then(|page| serde_json::from_str(&page).ok()).unwrap_or_default();
    let statuses = page["listener_statuses"].as_array().cloned().unwrap_or_default();
    let port = |status: &Value| {
        let port = status["local_address"]["socket_address"]["port_value"].as_u64()?;
        Some((status["name"].as_str()?.to_owned(), u16::try_from(port).ok()?))
    };
    statuses.iter().filter_map(port).collect()
}

/// A client's connection.
struct Client {
    socket: TcpStream,
    received: Arc<Mutex<Received>>,
    to_head: bool,
    left: bool,
    chunked: bool,
}

#[derive(Debug, Default)]
struct Received {
    bytes: Vec<u8>,
    closed: bool,
}

impl Client {
    fn open(to: SocketAddr, to_head: bool, chunked: bool) -> Self {
        let socket = TcpStream::connect(to).unwrap();
        socket.set_nodelay(true).unwrap();
        let received = Arc::new(Mutex::new(Received::default()));
        let (mut reader, received_by) = (socket.try_clone().unwrap(), Arc::clone(&received));
        std::thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            loop {
                let read = reader.read(&mut buffer).unwrap_or(0);
                let mut received = received_by.lock().unwrap();
                if read == 0 {
                    received.closed = true;
                    return;
                }
                received.bytes.extend(&buffer[..read]);
            }
        });
        Self { socket, received, to_head, left: false, chunked }
    }

    fn activity(&self) -> usize {
        let received = self.received.lock().unwrap();
        received.bytes.len() + usize::from(received.closed)
    }

    fn observed(&self) -> (Option<observed::Message>, bool) {
        let received = self.received.lock().unwrap();
        let closed = received.closed && !self.left;
        let response = wire::read_response(&received.bytes, closed, self.to_head);
        let dropped = closed && response.is_none();
        (response, dropped)
    }
}

struct Playing<'a> {
    envoy: &'a Envoy,
    scenario: &'a Scenario,
    address: SocketAddr,
    clients: Vec<Client>,
    /// Attempts whose response had a status that is retried, by stream.
    retried: HashMap<usize, usize>,
}

impl Playing<'_> {
    fn stream(&self, number: usize) -> String {
        format!("{}/{number}", self.scenario.name)
    }

    /// All that can be seen to change.
    fn activity(&self) -> usize {
        let said = self.envoy.logs.lock().unwrap().said.get(self.scenario.name).map_or(0, Vec::len);
        let clients: usize = self.clients.iter().map(Client::activity).sum();
        said + clients + self.envoy.upstreams.activity(self.scenario.name)
    }

    /// Waits until what a step has started is over: what is expected has come, and then nothing for a while.
    fn settle(&self, before: usize, expected: Milestone) {
        let deadline = Instant::now() + NO_EFFECT;
        while self.activity() == before && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        let deadline = Instant::now() + EFFECT;
        while !self.milestone().reaches(expected) && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        let (mut seen, mut since) = (self.activity(), Instant::now());
        while since.elapsed() < QUIET {
            std::thread::sleep(POLL);
            let now = self.activity();
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
        }
    }

    fn milestone(&self) -> Milestone {
        Milestone::of(&self.streams(), self.said().len())
    }

    /// Takes a step that is expected to lead so far; says if it cannot be taken.
    fn take(&mut self, step: &Step, expected: Milestone) -> Option<String> {
        let before = self.activity();
        let possible = match step {
            Step::Request(number, request) => {
                let client = Client::open(self.address, request.method == "HEAD", request.is_chunked());
                self.clients.push(client);
                self.send(*number, &wire::request_head(request, &self.stream(*number)));
                true
            }
            Step::Body(number, bytes) => {
                self.send(*number, &wire::piece(bytes, self.clients[*number].chunked));
                true
            }
            Step::End(number, trailers) => {
                self.send(*number, &wire::end(trailers.as_ref(), self.clients[*number].chunked));
                true
            }
            Step::Leave(number) => {
                let client = &mut self.clients[*number];
                client.left = true;
                client.socket.shutdown(Shutdown::Both).ok();
                true
            }
            Step::Respond(number, response) => self.write_response(*number, &wire::response_head(response)),
            Step::RespondBody(number, bytes) => {
                let chunked = self.responds_in_chunks(*number);
                self.write_response(*number, &wire::piece(bytes, chunked));
                true
            }
            Step::RespondEnd(number, trailers) => {
                let chunked = self.responds_in_chunks(*number);
                self.write_response(*number, &wire::end(trailers.as_ref(), chunked));
                true
            }
            Step::Reset(number) => self.envoy.upstreams.close(&self.stream(*number), self.tried(*number)),
            Step::Retried(number, status) => {
                let response = format!("HTTP/1.1 {status} Reason\r\ncontent-length: 0\r\n\r\n");
                let possible = self.write_response(*number, response.as_bytes());
                *self.retried.entry(*number).or_default() += 1;
                possible
            }
            Step::TimedOut(_) | Step::NoHost(_) => true,
            Step::Pass(time) => {
                std::thread::sleep(*time);
                return None;
            }
        };
        self.settle(before, expected);
        (!possible).then(|| "a response of an upstream that was not asked".to_owned())
    }

    fn tried(&self, number: usize) -> usize {
        self.retried.get(&number).copied().unwrap_or(0)
    }

    fn send(&mut self, number: usize, bytes: &[u8]) {
        // Envoy may have closed the connection behind its response.
        self.clients[number].socket.write_all(bytes).ok();
    }

    fn write_response(&self, number: usize, bytes: &[u8]) -> bool {
        self.envoy.upstreams.write(&self.stream(number), self.tried(number), bytes)
    }

    fn responds_in_chunks(&self, number: usize) -> bool {
        self.scenario
            .steps
            .iter()
            .any(|step| matches!(step, Step::Respond(of, response) if *of == number && response.is_chunked()))
    }

    fn observed(&self) -> Observed {
        let stats = self.envoy.stats(self.scenario);
        Observed { streams: self.streams(), said: self.said(), stats, ..Observed::default() }
    }

    fn streams(&self) -> Vec<observed::Stream> {
        let streams = self.clients.iter().enumerate().map(|(number, client)| {
            let (response, dropped) = client.observed();
            let name = self.stream(number);
            let attempts = self.envoy.upstreams.received(&name);
            let details = self.envoy.logs.lock().unwrap().details.get(&name).cloned();
            observed::Stream { response, dropped, attempts, details }
        });
        streams.collect()
    }

    fn said(&self) -> Vec<String> {
        if self.scenario.module != Module::Guest {
            return Vec::new();
        }
        self.envoy.logs.lock().unwrap().said.get(self.scenario.name).cloned().unwrap_or_default()
    }
}
