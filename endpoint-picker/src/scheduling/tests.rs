use alloc::string::String;
use alloc::vec;
use core::net::SocketAddr;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use snapshot::{EndpointIdentity, Load, Loads, Membership, PoolMembers, ServedModel, State};

use crate::pool::EJECT_AFTER_FAILURES;

use super::*;

const MAX_AGE: u64 = 2_000_000;
const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 8000))
}

fn load(waiting: u32, kv_cache_usage: f64) -> Load {
    Load {
        state: State::Fresh,
        age_ms: Some(0),
        waiting: Some(waiting),
        running: Some(0),
        kv_cache_usage: Some(kv_cache_usage),
        ..Load::default()
    }
}

fn old(load: Load, age_ms: u64) -> Load {
    Load { state: State::Stale, age_ms: Some(age_ms), ..load }
}

/// Endpoints 1, 2, … with these loads.
fn pool(loads: &[Load]) -> Pool {
    let hosts = 1..=u8::try_from(loads.len()).unwrap();
    let endpoints = hosts.map(|host| EndpointIdentity::unnamed(address(host))).collect();
    let pools = vec![PoolMembers { name: "p".into(), endpoints, ..PoolMembers::default() }];
    let mut pool = Pool::default();
    pool.install_membership(&Membership { epoch: 1, version: 1, pools }, "p");
    let loads = Loads { epoch: 1, membership_version: 1, endpoints: loads.to_vec(), ..Loads::default() };
    pool.install_loads(&Loads { captured_at_ms: 1_000_000, ..loads }, NOW).unwrap();
    pool
}

fn id(pool: &Pool, last: u8) -> EndpointId {
    pool.find(address(last)).unwrap()
}

fn profile(picker: Picker) -> Profile {
    let scorers = vec![
        (Scorer::Queue, 2.0),
        (Scorer::KvCacheUtilization, 2.0),
        (Scorer::ActiveRequests(ActiveRequests::DEFAULT), 1.0),
    ];
    Profile { scorers, picker, ranked: 3, max_snapshot_age_micros: MAX_AGE, max_excluded_percent: 50 }
}

fn pick_with(pool: &Pool, profile: &Profile, seed: u64, now: Timestamp) -> (Vec<u8>, Option<Reason>) {
    match Scheduler::default().pick(pool, profile, &PickRequest::default(), &mut Rng::new(seed), now) {
        Decision::Picked(ranked, reason) => {
            let last = |id| match pool.endpoint(id).unwrap().identity().address {
                SocketAddr::V4(address) => address.ip().octets()[3],
                SocketAddr::V6(_) => 0,
            };
            (ranked.iter().map(last).collect(), Some(reason))
        }
        Decision::NoEndpoint => (Vec::new(), None),
    }
}

fn pick(pool: &Pool, seed: u64) -> (Vec<u8>, Option<Reason>) {
    pick_with(pool, &profile(Picker::MaxScore), seed, NOW)
}

/// How often each endpoint comes first, over 200 requests that are all in flight at once.
fn shares(pool: &mut Pool) -> Vec<usize> {
    let mut shares = vec![0; pool.members().len() + 1];
    for seed in 0..200 {
        let first = pick(pool, seed).0[0];
        pool.request_sent(id(pool, first), NOW);
        shares[usize::from(first)] += 1;
    }
    shares.split_off(1)
}

#[test]
fn the_least_loaded_endpoint_comes_first() {
    let pool = pool(&[load(5, 0.5), load(0, 0.1), load(2, 0.2), load(9, 0.9)]);
    assert_eq!(pick(&pool, 1), (vec![2, 3, 1], Some(Reason::BestScore)));
}

#[test]
fn the_same_seed_gives_the_same_answer_and_ties_are_spread() {
    let pool = pool(&[load(0, 0.0); 4]);
    let mut first = [0_u32; 5];
    for seed in 0..400 {
        let (ranked, reason) = pick(&pool, seed);
        assert_eq!((ranked.clone(), reason), pick(&pool, seed));
        assert_eq!(reason, Some(Reason::Tie));
        first[usize::from(ranked[0])] += 1;
        let mut unique = ranked;
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), 3, "a ranked list names nobody twice");
    }
    assert!(first[1..].iter().all(|&count| (60..140).contains(&count)), "{first:?}");
}

