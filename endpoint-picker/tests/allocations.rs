//! What allocates and what does not: the paths that run with every tick and every request use the memory that they already have.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: a failure here is the test's failure"
)]
#![cfg(not(target_arch = "wasm32"))]

use std::net::SocketAddr;

use allocation_counter::measure;
use endpoint_picker::head::{RequestHead, ResponseHead};
use endpoint_picker::pool::Pool;
use endpoint_picker::rng::Rng;
use endpoint_picker::scheduling::{Decision, Observation, PickRequest, Picker, Profile, Scheduler, Scorer};
use endpoint_picker::{Config, Directive, EndpointPicker, Exchange, Plugin, Timestamp};
use snapshot::{AdapterUse, EndpointIdentity, Load, Loads, LoadsDecoder, Membership, PoolMembers, ServedModel, State};

use host::Info;

#[path = "plain/host.rs"]
mod host;
#[path = "plain/warm.rs"]
mod warm;

const ENDPOINTS: u16 = 100;
const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);
const CHAT: &[u8] = br#"{"model":"m","messages":[{"role":"user","content":"Which pod is it?"}]}"#;
const ANSWER: &[u8] = br#"{"choices":[{"message":{"content":"ab"}}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;

/// Most allocations of one unary exchange, from its headers to its settled record: two of them are for hashing the prompt.
const MOST_OF_AN_EXCHANGE: u64 = 13;

fn config() -> Config {
    let Ok(Plugin::Filter(config)) = Plugin::parse(b"") else { panic!("the default configuration is valid") };
    config
}

fn membership() -> Membership {
    let identity = |index: u16| {
        let [high, low] = index.to_be_bytes();
        let address = SocketAddr::from(([10, 0, high, low], 8000));
        EndpointIdentity { models: Some(vec![u32::from(index % 2), 2]), ..EndpointIdentity::unnamed(address) }
    };
    let pool = PoolMembers {
        name: "default".into(),
        endpoints: (0..ENDPOINTS).map(identity).collect(),
        adapters: vec!["lora".into()],
        models: vec![
            ServedModel { name: "m".into(), max_model_len: Some(100), ..ServedModel::default() },
            ServedModel { name: "m".into(), ..ServedModel::default() },
            ServedModel { name: "lora".into(), parent: "m".into(), ..ServedModel::default() },
        ],
        ..PoolMembers::default()
    };
    Membership { epoch: 1, version: 1, pools: vec![pool] }
}

/// Loads that differ with each generation: a third is stale, and not every engine reports everything.
fn loads(generation: u64) -> Loads {
    let load = |index: u16| {
        let step = u32::from(index).wrapping_add(u32::try_from(generation).unwrap());
        let is_stale = step.is_multiple_of(3);
        Load {
            state: if is_stale { State::Stale } else { State::Fresh },
            age_ms: Some(if is_stale { 2_500 } else { 10 }),
            waiting: (step % 5 > 0).then_some(step % 17),
            running: Some(step % 31),
            kv_cache_usage: Some(f64::from(step % 97) / 97.0),
            ..Load::default()
        }
    };
    Loads {
        epoch: 1,
        membership_version: 1,
        generation,
        captured_at_ms: 1_000 * generation,
        endpoints: (0..ENDPOINTS).map(load).collect(),
        adapters: if generation.is_multiple_of(2) {
            vec![AdapterUse { endpoint: 1, adapter: 0, waiting: false }]
        } else {
            Vec::new()
        },
    }
}

fn picker() -> EndpointPicker {
    let mut picker = EndpointPicker::new(config(), 1);
    picker.install_membership(&membership());
    picker.install_loads(&loads(1), NOW).unwrap();
    let admission = picker.telemetry_mut().admission_mut();
    let table = admission.merge(None).unwrap();
    admission.learn(&table);
    picker
}

#[test]
fn what_is_measured_here_is_seen() {
    assert_eq!(measure(|| drop(std::hint::black_box(Box::new(1)))).count_total, 1);
}

#[test]
fn loads_of_endpoints_that_stay_are_installed_in_place() {
    let mut picker = picker();
    let mut decoder = LoadsDecoder::default();
    picker.install_loads(decoder.decode(&loads(2).encode()).unwrap(), NOW).unwrap();
    for generation in 3..20 {
        let bytes = loads(generation).encode();
        let at = NOW.plus_micros(50_000 * generation);
        let taken = measure(|| picker.install_loads(decoder.decode(&bytes).unwrap(), at).unwrap());
        assert_eq!(taken.count_total, 0, "generation {generation}");
    }
}

#[test]
fn a_confirmation_writes_one_moment() {
    let mut picker = picker();
    let later = NOW.plus_micros(50_000);
    assert_eq!(measure(|| picker.confirm(later)).count_total, 0);
    assert_eq!(picker.pool().confirmed_at(), Some(later));
}

#[test]
fn the_other_workers_counts_are_taken_over_in_place() {
    let mut picker = picker();
    assert_eq!(
        measure(|| picker.set_others_in_flight((0..u32::from(ENDPOINTS)).map(|requests| (requests, 0)))).count_total,
        0
    );
}

