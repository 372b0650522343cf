use alloc::vec;
use alloc::vec::Vec;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use snapshot::{EndpointIdentity, Load, PoolMembers};

use super::*;

const NOW: Timestamp = Timestamp::from_micros(100_000_000);

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 8000))
}

fn membership(version: u64, hosts: &[u8]) -> Membership {
    let endpoints = hosts.iter().map(|&host| EndpointIdentity::unnamed(address(host))).collect();
    let other = PoolMembers {
        name: "o".into(),
        endpoints: vec![EndpointIdentity::unnamed(address(99))],
        ..PoolMembers::default()
    };
    Membership {
        epoch: 1,
        version,
        pools: vec![other, PoolMembers { name: "p".into(), endpoints, ..PoolMembers::default() }],
    }
}

fn fresh() -> Load {
    Load { state: State::Fresh, age_ms: Some(0), waiting: Some(0), running: Some(0), ..Load::default() }
}

/// Loads of the pool `p`, behind that of the other pool's endpoint.
fn loads(version: u64, captured_at_ms: u64, own: &[Load]) -> Loads {
    let endpoints = core::iter::once(Load::default()).chain(own.iter().copied()).collect();
    Loads { epoch: 1, membership_version: version, generation: 1, captured_at_ms, endpoints, adapters: Vec::new() }
}

fn pool(hosts: &[u8]) -> Pool {
    let mut pool = Pool::default();
    pool.install_membership(&membership(1, hosts), "p");
    pool.install_loads(&loads(1, 1_000, &vec![fresh(); hosts.len()]), NOW).unwrap();
    pool
}

fn unseen(pool: &Pool, id: EndpointId) -> u32 {
    pool.endpoint(id).unwrap().unseen(pool.confirmed_at())
}

#[test]
fn ids_outlive_snapshots_and_name_nobody_else() {
    let mut pool = pool(&[1, 2]);
    let (first, second) = (pool.find(address(1)).unwrap(), pool.find(address(2)).unwrap());
    pool.install_membership(&membership(2, &[2, 1, 3]), "p");
    assert_eq!((pool.find(address(1)), pool.find(address(2))), (Some(first), Some(second)));
    pool.install_membership(&membership(3, &[2, 4]), "p");
    assert!(pool.endpoint(first).is_none());
    let reused: Vec<_> = pool.members().iter().filter(|id| id.slot == first.slot).collect();
    assert!(reused.iter().all(|id| id.epoch != first.epoch));
}

#[test]
fn loads_follow_the_order_of_the_membership_behind_other_pools() {
    let mut pool = pool(&[1, 2]);
    pool.install_membership(&membership(2, &[2, 1]), "p");
    let waiting = |waiting| Load { waiting: Some(waiting), ..fresh() };
    pool.install_loads(&loads(2, 1_000, &[waiting(7), waiting(9)]), NOW).unwrap();
    let of = |last| pool.endpoint(pool.find(address(last)).unwrap()).unwrap().load().waiting;
    assert_eq!((of(2), of(1)), (Some(7), Some(9)));
}

#[test]
fn loads_of_another_membership_change_nothing() {
    let mut pool = pool(&[1]);
    assert_eq!(pool.install_loads(&loads(2, 2_000, &[fresh()]), NOW.plus_micros(9)), Err(OtherMembership));
    assert_eq!(pool.install_loads(&loads(1, 2_000, &[]), NOW.plus_micros(9)), Err(OtherMembership));
    assert_eq!(pool.confirmed_at(), Some(NOW));
}

#[test]
fn an_endpoint_that_left_is_kept_until_its_requests_finish() {
    let mut pool = pool(&[1, 2]);
    let id = pool.find(address(1)).unwrap();
    pool.request_sent(id, NOW);
    pool.install_membership(&membership(2, &[2]), "p");
    assert_eq!(pool.availability(pool.endpoint(id).unwrap(), NOW, 1), Availability::Unready);
    assert_eq!(pool.members().len(), 1);
    pool.request_finished(id, NOW, false, NOW);
    assert!(pool.endpoint(id).is_none());
    assert_eq!(pool.find(address(1)), None);
}

