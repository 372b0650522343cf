//! What reading and merging pages costs, without sockets.
#![allow(missing_docs, reason = "criterion's macros write undocumented functions")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use metrics_sidecar::signals::Signals;

/// A real page of a busy vLLM 0.32 with LoRA adapters: 74 KB.
const PAGE: &[u8] = include_bytes!("../tests/fixtures/vllm-0.32-load.txt");

fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("signals");
    group.throughput(Throughput::Bytes(PAGE.len() as u64));
    group.bench_function("read_74_kb", |bencher| bencher.iter(|| Signals::read(black_box(PAGE))));
    // For comparison: a full parse into a map. That parser knows no colons in names.
    let plain = String::from_utf8_lossy(PAGE).replace("vllm:", "vllm_");
    group.bench_function("full_parse_74_kb", |bencher| {
        bencher.iter(|| prometheus_parse::Scrape::parse(black_box(&plain).lines().map(|line| Ok(line.to_owned()))));
    });
    group.finish();
}

criterion_group!(benches, read);
criterion_main!(benches);
