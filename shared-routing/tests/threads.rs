//! Threads that serve at once share one routing: nothing is counted twice, lost or left in flight, though another thread holds the routing
//! for long at any moment.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: a failure here is the test's failure"
)]

#[path = "../../endpoint-picker/tests/plain/host.rs"]
mod host;
#[path = "plain/keeper.rs"]
mod keeper;
#[path = "../../endpoint-picker/tests/plain/stats.rs"]
mod stats;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use allocation_counter::measure;
use endpoint_picker::director::Director;
use endpoint_picker::exchange::Outbound;
use endpoint_picker::head::{RequestHead, ResponseHead};
use endpoint_picker::shared_state::{Note, SharedState, Step, View};
use endpoint_picker::{Config, Directive, EndpointPicker, Exchange, Plugin, Timestamp};
use host::Info;
use keeper::Keeper;
use shared_routing::SharedRouting;

const EVENTS: [&[u8]; 2] = [
    b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n",
    b"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\"total_tokens\":10}}\n\ndata: [DONE]\n\n",
];

fn config() -> Config {
    let Ok(Plugin::Filter(config)) = Plugin::parse(b"{}") else { panic!() };
    config
}

/// What becomes of a request after it was sent.
#[derive(Clone, Copy, Debug)]
enum Course {
    Served,
    /// The first of the list fails, the second serves.
    Retried,
    ServerError,
    ClientLeaves,
}

const COURSES: [Course; 4] = [Course::Served, Course::Retried, Course::ServerError, Course::ClientLeaves];

/// One request from its headers to its end; the endpoint that was picked.
fn serve(picker: &mut EndpointPicker, body: &str, course: Course, mut micros: u64) -> SocketAddr {
    picker.catch_up();
    let mut exchange = Exchange::default();
    let mut info = || {
        micros += 1_000;
        Info { micros, ..Info::default() }
    };
    let head = RequestHead { method: b"POST", path: b"/v1/chat/completions", ..RequestHead::default() };
    let now = Timestamp::from_micros(info().micros);
    assert_eq!(exchange.on_request_headers(picker, &head, false, now), Directive::Wait);
    assert_eq!(exchange.on_request_body(picker, [body.as_bytes()], true, &mut info()), Directive::Pick);
    let directive = exchange.pick(picker, Timestamp::from_micros(info().micros));
    let Directive::Send(Outbound { destination: Some(list), .. }) = directive else { panic!("{directive:?}") };
    let list: Vec<SocketAddr> = list.split(',').map(|entry| entry.parse().unwrap()).collect();
    let answered = |status: &str, place: usize| {
        let pairs = [(b":status".as_slice(), status.as_bytes()), (b"content-type", b"text/event-stream")];
        (ResponseHead::read(pairs.into_iter()), Some(list[place % list.len()]), Some(place as u64 + 1))
    };
    let (head, upstream, attempts) = match course {
        Course::Retried => answered("200", 1),
        Course::ServerError => answered("500", 0),
        Course::Served | Course::ClientLeaves => answered("200", 0),
    };
    exchange.on_response_headers(picker, &head, &mut Info { upstream, attempts, ..info() }, false);
    for event in EVENTS {
        if matches!(course, Course::ClientLeaves) {
            break;
        }
        if exchange.reads_response() {
            exchange.on_response_body(picker, [event], &mut info(), false);
        } else {
            exchange.on_response_size(picker, event.len() as u64, false, &mut info(), false);
        }
    }
    if !matches!(course, Course::ClientLeaves) {
        exchange.on_response_size(picker, 0, false, &mut info(), true);
    }
    exchange.on_log(picker, &mut info());
    assert!(exchange.is_settled());
    list[0]
}

