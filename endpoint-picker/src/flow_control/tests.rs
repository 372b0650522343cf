use alloc::string::ToString;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::bands::{Arrival, Bands};
use super::*;
use crate::config::{Config, Plugin};

fn at(millis: u64) -> Timestamp {
    Timestamp::from_micros(millis * 1_000)
}

fn arrival(fairness_id: &str, priority: i64, millis: u64) -> Arrival<'_> {
    Arrival {
        fairness_id,
        priority,
        bytes: 10,
        deadline: None,
        over_at: at(millis + 1_000),
        home: None,
        now: at(millis),
    }
}

/// Takes out whoever is next, in the order of the bands, until nobody is left.
fn drained(mut bands: Bands<&'static str>, fairness: Fairness) -> Vec<&'static str> {
    let mut order = Vec::new();
    loop {
        let next = bands.bands(fairness).next().and_then(|flows| Some(flows.first()?.first()?.ticket));
        let Some(ticket) = next else { return order };
        bands.pass_turn(ticket);
        order.push(bands.remove(ticket, at(0)).unwrap().held);
    }
}

#[test]
fn bands_go_by_priority_and_flows_of_a_band_take_turns() {
    let mut bands = Bands::default();
    for (place, (flow, priority, name)) in [
        ("flood", 0, "f1"),
        ("flood", 0, "f2"),
        ("flood", 0, "f3"),
        ("trickle", 0, "t1"),
        ("urgent", 7, "u1"),
        ("batch", -1, "b1"),
        ("flood", 0, "f4"),
        ("trickle", 0, "t2"),
    ]
    .into_iter()
    .enumerate()
    {
        bands.add(Ordering::FirstCome, &arrival(flow, priority, place as u64), name);
    }
    assert_eq!(bands.requests(), 8);
    let sizes: Vec<_> =
        bands.sizes().map(|size| (size.fairness_id.to_string(), size.priority, size.requests, size.bytes)).collect();
    let expected = [("urgent", 7, 1), ("flood", 0, 4), ("trickle", 0, 2), ("batch", -1, 1)];
    assert_eq!(sizes, expected.map(|(flow, priority, requests)| (flow.to_string(), priority, requests, 10 * requests)));
    assert_eq!(drained(bands, Fairness::RoundRobin), ["u1", "f1", "t1", "f2", "t2", "f3", "f4", "b1"]);
}

#[test]
fn the_best_head_goes_by_what_came_first() {
    let mut bands = Bands::default();
    for (place, (flow, name)) in [("a", "a1"), ("a", "a2"), ("b", "b1"), ("a", "a3")].into_iter().enumerate() {
        bands.add(Ordering::FirstCome, &arrival(flow, 0, place as u64), name);
    }
    assert_eq!(drained(bands, Fairness::BestHead), ["a1", "a2", "b1", "a3"]);
}

#[test]
fn the_earliest_deadline_goes_first_and_who_has_none_last() {
    let mut bands = Bands::default();
    for (name, deadline) in [("none", None), ("late", Some(900)), ("soon", Some(300)), ("none either", None)] {
        let arrival = Arrival { deadline: deadline.map(at), ..arrival("a", 0, 1) };
        bands.add(Ordering::EarliestDeadline, &arrival, name);
    }
    assert_eq!(drained(bands, Fairness::RoundRobin), ["soon", "late", "none", "none either"]);
}

#[test]
fn who_leaves_is_found_wherever_it_waits_and_leaves_no_flow_behind() {
    let mut bands = Bands::default();
    let tickets: Vec<_> = (0..6)
        .map(|place| bands.add(Ordering::FirstCome, &arrival(["a", "b"][place % 2], (place / 4) as i64, 1), "x"))
        .collect();
    for &ticket in [3, 0, 5, 1, 2, 4].map(|place| &tickets[place]) {
        assert!(bands.get(ticket).is_some());
        assert!(bands.remove(ticket, at(9)).is_some());
        assert!(bands.remove(ticket, at(9)).is_none() && bands.get(ticket).is_none());
    }
    assert_eq!((bands.requests(), bands.sizes().count()), (0, 0));
    assert!(bands.next_over().is_none());
}

#[test]
fn a_band_and_all_together_hold_so_many_requests_and_bytes() {
    let settings =
        FlowSettings { max_requests: 3, band_requests: 2, max_bytes: 100, band_bytes: 35, ..FlowSettings::default() };
    let mut bands = Bands::default();
    let arrivals = [("a", 0, 10), ("b", 0, 26), ("b", 0, 25), ("a", 0, 0), ("a", 1, 36), ("a", 1, 35), ("a", 2, 0)];
    let taken: Vec<_> = arrivals
        .into_iter()
        .map(|(flow, priority, bytes)| {
            let arrival = Arrival { bytes, ..arrival(flow, priority, 1) };
            let has_room = bands.has_room(&settings, &arrival);
            if has_room {
                bands.add(Ordering::FirstCome, &arrival, "x");
            }
            has_room
        })
        .collect();
    assert_eq!(taken, [true, false, true, false, false, true, false]);
}

#[test]
fn whose_time_is_over_first_is_found_in_any_band() {
    let mut bands = Bands::default();
    let first = bands.add(Ordering::FirstCome, &arrival("a", 0, 1), "first");
    bands.add(Ordering::FirstCome, &arrival("b", 5, 2), "second");
    assert_eq!(bands.next_over().and_then(|ticket| bands.get(ticket)).map(|waiting| waiting.held), Some("first"));
    bands.remove(first, at(3));
    assert_eq!(bands.next_over().and_then(|ticket| bands.get(ticket)).map(|waiting| waiting.held), Some("second"));
}

fn newcomer() -> Newcomer<'static> {
    Newcomer { fairness_id: "a", held: Held::default(), bytes: 1, burden: Burden::default(), now: at(0) }
}

