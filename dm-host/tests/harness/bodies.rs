//! Received and buffered bodies, holding and letting go, edits, limits.

use std::num::NonZeroUsize;

use dm_host::{Finish, Headers, Hooks, HttpMessage, ModuleHost};

use crate::support::{asking, host, noted};

#[test]
fn each_piece_is_received_once_and_what_was_held_is_the_buffered_body() {
    let host = host();
    for size in [1, 2, 3, 7, 100] {
        let body = b"one, two, three";
        let chunks: Vec<&[u8]> = body.chunks(size).collect();
        let last = chunks.last().unwrap().len();
        let request = asking("hold").body_chunks(&chunks).slices(NonZeroUsize::new(2).unwrap());
        let stream = host.request(request);
        assert_eq!(noted(&stream, "seen").as_deref(), Some("one, two, three"), "{size}");
        assert_eq!(noted(&stream, "buffered"), Some((body.len() - last).to_string()), "{size}");
        assert_eq!(noted(&stream, "replayed").as_deref(), Some("false"));
        assert_eq!(stream.upstream().body, body);
        assert!(stream.upstream().ended);
    }
}

#[test]
fn an_end_that_comes_alone_is_an_empty_piece() {
    let host = host();
    let stream = host.request(asking("hold").body_chunks(["a", "b"]).unfinished());
    assert!(stream.is_request_held());
    assert_eq!(stream.upstream().headers, None);
    stream.send_body("", true);
    assert_eq!(noted(&stream, "seen").as_deref(), Some("ab"));
    assert_eq!(stream.upstream().body, b"ab");
}

#[test]
fn with_trailers_the_last_piece_does_not_end_the_body() {
    let host = host();
    let stream = host.request(asking("hold").body_chunks(["a", "b"]).trailer("x", "y"));
    assert_eq!(noted(&stream, "seen").as_deref(), Some("ab"));
    assert_eq!(noted(&stream, "buffered"), None, "no body hook saw the end");
    assert_eq!(stream.upstream().body, b"ab");
    assert_eq!(stream.upstream().trailers.unwrap().text("x").as_deref(), Some("y"));
}

#[test]
fn a_replayed_body_is_both_at_once() {
    let host = host();
    let stream = host.request(asking("hold").body_chunks(["a", "b"]).replayed());
    assert_eq!(noted(&stream, "seen").as_deref(), Some("ab"));
    assert_eq!(noted(&stream, "buffered").as_deref(), Some("2"));
    assert_eq!(noted(&stream, "replayed").as_deref(), Some("true"));
    assert_eq!(stream.upstream().body, b"ab", "it goes on once");
}

#[test]
fn a_rewrite_takes_the_place_of_what_was_held_and_of_the_last_piece() {
    let host = host();
    for chunks in [vec!["old"], vec!["o", "l", "d"], vec!["ol", "d", ""]] {
        let stream = host.request(asking("rewrite").body_chunks(&chunks));
        assert_eq!(stream.upstream().body, b"new", "{chunks:?}");
        let stream = host.request(asking("rewrite").body_chunks(&chunks).trailer("x", "y"));
        assert_eq!(stream.upstream().body, b"new", "{chunks:?} and trailers");
    }
}

#[test]
fn what_the_module_takes_for_itself_is_gone() {
    let host = host();
    let stream = host.request(asking("drop").body_chunks(["a", "b"]));
    assert_eq!(stream.upstream().body, b"");
}

#[test]
fn a_held_body_above_the_limit_is_refused() {
    let host = ModuleHost::builder(Hooks::linked()).filter("plain").request_buffer_limit(4).build().unwrap();
    let stream = host.request(asking("hold").body_chunks(["abc", "def"]).unfinished());
    assert_eq!((stream.downstream().status(), stream.finish()), (Some(413), Some(Finish::Complete)));
    assert_eq!(noted(&stream, "details").as_deref(), Some("request_payload_too_large"));
    assert!(stream.hooks().contains(&"response_headers"), "a reply of the proxy comes through the filter");
    let passing = host.request(asking("").body_chunks(["abc", "def"]));
    assert_eq!(passing.upstream().body, b"abcdef");
}

#[test]
fn a_held_answer_above_the_limit_is_replaced() {
    let host = ModuleHost::builder(Hooks::linked()).filter("plain").response_buffer_limit(4).build().unwrap();
    let stream = host.request(asking("hold-answer"));
    stream.respond(HttpMessage::response(200).body_chunks(["abc", "def"]).unfinished());
    assert_eq!(stream.finish(), Some(Finish::LocalReset), "its headers had gone");
}

#[test]
fn a_full_stop_holds_everything_until_the_module_continues() {
    let host = host();
    let stream = host.request(asking("stop-all").body_chunks(["a", "b"]).trailer("x", "y"));
    let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while !stream.upstream().ended && std::time::Instant::now() < until {
        std::thread::yield_now();
    }
    assert_eq!(noted(&stream, "event").as_deref(), Some("1"));
    assert_eq!(stream.upstream().body, b"ab");
    assert_eq!(noted(&stream, "seen").as_deref(), Some("ab"), "the body came to the filter afterwards");
    assert!(stream.upstream().trailers.is_some());
}

#[test]
fn answers_come_piece_by_piece_and_with_trailers() {
    let host = host();
    let stream = host.request(asking(""));
    stream.respond(HttpMessage::response(200).body_chunks(["a"]).unfinished());
    stream.respond_body("b", false);
    assert_eq!((noted(&stream, "answer").as_deref(), stream.finish()), (Some("b"), None));
    stream.respond_trailers(Headers::default());
    assert_eq!((stream.downstream().body, stream.finish()), (b"ab".to_vec(), Some(Finish::Complete)));
}