fn chat(text: &str) -> String {
    format!(r#"{{"model":"m","stream":true,"messages":[{{"role":"user","content":"{text}"}}]}}"#)
}

/// Asserts that nothing is in flight, by any count.
fn assert_idle(state: &dyn SharedState) {
    let mut is_run = false;
    for _ in 0..1_000 {
        is_run |= state.try_run(&mut |director| {
            let routing = director.routing();
            assert!(routing.pool().endpoints().all(|(_, endpoint)| endpoint.in_flight().own() == 0));
            let now = Timestamp::from_micros(u64::MAX / 2);
            assert!(routing.pool().endpoints().all(|(_, endpoint)| endpoint.prefill().own_tokens(now) == 0));
            assert_eq!(routing.accounts().running().count(), 0);
        });
    }
    assert!(is_run);
}

fn sum(stats: &BTreeMap<String, u64>, ending: &str) -> u64 {
    stats.iter().filter(|(name, _)| name.ends_with(ending)).map(|(_, value)| value).sum()
}

#[test]
fn threads_that_serve_at_once_while_one_is_stopped_count_exactly() {
    const THREADS: u64 = 4;
    const REQUESTS: u64 = 1_500;
    let state = SharedRouting::new(1);
    let mut keeper = Keeper::new(config(), state.clone());
    keeper.install(1, &[1, 2, 3]);
    let is_over = Arc::new(AtomicBool::new(false));
    let stopper = thread::spawn({
        let (state, is_over) = (state.clone(), is_over.clone());
        move || {
            while !is_over.load(Ordering::Relaxed) {
                state.try_run(&mut |_| thread::sleep(Duration::from_millis(1)));
                thread::sleep(Duration::from_micros(200));
            }
        }
    });
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let state = state.clone();
            thread::spawn(move || {
                let mut picker = EndpointPicker::serving(config(), thread, state);
                for request in 0..REQUESTS {
                    let course = COURSES[(request % 4) as usize];
                    serve(&mut picker, &chat(&format!("question {}", request % 7)), course, request * 10_000);
                }
            })
        })
        .collect();
    // Members come and go meanwhile, and the keeper counts.
    for version in 2..40 {
        keeper.install(version, if version % 2 == 0 { &[1, 2] } else { &[1, 2, 3, 4] });
        keeper.hear();
        thread::sleep(Duration::from_millis(2));
    }
    for thread in threads {
        thread.join().unwrap();
    }
    is_over.store(true, Ordering::Relaxed);
    stopper.join().unwrap();
    assert_idle(&*state);
    let stats = keeper.stats();
    let all = THREADS * REQUESTS;
    assert_eq!(sum(&stats, "inference_objective_request_total"), all, "{stats:#?}");
    assert_eq!(sum(&stats, "inference_objective_request_error_total"), all / 2);
    assert_eq!(sum(&stats, "inference_extension_scheduler_attempts_total"), all);
    assert_eq!(sum(&stats, "inpick_picks_total"), all);
    // A member that joins is known where it is picked and where it answers.
    assert_eq!(sum(&stats, "reason=fallback;inpick_picks_total"), 0, "{stats:#?}");
    assert!(sum(&stats, "inpick_lone_picks_total") > 0, "the stopped thread stopped nobody");
}

/// A shared state that is held by another thread at chosen moments.
#[derive(Debug)]
struct Moody {
    state: Arc<SharedRouting>,
    /// Bit by bit: whether the next attempts fail.
    busy: AtomicU64,
}

impl SharedState for Moody {
    fn try_run(&self, step: &mut dyn FnMut(&mut Director)) -> bool {
        let busy = self.busy.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |busy| Some(busy >> 1)).unwrap();
        busy & 1 == 0 && self.state.try_run(step)
    }

    fn leave(&self, step: Step) {
        self.state.leave(step);
    }

    fn tell(&self, note: Note) {
        self.state.tell(note);
    }

    fn hear(&self) -> Option<Note> {
        self.state.hear()
    }

    fn view(&self) -> Arc<View> {
        self.state.view()
    }

    fn change_view(&self, change: &mut dyn FnMut(&mut View)) {
        self.state.change_view(change);
    }
}