#[test]
fn the_queue_counts_by_its_place_among_the_candidates_as_in_the_endpoint_picker() {
    // One request more than the others is the whole scale: it outweighs half of the KV cache, and no more than that.
    let mut fuller = pool(&[load(0, 0.05), load(0, 0.45)]);
    fuller.request_sent(id(&fuller, 1), NOW);
    assert_eq!(pick(&fuller, 1).0, [2, 1]);
    let far_longer = pool(&[load(9, 0.1), load(0, 0.6), load(1, 0.1)]);
    assert_eq!(pick(&far_longer, 1).0, [3, 2, 1], "one of nine is a ninth of the scale");
}

#[test]
fn a_burst_is_spread_though_one_endpoint_looked_best() {
    let shares = shares(&mut pool(&[load(0, 0.0), load(1, 0.05), load(1, 0.05)]));
    assert!(shares.iter().all(|&share| (50..90).contains(&share)), "{shares:?}");
}

#[test]
fn a_frozen_engine_loses_to_one_that_works() {
    // Its page says for ever that it is idle; the other's goes on changing.
    let mut pool = pool(&[load(0, 0.0), load(3, 0.2)]);
    for generation in 2..40_u32 {
        let endpoints = vec![load(0, 0.0), load(3 + generation % 2, 0.2)];
        let loads = Loads { epoch: 1, membership_version: 1, endpoints, ..Loads::default() };
        let now = NOW.plus_micros(u64::from(generation) * 50_000);
        pool.install_loads(&Loads { captured_at_ms: 1_000_000 + u64::from(generation) * 50, ..loads }, now).unwrap();
        if pick_with(&pool, &profile(Picker::MaxScore), u64::from(generation), now).0[0] == 1 {
            pool.request_sent(id(&pool, 1), now);
        }
    }
    assert!(pool.endpoint(id(&pool, 1)).unwrap().in_flight().own() <= 6);
}

#[test]
fn without_any_fresh_load_requests_in_flight_decide_and_old_loads_between_equals() {
    let mut pool = pool(&[old(load(0, 0.0), 3_000), old(load(50, 0.9), 3_000), old(load(3, 0.1), 3_000)]);
    pool.request_sent(id(&pool, 1), NOW);
    assert_eq!(pick(&pool, 1), (vec![3, 2, 1], Some(Reason::InFlightOnly)));
}

#[test]
fn loads_that_the_sidecar_no_longer_confirms_decide_nothing() {
    let mut pool = pool(&[load(0, 0.0), load(50, 0.9), load(3, 0.1)]);
    pool.request_sent(id(&pool, 1), NOW);
    let later = NOW.plus_micros(MAX_AGE + 1);
    let first = |seed| {
        let (ranked, reason) = pick_with(&pool, &profile(Picker::MaxScore), seed, later);
        assert_eq!((ranked[2], reason), (1, Some(Reason::InFlightOnly)));
        ranked[0]
    };
    let second = (0..100).filter(|&seed| first(seed) == 2).count();
    assert!((30..70).contains(&second), "{second}");
}

#[test]
fn stale_endpoints_are_left_out_while_half_the_pool_is_fresh() {
    let pool = pool(&[load(9, 0.9), load(9, 0.9), old(load(0, 0.0), 5_000), old(load(0, 0.0), 5_000)]);
    assert!((0..50).all(|seed| pick(&pool, seed).0[..2].iter().all(|&last| last <= 2)));
}

#[test]
fn a_fresh_minority_does_not_take_everything() {
    let shares = shares(&mut pool(&[
        load(0, 0.0),
        old(load(0, 0.0), 5_000),
        old(load(0, 0.0), 5_000),
        old(load(0, 0.0), 5_000),
    ]));
    assert!(shares.iter().all(|&share| (35..70).contains(&share)), "{shares:?}");
}

#[test]
fn the_last_load_of_a_stale_endpoint_counts_less_the_older_it_is() {
    let pressed = |age| pool(&[load(0, 0.2), old(load(40, 0.9), age), old(load(0, 0.2), age)]);
    let first = |pool: &Pool| (0..60).filter(|&seed| pick(pool, seed).0[0] == 2).count();
    assert_eq!(first(&pressed(2_500)), 0, "it was full two seconds ago");
    let forgotten = first(&pressed(600_000));
    assert!((5..40).contains(&forgotten), "ten minutes say nothing: {forgotten}");
}

