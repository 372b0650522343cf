//! Every way in which an exchange can end, in virtual time: afterwards nothing is in flight and each counter has its value.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: a failure here is the test's failure"
)]

#[path = "plain/host.rs"]
mod host;
#[path = "plain/stats.rs"]
mod stats;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use endpoint_picker::exchange::{Outbound, Refused};
use endpoint_picker::head::{OBJECTIVE_HEADER, RequestHead, ResponseHead};
use endpoint_picker::reply::LocalReply;
use endpoint_picker::{Directive, EndpointPicker, Exchange, Plugin, Timestamp};
use host::Info;
use snapshot::{EndpointIdentity, Load, Loads, Membership, PoolMembers, PoolRewrite, ServedModel, State};
use stats::Stats;

const CHAT: &[u8] = br#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
const ANSWER: &[u8] = br#"{"choices":[{"message":{"content":"ab"}}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10,"prompt_tokens_details":{"cached_tokens":4}}}"#;
const EVENTS: [&[u8]; 4] = [
    b"data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
    b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n",
    b"data: {\"choices\":[{\"delta\":{\"content\":\"b\"}}]}\n\n",
    b"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\"total_tokens\":10}}\n\ndata: [DONE]\n\n",
];

const MODEL: &str = "model_name=m;target_model_name=m;";

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 8000))
}

/// One picker with two equal endpoints, and time.
struct Scene {
    picker: EndpointPicker,
    exchange: Exchange,
    micros: u64,
    /// The table of labels in shared data.
    table: Option<Vec<u8>>,
}

/// Makes these hosts the pool, all idle; it serves the model `m`.
fn install(picker: &mut EndpointPicker, version: u64, hosts: &[u8]) {
    let endpoints = hosts.iter().map(|&host| EndpointIdentity::unnamed(address(host))).collect();
    let pool = PoolMembers {
        name: "default".into(),
        endpoints,
        models: vec![ServedModel { name: "m".into(), ..ServedModel::default() }],
        ..PoolMembers::default()
    };
    picker.install_membership(&Membership { epoch: 1, version, pools: vec![pool] });
    let idle = Load { state: State::Fresh, age_ms: Some(0), waiting: Some(0), running: Some(0), ..Load::default() };
    let loads = Loads { epoch: 1, membership_version: version, endpoints: vec![idle; hosts.len()], ..Loads::default() };
    picker.install_loads(&loads, Timestamp::from_micros(0)).unwrap();
}

impl Scene {
    fn new() -> Self {
        Self::with("{}")
    }

    fn with(config: &str) -> Self {
        let Ok(Plugin::Filter(config)) = Plugin::parse(config.as_bytes()) else { panic!("{config} is no filter") };
        let mut picker = EndpointPicker::new(config, 1);
        install(&mut picker, 1, &[1, 2]);
        let mut scene = Self { picker, exchange: Exchange::default(), micros: 0, table: None };
        scene.admit();
        scene
    }

