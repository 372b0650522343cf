use alloc::vec;
use alloc::vec::Vec;
use core::net::SocketAddr;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use snapshot::{EndpointIdentity, Load, Loads, Membership, PoolMembers, State};

use crate::openai::{PrefixMark, PromptDigest};
use crate::pool::{EndpointId, Pool};
use crate::scheduling::PickRequest;
use crate::scheduling::candidate::{AdapterState, Candidate};
use crate::scheduling::cold::ColdEndpoints;
use crate::scheduling::forecast::Outlook;
use crate::time::Timestamp;

use super::*;

const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);
const SILENT: Load = fresh(None, None, None);

const fn fresh(waiting: Option<u32>, running: Option<u32>, kv_cache_usage: Option<f64>) -> Load {
    Load {
        state: State::Fresh,
        age_ms: Some(0),
        waiting,
        running,
        kv_cache_usage,
        block_size: None,
        num_gpu_blocks: None,
        max_lora: None,
        started_at_ms: None,
        incarnation: 0,
    }
}

fn waiting(count: u32) -> Load {
    fresh(Some(count), Some(0), Some(0.0))
}

fn pages(loads: &[Load], captured_at_ms: u64) -> Loads {
    Loads { epoch: 1, membership_version: 1, captured_at_ms, endpoints: loads.to_vec(), ..Loads::default() }
}

/// A pool of some endpoints, and what scorers see of it.
struct Scene {
    pool: Pool,
    candidates: Vec<Candidate>,
    prompt: Option<PromptDigest>,
    session: Option<EndpointId>,
    cold: ColdEndpoints,
    outlooks: Vec<Outlook>,
}

impl Scene {
    fn new(loads: &[Load]) -> Self {
        let hosts = 1..=u8::try_from(loads.len()).unwrap();
        let identity = |host| EndpointIdentity::unnamed(SocketAddr::from(([10, 0, 0, host], 8000)));
        let members =
            PoolMembers { name: "p".into(), endpoints: hosts.map(identity).collect(), ..PoolMembers::default() };
        let mut pool = Pool::default();
        pool.install_membership(&Membership { epoch: 1, version: 1, pools: vec![members] }, "p");
        let endpoints = loads.to_vec();
        let loads = Loads { epoch: 1, membership_version: 1, captured_at_ms: 1_000_000, endpoints, ..Loads::default() };
        pool.install_loads(&loads, NOW).unwrap();
        let candidates = pool.members().iter().map(|&id| Candidate::new(id, false)).collect();
        let cold = ColdEndpoints::default();
        Self { pool, candidates, prompt: None, session: None, cold, outlooks: Vec::new() }
    }

    fn id(&self, place: usize) -> EndpointId {
        self.candidates[place].id
    }

    fn send(&mut self, place: usize, count: u32, at: Timestamp) {
        for _ in 0..count {
            assert!(!self.pool.request_sent(self.id(place), at), "no trial");
        }
    }

    /// Requests sent a second before the pages were made.
    fn with_in_flight(mut self, loads: &[Load], counts: &[u32]) -> Self {
        for (place, &count) in counts.iter().enumerate() {
            self.send(place, count, NOW.minus_micros(1_000_000));
        }
        self.pool.install_loads(&pages(loads, 1_000_100), NOW).unwrap();
        self
    }

    fn with_matches(mut self, end: u32, matched: &[u32]) -> Self {
        self.prompt =
            Some(PromptDigest { marks: vec![PrefixMark { hash: 1, end }], family: 1, ..PromptDigest::default() });
        for (candidate, &matched) in self.candidates.iter_mut().zip(matched) {
            candidate.matched_bytes = matched;
        }
        self
    }

    fn scores(&self, scorer: Scorer) -> Vec<f64> {
        self.weighted_scores(scorer, 1.0)
    }

    fn weighted_scores(&self, scorer: Scorer, weight: f64) -> Vec<f64> {
        let request = PickRequest { prompt: self.prompt.as_ref(), session: self.session, ..PickRequest::default() };
        let sight = Sight {
            pool: &self.pool,
            candidates: &self.candidates,
            request: &request,
            validity: Validity { now: NOW, max_age_micros: 2_000_000 },
            cold: &self.cold,
            outlooks: &self.outlooks,
        };
        let mut scores = vec![0.0; self.candidates.len()];
        scorer.add(&sight, weight, &mut Memory::default(), &mut scores);
        scores
    }
}

fn scores(scorer: Scorer, loads: &[Load]) -> Vec<f64> {
    Scene::new(loads).scores(scorer)
}