#[test]
fn an_endpoint_that_comes_back_while_its_requests_run_is_the_same() {
    let mut pool = pool(&[1]);
    let id = pool.find(address(1)).unwrap();
    pool.request_sent(id, NOW);
    pool.install_membership(&membership(2, &[]), "p");
    pool.install_membership(&membership(3, &[1]), "p");
    assert_eq!(pool.members(), [id]);
    assert_eq!(pool.endpoint(id).unwrap().in_flight().own(), 1);
}

#[test]
fn another_pod_at_a_known_address_is_another_endpoint() {
    let named = |version, pod: &str| {
        let mut membership = membership(version, &[1]);
        membership.pools[1].endpoints[0].pod = pod.into();
        membership
    };
    let mut pool = Pool::default();
    pool.install_membership(&named(1, "a"), "p");
    let old = pool.members()[0];
    pool.request_sent(old, NOW);
    pool.install_membership(&named(2, "b"), "p");
    let new = pool.members()[0];
    assert_ne!(old, new);
    assert_eq!((pool.find(address(1)), pool.endpoint(new).unwrap().in_flight().own()), (Some(new), 0));
    pool.request_finished(old, NOW, false, NOW);
    assert_eq!(pool.find(address(1)), Some(new), "the old pod's end does not take the address from the new one");
}

#[test]
fn a_name_that_becomes_known_is_no_other_endpoint() {
    let mut pool = pool(&[1]);
    let id = pool.members()[0];
    let mut named = membership(2, &[1]);
    named.pools[1].endpoints[0].pod = "a".into();
    pool.install_membership(&named, "p");
    assert_eq!((pool.members(), pool.endpoint(id).unwrap().name()), (&[id][..], "a"));
}

#[test]
fn what_the_engine_reports_is_not_counted_again() {
    let mut pool = pool(&[1]);
    let id = pool.members()[0];
    for _ in 0..3 {
        pool.request_sent(id, NOW);
    }
    assert_eq!(unseen(&pool, id), 3);
    let seen = Load { waiting: Some(1), running: Some(2), ..fresh() };
    let later = NOW.plus_micros(50_000);
    pool.install_loads(&loads(1, 1_050, &[seen]), later).unwrap();
    assert_eq!(unseen(&pool, id), 0);
    pool.request_sent(id, later);
    assert_eq!(unseen(&pool, id), 1);
}

#[test]
fn unseen_is_as_old_as_the_endpoints_own_page() {
    let mut pool = pool(&[1, 2]);
    let ids = [pool.members()[0], pool.members()[1]];
    let busy = Load { running: Some(8), ..fresh() };
    for id in ids {
        pool.request_sent(id, NOW.plus_micros(100_000));
    }
    // The first page is new, the second one was made before the requests went out.
    let slow = Load { age_ms: Some(900), ..busy };
    pool.install_loads(&loads(1, 1_900, &[busy, slow]), NOW.plus_micros(500_000)).unwrap();
    assert_eq!(ids.map(|id| unseen(&pool, id)), [0, 1]);
}

#[test]
fn a_confirmation_vouches_for_pages_that_are_read_regularly() {
    let mut pool = pool(&[1, 2]);
    let ids = [pool.members()[0], pool.members()[1]];
    let busy = Load { running: Some(8), ..fresh() };
    let second = NOW.plus_micros(1_000_000);
    pool.install_loads(&loads(1, 2_000, &[busy, Load { age_ms: Some(1_000), ..busy }]), second).unwrap();
    for id in ids {
        pool.request_sent(id, second.plus_micros(100_000));
    }
    pool.confirm(second.plus_micros(300_000));
    assert_eq!(ids.map(|id| unseen(&pool, id)), [0, 1]);
}

#[test]
fn old_loads_make_every_endpoint_stale() {
    let pool = pool(&[1]);
    let endpoint = pool.endpoint(pool.members()[0]).unwrap();
    assert_eq!(pool.availability(endpoint, NOW.plus_micros(10), 10), Availability::Fresh);
    assert_eq!(pool.availability(endpoint, NOW.plus_micros(11), 10), Availability::Stale);
}

