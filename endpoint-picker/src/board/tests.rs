use alloc::format;
use alloc::vec;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use snapshot::{EndpointIdentity, PoolMembers};

use super::*;
use crate::shared_data::fake::FakeSharedData;

fn pool(name: &str, last: &[u8]) -> PoolMembers {
    let endpoints =
        last.iter().map(|last| EndpointIdentity::unnamed(format!("10.0.0.{last}:80").parse().unwrap())).collect();
    PoolMembers { name: name.into(), endpoints, ..PoolMembers::default() }
}

fn membership(version: u64, pools: Vec<PoolMembers>) -> Membership {
    Membership { epoch: 1, version, pools }
}

fn write(shared: &mut FakeSharedData, worker: u64, sequence: u64, membership: &Membership, pool: &str, counts: &[u32]) {
    let post = Post {
        worker,
        sequence,
        order: Some(Order::of(membership)),
        first: u32::try_from(membership.pool(pool).unwrap().1).unwrap(),
        in_flight: counts.to_vec(),
        pool: pool.into(),
        ..Post::default()
    };
    shared.set(&key::post(worker), &post.encode_to_vec(), 0).unwrap();
    assert!(enroll(shared, worker));
}

const NOW: Timestamp = Timestamp::from_micros(0);

#[test]
fn posts_of_several_pools_are_added_up_in_the_order_of_the_membership() {
    let members = membership(1, vec![pool("a", &[1, 2]), pool("b", &[1, 3])]);
    let (mut shared, mut gatherer) = (FakeSharedData::default(), Gatherer::default());
    write(&mut shared, 1, 4, &members, "a", &[1, 2]);
    write(&mut shared, 2, 5, &members, "b", &[10, 20]);
    write(&mut shared, 3, 6, &members, "a", &[100, u32::MAX]);
    assert!(gatherer.tick(&mut shared, &members, NOW));
    let board = Board::decode(shared.get(key::BOARD).unwrap().0.as_slice()).unwrap();
    assert_eq!(board.in_flight, [101, u32::MAX, 10, 20]);
    assert_eq!([1, 2, 3, 4].map(|worker| board.contained(worker)), [Some(4), Some(5), Some(6), None]);
    assert!(!gatherer.tick(&mut shared, &members, NOW));
}

#[test]
fn what_any_worker_learned_of_slots_is_on_the_board() {
    let members = membership(1, vec![pool("a", &[1, 2]), pool("b", &[1, 3])]);
    let (mut shared, mut gatherer) = (FakeSharedData::default(), Gatherer::default());
    write(&mut shared, 1, 1, &members, "b", &[1, 2]);
    gatherer.tick(&mut shared, &members, NOW);
    assert!(gatherer.board().slots.is_empty());
    for (worker, slots) in [(1, [0, 4]), (2, [0, 5])] {
        let lessons = (0..).zip(slots).map(|(place, slots)| Lesson { place, slots, ..Lesson::default() }).collect();
        let post = Post { worker, sequence: 2, order: Some(Order::of(&members)), first: 2, lessons, ..Post::default() };
        shared.set(&key::post(worker), &post.encode_to_vec(), 0).unwrap();
        assert!(enroll(&mut shared, worker));
    }
    assert!(gatherer.tick(&mut shared, &members, NOW));
    assert_eq!(gatherer.board().slots, [0, 0, 0, 5]);
}

#[test]
fn a_post_in_the_order_of_the_membership_before_is_moved() {
    let old = membership(1, vec![pool("a", &[1, 2, 3])]);
    let new = membership(2, vec![pool("a", &[3, 9, 1])]);
    let (mut shared, mut gatherer) = (FakeSharedData::default(), Gatherer::default());
    write(&mut shared, 1, 1, &old, "a", &[4, 5, 6]);
    gatherer.tick(&mut shared, &old, NOW);
    gatherer.membership_replaced(old.clone());
    assert!(gatherer.tick(&mut shared, &new, NOW));
    let departed = vec![Departed { pool: "a".into(), address: "10.0.0.2:80".into(), count: 5 }];
    assert_eq!((&gatherer.board().in_flight, &gatherer.board().departed), (&vec![6, 0, 4], &departed));
    write(&mut shared, 1, 2, &new, "a", &[6, 0, 4]);
    assert!(gatherer.tick(&mut shared, &new, NOW));
    assert_eq!((&gatherer.board().in_flight, gatherer.board().departed.len()), (&vec![6, 0, 4], 0));
}

#[test]
fn a_post_that_is_not_renewed_leaves_the_board_and_the_roster() {
    let members = membership(1, vec![pool("a", &[1])]);
    let (mut shared, mut gatherer) = (FakeSharedData::default(), Gatherer::default());
    write(&mut shared, 1, 1, &members, "a", &[4]);
    gatherer.tick(&mut shared, &members, NOW);
    assert!(!gatherer.tick(&mut shared, &members, Timestamp::from_micros(EXPIRE_AFTER_MICROS - 1)));
    assert!(gatherer.tick(&mut shared, &members, Timestamp::from_micros(EXPIRE_AFTER_MICROS)));
    assert_eq!(gatherer.board().in_flight, [0]);
    assert_eq!(Roster::decode(shared.get(key::ROSTER).unwrap().0.as_slice()).unwrap(), Roster::default());
}

#[test]
fn what_the_host_did_not_store_is_stored_later() {
    let members = membership(1, vec![pool("a", &[1])]);
    let (mut shared, mut gatherer) = (FakeSharedData::default(), Gatherer::default());
    write(&mut shared, 1, 1, &members, "a", &[4]);
    shared.refuses = true;
    gatherer.tick(&mut shared, &members, NOW);
    shared.refuses = false;
    gatherer.tick(&mut shared, &members, NOW);
    let board = Board::decode(shared.get(key::BOARD).unwrap().0.as_slice()).unwrap();
    assert_eq!((board.in_flight, Version::read(&mut shared).board), (vec![4], 1));
}
