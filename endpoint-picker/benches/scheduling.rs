//! What a pick costs, and what keeps the pool up to date, at 10, 100 and 1000 endpoints.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a bench: criterion's macros write the entry point"
)]

use std::net::SocketAddr;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use endpoint_picker::pool::Pool;
use endpoint_picker::rng::Rng;
use endpoint_picker::scheduling::{Decision, Failure, Observation, PickRequest, Profile, Scheduler};
use endpoint_picker::{EndpointPicker, Plugin, Timestamp};
use snapshot::{EndpointIdentity, Load, Loads, LoadsDecoder, Membership, PoolMembers, State};

#[path = "../tests/plain/warm.rs"]
mod warm;

const SIZES: [u32; 3] = [10, 100, 1_000];
const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

/// What is unusual about a pool.
#[derive(Clone, Copy, Debug)]
enum Trait {
    /// Nothing.
    Fresh,
    /// Every other endpoint's load is stale.
    HalfStale,
    /// One endpoint in five was ejected.
    SomeEjected,
    /// One endpoint in five reports no signal.
    SomeSilent,
}

fn profile() -> Profile {
    let Ok(Plugin::Filter(config)) = Plugin::parse(b"") else { panic!("the default configuration is valid") };
    config.profile
}

fn membership(version: u64, endpoints: u32) -> Membership {
    let identity = |index: u32| {
        let [.., high, low] = index.to_be_bytes();
        EndpointIdentity {
            pod: format!("vllm-{index}"),
            namespace: "inference".into(),
            ..EndpointIdentity::unnamed(SocketAddr::from(([10, 0, high, low], 8000)))
        }
    };
    let endpoints = (0..endpoints).map(identity).collect();
    let pools = vec![PoolMembers { name: "default".into(), endpoints, ..PoolMembers::default() }];
    Membership { epoch: 1, version, pools }
}

fn loads(endpoints: u32, kind: Trait) -> Loads {
    let load = |index: u32| {
        let is_stale = matches!(kind, Trait::HalfStale) && index.is_multiple_of(2);
        let (state, age_ms) = if is_stale { (State::Stale, Some(5_000)) } else { (State::Fresh, Some(10)) };
        if matches!(kind, Trait::SomeSilent) && index.is_multiple_of(5) {
            return Load { state, age_ms, ..Load::default() };
        }
        Load {
            state,
            age_ms,
            waiting: Some(index % 17),
            running: Some(index % 31),
            kv_cache_usage: Some(f64::from(index % 97) / 97.0),
            ..Load::default()
        }
    };
    let endpoints = (0..endpoints).map(load).collect();
    Loads { epoch: 1, membership_version: 1, captured_at_ms: 1_000_000, endpoints, ..Loads::default() }
}

fn pool(endpoints: u32, kind: Trait) -> Pool {
    let mut pool = Pool::default();
    pool.install_membership(&membership(1, endpoints), "default");
    pool.install_loads(&loads(endpoints, kind), NOW).unwrap();
    if matches!(kind, Trait::SomeEjected) {
        let failing: Vec<_> = pool.members().iter().copied().step_by(5).collect();
        for id in failing {
            let mut observe = || {
                let failed = Observation::Failed(Failure::NoAnswer);
                Scheduler::default().observe(&mut pool, id, &failed, NOW, NOW)
            };
            assert_eq!([observe(), observe()], [false, true], "the second failure ejects");
        }
    }
    pool
}

fn pick(criterion: &mut Criterion) {
    let profile = profile();
    for kind in [Trait::Fresh, Trait::HalfStale, Trait::SomeEjected, Trait::SomeSilent] {
        let mut group = criterion.benchmark_group(format!("pick {kind:?}"));
        for endpoints in SIZES {
            let pool = pool(endpoints, kind);
            let (mut scheduler, mut rng) = (Scheduler::default(), Rng::new(1));
            let now = NOW.plus_micros(1_000);
            group.bench_function(BenchmarkId::from_parameter(endpoints), |bencher| {
                bencher.iter(|| {
                    let decision = scheduler.pick(&pool, &profile, &PickRequest::default(), &mut rng, now);
                    assert!(matches!(decision, Decision::Picked(..)));
                    decision
                });
            });
        }
        group.finish();
    }
}

/// With what was learned and which prompts were sent where; the prompt that is asked for is on some endpoints.
fn pick_warm(criterion: &mut Criterion) {
    let profile = profile();
    for (name, bytes) in [("4 KB", 4_000), ("400 KB", 400_000)] {
        let mut group = criterion.benchmark_group(format!("pick warm {name}"));
        for endpoints in SIZES {
            let mut warm = warm::Warm::new(endpoints, bytes);
            let (pool, scheduler, request) = warm.parts();
            let mut rng = Rng::new(1);
            let now = warm::NOW.plus_micros(1_000);
            group.bench_function(BenchmarkId::from_parameter(endpoints), |bencher| {
                bencher.iter(|| {
                    let decision = scheduler.pick(pool, &profile, &request, &mut rng, now);
                    assert!(matches!(decision, Decision::Picked(..)));
                    decision
                });
            });
        }
        group.finish();
    }
}

/// As a worker does when the loads have changed: from their bytes in shared data.
fn install_loads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("install_loads");
    for endpoints in SIZES {
        let mut pool = pool(endpoints, Trait::Fresh);
        let bytes = loads(endpoints, Trait::Fresh).encode();
        let mut decoder = LoadsDecoder::default();
        group.bench_function(BenchmarkId::from_parameter(endpoints), |bencher| {
            bencher.iter(|| pool.install_loads(decoder.decode(&bytes).unwrap(), NOW).unwrap());
        });
    }
    group.finish();
}

/// One endpoint leaves and comes back by turns: what a rollout brings, label proposals included.
fn install_membership(criterion: &mut Criterion) {
    let Ok(Plugin::Filter(config)) = Plugin::parse(b"") else { panic!("the default configuration is valid") };
    let endpoints = 1_000;
    let mut picker = EndpointPicker::new(config, 1);
    let turns = [membership(1, endpoints), membership(2, endpoints - 1)].map(|membership| membership.encode());
    picker.install_membership(&Membership::decode(&turns[0]).unwrap());
    let admission = picker.telemetry_mut().admission_mut();
    let table = admission.merge(None).unwrap();
    admission.learn(&table);
    let mut turn = turns.iter().cycle();
    criterion.bench_function("install_membership/1000", |bencher| {
        bencher.iter(|| picker.install_membership(&Membership::decode(turn.next().unwrap()).unwrap()));
    });
}

fn observe(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("observe");
    for (name, observation) in [
        ("finished", Observation::Finished { usage: Default::default(), after_micros: 1 }),
        ("failed", Observation::Failed(Failure::NoAnswer)),
    ] {
        let mut pool = pool(1_000, Trait::Fresh);
        let mut scheduler = Scheduler::default();
        let ids = pool.members().to_vec();
        let mut next = ids.iter().copied().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| scheduler.observe(&mut pool, next.next().unwrap(), &observation, NOW, NOW));
        });
    }
    group.finish();
}

criterion_group!(benches, pick, pick_warm, install_loads, install_membership, observe);
criterion_main!(benches);