#[test]
fn an_endpoint_that_the_sidecar_saw_come_back_is_no_longer_ejected() {
    let mut pool = pool(&[1]);
    let id = pool.members()[0];
    let at = |millis: u64| NOW.plus_micros(millis * 1_000);
    let standing = |pool: &Pool, millis| pool.endpoint(id).unwrap().health().standing(at(millis));
    assert!(!pool.request_failed(id, at(1), at(1)));
    assert!(pool.request_failed(id, at(2), at(2)));
    pool.install_loads(&loads(1, 1_100, &[fresh()]), at(100)).unwrap();
    assert_eq!(standing(&pool, 100), Standing::Ejected, "loads in which nothing changed bring nobody back");
    pool.install_loads(&loads(1, 1_200, &[Load { state: State::Stale, age_ms: Some(2_000), ..fresh() }]), at(200))
        .unwrap();
    pool.install_loads(&loads(1, 1_300, &[fresh()]), at(300)).unwrap();
    assert_eq!(standing(&pool, 300), Standing::Good);
}

#[test]
fn an_engine_that_restarted_between_two_polls_is_no_longer_ejected() {
    let started = |started_at_ms| Load { started_at_ms: Some(started_at_ms), ..fresh() };
    // Pages without a start time still have counters, which fell.
    let counted = |incarnation| Load { incarnation, ..fresh() };
    for [before, after] in [[started(5), started(6)], [counted(0), counted(1)]] {
        let mut pool = pool(&[1]);
        let id = pool.members()[0];
        pool.install_loads(&loads(1, 1_100, &[before]), NOW).unwrap();
        pool.request_failed(id, NOW, NOW);
        pool.request_failed(id, NOW, NOW);
        let later = NOW.plus_micros(100_000);
        pool.install_loads(&loads(1, 1_200, &[after]), later).unwrap();
        assert_eq!(pool.endpoint(id).unwrap().health().standing(later), Standing::Good);
    }
}

/// What the page at that place of the sidecar's time makes of requests that are in flight: those on the page are not counted again.
#[test]
fn pages_are_told_apart_when_the_clock_of_the_sidecar_steps_back() {
    let mut pool = pool(&[1]);
    let id = pool.members()[0];
    let at = |millis: u64| NOW.plus_micros(millis * 1_000);
    (0..4).for_each(|_| assert!(!pool.request_sent(id, at(10))));
    let busy = Load { running: Some(4), ..fresh() };
    // An hour back, and the next page a second later.
    pool.install_loads(&loads(1, 3_600_000, &[busy]), at(100)).unwrap();
    assert_eq!(pool.endpoint(id).unwrap().requests(), Some(4));
    (0..4).for_each(|_| pool.request_finished(id, at(10), false, at(500)));
    (0..2).for_each(|_| assert!(!pool.request_sent(id, at(600))));
    pool.install_loads(&loads(1, 1_000, &[Load { running: Some(5), ..fresh() }]), at(1_000)).unwrap();
    assert_eq!(pool.endpoint(id).unwrap().requests(), Some(5), "two of them are this proxy's");
}

#[test]
fn a_sidecar_that_restarted_counts_restarts_of_engines_anew() {
    let mut pool = pool(&[1]);
    let id = pool.members()[0];
    let incarnation = |pool: &Pool| pool.endpoint(id).unwrap().incarnation();
    let counted = |incarnation| Load { incarnation, ..fresh() };
    pool.install_loads(&loads(1, 1_100, &[counted(3)]), NOW).unwrap();
    let before = incarnation(&pool);
    let mut other = membership(1, &[1]);
    other.epoch = 2;
    pool.install_membership(&other, "p");
    let of_other = |load| Loads { epoch: 2, ..loads(1, 1_200, &[load]) };
    // It has read no page yet.
    pool.install_loads(&of_other(Load::default()), NOW.plus_micros(50_000)).unwrap();
    pool.install_loads(&of_other(counted(0)), NOW.plus_micros(100_000)).unwrap();
    assert_eq!(incarnation(&pool), before, "the engine is the one that it was");
    pool.install_loads(&of_other(counted(1)), NOW.plus_micros(150_000)).unwrap();
    assert_ne!(incarnation(&pool), before);
}
