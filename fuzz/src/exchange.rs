//! Sequences of callbacks against exchanges of one picker, in orders that hosts make and in orders that none does, with accounts
//! of what must be in flight and counted kept beside it.
//!
//! Input: a byte that chooses the configuration, then steps of four bytes each: what happens, to which of four exchanges, and two
//! details. Steps of a fixed size, rather than values derived from the whole input, keep a mutation inside its step.

use std::net::SocketAddr;

use endpoint_picker::board::{Board, Count, Post};
use endpoint_picker::head::{RequestHead, ResponseHead};
use endpoint_picker::{Directive, EndpointPicker, Exchange, Plugin, Timestamp};
use snapshot::{Endpoint, Pool, Snapshot, State};

use crate::stats::{Info, Stats};

/// More steps than these find nothing that fewer do not.
const MAX_STEPS: usize = 200;
/// Times stay below: 2^50 microseconds are 35 years, and sums of them still fit a counter.
const MAX_MICROS: u64 = 1 << 50;
const ENDPOINTS: u8 = 4;

const CONFIGS: [&str; 5] = [
    "{}",
    r#"{"no_endpoint":"fail_closed","scheduling":{"picker":"random-picker","ranked":2}}"#,
    r#"{"missing_model":"pass","metrics":{"model":true,"max_models":2},"objectives":{"batch":-2},
        "model_rewrites":[{"name":"r","model":"m","targets":[{"model":"t","weight":1},{"model":"m","weight":1}]},
                          {"name":"any","targets":[{"model":"u","weight":0}]}]}"#,
    r#"{"scheduling":{"scorers":[{"name":"running-requests-size-scorer"}],"ranked":1,"max_snapshot_age_ms":1},
        "metrics":{"objective":true,"max_models":1}}"#,
    r#"{"scheduling":{"scorers":[]},"missing_model":"pass","no_endpoint":"fail_closed"}"#,
];

const REQUESTS: [(&str, &str); 8] = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions?x=1"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/messages"),
    ("GET", "/v1/models"),
    ("POST", "/v1/messages/count_tokens"),
    ("GET", "/health"),
    ("CONNECT", "/v1/realtime"),
];

const REQUEST_CHUNKS: [&[u8]; 9] = [
    br#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#,
    b"",
    br#"{"model":"m","stream":true,"mess"#,
    br#"ages":[]}"#,
    br#"{"prompt":"no model"}"#,
    br#"{"model":"other","model":"x;\n.."}"#,
    br#"{"model":7}"#,
    b"}",
    br#"{"model":"third","max_tokens":3,"stream_options":{"include_usage":true},"stream":true}"#,
];

const RESPONSE_CHUNKS: [&[u8]; 10] = [
    br#"{"choices":[{"message":{"content":"ab"}}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10,"prompt_tokens_details":{"cached_tokens":4}}}"#,
    b"",
    b"data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
    b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n",
    b"data: {\"choices\":[{\"delta\":{\"con",
    b"tent\":\"b\"}}]}\n\n",
    b"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}\n\ndata: [DONE]\n\n",
    b"data: {\"error\":{\"message\":\"engine died\",\"code\":500}}\n\n",
    br#"{"usage":{"prompt_tokens":18446744073709551615,"completion_tokens":18446744073709551615,"prompt_tokens_details":{"cached_tokens":18446744073709551615}}}"#,
    b"\xff\x00",
];

/// What may happen, by the byte that says it; every other byte stands for one of them too.
const STEPS: &[u8; 18] = b"hbtpHBTln+-iwcofde";

/// How far an exchange has come, by what it was told and what it answered.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Phase {
    #[default]
    New,
    Reading,
    Ready,
    Sent,
    Answering,
    Over,
}

/// An exchange and the account kept of it.
#[derive(Default)]
struct Stream {
    exchange: Exchange,
    phase: Phase,
    has_model: bool,
    was_sent: bool,
    replies: u32,
    ranked: Vec<SocketAddr>,
    /// Whose requests in flight hold it.
    charged: Option<SocketAddr>,
    counted: Counted,
}

