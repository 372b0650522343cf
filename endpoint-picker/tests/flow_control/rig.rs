//! A gateway with flow control in front of pods that answer when they are told to.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use endpoint_picker::head::{RequestHead, ResponseHead};
use endpoint_picker::{Directive, EndpointPicker, Exchange, Plugin, Timestamp};
use snapshot::{EndpointIdentity, Load, Loads, Membership, PoolMembers, ServedModel, State};

use crate::host::Info;
use crate::stats::Stats;

/// Requests that each engine runs at once, and those that it is given beyond.
pub(crate) const SLOTS: u32 = 2;
pub(crate) const CAPACITY: u32 = SLOTS + 1;
const ANSWER: &[u8] = br#"{"choices":[{"message":{"content":"ab"}}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;

/// A gateway with pods that answer when they are told to.
pub(crate) struct Rig {
    pub(crate) picker: EndpointPicker,
    pub(crate) micros: u64,
    pub(crate) generation: u64,
    pub(crate) pods: u16,
    /// The one that is asked for.
    pub(crate) model: &'static str,
    pub(crate) next: usize,
    pub(crate) exchanges: BTreeMap<usize, Exchange>,
    pub(crate) parked: BTreeMap<u64, usize>,
    /// Where requests went, in their order.
    pub(crate) sent: Vec<(usize, SocketAddr)>,
    /// Those that were sent without a list, to whomever Envoy takes.
    pub(crate) unlisted: Vec<usize>,
    pub(crate) running: BTreeMap<usize, SocketAddr>,
    /// Answers of the gateway's own: status, and seconds to wait.
    pub(crate) refused: BTreeMap<usize, (u16, Option<u32>)>,
    /// The codes that they gave.
    pub(crate) codes: BTreeMap<usize, String>,
}