#[test]
fn the_queue_scores_between_the_most_and_the_fewest() {
    assert_eq!(scores(Scorer::Queue, &[waiting(10), waiting(5), waiting(0)]), [0.0, 0.5, 1.0]);
    assert_eq!(scores(Scorer::Queue, &[waiting(7), waiting(8)]), [1.0, 0.0], "one request is a whole score");
    assert_eq!(scores(Scorer::Queue, &[waiting(5), waiting(5)]), [1.0, 1.0], "all equal");
    assert_eq!(scores(Scorer::Queue, &[waiting(9)]), [1.0], "alone");
    assert_eq!(scores(Scorer::Queue, &[]), [0.0; 0]);
}

#[test]
fn running_requests_score_like_the_queue() {
    let running = |count| fresh(Some(0), Some(count), None);
    assert_eq!(scores(Scorer::RunningRequests, &[running(40), running(10), running(20)])[..2], [0.0, 1.0]);
    assert_eq!(scores(Scorer::RunningRequests, &[running(3), running(3)]), [1.0, 1.0]);
}

#[test]
fn the_kv_cache_scores_its_free_part() {
    let usage = |usage| fresh(Some(0), Some(0), Some(usage));
    assert_eq!(scores(Scorer::KvCacheUtilization, &[usage(0.25), usage(1.0), usage(0.0)]), [0.75, 0.0, 1.0]);
}

#[test]
fn load_scores_half_for_an_empty_queue_and_0_from_the_threshold_on() {
    let scorer = Scorer::LoadAware(LoadAware::DEFAULT);
    assert_eq!(scores(scorer, &[waiting(0), waiting(64), waiting(128), waiting(500)]), [0.5, 0.25, 0.0, 0.0]);
    assert_eq!(scores(Scorer::LoadAware(LoadAware { threshold: 10 }), &[waiting(5)]), [0.25]);
}

#[test]
fn requests_in_flight_score_against_the_most() {
    let scene = Scene::new(&[SILENT; 3]).with_in_flight(&[SILENT; 3], &[4, 1, 0]);
    assert_eq!(scene.scores(Scorer::ActiveRequests(ActiveRequests::DEFAULT)), [0.0, 0.75, 1.0]);
    let idle_preferred = ActiveRequests { idle_threshold: 1, max_busy_score: 0.5 };
    assert_eq!(scene.scores(Scorer::ActiveRequests(idle_preferred)), [0.0, 1.0, 1.0]);
    let busy = Scene::new(&[SILENT; 3]).with_in_flight(&[SILENT; 3], &[4, 2, 0]);
    assert_eq!(busy.scores(Scorer::ActiveRequests(idle_preferred)), [0.0, 0.25, 1.0]);
    let equal = Scene::new(&[SILENT; 2]).with_in_flight(&[SILENT; 2], &[2, 2]);
    assert_eq!(equal.scores(Scorer::ActiveRequests(ActiveRequests::DEFAULT)), [0.0, 0.0]);
}

#[test]
fn a_missing_count_is_a_typical_one() {
    let scene = Scene::new(&[waiting(0), waiting(4), waiting(8), SILENT]);
    assert_eq!(scene.scores(Scorer::Queue), [1.0, 0.5, 0.0, 0.5]);
    let usage = |usage| fresh(Some(0), Some(0), Some(usage));
    assert_eq!(scores(Scorer::KvCacheUtilization, &[usage(0.2), usage(0.6), SILENT]), [0.8, 0.4, 0.6]);
}

#[test]
fn counts_that_nobody_reports_are_those_in_flight() {
    let scene = Scene::new(&[SILENT; 3]).with_in_flight(&[SILENT; 3], &[4, 2, 0]);
    assert_eq!(scene.scores(Scorer::Queue), [0.0, 0.5, 1.0]);
    assert_eq!(scene.scores(Scorer::KvCacheUtilization), [1.0; 3]);
}

#[test]
fn what_an_engine_cannot_have_reported_is_added_to_its_queue() {
    let mut scene = Scene::new(&[waiting(0), waiting(4)]);
    scene.send(0, 3, NOW);
    assert_eq!(scene.scores(Scorer::Queue), [1.0, 0.0]);
    scene.send(0, 5, NOW);
    assert_eq!(scene.scores(Scorer::Queue), [0.0, 1.0]);
}

#[test]
fn a_prefix_scores_its_share_of_the_prompt() {
    let scorer = Scorer::PrefixCache(PrefixCache::DEFAULT);
    let scene = Scene::new(&[SILENT; 3]).with_matches(640, &[0, 160, 640]);
    assert_eq!(scene.scores(scorer), [0.0, 0.25, 1.0]);
    assert_eq!(Scene::new(&[SILENT; 2]).scores(scorer), [0.0, 0.0], "no prompt");
}

