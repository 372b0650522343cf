//! Sequences of callbacks against exchanges of one picker, in orders that hosts make and in orders that none does, with accounts
//! of what must be in flight and counted kept beside it.
//!
//! Input: a byte that chooses the configuration, then steps of four bytes each: what happens, to which of four exchanges, and two
//! details. Steps of a fixed size, rather than values derived from the whole input, keep a mutation inside its step.

use std::net::SocketAddr;

use endpoint_picker::admission::{Admission, Caps, Subject};
use endpoint_picker::exchange::{Outbound, Refused};
use endpoint_picker::head::{RequestHead, ResponseHead};
use endpoint_picker::pool::EndpointId;
use endpoint_picker::{Directive, EndpointPicker, Exchange, Plugin, Timestamp};
use snapshot::{EndpointIdentity, Load, Loads, Membership, PoolMembers, ServedModel, State};

use crate::host::Info;
use crate::stats::Stats;

/// More steps than these find nothing that fewer do not.
const MAX_STEPS: usize = 200;
/// Times stay below: 2^50 microseconds are 35 years, and sums of them still fit a counter.
const MAX_MICROS: u64 = 1 << 50;
const ENDPOINTS: u8 = 4;

const CONFIGS: [&str; 7] = [
    "{}",
    r#"{"no_endpoint":"fail_closed","scheduling":{"picker":"random-picker","ranked":2}}"#,
    r#"{"missing_model":"pass","metrics":{"model":true,"max_models":2},"objectives":{"batch":-2},
        "model_rewrites":[{"name":"r","model":"m","targets":[{"model":"t","weight":1},{"model":"m","weight":1}]},
                          {"name":"any","targets":[{"model":"u","weight":0}]}]}"#,
    r#"{"scheduling":{"scorers":[{"name":"running-requests-size-scorer"}],"ranked":1,"max_snapshot_age_ms":1},
        "metrics":{"objective":true,"max_models":1,"max_endpoints":2}}"#,
    r#"{"scheduling":{"scorers":[],"max_excluded_percent":100},"missing_model":"pass","no_endpoint":"fail_closed",
        "early_pick_bytes":1}"#,
    r#"{"early_pick_bytes":12,"missing_model":"pass","unknown_model":"pass","early_pick_rest":"pass"}"#,
    r#"{"early_pick_bytes":30,"model_rewrites":[{"name":"r","model":"m","targets":[{"model":"t","weight":1}]}]}"#,
];
/// Names of models in the configurations, which have labels beyond the bound.
const CONFIGURED: [&str; 3] = ["m", "t", "u"];

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
/// The first so many of them ask for a model.
const INFERENCE_REQUESTS: usize = 4;

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
const STEPS: &[u8; 22] = b"hbtpHBTln+-iwcofderaLs";

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
    /// The picker has begun with it, so a record of it is due.
    is_ours: bool,
    /// It asks for a model.
    is_inference: bool,
    was_sent: bool,
    /// The host could not do what keeps an unchanged request from an endpoint.
    is_sealed: bool,
    replies: u32,
    body: Vec<u8>,
    ranked: Vec<SocketAddr>,
    /// Whose requests in flight hold it.
    charged: Option<EndpointId>,
    counted: Counted,
}

/// What the statistics hold of it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Counted {
    requests: u64,
    load_only: u64,
    errors: u64,
    bodies: u64,
    durations: u64,
    picks: u64,
}

impl Counted {
    fn in_stats(stats: &Stats) -> Self {
        Self {
            requests: stats.sum("inference_objective_request_total"),
            load_only: stats.sum("inpick_load_only_requests_total"),
            errors: stats.sum("inference_objective_request_error_total"),
            bodies: stats.sum("inpick_request_bodies_total"),
            durations: stats.sum("inference_objective_request_duration_seconds_count"),
            picks: stats.sum("inpick_picks_total"),
        }
    }

