//! What one pick with the default policy costs, and what workers spend on telling one another of the prompts that they sent, on
//! whatever this is compiled for: natively, or as `wasm32-wasip1` in Node, whose V8 is the engine that Envoy runs filters in. `make bench`
//! runs both.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a measuring program: a failure is its result")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use endpoint_picker::board::{Order, enroll};
use endpoint_picker::head::RequestHead;
use endpoint_picker::openai::PrefixMark;
use endpoint_picker::prefix_index::{MAX_HOLDINGS, PrefixIndex};
use endpoint_picker::prefix_news::Correspondent;
use endpoint_picker::rng::Rng;
use endpoint_picker::scheduling::Decision;
use endpoint_picker::{Config, Directive, EndpointPicker, Exchange, Plugin, Timestamp};

use host::Info;
use shared::Shared;
use warm::{NOW, Warm};

#[path = "../tests/plain/host.rs"]
mod host;
#[path = "../tests/plain/shared.rs"]
mod shared;
#[path = "../tests/plain/warm.rs"]
mod warm;

/// Endpoints, and the microseconds that a pick from so many may take.
const SIZES: [(u32, f64); 3] = [(10, 5.0), (100, 20.0), (1_000, 100.0)];
/// Prompts that one worker sends each second, and between two of its ticks.
const SENT_PER_SECOND: u64 = 1_000;
const TICK_MILLIS: u64 = 50;
/// Seconds for which it does.
const SECONDS: u64 = 5;
/// Different prompts, so that their scanning does not matter.
const PROMPTS: u64 = 500;

fn main() {
    for (endpoints, limit) in SIZES {
        for (name, bytes) in [("4 KB", 4_000), ("400 KB", 400_000)] {
            let micros = pick(endpoints, bytes);
            println!("pick of {endpoints:>4}, prompt of {name:>6}: {micros:>6.2} us, at most {limit}");
        }
    }
    println!("index of 1000 endpoints, full: {:.1} MiB", full_index() as f64 / f64::from(1 << 20));
    let [written, read] = news().map(|spent| spent.as_secs_f64() / SECONDS as f64 * 100.0);
    println!(
        "news of {SENT_PER_SECOND} prompts/s: {written:.2} % of a core to write, {read:.2} % to read, at most 1 %"
    );
}

fn config() -> Config {
    let Ok(Plugin::Filter(config)) = Plugin::parse(b"") else { panic!("the default configuration is valid") };
    config
}

/// Microseconds of a pick: of the fastest round, since others run here too.
fn pick(endpoints: u32, bytes: usize) -> f64 {
    let mut warm = Warm::new(endpoints, bytes);
    let (pool, scheduler, request) = warm.parts();
    let (profile, mut rng) = (config().profile, Rng::new(1));
    let now = NOW.plus_micros(1_000);
    let picks = 10_000 / endpoints;
    let mut round = || {
        let started = Instant::now();
        for _ in 0..picks {
            let decision = scheduler.pick(pool, &profile, &request, &mut rng, now);
            assert!(matches!(black_box(decision), Decision::Picked(..)));
        }
        started.elapsed().as_secs_f64() * 1e6 / f64::from(picks)
    };
    (0..400).map(|_| round()).fold(f64::INFINITY, f64::min)
}

/// Bytes of an index that holds as much as it may, of prompts that have nothing in common.
fn full_index() -> usize {
    let mut index = PrefixIndex::default();
    let mut rng = Rng::new(1);
    for slot in (0..1_000).cycle() {
        let marks: Vec<_> = (1..=48).map(|place| PrefixMark { hash: rng.next_u64(), end: place * 256 }).collect();
        index.insert(slot, &marks);
        if index.len() + marks.len() > MAX_HOLDINGS {
            return index.memory_bytes();
        }
    }
    0
}

/// Time that the worker which sends spends on its news, and another one on reading it.
fn news() -> [Duration; 2] {
    let mut shared = Shared::default();
    let mut pickers = [1, 2].map(|seed| {
        enroll(&mut shared, seed);
        let mut picker = EndpointPicker::new(config(), seed);
        picker.install_membership(&warm::membership(100));
        picker.install_loads(&warm::loads(100), NOW).unwrap();
        (seed, picker, Correspondent::default(), Duration::ZERO)
    });
    let bodies: Vec<Vec<u8>> = (0..PROMPTS).map(|user| warm::body(4_000, user % 8, user)).collect();
    let mut bodies = bodies.iter().cycle();
    for tick in 0..SECONDS * 1_000 / TICK_MILLIS {
        let now = NOW.plus_micros(tick * TICK_MILLIS * 1_000);
        let [(_, sender, ..), _] = &mut pickers;
        for _ in 0..SENT_PER_SECOND * TICK_MILLIS / 1_000 {
            send(sender, bodies.next().unwrap(), now);
        }
        for (worker, picker, correspondent, spent) in &mut pickers {
            let order = Some(Order { epoch: 1, version: 1 });
            let started = Instant::now();
            correspondent.tick(*worker, order, 0, picker, &mut shared, now);
            *spent += started.elapsed();
        }
    }
    let [_, (_, reader, ..)] = &pickers;
    assert!(!reader.prefix_index().is_empty(), "nothing was learnt");
    pickers.map(|(.., spent)| spent)
}

fn send(picker: &mut EndpointPicker, body: &[u8], now: Timestamp) {
    let head = RequestHead {
        method: b"POST",
        path: b"/v1/chat/completions",
        content_type: Some(b"application/json"),
        ..RequestHead::default()
    };
    let mut exchange = Exchange::default();
    let mut info = Info { micros: now.as_micros(), ..Info::default() };
    assert_eq!(exchange.on_request_headers(picker, &head, false, now), Directive::Wait);
    assert_eq!(exchange.on_request_body(picker, [body], true, &mut info), Directive::Pick);
    assert!(matches!(exchange.pick(picker, now), Directive::Send(_)));
    exchange.on_log(picker, &mut info);
}