impl Rig {
    pub(crate) fn new(flow_control: &str, pods: u16) -> Self {
        Self::with(&format!(r#""flow_control": {flow_control}"#), pods)
    }

    /// `fields`: of the configuration.
    pub(crate) fn with(fields: &str, pods: u16) -> Self {
        let json = format!(r#"{{{fields}, "objectives": {{"high": 5, "low": -5}}}}"#);
        let Ok(Plugin::Filter(config)) = Plugin::parse(json.as_bytes()) else { panic!("{json}") };
        let mut rig = Self {
            picker: EndpointPicker::new(config, 1),
            micros: 1_000_000_000,
            generation: 0,
            pods,
            model: "m",
            next: 0,
            exchanges: BTreeMap::new(),
            parked: BTreeMap::new(),
            sent: Vec::new(),
            unlisted: Vec::new(),
            running: BTreeMap::new(),
            refused: BTreeMap::new(),
            codes: BTreeMap::new(),
        };
        rig.install(pods);
        // An engine tells how many it runs at once when somebody waits on three pages in a row.
        for _ in 0..3 {
            rig.report(SLOTS, 1);
        }
        rig.report(0, 0);
        rig
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.micros)
    }

    pub(crate) fn install(&mut self, pods: u16) {
        self.install_all((0..pods).map(pod).collect());
    }

    pub(crate) fn install_only(&mut self, address: SocketAddr) {
        self.install_all(vec![address]);
    }

    pub(crate) fn install_all(&mut self, addresses: Vec<SocketAddr>) {
        self.pods = u16::try_from(addresses.len()).unwrap();
        self.generation += 1;
        let endpoints = addresses.into_iter().map(EndpointIdentity::unnamed).collect();
        self.install_members(PoolMembers { name: "default".into(), endpoints, ..PoolMembers::default() });
    }

    /// Each pod serves the model of that name and no other.
    pub(crate) fn install_models(&mut self, names: &[&str]) {
        self.pods = u16::try_from(names.len()).unwrap();
        self.generation += 1;
        let endpoints = (0..self.pods).map(|index| EndpointIdentity {
            models: Some(vec![index.into()]),
            ..EndpointIdentity::unnamed(pod(index))
        });
        let models = names.iter().map(|&name| ServedModel { name: name.into(), ..ServedModel::default() }).collect();
        let endpoints = endpoints.collect();
        self.install_members(PoolMembers { name: "default".into(), endpoints, models, ..PoolMembers::default() });
    }

    fn install_members(&mut self, pool: PoolMembers) {
        self.picker.install_membership(&Membership { epoch: 1, version: self.generation, pools: vec![pool] });
    }

    /// What the pods' pages say, beside which the gateway counts its own requests.
    pub(crate) fn report(&mut self, running: u32, waiting: u32) {
        self.report_all(running, waiting, 0.1);
    }

    /// What they say of their caches.
    pub(crate) fn report_cache(&mut self, usage: f64) {
        self.report_all(0, 0, usage);
    }

    fn report_all(&mut self, running: u32, waiting: u32, usage: f64) {
        self.report_each(vec![load(running, waiting, usage); usize::from(self.pods)]);
    }

    /// Each pod is in that state and has nothing to do.
    pub(crate) fn report_states(&mut self, states: &[State]) {
        self.report_each(states.iter().map(|&state| Load { state, ..load(0, 0, 0.1) }).collect());
    }

    pub(crate) fn report_each(&mut self, endpoints: Vec<Load>) {
        let version = self.generation;
        self.generation += 1;
        self.micros += 50_000;
        let loads = Loads {
            epoch: 1,
            membership_version: version,
            generation: self.generation,
            captured_at_ms: self.micros / 1_000,
            endpoints,
            adapters: Vec::new(),
        };
        self.generation = version;
        self.picker.install_loads(&loads, self.now()).unwrap();
    }

    pub(crate) fn info(&self, served: Option<SocketAddr>) -> Info {
        Info {
            micros: self.micros,
            attempts: served.map(|_| 1),
            details: served.map(|_| "via_upstream"),
            upstream: served,
            ..Info::default()
        }
    }

    /// A request comes; gives its number.
    pub(crate) fn ask(&mut self, objective: &str, flow: &str, prompt: &str) -> usize {
        self.ask_within(objective, flow, prompt, None)
    }

    /// The same of one that says how long it wants to wait.
    pub(crate) fn ask_within(&mut self, objective: &str, flow: &str, prompt: &str, ttl: Option<&str>) -> usize {
        let number = self.next;
        self.next += 1;
        let pairs = [
            (":method", Some("POST")),
            (":path", Some("/v1/chat/completions")),
            ("content-type", Some("application/json")),
            ("x-gateway-inference-objective", Some(objective).filter(|name| !name.is_empty())),
            ("x-gateway-inference-fairness-id", Some(flow).filter(|name| !name.is_empty())),
            ("x-llm-d-inference-ttl", ttl),
        ];
        let pairs = pairs.iter().filter_map(|&(name, value)| Some((name.as_bytes(), value?.as_bytes())));
        let head = RequestHead::read(pairs);
        let model = self.model;
        let body = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"{prompt}"}}]}}"#);
        let (mut info, now) = (self.info(None), self.now());
        let mut exchange = Exchange::default();
        assert_eq!(exchange.on_request_headers(&mut self.picker, &head, false, now), Directive::Wait);
        assert_eq!(exchange.on_request_body(&mut self.picker, [body.as_bytes()], true, &mut info), Directive::Pick);
        let directive = exchange.pick(&mut self.picker, now);
        self.exchanges.insert(number, exchange);
        self.carry_out(number, directive);
        number
    }

    pub(crate) fn carry_out(&mut self, number: usize, directive: Directive) {
        match directive {
            Directive::Send(outbound) => {
                let Some(list) = outbound.destination else { return self.unlisted.push(number) };
                let first: SocketAddr = list.split(',').next().unwrap().parse().unwrap();
                self.sent.push((number, first));
                self.running.insert(number, first);
            }
            Directive::Park(ticket) => {
                assert!(self.exchanges[&number].is_parked());
                assert_eq!(self.parked.insert(ticket, number), None, "a number is used once");
            }
            Directive::Reply(reply) => {
                let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
                assert!(body["error"]["message"].is_string());
                self.codes.insert(number, body["error"]["code"].as_str().unwrap().to_owned());
                self.refused.insert(number, (reply.status, reply.retry_after));
                self.log(number);
            }
            other => panic!("{other:?}"),
        }
    }

    /// What a host does when something ended, and on each tick.
    pub(crate) fn poll(&mut self) {
        while let Some(ticket) = self.picker.poll_wake(self.now()) {
            let number = self.parked.remove(&ticket).unwrap();
            let now = self.now();
            let directive = self.exchanges.get_mut(&number).unwrap().resume(&mut self.picker, now);
            self.carry_out(number, directive);
        }
    }

    pub(crate) fn wait(&mut self, millis: u64) {
        self.micros += millis * 1_000;
        self.poll();
    }

    /// The pod answers.
    pub(crate) fn answer(&mut self, number: usize) {
        let served = self.running.remove(&number).unwrap();
        let mut info = self.info(Some(served));
        let mut exchange = self.exchanges.remove(&number).unwrap();
        let head = ResponseHead { status: 200, json: true, ..ResponseHead::default() };
        exchange.on_response_headers(&mut self.picker, &head, &mut info, false);
        exchange.on_response_body(&mut self.picker, [ANSWER], &mut info, true);
        exchange.on_log(&mut self.picker, &mut info);
        assert!(exchange.is_settled());
        self.poll();
    }

    /// Pods of that kind answer one request after the other, until that one is sent.
    pub(crate) fn answer_until_sent(&mut self, number: usize, is_of: impl Fn(SocketAddr) -> bool) {
        while self.sent().last() != Some(&number) {
            let oldest = self.running.iter().find(|(_, place)| is_of(**place)).map(|(number, _)| *number);
            self.answer(oldest.unwrap());
        }
    }

    /// The stream ends, whatever it was.
    pub(crate) fn log(&mut self, number: usize) {
        let mut info = Info { flags: Some(DOWNSTREAM_CONNECTION_TERMINATION), ..self.info(None) };
        let mut exchange = self.exchanges.remove(&number).unwrap();
        exchange.on_log(&mut self.picker, &mut info);
        assert!(exchange.is_settled());
    }

    /// The client of a request that waits leaves.
    pub(crate) fn leave(&mut self, number: usize) {
        self.log(number);
        self.parked.retain(|_, other| *other != number);
        self.poll();
    }

    /// How often each outcome of flow control was counted.
    pub(crate) fn outcomes(&mut self) -> BTreeMap<String, u64> {
        let stats = Stats::of(self.picker.telemetry_mut().derive()).0.into_iter();
        let counts = stats.filter(|(name, value)| *value > 0 && name.ends_with("request_queue_duration_seconds_count"));
        counts.fold(BTreeMap::new(), |mut sums, (name, value)| {
            let outcome = name.split(';').find_map(|label| label.strip_prefix("outcome=")).unwrap();
            *sums.entry(outcome.to_owned()).or_default() += value;
            sums
        })
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.picker.pool().endpoints().map(|(_, endpoint)| endpoint.in_flight().total()).sum()
    }

    pub(crate) fn waiting(&self) -> u64 {
        self.picker.flow_control().unwrap().requests()
    }

    pub(crate) fn sent(&self) -> Vec<usize> {
        self.sent.iter().map(|(number, _)| *number).collect()
    }

    /// Requests that fill every slot.
    pub(crate) fn fill(&mut self) -> Vec<usize> {
        (0..u32::from(self.pods) * CAPACITY).map(|_| self.ask("", "", "hello")).collect()
    }
}

/// Envoy's response flag of a client that left.
const DOWNSTREAM_CONNECTION_TERMINATION: u64 = 0x10000;

/// A page that was read just now.
pub(crate) fn load(running: u32, waiting: u32, usage: f64) -> Load {
    Load {
        state: State::Fresh,
        age_ms: Some(0),
        waiting: Some(waiting),
        running: Some(running),
        kv_cache_usage: Some(usage),
        ..Load::default()
    }
}

pub(crate) fn pod(index: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 8_000 + index))
}
