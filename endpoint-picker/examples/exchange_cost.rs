//! What the core itself takes for one unary exchange, without any host: time natively, and a small program to profile.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a measuring program: a failure is its result")]

use std::net::SocketAddr;
use std::time::Instant;

use endpoint_picker::exchange::StreamInfo;
use endpoint_picker::head::{RequestHead, ResponseHead};
use endpoint_picker::{Directive, EndpointPicker, Exchange, Plugin, Timestamp};
use snapshot::{Endpoint, Pool, Snapshot, State};

const CHAT: &[u8] =
    br#"{"model":"meta-llama/Llama-3.1-8B-Instruct","messages":[{"role":"user","content":"Which pod is it?"}]}"#;
const ANSWER: &[u8] = br#"{"choices":[{"message":{"content":"ab"}}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;

struct Info(SocketAddr);

impl StreamInfo for Info {
    fn now(&mut self) -> Timestamp {
        Timestamp::from_micros(1_000)
    }

    fn upstream_address(&mut self) -> Option<SocketAddr> {
        Some(self.0)
    }

    fn attempts(&mut self) -> Option<u64> {
        None
    }

    fn code_details(&mut self) -> Option<Vec<u8>> {
        None
    }

    fn response_flags(&mut self) -> Option<u64> {
        None
    }
}

fn main() {
    let rounds: u32 = std::env::args().nth(1).map_or(200_000, |rounds| rounds.parse().unwrap());
    let Ok(Plugin::Filter(config)) = Plugin::parse(b"") else { panic!("the default configuration is valid") };
    let mut picker = EndpointPicker::new(config, 1);
    let endpoint = |last: u8| Endpoint {
        state: State::Fresh,
        waiting: Some(0),
        running: Some(0),
        kv_cache_usage: Some(0.1),
        ..Endpoint::unknown(([10, 0, 0, last], 8000).into())
    };
    let pools = vec![Pool { name: "default".into(), endpoints: (1..=4).map(endpoint).collect() }];
    picker.install(&Snapshot { epoch: 1, generation: 1, captured_at_ms: 0, pools });
    picker.confirm(Timestamp::from_micros(0));
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
    let head = RequestHead::read(pairs.into_iter());
    assert_eq!(exchange.on_request_headers(picker, &head, false, Timestamp::from_micros(0)), Directive::Wait);
    assert_eq!(exchange.on_request_body(picker, CHAT, true), Directive::Pick);
    let Directive::Send(outbound) = exchange.pick(picker, Timestamp::from_micros(1)) else { panic!("not sent") };
    let first = outbound.destination.as_deref().and_then(|list| list.split(',').next()?.parse().ok()).unwrap();
    picker.record_pick_duration(1);
    let pairs: [(&[u8], &[u8]); 3] =
        [(b":status", b"200"), (b"content-type", b"application/json"), (b"server", b"uvicorn")];
    let mut info = Info(first);
    exchange.on_response_headers(picker, &ResponseHead::read(pairs.into_iter()), &mut info, false);
    exchange.on_response_body(picker, ANSWER.len(), || ANSWER.to_vec(), &mut info, true);
    assert!(exchange.is_settled());
}