#[test]
fn whatever_step_is_left_to_another_thread_the_counts_are_the_same() {
    for course in COURSES {
        let mut expected = None;
        for busy in 0..256 {
            let moody = Arc::new(Moody { state: SharedRouting::new(1), busy: AtomicU64::new(0) });
            let mut keeper = Keeper::new(config(), moody.clone());
            keeper.install(1, &[1, 2]);
            moody.busy.store(busy, Ordering::Relaxed);
            let mut picker = EndpointPicker::serving(config(), 1, moody.clone());
            serve(&mut picker, &chat("hi"), course, 0);
            moody.busy.store(0, Ordering::Relaxed);
            assert_idle(&*moody);
            let mut stats = keeper.stats();
            let lone = stats.remove("inpick_lone_picks_total");
            assert_eq!(lone, (busy & 1 == 1).then_some(1));
            // What the index says of the prompt is the same, which of the two equal endpoints is picked is chance.
            let totals = stats.iter().fold(BTreeMap::<String, u64>::new(), |mut totals, (name, value)| {
                *totals.entry(name.replace("10.0.0.2", "10.0.0.1")).or_default() += value;
                totals
            });
            assert_eq!(*expected.get_or_insert_with(|| totals.clone()), totals, "{course:?} {busy:b}");
        }
    }
}

#[test]
fn what_one_thread_sent_another_knows_at_once() {
    let state = SharedRouting::new(3);
    let mut keeper = Keeper::new(config(), state.clone());
    keeper.install(1, &[1, 2, 3, 4, 5, 6, 7, 8]);
    let mut threads = [1, 2].map(|seed| EndpointPicker::serving(config(), seed, state.clone()));
    for conversation in 0..16 {
        let text = format!("{conversation} ").repeat(3_000);
        let first = serve(&mut threads[0], &chat(&text), Course::Served, 10_000);
        let second = serve(&mut threads[1], &chat(&text), Course::Served, 50_000);
        assert_eq!(first, second);
    }
    // The second request of each conversation found its whole prompt, the first one nothing.
    let hits = sum(&keeper.stats(), "prefix_indexer_hit_bytes_sum");
    assert!(hits > 16 * 5_900, "{hits}");
}

#[test]
fn an_endpoint_that_failed_one_thread_is_known_to_all() {
    let state = SharedRouting::new(3);
    let mut keeper = Keeper::new(config(), state.clone());
    keeper.install(1, &[1, 2]);
    let mut threads = [1, 2].map(|seed| EndpointPicker::serving(config(), seed, state.clone()));
    let failed = serve(&mut threads[0], &chat("a"), Course::ServerError, 1_000_000);
    for _ in 0..8 {
        assert_ne!(serve(&mut threads[1], &chat("b"), Course::ClientLeaves, 1_100_000), failed);
    }
}

#[test]
fn a_thread_reads_the_table_of_labels_when_it_changes_and_not_with_each_page() {
    let routing = SharedRouting::new(1);
    let mut keeper = Keeper::new(config(), routing.clone());
    keeper.install(1, &[1, 2]);
    let labels = keeper.labels();
    routing.change_view(&mut |view| view.labels = Some(Arc::clone(&labels)));
    let mut picker = EndpointPicker::serving(config(), 2, routing.clone());
    assert!(measure(|| picker.catch_up()).count_total > 0);
    for page in 1..5 {
        keeper.report(1, 2, page, 0, u64::from(page) * 100);
        assert_eq!(measure(|| picker.catch_up()).count_total, 0, "page {page}");
    }
}

#[test]
fn threads_explain_their_picks_while_somebody_watches() {
    let routing = SharedRouting::new(1);
    let mut keeper = Keeper::new(config(), routing.clone());
    let mut picker = EndpointPicker::serving(config(), 2, routing);
    for is_watched in [false, true, false] {
        keeper.picker.set_watched(is_watched, Timestamp::from_micros(1));
        keeper.picker.catch_up();
        picker.catch_up();
        assert_eq!(picker.explains_picks(), is_watched);
        assert_eq!(picker.more_request_headers().any(|name| name == "x-request-id"), is_watched);
    }
}
