//! Who waits, who goes first, and who is refused.

use endpoint_picker::flow_control::FlowSettings;
use endpoint_picker::scheduling::Peers;
use endpoint_picker::{Config, Plugin};
use proptest::prelude::*;
use snapshot::State;

use crate::rig::{CAPACITY, Rig, pod};

#[test]
fn a_request_waits_while_all_are_full_and_goes_when_one_has_room() {
    let mut rig = Rig::new("{}", 2);
    let first = rig.fill();
    assert_eq!(rig.sent(), first, "there is room");
    let waiting = [rig.ask("", "", "hello"), rig.ask("", "", "hello")];
    assert_eq!((rig.sent().len(), rig.waiting()), (first.len(), 2));
    rig.wait(50);
    assert_eq!(rig.waiting(), 2, "nothing ended");
    let place = rig.running[&first[3]];
    rig.answer(first[3]);
    assert_eq!(rig.sent.last(), Some(&(waiting[0], place)));
    rig.answer(first[0]);
    assert_eq!((rig.sent.last().unwrap().0, rig.waiting()), (waiting[1], 0));
    for number in rig.running.keys().copied().collect::<Vec<_>>() {
        rig.answer(number);
    }
    assert_eq!(rig.in_flight(), 0);
}

#[test]
fn without_flow_control_nobody_waits() {
    let mut rig = Rig::new(r#"{"enabled": false}"#, 1);
    assert!(rig.picker.flow_control().is_none());
    for _ in 0..20 {
        rig.ask("high", "flow", "hello");
    }
    assert_eq!((rig.sent().len(), rig.picker.poll_wake(rig.now())), (20, None));
}

#[test]
fn higher_bands_go_first_and_nobody_overtakes_who_waits() {
    let mut rig = Rig::new("{}", 1);
    let first = rig.fill();
    let low = rig.ask("low", "", "hello");
    let middle = rig.ask("", "", "hello");
    let high = [rig.ask("high", "", "hello"), rig.ask("high", "", "hello")];
    for number in first {
        rig.answer(number);
    }
    assert_eq!(rig.sent()[CAPACITY as usize..], [high[0], high[1], middle]);
    rig.answer(high[0]);
    assert_eq!(rig.sent().last(), Some(&low));
}

#[test]
fn a_trickle_is_not_drowned_by_a_flood() {
    let mut rig = Rig::new(r#"{"dispatch": "first"}"#, 1);
    let first = rig.fill();
    let flood: Vec<_> = (0..20).map(|_| rig.ask("", "flood", "hello")).collect();
    let trickle = [rig.ask("", "trickle", "hello"), rig.ask("", "trickle", "hello")];
    for number in first {
        rig.answer(number);
    }
    assert_eq!(rig.sent()[CAPACITY as usize..], [flood[0], trickle[0], flood[1]]);
    rig.answer(flood[0]);
    assert_eq!(rig.sent().last(), Some(&trickle[1]));
}

#[test]
fn a_free_slot_is_given_to_who_takes_the_least_there_but_not_for_ever() {
    let long = "A conversation that has come a long way and goes on. ".repeat(400);
    let other = "Something else that nobody here has ever been asked. ".repeat(400);
    let mut rig = Rig::new("{}", 1);
    let warm = rig.ask("", "", &long);
    rig.wait(300);
    rig.answer(warm);
    let mut busy = rig.fill();
    let cold = rig.ask("", "", &other);
    let hit = rig.ask("", "", &long);
    rig.wait(100);
    rig.answer(busy.remove(0));
    assert_eq!(rig.sent().last(), Some(&hit), "its prompt is in the cache");
    let hits: Vec<_> = (0..3).map(|_| rig.ask("", "", &long)).collect();
    rig.wait(1_000);
    rig.answer(busy.remove(0));
    assert_eq!(rig.sent().last(), Some(&hits[0]));
    rig.wait(1_000);
    rig.answer(busy.remove(0));
    assert_eq!(rig.sent().last(), Some(&cold), "it was overtaken for two seconds");
}

#[test]
fn who_waits_for_too_long_is_told_so() {
    let mut rig = Rig::new(r#"{"ttl_ms": 5000}"#, 1);
    rig.fill();
    let early = rig.ask("", "", "hello");
    rig.wait(3_000);
    let late = rig.ask("", "", "hello");
    rig.wait(1_999);
    assert_eq!(rig.refused.len(), 0);
    rig.wait(1);
    assert_eq!(rig.refused.keys().copied().collect::<Vec<_>>(), [early]);
    assert_eq!(rig.refused[&early].0, 503);
    rig.wait(3_000);
    assert_eq!((rig.refused[&late].0, rig.waiting()), (503, 0));
    assert!(rig.codes.values().all(|code| code == "queue_timeout"));
}

#[test]
fn a_request_may_ask_to_wait_for_less_and_never_for_more() {
    let mut rig = Rig::new(r#"{"ttl_ms": 5000}"#, 1);
    rig.fill();
    let mut ask = |ttl| rig.ask_within("", "", "hello", Some(ttl));
    let (longer, shorter, bad) = (ask("1m"), ask("1.5s"), ["", "0s", "-1s", "3", "soon"].map(&mut ask));
    let shortest = ask(" 200ms ");
    let over = |rig: &Rig| rig.refused.keys().copied().collect::<Vec<_>>();
    rig.wait(199);
    assert!(over(&rig).is_empty());
    rig.wait(1);
    assert_eq!(over(&rig), [shortest]);
    rig.wait(1_300);
    assert_eq!(over(&rig), [shorter, shortest]);
    rig.wait(3_499);
    assert_eq!(rig.waiting(), 6);
    rig.wait(1);
    assert_eq!(over(&rig), [[longer, shorter].as_slice(), &bad, &[shortest]].concat());
    assert!(rig.refused.values().all(|(status, _)| *status == 503));
    let at_once = rig.ask_within("", "", "hello", Some("1ns"));
    rig.wait(1);
    assert!(
        rig.refused.contains_key(&at_once),
        "the shortest wait that there is, which is not that of the configuration"
    );
}

/// A pod has somebody's prompt; where it and another are full, who asks for that prompt again waits for that pod, and not longer than for a while.
#[test]
fn who_has_a_home_waits_for_it_while_others_take_what_is_free_elsewhere() {
    let long = "A conversation that has come a long way and goes on. ".repeat(6_000);
    let mut rig = Rig::new("{}", 2);
    let warm = rig.ask("", "", &long);
    let home = rig.running[&warm];
    // To compute it takes ten seconds.
    rig.wait(10_000);
    rig.answer(warm);
    rig.report(0, 0);
    // Until one waits.
    while rig.waiting() == 0 {
        rig.ask("low", "", "hello");
    }
    let low = rig.next - 1;
    let first = rig.ask("high", "", &long);
    let second = rig.ask("high", "", &long);
    rig.answer_until_sent(low, |place| place != home);
    assert_eq!(rig.waiting(), 2, "the urgent have their prompt at the other pod");
    rig.answer_until_sent(first, |place| place == home);
    assert_eq!(rig.sent.last(), Some(&(first, home)));
    // Its home has no room for as long as one is overtaken.
    rig.wait(2_000);
    rig.answer_until_sent(second, |place| place != home);
    assert_ne!(rig.sent.last(), Some(&(second, home)));
}

#[test]
fn who_waits_for_a_pod_that_leaves_goes_elsewhere() {
    let long = "A conversation that has come a long way and goes on. ".repeat(400);
    let mut rig = Rig::new("{}", 2);
    let warm = rig.ask("", "", &long);
    let home = rig.running[&warm];
    rig.wait(300);
    rig.answer(warm);
    while rig.waiting() == 0 {
        rig.ask("", "", &long);
    }
    let waits = rig.next - 1;
    let stays = if home == pod(0) { pod(1) } else { pod(0) };
    rig.install_only(stays);
    rig.report(0, 0);
    rig.answer_until_sent(waits, |place| place == stays);
    assert_eq!(rig.sent.last(), Some(&(waits, stays)));
}

#[test]
fn a_pool_that_is_full_now_and_then_holds_and_sends_by_turns_and_loses_nobody() {
    let mut rig = Rig::new("{}", 2);
    let mut asked = 0;
    for round in 0..20 {
        for _ in 0..5 {
            rig.ask("", ["a", "b"][round % 2], "hello");
            asked += 1;
        }
        // The pages say now that the caches are full, then that they are not.
        rig.report_cache(if round % 2 == 0 { 0.95 } else { 0.1 });
        rig.poll();
        for number in rig.running.keys().copied().take(4).collect::<Vec<_>>() {
            rig.answer(number);
        }
        assert!(rig.in_flight() <= 2 * CAPACITY, "{}", rig.in_flight());
    }
    rig.report_cache(0.1);
    rig.poll();
    while let Some(number) = rig.running.keys().next().copied() {
        rig.answer(number);
    }
    assert_eq!((rig.sent.len(), rig.waiting(), rig.in_flight(), rig.refused.len()), (asked, 0, 0, 0));
}

#[test]
fn a_client_that_leaves_frees_its_place_at_once() {
    let mut rig = Rig::new(r#"{"max_requests": 1}"#, 1);
    let first = rig.fill();
    let waits = rig.ask("", "", "hello");
    let refused = rig.ask("", "", "hello");
    assert_eq!(rig.refused[&refused].0, 429);
    rig.leave(waits);
    assert_eq!(rig.waiting(), 0);
    let next = rig.ask("", "", "hello");
    rig.answer(first[0]);
    assert_eq!(rig.sent().last(), Some(&next));
}

#[test]
fn who_is_refused_is_told_when_the_queue_should_have_drained() {
    let mut rig = Rig::new(r#"{"max_band_requests": 20}"#, 1);
    let mut running = rig.fill();
    let mut waiting: Vec<_> = (0..20).map(|_| rig.ask("", "", "hello")).collect();
    for _ in 0..15 {
        rig.wait(500);
        rig.answer(running.remove(0));
        running.push(waiting.remove(0));
        waiting.push(rig.ask("", "", "hello"));
    }
    assert_eq!(rig.waiting(), 20);
    let refused = rig.ask("", "", "hello");
    // Twenty that leave twice a second.
    assert_eq!(rig.refused[&refused], (429, Some(10)));
    let high = rig.ask("high", "", "hello");
    assert!(!rig.refused.contains_key(&high), "another band has room");
}

#[test]
fn capacity_that_comes_is_used_without_waiting_for_an_end() {
    let mut rig = Rig::new("{}", 1);
    rig.fill();
    for _ in 0..4 {
        rig.ask("", "", "hello");
    }
    rig.install(2);
    rig.report(0, 0);
    rig.wait(0);
    // The new pod never had a queue: what it can take is not known.
    assert_eq!(rig.waiting(), 0);
    let at_new = rig.sent.iter().filter(|(_, place)| *place == pod(1)).count();
    assert_eq!(at_new, 4);
}

#[test]
fn bad_settings_are_reported_all_at_once() {
    let Err(error) = Plugin::parse(
        br#"{"flow_control": {"ttl_ms": -1, "ordering": "lifo", "fairness": 3, "queue_depth": 1.5, "kv_cache_usage": 2, "bands": []}}"#,
    ) else {
        panic!("it is refused")
    };
    let text = error.to_string();
    for field in ["ttl_ms", "ordering", "fairness", "queue_depth", "kv_cache_usage", "bands: unknown"] {
        assert!(text.contains(&format!("flow_control.{field}")), "{field}: {text}");
    }
    let filter = |json: &str| -> Config {
        let Ok(Plugin::Filter(config)) = Plugin::parse(json.as_bytes()) else { panic!("{json}") };
        config
    };
    assert_eq!(filter("{}").flow_control, None);
    assert_eq!(filter(r#"{"flow_control": {}}"#).flow_control, Some(FlowSettings::default()));
}

#[derive(Clone, Debug)]
enum Act {
    Ask(u8, u8),
    Answer(usize),
    Leave(usize),
    Wait(u64),
    Report(u32, u32),
    Install(u16),
    Turn(Vec<State>),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => (0_u8..3, 0_u8..3).prop_map(|(objective, flow)| Act::Ask(objective, flow)),
        4 => any::<usize>().prop_map(Act::Answer),
        1 => any::<usize>().prop_map(Act::Leave),
        1 => (0_u64..4_000).prop_map(Act::Wait),
        1 => (0_u32..5, 0_u32..3).prop_map(|(running, waiting)| Act::Report(running, waiting)),
        1 => (0_u16..4).prop_map(Act::Install),
        1 => proptest::collection::vec(prop_oneof![Just(State::Fresh), Just(State::Sleeping), Just(State::Unready)], 4).prop_map(Act::Turn),
    ];
    proptest::collection::vec(act, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Each request is sent, refused or left, once, and nobody is left behind.
    #[test]
    fn each_request_has_one_end(acts in acts()) {
        let mut rig = Rig::new(r#"{"ttl_ms": 5000, "max_requests": 6, "max_band_requests": 4}"#, 2);
        let mut left = 0;
        for act in acts {
            match act {
                Act::Ask(objective, flow) => {
                    rig.ask(["", "high", "low"][usize::from(objective)], ["", "a", "b"][usize::from(flow)], "hello");
                }
                Act::Answer(place) if !rig.running.is_empty() => {
                    let number = *rig.running.keys().nth(place % rig.running.len()).unwrap();
                    rig.answer(number);
                }
                Act::Leave(place) if !rig.parked.is_empty() => {
                    let number = *rig.parked.values().nth(place % rig.parked.len()).unwrap();
                    rig.leave(number);
                    left += 1;
                }
                Act::Wait(millis) => rig.wait(millis),
                Act::Report(running, waiting) => {
                    rig.report(running, waiting);
                    rig.poll();
                }
                Act::Install(pods) => {
                    rig.install(pods);
                    rig.poll();
                }
                Act::Turn(states) => {
                    rig.report_states(&states[..usize::from(rig.pods)]);
                    rig.poll();
                    let is_off = states[..usize::from(rig.pods)].iter().all(|state| *state != State::Fresh);
                    prop_assert!(!is_off || rig.waiting() == 0, "nobody waits for nobody");
                }
                _ => {}
            }
            prop_assert_eq!(rig.waiting() as usize, rig.parked.len());
        }
        rig.wait(5_000);
        prop_assert_eq!(rig.waiting(), 0);
        prop_assert_eq!(rig.sent.len() + rig.unlisted.len() + rig.refused.len() + left, rig.next);
        for number in rig.running.keys().copied().collect::<Vec<_>>() {
            rig.answer(number);
        }
        for number in rig.unlisted.clone() {
            rig.log(number);
        }
        prop_assert_eq!(rig.in_flight(), 0);
    }
}

const WORKERS: u32 = 8;

/// Eight workers, each with somebody waiting for the only pod, and as much free there as one page says to all of them: who sends its request.
fn woken_workers(free: u32, peers: impl Fn(u32) -> Peers) -> Vec<u32> {
    let mut rigs: Vec<_> = (0..WORKERS).map(|_| Rig::new("{}", 1)).collect();
    for rig in &mut rigs {
        // The others have all there is.
        rig.picker.set_others_in_flight([(CAPACITY, 0)]);
        rig.ask("", "", "hello");
        assert_eq!(rig.waiting(), 1);
    }
    for (rank, rig) in (0..).zip(&mut rigs) {
        rig.picker.set_others_in_flight([(CAPACITY - free, 0)]);
        rig.picker.set_peers(peers(rank));
        rig.poll();
    }
    (0..).zip(&rigs).filter(|(_, rig)| rig.waiting() == 0).map(|(rank, _)| rank).collect()
}

#[test]
fn workers_share_what_is_free_and_one_alone_has_all_of_it() {
    let equals = |turn| Peers { workers: WORKERS, before: 0, equals: WORKERS, turn, wanted: 0 };
    assert_eq!([0, 1, 2, 3].map(|free| woken_workers(free, equals).len()), [0, 1, 2, 3]);
    // Each alone would take it.
    assert_eq!(woken_workers(1, |_| Peers::default()).len(), 8);
}

#[test]
fn the_worker_whose_requests_are_most_urgent_gets_what_cannot_be_shared() {
    let last_first = |rank| match rank {
        7 => Peers { workers: WORKERS, before: 0, equals: 1, turn: rank, wanted: 0 },
        _ => Peers { workers: WORKERS, before: 1, equals: 7, turn: rank, wanted: 1 },
    };
    assert_eq!(woken_workers(1, last_first), [7]);
    let two = woken_workers(2, last_first);
    assert!(two.len() == 2 && two.contains(&7), "{two:?}");
}

/// A worker that fills the only pod and has others waiting, told of the others that `before` workers with `wanted` requests come before it; its requests
/// of which one ended since.
fn holder_that_freed_a_slot(before: u32, wanted: u32) -> (Rig, Vec<usize>) {
    let mut rig = Rig::new("{}", 1);
    let mut running = rig.fill();
    (0..4).for_each(|_| assert!(rig.ask("", "", "hello") >= running.len()));
    rig.picker.set_others_in_flight([(0, 0)]);
    rig.picker.set_peers(Peers { workers: 1 + before, before, equals: 1, turn: 0, wanted });
    rig.answer(running.remove(0));
    (rig, running)
}

#[test]
fn a_slot_that_a_worker_freed_is_left_to_those_that_come_before_it() {
    assert_eq!(holder_that_freed_a_slot(0, 0).0.waiting(), 3, "nobody does");
    let (mut rig, mut running) = holder_that_freed_a_slot(1, 1);
    assert_eq!(rig.waiting(), 4);
    // No more than they have waiting: the next one is its own again.
    rig.answer(running.remove(0));
    assert_eq!(rig.waiting(), 3);
    // They took it, and have nobody waiting any more.
    rig.picker.set_others_in_flight([(1, 0)]);
    rig.picker.set_peers(Peers::default());
    rig.answer(running.remove(0));
    assert_eq!((rig.waiting(), rig.in_flight()), (2, CAPACITY));
}

#[test]
fn a_slot_that_nobody_takes_is_its_own_again_after_a_second_and_for_a_while() {
    let (mut rig, mut running) = holder_that_freed_a_slot(1, 1);
    // All were told of the free slot.
    let tell = |rig: &mut Rig| {
        rig.picker.set_others_in_flight([(0, 0)]);
        rig.picker.set_peers(Peers { workers: 2, before: 1, equals: 1, turn: 0, wanted: 1 });
    };
    tell(&mut rig);
    rig.wait(900);
    assert_eq!(rig.waiting(), 4);
    rig.wait(200);
    assert_eq!(rig.waiting(), 3);
    tell(&mut rig);
    rig.answer(running.remove(0));
    assert_eq!(rig.waiting(), 2, "those that wait there want something else");
}

#[test]
fn a_slot_that_nobody_wanted_was_not_spurned() {
    let mut rig = Rig::new("{}", 1);
    // An idle gateway: what ended was long ago when the next one comes.
    let before = rig.ask("", "", "hello");
    rig.answer(before);
    rig.wait(2_000);
    let running = rig.fill();
    rig.ask("", "", "hello");
    rig.picker.set_others_in_flight([(0, 0)]);
    rig.picker.set_peers(Peers { workers: 2, before: 1, equals: 1, turn: 0, wanted: 1 });
    rig.answer(running[0]);
    assert_eq!(rig.waiting(), 1, "others come first");
}
