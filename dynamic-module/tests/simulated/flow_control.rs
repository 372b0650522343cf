//! Requests wait in one queue for all workers, and go on on their own.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use dm_host::{CallbackName, Callout, CalloutAnswer, Headers, Refusal};
use snapshot::{Load, Snapshot, State, Tag};

use crate::world::{self, Host, Stream, assert_nothing_in_flight, picked, total};

tests! {
    who_waits_goes_on_when_another_ends_on_whatever_worker
    the_highest_priority_of_all_workers_goes_first
    who_leaves_while_it_waits_leaves_nothing_behind
    who_waits_for_too_long_is_told_so
    who_cannot_wait_is_sent
    a_body_that_waited_is_changed_as_it_would_have_been
}

/// What each endpoint runs at once, and takes beyond that.
const SLOTS: u32 = 1;
const QUEUE_DEPTH: u32 = 1;
const WAITED: &str = "inference_extension_flow_control_request_queue_duration_seconds_count";
/// Two endpoints take so many.
const ROOM: usize = 2 * (SLOTS + QUEUE_DEPTH) as usize;
/// A machine that is busy with other tests may take this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A sidecar whose pods had a queue on three pages, by which their slots are known, and are idle since; and how many pages it has given.
fn sidecar() -> (impl FnMut(&Callout) -> CalloutAnswer + 'static, Rc<Cell<u64>>) {
    /// The last of the pages.
    const IDLE: u64 = 5;
    let given = Rc::new(Cell::new(0));
    let counts = Rc::clone(&given);
    let script = move |callout: &Callout| {
        let known: Option<Tag> = callout.headers.text("if-none-match").and_then(|text| text.parse().ok());
        if given.get() == IDLE && known == Some(snapshot(IDLE).loads.tag()) {
            return answer(304, &snapshot(IDLE));
        }
        given.set(IDLE.min(given.get() + 1));
        answer(200, &snapshot(given.get()))
    };
    fn snapshot(generation: u64) -> Snapshot {
        let mut snapshot = world::snapshot();
        snapshot.loads.generation = generation;
        snapshot.loads.captured_at_ms = 100 * generation;
        let is_busy = generation < IDLE;
        for load in &mut snapshot.loads.endpoints {
            let (running, waiting) = if is_busy { (SLOTS, generation as u32) } else { (0, 0) };
            *load = Load { state: State::Fresh, running: Some(running), waiting: Some(waiting), ..*load };
        }
        snapshot
    }
    fn answer(status: u16, snapshot: &Snapshot) -> CalloutAnswer {
        let headers: Headers = [("etag", snapshot.loads.tag().to_string())].into_iter().collect();
        let body = if status == 200 { snapshot.encode() } else { Vec::new() };
        CalloutAnswer::Response { status, headers, body, slice: 64 }
    }
    (script, counts)
}

/// A host of two workers whose module knows the endpoints' slots.
pub(crate) fn host(flow_control: &str) -> Host {
    let config = format!(
        r#"{{"flow_control": {flow_control}, "objectives": {{"high": 5}}, "metrics": {{"flush_interval_ms": 20}},
            "model_rewrites": [{{"name": "r", "model": "virtual", "targets": [{{"model": "t"}}]}}]}}"#
    );
    let (script, given) = sidecar();
    let host = world::builder().workers(2).filter(&config).cluster("inpick-sidecar", script).build().unwrap();
    assert!(host.run_until(PATIENCE, |_| given.get() == 5), "{:?}", host.log());
    world::informed(host)
}

fn send(host: &Host, worker: usize, objective: &str) -> Stream {
    host.worker(worker).request(world::chat().header("x-gateway-inference-objective", objective))
}

fn is_sent(stream: &Stream) -> bool {
    stream.upstream().ended
}

/// Its endpoint answers.
fn answer(stream: &Stream) {
    stream.attempt(&picked(stream));
    stream.respond(world::answer("application/json").body(world::ANSWER));
    assert_eq!(stream.downstream().status(), Some(200));
}

/// Fills the endpoints from worker 0: those that were sent, at least as many as there is room for, and the first that waits.
pub(crate) fn fill(host: &Host) -> (Vec<Stream>, Stream) {
    let mut sent = Vec::new();
    loop {
        let stream = send(host, 0, "");
        if !is_sent(&stream) {
            assert!(stream.is_request_held() && sent.len() >= ROOM);
            return (sent, stream);
        }
        // An endpoint that costs less in spite of its queue may be given more than it has room for, while another has room.
        assert!(sent.len() < 4 * ROOM);
        sent.push(stream);
    }
}

/// Lets the workers run until so many of the streams were sent.
#[track_caller]
fn assert_sent(host: &Host, streams: &[Stream], count: usize) {
    let sent = || streams.iter().filter(|stream| is_sent(stream)).count();
    assert!(host.run_until(PATIENCE, |_| sent() >= count), "{} of {count} were sent", sent());
}

/// Answers one after the other, whoever is sent meanwhile, until all are; calls `look` between two.
pub(crate) fn answer_all(
    host: &Host,
    mut running: Vec<Stream>,
    mut waiting: Vec<Stream>,
    mut look: impl FnMut(&[Stream]),
) {
    while !running.is_empty() || !waiting.is_empty() {
        if running.is_empty() {
            assert_sent(host, &waiting, 1);
        } else {
            answer(&running.remove(0));
            host.run_for(Duration::from_millis(30));
        }
        look(&waiting);
        running.extend(waiting.extract_if(.., |stream| is_sent(stream)));
    }
}

mod scenarios {
    use super::*;

