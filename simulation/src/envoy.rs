//! Envoys in virtual time, each with workers of the real core: its ticks, its exchanges, its shared data.

use std::net::SocketAddr;

use endpoint_picker::exchange::{Outbound, StreamInfo};
use endpoint_picker::head::{RequestHead, ResponseHead};
use endpoint_picker::rng::Rng;
use endpoint_picker::snapshot_service::{SidecarRequest, SidecarResponse};
use endpoint_picker::worker::{UNUSED_TICK_MILLIS, Worker};
use endpoint_picker::{Config, Directive, EndpointPicker, Exchange, Timestamp};
use hashbrown::HashMap;
use snapshot::ServedModel;

use crate::gateway::{Gateway, Sending, SignalLoss, Usage};
use crate::pod::Pod;
use crate::prompt::{Chat, Prompt};
use crate::shared_store::{Host, SharedStore};
use crate::sidecar::Sidecar;
use crate::text::seed_of;

/// What a round trip to the sidecar takes.
const SIDECAR_MICROS: u64 = 1_000;

/// Replicas of Envoy that share nothing.
#[derive(Debug)]
pub(crate) struct Envoys {
    envoys: Vec<Envoy>,
    rng: Rng,
    exchanges: HashMap<usize, Carried>,
    addresses: Vec<SocketAddr>,
    pods: HashMap<SocketAddr, usize>,
    /// Envoys and workers in which something ended or ticked: what waits there may go on.
    changed: Vec<(usize, usize)>,
}

/// One Envoy with its sidecar.
#[derive(Debug)]
struct Envoy {
    store: SharedStore,
    sidecar: Sidecar,
    workers: Vec<Instance>,
}

/// One worker.
#[derive(Debug)]
struct Instance {
    worker: Worker,
    picker: EndpointPicker,
    /// Requests that wait, by the numbers that the picker gave them.
    parked: HashMap<u64, usize>,
    period_millis: u32,
    next_tick: u64,
    asked: Vec<SidecarRequest>,
    /// The sidecar holds its answer back until something changes or this moment comes.
    asking: Option<Asking>,
}

/// A request to the sidecar under way.
#[derive(Debug)]
struct Asking {
    request: SidecarRequest,
    arrives_at: u64,
    gives_up_at: u64,
}

/// An exchange that an Envoy carries.
#[derive(Debug)]
struct Carried {
    exchange: Exchange,
    envoy: usize,
    worker: usize,
    is_streamed: bool,
    body: String,
}

/// What Envoy says of a stream.
struct Info {
    now: u64,
    upstream: Option<SocketAddr>,
    attempts: u64,
    is_served: bool,
    flags: u64,
}

impl StreamInfo for Info {
    fn now(&mut self) -> Timestamp {
        Timestamp::from_micros(self.now)
    }

    fn upstream_address(&mut self) -> Option<SocketAddr> {
        self.upstream
    }

    fn attempts(&mut self) -> Option<u64> {
        Some(self.attempts)
    }

    fn code_details(&mut self) -> Option<Vec<u8>> {
        let details: &[u8] = if self.is_served { b"via_upstream" } else { b"upstream_reset_before_response_started" };
        Some(details.to_vec())
    }

    fn response_flags(&mut self) -> Option<u64> {
        Some(self.flags)
    }
}

const CONNECTION_FAILURE: u64 = 1 << 5;
const CONNECTION_TERMINATION: u64 = 1 << 6;

/// How many Envoys, and what happens to them.
#[derive(Clone, Debug)]
pub(crate) struct EnvoySettings {
    pub(crate) config: Config,
    pub(crate) replicas: usize,
    pub(crate) workers: usize,
    pub(crate) loss: SignalLoss,
}

impl Envoys {
    pub(crate) fn new(settings: &EnvoySettings, models: &[ServedModel], pods: &[Pod], seed: u64, now: u64) -> Self {
        let mut rng = Rng::new(seed_of(&[seed, 11]));
        let envoys = (0..settings.replicas).map(|_| Envoy::new(settings, models, pods.len(), &mut rng, now)).collect();
        let addresses: Vec<SocketAddr> = pods.iter().map(Pod::address).collect();
        let pods = addresses.iter().enumerate().map(|(index, &address)| (address, index)).collect();
        Self { envoys, rng, exchanges: HashMap::new(), addresses, pods, changed: Vec::new() }
    }

