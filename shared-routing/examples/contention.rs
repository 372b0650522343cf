//! How often a thread finds the shared routing held, and how long a pick takes then: threads that pick and settle at a given rate.
//!
//! `cargo run --release --package shared-routing --example contention [THREADS [REQUESTS_PER_SECOND_AND_THREAD]]`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measuring program: a failure is its result"
)]

use std::thread;
use std::time::{Duration, Instant};

use endpoint_picker::head::RequestHead;
use endpoint_picker::shared_state::{Note, SharedState};
use endpoint_picker::{Config, Directive, EndpointPicker, Exchange, Plugin, Timestamp};
use host::Info;
use shared_routing::SharedRouting;

#[path = "../../endpoint-picker/tests/plain/host.rs"]
mod host;
#[path = "../../endpoint-picker/tests/plain/warm.rs"]
#[allow(dead_code, reason = "a part of it is needed here")]
mod warm;

const SECONDS: u64 = 3;
const PROMPT_BYTES: usize = 4_000;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>().expect("a number"));
    let threads = arguments.next().unwrap_or(4);
    let rate = arguments.next().unwrap_or(1_000);
    println!("{threads} threads, {rate} requests/s each, prompts of {PROMPT_BYTES} bytes");
    for endpoints in [10, 100, 1_000] {
        let (mut micros, lone) = measure(threads, rate, endpoints);
        micros.sort_unstable();
        let at = |permille: usize| micros.get(micros.len() * permille / 1_000).copied().unwrap_or(0);
        println!(
            "{endpoints:>4} endpoints: pick P50 {} us, P99 {} us, P99.9 {} us; {lone} of {} picked alone",
            at(500),
            at(990),
            at(999),
            micros.len()
        );
    }
}

fn config() -> Config {
    let Ok(Plugin::Filter(config)) = Plugin::parse(b"") else { panic!("the default configuration is valid") };
    config
}

/// Microseconds of each pick, and how many were made alone.
fn measure(threads: u64, rate: u64, endpoints: u32) -> (Vec<u64>, usize) {
    let state = SharedRouting::new(1);
    let mut keeper = EndpointPicker::keeping(config(), 1, state.clone());
    keeper.install_membership(&warm::membership(endpoints));
    keeper.install_loads(&warm::loads(endpoints), warm::NOW).unwrap();
    keeper.catch_up();
    let begun = Instant::now();
    let workers: Vec<_> = (0..threads)
        .map(|thread| {
            let mut picker = EndpointPicker::serving(config(), thread, state.clone());
            thread::spawn(move || {
                let mut micros = Vec::new();
                let bodies: Vec<_> =
                    (0..32).map(|user| warm::body(PROMPT_BYTES, user % 4, thread * 32 + user)).collect();
                let gap = Duration::from_secs(1) / u32::try_from(rate).unwrap();
                let mut due = Instant::now();
                for body in bodies.iter().cycle() {
                    if begun.elapsed() >= Duration::from_secs(SECONDS) {
                        break;
                    }
                    due += gap;
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    micros.push(serve(&mut picker, body, begun));
                }
                micros
            })
        })
        .collect();
    let micros: Vec<u64> = workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
    let mut lone = 0;
    while let Some(note) = state.hear() {
        lone += usize::from(matches!(note, Note::Alone));
    }
    (micros, lone)
}

/// One request that is sent and left; how long its pick took.
fn serve(picker: &mut EndpointPicker, body: &[u8], begun: Instant) -> u64 {
    picker.catch_up();
    let now = || warm::NOW.plus_micros(u64::try_from(begun.elapsed().as_micros() % 1_000_000).unwrap());
    let head = RequestHead {
        method: b"POST",
        path: b"/v1/chat/completions",
        content_type: Some(b"application/json"),
        ..RequestHead::default()
    };
    let mut exchange = Exchange::default();
    let mut info = Info { micros: Timestamp::as_micros(now()), ..Info::default() };
    assert_eq!(exchange.on_request_headers(picker, &head, false, now()), Directive::Wait);
    assert_eq!(exchange.on_request_body(picker, [body], true, &mut info), Directive::Pick);
    let started = Instant::now();
    assert!(matches!(exchange.pick(picker, now()), Directive::Send(_)));
    let took = started.elapsed();
    exchange.on_log(picker, &mut info);
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}
