//! What waits while the sidecar is away, and what goes on when nobody can take requests any more.

use std::collections::BTreeMap;

use snapshot::State;

use crate::rig::{CAPACITY, Rig, SLOTS, load};

/// Milliseconds after which a page that nobody confirms is stale: the default of `scheduling.max_snapshot_age_ms`.
const STALE_AFTER: u64 = 2_000;

/// The last page says that all are full, and the sidecar dies: who waits goes on once that page is stale, and requests in flight decide from then on.
fn goes_by_requests_in_flight(mut rig: Rig, what: &str) {
    let waits = rig.ask("", "", "hello");
    rig.wait(STALE_AFTER);
    assert_eq!((rig.waiting(), rig.sent.len()), (1, 0), "{what}: the page still counts");
    rig.wait(1);
    assert_eq!((rig.waiting(), rig.sent()), (0, vec![waits]), "{what}: the page is stale");
    while rig.waiting() == 0 {
        rig.ask("", "", "hello");
    }
    assert_eq!(rig.in_flight(), u32::from(rig.pods) * CAPACITY, "{what}: slots are known all the same");
    let next = rig.next - 1;
    rig.answer(waits);
    assert_eq!(rig.sent().last(), Some(&next), "{what}");
    assert!(rig.refused.is_empty(), "{what}");
}

#[test]
fn a_page_that_says_full_holds_nobody_once_it_is_stale() {
    let mut rig = Rig::new("{}", 2);
    rig.report_cache(0.95);
    goes_by_requests_in_flight(rig, "the cache is full");
    let mut rig = Rig::new("{}", 2);
    rig.report(SLOTS, 4);
    goes_by_requests_in_flight(rig, "another gateway has all slots");
}

#[test]
fn a_queue_on_a_stale_page_of_an_engine_whose_slots_are_not_known_holds_nobody() {
    let mut rig = Rig::new("{}", 0);
    rig.install(1);
    rig.report(SLOTS, 4);
    let waits = rig.ask("", "", "hello");
    rig.wait(STALE_AFTER);
    assert_eq!(rig.waiting(), 1);
    rig.wait(1);
    assert_eq!((rig.waiting(), rig.sent()), (0, vec![waits]));
}

#[test]
fn a_page_that_comes_again_counts_again() {
    let mut rig = Rig::new("{}", 1);
    rig.report_cache(0.95);
    rig.wait(STALE_AFTER + 1);
    rig.ask("", "", "hello");
    assert_eq!((rig.waiting(), rig.sent.len()), (0, 1));
    rig.report_cache(0.95);
    rig.ask("", "", "hello");
    rig.wait(1_000);
    assert_eq!((rig.waiting(), rig.sent.len()), (1, 1));
}

fn saturation(rig: &Rig) -> f64 {
    let picker = &rig.picker;
    picker.flow_control().unwrap().saturation(picker.pool(), &picker.config().profile, rig.now())
}

#[test]
fn a_pool_shows_how_full_it_is_and_full_where_nobody_knows_or_can_take_anything() {
    let mut rig = Rig::new("{}", 2);
    rig.report_each(vec![load(0, 0, 0.8), load(0, 0, 0.0)]);
    assert_eq!(saturation(&rig), 0.5);
    rig.report_states(&[State::Sleeping, State::Fresh]);
    assert_eq!(saturation(&rig), 0.5 + 0.5 * 0.1 / 0.8, "one of two takes nothing");
    rig.report_states(&[State::Unready, State::Sleeping]);
    assert_eq!(saturation(&rig), 1.0);
    rig.report_states(&[State::Fresh, State::Fresh]);
    rig.wait(STALE_AFTER);
    assert_eq!(saturation(&rig), 0.1 / 0.8);
    rig.wait(1);
    assert_eq!(saturation(&rig), 1.0, "as the Endpoint Picker counts a pod whose page is stale");
    rig.ask("", "", "hello");
    assert_eq!(rig.waiting(), 0, "requests go on all the same");
    rig.install(0);
    assert_eq!(saturation(&rig), 1.0);
}

/// Nobody can take requests any more, in each of the ways in which that happens.
const ENDS: [fn(&mut Rig); 3] = [
    |rig| rig.report_states(&[State::Sleeping, State::Sleeping]),
    |rig| rig.report_states(&[State::Unready, State::Sleeping]),
    |rig| rig.install(0),
];

