//! Callbacks that are told to refuse.

use dm_host::{CallbackName, HttpMessage, Refusal};

use crate::support::{asking, host, noted};

#[test]
fn a_refused_call_does_nothing_and_says_so() {
    let host = host();
    host.refuse(Refusal::of(CallbackName::GetHeader));
    let stream = host.request(asking("reply"));
    assert_eq!(stream.reply(), None, "the guest could not read its wish");
    host.refuse(Refusal::of(CallbackName::SendResponse));
    let stream = host.request(asking("reply"));
    assert_eq!((stream.reply(), stream.is_request_held()), (None, true));
    host.refuse(Refusal::of(CallbackName::SetHeader));
    let stream = host.request(asking("strip"));
    assert_eq!(noted(&stream, "stripped").as_deref(), Some("false"));
    assert_eq!(stream.request_headers().text("x-do").as_deref(), Some("strip"));
    assert_eq!(stream.request_headers().text("x-new").as_deref(), Some("value"), "only the first call was refused");
    let stream = host.request(asking("strip"));
    assert_eq!(stream.request_headers().text("x-do"), None);
}

#[test]
fn a_refusal_lasts_as_long_as_it_is_told_to() {
    let host = host();
    host.refuse(Refusal::of(CallbackName::BodyChunks).always());
    assert_eq!(noted(&host.request(asking("hold").body_chunks(["a", "b"])), "seen").as_deref(), Some(""));
    host.clear_refusals();
    host.refuse(Refusal::of(CallbackName::BodyChunks).nth(1));
    assert_eq!(noted(&host.request(asking("hold").body_chunks(["a", "b", "c"])), "seen").as_deref(), Some("ac"));
}

#[test]
fn calls_are_counted() {
    let host = host();
    let stream = host.request(asking("").body_chunks(["a", "b"]));
    stream.respond(HttpMessage::response(200));
    assert_eq!(host.calls(CallbackName::BodyChunks), 2);
    assert_eq!(host.calls(CallbackName::SendResponse), 0);
}