#[test]
fn engines_without_signals_are_ranked_by_what_is_in_flight() {
    let silent = Load { state: State::Fresh, age_ms: Some(0), ..Load::default() };
    let mut silent_pool = pool(&[silent; 3]);
    for last in [1, 1, 2] {
        silent_pool.request_sent(id(&silent_pool, last), NOW.minus_micros(1_500_000));
    }
    assert_eq!(pick(&silent_pool, 7).0, [3, 2, 1]);
}

#[test]
fn a_silent_engine_among_others_is_neither_idle_nor_starved() {
    let silent = Load { state: State::Fresh, age_ms: Some(0), ..Load::default() };
    let shares = shares(&mut pool(&[load(2, 0.4), load(3, 0.5), silent]));
    assert!(shares.iter().all(|&share| (45..90).contains(&share)), "{shares:?}");
    let idle_beside_it = pool(&[load(0, 0.0), load(9, 0.9), load(9, 0.9), silent]);
    assert_eq!(pick(&idle_beside_it, 1).0[0], 1, "a signal that is missing is not the best one");
}

#[test]
fn unready_and_sleeping_endpoints_are_never_picked() {
    let unready = Load { state: State::Unready, ..load(0, 0.0) };
    let sleeping = Load { state: State::Sleeping, ..load(0, 0.0) };
    assert_eq!(pick(&pool(&[unready, sleeping, load(99, 1.0)]), 1).0, [3, 3, 3], "each attempt goes there");
    assert_eq!(pick(&pool(&[unready, load(0, 0.0), load(99, 1.0)]), 1).0, [2, 3, 2]);
    assert_eq!(
        pick(&pool(&[load(0, 0.0), load(99, 1.0)]), 1).0,
        [1, 2],
        "where all can serve, Envoy's fallback may know others"
    );
    assert_eq!(pick(&pool(&[unready, sleeping]), 1), (vec![], None));
}

#[test]
fn an_endpoint_that_failed_comes_last_and_then_not_at_all() {
    let mut pool = pool(&[load(0, 0.0), load(20, 0.8), load(20, 0.8)]);
    let failing = id(&pool, 1);
    pool.request_failed(failing, NOW, NOW);
    assert_eq!(pick(&pool, 1).0[2], 1);
    pool.request_failed(failing, NOW, NOW);
    let two = Profile { ranked: 2, ..profile(Picker::MaxScore) };
    assert!(!pick_with(&pool, &two, 1, NOW).0.contains(&1));
}

/// Where the list ends, Envoy tries anybody, also the one that has just failed.
#[test]
fn who_is_left_out_is_the_last_resort_of_a_retry() {
    let mut pool = pool(&[load(0, 0.0), load(20, 0.8), old(load(0, 0.0), 5_000)]);
    for _ in 0..EJECT_AFTER_FAILURES {
        pool.request_failed(id(&pool, 1), NOW, NOW);
    }
    let list = |picker, ranked| pick_with(&pool, &Profile { ranked, ..profile(picker) }, 1, NOW).0;
    assert_eq!(list(Picker::MaxScore, 3)[2], 1);
    assert_eq!(list(Picker::MaxScore, 1).len(), 1);
    let sole = self::pool(&[load(0, 0.0)]);
    assert_eq!(pick(&sole, 1).0, [1]);
    let mut two = self::pool(&[load(0, 0.0), load(20, 0.8)]);
    for _ in 0..EJECT_AFTER_FAILURES {
        two.request_failed(id(&two, 1), NOW, NOW);
    }
    for picker in [Picker::MaxScore, Picker::Random, Picker::WeightedRandom] {
        assert_eq!(pick_with(&two, &profile(picker), 1, NOW).0, [2, 1], "{picker:?}");
    }
    // Those who cannot serve the model or are not in the subset are no resort.
    listing(&mut two, &[Some(&[1]), Some(&[0])]);
    let asking = PickRequest { target_model: "a", ..PickRequest::default() };
    assert_eq!(firsts(&two, &asking, NOW), [2]);
}

#[test]
fn ejection_never_leaves_out_more_than_half() {
    let mut pool = pool(&[load(0, 0.0); 4]);
    for last in 1..=4 {
        for _ in 0..2 {
            let at = NOW.plus_micros(u64::from(last));
            pool.request_failed(id(&pool, last), at, at);
        }
    }
    let now = NOW.plus_micros(10);
    let mut ranked = pick_with(&pool, &profile(Picker::MaxScore), 1, now).0;
    ranked.sort_unstable();
    assert_eq!(ranked, [1, 2, 3], "those whose ejection ends first");
    assert_eq!(pick_with(&pool, &profile(Picker::MaxScore), 1, now).0[2], 3, "a retry's last resort");
}