/// What the statistics hold of it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Counted {
    requests: u64,
    errors: u64,
    bodies: u64,
    durations: u64,
    picks: u64,
}

impl Counted {
    fn in_stats(stats: &Stats) -> Self {
        Self {
            requests: stats.sum("inference_objective_request_total"),
            errors: stats.sum("inference_objective_request_error_total"),
            bodies: stats.sum("inpick_request_bodies_total"),
            durations: stats.sum("inference_objective_request_duration_seconds_count"),
            picks: stats.sum("inpick_picks_total"),
        }
    }

    fn add_change(&mut self, before: Self, after: Self) {
        self.requests += after.requests - before.requests;
        self.errors += after.errors - before.errors;
        self.bodies += after.bodies - before.bodies;
        self.durations += after.durations - before.durations;
        self.picks += after.picks - before.picks;
    }
}

struct Scene {
    picker: EndpointPicker,
    streams: [Stream; 4],
    stats: Stats,
    micros: u64,
    generation: u64,
    /// Statistics are read after each step and set down to the exchange of the step; else they are carried in slices.
    accounts_each_step: bool,
    ended: u64,
}

/// Runs the steps, ends every exchange and checks all accounts.
pub fn check(data: &[u8]) {
    let [config, steps @ ..] = data else { return };
    let config = config.wrapping_sub(b'0');
    let json = CONFIGS[usize::from(config % 8) % CONFIGS.len()];
    let Ok(Plugin::Filter(settings)) = Plugin::parse(json.as_bytes()) else { panic!("{json}") };
    let mut scene = Scene {
        picker: EndpointPicker::new(settings, 1),
        streams: Default::default(),
        stats: Stats::default(),
        micros: 1_000_000,
        generation: 0,
        accounts_each_step: config & 8 == 0,
        ended: 0,
    };
    scene.install(0x0F, 0);
    scene.picker.confirm(Timestamp::from_micros(scene.micros));
    for &[what, stream, first, second] in steps.as_chunks::<4>().0.iter().take(MAX_STEPS) {
        let what = STEPS.iter().copied().find(|&step| step == what).unwrap_or(STEPS[usize::from(what) % STEPS.len()]);
        scene.step(what, usize::from(stream % 4), first.wrapping_sub(b'0'), second.wrapping_sub(b'0'));
        scene.check_in_flight();
    }
    scene.finish();
}

impl Scene {
    fn step(&mut self, what: u8, at: usize, first: u8, second: u8) {
        if what == b'n' {
            self.renew(at);
            return;
        }
        if what == b'e' {
            self.renew(at);
        }
        let before = self.accounts_each_step.then(|| {
            self.stats.take(&mut self.picker);
            Counted::in_stats(&self.stats)
        });
        match what {
            b'h' => self.request_headers(at, first, second),
            b'b' => self.request_body(at, first, second),
            b't' => self.ask(at, &[Phase::Reading], |exchange, picker, _| exchange.on_request_trailers(picker)),
            b'p' => self.pick(at),
            b'H' => self.response_headers(at, first, second),
            b'B' => self.response_body(at, first, second),
            b'T' => {
                let now = self.now();
                self.streams[at].exchange.on_response_trailers(&mut self.picker, now);
            }
            b'l' => self.log(at, first),
            b'e' => {
                // Everything that a served request brings, in one step.
                self.request_headers(at, 0, 0);
                self.request_body(at, 0, 1);
                self.response_headers(at, first, second);
                self.response_body(at, 0, 1);
            }
            b'+' => self.micros = (self.micros + (u64::from(first) << (second % 40))).min(MAX_MICROS),
            b'-' => self.micros = self.micros.saturating_sub(u64::from(first) << (second % 40)),
            b'i' => self.install(first, second),
            b'w' => self.picker.install(&Snapshot::default()),
            b'c' => self.picker.confirm(self.now()),
            b'o' => self.take_board(first, second),
            b'f' => self.flush(first),
            b'd' => self.picker.record_pick_duration(u64::from(first) << (second % 40)),
            other => panic!("{other} is no step"),
        }
        self.settle(at);
        if let Some(before) = before {
            self.stats.take(&mut self.picker);
            let after = Counted::in_stats(&self.stats);
            self.streams[at].counted.add_change(before, after);
        }
    }

