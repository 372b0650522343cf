//! Gateways with workers, one sidecar each, in front of scripted pods: everything in virtual time.
//!
//! Each worker is a real `EndpointPicker`, each request a real `Exchange`. What Envoy does between them is written out here: it takes the
//! next entry of the ranked list after a failed connection or a 503, twice at most.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;

use endpoint_picker::exchange::{Outbound, StreamInfo};
use endpoint_picker::head::{RequestHead, ResponseHead};
use endpoint_picker::{Directive, EndpointPicker, Exchange, Plugin, Timestamp};
use snapshot::{EndpointIdentity, Load, Loads, Membership, PoolMembers, ServedModel, State};

use crate::pod::{Behaviour, PageKind, Pod, Reaction};
use crate::stats::Stats;

const ANSWER: &[u8] = br#"{"choices":[{"message":{"content":"ab"}}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;
const POLL_MILLIS: u64 = 50;
const STALE_AFTER_MILLIS: u64 = 2_000;
const RETRIES: usize = 2;

const CONNECTION_FAILURE: u64 = 1 << 5;

/// What a client got.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) status: u16,
    /// Index of the pod that answered.
    pub(crate) pod: Option<usize>,
    pub(crate) sent_at_millis: u64,
    pub(crate) millis: u64,
    /// The body was the API's.
    pub(crate) is_sound: bool,
}

#[derive(Debug)]
struct Gateway {
    workers: Vec<EndpointPicker>,
    tables: Option<Vec<u8>>,
    pages: Vec<Page>,
    is_sidecar_alive: bool,
}

/// The sidecar's view of one pod.
#[derive(Clone, Copy, Debug, Default)]
struct Page {
    load: Load,
    read_at_millis: Option<u64>,
    next_poll_millis: u64,
    /// A slow page on its way.
    arrives_at_millis: Option<u64>,
}

#[derive(Debug)]
struct Request {
    exchange: Exchange,
    gateway: usize,
    worker: usize,
    ranked: Vec<SocketAddr>,
    attempts: u64,
    sent_at_millis: u64,
    pod: Option<usize>,
    outcome: Option<Outcome>,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Event {
    Finished(usize),
    Tick,
}

/// The whole fleet.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) pods: Vec<Pod>,
    gateways: Vec<Gateway>,
    requests: Vec<Request>,
    events: BinaryHeap<Reverse<(u64, usize, Event)>>,
    pub(crate) now_millis: u64,
    sequence: usize,
    generation: u64,
    /// Members by index into `pods`; the version grows with each change.
    members: Vec<usize>,
    membership_version: u64,
}

/// What Envoy says of a stream.
struct Info {
    now_millis: u64,
    upstream: Option<SocketAddr>,
    attempts: u64,
    details: &'static str,
    flags: u64,
}

impl StreamInfo for Info {
    fn now(&mut self) -> Timestamp {
        moment(self.now_millis)
    }

    fn upstream_address(&mut self) -> Option<SocketAddr> {
        self.upstream
    }

    fn attempts(&mut self) -> Option<u64> {
        Some(self.attempts)
    }

    fn code_details(&mut self) -> Option<Vec<u8>> {
        Some(self.details.as_bytes().to_vec())
    }

    fn response_flags(&mut self) -> Option<u64> {
        Some(self.flags)
    }
}

fn moment(millis: u64) -> Timestamp {
    Timestamp::from_micros(millis * 1_000)
}

impl Fleet {
    /// `pods` pods of 50 ms and 8 slots behind `gateways` gateways of `workers` workers; the sidecars have read every page.
    pub(crate) fn new(gateways: usize, workers: usize, pods: u8) -> Self {
        Self::with("{}", gateways, workers, pods)
    }