    /// The pods of a list of destinations; without one Envoy's fallback policy chooses.
    fn listed(&mut self, destination: Option<&str>, pods: &[Pod]) -> Vec<usize> {
        let listed = destination.unwrap_or_default().split(',');
        let mut ranked: Vec<usize> =
            listed.filter_map(|entry| self.pods.get(&entry.parse::<SocketAddr>().ok()?).copied()).collect();
        if ranked.is_empty() {
            let members: Vec<usize> = (0..pods.len()).filter(|&pod| pods[pod].is_member()).collect();
            ranked.extend(members.get(self.rng.below(members.len() as u64) as usize));
        }
        ranked
    }

    /// Takes an exchange to its end.
    fn finish(
        &mut self,
        request: usize,
        info: &mut Info,
        answer: impl FnOnce(&mut Carried, &mut EndpointPicker, &mut Info),
    ) {
        let Some(mut carried) = self.exchanges.remove(&request) else { return };
        let picker = &mut self.envoys[carried.envoy].workers[carried.worker].picker;
        answer(&mut carried, picker, info);
        carried.exchange.on_log(picker, info);
        self.changed.push((carried.envoy, carried.worker));
        debug_assert!(carried.exchange.is_settled(), "on_log settles every exchange");
    }
}

impl Gateway for Envoys {
    fn send(&mut self, request: usize, chat: &Chat, _: &Prompt, pods: &[Pod], now: u64) -> Sending {
        let envoy = self.rng.below(self.envoys.len() as u64) as usize;
        let Envoy { store, workers, .. } = &mut self.envoys[envoy];
        let worker = self.rng.below(workers.len() as u64) as usize;
        let instance = &mut workers[worker];
        instance.request_came(store, now);
        let mut exchange = Exchange::default();
        let at = Timestamp::from_micros(now);
        let head = RequestHead {
            method: b"POST",
            path: b"/v1/chat/completions",
            content_type: Some(b"application/json"),
            content_length: Some(chat.body().len() as u64),
            objective: chat.sender.objective.as_deref().map(str::as_bytes),
            fairness_id: chat.sender.fairness_id.as_deref().map(str::as_bytes),
            ..RequestHead::default()
        };
        let picker = &mut instance.picker;
        let mut info = Info { now, upstream: None, attempts: 0, is_served: false, flags: 0 };
        let mut directive = exchange.on_request_headers(picker, &head, false, at);
        if directive == Directive::Wait {
            directive = exchange.on_request_body(picker, [chat.body().as_bytes()], true, &mut info);
        }
        if directive == Directive::Pick {
            directive = exchange.pick(picker, at);
        }
        let carried = Carried { exchange, envoy, worker, is_streamed: chat.is_streamed, body: chat.answer.to_string() };
        match directive {
            Directive::Send(Outbound { destination, .. }) => {
                self.exchanges.insert(request, carried);
                Sending::To(self.listed(destination.as_deref(), pods))
            }
            Directive::Park(number) => {
                self.exchanges.insert(request, carried);
                self.envoys[envoy].workers[worker].parked.insert(number, request);
                Sending::Later
            }
            // It was refused: the client has its answer.
            _ => Sending::To(Vec::new()),
        }
    }

    fn take_resumed(&mut self, pods: &[Pod], now: u64) -> Vec<(usize, Vec<usize>)> {
        let mut resumed = Vec::new();
        let at = Timestamp::from_micros(now);
        for (envoy, worker) in std::mem::take(&mut self.changed) {
            loop {
                let instance = &mut self.envoys[envoy].workers[worker];
                let Some(number) = instance.picker.poll_wake(at) else { break };
                let Some(request) = instance.parked.remove(&number) else { continue };
                let Some(carried) = self.exchanges.get_mut(&request) else { continue };
                let directive = carried.exchange.resume(&mut instance.picker, at);
                if let Directive::Send(Outbound { destination, .. }) = directive {
                    let ranked = self.listed(destination.as_deref(), pods);
                    resumed.push((request, ranked));
                } else {
                    self.exchanges.remove(&request);
                    resumed.push((request, Vec::new()));
                }
            }
        }
        resumed
    }