#[test]
fn a_random_pick_ignores_load() {
    let pool = pool(&[load(0, 0.0), load(99, 1.0)]);
    let second = (0..200).filter(|&seed| pick_with(&pool, &profile(Picker::Random), seed, NOW).0[0] == 2).count();
    assert!((60..140).contains(&second), "{second}");
}

/// How often each of three endpoints with 0, 1 and 2 of 2 requests waiting comes first and second, and whether the third ever does.
fn drawn(profile: &Profile) -> ([usize; 3], [usize; 3]) {
    let pool = pool(&[load(0, 0.0), load(1, 0.0), load(2, 0.0)]);
    let (mut first, mut second) = ([0; 3], [0; 3]);
    for seed in 0..3_000 {
        let (ranked, reason) = pick_with(&pool, profile, seed, NOW);
        assert_eq!(reason, Some(Reason::Random));
        first[usize::from(ranked[0]) - 1] += 1;
        second[usize::from(ranked[1]) - 1] += 1;
    }
    (first, second)
}

#[test]
fn a_weighted_draw_takes_each_in_proportion_to_its_score_and_nobody_of_score_0_before_others() {
    let mut profile = profile(Picker::WeightedRandom);
    profile.scorers = vec![(Scorer::Queue, 1.0)];
    let (first, second) = drawn(&profile);
    assert!((1_900..2_100).contains(&first[0]) && (900..1_100).contains(&first[1]), "2 : 1 : 0, {first:?}");
    assert_eq!((first[2], second[2]), (0, 0));
    // The weight is part of the score, so a factor for all changes nothing.
    profile.scorers = vec![(Scorer::Queue, 1e-3)];
    assert_eq!(drawn(&profile).0, first);
}

#[test]
fn a_weighted_draw_among_scores_of_0_is_even() {
    let mut profile = profile(Picker::WeightedRandom);
    profile.scorers = vec![(Scorer::SessionAffinity, 1.0)];
    let (first, _) = drawn(&profile);
    assert!(first.iter().all(|count| (900..1_100).contains(count)), "{first:?}");
}

#[test]
fn a_weighted_draw_without_any_fresh_load_takes_the_fewest_in_flight() {
    let mut pool = pool(&[old(load(0, 0.0), 3_000), old(load(0, 0.0), 3_000)]);
    pool.request_sent(id(&pool, 1), NOW);
    let profile = profile(Picker::WeightedRandom);
    assert!((0..50).all(|seed| pick_with(&pool, &profile, seed, NOW) == (vec![2, 1], Some(Reason::InFlightOnly))));
}

#[test]
fn cold_prompts_go_round() {
    let pool = pool(&[load(0, 0.0); 4]);
    let mut profile = profile(Picker::MaxScore);
    profile.scorers = vec![(Scorer::NoHitLru(NoHitLru::DEFAULT), 1.0)];
    let (mut scheduler, mut rng) = (Scheduler::default(), Rng::new(1));
    let mut first = || match scheduler.pick(&pool, &profile, &PickRequest::default(), &mut rng, NOW) {
        Decision::Picked(ranked, _) => ranked.first(),
        Decision::NoEndpoint => panic!("there are endpoints"),
    };
    let round: Vec<_> = (0..4).map(|_| first()).collect();
    let mut distinct = round.clone();
    distinct.sort_unstable();
    assert_eq!(distinct, pool.members());
    assert_eq!((0..4).map(|_| first()).collect::<Vec<_>>(), round, "the same order again");
}

#[test]
fn a_session_keeps_its_endpoint_though_no_load_is_confirmed() {
    let pool = pool(&[load(0, 0.0), load(50, 0.9), load(3, 0.1)]);
    let mut profile = profile(Picker::MaxScore);
    profile.scorers.push((Scorer::SessionAffinity, 1.0));
    let request = PickRequest { session: Some(id(&pool, 2)), ..PickRequest::default() };
    let later = NOW.plus_micros(MAX_AGE + 1);
    for seed in 0..50 {
        let decision = Scheduler::default().pick(&pool, &profile, &request, &mut Rng::new(seed), later);
        let Decision::Picked(ranked, Reason::InFlightOnly) = decision else { panic!("{decision:?}") };
        assert_eq!(Some(ranked.first()), request.session);
    }
}

