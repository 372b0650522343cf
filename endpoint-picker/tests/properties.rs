//! What holds of every pick, whatever the pool, and of every endpoint's health, whatever the order in which its answers are reported.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: a failure here is the test's failure"
)]
#![cfg(not(target_arch = "wasm32"))]

use std::collections::BTreeSet;
use std::net::SocketAddr;

use endpoint_picker::Timestamp;
use endpoint_picker::pool::{EndpointId, Pool, SUSPECT_MICROS, Standing};
use endpoint_picker::rng::Rng;
use endpoint_picker::scheduling::{
    ActiveRequests, Decision, Failure, Observation, PickRequest, Picker, Profile, Reason, Scheduler, Scorer,
};
use proptest::prelude::*;
use snapshot::{EndpointIdentity, Load, Loads, Membership, PoolMembers, State};

const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);
const FAILED: Observation = Observation::Failed(Failure::NoAnswer);

/// One endpoint: its load, the moments before now, in microseconds, at which requests were sent that failed or were served well, and what
/// the other workers have in flight.
#[derive(Clone, Debug)]
struct Member {
    load: Load,
    history: Vec<(u64, bool)>,
    in_flight: u32,
}

fn members() -> impl Strategy<Value = Vec<Member>> {
    let state = prop_oneof![
        4 => Just(State::Fresh),
        2 => Just(State::Stale),
        1 => Just(State::Unknown),
        1 => Just(State::Sleeping),
        1 => Just(State::Unready),
    ];
    let signals = (
        state,
        proptest::option::of(0_u64..20_000),
        proptest::option::of(0_u32..50),
        proptest::option::of(0_u32..200),
        proptest::option::of(0.0..=1.0),
    );
    let load = signals.prop_map(|(state, age_ms, waiting, running, kv_cache_usage)| Load {
        state,
        age_ms,
        waiting,
        running,
        kv_cache_usage,
        ..Load::default()
    });
    let history = prop::collection::vec((0_u64..40_000_000, prop::bool::weighted(0.3)), 0..4);
    let member = (load, history, 0_u32..40).prop_map(|(load, history, in_flight)| Member { load, history, in_flight });
    prop::collection::vec(member, 0..12)
}

fn membership(version: u64, hosts: impl Iterator<Item = usize>) -> Membership {
    let identity = |host| EndpointIdentity::unnamed(SocketAddr::from(([10, 0, 0, u8::try_from(host).unwrap()], 8000)));
    let pool = PoolMembers { name: "p".into(), endpoints: hosts.map(identity).collect(), ..PoolMembers::default() };
    Membership { epoch: 1, version, pools: vec![pool] }
}

fn pool(members: &[Member]) -> Pool {
    let mut pool = Pool::default();
    // One more than there are: it has left.
    pool.install_membership(&membership(1, 0..=members.len()), "p");
    pool.install_membership(&membership(2, 0..members.len()), "p");
    let endpoints = members.iter().map(|member| member.load).collect();
    let loads = Loads { epoch: 1, membership_version: 2, captured_at_ms: 1_000_000, endpoints, ..Loads::default() };
    pool.install_loads(&loads, NOW).unwrap();
    pool.set_others_in_flight(members.iter().map(|member| (member.in_flight, 0)));
    for (id, member) in pool.members().to_vec().into_iter().zip(members) {
        let mut history = member.history.clone();
        history.sort_unstable_by_key(|&(ago, _)| std::cmp::Reverse(ago));
        for (ago, is_good) in history {
            let at = NOW.minus_micros(ago);
            observe(&mut pool, id, is_good, at, at);
        }
    }
    pool
}

fn observe(pool: &mut Pool, id: EndpointId, is_good: bool, sent_at: Timestamp, now: Timestamp) -> bool {
    let good = Observation::Finished { usage: Default::default(), after_micros: 0 };
    Scheduler::default().observe(pool, id, if is_good { &good } else { &FAILED }, sent_at, now)
}

fn profile(picker: Picker, max_excluded_percent: u8) -> Profile {
    let scorers = vec![
        (Scorer::Queue, 2.0),
        (Scorer::KvCacheUtilization, 2.0),
        (Scorer::ActiveRequests(ActiveRequests::DEFAULT), 1.0),
    ];
    Profile { scorers, picker, ranked: 3, max_snapshot_age_micros: 2_000_000, max_excluded_percent }
}