    fn add_change(&mut self, before: Self, after: Self) {
        self.requests += after.requests - before.requests;
        self.load_only += after.load_only - before.load_only;
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
    version: u64,
    /// Members of the newest membership.
    members: usize,
    /// The table of labels in shared data.
    table: Option<Vec<u8>>,
    /// Statistics are read after each step and set down to the exchange of the step; else they are carried in slices.
    accounts_each_step: bool,
    /// Exchanges that are over and that the picker had begun with: for a model, and by load alone.
    ended: (u64, u64),
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
        version: 0,
        members: 0,
        table: None,
        accounts_each_step: config & 8 == 0,
        ended: (0, 0),
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
        let before = self.counted();
        match what {
            b'h' => self.request_headers(at, first, second),
            b'b' => self.request_body(at, first, second),
            b't' => {
                let phases = &[Phase::Reading, Phase::Ready];
                self.ask(at, phases, |exchange, picker, info| exchange.on_request_trailers(picker, info));
            }
            b's' => self.request_size(at, first, second),
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
            b'r' => self.refused(at, first),
            b'+' => self.micros = (self.micros + (u64::from(first) << (second % 40))).min(MAX_MICROS),
            b'-' => self.micros = self.micros.saturating_sub(u64::from(first) << (second % 40)),
            b'i' => self.install(first, second),
            b'w' => {
                self.picker.install_membership(&Membership::default());
                self.members = 0;
            }
            b'L' => self.install_loads(first, second),
            b'c' => self.picker.confirm(self.now()),
            b'a' => self.admit(first, second),
            b'o' => {
                let counts = [0, 1, u32::MAX, 7].map(|count| count * u32::from(second % 2));
                let counts = counts.into_iter().cycle().map(|requests| (requests, requests));
                self.picker.set_others_in_flight(counts.take(usize::from(first % 8)));
            }
            b'f' => self.flush(first),
            b'd' => self.picker.record_pick_duration(u64::from(first) << (second % 40)),
            other => panic!("{other} is no step"),
        }
        self.settle(at);
        self.count_change(at, before);
    }

    /// What is counted up to now, when accounts are kept of each step.
    fn counted(&mut self) -> Option<Counted> {
        self.accounts_each_step.then(|| {
            self.stats.take(&mut self.picker);
            Counted::in_stats(&self.stats)
        })
    }

    /// Sets what was counted since `before` down to an exchange.
    fn count_change(&mut self, at: usize, before: Option<Counted>) {
        let Some(before) = before else { return };
        self.merge_table();
        self.stats.take(&mut self.picker);
        self.streams[at].counted.add_change(before, Counted::in_stats(&self.stats));
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
        call: impl FnOnce(&mut Exchange, &mut EndpointPicker, &mut Info) -> Directive,
    ) {
        let mut info = Info { micros: self.micros, ..Info::default() };
        let before = self.streams[at].phase;
        let directive = call(&mut self.streams[at].exchange, &mut self.picker, &mut info);
        let stream = &mut self.streams[at];
        if !phases.contains(&before) {
            assert_eq!(directive, Directive::Continue, "in phase {before:?}");
            let was_settled = matches!(before, Phase::New | Phase::Over);
            assert_eq!(stream.exchange.is_settled(), was_settled, "in phase {before:?}");
            return;
        }
        assert_eq!(stream.replies, 0, "{directive:?} after an answer");
        stream.is_ours |= directive != Directive::Continue;
        let phase = match directive {
            Directive::Continue => {
                assert!(!matches!(before, Phase::Reading), "a request that is looked at is not passed on unpicked");
                if before == Phase::New { Phase::Over } else { before }
            }
            Directive::Wait => {
                assert!(matches!(before, Phase::New | Phase::Reading));
                Phase::Reading
            }
            Directive::Pick => {
                assert!(matches!(before, Phase::New | Phase::Reading | Phase::Ready));
                Phase::Ready
            }
            Directive::Send(outbound) => {
                assert_eq!(before, Phase::Ready);
                stream.sent(&outbound);
                self.check_ranked(at);
                Phase::Sent
            }
            Directive::Reply(reply) => {
                stream.replied(reply.status, &reply.body);
                // Of negative priority and while the pool is full, or because nobody is there.
                if before == Phase::Ready && reply.status != 429 && reply.status != 400 {
                    assert_eq!(self.pickable().count(), 0, "refused though there are endpoints");
                }
                Phase::Over
            }
            Directive::Hold => panic!("held, though nothing was refused"),
            Directive::Park(_) => panic!("waits, though no configuration here has flow control"),
        };
        let stream = &mut self.streams[at];
        stream.phase = phase;
        assert_eq!(stream.exchange.is_settled(), stream.phase == Phase::Over);
    }