/// The endpoints 1, 2, … of `pool` list these models of `[a, b, a with 1000 tokens]`.
fn listing(pool: &mut Pool, lists: &[Option<&[u32]>]) {
    let endpoints = lists.iter().zip(1..).map(|(list, host)| EndpointIdentity {
        models: list.map(<[u32]>::to_vec),
        ..EndpointIdentity::unnamed(address(host))
    });
    let model = |name: &str, max_model_len| ServedModel { name: name.into(), parent: String::new(), max_model_len };
    let members = PoolMembers {
        name: "p".into(),
        endpoints: endpoints.collect(),
        models: vec![model("a", Some(100_000)), model("b", None), model("a", Some(1_000))],
        ..PoolMembers::default()
    };
    pool.install_membership(&Membership { epoch: 1, version: 2, pools: vec![members] }, "p");
}

/// Every endpoint that comes first for some seed.
fn firsts(pool: &Pool, request: &PickRequest<'_>, now: Timestamp) -> Vec<u8> {
    let mut firsts: Vec<u8> = (0..50)
        .filter_map(|seed| {
            let profile = profile(Picker::Random);
            match Scheduler::default().pick(pool, &profile, request, &mut Rng::new(seed), now) {
                Decision::Picked(ranked, _) => Some(ranked),
                Decision::NoEndpoint => None,
            }
        })
        .map(|ranked| match pool.endpoint(ranked.first()).unwrap().identity().address {
            SocketAddr::V4(address) => address.ip().octets()[3],
            SocketAddr::V6(_) => 0,
        })
        .collect();
    firsts.sort_unstable();
    firsts.dedup();
    firsts
}

#[test]
fn a_model_is_asked_only_of_those_that_serve_it() {
    let mut pool = pool(&[load(0, 0.0); 4]);
    listing(&mut pool, &[Some(&[0]), Some(&[0, 1]), Some(&[1]), None]);
    let asking = |target_model| PickRequest { target_model, ..PickRequest::default() };
    assert_eq!(firsts(&pool, &asking("a"), NOW), [1, 2, 4]);
    assert_eq!(firsts(&pool, &asking("b"), NOW), [2, 3, 4]);
    assert_eq!(firsts(&pool, &asking("c"), NOW), [4], "whose list nobody has read");
    assert_eq!(firsts(&pool, &asking(""), NOW), [1, 2, 3, 4]);
    let mut known = pool.clone();
    listing(&mut known, &[Some(&[0]), Some(&[]), Some(&[0]), Some(&[0])]);
    assert_eq!(firsts(&known, &asking("b"), NOW), [1, 2, 3, 4], "passed on although nobody serves it");
    // The others are no way out when those that serve it are ejected: the floor holds among these.
    for host in [2, 3, 4] {
        for sent in 0..EJECT_AFTER_FAILURES {
            pool.request_failed(id(&pool, host), NOW.plus_micros(u64::from(sent)), NOW);
        }
    }
    assert!(firsts(&pool, &asking("b"), NOW).iter().all(|host| [2, 3, 4].contains(host)));
}

#[test]
fn a_long_prompt_goes_where_it_fits_as_long_as_somebody_takes_it() {
    let mut pool = pool(&[load(0, 0.0); 3]);
    listing(&mut pool, &[Some(&[2]), Some(&[0]), Some(&[2])]);
    let asking = |prompt_bytes, max_tokens| PickRequest {
        target_model: "a",
        prompt_bytes,
        max_tokens,
        ..PickRequest::default()
    };
    assert_eq!(firsts(&pool, &asking(4_000, None), NOW), [1, 2, 3]);
    assert_eq!(firsts(&pool, &asking(4_004, None), NOW), [2]);
    assert_eq!(firsts(&pool, &asking(400, Some(1_000)), NOW), [2], "the answer needs room too");
    assert_eq!(firsts(&pool, &asking(4_000_000, None), NOW), [1, 2, 3], "it is too long for all");
    for sent in 0..EJECT_AFTER_FAILURES {
        pool.request_failed(id(&pool, 2), NOW.plus_micros(u64::from(sent)), NOW);
    }
    assert_eq!(firsts(&pool, &asking(4_004, None), NOW), [1, 3], "who could take it is ejected");
}

