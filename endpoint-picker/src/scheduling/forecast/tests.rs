use alloc::vec;
use alloc::vec::Vec;
use core::net::SocketAddr;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use snapshot::{EndpointIdentity, Load, Loads, Membership, PoolMembers, State};

use crate::openai::{PrefixMark, PromptDigest};
use crate::pool::{EndpointId, Pool};
use crate::rng::Rng;
use crate::scheduling::{Decision, Peers, PickRequest, Picker, Profile, Ranked, Room, Scheduler, Scorer};
use crate::time::Timestamp;

const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);
/// At four bytes a token and 100 us a token, a prompt of this length takes 100 ms.
const THOUSAND_TOKENS: u32 = 4_000;

fn busy(running: u32, waiting: u32) -> Load {
    Load {
        state: State::Fresh,
        age_ms: Some(0),
        waiting: Some(waiting),
        running: Some(running),
        kv_cache_usage: Some(0.1),
        block_size: Some(16),
        num_gpu_blocks: Some(10_000),
        ..Load::default()
    }
}

struct Stage {
    pool: Pool,
    scheduler: Scheduler,
    profile: Profile,
}

impl Stage {
    fn new(loads: &[Load]) -> Self {
        let address = |last: u8| SocketAddr::from(([10, 0, 0, last], 8000));
        let hosts = 1..=u8::try_from(loads.len()).unwrap();
        let endpoints = hosts.map(|host| EndpointIdentity::unnamed(address(host))).collect();
        let pools = vec![PoolMembers { name: "p".into(), endpoints, ..PoolMembers::default() }];
        let mut pool = Pool::default();
        pool.install_membership(&Membership { epoch: 1, version: 1, pools }, "p");
        let profile = Profile {
            scorers: vec![(Scorer::PredictedLatency, 1.0)],
            picker: Picker::MaxScore,
            ranked: 3,
            max_snapshot_age_micros: 2_000_000,
            max_excluded_percent: 50,
        };
        let mut stage = Self { pool, scheduler: Scheduler::default(), profile };
        stage.install(1, loads);
        stage
    }

    /// The next page of each, 50 ms after the last one.
    fn install(&mut self, generation: u64, loads: &[Load]) {
        let loads = Loads { epoch: 1, membership_version: 1, endpoints: loads.to_vec(), ..Loads::default() };
        let captured_at_ms = 1_000_000 + generation * 50;
        self.pool.install_loads(&Loads { captured_at_ms, generation, ..loads }, NOW).unwrap();
        self.scheduler.pool_installed(&self.pool, &self.profile);
    }

    fn id(&self, index: usize) -> EndpointId {
        self.pool.members()[index]
    }

    fn pick_with(&mut self, prompt: &PromptDigest, bytes: u32, seed: u64) -> Ranked {
        let request = PickRequest { prompt: Some(prompt), prompt_bytes: u64::from(bytes), ..PickRequest::default() };
        match self.scheduler.pick(&self.pool, &self.profile, &request, &mut Rng::new(seed), NOW) {
            Decision::Picked(ranked, _) => ranked,
            Decision::NoEndpoint => panic!("there are endpoints"),
        }
    }

    fn pick(&mut self, prompt: &PromptDigest) -> usize {
        let first = self.pick_with(prompt, prompt.end(), 1).first();
        self.pool.members().iter().position(|&id| id == first).unwrap()
    }
}

/// A prompt of that many bytes whose family is its first quarter.
fn prompt(family: u64, own: u64, bytes: u32) -> PromptDigest {
    let mark = |place: u32| {
        let owner = if place < 10 { family } else { family ^ own << 32 };
        PrefixMark {
            hash: (owner * 100 + u64::from(place) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15),
            end: (place + 1) * bytes / 40,
        }
    };
    let marks: Vec<PrefixMark> = (0..40).map(mark).collect();
    PromptDigest { family: marks[9].hash, family_end: marks[9].end, conversation: own.max(1), is_cut: false, marks }
}

