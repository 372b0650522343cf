//! Requests that go on before their bodies are whole, in the machine that Envoy runs.

use host_sim::{Host, HttpStream, Request, VmName};

use crate::world::{self, ANSWER, MODEL, answer, picked, settled};

const EARLY: &str = r#"{"early_pick_bytes":4096}"#;
const UNREAD: &str = r#"{"early_pick_bytes":4096,"early_pick_rest":"pass"}"#;
const RENAMED: &str =
    r#"{"early_pick_bytes":4096,"model_rewrites":[{"name":"r","targets":[{"model":"another name"}]}]}"#;
const SIZES: &str = "model_name=m;target_model_name=m;inference_objective_request_sizes_sum";

fn host(configuration: &str) -> Host {
    let host = world::builder().plugin_configuration(configuration).build().expect("the module accepts it");
    host.advance(std::time::Duration::from_secs(2));
    host
}

/// A chat of about so many bytes, whose text does not repeat.
fn chat(bytes: usize) -> String {
    let text: String = (0..bytes / 10).map(|word| format!("word{word:05} ")).collect();
    format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{text}"}}],"max_tokens":3}}"#)
}

fn begin(host: &Host) -> HttpStream {
    host.request(Request::post("/v1/chat/completions").header("content-type", "application/json").unfinished()).unwrap()
}

#[test]
fn what_is_held_goes_on_and_what_comes_passes_as_it_comes() {
    for configuration in [EARLY, UNREAD] {
        let host = host(configuration);
        let body = chat(20_000);
        let stream = begin(&host);
        let pieces: Vec<&[u8]> = body.as_bytes().chunks(1_500).collect();
        for (place, piece) in pieces.iter().enumerate() {
            stream.send_body(piece, place + 1 == pieces.len()).unwrap();
            let expected = if place < 2 { 0 } else { body.len().min((place + 1) * 1_500) };
            assert_eq!(stream.sent_upstream().body().len(), expected, "after {place} pieces");
        }
        assert_eq!(stream.sent_upstream().body(), body.as_bytes());
        assert!(host.failure(VmName::Worker(0)).is_none());
    }
    let _ = (RENAMED, SIZES, ANSWER, MODEL, answer, picked, settled);
}