    /// Merges the table of labels, as a worker's tick does.
    fn admit(&mut self) {
        let admission = self.picker.telemetry_mut().admission_mut();
        if let Some(table) = admission.merge(self.table.as_deref()) {
            admission.learn(&table);
            self.table = Some(table);
        }
        self.picker.settle_pending();
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.micros)
    }

    fn request_headers(&mut self, head: &RequestHead<'_>, end: bool) -> Directive {
        let now = self.now();
        let directive = self.exchange.on_request_headers(&mut self.picker, head, end, now);
        self.picked(directive)
    }

    fn body(&mut self, chunk: &[u8], end: bool) -> Directive {
        let mut info = Info { micros: self.micros, ..Info::default() };
        let directive = self.exchange.on_request_body(&mut self.picker, [chunk], end, &mut info);
        self.picked(directive)
    }

    fn picked(&mut self, directive: Directive) -> Directive {
        let now = self.now();
        if directive == Directive::Pick { self.exchange.pick(&mut self.picker, now) } else { directive }
    }

    fn post(&mut self, body: &[u8]) -> Directive {
        let head = RequestHead { method: b"POST", path: b"/v1/chat/completions", ..RequestHead::default() };
        assert_eq!(self.request_headers(&head, false), Directive::Wait);
        self.body(body, true)
    }

    /// Sends a chat request; the endpoints in the order of the ranked list.
    fn send(&mut self) -> Vec<SocketAddr> {
        match self.post(CHAT) {
            Directive::Send(Outbound { destination: Some(list), .. }) => {
                assert_eq!(self.in_flight(), 1);
                list.split(',').map(|entry| entry.parse().unwrap()).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn response_headers(&mut self, status: u16, kind: &str, mut info: Info, end: bool) {
        self.micros += 100_000;
        info.micros = self.micros;
        let status = status.to_string();
        let pairs = [(b":status".as_slice(), status.as_bytes()), (b"content-type", kind.as_bytes())];
        let head = ResponseHead::read(pairs.into_iter());
        self.exchange.on_response_headers(&mut self.picker, &head, &mut info, end);
    }

    fn response_body(&mut self, chunk: &[u8], end: bool) {
        self.micros += 100_000;
        let mut info = Info { micros: self.micros, ..Info::default() };
        if self.exchange.reads_response() {
            self.exchange.on_response_body(&mut self.picker, [chunk], &mut info, end);
        } else {
            self.exchange.on_response_size(&mut self.picker, chunk.len() as u64, false, &mut info, end);
        }
    }

    fn log(&mut self, flags: u64) {
        let mut info = Info { flags: Some(flags), micros: self.micros, ..Info::default() };
        self.exchange.on_log(&mut self.picker, &mut info);
    }

    fn in_flight(&self) -> u32 {
        self.picker.pool().endpoints().map(|(_, endpoint)| endpoint.in_flight().own()).sum()
    }

    /// Ends the stream as Envoy does, checks that nothing is left in flight, and gives every stat that is not 0.
    fn stats(mut self, flags: u64) -> BTreeMap<String, u64> {
        self.log(flags);
        self.log(flags);
        assert!(self.exchange.is_settled());
        assert_eq!(self.in_flight(), 0);
        assert_eq!(self.picker.accounts().running().count(), 0);
        self.admit();
        let stats = Stats::of(self.picker.telemetry_mut().derive());
        stats.0.into_iter().filter(|(_, value)| *value > 0).collect()
    }
}

#[track_caller]
fn assert_stat(stats: &BTreeMap<String, u64>, name: &str, value: u64) {
    assert_eq!(stats.get(name).copied().unwrap_or(0), value, "{name} in {stats:#?}");
}

#[track_caller]
fn assert_error(stats: &BTreeMap<String, u64>, labels: &str, code: &str) {
    let errors: Vec<_> =
        stats.iter().filter(|(name, _)| name.ends_with("inference_objective_request_error_total")).collect();
    assert_eq!(errors, [(&format!("{labels}error_code={code};inference_objective_request_error_total"), &1)]);
}

#[track_caller]
fn assert_no_error(stats: &BTreeMap<String, u64>) {
    assert!(!stats.keys().any(|name| name.contains("error_total")), "{stats:#?}");
}

fn served(by: SocketAddr) -> Info {
    Info { upstream: Some(by), details: Some("via_upstream"), attempts: Some(1), ..Info::default() }
}

/// The two shapes of an answer, told apart by what follows the headers.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Unary,
    Stream,
}

impl Shape {
    const BOTH: [Self; 2] = [Self::Unary, Self::Stream];

    const fn content_type(self) -> &'static str {
        match self {
            Self::Unary => "application/json",
            Self::Stream => "text/event-stream; charset=utf-8",
        }
    }

    fn chunks(self) -> Vec<&'static [u8]> {
        match self {
            Self::Unary => vec![&ANSWER[..40], &ANSWER[40..]],
            Self::Stream => EVENTS.to_vec(),
        }
    }
}

#[test]
fn a_complete_answer_is_counted_once_and_whole() {
    for shape in Shape::BOTH {
        let mut scene = Scene::new();
        let first = scene.send()[0];
        scene.response_headers(200, shape.content_type(), served(first), false);
        let chunks = shape.chunks();
        for (index, chunk) in chunks.iter().enumerate() {
            scene.response_body(chunk, index + 1 == chunks.len());
        }
        let bytes: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        let duration = 100_000 * (1 + chunks.len() as u64);
        let stats = scene.stats(0);
        assert_no_error(&stats);
        assert_stat(&stats, &format!("{MODEL}priority=0;inference_objective_request_total"), 1);
        for (family, sum) in [
            ("request_sizes", CHAT.len() as u64),
            ("response_sizes", bytes as u64),
            ("input_tokens", 7),
            ("output_tokens", 3),
        ] {
            assert_stat(&stats, &format!("{MODEL}inference_objective_{family}_sum"), sum);
            assert_stat(&stats, &format!("{MODEL}inference_objective_{family}_count"), 1);
        }
        assert_stat(&stats, &format!("{MODEL}inference_objective_request_duration_seconds_sum_microseconds"), duration);
        let normalized = "inference_objective_normalized_time_per_output_token_seconds_sum_microseconds";
        assert_stat(&stats, &format!("{MODEL}{normalized}"), duration / 3);
        let streamed = u64::from(matches!(shape, Shape::Stream));
        // First content in the second event of the stream, 300 ms in; the next and last 100 ms later, two tokens after it.
        assert_stat(&stats, &format!("{MODEL}inference_objective_request_ttft_seconds_count"), streamed);
        assert_stat(
            &stats,
            &format!("{MODEL}inference_objective_request_ttft_seconds_sum_microseconds"),
            300_000 * streamed,
        );
        assert_stat(
            &stats,
            &format!("{MODEL}inference_objective_request_tpot_seconds_sum_microseconds"),
            50_000 * streamed,
        );
        assert_stat(&stats, &format!("{MODEL}inference_objective_prompt_cached_tokens_sum"), 4 * (1 - streamed));
        let pod = format!("pod_name={first};namespace=;port=8000;");
        assert_stat(
            &stats,
            &format!("status=success;target_model_name=m;{pod}inference_extension_scheduler_attempts_total"),
            1,
        );
        assert_stat(&stats, &format!("pool=default;endpoint={first};reason=tie;inpick_picks_total"), 1);
        assert_stat(&stats, "outcome=parsed;inpick_request_bodies_total", 1);
    }
}

