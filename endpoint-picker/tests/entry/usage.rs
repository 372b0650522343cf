//! Usage of streams whose clients did not ask: who is asked, and what becomes of the answers.

use endpoint_picker::exchange::{Inbound, Outbound};
use endpoint_picker::head::ResponseHead;
use endpoint_picker::{Directive, EndpointPicker, Exchange};

use crate::host::Info;
use crate::scene::{IDLE, START_MICROS, address, picker, request, stats};
use crate::shared::Shared;

const OPTIONS: &str = r#","stream_options":{"include_usage":false}"#;
const STREAM: &str = "text/event-stream";
const TERSE: &str = r#"{"error":{"message":"Extra inputs are not permitted","type":"invalid_request_error"}}"#;
const NAMED: &str = r#"{"error":{"message":"stream_options is not supported"}}"#;

struct Scene {
    picker: EndpointPicker,
    shared: Shared,
    seconds: u64,
}

impl Scene {
    fn new() -> Self {
        Self { picker: picker("{}", &[None], &[IDLE]), shared: Shared::default(), seconds: 0 }
    }

    fn info(&self) -> Info {
        Info {
            micros: START_MICROS + self.seconds * 1_000_000,
            upstream: Some(address(1)),
            attempts: Some(1),
            details: Some("via_upstream"),
            ..Info::default()
        }
    }