    pub(crate) fn with(config: &str, gateways: usize, workers: usize, pods: u8) -> Self {
        let Ok(Plugin::Filter(config)) = Plugin::parse(config.as_bytes()) else { panic!("{config} is no filter") };
        let pods: Vec<Pod> = (1..=pods).map(Pod::new).collect();
        let gateway = |gateway: usize| Gateway {
            workers: (0..workers)
                .map(|worker| EndpointPicker::new(config.clone(), (gateway * 100 + worker) as u64))
                .collect(),
            tables: None,
            pages: vec![Page::default(); pods.len()],
            is_sidecar_alive: true,
        };
        let mut fleet = Self {
            gateways: (0..gateways).map(gateway).collect(),
            members: (0..pods.len()).collect(),
            pods,
            requests: Vec::new(),
            events: BinaryHeap::new(),
            now_millis: 1_000_000,
            sequence: 0,
            generation: 0,
            membership_version: 0,
        };
        fleet.set_members((0..fleet.pods.len()).collect());
        fleet.at(fleet.now_millis, Event::Tick);
        fleet.run_for(100);
        fleet
    }

    /// These pods, by index, are the pool from now on.
    pub(crate) fn set_members(&mut self, members: Vec<usize>) {
        self.members = members;
        self.membership_version += 1;
        let endpoints = self.members.iter().map(|&pod| EndpointIdentity::unnamed(self.pods[pod].address)).collect();
        let pool = PoolMembers {
            name: "default".into(),
            endpoints,
            models: vec![ServedModel { name: "m".into(), ..ServedModel::default() }],
            ..PoolMembers::default()
        };
        let membership = Membership { epoch: 1, version: self.membership_version, pools: vec![pool] };
        for gateway in &mut self.gateways {
            for worker in &mut gateway.workers {
                worker.install_membership(&membership);
            }
        }
    }

    pub(crate) fn set_sidecars(&mut self, are_alive: bool) {
        for gateway in &mut self.gateways {
            gateway.is_sidecar_alive = are_alive;
        }
    }

    /// Lets a dead or frozen pod start again, idle.
    pub(crate) fn restart(&mut self, pod: usize) {
        let started_at_ms = self.now_millis;
        self.pods[pod] = Pod { started_at_ms, ..Pod { address: self.pods[pod].address, ..Pod::new(0) } };
    }

    /// Kills a pod: its connections break.
    pub(crate) fn kill(&mut self, pod: usize) {
        self.pods[pod].behaviour = Behaviour::Dead;
        let lost: Vec<usize> = self.pods[pod].running.drain(..).collect();
        let lost: Vec<usize> = lost.into_iter().chain(self.pods[pod].waiting.drain(..)).collect();
        for request in lost {
            self.attempt_failed(request, CONNECTION_FAILURE);
        }
    }

    pub(crate) fn run_for(&mut self, millis: u64) {
        let end = self.now_millis + millis;
        while let Some(&Reverse((at, _, event))) = self.events.peek() {
            if at > end {
                break;
            }
            self.events.pop();
            self.now_millis = at;
            match event {
                Event::Finished(request) => self.finished(request),
                Event::Tick => {
                    self.tick();
                    self.at(at + POLL_MILLIS, Event::Tick);
                }
            }
        }
        self.now_millis = end;
    }

    /// Sends requests for model `m`, one every `every_millis`, to gateways and workers in turn; what the clients got, by order of sending.
    pub(crate) fn send(&mut self, requests: usize, every_millis: u64) -> Vec<Outcome> {
        let first = self.requests.len();
        for _ in 0..requests {
            self.request("m");
            self.run_for(every_millis);
        }
        self.run_for(60_000);
        self.outcomes(first)
    }