#[test]
fn a_frozen_engine_is_left_out_like_a_stale_one_and_within_the_same_floor() {
    let frozen = Load { state: State::Frozen, ..load(0, 0.0) };
    let some = pool(&[frozen, load(9, 0.9), load(9, 0.9)]);
    assert_eq!(firsts(&some, &PickRequest::default(), NOW), [2, 3]);
    let all = pool(&[frozen, frozen]);
    assert_eq!(firsts(&all, &PickRequest::default(), NOW), [1, 2], "somebody must take it");
}

#[test]
fn a_subset_confines_and_an_order_ranks() {
    let pool = pool(&[load(9, 0.9), load(0, 0.0), load(5, 0.5)]);
    for (list, expected) in [
        ("10.0.0.1", &[1][..]),
        ("10.0.0.1:8000, 10.0.0.3", &[1, 3]),
        ("10.0.0.2:9999", &[2]),
        ("10.0.0.9, nonsense", &[]),
        ("", &[]),
    ] {
        let subset = Subset::parse(list.as_bytes(), &pool);
        let request = PickRequest { subset: Some(&subset), ..PickRequest::default() };
        assert_eq!(firsts(&pool, &request, NOW), expected, "{list:?}");
    }
    let order = Subset::parse(b"10.0.0.3,10.0.0.1,10.0.0.2", &pool).as_order();
    let request = PickRequest { subset: Some(&order), ..PickRequest::default() };
    let Decision::Picked(ranked, _) =
        Scheduler::default().pick(&pool, &profile(Picker::MaxScore), &request, &mut Rng::new(1), NOW)
    else {
        panic!("all of them take traffic")
    };
    assert_eq!(ranked.iter().collect::<Vec<_>>(), [3, 1, 2].map(|host| id(&pool, host)));
}

#[test]
fn of_several_ports_at_one_ip_a_subset_means_the_one_it_names() {
    let addresses = [8000, 8001].map(|port| SocketAddr::from(([10, 0, 0, 1], port)));
    let endpoints = addresses.map(EndpointIdentity::unnamed).to_vec();
    let members = PoolMembers { name: "p".into(), endpoints, ..PoolMembers::default() };
    let mut pool = Pool::default();
    pool.install_membership(&Membership { epoch: 1, version: 1, pools: vec![members] }, "p");
    let places = |list: &str| {
        let subset = Subset::parse(list.as_bytes(), &pool);
        addresses.map(|address| subset.position(address).is_some())
    };
    assert_eq!(places("10.0.0.1:8001"), [false, true]);
    assert_eq!(places("10.0.0.1"), [true, true]);
    assert_eq!(places("10.0.0.1:80"), [true, true]);
    assert_eq!(places("[::1]:8000,::1"), [false, false]);
}

#[test]
fn the_only_endpoint_that_can_answer_is_tried_each_time_whatever_is_held_against_it() {
    let mut pool = pool(&[load(0, 0.0), load(0, 0.0), Load { state: State::Stale, ..load(99, 1.0) }]);
    let third = id(&pool, 3);
    for sent in 0..EJECT_AFTER_FAILURES {
        pool.request_failed(third, NOW.plus_micros(u64::from(sent)), NOW);
    }
    let request = PickRequest { pinned: Some(third), ..PickRequest::default() };
    let pick = |pool: &Pool, ranked| {
        let profile = Profile { ranked, ..profile(Picker::MaxScore) };
        Scheduler::default().pick(pool, &profile, &request, &mut Rng::new(1), NOW)
    };
    for ranked in 1..=MAX_RANKED {
        let Decision::Picked(list, Reason::Pinned) = pick(&pool, ranked) else { panic!("it is pinned") };
        assert_eq!(list.iter().collect::<Vec<_>>(), vec![third; ranked]);
    }
    listing(&mut pool, &[None, None]);
    let Decision::Picked(list, _) = pick(&pool, 3) else { panic!("two are left") };
    assert!(list.iter().all(|id| id != third), "it has left the pool");
}

#[test]
fn a_session_stays_where_it_was_unless_that_endpoint_is_not_to_be_picked() {
    let mut pool = pool(&[load(0, 0.0), load(0, 0.0), load(50, 0.9)]);
    let third = id(&pool, 3);
    let request = PickRequest { session: Some(third), ..PickRequest::default() };
    let first = |pool: &Pool| {
        let profile = profile(Picker::MaxScore);
        match Scheduler::default().pick(pool, &profile, &request, &mut Rng::new(1), NOW) {
            Decision::Picked(ranked, _) => ranked.first(),
            Decision::NoEndpoint => panic!("there are endpoints"),
        }
    };
    assert_eq!(first(&pool), third);
    pool.request_failed(third, NOW, NOW);
    assert_ne!(first(&pool), third, "it is suspect");
}

