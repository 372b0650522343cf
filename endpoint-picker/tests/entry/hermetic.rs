//! The hermetic cases of the upstream endpoint picker, and of its conformance suite what needs no proxy, each under its upstream name.

use endpoint_picker::exchange::Outbound;
use endpoint_picker::head::{RequestHead, ResponseHead};
use endpoint_picker::{Directive, EndpointPicker, Exchange, Plugin, Timestamp};
use snapshot::{AdapterUse, EndpointIdentity, Load, Loads, Membership, PoolMembers};

use crate::host::Info;
use crate::scene::*;
use crate::shared::Shared;

const OBJECTIVES: &str = r#"{"objectives": {"sheddable": -1, "critical": 2}}"#;

fn load(waiting: u32, kv_cache_usage: f64) -> Load {
    Load { waiting: Some(waiting), kv_cache_usage: Some(kv_cache_usage), ..IDLE }
}

fn three(config: &str, loads: [Load; 3]) -> EndpointPicker {
    let lists: [Option<&[&str]>; 3] = [Some(&["my-model"]); 3];
    picker(config, &lists, &loads)
}

#[test]
fn select_lower_queue_and_kv_cache() {
    let mut picker = three("{}", [load(3, 0.2), load(0, 0.1), load(10, 0.2)]);
    assert_eq!(hosts(&ask(&mut picker, "my-model", &[]))[0], 2);
}

#[test]
fn do_not_shed_requests_by_default() {
    let mut picker = three("{}", [load(6, 0.85), load(6, 0.9), load(6, 0.85)]);
    hosts(&ask(&mut picker, "my-model", &[]));
    let mut picker = three(OBJECTIVES, [load(6, 0.85), load(6, 0.9), load(6, 0.85)]);
    hosts(&ask(&mut picker, "my-model", &[("x-gateway-inference-objective", "critical")]));
    assert_eq!(reply(ask(&mut picker, "my-model", &[("x-llm-d-inference-objective", "sheddable")])).0.status, 429);
}

#[test]
fn model_not_in_objectives_passes_through() {
    let mut picker = three(OBJECTIVES, [IDLE; 3]);
    hosts(&ask(&mut picker, "my-model", &[("x-gateway-inference-objective", "unheard-of")]));
}