    /// Sends one request; its index.
    pub(crate) fn request(&mut self, model: &str) -> usize {
        let index = self.requests.len();
        let gateway = index % self.gateways.len();
        let worker = index / self.gateways.len() % self.gateways[gateway].workers.len();
        let picker = &mut self.gateways[gateway].workers[worker];
        let mut exchange = Exchange::default();
        let now = moment(self.now_millis);
        let head = RequestHead { method: b"POST", path: b"/v1/chat/completions", ..RequestHead::default() };
        assert_eq!(exchange.on_request_headers(picker, &head, false, now), Directive::Wait);
        let body = format!(r#"{{"model":"{model}","messages":[]}}"#);
        let mut info = Info { now_millis: self.now_millis, upstream: None, attempts: 0, details: "", flags: 0 };
        assert_eq!(exchange.on_request_body(picker, [body.as_bytes()], true, &mut info), Directive::Pick);
        let Directive::Send(Outbound { destination, .. }) = exchange.pick(picker, now) else { panic!("not sent") };
        let ranked = destination.unwrap_or_default().split(',').filter_map(|entry| entry.parse().ok()).collect();
        let (attempts, sent_at_millis) = (0, self.now_millis);
        self.requests.push(Request {
            exchange,
            gateway,
            worker,
            ranked,
            attempts,
            sent_at_millis,
            pod: None,
            outcome: None,
        });
        self.attempt(index);
        index
    }

    /// The client of every request that is under way leaves.
    pub(crate) fn abandon_all(&mut self) {
        for index in 0..self.requests.len() {
            if self.requests[index].outcome.is_none() {
                self.complete(index, 0, false, 1 << 14);
            }
        }
        for pod in &mut self.pods {
            pod.running.clear();
            pod.waiting.clear();
        }
    }

    pub(crate) fn outcomes(&self, first: usize) -> Vec<Outcome> {
        self.requests[first..].iter().filter_map(|request| request.outcome).collect()
    }

    /// In flight by pod, over all gateways and workers.
    pub(crate) fn in_flight(&self) -> Vec<u32> {
        let pickers = || self.gateways.iter().flat_map(|gateway| &gateway.workers);
        let of = |address| {
            pickers()
                .filter_map(|picker| Some(picker.pool().endpoint(picker.pool().find(address)?)?.in_flight().own()))
                .sum()
        };
        self.pods.iter().map(|pod| of(pod.address)).collect()
    }

    /// Every stat that is not 0, summed over gateways and workers.
    pub(crate) fn stats(&mut self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for picker in self.gateways.iter_mut().flat_map(|gateway| &mut gateway.workers) {
            let stats = Stats::of(picker.telemetry_mut().derive());
            for (name, value) in stats.0 {
                *sums.entry(name).or_default() += value;
            }
        }
        sums.retain(|_, value| *value > 0);
        sums
    }

    fn at(&mut self, millis: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((millis, self.sequence, event)));
    }

    fn attempt(&mut self, index: usize) {
        let request = &mut self.requests[index];
        let Some(&address) = request.ranked.get(usize::try_from(request.attempts).unwrap()) else {
            return self.complete(index, 503, false, CONNECTION_FAILURE);
        };
        request.attempts += 1;
        let Some(pod) = self.pods.iter().position(|pod| pod.address == address) else { panic!("{address} is no pod") };
        request.pod = Some(pod);
        match self.pods[pod].take(index) {
            Reaction::Refuse => self.attempt_failed(index, CONNECTION_FAILURE),
            Reaction::Answer { status: 503 } => self.attempt_failed(index, 0),
            Reaction::Answer { status } => self.complete(index, status, false, 0),
            Reaction::Babble => self.complete(index, 200, false, 0),
            Reaction::Run { millis } => self.at(self.now_millis + millis, Event::Finished(index)),
            Reaction::Queue | Reaction::Silence => {}
        }
    }

    /// `flags` 0: the pod answered 503 itself.
    fn attempt_failed(&mut self, index: usize, flags: u64) {
        let request = &self.requests[index];
        let attempts = usize::try_from(request.attempts).unwrap();
        if attempts <= RETRIES && attempts < request.ranked.len() {
            self.attempt(index);
        } else {
            self.complete(index, 503, false, flags);
        }
    }

    fn finished(&mut self, index: usize) {
        let Some(pod) = self.requests[index].pod else { return };
        if self.requests[index].outcome.is_some() || !self.pods[pod].running.contains(&index) {
            return;
        }
        if let Some((next, millis)) = self.pods[pod].finish(index) {
            self.at(self.now_millis + millis, Event::Finished(next));
        }
        self.complete(index, 200, true, 0);
    }