    /// Members that the sidecar does not call unready or asleep.
    fn pickable(&self) -> impl Iterator<Item = EndpointId> {
        let pool = self.picker.pool();
        pool.members().iter().copied().filter(|&id| {
            let state = pool.endpoint(id).unwrap().load().state;
            !matches!(state, State::Unready | State::Sleeping)
        })
    }

    /// The ranked list of a request that was just sent: never empty while somebody may be picked, and without anybody else.
    fn check_ranked(&mut self, at: usize) {
        let pool = self.picker.pool();
        let ranked = &self.streams[at].ranked;
        let ids: Vec<_> = ranked.iter().map(|&address| pool.find(address).unwrap()).collect();
        assert_eq!(ids.is_empty(), self.pickable().next().is_none(), "health and age leave nobody out for good");
        assert!(ids.iter().all(|id| self.pickable().any(|pickable| pickable == *id)), "{ranked:?}");
        let mut distinct = ids.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let most = self.picker.config().profile.ranked;
        assert!(ids.len() <= most, "{ranked:?}");
        // Where the others can take nothing at all, the list begins anew.
        let begins_anew = ids.iter().zip(ids.iter().skip(distinct.len())).all(|(first, again)| first == again);
        assert!(distinct.len() == ids.len() || (begins_anew && ids.len() == most), "{ranked:?}");
        self.streams[at].charged = ids.first().copied();
    }

    fn request_headers(&mut self, at: usize, first: u8, second: u8) {
        let index = usize::from(first % 8);
        let (method, path) = REQUESTS[index];
        let head = RequestHead {
            method: method.as_bytes(),
            path: path.as_bytes(),
            encoded: first & 8 != 0,
            tunnel: method == "CONNECT",
            has_destination: second & 2 != 0,
            content_length: (second & 4 != 0).then_some(u64::from(second)),
            objective: [None, Some(b"batch".as_slice()), Some(b"\xff")][usize::from(second >> 3) % 3],
            ..RequestHead::default()
        };
        if self.streams[at].phase == Phase::New {
            self.streams[at].is_inference = index < INFERENCE_REQUESTS;
        }
        self.ask(at, &[Phase::New], |exchange, picker, info| {
            exchange.on_request_headers(picker, &head, second & 1 != 0, Timestamp::from_micros(info.micros))
        });
        if second & 64 == 0 {
            self.pick(at);
        }
    }

    fn request_body(&mut self, at: usize, first: u8, second: u8) {
        let chunk = REQUEST_CHUNKS[usize::from(first) % REQUEST_CHUNKS.len()];
        let (left, right) = chunk.split_at(usize::from(second >> 1 & 31).min(chunk.len()));
        // Until it is sent, the host holds all of it.
        if matches!(self.streams[at].phase, Phase::Reading | Phase::Ready) {
            self.streams[at].body.extend_from_slice(chunk);
        }
        self.ask(at, &[Phase::Reading, Phase::Ready], |exchange, picker, info| {
            exchange.on_request_body(picker, [left, right], second & 1 != 0, info)
        });
        if second & 64 == 0 {
            self.pick(at);
        }
    }