#[test]
fn a_pick_and_what_is_observed_of_it_use_the_memory_of_the_first_pick() {
    let mut pool = Pool::default();
    pool.install_membership(&membership(), "default");
    for picker in Picker::ALL {
        let scorers = Scorer::ALL.map(|scorer| (scorer, 1.0)).to_vec();
        picks_of(&mut pool, &Profile { scorers, picker, ..config().profile });
    }
    picks_of(&mut pool, &config().profile);
}

fn picks_of(pool: &mut Pool, profile: &Profile) {
    let (mut scheduler, mut rng) = (Scheduler::default(), Rng::new(1));
    // Endpoints are remembered by their last cold prompt, and each is new to that memory once.
    let warm_up = if profile.scorers.len() == Scorer::ALL.len() { 2_000 } else { 0 };
    for target_model in ["m", "lora"] {
        let request = PickRequest { target_model, ..PickRequest::default() };
        for _ in 0..warm_up {
            scheduler.pick(pool, profile, &request, &mut rng, NOW);
        }
    }
    for generation in 1..20 {
        pool.install_loads(&loads(generation), NOW).unwrap();
        let target_model = if generation % 4 < 2 { "m" } else { "lora" };
        let request = PickRequest { target_model, prompt_bytes: 500, ..PickRequest::default() };
        // The last rounds pick without any load that is still confirmed.
        let now = NOW.plus_micros(if generation < 15 { 1_000 } else { 10_000_000 });
        let taken = measure(|| {
            let Decision::Picked(ranked, _) = scheduler.pick(pool, profile, &request, &mut rng, now) else {
                panic!("there are endpoints")
            };
            let observation = if generation % 2 == 0 {
                Observation::Failed(endpoint_picker::scheduling::Failure::NoAnswer)
            } else {
                Observation::FirstToken { after_micros: 1 }
            };
            scheduler.observe(pool, ranked.first(), &observation, now, now);
        });
        // The first pick of each kind may grow the working memory: in generation 2 everybody serves the model for the first time, and in
        // generation 15 all are stale.
        let may_grow = matches!(generation, 1 | 2 | 15);
        assert!(may_grow || taken.count_total == 0, "generation {generation}: {} allocations", taken.count_total);
    }
}

#[test]
fn a_pick_by_what_was_learned_and_by_prefixes_allocates_nothing() {
    for bytes in [4_000, 400_000] {
        let mut warm = warm::Warm::new(200, bytes);
        let (pool, scheduler, request) = warm.parts();
        let (profile, mut rng) = (config().profile, Rng::new(1));
        let mut pick = || {
            let decision = scheduler.pick(pool, &profile, &request, &mut rng, warm::NOW);
            let Decision::Picked(ranked, _) = decision else { panic!("there are endpoints") };
            ranked.forecast(ranked.first()).unwrap().cached_tokens
        };
        // The first one may grow the working memory.
        assert!(pick() > 0, "the prompt is on some endpoints");
        assert_eq!(measure(|| assert!(pick() > 0)).count_total, 0, "prompt of {bytes} bytes");
    }
}

#[test]
fn a_unary_exchange_allocates_a_few_times() {
    let mut picker = picker();
    exchange(&mut picker);
    // One of the rounds may find a buffer full that grows by doubling; most do not.
    let mut counts: Vec<u64> = (0..50).map(|_| measure(|| exchange(&mut picker)).count_total).collect();
    counts.sort_unstable();
    println!("allocations of a unary exchange: {} to {}, median {}", counts[0], counts[49], counts[25]);
    assert!(counts[25] <= MOST_OF_AN_EXCHANGE, "{counts:?}");
    let left = measure(|| (0..100).for_each(|_| exchange(&mut picker))).count_current;
    assert_eq!(left, 0, "allocations that a settled exchange leaves behind");
}

fn exchange(picker: &mut EndpointPicker) {
    let mut exchange = Exchange::default();
    let mut info =
        Info { micros: NOW.as_micros(), attempts: Some(1), details: Some("via_upstream"), ..Info::default() };
    let head = RequestHead {
        method: b"POST",
        path: b"/v1/chat/completions",
        content_type: Some(b"application/json"),
        request_id: Some(b"0af76519-16cd-43dd-8448-eb211c80319c"),
        ..RequestHead::default()
    };
    assert_eq!(exchange.on_request_headers(picker, &head, false, NOW), Directive::Wait);
    assert_eq!(exchange.on_request_body(picker, [CHAT], true, &mut info), Directive::Pick);
    let Directive::Send(outbound) = exchange.pick(picker, NOW) else { panic!("not sent") };
    info.upstream = outbound.destination.as_deref().and_then(|list| list.split(',').next()?.parse().ok());
    let head = ResponseHead { status: 200, json: true, ..ResponseHead::default() };
    exchange.on_response_headers(picker, &head, &mut info, false);
    exchange.on_response_body(picker, [ANSWER], &mut info, true);
    exchange.on_log(picker, &mut info);
    assert!(exchange.is_settled());
}