#[test]
fn saturation_is_the_mean_of_the_fuller_of_queue_and_cache() {
    let limits = Saturation { queue_depth: 5, kv_cache_usage: 0.8, staleness_micros: 200_000 };
    let level = |loads: &[Load], after| limits.level(&pool(loads), NOW.plus_micros(after));
    assert_eq!(level(&[load(0, 0.0)], 0), 0.0);
    assert_eq!(level(&[load(5, 0.0)], 0), 1.0);
    assert_eq!(level(&[load(0, 0.8)], 0), 1.0);
    assert_eq!(level(&[load(10, 0.0), load(0, 0.4)], 0), 1.25);
    assert_eq!(level(&[load(0, 0.0)], 200_001), 1.0, "old figures count as full");
    let mute = Load { waiting: None, kv_cache_usage: None, ..load(0, 0.0) };
    assert_eq!(level(&[mute, load(0, 0.0)], 0), 0.5);
    let unready = Load { state: State::Unready, ..load(0, 0.0) };
    assert_eq!(level(&[unready, load(5, 0.0)], 0), 1.0, "who takes no traffic does not count");
    assert_eq!(level(&[], 0), 1.0);
}

#[test]
fn a_request_has_a_taker_while_an_endpoint_that_serves_it_is_ready_and_awake() {
    let asleep = Load { state: State::Sleeping, ..load(0, 0.0) };
    let unready = Load { state: State::Unready, ..load(0, 0.0) };
    let frozen = Load { state: State::Frozen, ..load(50, 1.0) };
    let any = PickRequest::default();
    assert!(Scheduler::has_taker(&pool(&[asleep, frozen]), &any), "be it full and suspect");
    assert!(!Scheduler::has_taker(&pool(&[asleep, unready]), &any));
    assert!(!Scheduler::has_taker(&pool(&[]), &any));
    let pool = pool(&[asleep, load(0, 0.0)]);
    let only = Subset::parse(b"10.0.0.1:8000", &pool);
    assert!(!Scheduler::has_taker(&pool, &PickRequest { subset: Some(&only), ..any }));
    let pinned = |last| PickRequest { pinned: Some(id(&pool, last)), ..any };
    assert!(!Scheduler::has_taker(&pool, &pinned(1)), "nobody else can serve it");
    assert!(Scheduler::has_taker(&pool, &pinned(2)));
}

#[test]
fn a_session_stands_above_all_scores_unless_a_scorer_weighs_it() {
    let pool = pool(&[load(0, 0.0), load(5, 0.9)]);
    let request = PickRequest { session: Some(id(&pool, 2)), ..PickRequest::default() };
    let mut profile = profile(Picker::MaxScore);
    let first = |profile: &Profile| match Scheduler::default().pick(&pool, profile, &request, &mut Rng::new(1), NOW) {
        Decision::Picked(ranked, _) => ranked.first(),
        Decision::NoEndpoint => panic!("there are endpoints"),
    };
    assert_eq!(first(&profile), id(&pool, 2));
    profile.scorers.push((Scorer::SessionAffinity, 1.0));
    assert_eq!(first(&profile), id(&pool, 1), "queue and cache weigh more");
    profile.scorers.push((Scorer::SessionAffinity, 9.0));
    assert_eq!(first(&profile), id(&pool, 2));
}

#[test]
fn every_picker_keeps_the_order_of_a_subset() {
    let pool = pool(&[load(0, 0.0), load(1, 0.1), load(9, 0.9)]);
    let subset = Subset::parse(b"10.0.0.3:8000,10.0.0.1:8000,10.0.0.2:8000", &pool).as_order();
    let request = PickRequest { subset: Some(&subset), ..PickRequest::default() };
    for picker in Picker::ALL {
        for seed in 0..20 {
            let decision = Scheduler::default().pick(&pool, &profile(picker), &request, &mut Rng::new(seed), NOW);
            let Decision::Picked(ranked, _) = decision else { panic!("there are endpoints") };
            assert_eq!(ranked.iter().collect::<Vec<_>>(), [3, 1, 2].map(|last| id(&pool, last)), "{picker:?}");
        }
    }
}