#[test]
fn a_prompt_goes_where_most_of_it_is_cached() {
    let mut stage = Stage::new(&[busy(2, 0); 4]);
    stage.scheduler.prompt_sent(stage.id(2), &prompt(1, 1, THOUSAND_TOKENS).marks);
    assert_eq!(stage.pick(&prompt(1, 1, THOUSAND_TOKENS)), 2);
    // Of another conversation it has the quarter that the family shares.
    assert_eq!(stage.pick(&prompt(1, 7, THOUSAND_TOKENS)), 2);
    stage.scheduler.prompt_sent(stage.id(3), &prompt(1, 7, THOUSAND_TOKENS).marks);
    assert_eq!(stage.pick(&prompt(1, 7, THOUSAND_TOKENS)), 3);
}

#[test]
fn a_hot_prefix_is_left_when_waiting_costs_more_than_computing_it() {
    let full = [busy(8, 1), busy(4, 0), busy(4, 0)];
    let mut stage = Stage::new(&full);
    stage.install(2, &full);
    stage.install(3, &full);
    assert_eq!(stage.pool.endpoint(stage.id(0)).unwrap().slots(), Some(8));
    let hot = prompt(1, 1, THOUSAND_TOKENS);
    stage.scheduler.prompt_sent(stage.id(0), &hot.marks);
    // Two of eight slots have to become free, of 2 s each: half a second, against 100 ms.
    assert_ne!(stage.pick(&hot), 0);
    // A prompt of ten seconds is worth the wait.
    let long = prompt(2, 2, 100 * THOUSAND_TOKENS);
    stage.scheduler.prompt_sent(stage.id(0), &long.marks);
    assert_eq!(stage.pick(&long), 0);
}

#[test]
fn a_prompt_that_all_lack_goes_where_nobody_waits() {
    let loads = [busy(8, 2), busy(8, 0), busy(8, 2)];
    let mut stage = Stage::new(&loads);
    stage.install(2, &loads);
    stage.install(3, &loads);
    assert_eq!(stage.pick(&prompt(1, 1, THOUSAND_TOKENS)), 1);
}

#[test]
fn a_cache_that_is_nearly_full_costs() {
    let full = Load { kv_cache_usage: Some(0.97), ..busy(2, 0) };
    let mut stage = Stage::new(&[full, full, busy(3, 0)]);
    assert_eq!(stage.pick(&prompt(1, 1, THOUSAND_TOKENS)), 2);
}

#[test]
fn gateways_that_know_nothing_of_each_other_begin_a_family_at_one_endpoint() {
    let mut homes = [0; 6];
    for family in 0..60 {
        let mut picks: Vec<usize> =
            (0..8).map(|own| Stage::new(&[busy(1, 0); 6]).pick(&prompt(family, own, THOUSAND_TOKENS))).collect();
        picks.dedup();
        assert_eq!(picks.len(), 1, "family {family}: {picks:?}");
        homes[picks[0]] += 1;
    }
    assert!(homes.iter().all(|&count| (3..=20).contains(&count)), "{homes:?}");
}

#[test]
fn prompts_without_a_family_go_to_equals_by_chance() {
    let mut counts = [0; 3];
    for seed in 0..300 {
        let mut stage = Stage::new(&[busy(1, 0); 3]);
        let first = stage.pick_with(&PromptDigest::default(), 40, seed).first();
        counts[stage.pool.members().iter().position(|&id| id == first).unwrap()] += 1;
    }
    assert!(counts.iter().all(|count| (60..140).contains(count)), "{counts:?}");
}

