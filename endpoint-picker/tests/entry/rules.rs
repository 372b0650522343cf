//! Models, responses, sessions, hints and full pools.

use crate::host::Info;
use crate::scene::*;
use crate::shared::Shared;
use endpoint_picker::exchange::{Inbound, Outbound};
use endpoint_picker::head::{RequestHead, ResponseHead};
use endpoint_picker::pool::Standing;
use endpoint_picker::{Directive, EndpointPicker, Exchange, Plugin, Timestamp};
use snapshot::{Load, Loads, State};

#[test]
fn a_model_that_nobody_serves_is_404_in_the_shape_of_the_api_and_takes_no_label() {
    let lists: [Option<&[&str]>; 2] = [Some(&["m"]), Some(&["m", "n"])];
    let mut picker = picker("{}", &lists, &[IDLE; 2]);
    assert_eq!(hosts(&ask(&mut picker, "n", &[])), [2]);
    for round in 0..50 {
        let (reply, body) = reply(ask(&mut picker, &format!("made-up-{round}"), &[]));
        assert_eq!((reply.status, reply.error_code.as_str()), (404, "BadRequest"));
        let error = &body["error"];
        assert_eq!((error["code"].as_str(), error["param"].as_str()), (Some("model_not_found"), Some("model")));
        assert!(error["message"].as_str().unwrap().contains(&format!("`made-up-{round}`")), "{error}");
    }
    let anthropic = r#"{"model":"made \"up","max_tokens":5,"messages":[{"role":"user","content":"hi"}]}"#;
    let (reply, body) = reply(send(&mut picker, "/v1/messages", &[], anthropic));
    assert_eq!((reply.status, body["type"].as_str()), (404, Some("error")));
    assert_eq!(body["error"]["type"], "not_found_error");
    let stats = stats(&mut picker);
    let other = "model_name=other;target_model_name=other;";
    assert_stat(&stats, &format!("{other}error_code=BadRequest;inference_objective_request_error_total"), 51);
    assert_stat(&stats, &format!("{other}priority=0;inference_objective_request_total"), 51);
    assert_stat(&stats, "outcome=parsed;inpick_request_bodies_total", 51);
    assert!(!stats.iter().any(|(name, _)| name.contains("made")), "{stats:#?}");
}

#[test]
fn nobody_is_told_404_while_anybody_might_serve_the_model_or_where_it_is_to_pass() {
    let pass = r#"{"unknown_model": "pass"}"#;
    let both_list: [Option<&[&str]>; 2] = [Some(&["m"]), Some(&["m"])];
    let one_lists: [Option<&[&str]>; 2] = [Some(&["m"]), None];
    for (config, lists, hosts_asked) in
        [(pass, &both_list, &[1, 2][..]), ("{}", &one_lists, &[2]), ("{}", &[None, None], &[1, 2])]
    {
        let mut picker = picker(config, lists, &[IDLE; 2]);
        let mut asked = hosts(&ask(&mut picker, "x", &[]));
        asked.sort_unstable();
        assert_eq!(asked, hosts_asked, "{config} {lists:?}");
    }
    // A pool that is empty, and one that was never heard of.
    let mut empty = picker("{}", &[], &[]);
    assert!(matches!(ask(&mut empty, "x", &[]), Directive::Send(Outbound { destination: None, .. })));
    let Ok(Plugin::Filter(config)) = Plugin::parse(b"{}") else { panic!("the default is a filter") };
    let mut unknown = EndpointPicker::new(config, 1);
    assert!(matches!(ask(&mut unknown, "x", &[]), Directive::Send(Outbound { destination: None, .. })));
}