    /// Brings the account of an exchange up to what the exchange says of itself.
    fn settle(&mut self, at: usize) {
        let stream = &mut self.streams[at];
        if stream.exchange.is_settled() {
            if stream.phase != Phase::New {
                stream.phase = Phase::Over;
            }
            stream.charged = None;
        } else {
            assert!(!matches!(stream.phase, Phase::New | Phase::Over), "{:?} is not settled", stream.exchange);
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.micros)
    }

    /// Makes a call that answers with a directive. In another phase than those it belongs to it must change nothing.
    fn ask(
        &mut self,
        at: usize,
        phases: &[Phase],
        call: impl FnOnce(&mut Exchange, &mut EndpointPicker, Timestamp) -> Directive,
    ) {
        let now = self.now();
        let stream = &mut self.streams[at];
        let before = stream.phase;
        let directive = call(&mut stream.exchange, &mut self.picker, now);
        if !phases.contains(&before) {
            assert_eq!(directive, Directive::Continue, "in phase {before:?}");
            let was_settled = matches!(before, Phase::New | Phase::Over);
            assert_eq!(stream.exchange.is_settled(), was_settled, "in phase {before:?}");
            return;
        }
        assert_eq!(stream.replies, 0, "{directive:?} after an answer");
        stream.phase = match directive {
            Directive::Continue => {
                assert_eq!(before, Phase::New, "a request that is looked at is not passed on unpicked");
                Phase::Over
            }
            Directive::Wait => {
                assert!(matches!(before, Phase::New | Phase::Reading));
                Phase::Reading
            }
            Directive::Pick => {
                assert!(matches!(before, Phase::New | Phase::Reading));
                stream.has_model = before == Phase::Reading;
                Phase::Ready
            }
            Directive::Send(outbound) if before == Phase::Ready => {
                assert!(!stream.was_sent);
                stream.was_sent = true;
                let list = outbound.destination.unwrap_or_default();
                stream.ranked = list.split(',').filter_map(|address| address.parse().ok()).collect();
                assert_eq!(list.is_empty(), stream.ranked.is_empty());
                let mut distinct = stream.ranked.clone();
                distinct.sort_unstable();
                distinct.dedup();
                assert!(distinct.len() == stream.ranked.len() && distinct.len() <= self.picker.config().profile.ranked);
                stream.charged = stream.ranked.first().copied();
                Phase::Sent
            }
            Directive::Send(outbound) => {
                assert!(before == Phase::New && outbound.destination.is_none() && outbound.client_destination);
                Phase::Over
            }
            Directive::Reply(reply) => {
                stream.replies += 1;
                assert!((400..600).contains(&reply.status));
                let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
                assert!(body["error"]["message"].is_string());
                Phase::Over
            }
        };
        assert_eq!(stream.exchange.is_settled(), stream.phase == Phase::Over);
    }

    fn request_headers(&mut self, at: usize, first: u8, second: u8) {
        let (method, path) = REQUESTS[usize::from(first % 8)];
        let head = RequestHead {
            method: method.as_bytes(),
            path: path.as_bytes(),
            content_type: None,
            encoded: first & 8 != 0,
            tunnel: method == "CONNECT",
            has_destination: second & 2 != 0,
            has_content_length: second & 4 != 0,
            objective: [None, Some(b"batch".as_slice()), Some(b"\xff")][usize::from(second >> 3) % 3],
        };
        self.ask(at, &[Phase::New], |exchange, picker, now| {
            exchange.on_request_headers(picker, &head, second & 1 != 0, now)
        });
        if second & 64 == 0 {
            self.pick(at);
        }
    }