    /// The end of a request: an answer of its pod, Envoy's own with `flags`, or (`status` 0) the client's leaving.
    fn complete(&mut self, index: usize, status: u16, is_sound: bool, flags: u64) {
        let request = &mut self.requests[index];
        let picker = &mut self.gateways[request.gateway].workers[request.worker];
        let upstream = request.pod.map(|pod| self.pods[pod].address);
        let details = if flags == 0 { "via_upstream" } else { "upstream_reset_before_response_started" };
        let mut info = Info { now_millis: self.now_millis, upstream, attempts: request.attempts, details, flags };
        if status > 0 {
            let head = ResponseHead { status, json: true, ..ResponseHead::default() };
            request.exchange.on_response_headers(picker, &head, &mut info, false);
            let body = if is_sound { ANSWER } else { b"oops" };
            if request.exchange.reads_response() {
                request.exchange.on_response_body(picker, [body], &mut info, true);
            } else {
                request.exchange.on_response_size(picker, body.len() as u64, false, &mut info, true);
            }
        }
        request.exchange.on_log(picker, &mut info);
        assert!(request.exchange.is_settled());
        request.outcome = Some(Outcome {
            status,
            pod: request.pod.filter(|_| flags == 0),
            sent_at_millis: request.sent_at_millis,
            millis: self.now_millis - request.sent_at_millis,
            is_sound,
        });
    }

    /// What happens every poll interval: sidecars read pages and publish, workers share what they have in flight and the labels.
    fn tick(&mut self) {
        self.generation += 1;
        let now = self.now_millis;
        for gateway in &mut self.gateways {
            gateway.share(moment(now));
            if gateway.is_sidecar_alive {
                for (page, pod) in gateway.pages.iter_mut().zip(&self.pods) {
                    page.poll(pod, now);
                }
                let endpoints = self.members.iter().map(|&pod| gateway.pages[pod].reported(now)).collect();
                let loads = Loads {
                    epoch: 1,
                    membership_version: self.membership_version,
                    generation: self.generation,
                    captured_at_ms: now,
                    endpoints,
                    adapters: Vec::new(),
                };
                for worker in &mut gateway.workers {
                    worker.install_loads(&loads, moment(now)).unwrap();
                }
            }
        }
    }
}

impl Gateway {
    fn share(&mut self, now: Timestamp) {
        for worker in &mut self.workers {
            let admission = worker.telemetry_mut().admission_mut();
            if admission.has_proposals()
                && let Some(table) = admission.merge(self.tables.as_deref())
            {
                admission.learn(&table);
                self.tables = Some(table);
            }
            worker.settle_pending();
        }
        let suspicions: Vec<_> = self.workers.iter().flat_map(|worker| worker.pool().suspicions(now)).collect();
        for worker in &mut self.workers {
            for &(place, suspicion) in &suspicions {
                worker.learn_suspicion(place, suspicion, now);
            }
        }
        let own = |picker: &EndpointPicker| -> Vec<u32> {
            let pool = picker.pool();
            pool.members().iter().filter_map(|&id| Some(pool.endpoint(id)?.in_flight().own())).collect()
        };
        let counts: Vec<Vec<u32>> = self.workers.iter().map(own).collect();
        for (index, worker) in self.workers.iter_mut().enumerate() {
            let others = |place: usize| -> u32 {
                counts.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, counts)| counts[place]).sum()
            };
            let others: Vec<u32> = (0..counts[index].len()).map(others).collect();
            worker.set_others_in_flight(others.into_iter().map(|requests| (requests, 0)));
        }
    }
}

impl Page {
    fn poll(&mut self, pod: &Pod, now: u64) {
        if let Some(arrives_at) = self.arrives_at_millis {
            if now < arrives_at {
                return;
            }
            self.arrives_at_millis = None;
            self.read(pod, now);
        } else if now >= self.next_poll_millis {
            match pod.page {
                PageKind::Slow { millis } if pod.behaviour != Behaviour::Dead => {
                    self.arrives_at_millis = Some(now + millis)
                }
                _ => self.read(pod, now),
            }
        }
        self.next_poll_millis = now + POLL_MILLIS;
    }

    fn read(&mut self, pod: &Pod, now: u64) {
        if let Some(load) = pod.load() {
            self.load = load;
            self.read_at_millis = Some(now);
        }
    }

    fn reported(&self, now: u64) -> Load {
        let age = self.read_at_millis.map(|at| now - at);
        let state = match age {
            None => State::Unknown,
            Some(age) if age <= STALE_AFTER_MILLIS => State::Fresh,
            Some(_) => State::Stale,
        };
        Load { state, age_ms: age, ..self.load }
    }
}
