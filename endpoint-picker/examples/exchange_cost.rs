//! What the core itself takes for one unary exchange, without any host: time natively, and a small program to profile.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a measuring program: a failure is its result")]

use std::time::Instant;

use endpoint_picker::head::{RequestHead, ResponseHead};
use endpoint_picker::{Directive, EndpointPicker, Exchange, Plugin, Timestamp};
use snapshot::{EndpointIdentity, Load, Loads, Membership, PoolMembers, ServedModel, State};

use host::Info;

#[path = "../tests/plain/host.rs"]
mod host;

const MODEL: &str = "meta-llama/Llama-3.1-8B-Instruct";
const CHAT: &[u8] =
    br#"{"model":"meta-llama/Llama-3.1-8B-Instruct","messages":[{"role":"user","content":"Which pod is it?"}]}"#;
const ANSWER: &[u8] = br#"{"choices":[{"message":{"content":"ab"}}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;

fn main() {
    let rounds: u32 = std::env::args().nth(1).map_or(200_000, |rounds| rounds.parse().unwrap());
    let Ok(Plugin::Filter(config)) = Plugin::parse(b"") else { panic!("the default configuration is valid") };
    let mut picker = EndpointPicker::new(config, 1);
    let endpoints = (1..=4).map(|last| EndpointIdentity::unnamed(([10, 0, 0, last], 8000).into())).collect();
    let pool = PoolMembers {
        name: "default".into(),
        endpoints,
        models: vec![ServedModel { name: MODEL.into(), ..ServedModel::default() }],
        ..PoolMembers::default()
    };
    picker.install_membership(&Membership { epoch: 1, version: 1, pools: vec![pool] });
    let load = Load {
        state: State::Fresh,
        age_ms: Some(0),
        waiting: Some(0),
        running: Some(0),
        kv_cache_usage: Some(0.1),
        ..Load::default()
    };
    let loads = Loads { epoch: 1, membership_version: 1, endpoints: vec![load; 4], ..Loads::default() };
    picker.install_loads(&loads, Timestamp::from_micros(0)).unwrap();
    let admission = picker.telemetry_mut().admission_mut();
    if let Some(table) = admission.merge(None) {
        admission.learn(&table);
    }
    let started = Instant::now();
    for _ in 0..rounds {
        exchange(&mut picker);
    }
    println!("{:.0} ns an exchange", started.elapsed().as_nanos() as f64 / f64::from(rounds));
}

fn exchange(picker: &mut EndpointPicker) {
    let pairs: [(&[u8], &[u8]); 6] = [
        (b":authority", b"gateway"),
        (b":path", b"/v1/chat/completions"),
        (b":method", b"POST"),
        (b"content-type", b"application/json"),
        (b"content-length", b"100"),
        (b"user-agent", b"example"),
    ];
    let mut exchange = Exchange::default();
    let mut info = Info { micros: 1_000, ..Info::default() };
    let head = RequestHead::read(pairs.into_iter());
    assert_eq!(exchange.on_request_headers(picker, &head, false, Timestamp::from_micros(0)), Directive::Wait);
    assert_eq!(exchange.on_request_body(picker, [CHAT], true, &mut info), Directive::Pick);
    let Directive::Send(outbound) = exchange.pick(picker, Timestamp::from_micros(1)) else { panic!("not sent") };
    info.upstream = outbound.destination.as_deref().and_then(|list| list.split(',').next()?.parse().ok());
    picker.record_pick_duration(1);
    let pairs: [(&[u8], &[u8]); 3] =
        [(b":status", b"200"), (b"content-type", b"application/json"), (b"server", b"uvicorn")];
    exchange.on_response_headers(picker, &ResponseHead::read(pairs.into_iter()), &mut info, false);
    assert!(exchange.reads_response());
    exchange.on_response_body(picker, [ANSWER], &mut info, true);
    assert!(exchange.is_settled());
}