#[test]
fn a_prefix_counts_up_to_its_bound() {
    let scorer = Scorer::PrefixCache(PrefixCache { max_bytes: Some(256), ..PrefixCache::DEFAULT });
    assert_eq!(Scene::new(&[SILENT; 2]).with_matches(1_024, &[512, 128]).scores(scorer), [1.0, 0.5]);
    let unbounded = Scorer::PrefixCache(PrefixCache { max_bytes: None, ..PrefixCache::DEFAULT });
    assert_eq!(
        Scene::new(&[SILENT]).with_matches(u32::MAX, &[1 << 31]).scores(unbounded)[0],
        f64::from(1_u32 << 31) / f64::from(u32::MAX)
    );
}

#[test]
fn the_length_of_a_match_counts_by_its_square_up_to_its_scale() {
    // 8192 tokens of 4 bytes: half of them is a quarter.
    let scorer = Scorer::PrefixCache(PrefixCache { match_length_weight: 1.0, ..PrefixCache::DEFAULT });
    let scene = Scene::new(&[SILENT; 3]).with_matches(262_144, &[16_384, 32_768, 262_144]);
    assert_eq!(scene.scores(scorer), [0.25, 1.0, 1.0]);
    let both = Scorer::PrefixCache(PrefixCache { match_length_weight: 0.5, ..PrefixCache::DEFAULT });
    assert_eq!(scene.scores(both)[1], 0.5 + 0.5 * 0.125);
}

#[test]
fn an_adapter_scores_by_what_the_endpoint_has_of_it() {
    let mut scene = Scene::new(&[SILENT; 5]);
    let states = [
        AdapterState::Running,
        AdapterState::Absent { has_room: true },
        AdapterState::Waiting { has_room: true },
        AdapterState::Waiting { has_room: false },
        AdapterState::Absent { has_room: false },
    ];
    for (candidate, state) in scene.candidates.iter_mut().zip(states) {
        candidate.adapter = state;
    }
    assert_eq!(scene.scores(Scorer::LoraAffinity), [1.0, 0.8, 0.8, 0.6, 0.0]);
    assert_eq!(scores(Scorer::LoraAffinity, &[SILENT; 2]), [0.0, 0.0], "no adapter is asked for");
}

#[test]
fn a_session_stays_where_it_was() {
    let mut scene = Scene::new(&[SILENT; 3]);
    assert_eq!(scene.scores(Scorer::SessionAffinity), [0.0; 3]);
    scene.session = Some(scene.id(1));
    assert_eq!(scene.scores(Scorer::SessionAffinity), [0.0, 1.0, 0.0]);
}

#[test]
fn a_cold_prompt_prefers_whoever_got_one_longest_ago() {
    let scorer = Scorer::NoHitLru(NoHitLru::DEFAULT);
    let mut scene = Scene::new(&[SILENT; 3]);
    assert_eq!(scene.scores(scorer), [1.0; 3], "nobody got one");
    for place in [1, 0] {
        scene.cold.note(scene.id(place), NoHitLru::DEFAULT);
    }
    assert_eq!(scene.scores(scorer), [0.0, 0.5, 1.0]);
    scene.cold.note(scene.id(2), NoHitLru::DEFAULT);
    assert_eq!(scene.scores(scorer), [0.5, 1.0, 0.0]);
    scene.cold.note(scene.id(1), NoHitLru::DEFAULT);
    assert_eq!(scene.scores(scorer), [1.0, 0.0, 0.5]);
    let warm = scene.with_matches(640, &[0, 64, 0]);
    assert_eq!(warm.scores(scorer), [0.5; 3], "somebody has it");
    assert_eq!(scores(scorer, &[SILENT]), [1.0], "alone");
}

#[test]
fn only_so_many_endpoints_are_remembered_for_cold_prompts() {
    let two = NoHitLru { lru_size: 2 };
    let mut scene = Scene::new(&[SILENT; 3]);
    for place in [0, 1, 2, 1] {
        scene.cold.note(scene.id(place), two);
    }
    assert_eq!(scene.scores(Scorer::NoHitLru(two)), [1.0, 0.0, 0.5]);
}

fn outlook(cost: f64, product: f64) -> Outlook {
    Outlook { cost, product, ..Outlook::default() }
}