fn pick(pool: &Pool, profile: &Profile, seed: u64, now: Timestamp) -> (Vec<EndpointId>, Option<Reason>) {
    match Scheduler::default().pick(pool, profile, &PickRequest::default(), &mut Rng::new(seed), now) {
        Decision::Picked(ranked, reason) => (ranked.iter().collect(), Some(reason)),
        Decision::NoEndpoint => (Vec::new(), None),
    }
}

/// Those that no sidecar calls unready or asleep.
fn eligible(pool: &Pool) -> Vec<EndpointId> {
    let may_serve = |id: &EndpointId| {
        let state = pool.endpoint(*id).unwrap().load().state;
        !matches!(state, State::Sleeping | State::Unready)
    };
    pool.members().iter().copied().filter(may_serve).collect()
}

proptest! {
    #[test]
    fn a_pick_ranks_distinct_members_that_may_serve_and_never_nobody(
        members in members(), picker in 0_usize..3, percent in 0_u8..=100, seed in any::<u64>(), later in 0_u64..60_000_000,
    ) {
        let pool = pool(&members);
        let profile = profile(Picker::ALL[picker], percent);
        let now = NOW.plus_micros(later);
        let (ranked, reason) = pick(&pool, &profile, seed, now);
        let eligible = eligible(&pool);
        prop_assert!(ranked.iter().all(|id| eligible.contains(id)));
        prop_assert_eq!(ranked.is_empty(), eligible.is_empty());
        let distinct = ranked.iter().collect::<BTreeSet<_>>().len();
        let least = eligible.len() - eligible.len() * usize::from(percent) / 100;
        prop_assert!(distinct >= least.min(3), "{distinct} of {} ranked", eligible.len());
        // Where others take nothing at all, the list begins anew; else what Envoy knows beyond the pool is tried.
        let begins_anew = eligible.len() < pool.members().len() && !ranked.is_empty();
        prop_assert_eq!(ranked.len(), if begins_anew { 3 } else { distinct });
        prop_assert!(ranked.iter().zip(ranked.iter().skip(distinct)).all(|(first, again)| first == again));
        prop_assert_eq!((ranked, reason), pick(&pool, &profile, seed, now), "the seed decides");
    }

    #[test]
    fn at_least_the_share_of_those_that_may_serve_can_be_ranked(members in members(), percent in 0_u8..=100) {
        let pool = pool(&members);
        let profile = profile(Picker::Random, percent);
        let eligible = eligible(&pool).len();
        let least = eligible - eligible * usize::from(percent) / 100;
        let seen: BTreeSet<_> = (0..200).flat_map(|seed| pick(&pool, &profile, seed, NOW).0).collect();
        // Those that failed are ranked behind all others, and so are not seen where the others fill the list.
        let is_last = |id: &EndpointId| pool.endpoint(*id).unwrap().health().standing(NOW) != Standing::Good;
        let held_back = pool.members().iter().filter(|id| is_last(id)).count();
        prop_assert!(seen.len() + held_back >= least, "{} of {eligible}, {held_back} held back", seen.len());
    }

    #[test]
    fn equals_that_are_stale_or_fresh_all_come_first_now_and_then(ages in prop::collection::vec(any::<bool>(), 1..9)) {
        let members: Vec<_> = ages
            .iter()
            .map(|&is_fresh| Member {
                load: Load {
                    state: if is_fresh { State::Fresh } else { State::Stale },
                    age_ms: Some(if is_fresh { 0 } else { 3_000 }),
                    waiting: Some(0),
                    running: Some(0),
                    kv_cache_usage: Some(0.0),
                    ..Load::default()
                },
                history: Vec::new(),
                in_flight: 0,
            })
            .collect();
        let pool = pool(&members);
        let profile = profile(Picker::MaxScore, 50);
        let first: BTreeSet<_> = (0..300).map(|seed| pick(&pool, &profile, seed, NOW).0[0]).collect();
        prop_assert!(first.len() >= ages.len().div_ceil(2), "{} of {} come first", first.len(), ages.len());
    }

    /// As requests pile up, a silent engine is taken sooner or later, and others too.
    #[test]
    fn a_silent_engine_takes_some_requests_and_not_all(
        others in prop::collection::vec((0_u32..10, 0.0..=0.9), 2..6), seed in any::<u64>(),
    ) {
        let load = |waiting, kv_cache_usage| Load {
            state: State::Fresh, age_ms: Some(0), waiting, running: waiting, kv_cache_usage, ..Load::default()
        };
        let member = |load| Member { load, history: Vec::new(), in_flight: 0 };
        let mut members: Vec<_> =
            others.iter().map(|&(waiting, usage)| member(load(Some(waiting), Some(usage)))).collect();
        members.push(member(load(None, None)));
        let mut pool = pool(&members);
        let profile = profile(Picker::MaxScore, 50);
        let mut taken = vec![0; members.len()];
        for round in 0..200 {
            let (ranked, _) = pick(&pool, &profile, seed.wrapping_add(round), NOW);
            let place = pool.members().iter().position(|id| *id == ranked[0]).unwrap();
            taken[place] += 1;
            pool.set_others_in_flight(taken.iter().map(|&requests| (requests, 0)));
        }
        let silent = taken[members.len() - 1];
        prop_assert!((1..200).contains(&silent), "{taken:?}");
    }

    /// Reports of successes and of at most one failure may arrive in any order: only when the requests were sent matters. (A second
    /// failure ejects, and from then on it matters what is known at that moment.)
    #[test]
    fn the_order_of_reports_does_not_matter_while_nothing_is_ejected(
        mut good in prop::collection::vec(0_u64..1_000_000, 0..6), bad in 0_u64..1_000_000, order in any::<prop::sample::Index>(),
        rotation in any::<prop::sample::Index>(),
    ) {
        good.retain(|&at| at != bad);
        let member = Member {
            load: Load { state: State::Fresh, age_ms: Some(2_000), ..Load::default() }, history: Vec::new(), in_flight: 0,
        };
        let mut reports: Vec<_> = good.iter().map(|&at| (at, true)).collect();
        reports.insert(order.index(reports.len() + 1), (bad, false));
        let standing = |reports: &[(u64, bool)]| {
            let mut pool = pool(std::slice::from_ref(&member));
            let id = pool.members()[0];
            for &(at, is_good) in reports {
                let is_ejected = observe(&mut pool, id, is_good, NOW.plus_micros(at), NOW.plus_micros(1_000_000));
                assert!(!is_ejected, "one failure ejects nobody");
            }
            pool.endpoint(id).unwrap().health().standing(NOW.plus_micros(1_000_001))
        };
        let is_newest = good.iter().all(|&at| at < bad);
        let expected = if is_newest { Standing::Suspect } else { Standing::Good };
        prop_assert_eq!(standing(&reports), expected);
        let middle = rotation.index(reports.len());
        reports.rotate_left(middle);
        prop_assert_eq!(standing(&reports), expected);
        reports.reverse();
        prop_assert_eq!(standing(&reports), expected);
    }

    /// A failure of a request that was sent before one that was served well says nothing, however many there are.
    #[test]
    fn failures_older_than_a_success_change_nothing(bad in prop::collection::vec(0_u64..1_000_000, 1..8), later in 0_u64..5_000_000) {
        let member = Member { load: Load::default(), history: vec![(0, true)], in_flight: 0 };
        let mut pool = pool(&[member]);
        let id = pool.members()[0];
        for before in bad {
            prop_assert!(!observe(&mut pool, id, false, NOW.minus_micros(before + 1), NOW.plus_micros(later)));
        }
        prop_assert_eq!(pool.endpoint(id).unwrap().health().standing(NOW.plus_micros(later)), Standing::Good);
    }

    #[test]
    fn two_failures_in_a_row_eject_and_one_does_not(first in 0_u64..1_000_000, second in 0_u64..1_000_000) {
        let member = Member { load: Load::default(), history: Vec::new(), in_flight: 0 };
        let mut pool = pool(&[member]);
        let id = pool.members()[0];
        let now = NOW.plus_micros(1_000_000);
        prop_assert!(!observe(&mut pool, id, false, NOW.plus_micros(first), now));
        prop_assert_eq!(pool.endpoint(id).unwrap().health().standing(now.plus_micros(SUSPECT_MICROS)), Standing::OnTrial);
        prop_assert!(observe(&mut pool, id, false, NOW.plus_micros(second), now));
        prop_assert_eq!(pool.endpoint(id).unwrap().health().standing(now), Standing::Ejected);
    }
}
