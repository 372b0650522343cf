//! How streams end: in which order hooks come, and what is known then.

use std::sync::atomic::Ordering;

use dm_host::{Finish, Hooks, HttpMessage, ModuleHost};

use crate::guest::CONFIGS_DESTROYED;
use crate::support::{asking, host, noted};

#[test]
fn a_complete_stream_is_completed_and_then_destroyed() {
    let host = host();
    let stream = host.request(asking("").body("a"));
    stream.attempt("10.0.0.1:8000");
    stream.respond(HttpMessage::response(200).body("b"));
    let hooks = ["request_headers", "request_body", "response_headers", "response_body", "stream_complete", "destroy"];
    assert_eq!(stream.hooks(), hooks);
    assert_eq!((stream.finish(), stream.downstream().status()), (Some(Finish::Complete), Some(200)));
    assert_eq!(noted(&stream, "details").as_deref(), Some("via_upstream"));
    assert_eq!(noted(&stream, "hosts").as_deref(), Some("10.0.0.1:8000"));
}

#[test]
fn everyone_who_was_tried_is_known_in_order() {
    let host = host();
    let stream = host.request(asking(""));
    stream.attempt("10.0.0.1:8000");
    stream.attempt("10.0.0.2:8000");
    stream.respond(HttpMessage::response(200));
    assert_eq!(noted(&stream, "hosts").as_deref(), Some("10.0.0.1:8000,10.0.0.2:8000"));
}

#[test]
fn a_client_that_leaves_is_known_by_its_flag() {
    let host = host();
    let stream = host.request(asking("hold").unfinished());
    stream.client_reset();
    assert_eq!(noted(&stream, "flags").as_deref(), Some("16384"));
    assert_eq!(noted(&stream, "details").as_deref(), Some("downstream_remote_disconnect"));
    stream.send_body("late", true);
    stream.respond(HttpMessage::response(200));
    assert_eq!(stream.hooks(), ["request_headers", "stream_complete", "destroy"], "nothing comes after the end");
}

#[test]
fn the_routers_replies_come_through_the_filter() {
    let host = host();
    let ended = |end: fn(&dm_host::NativeStream)| {
        let stream = host.request(asking(""));
        end(&stream);
        assert!(stream.hooks().contains(&"response_headers"));
        (stream.downstream().status().unwrap(), noted(&stream, "flags").unwrap(), noted(&stream, "details").unwrap())
    };
    let text = |details: &str| details.to_owned();
    assert_eq!(ended(dm_host::NativeStream::upstream_timeout), (504, text("4"), text("response_timeout")));
    assert_eq!(ended(dm_host::NativeStream::no_healthy_upstream), (503, text("2"), text("no_healthy_upstream")));
    let details = text("upstream_reset_before_response_started{connection_termination}");
    assert_eq!(ended(dm_host::NativeStream::upstream_reset), (503, text("64"), details));
}

#[test]
fn an_upstream_that_breaks_off_behind_its_headers_ends_the_stream() {
    let host = host();
    let stream = host.request(asking(""));
    stream.respond(HttpMessage::response(200).body_chunks(["a"]).unfinished());
    stream.upstream_reset();
    assert_eq!(stream.finish(), Some(Finish::UpstreamReset));
    assert_eq!(noted(&stream, "flags").as_deref(), Some("8388608"));
}

#[test]
fn the_modules_own_reply_does_not_come_back_to_it() {
    let host = host();
    let stream = host.request(asking("reply").body("a"));
    assert_eq!(stream.hooks(), ["request_headers", "stream_complete", "destroy"]);
    let reply = stream.reply().unwrap();
    assert_eq!((reply.status, reply.by_module, reply.details.as_str()), (429, true, "guest_said_no"));
    let sent = stream.downstream();
    assert_eq!((sent.status(), sent.body), (Some(429), b"no".to_vec()));
    assert_eq!(sent.headers.unwrap().text("x-a").as_deref(), Some("b"));
    assert_eq!(noted(&stream, "inline").as_deref(), Some("false"));
}

#[test]
fn an_end_may_come_inside_the_call_that_makes_it_and_destruction_after_the_hook() {
    let host = host();
    let stream = host.worker(0).completing_inline().request(asking("reply"));
    assert_eq!(noted(&stream, "inline").as_deref(), Some("true"));
    assert_eq!(stream.hooks(), ["request_headers", "stream_complete", "destroy"]);
}

#[test]
fn a_reply_at_response_headers_takes_the_answers_place() {
    let host = host();
    let stream = host.request(asking("reply-late"));
    stream.respond(HttpMessage::response(200).body("from the pod"));
    assert_eq!(stream.downstream().status(), Some(429));
    assert_eq!(stream.downstream().body, b"no");
}

#[test]
fn the_response_of_a_stream_that_was_never_decoded_comes_to_the_filter() {
    let host = host();
    let stream = host.worker(0).undecoded();
    stream.proxy_reply(403, "no", "earlier_filter", 0);
    assert_eq!(stream.hooks(), ["response_headers", "response_body", "stream_complete", "destroy"]);
    assert_eq!(noted(&stream, "details").as_deref(), Some("earlier_filter"));
}

#[test]
fn a_module_without_a_filter_for_a_stream_is_answered_for() {
    let host = ModuleHost::builder(Hooks::linked()).filter("no-filter").build().unwrap();
    let stream = host.request(asking("").body("a"));
    assert_eq!((stream.downstream().status(), stream.hooks()), (Some(500), vec![]));
    host.shut_down().unwrap();
}

#[test]
fn a_configuration_lives_as_long_as_its_last_stream_and_dies_on_its_worker() {
    let mut host = host();
    let before = CONFIGS_DESTROYED.load(Ordering::SeqCst);
    let stream = host.worker(1).request(asking("hold").unfinished());
    host.replace_filter("plain").unwrap();
    assert_eq!(CONFIGS_DESTROYED.load(Ordering::SeqCst), before);
    stream.client_reset();
    drop(stream);
    assert_eq!(CONFIGS_DESTROYED.load(Ordering::SeqCst), before + 1);
    host.drop_filter_on(0);
    assert_eq!(CONFIGS_DESTROYED.load(Ordering::SeqCst), before + 2);
}

#[test]
fn hooks_that_nobody_asked_for_may_come() {
    let host = host();
    let stream = host.request(asking("hold").unfinished());
    stream.call_unasked();
    stream.client_reset();
    host.shut_down().unwrap();
}

#[test]
fn streams_that_are_open_at_the_end_are_reset() {
    let host = host();
    let stream = host.request(asking("hold").unfinished());
    std::mem::forget(stream);
    host.shut_down().unwrap();
}