    pub(super) fn who_waits_goes_on_when_another_ends_on_whatever_worker() {
        let host = host("{}");
        let (running, first) = fill(&host);
        let mut waiting: Vec<_> = (0..6).map(|number| send(&host, number % 2, "")).collect();
        assert!(waiting.iter().all(Stream::is_request_held));
        waiting.push(first);
        let all = (running.len() + waiting.len()) as u64;
        answer_all(&host, running, waiting, |waiting| {
            let sent = waiting.iter().filter(|stream| is_sent(stream)).count();
            assert!(sent <= 2, "{sent} were sent for one that ended");
        });
        assert_eq!(host.violations(), [""; 0]);
        let stats = assert_nothing_in_flight(&host);
        assert_eq!(total(&stats, ";inference_objective_request_total"), all, "{stats:#?}");
        assert_eq!(total(&stats, "request_error_total"), 0);
        assert_eq!(total(&stats, &format!("outcome=Dispatched;{WAITED}")), all, "{stats:#?}");
        assert_eq!(total(&stats, "inference_extension_flow_control_queue_size"), 0, "{stats:#?}");
        host.shut_down().unwrap();
    }

    pub(super) fn the_highest_priority_of_all_workers_goes_first() {
        let host = host("{}");
        let (running, first) = fill(&host);
        let mut waiting = vec![first, send(&host, 0, ""), send(&host, 0, "")];
        let low = waiting.len();
        waiting.extend((0..2).map(|_| send(&host, 1, "high")));
        let order = RefCell::new(Vec::new());
        // Whether those that wait are of high priority.
        let mut left: Vec<_> = (0..waiting.len()).map(|place| place >= low).collect();
        answer_all(&host, running, waiting, |waiting| {
            let sent: Vec<_> = waiting.iter().map(is_sent).collect();
            let mut went: Vec<_> = left.iter().zip(&sent).filter(|(_, sent)| **sent).map(|(high, _)| *high).collect();
            // Of those that went at once it is not known who was first.
            went.sort_unstable_by(|one, other| other.cmp(one));
            order.borrow_mut().extend(went);
            let mut sent = sent.into_iter();
            left.retain(|_| !sent.next().unwrap());
        });
        assert_eq!(*order.borrow(), [true, true, false, false, false]);
        assert_nothing_in_flight(&host);
        host.shut_down().unwrap();
    }

    pub(super) fn who_leaves_while_it_waits_leaves_nothing_behind() {
        let host = host("{}");
        let (running, first) = fill(&host);
        let waiting: Vec<_> = (0..3).map(|number| send(&host, number % 2, "")).collect();
        waiting.iter().for_each(Stream::client_reset);
        answer_all(&host, running, vec![first], |_| ());
        let stats = assert_nothing_in_flight(&host);
        assert_eq!(total(&stats, "error_code=Cancelled;inference_objective_request_error_total"), 3, "{stats:#?}");
        assert_eq!(total(&stats, &format!("outcome=EvictedContextCancelled;{WAITED}")), 3, "{stats:#?}");
        assert_eq!(host.violations(), [""; 0]);
        host.shut_down().unwrap();
    }

    pub(super) fn who_waits_for_too_long_is_told_so() {
        let host = host(r#"{"ttl_ms": 200}"#);
        let began = Instant::now();
        let (running, first) = fill(&host);
        let mut waiting: Vec<_> = (0..3).map(|number| send(&host, number % 2, "")).collect();
        waiting.push(first);
        let all_are_told = |_: &Host| waiting.iter().all(|stream| stream.downstream().status() == Some(503));
        assert!(host.run_until(PATIENCE, all_are_told));
        assert!(began.elapsed() >= Duration::from_millis(200));
        assert!(waiting.iter().all(|stream| stream.downstream().body.starts_with(br#"{"error":"#)));
        running.iter().for_each(answer);
        let stats = assert_nothing_in_flight(&host);
        assert_eq!(total(&stats, &format!("outcome=EvictedTTL;{WAITED}")), 4, "{stats:#?}");
        host.shut_down().unwrap();
    }

    pub(super) fn who_cannot_wait_is_sent() {
        let host = host("{}");
        let (mut running, first) = fill(&host);
        host.refuse(Refusal::of(CallbackName::SchedulerNew).always());
        let more: Vec<_> = (0..3).map(|_| send(&host, 1, "")).collect();
        assert!(more.iter().all(is_sent));
        host.clear_refusals();
        running.extend(more);
        answer_all(&host, running, vec![first], |_| ());
        assert_nothing_in_flight(&host);
        host.shut_down().unwrap();
    }

    pub(super) fn a_body_that_waited_is_changed_as_it_would_have_been() {
        let host = host("{}");
        let (running, first) = fill(&host);
        let body = r#"{"model":"virtual","messages":[{"role":"user","content":"hi"}]}"#;
        let request = world::post("/v1/chat/completions")
            .header("content-type", "application/json")
            .header("content-length", body.len().to_string())
            .body_chunks(body.as_bytes().chunks(11));
        let bare = host.worker(0).request(request.clone());
        let with_trailers = host.worker(1).request(request.trailer("x", "y"));
        assert!(bare.is_request_held() && with_trailers.is_request_held());
        running.iter().for_each(answer);
        for stream in [bare, with_trailers] {
            assert_sent(&host, std::slice::from_ref(&stream), 1);
            let expected = body.replace("virtual", "t");
            assert_eq!(String::from_utf8(stream.upstream().body).unwrap(), expected);
            assert_eq!(stream.request_headers().text("content-length"), Some(expected.len().to_string()));
            answer(&stream);
        }
        answer_all(&host, Vec::new(), vec![first], |_| ());
        assert_nothing_in_flight(&host);
        host.shut_down().unwrap();
    }
}
