//! What one pick costs at 10, 100 and 1000 endpoints.
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
use endpoint_picker::scheduling::{Decision, Picker, Profile, Scheduler, Scorer};
use endpoint_picker::{EndpointPicker, Plugin, Timestamp};
use snapshot::{Endpoint, Snapshot, State};

fn snapshot(endpoints: u32) -> Snapshot {
    let endpoint = |index: u32| {
        let [.., high, low] = index.to_be_bytes();
        Endpoint {
            state: State::Fresh,
            waiting: Some(index % 17),
            running: Some(index % 31),
            kv_cache_usage: Some(f64::from(index % 97) / 97.0),
            ..Endpoint::unknown(SocketAddr::from(([10, 0, high, low], 8000)))
        }
    };
    let pools = vec![snapshot::Pool { name: "default".into(), endpoints: (0..endpoints).map(endpoint).collect() }];
    Snapshot { epoch: 1, generation: 1, captured_at_ms: 0, pools }
}

fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    let scorers = vec![(Scorer::Queue, 2.0), (Scorer::KvCacheUtilization, 2.0), (Scorer::RunningRequests, 1.0)];
    let profile = Profile { scorers, picker: Picker::MaxScore, ranked: 3, max_snapshot_age_micros: 1_000_000 };
    for endpoints in [10, 100, 1_000] {
        let mut pool = Pool::default();
        pool.install(&snapshot(endpoints), "default");
        pool.confirm(Timestamp::from_micros(0));
        let (mut scheduler, mut rng) = (Scheduler::default(), Rng::new(1));
        group.bench_function(BenchmarkId::from_parameter(endpoints), |bencher| {
            bencher.iter(|| {
                let decision = scheduler.pick(&pool, &profile, &mut rng, Timestamp::from_micros(0));
                assert!(matches!(decision, Decision::Picked(..)));
                decision
            });
        });
    }
    group.finish();
}

fn install(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("install");
    for endpoints in [10, 100, 1_000] {
        let bytes = snapshot(endpoints).encode();
        let Ok(Plugin::Filter(config)) = Plugin::parse(b"") else { panic!("the default configuration is valid") };
        let mut picker = EndpointPicker::new(config, 1);
        group.bench_function(BenchmarkId::from_parameter(endpoints), |bencher| {
            bencher.iter(|| {
                picker.install(&Snapshot::decode(&bytes).unwrap());
                assert_eq!(picker.pool().endpoints().len(), endpoints as usize);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, pick, install);
criterion_main!(benches);