/// Two requests that wait in a queue whose requests are over after a millisecond.
fn two_waiting(of: fn(FlowSettings) -> FlowControl) -> (FlowControl, [Ticket; 2]) {
    let mut control = of(FlowSettings { ttl_micros: 1_000, ..FlowSettings::default() });
    let tickets = [(); 2].map(|()| match control.park(newcomer(), None) {
        Admission::Parked(ticket, _) => ticket,
        other => panic!("{other:?}"),
    });
    (control, tickets)
}

/// Polls a queue in front of a pool without endpoints.
fn poll(control: &mut FlowControl, millis: u64) -> Option<Woken> {
    let Ok(Plugin::Filter(Config { profile, .. })) = Plugin::parse(b"") else { panic!("the defaults are valid") };
    control.poll_wake(&mut Routing::new(1), &profile, at(millis))
}

#[test]
fn whom_the_host_does_not_find_is_forgotten() {
    let (mut control, [first, second]) = two_waiting(FlowControl::new);
    assert!(poll(&mut control, 0).is_none(), "nobody is due");
    assert_eq!(poll(&mut control, 1).map(|woken| woken.ticket), Some(first));
    assert_eq!(control.requests(), 2);
    assert_eq!(poll(&mut control, 1).map(|woken| woken.ticket), Some(second), "the first is not named again");
    assert_eq!(control.requests(), 1);
    control.remove(second, false, at(1));
    control.remove(first, false, at(1));
    assert_eq!(control.requests(), 0);
    assert!(poll(&mut control, 1).is_none());
}

#[derive(Debug, Default)]
struct Calls(AtomicU32);

impl Wake for Calls {
    fn wake(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[test]
fn a_thread_has_time_to_have_its_request_go_on_and_the_others_do_not_wait_for_ever() {
    let (mut control, [first, second]) = two_waiting(FlowControl::of_threads);
    let calls = Arc::new(Calls::default());
    assert!(control.set_wake(second, calls.clone()));
    // The thread of the first has not said yet how it is told: it is told as soon as it does.
    assert!(poll(&mut control, 1).is_some_and(|woken| woken.ticket == first && woken.wake.is_none()));
    assert!(!control.set_wake(first, calls.clone()));
    assert!(poll(&mut control, 5).is_none(), "one after the other");
    let woken = poll(&mut control, 6).unwrap();
    assert_eq!((woken.ticket, control.requests()), (second, 1), "the thread of the first is stopped");
    woken.wake.unwrap().wake();
    assert_eq!(calls.0.load(Relaxed), 1);
    // It goes on later all the same.
    assert!(!control.set_wake(first, calls));
    control.remove(first, true, at(7));
    control.remove(second, true, at(7));
    assert!(poll(&mut control, 20).is_none());
}
