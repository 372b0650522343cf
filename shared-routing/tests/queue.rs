//! Threads whose requests wait in one queue: each request has one end, slots are kept, and a stopped thread holds up no other for long.
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
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use endpoint_picker::flow_control::Wake;
use endpoint_picker::head::{RequestHead, ResponseHead};
use endpoint_picker::shared_state::SharedState;
use endpoint_picker::{Config, Directive, EndpointPicker, Exchange, Plugin, Timestamp};
use host::Info;
use keeper::Keeper;
use shared_routing::SharedRouting;

const ANSWER: &[u8] = br#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;
const DOWNSTREAM_CONNECTION_TERMINATION: u64 = 0x4_0000;
/// What each of two endpoints runs at once, and is given beyond that.
const SLOTS: u32 = 2;
const QUEUE_DEPTH: u32 = 1;
/// Both endpoints together.
const ROOM: usize = 2 * (SLOTS + QUEUE_DEPTH) as usize;
/// A machine that is busy with other tests may take this long.
const PATIENCE: Duration = Duration::from_secs(60);

fn config() -> Config {
    let document = br#"{"flow_control": {}, "objectives": {"high": 5}}"#;
    let Ok(Plugin::Filter(config)) = Plugin::parse(document) else { panic!() };
    config
}

/// A process whose two endpoints' slots are known.
fn process() -> (Arc<SharedRouting>, Keeper, Instant) {
    let state = SharedRouting::with_flow_control(1, config().flow_control);
    let mut keeper = Keeper::new(config(), state.clone());
    keeper.install(1, &[1, 2]);
    for page in 1..=4 {
        keeper.report(1, 2, SLOTS, page, 100 * u64::from(page));
    }
    keeper.report(1, 2, 0, 0, 500);
    // What follows is later than the pages.
    (state, keeper, Instant::now().checked_sub(Duration::from_millis(501)).unwrap())
}

/// Tells the thread of a request the request's number.
#[derive(Debug)]
struct Bell(Mutex<Sender<usize>>, usize);

impl Wake for Bell {
    fn wake(&self) {
        let _ = self.0.lock().unwrap().send(self.1);
    }
}

/// A thread that serves requests as a host does.
struct Thread {
    picker: EndpointPicker,
    began: Instant,
    exchanges: BTreeMap<usize, Exchange>,
    bell: Sender<usize>,
    rung: Receiver<usize>,
    sent: Vec<usize>,
    /// Requests of all threads at endpoints.
    in_flight: Arc<AtomicUsize>,
    /// Requests that were sent when there was no room.
    beyond: Arc<AtomicUsize>,
}

impl Thread {
    fn new(
        state: Arc<dyn SharedState>,
        seed: u64,
        began: Instant,
        in_flight: &Arc<AtomicUsize>,
        beyond: &Arc<AtomicUsize>,
    ) -> Self {
        let (bell, rung) = channel();
        let mut picker = EndpointPicker::serving(config(), seed, state);
        picker.catch_up();
        let (in_flight, beyond) = (Arc::clone(in_flight), Arc::clone(beyond));
        Self { picker, began, exchanges: BTreeMap::new(), bell, rung, sent: Vec::new(), in_flight, beyond }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(u64::try_from(self.began.elapsed().as_micros()).unwrap())
    }

    fn info(&self) -> Info {
        Info { micros: u64::try_from(self.began.elapsed().as_micros()).unwrap(), ..Info::default() }
    }

