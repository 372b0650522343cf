//! Speed of the request scanner in MB/s, on whatever this is compiled for: natively, or as `wasm32-wasip1` in Node, whose V8 is
//! the engine that Envoy runs filters in. `make bench` runs both.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a measuring program: a failure is its result"
)]

use std::time::Instant;

use endpoint_picker::config::scan_options;
use endpoint_picker::openai::{Api, Model, RequestScanner};
use endpoint_picker::rng::Rng;

fn main() {
    for size in [1_000, 64_000, 400_000] {
        let body = body(size);
        let rounds = 200_000_000 / size;
        scan(&body, rounds / 10);
        let started = Instant::now();
        scan(&body, rounds);
        let seconds = started.elapsed().as_secs_f64();
        let rate = (rounds * body.len()) as f64 / seconds / 1e6;
        println!("scan {:>7} bytes: {rate:>7.0} MB/s, {:>8.2} us a body", body.len(), seconds * 1e6 / rounds as f64);
    }
}

fn scan(body: &[u8], rounds: usize) {
    for _ in 0..rounds {
        let mut scanner = RequestScanner::new(Api::ChatCompletions, scan_options(false));
        // As the filter reads it: in slabs.
        for chunk in body.chunks(256 * 1024) {
            scanner.feed(chunk).expect("valid JSON");
        }
        let facts = scanner.finish().expect("valid JSON");
        assert!(matches!(facts.model, Model::Named { ref name, .. } if name == "meta-llama/Llama-3.1-8B-Instruct"));
    }
}

/// A chat of about `size` bytes: words, line breaks, quotes, and now and then a character beyond ASCII.
fn body(size: usize) -> Vec<u8> {
    const WORDS: [&str; 8] =
        ["the ", "endpoint ", "answers, ", "\\\"quoted\\\" ", "line\\n", "naïve ", "queue ", "cache. "];
    let mut rng = Rng::new(1);
    let mut body = String::from(
        r#"{"model":"meta-llama/Llama-3.1-8B-Instruct","stream":true,"messages":[{"role":"user","content":""#,
    );
    while body.len() < size - 40 {
        // One word in thirty is one with an escape or beyond ASCII.
        let word =
            if rng.below(30) == 0 { rng.below(8) } else { [0, 1, 2, 6, 7][usize::try_from(rng.below(5)).unwrap()] };
        body.push_str(WORDS[usize::try_from(word).unwrap()]);
    }
    body.push_str(r#""}],"max_tokens":16}"#);
    body.into_bytes()
}
