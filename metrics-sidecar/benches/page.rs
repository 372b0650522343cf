//! What the merged page costs with a hundred models, without sockets: reading Envoy's page, and printing ours.
#![allow(missing_docs, unreachable_pub, reason = "criterion's macros write undocumented functions")]

#[path = "../tests/stage/envoy.rs"]
mod envoy;

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use metrics_sidecar::contents::{Contents, ContentsReader};
use metrics_sidecar::format::Format;
use metrics_sidecar::page::{Printer, Selection};

const MODELS: usize = 100;
/// What a socket gives at a time.
const PIECE: usize = 16 * 1024;

fn read(page: &str, names: &str) -> Contents {
    let mut reader = ContentsReader::default();
    page.as_bytes().chunks(PIECE).for_each(|piece| reader.feed(piece));
    if reader.wants_names() {
        names.as_bytes().chunks(PIECE).for_each(|piece| reader.feed_names(piece));
    }
    reader.finish()
}

fn page(criterion: &mut Criterion) {
    let tagged = envoy::tagged_page(MODELS);
    let (untagged, names) = envoy::untagged_page(MODELS);
    let mut group = criterion.benchmark_group("page");
    group.sample_size(20);
    group.throughput(Throughput::Bytes(tagged.len() as u64));
    group.bench_function("read", |bencher| bencher.iter(|| read(black_box(&tagged), "")));
    group.bench_function("read_without_stats_tags", |bencher| {
        bencher.iter(|| read(black_box(&untagged), black_box(&names)));
    });
    let contents = Arc::new(read(&tagged, ""));
    for format in [Format::Text, Format::OpenMetrics] {
        group.bench_function(format!("print_{format:?}"), |bencher| {
            bencher.iter(|| {
                let printer = Printer::new(Arc::clone(&contents), Vec::new(), Selection::Everything, format);
                printer.map(|piece| piece.len()).sum::<usize>()
            });
        });
    }
    group.bench_function("read_and_print", |bencher| {
        bencher.iter(|| {
            let contents = Arc::new(read(black_box(&tagged), ""));
            let printer = Printer::new(contents, Vec::new(), Selection::Everything, Format::Text);
            printer.map(|piece| piece.len()).sum::<usize>()
        });
    });
    group.finish();
}

criterion_group!(benches, page);
criterion_main!(benches);
