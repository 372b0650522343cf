//! What it costs to have a request wait and to have it go on, with 100 others that wait, beside what a pick costs.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench: criterion's macros write the entry point"
)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use endpoint_picker::head::{RequestHead, ResponseHead};
use endpoint_picker::{Directive, EndpointPicker, Exchange, Plugin, Timestamp};
use host::Info;
use snapshot::{EndpointIdentity, Load, Loads, Membership, PoolMembers, State};

#[path = "../tests/plain/host.rs"]
mod host;

const SIZES: [u8; 2] = [10, 100];
/// What each endpoint runs at once.
const SLOTS: u32 = 4;
const OTHERS: usize = 100;
const DOWNSTREAM_CONNECTION_TERMINATION: u64 = 0x4_0000;
const ANSWER: &[u8] = br#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;

/// A worker whose endpoints are full.
struct Full {
    picker: EndpointPicker,
    now: Timestamp,
    next: u64,
    running: Vec<Exchange>,
    waiting: BTreeMap<u64, Exchange>,
}

impl Full {
    fn new(endpoints: u8) -> Self {
        let Ok(Plugin::Filter(config)) = Plugin::parse(br#"{"flow_control": {}}"#) else { panic!("it is valid") };
        let mut picker = EndpointPicker::new(config, 1);
        let identity = |last| EndpointIdentity::unnamed(SocketAddr::from(([10, 0, 0, last], 8000)));
        let pools = vec![PoolMembers {
            name: "default".into(),
            endpoints: (0..endpoints).map(identity).collect(),
            ..PoolMembers::default()
        }];
        picker.install_membership(&Membership { epoch: 1, version: 1, pools });
        // On three pages in a row somebody waits: then it is known how many run at once.
        for (page, (running, waiting)) in [(SLOTS, 1), (SLOTS, 2), (SLOTS, 3), (0, 0)].into_iter().enumerate() {
            let load = Load {
                state: State::Fresh,
                age_ms: Some(0),
                waiting: Some(waiting),
                running: Some(running),
                ..Load::default()
            };
            let millis = 1_000 + 100 * page as u64;
            let endpoints = vec![load; usize::from(endpoints)];
            let loads = Loads {
                epoch: 1,
                membership_version: 1,
                generation: millis,
                captured_at_ms: millis,
                endpoints,
                ..Loads::default()
            };
            picker.install_loads(&loads, Timestamp::from_micros(millis * 1_000)).unwrap();
        }
        let now = Timestamp::from_micros(1_400_000);
        let mut full = Self { picker, now, next: 0, running: Vec::new(), waiting: BTreeMap::new() };
        while full.waiting.len() < OTHERS {
            full.come();
        }
        full
    }

    fn info(&self) -> Info {
        Info { micros: 1_400_000, ..Info::default() }
    }

    /// A request that was read and is to be picked for.
    fn read(&mut self) -> Exchange {
        let head = RequestHead {
            method: b"POST",
            path: b"/v1/chat/completions",
            content_type: Some(b"application/json"),
            ..RequestHead::default()
        };
        self.next += 1;
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"question {}"}}]}}"#, self.next);
        let mut exchange = Exchange::default();
        let mut info = self.info();
        assert_eq!(exchange.on_request_headers(&mut self.picker, &head, false, self.now), Directive::Wait);
        assert_eq!(exchange.on_request_body(&mut self.picker, [body.as_bytes()], true, &mut info), Directive::Pick);
        exchange
    }

    /// A request comes, and is sent or waits; what that took.
    fn come(&mut self) -> Duration {
        let mut exchange = self.read();
        let before = Instant::now();
        let directive = exchange.pick(&mut self.picker, self.now);
        let took = before.elapsed();
        match directive {
            Directive::Park(number) => drop(self.waiting.insert(number, exchange)),
            _ => self.running.push(exchange),
        }
        took
    }

    /// The client of the request that came last leaves.
    fn leave(&mut self) {
        let (_, mut exchange) = self.waiting.pop_last().unwrap();
        let mut info = Info { flags: Some(DOWNSTREAM_CONNECTION_TERMINATION), ..self.info() };
        exchange.on_log(&mut self.picker, &mut info);
    }

    /// The endpoint of the request that was sent first answers.
    fn end(&mut self) {
        let mut exchange = self.running.remove(0);
        let mut info = Info { attempts: Some(1), details: Some("via_upstream"), ..self.info() };
        let head = ResponseHead { status: 200, json: true, ..ResponseHead::default() };
        exchange.on_response_headers(&mut self.picker, &head, &mut info, false);
        exchange.on_response_body(&mut self.picker, [ANSWER], &mut info, true);
        exchange.on_log(&mut self.picker, &mut info);
    }

    /// Whoever may go on does; what that took for one, and nothing where there is no room.
    fn go_on(&mut self) -> Option<Duration> {
        let before = Instant::now();
        let number = self.picker.poll_wake(self.now)?;
        let mut exchange = self.waiting.remove(&number)?;
        let directive = exchange.resume(&mut self.picker, self.now);
        let took = before.elapsed();
        assert!(matches!(directive, Directive::Send(_)));
        self.running.push(exchange);
        Some(took)
    }
}

fn flow_control(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flow_control");
    for endpoints in SIZES {
        group.bench_with_input(BenchmarkId::new("park", endpoints), &endpoints, |bencher, &endpoints| {
            let mut full = Full::new(endpoints);
            bencher.iter_custom(|times| {
                (0..times)
                    .map(|_| {
                        let took = full.come();
                        full.leave();
                        took
                    })
                    .sum()
            });
        });
        // The pick for it is part of that.
        group.bench_with_input(BenchmarkId::new("wake", endpoints), &endpoints, |bencher, &endpoints| {
            let mut full = Full::new(endpoints);
            bencher.iter_custom(|times| {
                (0..times)
                    .map(|_| {
                        full.come();
                        loop {
                            full.end();
                            if let Some(took) = full.go_on() {
                                return took;
                            }
                        }
                    })
                    .sum()
            });
        });
        group.bench_with_input(BenchmarkId::new("send_at_once", endpoints), &endpoints, |bencher, &endpoints| {
            let mut full = Full::new(endpoints);
            while !full.waiting.is_empty() {
                full.leave();
            }
            bencher.iter_custom(|times| {
                (0..times)
                    .map(|_| {
                        while full.running.len() > usize::from(endpoints) {
                            full.end();
                        }
                        full.come()
                    })
                    .sum()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, flow_control);
criterion_main!(benches);