#[test]
fn a_request_without_a_model_and_one_with_nothing_to_read_go_anywhere() {
    let lists: [Option<&[&str]>; 2] = [Some(&["m"]), Some(&["n"])];
    let mut picker = picker(r#"{"missing_model": "pass"}"#, &lists, &[IDLE; 2]);
    assert_eq!(hosts(&send(&mut picker, "/v1/chat/completions", &[], r#"{"messages":[]}"#)).len(), 2);
    let get = [(":method", "GET"), (":path", "/v1/models")];
    assert_eq!(hosts(&request(&mut picker, &mut Shared::default(), &get, None, 0).1).len(), 2);
}

#[test]
fn it_is_the_rewritten_model_that_must_be_served() {
    let config = r#"{"model_rewrites": [{"name": "r", "model": "alias", "targets": [{"model": "n"}]},
                                        {"name": "s", "model": "m", "targets": [{"model": "gone"}]}]}"#;
    let lists: [Option<&[&str]>; 2] = [Some(&["m"]), Some(&["n"])];
    let mut picker = picker(config, &lists, &[IDLE; 2]);
    assert_eq!(hosts(&ask(&mut picker, "alias", &[])), [2]);
    assert_eq!(reply(ask(&mut picker, "m", &[])).0.status, 404);
}

#[test]
fn a_model_whose_servers_are_down_is_not_left_to_others() {
    let down = Load { state: State::Unready, ..IDLE };
    let lists: [Option<&[&str]>; 2] = [Some(&["m"]), Some(&["n"])];
    let mut mixed = picker("{}", &lists, &[IDLE, down]);
    let (answer, _) = reply(ask(&mut mixed, "n", &[]));
    assert_eq!((answer.status, answer.error_code.as_str()), (503, "ServiceUnavailable"));
    let alike: [Option<&[&str]>; 2] = [Some(&["m"]), Some(&["m"])];
    let mut equal = picker("{}", &alike, &[down, down]);
    assert!(matches!(ask(&mut equal, "m", &[]), Directive::Send(Outbound { destination: None, .. })), "fail open");
}

/// Creates a response through `maker` and gives what the host had to be asked.
fn create(picker: &mut EndpointPicker, shared: &mut Shared, chunks: &[&str], kind: &str) -> u8 {
    let pairs = [(":method", "POST"), (":path", "/v1/responses")];
    let (mut exchange, directive) = request(picker, shared, &pairs, Some(r#"{"model":"m","input":"hi"}"#), 0);
    let maker = hosts(&directive)[0];
    let mut info = Info {
        micros: START_MICROS + 10,
        upstream: Some(address(maker)),
        attempts: Some(1),
        details: Some("via_upstream"),
        ..Info::default()
    };
    let pairs = [(b":status".as_slice(), b"200".as_slice()), (b"content-type", kind.as_bytes())];
    exchange.on_response_headers(picker, &ResponseHead::read(pairs.into_iter()), &mut info, false);
    for (index, chunk) in chunks.iter().enumerate() {
        let end = index + 1 == chunks.len();
        exchange.on_response_body(picker, [chunk.as_bytes()], &mut info, end);
        exchange.note_maker(picker, shared);
    }
    exchange.on_log(picker, &mut info);
    maker
}

#[test]
fn what_concerns_a_response_goes_to_the_endpoint_that_made_it_from_every_worker_at_once() {
    let lists: [Option<&[&str]>; 4] = [None; 4];
    let mut workers: Vec<_> = (0..3).map(|_| picker("{}", &lists, &[IDLE; 4])).collect();
    let mut shared = Shared::default();
    for number in 0..30 {
        let id = format!("resp_{number:032x}");
        let (chunks, kind) = if number % 2 == 0 {
            let body =
                format!(r#"{{"id":"{id}","object":"response","output":[{{"id":"msg_1"}}],"status":"completed"}}"#);
            (vec![body[..20].to_owned(), body[20..].to_owned()], "application/json")
        } else {
            let created = format!(
                "event: response.created\ndata: {{\"response\":{{\"id\":\"{id}\",\"object\":\"response\"}},\"sequence_number\":0,\"type\":\"response.created\"}}\n\n"
            );
            (vec![created[..60].to_owned(), created[60..].to_owned(), "event: x\n".to_owned()], "text/event-stream")
        };
        let chunks: Vec<&str> = chunks.iter().map(String::as_str).collect();
        let maker = create(&mut workers[number % 3], &mut shared, &chunks, kind);
        let path = format!("/v1/responses/{id}");
        for (method, path) in [
            ("GET", path.clone()),
            ("GET", format!("{path}?stream=true")),
            ("DELETE", path.clone()),
            ("POST", format!("{path}/cancel")),
            ("GET", format!("{path}/input_items?limit=3")),
        ] {
            let asker = &mut workers[(number + 1) % 3];
            let (_, directive) = request(asker, &mut shared, &[(":method", method), (":path", &path)], None, 20);
            assert_eq!(listed_hosts(&directive), [maker; 3], "{method} {path}");
        }
        let body = format!(r#"{{"model":"m","input":"and?","previous_response_id":"{id}"}}"#);
        let pairs = [(":method", "POST"), (":path", "/v1/responses")];
        let (_, directive) = request(&mut workers[(number + 2) % 3], &mut shared, &pairs, Some(&body), 20);
        assert_eq!(listed_hosts(&directive), [maker; 3]);
    }
}

#[test]
fn an_id_that_nobody_knows_or_whose_maker_left_is_picked_for_and_other_requests_ask_nothing() {
    let lists: [Option<&[&str]>; 2] = [None; 2];
    let mut picker = picker("{}", &lists, &[IDLE; 2]);
    let mut shared = Shared::default();
    let get = [(":method", "GET"), (":path", "/v1/responses/resp_1")];
    assert_eq!(hosts(&request(&mut picker, &mut shared, &get, None, 0).1).len(), 2);
    let maker = create(&mut picker, &mut shared, &[r#"{"id":"resp_1","object":"response"}"#], "application/json");
    let mut left = membership(&lists);
    left.version = 2;
    left.pools[0].endpoints.retain(|endpoint| endpoint.address != address(maker));
    picker.install_membership(&left);
    assert_eq!(hosts(&request(&mut picker, &mut shared, &get, None, 0).1), [3 - maker]);
    let calls = shared.calls;
    let pairs = [(":method", "POST"), (":path", "/v1/chat/completions")];
    request(&mut picker, &mut shared, &pairs, Some(&chat("m")), 0);
    assert_eq!(shared.calls, calls);
    // Of other APIs no id is noted: nobody can ask for it.
    let (mut exchange, _) = request(&mut picker, &mut shared, &pairs, Some(&chat("m")), 0);
    let mut info = Info { upstream: Some(address(1)), details: Some("via_upstream"), ..Info::default() };
    let head = ResponseHead { status: 200, json: true, ..ResponseHead::default() };
    exchange.on_response_headers(&mut picker, &head, &mut info, false);
    exchange.on_response_body(&mut picker, [br#"{"id":"chatcmpl-1"}"#.as_slice()], &mut info, true);
    exchange.note_maker(&picker, &mut shared);
    assert_eq!(shared.calls, calls);
}

#[test]
fn requests_of_negative_priority_are_shed_while_the_pool_is_full_and_no_others() {
    let objectives = r#""objectives": {"batch": -1, "urgent": 2}"#;
    let full = Load { waiting: Some(6), ..IDLE };
    let batch = [("x-gateway-inference-objective", "batch")];
    let picker_of = |extra: &str, load| {
        let lists: [Option<&[&str]>; 2] = [Some(&["m"]), Some(&["m"])];
        picker(&format!("{{{objectives}{extra}}}"), &lists, &[load; 2])
    };
    let mut saturated = picker_of("", full);
    let (answer, body) = reply(ask(&mut saturated, "m", &batch));
    assert_eq!((answer.status, answer.retry_after, answer.error_code.as_str()), (429, Some(1), "ResourceExhausted"));
    assert_eq!(
        (body["error"]["type"].as_str(), body["error"]["code"].as_str()),
        (Some("rate_limit_error"), Some("saturated"))
    );
    for objective in ["urgent", "unheard-of"] {
        hosts(&ask(&mut saturated, "m", &[("x-gateway-inference-objective", objective)]));
    }
    hosts(&ask(&mut saturated, "m", &[]));
    let counted = stats(&mut saturated);
    let model = "model_name=m;target_model_name=m;";
    assert_stat(&counted, &format!("{model}error_code=ResourceExhausted;inference_objective_request_error_total"), 1);
    assert_stat(&counted, &format!("{model}priority=-1;inference_objective_request_total"), 1);
    hosts(&ask(&mut picker_of("", IDLE), "m", &batch));
    for switched in [r#", "saturation": {"shed": false}"#, r#", "saturation": {"queue_depth": 7}"#] {
        hosts(&ask(&mut picker_of(switched, full), "m", &batch));
    }
    let warm = Load { kv_cache_usage: Some(0.6), ..IDLE };
    hosts(&ask(&mut picker_of("", warm), "m", &batch));
    reply(ask(&mut picker_of(r#", "saturation": {"kv_cache_usage": 0.5}"#, warm), "m", &batch));
}

#[test]
fn figures_that_the_sidecar_goes_on_confirming_are_not_old() {
    let config = r#"{"objectives": {"batch": -1}}"#;
    let batch = [("x-gateway-inference-objective", "batch")];
    let pairs = [(":method", "POST"), (":path", "/v1/chat/completions"), batch[0]];
    let mut idle = picker(config, &[None], &[IDLE]);
    // The sidecar holds its answer back for 200 ms while nothing changes, and figures count for 200 ms.
    let at = |picker: &mut EndpointPicker, micros| {
        request(picker, &mut Shared::default(), &pairs, Some(&chat("m")), micros).1
    };
    hosts(&at(&mut idle, 390_000));
    assert_eq!(reply(at(&mut idle, 410_000)).0.status, 429);
    idle.confirm(Timestamp::from_micros(START_MICROS + 400_000));
    hosts(&at(&mut idle, 410_000));
}

#[test]
fn a_subset_hint_counts_where_it_is_to_be_taken_from_and_confines() {
    let lists: [Option<&[&str]>; 3] = [None; 3];
    let hint = |list| [("x-gateway-destination-endpoint-subset", list)];
    for config in ["{}", r#"{"subset_hint": "off"}"#] {
        let mut off = picker(config, &lists, &[IDLE; 3]);
        assert_eq!(hosts(&ask(&mut off, "m", &hint("10.0.0.1"))).len(), 3, "a client may have sent it");
    }
    let mut on = picker(r#"{"subset_hint": "header"}"#, &lists, &[IDLE; 3]);
    assert_eq!(hosts(&ask(&mut on, "m", &[])).len(), 3);
    assert_eq!(hosts(&ask(&mut on, "m", &hint("10.0.0.2"))), [2]);
    for list in ["", "10.0.0.9:8000"] {
        let (answer, body) = reply(ask(&mut on, "m", &hint(list)));
        assert_eq!((answer.status, body["error"]["code"].as_str()), (503, Some("no_endpoint")), "{list:?}");
    }
}

#[test]
fn a_hint_in_the_proxys_metadata_is_no_clients_header() {
    let lists: [Option<&[&str]>; 3] = [None; 3];
    let mut picker = picker(r#"{"subset_hint": "metadata"}"#, &lists, &[IDLE; 3]);
    let hint = [("x-gateway-destination-endpoint-subset", "10.0.0.1")];
    assert_eq!(hosts(&ask(&mut picker, "m", &hint)).len(), 3);
    for (metadata, expected) in [(&b"10.0.0.3:8000,10.0.0.9"[..], &[3][..]), (b"10.0.0.2", &[2]), (b"", &[])] {
        let head = RequestHead {
            method: b"GET",
            path: b"/v1/models",
            subset_metadata: Some(metadata),
            ..RequestHead::default()
        };
        let mut exchange = Exchange::default();
        let now = Timestamp::from_micros(START_MICROS);
        assert_eq!(exchange.on_request_headers(&mut picker, &head, true, now), Directive::Pick);
        let directive = exchange.pick(&mut picker, now);
        if expected.is_empty() {
            assert_eq!(reply(directive).0.status, 503);
        } else {
            assert_eq!(hosts(&directive), expected);
        }
    }
}

#[test]
fn a_load_report_is_asked_for_counts_until_the_next_page_and_stays_here() {
    let lists: [Option<&[&str]>; 2] = [None; 2];
    let pairs = |extra: &'static [(&str, &str)]| {
        let mut pairs = vec![(":method", "POST"), (":path", "/v1/chat/completions")];
        pairs.extend_from_slice(extra);
        pairs
    };
    let report = [(
        "endpoint-load-metrics",
        "TEXT named_metrics.num_requests_waiting=9.0, named_metrics.kv_cache_usage_perc=0.5",
    )];
    let mut picker = picker(r#"{"orca": true}"#, &lists, &[IDLE; 2]);
    let send = |picker: &mut EndpointPicker, pairs: &[(&str, &str)], body: &str| {
        let (exchange, directive) = request(picker, &mut Shared::default(), pairs, Some(body), 1_000);
        let Directive::Send(outbound) = directive else { panic!("{directive:?}") };
        (exchange, outbound.ask_load)
    };
    let (mut exchange, asks) = send(&mut picker, &pairs(&[]), &chat("m"));
    assert!(asks);
    let changes = answered(&mut exchange, &mut picker, 1, &report);
    assert_eq!(changes.remove, ["endpoint-load-metrics", "endpoint-load-metrics-bin"]);
    let load =
        |picker: &EndpointPicker| *picker.pool().endpoint(picker.pool().find(address(1)).unwrap()).unwrap().load();
    assert_eq!(
        (load(&picker).waiting, load(&picker).running, load(&picker).kv_cache_usage),
        (Some(9), Some(0), Some(0.5))
    );
    assert_eq!(hosts(&ask(&mut picker, "m", &[]))[0], 2);
    // Loads that come later and were taken earlier do not take it back; those of a later page do.
    for (captured_at_ms, received_after, waiting) in [(10, 4_000, 9), (20, 6_000, 0)] {
        let mut loads = Loads { epoch: 1, membership_version: 1, endpoints: vec![IDLE; 2], ..Loads::default() };
        loads.captured_at_ms = captured_at_ms;
        picker.install_loads(&loads, Timestamp::from_micros(START_MICROS + received_after)).unwrap();
        assert_eq!(load(&picker).waiting, Some(waiting));
    }
    // A client that asks for itself gets its report; a stream has none.
    let (mut exchange, asks) = send(&mut picker, &pairs(&[("endpoint-load-metrics-format", "JSON")]), &chat("m"));
    assert!(!asks);
    assert_eq!(answered(&mut exchange, &mut picker, 1, &report), Inbound::default());
    let stream = r#"{"model":"m","stream":true,"messages":[]}"#;
    assert!(!send(&mut picker, &pairs(&[]), stream).1);
}

#[test]
fn without_the_switch_nothing_is_asked_for_and_a_report_counts_for_nothing() {
    let mut picker = picker("{}", &[None], &[IDLE]);
    let pairs = [(":method", "POST"), (":path", "/v1/chat/completions")];
    let (mut exchange, directive) = request(&mut picker, &mut Shared::default(), &pairs, Some(&chat("m")), 0);
    assert!(matches!(directive, Directive::Send(Outbound { ask_load: false, .. })));
    let report = [("endpoint-load-metrics", "TEXT named_metrics.num_requests_waiting=9.0")];
    assert_eq!(answered(&mut exchange, &mut picker, 1, &report), Inbound::default());
    let (_, endpoint) = picker.pool().endpoints().next().unwrap();
    assert_eq!(endpoint.load().waiting, Some(0));
}

#[test]
fn a_session_stays_with_its_endpoint_and_gets_a_new_token_when_it_had_to_move() {
    let lists: [Option<&[&str]>; 4] = [None; 4];
    for (config, request_header, response_header) in [
        (r#"{"session": {"header": "X-Session-Token"}}"#, "x-session-token", "x-session-token"),
        (r#"{"session": {"cookie": "pod", "ttl_s": 60}}"#, "cookie", "set-cookie"),
    ] {
        let mut picker = picker(config, &lists, &[IDLE; 4]);
        let session = picker.config().rules.session.clone().unwrap();
        let send = |picker: &mut EndpointPicker, token: Option<&str>| {
            let mut headers = vec![(":method", "GET"), (":path", "/v1/models")];
            headers.extend(token.map(|token| (request_header, token)));
            let pairs = || headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            let head = RequestHead { session: session.token(pairs()), ..RequestHead::read(pairs()) };
            let now = Timestamp::from_micros(START_MICROS);
            let mut exchange = Exchange::default();
            assert_eq!(exchange.on_request_headers(picker, &head, true, now), Directive::Pick);
            let first = hosts(&exchange.pick(picker, now))[0];
            (exchange, first)
        };
        let (mut exchange, first) = send(&mut picker, None);
        let changes = answered(&mut exchange, &mut picker, first, &[]);
        let [(name, value)] = changes.add.as_slice() else { panic!("{changes:?}") };
        assert_eq!(name, response_header);
        let token = value.split(';').next().unwrap();
        for _ in 0..20 {
            let (mut exchange, again) = send(&mut picker, Some(token));
            assert_eq!(again, first);
            assert_eq!(answered(&mut exchange, &mut picker, first, &[]), Inbound::default(), "it has its token");
        }
        let (mut exchange, _) = send(&mut picker, Some(token));
        let moved = answered(&mut exchange, &mut picker, 1 + first % 4, &[]);
        assert_eq!(moved.add.len(), 1, "a retry served it");
        assert_ne!(moved.add[0].1, *value);
    }
}

#[test]
fn a_full_engine_ranks_last_for_a_moment_and_is_never_ejected() {
    let lists: [Option<&[&str]>; 2] = [None; 2];
    let mut picker = picker("{}", &lists, &[IDLE; 2]);
    let turn_away = |picker: &mut EndpointPicker, after: u64, retry_after: &str| {
        let pairs = [(":method", "POST"), (":path", "/v1/chat/completions")];
        let (mut exchange, _) = request(picker, &mut Shared::default(), &pairs, Some(&chat("m")), after);
        let mut info =
            Info { micros: START_MICROS + after, upstream: Some(address(1)), attempts: Some(1), ..Info::default() };
        info.details = Some("via_upstream");
        let mut pairs = vec![(":status", "503"), ("content-type", "application/json")];
        if !retry_after.is_empty() {
            pairs.push(("retry-after", retry_after));
        }
        let pairs = pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        exchange.on_response_headers(picker, &ResponseHead::read(pairs), &mut info, false);
        exchange.on_response_size(picker, 10, false, &mut info, true);
    };
    let standing = |picker: &EndpointPicker, after| {
        let endpoint = picker.pool().endpoint(picker.pool().find(address(1)).unwrap()).unwrap();
        endpoint.health().standing(Timestamp::from_micros(START_MICROS + after))
    };
    for after in [0, 10_000, 20_000, 30_000] {
        turn_away(&mut picker, after, "");
        assert_eq!(standing(&picker, after), Standing::Suspect);
    }
    assert_eq!(standing(&picker, 1_040_000), Standing::OnTrial);
    turn_away(&mut picker, 2_000_000, "7");
    assert_eq!([8_999_999, 9_000_000].map(|after| standing(&picker, after)), [Standing::Suspect, Standing::OnTrial]);
    let stats = stats(&mut picker);
    assert_stat(&stats, "pool=default;endpoint=10.0.0.1:8000;reason=busy;inpick_endpoint_failures_total", 5);
    assert!(!stats.iter().any(|(name, _)| name.contains("ejections")), "{stats:#?}");
}

#[test]
fn a_response_whose_maker_is_outside_the_subset_is_asked_of_the_subset() {
    let lists: [Option<&[&str]>; 3] = [None; 3];
    let mut picker = picker(r#"{"subset_hint": "header"}"#, &lists, &[IDLE; 3]);
    let mut shared = Shared::default();
    let maker = create(&mut picker, &mut shared, &[r#"{"id":"resp_1","object":"response"}"#], "application/json");
    let ask = |picker: &mut EndpointPicker, shared: &mut Shared, subset: &str| {
        let pairs =
            [(":method", "POST"), (":path", "/v1/responses"), ("x-gateway-destination-endpoint-subset", subset)];
        let body = r#"{"model":"m","input":"and?","previous_response_id":"resp_1"}"#;
        request(picker, shared, &pairs, Some(body), 20).1
    };
    let other = if maker == 1 { 2 } else { 1 };
    let outside = ask(&mut picker, &mut shared, &format!("10.0.0.{other}:8000"));
    assert_eq!(hosts(&outside), [other]);
    let inside = ask(&mut picker, &mut shared, &format!("10.0.0.{other}:8000,10.0.0.{maker}:8000"));
    assert_eq!(hosts(&inside), [maker]);
}

#[test]
fn what_a_conversation_that_the_server_keeps_takes_teaches_nothing_of_prompts() {
    let mut picker = picker("{}", &[None], &[IDLE]);
    let mut shared = Shared::default();
    for (fields, taught) in [(r#","previous_response_id":"resp_1""#, false), ("", true)] {
        let body = format!(r#"{{"model":"m","input":"{}"{fields}}}"#, "and then? ".repeat(40));
        let pairs = [(":method", "POST"), (":path", "/v1/responses"), ("content-type", "application/json")];
        let (mut exchange, _) = request(&mut picker, &mut shared, &pairs, Some(&body), 20);
        answered(&mut exchange, &mut picker, 1, &[]);
        let mut info = Info {
            micros: START_MICROS + 900_000,
            upstream: Some(address(1)),
            attempts: Some(1),
            details: Some("via_upstream"),
            ..Info::default()
        };
        let answer = r#"{"id":"resp_2","object":"response","status":"completed","usage":{"input_tokens":110,"output_tokens":1,"total_tokens":111}}"#;
        exchange.on_response_body(&mut picker, [answer.as_bytes()], &mut info, true);
        exchange.on_log(&mut picker, &mut info);
        assert_eq!(!picker.learner().is_new(), taught, "{fields}");
    }
}
