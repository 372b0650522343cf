//! The state of a pod behind its sockets: engines in real time, adapters, faults, and everything that is counted.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::config::{Config, ConfigError};
use crate::engine::{Engine, Event, GenerationRequest, Occupancy, SequenceId};
use crate::fault::FaultPlan;
use crate::http_stats::HttpStats;
use crate::refusal::Refusal;
use crate::response_store::ResponseStore;
use crate::ticket::{Abort, Delivery, Ticket};

/// Occupancy figures to show instead of the true ones. Absent ones stay true.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedLoad {
    /// Requests in the queue.
    #[serde(default)]
    pub waiting: Option<u64>,
    /// Sequences in the batch.
    #[serde(default)]
    pub running: Option<u64>,
    /// Share of the KV blocks in use, 0 to 1.
    #[serde(default)]
    pub kv_cache_usage: Option<f64>,
    /// Adapters in `running_lora_adapters` and, as in vLLM, in `waiting_lora_adapters`.
    #[serde(default)]
    pub lora_adapters: Option<Vec<String>>,
}

/// A request as it came in, byte for byte.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    /// Number of the request among those recorded, from 1.
    pub number: u64,
    /// Method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Headers in the order received; names in lower case.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Whether new work is taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Mode {
    Serving,
    /// The engine stands still; this is what `/metrics` shows of it.
    Frozen {
        page: String,
    },
    Draining,
}

/// A LoRA adapter that requests may name.
#[derive(Clone, Debug)]
pub(crate) struct Adapter {
    pub(crate) name: Arc<str>,
    pub(crate) path: String,
    pub(crate) created: u64,
}

struct LaneState {
    engine: Engine,
    listeners: HashMap<SequenceId, (usize, UnboundedSender<Delivery>)>,
    events: Vec<Event>,
}

struct Lane {
    state: Mutex<LaneState>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Received {
    counts: Vec<(String, u64)>,
    recorded: u64,
    last: Option<ReceivedRequest>,
}

pub(crate) struct Pod {
    pub(crate) config: Config,
    pub(crate) name: String,
    pub(crate) base_names: Vec<String>,
    pub(crate) started_unix: Duration,
    started: Instant,
    lanes: Vec<Lane>,
    mode: Mutex<Mode>,
    /// Copy of `mode` for the engine's path, which must not take that lock.
    frozen: AtomicBool,
    pub(crate) adapters: Mutex<Vec<Adapter>>,
    pub(crate) faults: Mutex<FaultPlan>,
    pub(crate) http: Mutex<HttpStats>,
    pinned: Mutex<Option<PinnedLoad>>,
    received: Mutex<Received>,
    pub(crate) responses: Arc<Mutex<ResponseStore>>,
    pub(crate) in_flight: AtomicUsize,
    pub(crate) aborted: AtomicU64,
    pub(crate) rejected: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) open_connections: AtomicUsize,
    next_id: AtomicU64,
}

