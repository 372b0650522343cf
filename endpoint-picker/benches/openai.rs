//! How fast bodies and streams are read.
#![allow(missing_docs)] // Criterion's macros define the entry points.
#![allow(clippy::unwrap_used)] // A benchmark stops at the first surprise.

use std::{fmt::Write, hint::black_box};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use endpoint_picker::openai::{
    Api, Ending, Model, RequestFacts, RequestScanner, ResponseFacts, ResponseReader, ScanOptions,
};

/// Proxies hand bodies over in slices of this size.
const CHUNK_BYTES: usize = 16 * 1024;

/// A chat of about `bytes` bytes, of prose with a line end now and then.
fn chat(bytes: usize) -> Vec<u8> {
    let line = "The quick brown fox jumps over the lazy dog, and then considers how a request finds its server.";
    let mut body = String::from(r#"{"messages":[{"role":"system","content":"You are helpful."}"#);
    while body.len() + 1200 < bytes {
        body.push_str(r#",{"role":"user","content":""#);
        for index in 0..11 {
            body.push_str(line);
            body.push_str(if index % 4 == 3 { "\\n" } else { " " });
        }
        body.push_str("\"}");
    }
    body.push_str(r#",{"role":"user","content":""#);
    while body.len() + 220 < bytes {
        body.push_str(line);
    }
    body.push_str(r#""}],"model":"meta-llama/Llama-3.1-8B-Instruct","max_tokens":128,"temperature":0.2,"stream":true,"stream_options":{"include_usage":true}}"#);
    body.into_bytes()
}

/// The same chat in a script of three bytes a character.
fn foreign_chat(bytes: usize) -> Vec<u8> {
    let mut body = String::from(
        r#"{"model":"meta-llama/Llama-3.1-8B-Instruct","stream":true,"stream_options":{"include_usage":true},"max_tokens":128,"messages":[{"role":"user","content":""#,
    );
    while body.len() < bytes {
        body.push_str("敏捷的棕色狐狸跳过了懒狗，然后思考请求如何找到它的服务器。");
    }
    body.push_str("\"}]}");
    body.into_bytes()
}

fn scan(body: &[u8], chunk: usize, options: ScanOptions) -> RequestFacts {
    let mut scanner = RequestScanner::new(Api::ChatCompletions, options);
    for piece in body.chunks(chunk) {
        scanner.feed(piece).unwrap();
    }
    let facts = scanner.finish().unwrap();
    assert!(facts.stream && facts.include_usage && facts.max_tokens == Some(128));
    assert!(matches!(&facts.model, Model::Named { name, .. } if name == "meta-llama/Llama-3.1-8B-Instruct"));
    facts
}

fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request");
    let hashing = ScanOptions::default();
    let plain = ScanOptions { max_prefix_blocks: 0, ..hashing };
    for (name, bytes) in [("1KB", 1024), ("64KB", 64 * 1024), ("400KB", 400 * 1024)] {
        let body = chat(bytes);
        group.throughput(Throughput::Bytes(body.len() as u64));
        for (way, chunk, options) in [
            ("whole", usize::MAX, hashing),
            ("16KiB chunks", CHUNK_BYTES, hashing),
            ("16KiB chunks, no hashes", CHUNK_BYTES, plain),
        ] {
            group.bench_function(format!("chat {name}/{way}"), |bencher| {
                bencher.iter(|| {
                    let facts = scan(black_box(&body), chunk, options);
                    assert_eq!(
                        facts.prompt.marks.len(),
                        (facts.prompt_bytes as usize / 64).min(options.max_prefix_blocks)
                    );
                    facts
                });
            });
        }
    }
    let body = foreign_chat(400 * 1024);
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("chat 400KB three-byte script/16KiB chunks", |bencher| {
        bencher.iter(|| scan(black_box(&body), CHUNK_BYTES, hashing));
    });
    let body = chat(400 * 1024);
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("chat 400KB/serde_json::Value for comparison", |bencher| {
        bencher.iter(|| serde_json::from_slice::<serde_json::Value>(black_box(&body)).unwrap());
    });
    group.finish();
}

fn read(mut reader: ResponseReader, pieces: &[Vec<u8>], content_events: u64) -> ResponseFacts {
    for piece in pieces {
        black_box(reader.feed(piece));
    }
    let facts = reader.finish();
    assert!(facts.ending == Ending::Complete && facts.content_events == content_events);
    facts
}

fn responses(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("response");
    let chat = |content: &str| {
        format!("data: {{\"id\":\"chatcmpl-8e894796a04e202f\",\"object\":\"chat.completion.chunk\",\"created\":1795320205,\"model\":\"meta-llama/Llama-3.1-8B-Instruct\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{content}\"}},\"logprobs\":null,\"finish_reason\":null,\"token_ids\":null}}]}}\n\n").into_bytes()
    };
    let words = [" the", " quick", "\\n", " fox", " \\\"jumps\\\""];
    let mut events: Vec<_> = words.iter().cycle().take(100).map(|word| chat(word)).collect();
    events.push(b"data: {\"id\":\"chatcmpl-8e894796a04e202f\",\"choices\":[],\"usage\":{\"prompt_tokens\":39,\"total_tokens\":139,\"completion_tokens\":100}}\n\n".to_vec());
    events.push(b"data: [DONE]\n\n".to_vec());
    let response: Vec<_> = (0..100)
        .map(|index| format!("event: response.output_text.delta\ndata: {{\"content_index\":0,\"delta\":\" word\",\"item_id\":\"msg_80118bef8ca4e652\",\"logprobs\":[],\"output_index\":0,\"sequence_number\":{index},\"type\":\"response.output_text.delta\"}}\n\n").into_bytes())
        .chain([b"event: response.completed\ndata: {\"response\":{\"usage\":{\"input_tokens\":3,\"output_tokens\":100,\"total_tokens\":103}},\"type\":\"response.completed\"}\n\n".to_vec()])
        .collect();
    for (name, pieces) in [
        ("chat stream of 100 events/event by event", events.clone()),
        ("chat stream of 100 events/whole", vec![events.concat()]),
        ("chat stream of 100 events/cut in 100 bytes", events.concat().chunks(100).map(<[u8]>::to_vec).collect()),
        ("responses stream of 100 events/event by event", response),
    ] {
        group.throughput(Throughput::Bytes(pieces.iter().map(|piece| piece.len() as u64).sum()));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let facts = read(ResponseReader::sse(None), black_box(&pieces), 100);
                assert_eq!(facts.usage.unwrap().completion_tokens, Some(100));
                facts
            });
        });
    }

    let chat = format!(
        "{{\"id\":\"chatcmpl-1\",\"model\":\"m\",\"choices\":[{{\"index\":0,\"message\":{{\"role\":\"assistant\",\"content\":\"{}\"}}}}],\"usage\":{{\"prompt_tokens\":5,\"total_tokens\":9,\"prompt_tokens_details\":null}}}}",
        "An answer of some length. ".repeat(160)
    );
    let mut embeddings = String::from("{\"object\":\"list\",\"data\":[");
    for index in 0..16 {
        let comma = if index > 0 { "," } else { "" };
        let _ = write!(embeddings, "{comma}{{\"index\":{index},\"embedding\":[-1.25e-05");
        for place in 0..1023 {
            let _ = write!(embeddings, ",{}", f64::from(place * 7919 % 1000 - 500) / 4096.3);
        }
        embeddings.push_str("]}");
    }
    embeddings.push_str("],\"usage\":{\"prompt_tokens\":5,\"total_tokens\":9}}");
    for (name, body) in [("chat JSON 4KB", chat), ("embeddings JSON of 16384 floats", embeddings)] {
        let pieces: Vec<_> = body.as_bytes().chunks(CHUNK_BYTES).map(<[u8]>::to_vec).collect();
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("{name}/16KiB chunks"), |bencher| {
            bencher.iter(|| {
                let facts = read(ResponseReader::json(None), black_box(&pieces), 0);
                assert_eq!(facts.usage.unwrap().total_tokens, Some(9));
                facts
            });
        });
    }
    group.finish();
}

criterion_group!(benches, requests, responses);
criterion_main!(benches);