#[test]
fn the_lowest_cost_scores_1_and_twice_that_a_half() {
    let mut scene = Scene::new(&[SILENT; 4]);
    let costs = [(200.0, 8.0), (100.0, 4.0), (400.0, 2.0), (f64::INFINITY, f64::INFINITY)];
    scene.outlooks = costs.map(|(cost, product)| outlook(cost, product)).to_vec();
    assert_eq!(scene.scores(Scorer::PredictedLatency), [0.5, 1.0, 0.25, 0.0]);
    assert_eq!(scene.scores(Scorer::LMetric), [0.25, 0.5, 1.0, 0.0]);
    scene.outlooks = [0.0, 1.0, 0.0, 2.0].map(|cost| outlook(cost, cost)).to_vec();
    let scores = scene.scores(Scorer::LMetric);
    assert_eq!((scores[0], scores[2]), (1.0, 1.0), "nothing to do is as good as it gets");
    assert!(scores[1] < 1e-300 && scores[3] < 1e-300);
}

#[test]
fn a_score_counts_by_its_weight() {
    assert_eq!(Scene::new(&[waiting(10), waiting(5), waiting(0)]).weighted_scores(Scorer::Queue, 3.0), [0.0, 1.5, 3.0]);
}

#[cfg(not(target_arch = "wasm32"))]
mod properties {
    use proptest::prelude::*;

    use super::*;

    /// One endpoint: load, age, in flight, matched bytes, adapter, whether it got a cold prompt, cost.
    type Member = (Load, u32, u32, AdapterState, bool, f64);

    fn member() -> impl Strategy<Value = Member> {
        let load = (
            prop::option::of(0_u64..20_000),
            prop::option::of(0_u32..50),
            prop::option::of(0_u32..200),
            prop::option::of(0.0..=1.0),
        );
        let load = load.prop_map(|(age_ms, waiting, running, kv_cache_usage)| Load {
            state: if age_ms.is_some_and(|age| age < 2_000) { State::Fresh } else { State::Stale },
            age_ms,
            ..fresh(waiting, running, kv_cache_usage)
        });
        let adapter = prop_oneof![
            Just(AdapterState::NotAsked),
            Just(AdapterState::Running),
            any::<bool>().prop_map(|has_room| AdapterState::Waiting { has_room }),
            any::<bool>().prop_map(|has_room| AdapterState::Absent { has_room }),
        ];
        let cost = prop_oneof![8 => 0.0..1e9, 1 => Just(f64::INFINITY)];
        (load, 0_u32..40, prop_oneof![Just(0_u32), 0_u32..4_096], adapter, any::<bool>(), cost)
    }

    fn scene(members: &[Member]) -> Scene {
        let loads: Vec<Load> = members.iter().map(|member| member.0).collect();
        let in_flight: Vec<u32> = members.iter().map(|member| member.1).collect();
        let matched: Vec<u32> = members.iter().map(|member| member.2).collect();
        let mut scene = Scene::new(&loads).with_in_flight(&loads, &in_flight).with_matches(4_096, &matched);
        for (place, &(.., adapter, got_cold, _)) in members.iter().enumerate() {
            scene.candidates[place].adapter = adapter;
            if got_cold {
                scene.cold.note(scene.id(place), NoHitLru::DEFAULT);
            }
        }
        scene.outlooks = members.iter().map(|member| outlook(member.5, member.5 * 2.0)).collect();
        scene.session = scene.candidates.first().map(|candidate| candidate.id);
        scene
    }

    proptest! {
        #[test]
        fn every_score_is_from_0_to_1(members in prop::collection::vec(member(), 0..9)) {
            let scene = scene(&members);
            for scorer in Scorer::ALL {
                let scores = scene.scores(scorer);
                prop_assert_eq!(scores.len(), members.len());
                prop_assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)), "{}: {scores:?}", scorer.as_str());
            }
        }

        #[test]
        fn a_score_does_not_depend_on_where_an_endpoint_stands(
            members in prop::collection::vec(member(), 1..9), places in any::<[prop::sample::Index; 4]>(),
        ) {
            let mut scene = scene(&members);
            for scorer in Scorer::ALL {
                let mut before: Vec<_> = scene.candidates.iter().map(|candidate| candidate.id).zip(scene.scores(scorer)).collect();
                for places in places.chunks(2) {
                    let (left, right) = (places[0].index(members.len()), places[1].index(members.len()));
                    scene.candidates.swap(left, right);
                    scene.outlooks.swap(left, right);
                }
                let mut after: Vec<_> = scene.candidates.iter().map(|candidate| candidate.id).zip(scene.scores(scorer)).collect();
                before.sort_by_key(|&(id, _)| id);
                after.sort_by_key(|&(id, _)| id);
                prop_assert_eq!(before, after, "{}", scorer.as_str());
            }
        }
    }
}