/// Two full pods and four requests that wait for them.
fn four_waiting(no_endpoint: &str) -> (Rig, Vec<usize>) {
    let mut rig = Rig::with(&format!(r#""flow_control": {{}}, "no_endpoint": "{no_endpoint}""#), 2);
    rig.fill();
    let waiting = ["high", "", "", "low"].map(|objective| rig.ask(objective, "", "hello")).to_vec();
    assert_eq!(rig.waiting(), 4);
    (rig, waiting)
}

#[test]
fn where_nobody_can_take_it_any_more_who_waits_is_left_to_envoy_at_once() {
    for (way, end) in ENDS.into_iter().enumerate() {
        let (mut rig, mut waiting) = four_waiting("fail_open");
        let sent = rig.sent.len();
        end(&mut rig);
        // It would wait behind the others, who are not told before the next tick.
        let newcomer = rig.ask("", "", "hello");
        assert_eq!((rig.unlisted.as_slice(), rig.waiting()), ([newcomer].as_slice(), 4), "{way}");
        rig.poll();
        waiting.insert(0, newcomer);
        assert_eq!((&rig.unlisted, rig.waiting(), rig.sent.len()), (&waiting, 0, sent), "{way}");
        assert!(rig.refused.is_empty(), "{way}");
        for number in waiting {
            rig.log(number);
        }
        assert_eq!(rig.outcomes(), BTreeMap::from([("Dispatched".to_owned(), 5)]), "{way}");
    }
}

#[test]
fn where_nobody_can_take_it_any_more_who_waits_is_refused_by_a_gateway_that_fails_closed() {
    for (way, end) in ENDS.into_iter().enumerate() {
        let (mut rig, _) = four_waiting("fail_closed");
        end(&mut rig);
        rig.poll();
        rig.ask("", "", "hello");
        assert_eq!((rig.refused.len(), rig.unlisted.len(), rig.waiting()), (5, 0, 0), "{way}");
        assert!(rig.refused.values().all(|(status, _)| *status == 503), "{way}");
        assert!(rig.codes.values().all(|code| code == "no_endpoint"), "{way}: {:?}", rig.codes);
        let outcomes = [("EvictedNoEndpoints".to_owned(), 4), ("RejectedNoEndpoints".to_owned(), 1)];
        assert_eq!(rig.outcomes(), BTreeMap::from(outcomes), "{way}");
    }
}

#[test]
fn who_has_waited_for_as_long_as_it_may_is_told_that_nobody_can_take_it_if_so_it_is() {
    let (mut rig, waiting) = four_waiting("fail_closed");
    rig.wait(60_000 - 50);
    assert!(rig.codes.is_empty());
    rig.report_states(&[State::Sleeping, State::Sleeping]);
    rig.poll();
    let told: Vec<_> = rig.codes.values().map(String::as_str).collect();
    assert_eq!(told, vec!["no_endpoint"; waiting.len()]);
}

#[test]
fn pods_that_slept_for_a_moment_lose_nobody_who_waits() {
    let (mut rig, _) = four_waiting("fail_open");
    rig.report_states(&[State::Sleeping, State::Sleeping]);
    rig.report_states(&[State::Sleeping, State::Fresh]);
    rig.poll();
    assert_eq!((rig.unlisted.len(), rig.waiting()), (0, 4));
}

#[test]
fn only_who_waits_for_a_model_that_nobody_serves_now_is_refused() {
    let mut rig = Rig::new("{}", 2);
    rig.install_models(&["m", "other"]);
    rig.report(0, 0);
    let mut ask = |model, requests| {
        rig.model = model;
        (0..requests).map(|_| rig.ask("", "", "hello")).collect::<Vec<_>>()
    };
    ask("m", CAPACITY);
    ask("other", CAPACITY);
    let (first, others, last) = (ask("m", 1), ask("other", 2), ask("m", 1));
    assert_eq!(rig.waiting(), 4);
    rig.report_states(&[State::Sleeping, State::Fresh]);
    rig.poll();
    assert_eq!(rig.codes.keys().copied().collect::<Vec<_>>(), [first, last].concat());
    assert!(rig.codes.values().all(|code| code == "no_endpoint"));
    assert_eq!(rig.parked.values().copied().collect::<Vec<_>>(), others);
}