    fn first_token(&mut self, request: usize, pod: usize, attempt: u64, now: u64) {
        let upstream = self.addresses.get(pod).copied();
        let Some(Carried { exchange, envoy, worker, is_streamed: true, .. }) = self.exchanges.get_mut(&request) else {
            return;
        };
        let picker = &mut self.envoys[*envoy].workers[*worker].picker;
        let mut info = Info { now, upstream, attempts: attempt, is_served: true, flags: 0 };
        let head = ResponseHead { status: 200, event_stream: true, ..ResponseHead::default() };
        exchange.on_response_headers(picker, &head, &mut info, false);
        exchange.on_response_body(picker, [FIRST_EVENTS], &mut info, false);
    }

    fn done(&mut self, request: usize, pod: usize, attempt: u64, usage: Usage, now: u64) {
        let mut info =
            Info { now, upstream: self.addresses.get(pod).copied(), attempts: attempt, is_served: true, flags: 0 };
        self.finish(request, &mut info, |carried, picker, info| {
            if !carried.is_streamed {
                let head = ResponseHead { status: 200, json: true, ..ResponseHead::default() };
                carried.exchange.on_response_headers(picker, &head, info, false);
            }
            let body = if carried.is_streamed { rest(&carried.body, usage) } else { whole(&carried.body, usage) };
            carried.exchange.on_response_body(picker, [body.as_bytes()], info, true);
        });
    }

    fn lost(&mut self, request: usize, pod: usize, attempt: u64, is_begun: bool, now: u64) {
        let flags = if is_begun { CONNECTION_TERMINATION } else { CONNECTION_FAILURE };
        let mut info =
            Info { now, upstream: self.addresses.get(pod).copied(), attempts: attempt, is_served: is_begun, flags };
        self.finish(request, &mut info, |carried, picker, info| {
            if !is_begun {
                let head = ResponseHead { status: 503, ..ResponseHead::default() };
                carried.exchange.on_response_headers(picker, &head, info, false);
            }
        });
    }

    fn next_due(&self) -> u64 {
        self.envoys.iter().map(Envoy::next_due).min().unwrap_or(u64::MAX)
    }

    fn step(&mut self, pods: &[Pod], now: u64) {
        for (place, envoy) in self.envoys.iter_mut().enumerate() {
            let ticked = envoy.step(pods, now);
            self.changed.extend(ticked.into_iter().map(|worker| (place, worker)));
        }
    }
}

impl Envoy {
    fn new(settings: &EnvoySettings, models: &[ServedModel], pods: usize, rng: &mut Rng, now: u64) -> Self {
        let sidecar = Sidecar::new(settings.loss, models.to_vec(), pods, rng.next_u64(), now + rng.below(50_000));
        let instance = |_| {
            let id = rng.next_u64() | 1;
            let picker = EndpointPicker::new(settings.config.clone(), id);
            let worker = Worker::new(id, &picker, ["simulation", "simulation"]);
            let next_tick = now + rng.below(u64::from(UNUSED_TICK_MILLIS) * 1_000);
            Instance {
                worker,
                picker,
                parked: HashMap::new(),
                period_millis: UNUSED_TICK_MILLIS,
                next_tick,
                asked: Vec::new(),
                asking: None,
            }
        };
        let workers = (0..settings.workers).map(instance).collect();
        Self { store: SharedStore::default(), sidecar, workers }
    }

    fn next_due(&self) -> u64 {
        let answers = self.workers.iter().filter_map(|instance| Some(instance.asking.as_ref()?.arrives_at));
        let ticks = self.workers.iter().map(|instance| instance.next_tick);
        ticks.chain(answers).chain([self.sidecar.next_poll()]).min().unwrap_or(u64::MAX)
    }