    fn request_body(&mut self, at: usize, first: u8, second: u8) {
        let chunk = REQUEST_CHUNKS[usize::from(first) % REQUEST_CHUNKS.len()];
        self.ask(at, &[Phase::Reading], |exchange, picker, _| exchange.on_request_body(picker, chunk, second & 1 != 0));
        if second & 64 == 0 {
            self.pick(at);
        }
    }

    fn pick(&mut self, at: usize) {
        self.ask(at, &[Phase::Ready], |exchange, picker, now| exchange.pick(picker, now));
    }

    fn response_headers(&mut self, at: usize, first: u8, second: u8) {
        let stream = &mut self.streams[at];
        let upstream = match second % 8 {
            0 => stream.ranked.first().copied(),
            1 => stream.ranked.get(1).copied(),
            6 => Some(address(200)),
            7 => None,
            last => Some(address(last - 1)),
        };
        let mut info = Info {
            now: self.micros,
            upstream,
            details: [Some("via_upstream"), None, Some("upstream_reset_before_response_started"), Some("")]
                [usize::from(second >> 3) % 4],
            attempts: [Some(1), None, Some(2), Some(u64::MAX)][usize::from(second >> 5) % 4],
            flags: (second & 128 == 0).then_some(1 << (first % 32)),
        };
        let head = ResponseHead {
            status: [200, 200, 404, 503, 413, 0, 301, 500][usize::from(first % 8)],
            json: first & 8 == 0,
            event_stream: first & 8 != 0,
            encoded: first & 16 != 0,
        };
        stream.exchange.on_response_headers(&mut self.picker, &head, &mut info, first & 32 != 0);
        match stream.phase {
            Phase::Sent if !stream.exchange.is_settled() => {
                stream.phase = Phase::Answering;
                let is_known =
                    |by: &SocketAddr| self.picker.pool().endpoints().iter().any(|known| known.load.address == *by);
                if let Some(by) = upstream.filter(|by| stream.charged != Some(*by)) {
                    stream.charged = Some(by).filter(is_known);
                }
            }
            // An answer to a request that was not sent is the proxy's own and ends it.
            Phase::Reading | Phase::Ready => assert!(stream.exchange.is_settled()),
            Phase::Answering => assert!(!stream.exchange.is_settled(), "a second head ends nothing"),
            _ => {}
        }
        self.settle(at);
    }

    fn response_body(&mut self, at: usize, first: u8, second: u8) {
        let chunk = RESPONSE_CHUNKS[usize::from(first) % RESPONSE_CHUNKS.len()];
        let mut info = Info { now: self.micros, ..Info::default() };
        let stream = &mut self.streams[at];
        let is_end = second & 1 != 0;
        stream.exchange.on_response_body(&mut self.picker, chunk.len(), || chunk.to_vec(), &mut info, is_end);
        self.settle(at);
    }

    fn log(&mut self, at: usize, first: u8) {
        let flags = (first % 64 < 32).then_some(1 << (first % 32));
        let mut info = Info { now: self.micros, flags, ..Info::default() };
        let stream = &mut self.streams[at];
        stream.exchange.on_log(&mut self.picker, &mut info);
        assert!(stream.exchange.is_settled(), "the log settles {:?}", stream.exchange);
    }

    /// The host logs a stream, forgets it and begins another.
    fn renew(&mut self, at: usize) {
        let before = self.accounts_each_step.then(|| {
            self.stats.take(&mut self.picker);
            Counted::in_stats(&self.stats)
        });
        self.log(at, 0);
        let mut stream = std::mem::take(&mut self.streams[at]);
        if let Some(before) = before {
            self.stats.take(&mut self.picker);
            stream.counted.add_change(before, Counted::in_stats(&self.stats));
            stream.check_account();
        }
        self.ended += 1;
    }