impl std::fmt::Debug for Pod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pod").field("name", &self.name).finish_non_exhaustive()
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Abort for Pod {
    fn abort(&self, number: usize, open: &[(usize, SequenceId)]) {
        let Some(lane) = self.lanes.get(number) else {
            return;
        };
        let mut state = lock(&lane.state);
        let now = self.now();
        for (_, id) in open {
            state.listeners.remove(id);
            if state.engine.abort(now, *id) {
                self.aborted.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.advance(&mut state, now);
        drop(state);
        lane.wake.notify_one();
    }
}

impl Pod {
    pub(crate) fn new(config: Config, address: SocketAddr) -> Result<Self, ConfigError> {
        let engine = config.engine()?;
        let lanes = (0..config.engines as u64)
            .map(|number| Lane {
                state: Mutex::new(LaneState {
                    engine: Engine::new(engine.clone(), config.seed.wrapping_add(number)),
                    listeners: HashMap::new(),
                    events: Vec::new(),
                }),
                wake: Notify::new(),
            })
            .collect();
        let started_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let adapters = config
            .lora_modules
            .iter()
            .map(|module| {
                let (name, path) = module.split_once('=').unwrap_or((module, module));
                Adapter { name: name.into(), path: path.to_owned(), created: started_unix.as_secs() }
            })
            .collect();
        Ok(Self {
            name: config.pod_name.clone().unwrap_or_else(|| address.to_string()),
            base_names: config.base_names(),
            started_unix,
            started: Instant::now(),
            lanes,
            mode: Mutex::new(Mode::Serving),
            frozen: AtomicBool::new(false),
            adapters: Mutex::new(adapters),
            faults: Mutex::new(FaultPlan::new(config.faults.clone(), config.seed)),
            http: Mutex::new(HttpStats::default()),
            pinned: Mutex::new(None),
            received: Mutex::new(Received::default()),
            responses: Arc::default(),
            in_flight: AtomicUsize::new(0),
            aborted: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            open_connections: AtomicUsize::new(0),
            next_id: AtomicU64::new(0),
            config,
        })
    }

    /// Seconds since 1970, whole.
    pub(crate) fn unix_time(&self) -> u64 {
        (self.started_unix + self.now()).as_secs()
    }

    /// Sixteen hexadecimal digits, different each time, the same again for the same seed.
    pub(crate) fn new_id(&self) -> String {
        let number = self.next_id.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}", xxh3_64_with_seed(&number.to_le_bytes(), self.config.seed))
    }

    /// Time since the start.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Hands requests, one a choice, to the engine with the least to do.
    pub(crate) fn submit(self: &Arc<Self>, requests: Vec<GenerationRequest>) -> Result<Ticket, Refusal> {
        if *lock(&self.mode) == Mode::Draining {
            return Err(Refusal::ShuttingDown);
        }
        if let Some(limit) = self.config.max_num_queued_reqs {
            let unfinished: usize = self.lanes.iter().map(|lane| lock(&lane.state).engine.unfinished()).sum();
            if unfinished + requests.len() > limit {
                self.rejected.fetch_add(1, Ordering::Relaxed);
                return Err(Refusal::Busy);
            }
        }
        let number = self.least_loaded_lane();
        let (sender, deliveries) = unbounded_channel();
        let mut open = Vec::with_capacity(requests.len());
        if let Some(lane) = self.lanes.get(number) {
            let mut state = lock(&lane.state);
            // Under the lock: the engine's time must not run backwards between two threads.
            let now = self.now();
            self.advance(&mut state, now);
            for (choice, request) in requests.into_iter().enumerate() {
                let id = state.engine.submit(now, request);
                state.listeners.insert(id, (choice, sender.clone()));
                open.push((choice, id));
            }
            self.advance(&mut state, now);
            let more = state.engine.next_event().is_some();
            drop(state);
            if more {
                lane.wake.notify_one();
            }
        }
        Ok(Ticket { engines: self.clone(), lane: number, open, deliveries })
    }

    /// Runs one engine in real time; never returns.
    pub(crate) async fn drive(self: Arc<Self>, number: usize) {
        let Some(lane) = self.lanes.get(number) else {
            return;
        };
        loop {
            let next = if self.frozen.load(Ordering::Acquire) { None } else { lock(&lane.state).engine.next_event() };
            match next {
                Some(at) => {
                    let deadline = tokio::time::Instant::from_std(self.started + at);
                    tokio::select! {
                        () = tokio::time::sleep_until(deadline) => {}
                        () = lane.wake.notified() => {}
                    }
                }
                None => lane.wake.notified().await,
            }
            let mut state = lock(&lane.state);
            // Under the lock: the engine's time must not run backwards between two threads.
            let now = self.now();
            self.advance(&mut state, now);
        }
    }

    fn advance(&self, state: &mut LaneState, now: Duration) {
        if self.frozen.load(Ordering::Acquire) {
            return;
        }
        let mut events = std::mem::take(&mut state.events);
        state.engine.advance(now, &mut events);
        for event in events.drain(..) {
            match event {
                Event::Token { id, index } => {
                    if let Some((choice, sender)) = state.listeners.get(&id) {
                        let _ = sender.send(Delivery::Token { choice: *choice, index });
                    }
                }
                Event::Finished { id, generated, cached_tokens } => {
                    if let Some((choice, sender)) = state.listeners.remove(&id) {
                        let _ = sender.send(Delivery::Finished { choice, generated, cached_tokens });
                    }
                }
            }
        }
        state.events = events;
    }

    /// vLLM's balancing between data-parallel engines: a waiting request weighs four running ones.
    fn least_loaded_lane(&self) -> usize {
        if self.lanes.len() < 2 {
            return 0;
        }
        self.lanes
            .iter()
            .enumerate()
            .min_by_key(|(_, lane)| {
                let load = lock(&lane.state).engine.load();
                load.waiting * 4 + load.running
            })
            .map_or(0, |(number, _)| number)
    }

    /// The engine stands still: `/metrics` keeps showing `page` of it, and requests hang.
    pub(crate) fn freeze(&self, page: String) {
        let mut mode = lock(&self.mode);
        if *mode == Mode::Serving {
            *mode = Mode::Frozen { page };
            self.frozen.store(true, Ordering::Release);
        }
    }

    /// New requests get vLLM's shutdown error, those in flight go on.
    pub(crate) fn drain(&self) {
        self.frozen.store(false, Ordering::Release);
        *lock(&self.mode) = Mode::Draining;
        self.wake_all();
    }

    /// Every request in flight learns that the engine is dead.
    pub(crate) fn crash(&self) {
        for lane in &self.lanes {
            let mut state = lock(&lane.state);
            let now = self.now();
            let listeners = std::mem::take(&mut state.listeners);
            for (id, (_, sender)) in listeners {
                state.engine.abort(now, id);
                let _ = sender.send(Delivery::Died);
            }
        }
    }

    /// Back to normal after freezing or draining.
    pub(crate) fn resume(&self) {
        self.frozen.store(false, Ordering::Release);
        *lock(&self.mode) = Mode::Serving;
        self.wake_all();
    }

    fn wake_all(&self) {
        for lane in &self.lanes {
            lane.wake.notify_one();
        }
    }

    pub(crate) fn mode(&self) -> Mode {
        lock(&self.mode).clone()
    }

    /// Calls `look` with each engine in turn.
    pub(crate) fn each_engine(&self, mut look: impl FnMut(usize, &Engine)) {
        for (number, lane) in self.lanes.iter().enumerate() {
            look(number, &lock(&lane.state).engine);
        }
    }

    /// Counts a step of each engine whose requests are pinned: one that claims to be at work must not look frozen.
    pub(crate) fn pretend_steps(&self) {
        let has_requests = |load: PinnedLoad| load.waiting.max(load.running) > Some(0);
        if self.pinned().is_some_and(has_requests) {
            for lane in &self.lanes {
                lock(&lane.state).engine.pretend_step();
            }
        }
    }

    /// The load of every engine as `/metrics` shows it: pinned figures before true ones.
    pub(crate) fn loads(&self) -> Vec<Occupancy> {
        let pinned = self.pinned();
        let mut loads = Vec::with_capacity(self.lanes.len());
        self.each_engine(|_, engine| loads.push(engine.load()));
        if let Some(pinned) = pinned {
            for load in &mut loads {
                if let Some(running) = pinned.running {
                    load.running = running as usize;
                }
                if let Some(waiting) = pinned.waiting {
                    load.waiting = waiting as usize;
                    load.deferred = 0;
                }
                if let Some(usage) = pinned.kv_cache_usage {
                    load.kv_cache_usage = usage;
                }
            }
        }
        loads
    }

    /// All engines as one.
    pub(crate) fn total_load(&self) -> Occupancy {
        let loads = self.loads();
        let mut total = Occupancy::default();
        for load in &loads {
            total.running += load.running;
            total.waiting += load.waiting;
            total.deferred += load.deferred;
            total.kv_cache_usage += load.kv_cache_usage / loads.len() as f64;
        }
        total
    }

    pub(crate) fn pinned(&self) -> Option<PinnedLoad> {
        lock(&self.pinned).clone()
    }

    pub(crate) fn pin(&self, load: Option<PinnedLoad>) {
        *lock(&self.pinned) = load;
    }

    /// Counts a request, and keeps it as the last one unless it is a probe or a scrape.
    pub(crate) fn record(&self, request: ReceivedRequest, path: &str, keep: bool) {
        let mut received = lock(&self.received);
        match received.counts.iter_mut().find(|(known, _)| known == path) {
            Some((_, count)) => *count += 1,
            None => received.counts.push((path.to_owned(), 1)),
        }
        if keep {
            received.recorded += 1;
            let number = received.recorded;
            received.last = Some(ReceivedRequest { number, ..request });
        }
    }

    pub(crate) fn last_request(&self) -> Option<ReceivedRequest> {
        lock(&self.received).last.clone()
    }

    pub(crate) fn forget_requests(&self) {
        *lock(&self.received) = Received::default();
    }

    /// What GET /sim/state answers.
    pub(crate) fn state(&self, refusing: bool) -> Value {
        let mode = match self.mode() {
            _ if refusing => "refusing",
            Mode::Serving => "serving",
            Mode::Frozen { .. } => "frozen",
            Mode::Draining => "draining",
        };
        let mut engines = Vec::new();
        self.each_engine(|number, engine| {
            let load = engine.load();
            let stats = engine.stats();
            engines.push(json!({
                "engine": number,
                "running": load.running,
                "waiting": load.waiting,
                "deferred": load.deferred,
                "kv_cache_usage": load.kv_cache_usage,
                "preemptions": stats.preemptions,
                "prefix_cache_queries": stats.prefix_cache_queries,
                "prefix_cache_hits": stats.prefix_cache_hits,
                "prompt_tokens": stats.prompt_tokens,
                "generation_tokens": stats.generation_tokens,
                "finished": stats.finished_stop + stats.finished_length,
                "aborted": stats.finished_abort,
            }));
        });
        let received = lock(&self.received);
        let counts: serde_json::Map<String, Value> =
            received.counts.iter().map(|(path, count)| (path.clone(), Value::from(*count))).collect();
        let total: u64 = received.counts.iter().map(|(_, count)| count).sum();
        let adapters: Vec<Value> = lock(&self.adapters).iter().map(|adapter| Value::from(&*adapter.name)).collect();
        json!({
            "pod": self.name,
            "mode": mode,
            "received": counts,
            "received_total": total,
            "in_flight": self.in_flight.load(Ordering::Relaxed),
            "aborted": self.aborted.load(Ordering::Relaxed),
            "rejected": self.rejected.load(Ordering::Relaxed),
            "connections": self.connections.load(Ordering::Relaxed),
            "open_connections": self.open_connections.load(Ordering::Relaxed),
            "faults": lock(&self.faults).faults(),
            "pinned": self.pinned(),
            "lora_adapters": adapters,
            "engines": engines,
        })
    }
}
