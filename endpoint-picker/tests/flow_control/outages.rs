//! What waits while the sidecar is away, and what goes on when nobody can take requests any more.

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