    fn install(&mut self, first: u8, second: u8) {
        self.generation += 1;
        let states = [State::Fresh, State::Stale, State::Sleeping, State::Unready, State::Unknown];
        let endpoints = (0..ENDPOINTS).filter(|last| first >> last & 1 == 1).map(|last| Endpoint {
            state: states[usize::from((first >> 4).wrapping_mul(last)) % states.len()],
            waiting: [Some(0), Some(u32::MAX), None, Some(u32::from(last))][usize::from(second % 4)],
            running: [Some(0), None, Some(u32::MAX), Some(3)][usize::from(second >> 2) % 4],
            kv_cache_usage: [Some(0.0), Some(1.0), None, Some(0.5)][usize::from(second >> 4) % 4],
            ..Endpoint::unknown(address(last + 1))
        });
        let pools = vec![Pool { name: "default".to_owned(), endpoints: endpoints.collect() }];
        self.picker.install(&Snapshot { epoch: 1, generation: self.generation, captured_at_ms: 0, pools });
    }

    fn take_board(&mut self, first: u8, second: u8) {
        let count = [0, 1, u32::MAX, 7][usize::from(second % 4)];
        let names = [address(1).to_string(), address(first % 8).to_string(), "nobody".to_owned()];
        let posts = (0..=2_u64).map(|worker| Post {
            worker,
            endpoints: names.iter().map(|name| Count { name: name.clone(), count }).collect(),
            ..Post::default()
        });
        self.picker.take_board(&Board { posts: posts.collect() });
    }

    fn flush(&mut self, budget: u8) {
        self.stats.budget = Some(u32::from(budget));
        let ledger = self.picker.ledger_mut();
        ledger.define(&mut self.stats);
        ledger.begin_flush();
        ledger.flush(&mut self.stats);
    }

    /// What the picker has in flight is what the accounts say, endpoint by endpoint and in sum by model.
    fn check_in_flight(&self) {
        let charged =
            |address: &SocketAddr| self.streams.iter().filter(|stream| stream.charged == Some(*address)).count();
        let mut found = 0;
        for endpoint in self.picker.pool().endpoints() {
            let own = endpoint.own_in_flight() as usize;
            assert_eq!(own, charged(&endpoint.load.address), "in flight at {}", endpoint.address);
            found += own;
        }
        assert_eq!(found, self.streams.iter().filter(|stream| stream.charged.is_some()).count(), "some are lost");
        let is_running = |stream: &&Stream| stream.has_model && matches!(stream.phase, Phase::Sent | Phase::Answering);
        let running = self.streams.iter().filter(is_running).count();
        let posted: u32 = self.picker.post(0, self.now()).models.iter().map(|model| model.count).sum();
        assert_eq!(posted as usize, running, "running requests");
    }

    fn finish(mut self) {
        for at in 0..self.streams.len() {
            self.renew(at);
        }
        self.check_in_flight();
        assert!(self.picker.post(0, self.now()).endpoints.is_empty());
        self.stats.take(&mut self.picker);
        self.stats.check_histograms();
        let total = Counted::in_stats(&self.stats);
        assert!(total.requests <= self.ended && total.errors <= self.ended && total.bodies <= self.ended, "{total:?}");
        assert!(total.durations <= total.requests && total.picks <= self.ended, "{total:?}");
        assert!(total.requests <= total.errors + total.durations, "{total:?}: a request left no trace");
    }
}

impl Stream {
    /// What the statistics hold of an exchange that is over.
    fn check_account(&self) {
        let Counted { requests, errors, bodies, durations, picks } = self.counted;
        let story = format!("{:?} of {:?}, sent {}", self.counted, self.phase, self.was_sent);
        assert_eq!(requests, u64::from(self.has_model), "{story}");
        assert!(errors <= 1 && bodies <= 1 && durations <= 1 && picks <= 1, "{story}");
        assert!(durations <= requests && bodies >= requests, "{story}");
        assert!(requests == 0 || errors + durations >= 1, "{story}");
        assert!(self.replies == 0 || (errors, durations, picks) == (1, 0, 0), "{story}");
        assert!(self.was_sent || (durations, picks) == (0, 0), "{story}");
    }
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 8000))
}