#[test]
fn trailers_end_an_answer_too() {
    for shape in Shape::BOTH {
        let mut scene = Scene::new();
        let first = scene.send()[0];
        scene.response_headers(200, shape.content_type(), served(first), false);
        for chunk in shape.chunks() {
            scene.response_body(chunk, false);
        }
        let now = scene.now();
        scene.exchange.on_response_trailers(&mut scene.picker, now);
        let stats = scene.stats(0);
        assert_no_error(&stats);
        assert_stat(&stats, &format!("{MODEL}inference_objective_output_tokens_sum"), 3);
    }
}

#[test]
fn a_reset_before_headers_is_envoys_own_answer() {
    let mut scene = Scene::new();
    let ranked = scene.send();
    let details = Some("upstream_reset_before_response_started{connection_failure}");
    let info = Info { upstream: Some(ranked[1]), attempts: Some(2), details, flags: Some(1 << 5), ..Info::default() };
    scene.response_headers(503, "application/json", info, false);
    scene.response_body(b"{}", true);
    let stats = scene.stats(1 << 5);
    assert_error(&stats, MODEL, "UpstreamReset");
    assert_stat(&stats, &format!("{MODEL}inference_objective_request_duration_seconds_count"), 0);
}

#[test]
fn a_reset_or_an_abort_after_headers_is_settled_at_the_log() {
    for shape in Shape::BOTH {
        for (flags, code) in [
            (1 << 4, "UpstreamReset"),
            (1 << 6, "UpstreamReset"),
            (1 << 14, "Cancelled"),
            (1 << 28, "Cancelled"),
            (1 << 16, "Timeout"),
            (0, "Cancelled"),
        ] {
            let mut scene = Scene::new();
            let first = scene.send()[0];
            scene.response_headers(200, shape.content_type(), served(first), false);
            scene.response_body(shape.chunks()[0], false);
            let stats = scene.stats(flags);
            assert_error(&stats, MODEL, code);
            assert_stat(&stats, &format!("{MODEL}inference_objective_response_sizes_count"), 0);
        }
    }
}

#[test]
fn a_client_that_leaves_before_the_answer_is_cancelled() {
    let mut scene = Scene::new();
    scene.send();
    assert_error(&scene.stats(1 << 14), MODEL, "Cancelled");
}

#[test]
fn a_client_that_leaves_within_its_body_is_cancelled_without_a_model() {
    let mut scene = Scene::new();
    let head = RequestHead { method: b"POST", path: b"/v1/completions", ..RequestHead::default() };
    scene.request_headers(&head, false);
    assert_eq!(scene.body(&CHAT[..10], false), Directive::Wait);
    let stats = scene.stats(1 << 14);
    assert_error(&stats, "model_name=;target_model_name=;", "Cancelled");
    assert_stat(&stats, "outcome=incomplete;inpick_request_bodies_total", 1);
}

#[test]
fn envoys_timeout_and_overflow_have_codes_of_their_own() {
    for (status, flags, code) in
        [(504, 1 << 2, "Timeout"), (503, 1 << 1, "ServiceUnavailable"), (503, 1 << 7, "ResourceExhausted")]
    {
        let mut scene = Scene::new();
        scene.send();
        let info = Info { details: Some("anything_but_the_upstream"), flags: Some(flags), ..Info::default() };
        scene.response_headers(status, "application/json", info, true);
        assert_error(&scene.stats(flags), MODEL, code);
    }
}

#[test]
fn a_retry_moves_the_request_and_blames_the_first() {
    for shape in Shape::BOTH {
        let mut scene = Scene::new();
        let ranked = scene.send();
        scene.response_headers(200, shape.content_type(), Info { attempts: Some(2), ..served(ranked[1]) }, false);
        assert_eq!(scene.in_flight(), 1);
        let second = scene.picker.pool().find(ranked[1]).unwrap();
        assert_eq!(scene.picker.pool().endpoint(second).unwrap().in_flight().own(), 1);
        for chunk in shape.chunks() {
            scene.response_body(chunk, false);
        }
        scene.response_body(b"", true);
        let stats = scene.stats(0);
        assert_no_error(&stats);
        assert_stat(&stats, &format!("pool=default;endpoint={};reason=retry;inpick_picks_total", ranked[1]), 1);
    }
}

