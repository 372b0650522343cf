//! Ends that say nothing of the endpoint: a tunnel that either side closes, a client that has all it waits for, and one that Envoy gives up on.

use crate::host::Info;
use crate::scene::{IDLE, START_MICROS, address, answered, assert_stat, chat, hosts, picker, request, stats};
use crate::shared::Shared;
use endpoint_picker::head::{RequestHead, ResponseHead};
use endpoint_picker::{Directive, EndpointPicker, Exchange, Timestamp};

const CONNECTION_FAILURE: u64 = 1 << 5;
const CONNECTION_TERMINATION: u64 = 1 << 6;
const NO_ROUTE: u64 = 1 << 8;
const RATE_LIMITED: u64 = 1 << 12;
const CLIENT_LEFT: u64 = 1 << 14;
const STREAM_IDLE_TIMEOUT: u64 = 1 << 16;
const DOWNSTREAM_PROTOCOL_ERROR: u64 = 1 << 18;
const CLIENT_RESET: u64 = 1 << 28;
const OVERLOAD_MANAGER: u64 = 1 << 25;

/// Stats whose names have this, added up.
fn sum(stats: &[(String, u64)], part: &str) -> u64 {
    stats.iter().filter(|(name, _)| name.contains(part)).map(|(_, value)| value).sum()
}

fn in_flight(picker: &EndpointPicker) -> u32 {
    picker.pool().endpoints().map(|(_, endpoint)| endpoint.in_flight().own()).sum()
}

/// The stream is over with these flags.
fn log(exchange: &mut Exchange, picker: &mut EndpointPicker, flags: u64) {
    exchange.on_log(picker, &mut Info { micros: START_MICROS + 9_000, flags: Some(flags), ..Info::default() });
    assert!(exchange.is_settled());
    assert_eq!(in_flight(picker), 0);
}

#[test]
fn a_tunnel_that_either_side_closes_is_complete_and_blames_nobody() {
    let upgrade = [(":method", "GET"), (":path", "/v1/realtime"), ("upgrade", "websocket")];
    let connect = [(":method", "CONNECT"), (":path", "/v1/realtime"), (":protocol", "websocket")];
    for (pairs, status) in [(upgrade, "101"), (connect, "200")] {
        for (flags, outcome) in [
            (CONNECTION_TERMINATION, "complete"),
            (CLIENT_LEFT, "complete"),
            (0, "complete"),
            (STREAM_IDLE_TIMEOUT, "Timeout"),
        ] {
            let mut picker = picker("{}", &[None; 2], &[IDLE; 2]);
            let (mut exchange, directive) = request(&mut picker, &mut Shared::default(), &pairs, None, 0);
            answered(&mut exchange, &mut picker, hosts(&directive)[0], &[(":status", status)]);
            assert_eq!(in_flight(&picker), 1);
            log(&mut exchange, &mut picker, flags);
            let stats = stats(&mut picker);
            assert_stat(&stats, &format!("outcome={outcome};inpick_load_only_requests_total"), 1);
            assert_eq!(sum(&stats, "inpick_endpoint_failures_total"), 0, "{status}, {flags:#x}: {stats:#?}");
        }
    }
}

#[test]
fn a_tunnel_that_was_never_opened_and_an_answer_that_is_none_break_off_as_ever() {
    let upgrade = [(":method", "GET"), (":path", "/v1/realtime"), ("upgrade", "websocket")];
    let list = [(":method", "GET"), (":path", "/v1/models"), ("accept", "*/*")];
    for (pairs, status) in [(upgrade, "403"), (list, "200")] {
        let mut picker = picker("{}", &[None; 2], &[IDLE; 2]);
        let (mut exchange, directive) = request(&mut picker, &mut Shared::default(), &pairs, None, 0);
        answered(&mut exchange, &mut picker, hosts(&directive)[0], &[(":status", status)]);
        log(&mut exchange, &mut picker, CONNECTION_TERMINATION);
        let stats = stats(&mut picker);
        assert_stat(&stats, "outcome=UpstreamReset;inpick_load_only_requests_total", 1);
        assert_eq!(sum(&stats, "reason=broken_off;inpick_endpoint_failures_total"), 1, "{stats:#?}");
    }
    let mut picker = picker("{}", &[None; 2], &[IDLE; 2]);
    let (mut exchange, directive) = request(&mut picker, &mut Shared::default(), &upgrade, None, 0);
    let mut info = Info {
        micros: START_MICROS + 5_000,
        upstream: Some(address(hosts(&directive)[0])),
        attempts: Some(1),
        details: Some("upstream_reset_before_response_started{connection_failure}"),
        flags: Some(CONNECTION_FAILURE),
        ..Info::default()
    };
    let head = ResponseHead::read([(&b":status"[..], &b"503"[..])].into_iter());
    exchange.on_response_headers(&mut picker, &head, &mut info, true);
    assert_eq!(sum(&stats(&mut picker), "reason=no_answer;inpick_endpoint_failures_total"), 1);
}

