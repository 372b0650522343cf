//! What the board costs in a fleet of 8 workers and 1000 endpoints: adding up, and looking while nothing moved.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::collections::HashMap;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use endpoint_picker::Timestamp;
use endpoint_picker::board::{Gatherer, Order, Post, enroll, key};
use endpoint_picker::shared_data::{SetError, SharedData};
use prost::Message;
use snapshot::{EndpointIdentity, Membership, PoolMembers};

const WORKERS: u64 = 8;
const ENDPOINTS: u32 = 1_000;

/// Shared data of one process.
#[derive(Default)]
struct Shared {
    values: HashMap<String, (Vec<u8>, u32)>,
    last: u32,
}

impl SharedData for Shared {
    fn get(&mut self, key: &str) -> Option<(Vec<u8>, u32)> {
        self.values.get(key).cloned()
    }

    fn set(&mut self, key: &str, value: &[u8], _: u32) -> Result<(), SetError> {
        self.last += 1;
        self.values.insert(key.to_owned(), (value.to_vec(), self.last));
        Ok(())
    }
}

fn membership() -> Membership {
    let endpoints = (0..ENDPOINTS).map(|index| {
        let [_, _, third, fourth] = index.to_be_bytes();
        EndpointIdentity::unnamed(([10, 0, third, fourth], 8000).into())
    });
    let pools = vec![PoolMembers { name: "default".into(), endpoints: endpoints.collect(), ..PoolMembers::default() }];
    Membership { epoch: 1, version: 1, pools }
}

fn write(shared: &mut Shared, membership: &Membership, worker: u64, sequence: u64) {
    let post = Post {
        worker,
        sequence,
        order: Some(Order::of(membership)),
        in_flight: (0..ENDPOINTS).map(|index| index % 40).collect(),
        ..Post::default()
    };
    shared.set(&key::post(worker), &post.encode_to_vec(), 0).unwrap();
    assert!(enroll(shared, worker));
}

fn board(criterion: &mut Criterion) {
    let membership = membership();
    let mut shared = Shared::default();
    for worker in 1..=WORKERS {
        write(&mut shared, &membership, worker, 1);
    }
    let mut gatherer = Gatherer::default();
    let now = Timestamp::default();
    gatherer.tick(&mut shared, &membership, now);
    criterion.bench_function("board/nothing_moved", |bencher| {
        bencher.iter(|| assert!(!gatherer.tick(black_box(&mut shared), &membership, now)));
    });
    let mut sequence = 1;
    criterion.bench_function("board/every_worker_moved", |bencher| {
        bencher.iter_batched(
            || {
                sequence += 1;
                sequence
            },
            |sequence| {
                for worker in 1..=WORKERS {
                    write(&mut shared, &membership, worker, sequence);
                }
                assert!(gatherer.tick(black_box(&mut shared), &membership, now));
            },
            criterion::BatchSize::PerIteration,
        );
    });
}

criterion_group!(benches, board);
criterion_main!(benches);