    /// Gives the workers whose tick it was.
    fn step(&mut self, pods: &[Pod], now: u64) -> Vec<usize> {
        let mut ticked = Vec::new();
        let Self { store, sidecar, workers } = self;
        if sidecar.next_poll() <= now {
            sidecar.poll(pods, now);
        }
        for (place, instance) in workers.iter_mut().enumerate() {
            instance.answer(store, sidecar, now);
            if instance.next_tick <= now {
                instance.tick(store, now);
                ticked.push(place);
            }
        }
        ticked
    }
}

impl Instance {
    /// Calls the worker with its host.
    fn call<T>(
        &mut self,
        store: &mut SharedStore,
        now: u64,
        callback: impl FnOnce(&mut Worker, &mut EndpointPicker, &mut Host<'_>) -> T,
    ) -> T {
        let Self { worker, picker, period_millis, asked, .. } = self;
        let before = *period_millis;
        let result = callback(worker, picker, &mut Host { store, now, period_millis, asked });
        if *period_millis != before {
            self.next_tick = now + u64::from(self.period_millis) * 1_000;
        }
        if let Some(request) = self.asked.pop() {
            let gives_up_at = now + request.timeout_ms * 1_000;
            self.asking = Some(Asking { request, arrives_at: now + SIDECAR_MICROS, gives_up_at });
        }
        result
    }

    fn request_came(&mut self, store: &mut SharedStore, now: u64) {
        self.call(store, now, |worker, picker, host| worker.request_came(picker, host));
    }

    fn tick(&mut self, store: &mut SharedStore, now: u64) {
        self.next_tick = now + u64::from(self.period_millis) * 1_000;
        self.call(store, now, |worker, picker, host| worker.tick(picker, host));
    }

    /// Gives the worker the sidecar's answer, once there is one.
    fn answer(&mut self, store: &mut SharedStore, sidecar: &Sidecar, now: u64) {
        let Some(asking) = self.asking.as_mut().filter(|asking| asking.arrives_at <= now) else { return };
        let tag = asking.request.if_none_match.as_ref().and_then(|tag| tag.parse().ok());
        let body = sidecar.answer(tag, now);
        if body.is_none() && now < asking.gives_up_at && asking.held_until() > now {
            // Held back: something may change with the next poll.
            asking.arrives_at = asking.held_until().min(sidecar.next_poll() + 1);
            return;
        }
        self.asking = None;
        let (status, body): (&[u8], _) = if body.is_some() { (b"200", body) } else { (b"304", None) };
        let body = body.unwrap_or_default();
        let response = SidecarResponse { status, body: &body, is_watched: false };
        self.call(store, now, |worker, _, host| worker.handle_response(host, Some(response)));
    }
}

impl Asking {
    /// Until when the sidecar holds its answer back, as the request's `wait_ms` allows.
    fn held_until(&self) -> u64 {
        let wait_ms = self.request.path.split("wait_ms=").nth(1).and_then(|wait| wait.parse::<u64>().ok()).unwrap_or(0);
        let asked_at = self.gives_up_at - self.request.timeout_ms * 1_000;
        asked_at + wait_ms * 1_000
    }
}

/// What comes with the first token.
const FIRST_EVENTS: &[u8] = b"data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\ndata: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n";

/// The rest of a stream: what is left of the text, in one event, and the usage.
fn rest(text: &str, usage: Usage) -> String {
    let head = r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","#;
    format!(
        "{head}\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":\"stop\"}}]}}\n\n{head}\"choices\":[],{}}}\n\ndata: [DONE]\n\n",
        usage.json()
    )
}

/// An answer in one piece.
fn whole(text: &str, usage: Usage) -> String {
    format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],{}}}"#,
        usage.json()
    )
}

impl Usage {
    fn json(self) -> String {
        let Self { prompt_tokens, output_tokens, cached_tokens } = self;
        let total = prompt_tokens + output_tokens;
        format!(
            r#""usage":{{"prompt_tokens":{prompt_tokens},"total_tokens":{total},"completion_tokens":{output_tokens},"prompt_tokens_details":{{"cached_tokens":{cached_tokens}}}}}"#
        )
    }
}