#[test]
fn invalid_json_and_missing_model_are_bad_requests() {
    for (body, code) in [
        ("no healthy upstream", "invalid_json"),
        (r#"{"prompt": "test"}"#, "missing_model"),
        (r#"{"model": 5, "prompt": "test"}"#, "invalid_model"),
    ] {
        let mut picker = three("{}", [IDLE; 3]);
        let (answer, json) = reply(send(&mut picker, "/v1/completions", &[], body));
        assert_eq!((answer.status, json["error"]["code"].as_str()), (400, Some(code)), "{body}");
    }
}

#[test]
fn body_sent_over_multiple_requests_and_an_empty_end_of_stream() {
    let body = r#"{"model":"my-model","max_tokens":100,"prompt":"test multi chunk","temperature":0}"#;
    let now = Timestamp::from_micros(START_MICROS);
    for pieces in [vec![&body[..20], &body[20..], ""], vec![&body[..1], &body[1..2], &body[2..]], vec![body, ""]] {
        let mut picker = three("{}", [load(4, 0.2), load(0, 0.1), load(10, 0.2)]);
        let mut exchange = Exchange::default();
        let mut info = Info { micros: now.as_micros(), ..Info::default() };
        let head = RequestHead { method: b"POST", path: b"/v1/completions", ..RequestHead::default() };
        assert_eq!(exchange.on_request_headers(&mut picker, &head, false, now), Directive::Wait);
        let (last, rest) = pieces.split_last().unwrap();
        for piece in rest {
            let directive = exchange.on_request_body(&mut picker, [piece.as_bytes()], false, &mut info);
            assert_eq!(directive, Directive::Wait);
        }
        let directive = exchange.on_request_body(&mut picker, [last.as_bytes()], true, &mut info);
        assert_eq!(directive, Directive::Pick);
        assert_eq!(hosts(&exchange.pick(&mut picker, now))[0], 2);
    }
}

/// Where the endpoint picker answers 500 and 503, the proxy's own policy may still know a host; closed, it is 503.
#[test]
fn no_backend_pods_available() {
    let get = [(":method", "GET"), (":path", "/v1/models")];
    let mut open = picker("{}", &[], &[]);
    let (_, directive) = request(&mut open, &mut Shared::default(), &get, None, 0);
    assert!(matches!(directive, Directive::Send(Outbound { destination: None, .. })));
    let mut closed = picker(r#"{"no_endpoint": "fail_closed"}"#, &[], &[]);
    assert_eq!(reply(request(&mut closed, &mut Shared::default(), &get, None, 0).1).0.status, 503);
    assert_eq!(reply(ask(&mut closed, "my-model", &[])).0.status, 503);
}

#[test]
fn simple_get_request() {
    let mut picker = three("{}", [IDLE; 3]);
    let get = [(":method", "GET"), (":path", "/v1/models")];
    let (_, directive) = request(&mut picker, &mut Shared::default(), &get, None, 0);
    assert_eq!(hosts(&directive).len(), 3);
}

#[test]
fn rewrite_request_model() {
    let config =
        r#"{"model_rewrites": [{"name": "r", "model": "my-model", "targets": [{"model": "my-model-12345"}]}]}"#;
    let lists: [Option<&[&str]>; 1] = [Some(&["my-model-12345"])];
    let mut picker = picker(config, &lists, &[IDLE]);
    let body = r#"{"model":"my-model","prompt":"test"}"#;
    let Directive::Send(outbound) = send(&mut picker, "/v1/completions", &[], body) else { panic!("it is served") };
    let spliced = outbound.splice.unwrap().apply(body.as_bytes());
    assert_eq!(spliced, br#"{"model":"my-model-12345","prompt":"test"}"#);
}

#[test]
fn subsetting_selects_best_partial_and_no_pods() {
    let lists: [Option<&[&str]>; 3] = [None; 3];
    let loads = [load(0, 0.2), load(0, 0.1), load(10, 0.2)];
    let mut picker = picker(r#"{"subset_hint": "header"}"#, &lists, &loads);
    let hint = |list| [("x-gateway-destination-endpoint-subset", list)];
    // By best: all are named. Partial: the best of those that are. None: nobody is named.
    let all = "10.0.0.1:8000, 10.0.0.2:8000, 10.0.0.3:8000";
    assert_eq!(hosts(&ask(&mut picker, "my-model", &hint(all)))[0], 2);
    assert_eq!(hosts(&ask(&mut picker, "my-model", &hint("10.0.0.3:8000"))), [3]);
    assert_eq!(reply(ask(&mut picker, "my-model", &hint("10.0.0.4:8000, 10.0.0.5:8000"))).0.status, 503);
}

/// What is read of an answer: status, usage and nothing held back.
fn answer(chunks: &[&str], content_type: &str) -> Vec<(String, u64)> {
    let lists: [Option<&[&str]>; 1] = [Some(&["my-model"])];
    let mut picker = picker("{}", &lists, &[IDLE]);
    let pairs = [(":method", "POST"), (":path", "/v1/chat/completions")];
    let (mut exchange, _) = request(&mut picker, &mut Shared::default(), &pairs, Some(&chat("my-model")), 0);
    let mut info =
        Info { micros: START_MICROS + 9, upstream: Some(address(1)), details: Some("via_upstream"), ..Info::default() };
    let pairs = [(b":status".as_slice(), b"200".as_slice()), (b"content-type", content_type.as_bytes())];
    exchange.on_response_headers(&mut picker, &ResponseHead::read(pairs.into_iter()), &mut info, false);
    for (index, chunk) in chunks.iter().enumerate() {
        let end = index + 1 == chunks.len();
        if exchange.reads_response() {
            exchange.on_response_body(&mut picker, [chunk.as_bytes()], &mut info, end);
        } else {
            exchange.on_response_size(&mut picker, chunk.len() as u64, false, &mut info, end);
        }
    }
    exchange.on_log(&mut picker, &mut info);
    assert!(exchange.is_settled());
    stats(&mut picker)
}

#[test]
fn response_buffered_json_in_several_chunks_and_an_empty_end_of_stream() {
    let body = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":10,"total_tokens":17}}"#;
    for chunks in [vec![body], vec![&body[..30], &body[30..]], vec![&body[..30], &body[30..], ""]] {
        let stats = answer(&chunks, "application/json");
        let model = "model_name=my-model;target_model_name=my-model;";
        assert_stat(&stats, &format!("{model}inference_objective_input_tokens_sum"), 7);
        assert_stat(&stats, &format!("{model}inference_objective_output_tokens_sum"), 10);
        assert_stat(&stats, "outcome=parsed;inpick_response_bodies_total", 1);
    }
}

#[test]
fn response_buffered_not_json_passes_through() {
    let stats = answer(&["no healthy upstream"], "text/plain");
    assert_stat(&stats, "outcome=opaque;inpick_response_bodies_total", 1);
    assert!(!stats.iter().any(|(name, _)| name.contains("tokens") || name.contains("error_total")), "{stats:#?}");
}

#[test]
fn response_streaming_tokens_are_counted_once_with_the_usage_cut_anywhere() {
    let events = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\n\
                  data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"total_tokens\":17,\"completion_tokens\":10}}\n\ndata: [DONE]\n\n";
    for cut in 1..events.len() {
        let stats = answer(&[&events[..cut], &events[cut..], ""], "text/event-stream");
        let model = "model_name=my-model;target_model_name=my-model;";
        for (family, sum) in [("input_tokens", 7), ("output_tokens", 10)] {
            assert_stat(&stats, &format!("{model}inference_objective_{family}_sum"), sum);
            assert_stat(&stats, &format!("{model}inference_objective_{family}_count"), 1);
        }
    }
}

/// Conformance: each pool's picker picks only its own pods, however the route splits the requests.
#[test]
fn gateway_weighted_across_two_inference_pools() {
    let identities =
        |third: u8| (1..=3).map(|last| EndpointIdentity::unnamed(([10, 0, third, last], 8000).into())).collect();
    let members =
        |name: &str, third| PoolMembers { name: name.into(), endpoints: identities(third), ..PoolMembers::default() };
    let membership = Membership { epoch: 1, version: 1, pools: vec![members("primary", 1), members("secondary", 2)] };
    let loads = Loads { epoch: 1, membership_version: 1, endpoints: vec![IDLE; 6], ..Loads::default() };
    for (name, third) in [("primary", 1), ("secondary", 2)] {
        let config = format!(r#"{{"pool": "{name}", "conformance": true}}"#);
        let Ok(Plugin::Filter(config)) = Plugin::parse(config.as_bytes()) else { panic!("a filter") };
        let mut picker = EndpointPicker::new(config, 1);
        picker.install_membership(&membership);
        picker.install_loads(&loads, Timestamp::from_micros(START_MICROS)).unwrap();
        for chosen in 1..=3 {
            let both = format!("10.0.1.{chosen}, 10.0.2.{chosen}:8000");
            let directive = ask(&mut picker, "my-model", &[("test-epp-endpoint-selection", &both)]);
            let Directive::Send(Outbound { destination: Some(list), .. }) = directive else { panic!("{directive:?}") };
            // The others must not have it, so it is tried again.
            assert_eq!(list, vec![format!("10.0.{third}.{chosen}:8000"); 3].join(","));
        }
        assert_eq!(reply(ask(&mut picker, "my-model", &[])).0.status, 429, "nobody is selected");
    }
}

/// Conformance, where pods have IPs of their own: one, two and three of them, with and without ports.
#[test]
fn gateway_following_epp_routing_by_ip() {
    let lists: [Option<&[&str]>; 4] = [None; 4];
    let mut picker =
        picker(r#"{"conformance": true}"#, &lists, &[load(0, 0.0), load(50, 0.9), load(9, 0.1), load(0, 0.0)]);
    for (list, expected) in
        [("10.0.0.2", &[2][..]), ("10.0.0.3,10.0.0.2", &[3, 2]), ("10.0.0.4:8000, 10.0.0.2:8000 ,10.0.0.3", &[4, 2, 3])]
    {
        let directive = ask(&mut picker, "my-model", &[("test-epp-endpoint-selection", list)]);
        assert_eq!(hosts(&directive), expected, "{list}");
    }
}

/// Three pods of which those at these places run the adapter that is asked for; all run others.
fn with_adapter(loads: [Load; 3], running: &[u32]) -> EndpointPicker {
    let config = r#"{"scheduling": {"scorers": [{"name": "queue-scorer"}, {"name": "kv-cache-utilization-scorer"},
                                                {"name": "lora-affinity-scorer"}]}}"#;
    let Ok(Plugin::Filter(config)) = Plugin::parse(config.as_bytes()) else { panic!("a filter") };
    let mut picker = EndpointPicker::new(config, 1);
    let endpoints = (1..=3).map(|last| EndpointIdentity::unnamed(address(last))).collect();
    let adapters = vec!["foo".to_owned(), "sql-lora-1fdg2".to_owned()];
    let pool = PoolMembers { name: "default".into(), endpoints, adapters, ..PoolMembers::default() };
    picker.install_membership(&Membership { epoch: 1, version: 1, pools: vec![pool] });
    let others = (0..3).map(|endpoint| AdapterUse { endpoint, adapter: 0, waiting: false });
    let own = running.iter().map(|&endpoint| AdapterUse { endpoint, adapter: 1, waiting: false });
    let loads = Loads {
        epoch: 1,
        membership_version: 1,
        endpoints: loads.map(|load| Load { max_lora: Some(2), ..load }).to_vec(),
        adapters: others.chain(own).collect(),
        ..Loads::default()
    };
    picker.install_loads(&loads, Timestamp::from_micros(START_MICROS)).unwrap();
    picker
}

#[test]
fn select_active_lora_with_low_queue() {
    let mut picker = with_adapter([load(0, 0.2), load(0, 0.1), load(10, 0.2)], &[1]);
    assert_eq!(hosts(&ask(&mut picker, "sql-lora-1fdg2", &[]))[0], 2);
}

#[test]
fn select_lora_despite_higher_kv_cache_usage() {
    let mut picker = with_adapter([load(10, 0.2), load(10, 0.4), load(10, 0.3)], &[2]);
    assert_eq!(hosts(&ask(&mut picker, "sql-lora-1fdg2", &[]))[0], 3);
    assert_eq!(hosts(&ask(&mut picker, "base", &[]))[0], 1, "without an adapter the cache decides");
}