#[test]
fn an_engine_that_began_anew_has_nothing_cached_and_a_smaller_cache_less() {
    let mut stage = Stage::new(&[busy(1, 0); 3]);
    let known = prompt(1, 1, THOUSAND_TOKENS);
    stage.scheduler.prompt_sent(stage.id(1), &known.marks);
    let loads = [busy(1, 0), Load { incarnation: 1, ..busy(1, 0) }, busy(1, 0)];
    stage.install(2, &loads);
    assert!(stage.scheduler.index().is_empty());
    stage.scheduler.prompt_sent(stage.id(1), &known.marks);
    let small = Load { num_gpu_blocks: Some(20), ..busy(1, 0) };
    stage.install(3, &[small, Load { incarnation: 1, ..small }, small]);
    let ranked = stage.pick_with(&known, THOUSAND_TOKENS, 1);
    let forecast = ranked.forecast(stage.id(1)).unwrap();
    assert!((200..=320).contains(&forecast.guess.known_tokens), "20 blocks of 16: {forecast:?}");
}

#[test]
fn a_forecast_adds_up_and_the_last_token_is_never_cached() {
    let mut stage = Stage::new(&[busy(1, 0)]);
    let known = prompt(1, 1, THOUSAND_TOKENS);
    stage.scheduler.prompt_sent(stage.id(0), &known.marks);
    let forecast = stage.pick_with(&known, THOUSAND_TOKENS, 1).forecast(stage.id(0)).unwrap();
    assert_eq!(forecast.uncached_tokens + forecast.cached_tokens, 1_000);
    assert_eq!((forecast.cached_tokens % 16, forecast.matched_bytes), (0, THOUSAND_TOKENS));
    assert!(forecast.cached_tokens >= 980 && forecast.uncached_tokens > 0);
    assert!(forecast.ttft_micros > 20_000 && forecast.ttft_micros < 40_000, "{forecast:?}");
}

#[test]
fn pages_whose_figures_are_at_their_bounds_give_a_forecast() {
    let bounds = [None, Some(0), Some(1), Some(u32::MAX)];
    let known = prompt(1, 1, THOUSAND_TOKENS);
    let room = Room { queue_depth: u32::MAX, kv_cache_usage: 1.0, peers: Peers::default() };
    let page = |waiting, running, block_size, num_gpu_blocks| {
        let kv_cache_usage = if running == Some(0) { Some(1.0) } else { None };
        Load { state: State::Fresh, waiting, running, block_size, num_gpu_blocks, kv_cache_usage, ..Load::default() }
    };
    for waiting in bounds {
        for running in bounds {
            for block_size in bounds {
                for blocks in bounds {
                    let extreme = page(waiting, running, block_size, blocks);
                    // The first one learns its slots from pages that stay so; the second one has others' figures beside those.
                    let mut stage = Stage::new(&[extreme, busy(1, 1)]);
                    for generation in 2..9 {
                        let other = if generation % 2 == 0 { busy(u32::MAX, u32::MAX) } else { busy(1, 1) };
                        stage.install(generation * 10, &[extreme, other]);
                        let ranked = stage.pick_with(&known, u32::MAX, generation);
                        assert_eq!(ranked.entries().count(), 2, "{extreme:?}");
                        for entry in ranked.entries() {
                            stage.scheduler.prompt_sent(entry.id, &known.marks);
                            stage.scheduler.first_token_came(entry.id, &entry.forecast, u64::MAX >> generation);
                            let endpoint = stage.pool.endpoint(entry.id).unwrap();
                            assert!(room.fullness(&stage.pool, endpoint, NOW, 2_000_000).is_finite(), "{extreme:?}");
                        }
                        let request =
                            PickRequest { prompt: Some(&known), prompt_bytes: u64::MAX, ..PickRequest::default() };
                        let (Stage { pool, scheduler, profile }, id) = (&mut stage, ranked.first());
                        let cost = scheduler.cost_at(pool, profile, &request, id, NOW);
                        assert!(cost.is_finite() && cost >= 0.0, "{cost} for {extreme:?}");
                    }
                }
            }
        }
    }
}