    fn ask(&mut self, number: usize) {
        let head = RequestHead {
            method: b"POST",
            path: b"/v1/chat/completions",
            content_type: Some(b"application/json"),
            objective: Some(if number.is_multiple_of(5) { b"high" } else { b"none" }),
            ..RequestHead::default()
        };
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"question {}"}}]}}"#, number % 7);
        let mut exchange = Exchange::default();
        let (now, mut info) = (self.now(), self.info());
        assert_eq!(exchange.on_request_headers(&mut self.picker, &head, false, now), Directive::Wait);
        assert_eq!(exchange.on_request_body(&mut self.picker, [body.as_bytes()], true, &mut info), Directive::Pick);
        let directive = exchange.pick(&mut self.picker, now);
        self.exchanges.insert(number, exchange);
        self.carry_out(number, directive);
    }

    fn carry_out(&mut self, number: usize, directive: Directive) {
        match directive {
            Directive::Send(_) => {
                let in_flight = self.in_flight.fetch_add(1, Ordering::SeqCst);
                self.beyond.fetch_add(usize::from(in_flight >= ROOM), Ordering::SeqCst);
                self.sent.push(number);
            }
            Directive::Park(_) => {
                let bell = Arc::new(Bell(Mutex::new(self.bell.clone()), number));
                if !self.exchanges.get_mut(&number).unwrap().set_wake(&mut self.picker, bell) {
                    self.resume(number);
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn resume(&mut self, number: usize) {
        let now = self.now();
        // Its client may have left meanwhile.
        let Some(exchange) = self.exchanges.get_mut(&number).filter(|exchange| exchange.is_parked()) else { return };
        let directive = exchange.resume(&mut self.picker, now);
        self.carry_out(number, directive);
        self.picker.wake_next(now);
    }

    /// The endpoint answers the request that was sent first.
    fn answer(&mut self) {
        let number = self.sent.remove(0);
        let mut exchange = self.exchanges.remove(&number).unwrap();
        let mut info = Info { attempts: Some(1), details: Some("via_upstream"), ..self.info() };
        let head = ResponseHead { status: 200, json: true, ..ResponseHead::default() };
        exchange.on_response_headers(&mut self.picker, &head, &mut info, false);
        exchange.on_response_body(&mut self.picker, [ANSWER], &mut info, true);
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        exchange.on_log(&mut self.picker, &mut info);
        assert!(exchange.is_settled());
        self.picker.wake_next(self.now());
    }

    /// A client leaves whose request waits, if there is one.
    fn leave(&mut self) -> bool {
        let Some((&number, _)) = self.exchanges.iter().find(|(_, exchange)| exchange.is_parked()) else { return false };
        let mut exchange = self.exchanges.remove(&number).unwrap();
        let mut info = Info { flags: Some(DOWNSTREAM_CONNECTION_TERMINATION), ..self.info() };
        exchange.on_log(&mut self.picker, &mut info);
        assert!(exchange.is_settled());
        self.picker.wake_next(self.now());
        true
    }

    /// Serves so many requests, of whose clients some leave; how many did.
    fn serve(mut self, requests: usize) -> u64 {
        const AT_ONCE: usize = 6;
        let (mut next, mut left) = (0, 0);
        let until = Instant::now() + PATIENCE;
        while next < requests || !self.exchanges.is_empty() {
            assert!(Instant::now() < until, "{} of {next} have no end", self.exchanges.len());
            if next < requests && self.exchanges.len() < AT_ONCE {
                self.picker.catch_up();
                self.ask(next);
                next += 1;
                if next.is_multiple_of(11) {
                    left += u64::from(self.leave());
                }
            } else if !self.sent.is_empty() {
                self.answer();
            } else if let Ok(number) = self.rung.recv_timeout(Duration::from_millis(1)) {
                self.resume(number);
            }
            while let Ok(number) = self.rung.try_recv() {
                self.resume(number);
            }
        }
        left
    }
}

const THREADS: usize = 4;
const REQUESTS: usize = 600;

/// Serves requests from several threads, while one that holds the routing is stopped again and again, or none is; the part of the requests that
/// were sent when there was no room.
#[track_caller]
fn serve_at_once(is_stopped: bool) -> f64 {
    let (state, mut keeper, began) = process();
    let (in_flight, beyond, is_over) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(!is_stopped)));
    let stopper = thread::spawn({
        let (state, is_over) = (state.clone(), is_over.clone());
        move || {
            while !is_over.load(Ordering::Relaxed) {
                state.try_run(&mut |_| thread::sleep(Duration::from_millis(1)));
                thread::sleep(Duration::from_millis(5));
            }
        }
    });
    let threads: Vec<_> = (0..THREADS)
        .map(|seed| {
            let thread = Thread::new(state.clone(), seed as u64, began, &in_flight, &beyond);
            thread::spawn(move || thread.serve(REQUESTS))
        })
        .collect();
    while threads.iter().any(|thread| !thread.is_finished()) {
        keeper.hear();
        let now = Timestamp::from_micros(u64::try_from(began.elapsed().as_micros()).unwrap());
        keeper.picker.confirm(now);
        keeper.picker.wake_next(now);
        thread::sleep(Duration::from_millis(2));
    }
    let left: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    is_over.store(true, Ordering::Relaxed);
    stopper.join().unwrap();
    assert!(left > 0);
    state.try_run(&mut |director| {
        assert_eq!(director.flow_control().unwrap().requests(), 0);
        assert!(director.routing().pool().endpoints().all(|(_, endpoint)| endpoint.in_flight().own() == 0));
    });
    let stats = keeper.stats();
    let of = |outcome: &str| -> u64 {
        let ending = format!("outcome={outcome};inference_extension_flow_control_request_queue_duration_seconds_count");
        stats.iter().filter(|(name, _)| name.ends_with(&ending)).map(|(_, value)| value).sum()
    };
    let all = (THREADS * REQUESTS) as u64;
    assert_eq!((of("Dispatched"), of("EvictedContextCancelled")), (all - left, left), "{stats:#?}");
    beyond.load(Ordering::SeqCst) as f64 / all as f64
}

#[test]
fn each_request_of_each_thread_has_one_end_though_one_is_stopped_again_and_again() {
    // Who finds the routing held is sent.
    assert!(serve_at_once(true) > 0.0);
}

#[test]
fn threads_that_serve_at_once_keep_to_the_room_there_is() {
    // Threads that the system stops while they hold the routing, or between a pick and its count, only add: the best of three tells.
    let beyond = (0..3).map(|_| serve_at_once(false)).fold(1.0, f64::min);
    // Who costs less at an endpoint without room is sent there while the other has some.
    assert!(beyond < 0.2, "{beyond} were sent when there was no room");
}

#[test]
fn a_thread_that_is_stopped_when_it_is_told_holds_up_the_others_for_milliseconds() {
    let (state, mut keeper, began) = process();
    let counts = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
    let [mut busy, mut stopped] = [1, 2].map(|seed| Thread::new(state.clone(), seed, began, &counts[0], &counts[1]));
    let mut number = 0;
    while busy.exchanges.values().all(|exchange| !exchange.is_parked()) {
        busy.ask(number);
        number += 1;
    }
    // One more, of a priority that goes first, whose thread does not hear that it may go on.
    stopped.ask(0);
    assert!(stopped.exchanges[&0].is_parked());
    busy.answer();
    busy.answer();
    let until = Instant::now() + PATIENCE;
    let rung = loop {
        assert!(Instant::now() < until, "nobody else was told");
        keeper.hear();
        keeper.picker.wake_next(busy.now());
        if let Ok(rung) = busy.rung.recv_timeout(Duration::from_millis(1)) {
            break rung;
        }
    };
    busy.resume(rung);
    assert!(busy.exchanges.values().all(|exchange| !exchange.is_parked()));
    // When it runs again, its request goes on too.
    let told = stopped.rung.try_recv().unwrap();
    stopped.resume(told);
    assert_eq!(stopped.sent, [0]);
    stopped.answer();
    while !busy.sent.is_empty() {
        busy.answer();
    }
    state.try_run(&mut |director| assert_eq!(director.flow_control().unwrap().requests(), 0));
}