    fn request_size(&mut self, at: usize, first: u8, second: u8) {
        let mut info = Info { micros: self.micros, ..Info::default() };
        let Stream { exchange, phase, .. } = &mut self.streams[at];
        let (size, was_settled) = (u64::from(first) << (second % 60), exchange.is_settled());
        exchange.on_request_size(&mut self.picker, size, second & 1 != 0, &mut info);
        assert_eq!(exchange.is_settled(), was_settled, "bytes that pass end nothing");
        assert!(size == 0 || !exchange.reads_request(), "a body with a hole is not read on in phase {phase:?}");
    }

    fn pick(&mut self, at: usize) {
        self.ask(at, &[Phase::Ready], |exchange, picker, info| {
            exchange.pick(picker, Timestamp::from_micros(info.micros))
        });
    }

    /// The host could not do what it was told, or what the exchange needs.
    fn refused(&mut self, at: usize, first: u8) {
        let refused = [Refused::Strip, Refused::Body, Refused::Destination, Refused::Splice, Refused::Reply]
            [usize::from(first) % 5];
        let now = self.now();
        let stream = &mut self.streams[at];
        let before = stream.phase;
        stream.is_sealed |= matches!(refused, Refused::Strip | Refused::Splice);
        let directive = stream.exchange.on_refused(&mut self.picker, refused, now);
        let is_harmless = matches!(refused, Refused::Destination | Refused::Reply)
            // What is passed on goes on, read or not.
            || (refused == Refused::Body && before == Phase::Sent);
        if is_harmless || matches!(before, Phase::Answering | Phase::Over) {
            let is_held = refused == Refused::Reply && stream.is_sealed;
            assert_eq!(
                directive,
                if is_held { Directive::Hold } else { Directive::Continue },
                "{refused:?}, {before:?}"
            );
            let was_settled = matches!(before, Phase::New | Phase::Over);
            assert_eq!(stream.exchange.is_settled(), was_settled, "{refused:?} in phase {before:?}");
            return;
        }
        let Directive::Reply(reply) = directive else { panic!("{directive:?} to {refused:?} in phase {before:?}") };
        assert_eq!(reply.status, 500);
        stream.replied(reply.status, &reply.body);
        stream.is_ours = true;
        stream.phase = Phase::Over;
        assert!(stream.exchange.is_settled());
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
            micros: self.micros,
            upstream,
            details: [Some("via_upstream"), None, Some("upstream_reset_before_response_started"), Some("")]
                [usize::from(second >> 3) % 4],
            attempts: [Some(1), None, Some(2), Some(u64::MAX)][usize::from(second >> 5) % 4],
            flags: (second & 128 == 0).then_some(1 << (first % 32)),
            ..Info::default()
        };
        let head = ResponseHead {
            status: [200, 200, 404, 503, 413, 0, 301, 500][usize::from(first % 8)],
            json: first & 8 == 0,
            event_stream: first & 8 != 0,
            encoded: first & 16 != 0,
            ..ResponseHead::default()
        };
        let holder = upstream.map(|address| self.picker.pool().find(address));
        stream.exchange.on_response_headers(&mut self.picker, &head, &mut info, first & 32 != 0);
        match stream.phase {
            Phase::Sent if !stream.exchange.is_settled() => {
                stream.phase = Phase::Answering;
                stream.charged = holder.unwrap_or(stream.charged);
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
        let mut info = Info { micros: self.micros, ..Info::default() };
        let Stream { exchange, phase, .. } = &mut self.streams[at];
        let is_end = second & 1 != 0;
        assert!(*phase == Phase::Answering || !exchange.reads_response());
        let is_lost = second & 2 != 0;
        // Bit 4: the host gives what nobody asked for.
        if (exchange.reads_response() && !is_lost) || second & 16 != 0 {
            let (left, right) = chunk.split_at(usize::from(second >> 5).min(chunk.len()));
            exchange.on_response_body(&mut self.picker, [left, right], &mut info, is_end);
        } else {
            exchange.on_response_size(&mut self.picker, chunk.len() as u64, is_lost, &mut info, is_end);
            assert!(!(is_lost && exchange.reads_response()), "a body with a hole is not read on");
        }
        assert!(!is_end || exchange.is_settled() || *phase != Phase::Answering, "the end settles");
        self.settle(at);
    }

    fn log(&mut self, at: usize, first: u8) {
        let flags = (first % 64 < 32).then_some(1 << (first % 32));
        let mut info = Info { micros: self.micros, flags, ..Info::default() };
        let stream = &mut self.streams[at];
        stream.exchange.on_log(&mut self.picker, &mut info);
        assert!(stream.exchange.is_settled(), "the log settles {:?}", stream.exchange);
    }

    /// The host logs a stream, forgets it and begins another.
    fn renew(&mut self, at: usize) {
        let before = self.counted();
        self.log(at, 0);
        self.settle(at);
        self.count_change(at, before);
        let stream = std::mem::take(&mut self.streams[at]);
        if self.accounts_each_step {
            stream.check_account();
        }
        self.ended.0 += u64::from(stream.is_ours && stream.is_inference);
        self.ended.1 += u64::from(stream.is_ours && !stream.is_inference);
    }

    /// Another membership, and its loads: endpoints leave, return, and come back as another pod.
    fn install(&mut self, first: u8, second: u8) {
        self.version += 1;
        let hosts: Vec<u8> = (0..ENDPOINTS).filter(|last| first >> last & 1 == 1).map(|last| last + 1).collect();
        let (pod, namespace) = [("", ""), ("a", ""), ("b", ""), ("a", "n")][usize::from(second >> 6)];
        let identity = |last: &u8| EndpointIdentity {
            pod: if pod.is_empty() { String::new() } else { format!("{pod}{last}") },
            namespace: namespace.to_owned(),
            ..EndpointIdentity::unnamed(address(*last))
        };
        let identities: Vec<_> = hosts.iter().map(identity).collect();
        let pool = self.picker.pool();
        let known: Vec<_> = identities
            .iter()
            .map(|new| {
                let id = pool.find(new.address)?;
                let old = pool.endpoint(id)?.identity();
                let is_same = old.pod.is_empty()
                    || new.pod.is_empty()
                    || (&old.pod, &old.namespace) == (&new.pod, &new.namespace);
                Some((id, is_same))
            })
            .collect();
        let models = vec!["m".to_owned(), format!("listed-{first}")];
        let models = models.into_iter().map(|name| ServedModel { name, ..ServedModel::default() }).collect();
        let pool =
            PoolMembers { name: "default".to_owned(), endpoints: identities.clone(), models, ..PoolMembers::default() };
        self.picker.install_membership(&Membership { epoch: 1, version: self.version, pools: vec![pool] });
        let pool = self.picker.pool();
        self.members = identities.len();
        assert_eq!(pool.members().len(), self.members);
        for ((&id, identity), known) in pool.members().iter().zip(&identities).zip(known) {
            assert_eq!(pool.endpoint(id).unwrap().identity(), identity);
            assert_eq!(pool.find(identity.address), Some(id));
            if let Some((before, is_same)) = known {
                assert_eq!(id == before, is_same, "an endpoint is its address and its pod");
            }
        }
        self.install_loads(first, second);
    }

    /// Loads of the membership in use; with a certain bit, of another one, which change nothing.
    fn install_loads(&mut self, first: u8, second: u8) {
        let states = [State::Fresh, State::Stale, State::Sleeping, State::Unready, State::Unknown];
        let load = |last: u8| Load {
            state: states[usize::from((first >> 4).wrapping_mul(last)) % states.len()],
            age_ms: [Some(0), Some(3_000), None, Some(u64::MAX)][usize::from(first >> 4).wrapping_add(last.into()) % 4],
            waiting: [Some(0), Some(u32::MAX), None, Some(u32::from(last))][usize::from(second % 4)],
            running: [Some(0), None, Some(u32::MAX), Some(3)][usize::from(second >> 2) % 4],
            kv_cache_usage: [Some(0.0), Some(1.0), None, Some(0.5)][usize::from(second >> 4) % 4],
            block_size: [None, Some(16), Some(u32::MAX), Some(0)][usize::from(second >> 6)],
            num_gpu_blocks: [Some(u32::MAX), None, Some(0), Some(1_000)][usize::from(first >> 6)],
            started_at_ms: (second & 32 != 0).then_some(self.version),
            ..Load::default()
        };
        let endpoints = (0..ENDPOINTS).cycle().take(self.members).map(load).collect();
        let captured_at_ms = self.micros / 1_000;
        let mut loads =
            Loads { epoch: 1, membership_version: self.version, captured_at_ms, endpoints, ..Loads::default() };
        let now = self.now();
        let pool = self.picker.pool();
        let is_current = pool.membership().is_some_and(|version| (version.epoch, version.version) == (1, self.version));
        let confirmed_at = pool.confirmed_at();
        assert_eq!(self.picker.install_loads(&loads, now).is_ok(), is_current);
        if is_current {
            loads.membership_version += 1;
            let confirmed_at = confirmed_at.max(Some(now));
            assert!(self.picker.install_loads(&loads, now.plus_micros(9)).is_err(), "loads of another membership");
            assert_eq!(self.picker.pool().confirmed_at(), confirmed_at);
        } else {
            assert_eq!(self.picker.pool().confirmed_at(), confirmed_at, "refused loads confirm nothing");
        }
    }

    /// A worker's tick, perhaps after another worker's, or without any shared data to merge with.
    fn admit(&mut self, first: u8, second: u8) {
        if second & 1 != 0 {
            self.picker.telemetry_mut().admission_mut().give_up();
            self.picker.settle_pending();
            return;
        }
        if second & 2 != 0 {
            let stats = self.picker.config().stats;
            let bounds =
                Caps { models: stats.max_models, endpoints: stats.max_endpoints, fairness_ids: stats.max_fairness_ids };
            let mut rival = Admission::new(bounds, std::iter::empty());
            rival.propose(Subject::Model, &format!("rival-{first}"));
            if let Some(table) = rival.merge(self.table.as_deref()) {
                self.table = Some(table);
            }
        }
        self.merge_table();
    }

    fn merge_table(&mut self) {
        let admission = self.picker.telemetry_mut().admission_mut();
        if let Some(table) = admission.merge(self.table.as_deref()) {
            admission.learn(&table);
            self.table = Some(table);
        }
        assert!(!self.picker.telemetry().admission().has_proposals());
        self.picker.settle_pending();
    }

    fn flush(&mut self, budget: u8) {
        self.stats.budget = Some(u32::from(budget));
        let ledger = self.picker.telemetry_mut().derive();
        ledger.define(&mut self.stats);
        ledger.begin_flush();
        ledger.flush(&mut self.stats);
    }

    /// What the picker has in flight is what the accounts say, endpoint by endpoint and in sum by model; whoever left stays only
    /// for that.
    fn check_in_flight(&self) {
        let charged = |id| self.streams.iter().filter(|stream| stream.charged == Some(id)).count();
        let mut found = 0;
        for (id, endpoint) in self.picker.pool().endpoints() {
            let own = endpoint.in_flight().own() as usize;
            assert_eq!(own, charged(id), "in flight at {}", endpoint.name());
            assert!(endpoint.is_member() || own > 0, "{} has left and is kept for nothing", endpoint.name());
            found += own;
        }
        assert_eq!(found, self.streams.iter().filter(|stream| stream.charged.is_some()).count(), "some are lost");
        let is_running =
            |stream: &&Stream| stream.is_inference && matches!(stream.phase, Phase::Sent | Phase::Answering);
        let running = self.streams.iter().filter(is_running).count();
        let counted: u32 = self.picker.accounts().running().map(|(_, count)| count).sum();
        assert_eq!(counted as usize, running, "running requests");
    }

    fn finish(mut self) {
        for at in 0..self.streams.len() {
            self.renew(at);
        }
        self.check_in_flight();
        assert_eq!(self.picker.accounts().running().count(), 0);
        assert!(self.picker.pool().endpoints().all(|(_, endpoint)| endpoint.in_flight().own() == 0));
        self.merge_table();
        self.stats.take(&mut self.picker);
        self.stats.check_histograms();
        self.stats.check_errors();
        let total = Counted::in_stats(&self.stats);
        assert_eq!((total.requests, total.load_only), self.ended, "each exchange has one record");
        assert_eq!(total.bodies, total.requests, "{total:?}");
        assert!(total.errors <= total.requests && total.durations <= total.requests, "{total:?}");
        assert!(total.picks <= total.requests + total.load_only, "{total:?}");
        assert!(total.requests <= total.errors + total.durations, "{total:?}: a request left no trace");
        let bounds = self.picker.config().stats;
        let models = self.stats.label_values(&["model_name", "target_model_name", "target_model"]);
        let others = models.iter().filter(|model| !CONFIGURED.contains(model)).count();
        assert!(others <= bounds.max_models, "{models:?}");
        let endpoints = self.stats.label_values(&["endpoint"]);
        assert!(endpoints.len() <= bounds.max_endpoints, "{endpoints:?}");
    }
}

impl Stream {
    fn sent(&mut self, outbound: &Outbound) {
        assert!(!self.was_sent && !self.is_sealed);
        self.was_sent = true;
        let list = outbound.destination.as_deref().unwrap_or_default();
        assert_eq!(list.is_empty(), outbound.destination.is_none());
        self.ranked = list.split(',').filter(|entry| !entry.is_empty()).map(|entry| entry.parse().unwrap()).collect();
        if let Some(splice) = &outbound.splice {
            let spliced = splice.apply(&self.body);
            assert_eq!(spliced.len() as u64, splice.length(self.body.len() as u64));
            // Of a body that is still coming only the beginning is there.
            if serde_json::from_slice::<serde_json::Value>(&self.body).is_ok() {
                let spliced: serde_json::Value = serde_json::from_slice(&spliced).unwrap();
                let mut original: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
                for name in ["model", "stream_options"] {
                    let value = spliced[name].clone();
                    assert!(name != "model" || value.is_string());
                    original[name] = value;
                }
                let mut spliced = spliced;
                spliced["stream_options"] = original["stream_options"].clone();
                assert_eq!(spliced, original, "nothing else changes");
            }
        }
    }

    fn replied(&mut self, status: u16, body: &[u8]) {
        self.replies += 1;
        assert!((400..600).contains(&status));
        let body: serde_json::Value = serde_json::from_slice(body).unwrap();
        assert!(body["error"]["message"].is_string());
    }

    /// What the statistics hold of an exchange that is over.
    fn check_account(&self) {
        let Counted { requests, load_only, errors, bodies, durations, picks } = self.counted;
        let story = format!("{:?} of {:?}, sent {}", self.counted, self.phase, self.was_sent);
        assert_eq!(requests, u64::from(self.is_ours && self.is_inference), "{story}");
        assert_eq!(load_only, u64::from(self.is_ours && !self.is_inference), "{story}");
        assert_eq!(bodies, requests, "{story}");
        assert!(errors <= requests && durations <= requests && picks <= 1, "{story}");
        assert!(requests == 0 || errors + durations >= 1, "{story}");
        assert!(self.replies == 0 || (errors, durations, picks) == (requests, 0, 0), "{story}");
        assert!(self.was_sent || (durations, picks) == (0, 0), "{story}");
    }
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 8000))
}