#[test]
fn a_client_that_leaves_behind_the_last_event_was_served() {
    let chunk = r#"data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}"#;
    let usage = r#"data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;
    let whole_chat = format!("{chunk}\n\n{usage}\n\ndata: [DONE]\n\n");
    let asked = r#"{"model":"m","stream":true,"stream_options":{"include_usage":true},"messages":[]}"#;
    let message = r#"event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":7,"output_tokens":3}}"#;
    let whole_message = format!("{message}\n\nevent: message_stop\ndata: {{\"type\":\"message_stop\"}}\n\n");
    let response = r#"event: response.completed
data: {"type":"response.completed","response":{"id":"resp_1","usage":{"input_tokens":7,"output_tokens":3}}}

"#;
    for (path, request_body, answer) in [
        ("/v1/chat/completions", chat("m").replace("\"messages", "\"stream\":true,\"messages"), whole_chat.clone()),
        ("/v1/chat/completions", asked.to_owned(), whole_chat.clone()),
        ("/v1/messages", r#"{"model":"m","stream":true,"messages":[]}"#.to_owned(), whole_message),
        ("/v1/responses", r#"{"model":"m","stream":true,"input":"hi"}"#.to_owned(), response.to_owned()),
    ] {
        let half = answer.rfind("data").unwrap();
        for (came, flags, code) in [
            (answer.len(), CLIENT_LEFT, None),
            (answer.len(), CLIENT_RESET, None),
            // The pod's own faults are as ever, and so is a client that does not wait for the end.
            (answer.len(), CONNECTION_TERMINATION, Some("UpstreamReset")),
            (answer.len(), STREAM_IDLE_TIMEOUT, Some("Timeout")),
            (half, CLIENT_LEFT, Some("Cancelled")),
        ] {
            let mut picker = picker("{}", &[Some(&["m"][..]); 2], &[IDLE; 2]);
            let pairs = [(":method", "POST"), (":path", path)];
            let mut shared = Shared::default();
            let (mut exchange, directive) = request(&mut picker, &mut shared, &pairs, Some(&request_body), 0);
            let stream = [("content-type", "text/event-stream")];
            answered(&mut exchange, &mut picker, hosts(&directive)[0], &stream);
            let mut info = Info { micros: START_MICROS + 8_000, ..Info::default() };
            for piece in answer.as_bytes()[..came].chunks(11) {
                exchange.on_response_body(&mut picker, [piece], &mut info, false);
            }
            log(&mut exchange, &mut picker, flags);
            let stats = stats(&mut picker);
            let context = format!("{path}, {came} bytes, {flags:#x}: {stats:#?}");
            assert_eq!(sum(&stats, "inference_objective_request_error_total"), u64::from(code.is_some()), "{context}");
            match code {
                Some(code) => {
                    assert_eq!(sum(&stats, &format!("error_code={code};inference_objective")), 1, "{context}")
                }
                None => {
                    assert_eq!(sum(&stats, "inference_objective_output_tokens_sum"), 3, "{context}");
                    assert_eq!(sum(&stats, "inference_objective_request_duration_seconds_count"), 1, "{context}");
                    assert_stat(&stats, "outcome=parsed;inpick_response_bodies_total", 1);
                }
            }
        }
    }
}

#[test]
fn a_client_that_envoy_gives_up_on_is_refused_wherever_its_request_stands() {
    let pairs = [(":method", "POST"), (":path", "/v1/chat/completions"), ("content-length", "1000000")];
    let now = Timestamp::from_micros(START_MICROS);
    // Too little came for a pick, or the rest follows the pick too slowly.
    let short = r#"{"model":"m","#.to_owned();
    let early = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{}"#, "word ".repeat(20_000));
    for (body, is_sent) in [(short, false), (early, true)] {
        for (status, details, flags, code) in [
            ("400", "codec_error", DOWNSTREAM_PROTOCOL_ERROR, "BadRequest"),
            ("408", "request_overall_timeout", 0, "BadRequest"),
            ("408", "stream_idle_timeout", STREAM_IDLE_TIMEOUT, "BadRequest"),
            ("413", "request_payload_too_large", 0, "BadRequest"),
            ("429", "local_rate_limited", RATE_LIMITED, "ResourceExhausted"),
            ("404", "route_not_found", NO_ROUTE, "ServiceUnavailable"),
            ("503", "overload", OVERLOAD_MANAGER, "ResourceExhausted"),
            ("504", "stream_idle_timeout", STREAM_IDLE_TIMEOUT, "Timeout"),
        ] {
            let mut picker = picker("{}", &[Some(&["m"][..]); 2], &[IDLE; 2]);
            let (mut exchange, mut info) = (Exchange::default(), Info { micros: START_MICROS, ..Info::default() });
            let head = RequestHead::read(pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
            assert_eq!(exchange.on_request_headers(&mut picker, &head, false, now), Directive::Wait);
            let directive = exchange.on_request_body(&mut picker, [body.as_bytes()], false, &mut info);
            assert_eq!(directive == Directive::Pick, is_sent);
            if is_sent {
                assert!(matches!(exchange.pick(&mut picker, now), Directive::Send(_)));
            }
            let mut info = Info { flags: Some(flags), details: Some(details), ..info };
            let head = ResponseHead::read([(&b":status"[..], status.as_bytes())].into_iter());
            exchange.on_response_headers(&mut picker, &head, &mut info, true);
            log(&mut exchange, &mut picker, flags);
            let stats = stats(&mut picker);
            let errors = format!("error_code={code};inference_objective_request_error_total");
            assert_eq!(sum(&stats, &errors), 1, "{status} {details}, sent: {is_sent}: {stats:#?}");
            let outcome = if (status, is_sent) == ("413", false) { "too_large" } else { "incomplete" };
            assert_stat(&stats, &format!("outcome={outcome};inpick_request_bodies_total"), 1);
            assert_eq!(sum(&stats, "inpick_endpoint_failures_total"), 0, "{status}: {stats:#?}");
        }
    }
}