    /// A request for a stream of `model`, and whether its server is asked for usage.
    fn send(&mut self, model: &str, options: &str) -> (Exchange, bool) {
        let pairs = [(":method", "POST"), (":path", "/v1/chat/completions"), ("content-type", "application/json")];
        let body = format!(r#"{{"model":"{model}","messages":[],"stream":true{options}}}"#);
        let micros = self.seconds * 1_000_000;
        let (exchange, directive) = request(&mut self.picker, &mut self.shared, &pairs, Some(&body), micros);
        let Directive::Send(Outbound { splice, .. }) = directive else { panic!("{directive:?}") };
        (exchange, splice.is_some())
    }

    fn head(&mut self, exchange: &mut Exchange, status: &str, headers: &[(&str, &str)], end: bool) -> Inbound {
        let pairs = [(":status", status)];
        let pairs = pairs.iter().chain(headers).map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let mut info = self.info();
        let inbound = exchange.on_response_headers(&mut self.picker, &ResponseHead::read(pairs), &mut info, end);
        exchange.note_usage_answer(&mut self.shared);
        inbound
    }

    /// One stream, answered like that. Whether its server was asked for usage.
    fn stream(&mut self, options: &str, status: &str, kind: &str, body: &str) -> bool {
        let (mut exchange, is_asked) = self.send("m", options);
        self.head(&mut exchange, status, &[("content-type", kind)], body.is_empty());
        for (place, piece) in body.as_bytes().chunks(900).enumerate() {
            let end = (place + 1) * 900 >= body.len();
            let mut info = self.info();
            if exchange.reads_response() {
                exchange.on_response_body(&mut self.picker, [piece], &mut info, end);
            } else {
                exchange.on_response_size(&mut self.picker, piece.len() as u64, false, &mut info, end);
            }
        }
        exchange.note_usage_answer(&mut self.shared);
        assert!(exchange.is_settled());
        is_asked
    }

    fn served(&mut self) -> bool {
        self.stream("", "200", STREAM, "data: [DONE]\n\n")
    }
}

#[test]
fn a_server_that_names_the_option_in_any_form_is_asked_once() {
    let long = format!(
        r#"{{"detail":[{{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra"}}],"body":"{}"}}"#,
        "x".repeat(9_000)
    );
    for (status, kind, body) in [
        ("400", "application/json", NAMED),
        ("422", "application/json", NAMED),
        ("400", "text/plain", "unknown field \"stream_options\""),
        ("422", "text/plain; charset=utf-8", "stream_options: extra fields not permitted"),
        ("400", STREAM, "data: {\"error\":{\"message\":\"stream_options is not supported\"}}\n\n"),
        ("422", "application/json", long.as_str()),
        ("400", "application/problem+json", r#"{"detail":"stream_options"}"#),
    ] {
        let mut scene = Scene::new();
        assert!(scene.stream("", status, kind, body));
        for days in 1..5 {
            scene.seconds = days * 86_400;
            assert!(!scene.served(), "{status} {kind}: {body}");
        }
    }
}

/// Streams that fail of one a second for so long, of a server that refuses like that when it is asked.
fn failing(status: &str, kind: &str, body: &str, seconds: u64) -> usize {
    let mut scene = Scene::new();
    let fails = |second: &u64| {
        scene.seconds = *second;
        let (_, is_asked) = scene.send("m", "");
        if is_asked { scene.stream("", status, kind, body) } else { scene.served() }
    };
    (0..seconds).filter(fails).count()
}

#[test]
fn a_server_that_refuses_tersely_fails_ever_fewer_streams() {
    for (status, kind, body) in [
        ("400", "application/json", TERSE),
        ("422", "text/plain", "Bad Request"),
        ("400", "text/plain", ""),
        ("501", "application/json", NAMED),
        ("500", "application/json", r#"{"error":"create() got an unexpected keyword argument 'stream_options'"}"#),
    ] {
        // At 0, 1, 3, 7, 15, 31 and 47 minutes.
        assert_eq!(failing(status, kind, body, 3_600), 7, "{status} {kind}: {body}");
    }
}

#[test]
fn what_fails_for_other_reasons_teaches_nothing() {
    for (status, body) in [("500", "oops"), ("501", ""), ("503", NAMED), ("404", NAMED), ("429", NAMED)] {
        let mut scene = Scene::new();
        scene.stream("", status, "application/json", body);
        assert!(scene.served(), "{status}: {body}");
    }
}

#[test]
fn a_clients_bad_requests_cost_others_no_counts_once_one_was_answered() {
    let mut scene = Scene::new();
    // It comes first, and for one minute nobody is asked.
    assert!(scene.stream("", "400", "application/json", TERSE));
    scene.seconds = 59;
    assert!(!scene.served());
    scene.seconds = 60;
    assert!(scene.served());
    for second in 61..2_000 {
        scene.seconds = second;
        for (status, body) in [("400", TERSE), ("422", ""), ("500", NAMED)] {
            assert!(scene.stream("", status, "application/json", body), "{second}");
        }
        if second % 100 == 0 {
            assert!(scene.served(), "{second}");
        }
    }
}

#[test]
fn a_refusal_of_options_that_the_client_wrote_does_not_count_for_ever() {
    let mut scene = Scene::new();
    assert!(scene.stream(OPTIONS, "400", "application/json", NAMED));
    assert!(!scene.served());
    scene.seconds = 60;
    assert!(scene.served());
    assert!(scene.stream(OPTIONS, "400", "application/json", NAMED));
    assert!(scene.served(), "a server took it");
}

#[test]
fn headers_that_tell_of_the_bytes_go_where_some_may_be_taken_out() {
    let told = ["content-length", "etag", "digest", "content-digest", "repr-digest", "content-md5"];
    let mut scene = Scene::new();
    for (options, kind, is_changed) in [
        ("", STREAM, true),
        ("", "application/json", false),
        (r#","stream_options":{"include_usage":true}"#, STREAM, false),
    ] {
        let (mut exchange, _) = scene.send("m", options);
        let inbound = scene.head(&mut exchange, "200", &[("content-type", kind)], false);
        assert_eq!(inbound.remove, if is_changed { &told[..] } else { &[] }, "{options} {kind}");
    }
}

/// Output tokens counted of one stream whose server was asked, in pieces of so many bytes; `None`: none were.
fn counted(stream: &str, size: usize) -> (String, Option<u64>) {
    let mut scene = Scene::new();
    let (mut exchange, is_asked) = scene.send("m", "");
    assert!(is_asked);
    scene.head(&mut exchange, "200", &[("content-type", STREAM)], false);
    let (mut passed, mut rest) = (Vec::new(), stream.as_bytes());
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(size.min(rest.len()));
        rest = behind;
        let mut info = scene.info();
        let instead = exchange.on_response_body(&mut scene.picker, [piece], &mut info, rest.is_empty());
        passed.extend(instead.unwrap_or_else(|| piece.to_vec()));
    }
    let sums = stats(&mut scene.picker).into_iter().filter(|(name, _)| name.ends_with("output_tokens_sum"));
    (String::from_utf8(passed).unwrap(), sums.map(|(_, sum)| sum).next())
}

#[test]
fn what_is_taken_out_is_counted() {
    let content = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
    let usage = r#""usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8}"#;
    for choices in [r#""choices":[],"#, r#""choices":null,"#, ""] {
        for end in ["", "\n", "\r\n", "\n\n", "\n\ndata: [DONE]\n\n"] {
            for size in [1, 7, 4_096] {
                let stream = format!("{content}data: {{{choices}{usage}}}{end}");
                let behind = if end.contains("DONE") { "data: [DONE]\n\n" } else { "" };
                assert_eq!(counted(&stream, size), (format!("{content}{behind}"), Some(3)), "{stream:?} by {size}");
            }
        }
    }
}

#[test]
fn answers_are_noted_once_a_minute() {
    let mut scene = Scene::new();
    scene.served();
    let before = scene.shared.calls;
    for _ in 0..10 {
        scene.served();
    }
    assert_eq!(scene.shared.calls, before + 10, "each reads what is known and writes nothing");
}