#[test]
fn an_error_of_the_model_server_is_counted_whether_in_status_or_stream() {
    let mut scene = Scene::new();
    let first = scene.send()[0];
    scene.response_headers(404, "application/json", served(first), false);
    scene.response_body(br#"{"error":{"message":"no such model"}}"#, true);
    let stats = scene.stats(0);
    assert_error(&stats, MODEL, "ModelServerRejected");
    assert_stat(&stats, &format!("{MODEL}inference_objective_request_duration_seconds_count"), 1);

    let mut scene = Scene::new();
    let first = scene.send()[0];
    scene.response_headers(200, "text/event-stream", served(first), false);
    scene.response_body(EVENTS[1], false);
    scene.response_body(b"data: {\"error\":{\"message\":\"engine died\",\"code\":500}}\n\ndata: [DONE]\n\n", true);
    assert_error(&scene.stats(0), MODEL, "ModelServerError");
}

#[test]
fn a_response_that_ends_before_its_time_or_is_no_response_is_a_failure_once() {
    for (kind, body, code, outcome) in [
        ("text/event-stream", EVENTS[1], "UpstreamReset", "truncated"),
        ("text/event-stream", b"", "UpstreamReset", "truncated"),
        ("application/json", &ANSWER[..40], "ModelServerError", "malformed"),
        ("application/json", b"", "ModelServerError", "malformed"),
        ("application/json", b"<html>", "ModelServerError", "malformed"),
    ] {
        let mut scene = Scene::new();
        let first = scene.send()[0];
        scene.response_headers(200, kind, served(first), false);
        scene.response_body(body, true);
        let stats = scene.stats(0);
        assert_error(&stats, MODEL, code);
        assert_stat(&stats, &format!("outcome={outcome};inpick_response_bodies_total"), 1);
    }
}

#[test]
fn our_own_reply_comes_back_through_the_callbacks_and_is_ignored() {
    let mut scene = Scene::new();
    let Directive::Reply(LocalReply { status: 400, .. }) = scene.post(b"{\"model\":") else { panic!("not refused") };
    scene.response_headers(400, "application/json", Info::default(), false);
    scene.response_body(b"{}", true);
    let stats = scene.stats(0);
    assert_error(&stats, "model_name=;target_model_name=;", "BadRequest");
    assert_stat(&stats, "outcome=malformed;inpick_request_bodies_total", 1);
}

#[test]
fn a_body_over_envoys_limit_is_counted() {
    let mut scene = Scene::new();
    let head = RequestHead { method: b"POST", path: b"/v1/completions", ..RequestHead::default() };
    scene.request_headers(&head, false);
    let info = Info { details: Some("request_payload_too_large"), ..Info::default() };
    scene.response_headers(413, "application/json", info, true);
    let stats = scene.stats(0);
    assert_error(&stats, "model_name=;target_model_name=;", "BadRequest");
    assert_stat(&stats, "outcome=too_large;inpick_request_bodies_total", 1);
}

#[test]
fn a_request_without_a_body_is_routed_by_load_and_leaves_no_model_series() {
    let mut scene = Scene::new();
    let head = RequestHead { method: b"GET", path: b"/v1/models", ..RequestHead::default() };
    let Directive::Send(Outbound { destination: Some(list), .. }) = scene.request_headers(&head, true) else {
        panic!()
    };
    let first: SocketAddr = list.split(',').next().unwrap().parse().unwrap();
    assert_eq!(scene.in_flight(), 1);
    scene.response_headers(200, "application/json", served(first), false);
    scene.response_body(b"{}", true);
    let stats = scene.stats(0);
    assert!(!stats.keys().any(|name| name.contains("inference_objective")), "{stats:#?}");
}

#[test]
fn a_compressed_body_is_routed_by_load_and_counted_as_unparsed() {
    let mut scene = Scene::new();
    let head = RequestHead { method: b"POST", path: b"/v1/completions", encoded: true, ..RequestHead::default() };
    assert!(matches!(scene.request_headers(&head, false), Directive::Send(Outbound { destination: Some(_), .. })));
    assert_eq!(scene.body(b"\x1f\x8b", true), Directive::Continue);
    let stats = scene.stats(1 << 14);
    assert_stat(&stats, "outcome=unparsed;inpick_request_bodies_total", 1);
}

#[test]
fn what_the_host_refuses_never_lets_a_clients_destination_through() {
    let mut scene = Scene::new();
    let now = scene.now();
    let reply = scene.exchange.on_refused(&mut scene.picker, Refused::Strip, now);
    assert!(matches!(reply, Directive::Reply(LocalReply { status: 500, .. })), "{reply:?}");
    assert_eq!(scene.exchange.on_refused(&mut scene.picker, Refused::Reply, now), Directive::Hold);
    assert_stat(&scene.stats(0), "outcome=Internal;inpick_load_only_requests_total", 1);
}

#[test]
fn a_request_that_cannot_be_changed_as_directed_does_not_go_on_half_changed() {
    let mut scene = Scene::with(r#"{"model_rewrites": [{"name": "r", "targets": [{"model": "t"}]}]}"#);
    scene.send();
    let now = scene.now();
    let reply = scene.exchange.on_refused(&mut scene.picker, Refused::Splice, now);
    assert!(matches!(reply, Directive::Reply(LocalReply { status: 500, .. })), "{reply:?}");
    assert_eq!(scene.exchange.on_refused(&mut scene.picker, Refused::Reply, now), Directive::Hold);
    assert_error(&scene.stats(0), "model_name=m;target_model_name=t;", "Internal");

    let mut scene = Scene::new();
    scene.send();
    assert_eq!(scene.exchange.on_refused(&mut scene.picker, Refused::Destination, now), Directive::Continue);
    assert_error(&scene.stats(1 << 14), MODEL, "Cancelled");

    let mut scene = Scene::new();
    let head = RequestHead { method: b"POST", path: b"/v1/completions", ..RequestHead::default() };
    scene.request_headers(&head, false);
    let reply = scene.exchange.on_refused(&mut scene.picker, Refused::Body, now);
    assert!(matches!(reply, Directive::Reply(LocalReply { status: 500, .. })), "{reply:?}");
    assert_eq!(scene.exchange.on_refused(&mut scene.picker, Refused::Reply, now), Directive::Continue);
    assert_stat(&scene.stats(0), "outcome=unreadable;inpick_request_bodies_total", 1);
}

#[test]
fn every_error_belongs_to_a_counted_request() {
    let posts: [&[u8]; 4] = [b"{", b"", br#"{"model":7}"#, br#"{"messages":[]}"#];
    for body in posts {
        let mut scene = Scene::new();
        scene.post(body);
        let stats = scene.stats(0);
        assert_error(&stats, "model_name=;target_model_name=;", "BadRequest");
        assert_stat(&stats, "model_name=;target_model_name=;priority=0;inference_objective_request_total", 1);
    }
    let mut scene = Scene::new();
    let head = RequestHead { method: b"GET", path: b"/v1/models", ..RequestHead::default() };
    scene.request_headers(&head, true);
    scene.response_headers(503, "text/plain", served(address(1)), true);
    let stats = scene.stats(0);
    assert_no_error(&stats);
    assert_stat(&stats, "outcome=ModelServerError;inpick_load_only_requests_total", 1);
}

#[test]
fn a_response_that_is_read_is_asked_for_unencoded_and_one_that_comes_encoded_is_counted() {
    let mut scene = Scene::new();
    let head =
        RequestHead { method: b"POST", path: b"/v1/completions", accepts_encoded: true, ..RequestHead::default() };
    scene.request_headers(&head, false);
    let Directive::Send(outbound) = scene.body(CHAT, true) else { panic!("not sent") };
    assert!(outbound.ask_identity);
    let first = outbound.destination.unwrap().split(',').next().unwrap().parse().unwrap();
    let mut info = served(first);
    let head = ResponseHead { status: 200, json: true, encoded: true, ..ResponseHead::default() };
    scene.exchange.on_response_headers(&mut scene.picker, &head, &mut info, false);
    scene.response_body(b"\x1f\x8b", true);
    let stats = scene.stats(0);
    assert_no_error(&stats);
    assert_stat(&stats, "outcome=encoded;inpick_response_bodies_total", 1);
}

#[test]
fn names_that_nobody_served_take_no_label() {
    let mut scene = Scene::with(r#"{"metrics": {"max_models": 3}}"#);
    let mut post = |name: &str, status: u16, content_type: &str, answer: &[u8], end: bool| {
        scene.exchange = Exchange::default();
        let Directive::Send(Outbound { destination: Some(list), .. }) =
            scene.post(format!(r#"{{"model":"{name}"}}"#).as_bytes())
        else {
            panic!("not sent")
        };
        let first = list.split(',').next().unwrap().parse().unwrap();
        scene.response_headers(status, content_type, served(first), false);
        scene.response_body(answer, end);
        if !end {
            scene.exchange.on_log(&mut scene.picker, &mut Info::default());
        }
        scene.admit();
    };
    let [json, stream] = Shape::BOTH.map(Shape::content_type);
    for junk in 0..50 {
        post(&format!("junk-{junk}"), 404, json, ANSWER, true);
    }
    // What a sick endpoint says of a name proves nothing, whatever its status.
    for (junk, (content_type, answer, end)) in [
        (json, b"<html>".as_slice(), true),
        (json, br#"{"error":{"message":"no such model","code":404}}"#, true),
        (json, &ANSWER[..20], false),
        (stream, b"", true),
        (stream, b"data: <html>\n\n", true),
        (stream, b"data: {\"error\":{\"message\":\"no such model\",\"code\":404}}\n\ndata: [DONE]\n\n", true),
        (stream, b"", false),
    ]
    .into_iter()
    .enumerate()
    {
        post(&format!("junk-of-the-sick-{junk}"), 200, content_type, answer, end);
    }
    for name in ["m", "real", "real"] {
        post(name, 200, json, ANSWER, true);
    }
    // The client leaves when content has come.
    post("late", 200, stream, EVENTS[1], false);
    post("one-too-many", 200, json, ANSWER, true);
    let stats = scene.stats(0);
    let requests = |name: &str| {
        let labels = format!("model_name={name};target_model_name={name};priority=0;");
        stats.get(&format!("{labels}inference_objective_request_total")).copied().unwrap_or(0)
    };
    assert_eq!(["m", "real", "late", "one-too-many", "other"].map(requests), [1, 2, 1, 0, 58]);
    assert!(!stats.keys().any(|name| name.contains("junk")), "{stats:#?}");
}

#[test]
fn without_endpoints_the_choice_is_envoys_or_nobodys() {
    let mut scene = Scene::new();
    install(&mut scene.picker, 2, &[]);
    assert!(matches!(scene.post(CHAT), Directive::Send(Outbound { destination: None, .. })));
    scene.response_headers(200, "application/json", served(address(9)), false);
    scene.response_body(ANSWER, true);
    let stats = scene.stats(0);
    assert_stat(&stats, "pool=default;endpoint=10.0.0.9:8000;reason=fallback;inpick_picks_total", 1);
    assert_stat(
        &stats,
        "status=failure;target_model_name=m;pod_name=;namespace=;port=;inference_extension_scheduler_attempts_total",
        1,
    );

    let mut scene = Scene::with(r#"{"no_endpoint": "fail_closed"}"#);
    install(&mut scene.picker, 2, &[]);
    assert!(matches!(scene.post(CHAT), Directive::Reply(LocalReply { status: 503, .. })));
    let stats = scene.stats(0);
    assert_error(&stats, MODEL, "ServiceUnavailable");
    assert_stat(&stats, &format!("{MODEL}priority=0;inference_objective_request_total"), 1);
}

#[test]
fn a_missing_model_is_refused_or_passed_as_configured() {
    let body = br#"{"messages":[]}"#;
    let mut scene = Scene::new();
    assert!(matches!(scene.post(body), Directive::Reply(LocalReply { status: 400, .. })));
    assert_stat(&scene.stats(0), "outcome=missing_model;inpick_request_bodies_total", 1);

    let mut scene = Scene::with(r#"{"missing_model": "pass"}"#);
    assert!(matches!(scene.post(body), Directive::Send(_)));
    let stats = scene.stats(1 << 14);
    assert_stat(&stats, "model_name=;target_model_name=;priority=0;inference_objective_request_total", 1);
}

#[test]
fn a_rewrite_is_spliced_and_named_in_every_label() {
    let config = r#"{"model_rewrites": [{"name": "r", "model": "m", "targets": [{"model": "t"}]}], "objectives": {"batch": -2}}"#;
    let mut scene = Scene::with(config);
    let head = RequestHead {
        method: b"POST",
        path: b"/v1/chat/completions",
        content_length: Some(57),
        objective: Some(b"batch"),
        ..RequestHead::default()
    };
    scene.request_headers(&head, false);
    let Directive::Send(outbound) = scene.body(CHAT, true) else { panic!("not sent") };
    assert_eq!(outbound.content_length, Some(57));
    assert_eq!(outbound.splice.unwrap().apply(CHAT), br#"{"model":"t","messages":[{"role":"user","content":"hi"}]}"#);
    let stats = scene.stats(1 << 14);
    assert_stat(&stats, "model_name=m;target_model_name=t;priority=-2;inference_objective_request_total", 1);
    assert_stat(
        &stats,
        "model_rewrite_name=r;model_name=m;target_model=t;inference_extension_model_rewrite_decisions_total",
        1,
    );
}

#[test]
fn what_the_pool_says_counts_after_what_is_configured_and_without_a_restart() {
    let policies = |version: u64, endpoints: &[u8]| {
        let target = |model: &str| vec![(model.to_owned(), 0)];
        let rewrite = |name: &str, model: Option<&str>, to: &str| PoolRewrite {
            name: name.into(),
            model: model.map(Into::into),
            targets: target(to),
        };
        let pool = PoolMembers {
            name: "default".into(),
            endpoints: endpoints.iter().map(|&host| EndpointIdentity::unnamed(address(host))).collect(),
            fail_closed: Some(true),
            objectives: [("batch".to_owned(), 3), ("urgent".to_owned(), 7)].into(),
            rewrites: vec![rewrite("named", Some("m"), "pools"), rewrite("any", None, "anybodys")],
            ..PoolMembers::default()
        };
        Membership { epoch: 1, version, pools: vec![pool] }
    };
    let has_objectives = |picker: &EndpointPicker| picker.more_request_headers().any(|name| name == OBJECTIVE_HEADER);
    let priority = |config: &str, objective: &str| {
        let mut scene = Scene::with(config);
        assert_eq!(has_objectives(&scene.picker), config.contains("objectives"));
        scene.picker.install_membership(&policies(2, &[1, 2]));
        assert!(has_objectives(&scene.picker));
        let head = RequestHead {
            method: b"POST",
            path: b"/v1/chat/completions",
            objective: Some(objective.as_bytes()),
            ..RequestHead::default()
        };
        scene.request_headers(&head, false);
        assert!(matches!(scene.body(CHAT, true), Directive::Send(_)));
        let stats = scene.stats(1 << 14);
        let total = "inference_objective_request_total";
        stats.keys().find(|name| name.ends_with(total)).unwrap().rsplit("priority=").next().unwrap().replace(total, "")
    };
    let configured = r#"{"objectives": {"batch": -2}}"#;
    for (objective, own, with_configured) in [("batch", "3;", "-2;"), ("urgent", "7;", "7;"), ("nobody", "0;", "0;")] {
        assert_eq!(
            (priority("{}", objective).as_str(), priority(configured, objective).as_str()),
            (own, with_configured)
        );
    }
    let sent = |config: &str| {
        let mut scene = Scene::with(config);
        scene.picker.install_membership(&policies(2, &[1, 2]));
        let Directive::Send(outbound) = scene.post(CHAT) else { panic!("not sent") };
        let body = outbound.splice.map(|splice| splice.apply(CHAT)).unwrap_or_default();
        String::from_utf8(body).unwrap()
    };
    assert!(sent("{}").contains(r#""model":"pools""#));
    let own = r#"{"model_rewrites": [{"name": "r", "model": "m", "targets": [{"model": "own"}]}]}"#;
    assert!(sent(own).contains(r#""model":"own""#));
    let any = r#"{"model_rewrites": [{"name": "r", "targets": [{"model": "own"}]}]}"#;
    assert!(sent(any).contains(r#""model":"pools""#));
    // Nobody is left: the pool refuses, unless it is configured otherwise.
    let unserved = |config: &str| {
        let mut scene = Scene::with(config);
        scene.picker.install_membership(&policies(2, &[]));
        scene.post(CHAT)
    };
    assert!(matches!(unserved("{}"), Directive::Reply(_)));
    assert!(!matches!(unserved(r#"{"no_endpoint": "fail_open"}"#), Directive::Reply(_)));
}

#[test]
fn a_form_is_picked_and_its_model_renamed() {
    let form = |model: &str| {
        let disposition = "Content-Disposition: form-data; name=";
        format!(
            "--B\r\n{disposition}\"file\"; filename=\"a.wav\"\r\n\r\nRIFF\r\n--B\r\n{disposition}\"model\"\r\n\r\n{model}\r\n--B--\r\n"
        )
    };
    let head = RequestHead {
        method: b"POST",
        path: b"/v1/audio/transcriptions",
        content_type: Some(b"multipart/form-data; boundary=B"),
        ..RequestHead::default()
    };
    let mut scene =
        Scene::with(r#"{"model_rewrites": [{"name": "r", "model": "m", "targets": [{"model": "org/whisper"}]}]}"#);
    assert_eq!(scene.request_headers(&head, false), Directive::Wait);
    let Directive::Send(outbound) = scene.body(form("m").as_bytes(), true) else { panic!("not sent") };
    assert_eq!(scene.in_flight(), 1);
    assert_eq!(outbound.splice.unwrap().apply(form("m").as_bytes()), form("org/whisper").as_bytes());
    let stats = scene.stats(1 << 14);
    let requests = "model_name=m;target_model_name=org/whisper;priority=0;inference_objective_request_total";
    assert_stat(&stats, requests, 1);

    for content_type in [None, Some(b"multipart/form-data".as_slice()), Some(b"text/plain")] {
        let refused = Scene::new().request_headers(&RequestHead { content_type, ..head.clone() }, false);
        let Directive::Reply(LocalReply { status: 400, body, .. }) = refused else { panic!("{content_type:?}") };
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(json["error"]["code"], "invalid_content_type");
    }
}

#[test]
fn a_failing_endpoint_is_left_out_after_two_failures() {
    let mut scene = Scene::new();
    let (mut failures, mut since) = (0, 0);
    // An ejection lasts for 2 s, a request here 0.2 s.
    while since < 5 {
        // Long enough that one failure is forgotten.
        scene.micros += if failures < 2 { 1_000_000 } else { 0 };
        scene.exchange = Exchange::default();
        let ranked = scene.send();
        if ranked[0] == address(1) {
            assert!(failures < 2, "it is left out");
            failures += 1;
            scene.response_headers(200, "application/json", Info { attempts: Some(2), ..served(ranked[1]) }, false);
        } else {
            since += usize::from(failures == 2);
            // As the last resort of a retry it stays in the list.
            assert_eq!(ranked, [address(2), address(1)]);
            scene.response_headers(200, "application/json", served(ranked[0]), false);
        }
        scene.response_body(ANSWER, true);
    }
    scene.log(1 << 14);
    let stats = scene.stats(0);
    assert_stat(&stats, "pool=default;endpoint=10.0.0.1:8000;inpick_ejections_total", 1);
    assert_stat(&stats, "pool=default;endpoint=10.0.0.1:8000;reason=no_answer;inpick_endpoint_failures_total", 2);
}

#[test]
fn core_types_can_move_between_threads() {
    const fn assert_send<T: Send>() {}
    assert_send::<EndpointPicker>();
    assert_send::<Exchange>();
    assert_send::<Directive>();
}

#[test]
fn a_callback_out_of_order_changes_nothing() {
    let mut scene = Scene::new();
    let now = scene.now();
    let head = RequestHead { method: b"POST", path: b"/v1/chat/completions", ..RequestHead::default() };
    scene.request_headers(&head, false);
    assert_eq!(scene.exchange.pick(&mut scene.picker, now), Directive::Continue);
    let Directive::Send(Outbound { destination: Some(list), .. }) = scene.body(CHAT, true) else { panic!("not sent") };
    let first: SocketAddr = list.split(',').next().unwrap().parse().unwrap();
    for _ in 0..2 {
        assert_eq!(scene.exchange.pick(&mut scene.picker, now), Directive::Continue);
        assert_eq!(scene.request_headers(&head, false), Directive::Continue);
        assert_eq!(scene.in_flight(), 1);
        scene.response_headers(200, "application/json", served(first), false);
        assert_eq!(scene.in_flight(), 1);
    }
    scene.response_body(ANSWER, true);
    assert_eq!(scene.request_headers(&head, false), Directive::Continue);
    let stats = scene.stats(0);
    assert_no_error(&stats);
    assert_stat(&stats, &format!("{MODEL}priority=0;inference_objective_request_total"), 1);
    assert_stat(&stats, &format!("{MODEL}inference_objective_request_duration_seconds_count"), 1);
}

#[test]
fn envoys_answer_to_a_request_that_waits_for_its_pick_is_counted() {
    let mut scene = Scene::new();
    let head = RequestHead { method: b"POST", path: b"/v1/chat/completions", ..RequestHead::default() };
    scene.request_headers(&head, false);
    let waiting = scene.exchange.on_request_body(&mut scene.picker, [CHAT], true, &mut Info::default());
    assert_eq!(waiting, Directive::Pick);
    let info = Info { details: Some("stream_idle_timeout"), flags: Some(1 << 16), ..Info::default() };
    scene.response_headers(504, "text/plain", info, true);
    assert_error(&scene.stats(1 << 16), MODEL, "Timeout");
}

#[test]
fn a_server_outside_the_pool_that_joins_it_meanwhile_keeps_its_count() {
    let mut scene = Scene::new();
    scene.send();
    scene.response_headers(200, "application/json", served(address(9)), false);
    let outside = std::mem::take(&mut scene.exchange);
    install(&mut scene.picker, 2, &[9]);
    scene.send();
    let inside = std::mem::replace(&mut scene.exchange, outside);
    scene.response_body(ANSWER, true);
    assert_eq!(scene.in_flight(), 1, "the second request is still there");
    scene.exchange = inside;
    scene.stats(1 << 14);
}

#[test]
fn a_server_that_reports_impossible_numbers_of_tokens_is_not_believed() {
    let mut scene = Scene::new();
    let first = scene.send()[0];
    scene.response_headers(200, "application/json", served(first), false);
    let most = u64::MAX;
    let usage = format!(
        r#"{{"usage":{{"prompt_tokens":{most},"completion_tokens":{most},"prompt_tokens_details":{{"cached_tokens":{most}}}}}}}"#
    );
    scene.response_body(usage.as_bytes(), true);
    let stats = scene.stats(0);
    assert_stat(&stats, &format!("{MODEL}inference_objective_request_duration_seconds_count"), 1);
    assert!(!stats.keys().any(|name| name.contains("tokens") || name.contains("normalized")), "{stats:#?}");
}
