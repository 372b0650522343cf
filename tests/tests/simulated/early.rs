//! Requests that go on before their bodies are whole, in the machine that Envoy runs.

use std::time::Duration;

use host_sim::{Fault, Host, HttpStream, Request, Status, VmName};

use crate::world::{self, ANSWER, answer, picked, settled};

const EARLY: &str = r#"{"early_pick_bytes":4096}"#;
const UNREAD: &str = r#"{"early_pick_bytes":4096,"early_pick_rest":"pass"}"#;
const NEVER: &str = r#"{"early_pick_bytes":0}"#;
const PIECE: usize = 1_500;

fn host(configuration: &str) -> Host {
    let host = world::builder().plugin_configuration(configuration).build().expect("the module accepts it");
    host.advance(Duration::from_secs(2));
    host
}

/// A chat of about so many bytes, whose text does not repeat.
fn chat(bytes: usize) -> String {
    let text: String = (0..bytes / 10).map(|word| format!("w{word:08} ")).collect();
    format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{text}"}}],"max_tokens":3}}"#)
}

fn begin(host: &Host, length: Option<usize>) -> HttpStream {
    let request = Request::post("/v1/chat/completions").header("content-type", "application/json");
    let request = match length {
        Some(length) => request.header("content-length", length.to_string()),
        None => request,
    };
    host.request(request.unfinished()).unwrap()
}

fn respond(stream: &HttpStream) {
    stream.set_property("upstream.address", picked(stream).as_str());
    stream.respond(answer("application/json").body(ANSWER)).unwrap();
}

fn counted(host: &Host, name: &str) -> u64 {
    assert!(host.failure(VmName::Worker(0)).is_none(), "{:?}", host.failure(VmName::Worker(0)));
    settled(host).iter().filter(|(stat, _)| stat.ends_with(name)).map(|(_, value)| value).sum()
}

#[test]
fn what_is_held_goes_on_and_what_comes_passes_as_it_comes() {
    for (configuration, outcome) in [(EARLY, "parsed"), (UNREAD, "unread")] {
        for length in [true, false] {
            let host = host(configuration);
            let body = chat(20_000);
            let stream = begin(&host, length.then_some(body.len()));
            let pieces: Vec<&[u8]> = body.as_bytes().chunks(PIECE).collect();
            for (place, piece) in pieces.iter().enumerate() {
                stream.send_body(piece, place + 1 == pieces.len()).unwrap();
                let passed = if place < 2 { 0 } else { body.len().min((place + 1) * PIECE) };
                assert_eq!(stream.sent_upstream().body().len(), passed, "after {} pieces", place + 1);
            }
            assert_eq!(stream.sent_upstream().body(), body.as_bytes());
            respond(&stream);
            assert_eq!(counted(&host, &format!("outcome={outcome};inpick_request_bodies_total")), 1);
            assert_eq!(counted(&host, "inference_objective_request_sizes_sum"), body.len() as u64);
        }
    }
}

#[test]
fn a_rest_that_passes_unread_never_enters_the_machine() {
    let bytes = |configuration: &str| {
        let host = host(configuration);
        let body = chat(400_000);
        let stream = begin(&host, Some(body.len()));
        for piece in body.as_bytes().chunks(64 * 1024) {
            stream.send_body(piece, false).unwrap();
        }
        stream.send_body([], true).unwrap();
        assert_eq!(stream.sent_upstream().body(), body.as_bytes());
        respond(&stream);
        let crossings = stream.crossings();
        (crossings.calls("proxy_get_buffer_bytes"), counted(&host, "inference_objective_request_sizes_sum"))
    };
    let size = chat(400_000).len() as u64;
    // One read of what decides, and one of the response.
    assert_eq!(bytes(UNREAD), (2, size));
    // What is held in two slabs and the response; or what decides, the rest of its piece, and each piece.
    assert_eq!(bytes(NEVER), (3, size));
    assert_eq!(bytes(EARLY), (9, size));
}

#[test]
fn a_splice_in_the_middle_of_what_is_held_moves_nothing() {
    let rules = r#"{"early_pick_bytes":4096,"unknown_model":"pass",
        "model_rewrites":[{"name":"r","targets":[{"model":"another name"}]}]}"#;
    let body = chat(20_000);
    let renamed = body.replacen("\"m\"", "\"another name\"", 1);
    for piece in [1_000, 7_000, body.len() - 1] {
        let host = host(rules);
        let stream = begin(&host, Some(body.len()));
        for piece in body.as_bytes().chunks(piece) {
            stream.send_body(piece, false).unwrap();
        }
        stream.send_body([], true).unwrap();
        assert_eq!(stream.sent_upstream().body(), renamed.as_bytes());
        let length = stream.request_headers().get("content-length").map(<[u8]>::to_vec);
        assert_eq!(length, Some(renamed.len().to_string().into_bytes()));
        respond(&stream);
        assert_eq!(counted(&host, "outcome=parsed;inpick_request_bodies_total"), 1);
    }
}

#[test]
fn the_end_may_come_with_trailers_and_either_side_may_leave_before_it() {
    let body = chat(20_000);
    for ending in ["trailers", "client", "server", "answer"] {
        let host = host(EARLY);
        let stream = begin(&host, None);
        stream.send_body(&body.as_bytes()[..9_000], false).unwrap();
        assert_eq!(stream.sent_upstream().body().len(), 9_000);
        let outcome = match ending {
            "trailers" => {
                stream.send_body(&body.as_bytes()[9_000..], false).unwrap();
                stream.send_trailers([("x", "y")].into_iter().collect()).unwrap();
                assert_eq!(stream.sent_upstream().body(), body.as_bytes());
                respond(&stream);
                "parsed"
            }
            "client" => {
                stream.client_reset().unwrap();
                "incomplete"
            }
            "server" => {
                stream.upstream_reset().unwrap();
                "incomplete"
            }
            _ => {
                respond(&stream);
                "incomplete"
            }
        };
        assert_eq!(counted(&host, &format!("outcome={outcome};inpick_request_bodies_total")), 1, "{ending}");
        assert_eq!(counted(&host, "inference_objective_running_requests"), 0, "{ending}");
    }
}

#[test]
fn a_request_that_may_not_pass_is_held_whatever_still_comes_of_it() {
    let rules = r#"{"early_pick_bytes":4096,"unknown_model":"pass",
        "model_rewrites":[{"name":"r","targets":[{"model":"another name"}]}]}"#;
    let body = chat(20_000);
    for (refused, destination) in [("proxy_set_buffer_bytes", false), ("proxy_remove_header_map_value", true)] {
        for trailers in [true, false] {
            let host = host(rules);
            for call in [refused, "proxy_send_local_response"] {
                host.inject(Fault::new(call, Status::BadArgument).always());
            }
            let mut request = Request::post("/v1/chat/completions").header("content-type", "application/json");
            if destination {
                request = request.header("x-gateway-destination-endpoint", "1.2.3.4:5");
            }
            let stream = host.request(request.unfinished()).unwrap();
            for piece in body.as_bytes().chunks(5_000) {
                stream.send_body(piece, false).unwrap();
            }
            if trailers {
                stream.send_trailers([("x", "y")].into_iter().collect()).unwrap();
            } else {
                stream.send_body([], true).unwrap();
            }
            assert!(stream.sent_upstream().body().is_empty(), "{refused}, {trailers}");
            assert!(stream.is_request_paused(), "{refused}, {trailers}");
            assert!(host.failure(VmName::Worker(0)).is_none());
        }
    }
}
