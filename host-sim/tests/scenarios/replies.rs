//! Local replies, resets, resuming from elsewhere, and the order of the end.

use host_sim::{Direction, Error, HttpStream, ReplyOrigin, Response, StreamEnd, StreamProgress};

use crate::support::{heard, script, scripted};

fn callbacks(stream: &HttpStream) -> Vec<&'static str> {
    stream
        .trace()
        .iter()
        .filter(|record| record.direction == Direction::HostToGuest && record.name != "proxy_on_memory_allocate")
        .map(|record| record.name.strip_prefix("proxy_on_").unwrap_or(record.name))
        .collect()
}

#[test]
fn a_local_reply_comes_back_through_the_same_context() {
    let host = scripted().build().unwrap();
    let stream = host.request(script("rh:reply=429,slow down;sh:header=x-from;sb:body=0").body("abc")).unwrap();
    let reply = stream.local_reply().unwrap();
    assert_eq!((reply.status, reply.origin), (429, ReplyOrigin::Guest));
    let sent = stream.sent_downstream();
    assert_eq!((sent.status(), sent.body()), (Some(429), b"slow down".to_vec()));
    assert_eq!(sent.header("content-length"), Some(&b"9"[..]));
    assert_eq!(sent.header("content-type"), Some(&b"text/plain"[..]));
    assert_eq!(heard(&host, "header"), ["x-from Some(\"guest\")"]);
    assert_eq!(heard(&host, "body"), ["Some(\"slow down\")"]);
    assert_eq!(stream.sent_upstream().headers, None);
    assert_eq!(
        callbacks(&stream),
        ["context_create", "request_headers", "response_headers", "response_body", "log", "done", "delete"]
    );
}

#[test]
fn a_local_reply_stops_the_request_even_when_the_callback_returns_continue() {
    let host = scripted().build().unwrap();
    let stream = host.request(script("rb:reply=400;rb:continue").body_chunks(["a", "b"])).unwrap();
    assert_eq!(stream.response_status(), Some(400));
    assert_eq!(stream.request_body(), b"");
    assert_eq!(stream.crossings().callbacks("proxy_on_request_body"), 1);
}

#[test]
fn a_second_local_reply_takes_the_place_of_the_first_or_cuts_it() {
    let host = scripted().build().unwrap();
    let replaced = host.request(script("rh:reply=429,one;sh:reply=500,two")).unwrap();
    assert_eq!((replaced.response_status(), replaced.sent_downstream().body()), (Some(500), b"two".to_vec()));
    assert_eq!(replaced.end(), Some(StreamEnd::Complete));
    let cut = host.request(script("rh:reply=429,one;sb:reply=500,two")).unwrap();
    assert_eq!((cut.response_status(), cut.end()), (Some(429), Some(StreamEnd::LocalReset)));
}

#[test]
fn a_local_reply_from_the_log_ends_the_vm() {
    // It ends Envoy 1.40.0 itself: the log is written again for the reply, without end.
    let host = scripted().build().unwrap();
    let stream = host.request(script("log:replies_on=500")).unwrap();
    stream.respond(Response::new(200)).unwrap();
    assert!(host.failure(host_sim::VmName::Worker(0)).unwrap().contains("proxy_on_log"));
}

#[test]
fn a_reply_in_place_of_an_upstream_response_goes_straight_to_the_client() {
    let host = scripted().build().unwrap();
    let stream = host.request(script("sh:reply=502,bad")).unwrap();
    stream.respond(Response::new(200).body("good")).unwrap();
    assert_eq!(stream.response_status(), Some(502));
    assert_eq!(stream.crossings().callbacks("proxy_on_response_headers"), 1);
    let late = host.request(script("sb:reply=502,bad")).unwrap();
    late.respond(Response::new(200).body("good")).unwrap();
    assert_eq!((late.response_status(), late.end()), (Some(200), Some(StreamEnd::LocalReset)));
}

#[test]
fn a_grpc_request_gets_a_trailers_only_reply() {
    let host = scripted().build().unwrap();
    let request = script("rh:reply=503,no backend").header("content-type", "application/grpc");
    let sent = host.request(request).unwrap().sent_downstream();
    assert_eq!(sent.status(), Some(200));
    assert_eq!(sent.header("grpc-status"), Some(&b"14"[..]));
    assert_eq!(sent.header("grpc-message"), Some(&b"no backend"[..]));
    assert!(sent.body().is_empty());
}

#[test]
fn a_parked_request_is_resumed_from_another_stream() {
    let host = scripted().build().unwrap();
    let parked = host.request(script("rh:pause;rb:pause;rb:park").body("abc")).unwrap();
    assert_eq!(parked.progress(), StreamProgress::RequestPaused);
    let other = host.request(script("log:unpark")).unwrap();
    assert_eq!(parked.progress(), StreamProgress::RequestPaused);
    other.respond(Response::new(200)).unwrap();
    assert_eq!(parked.progress(), StreamProgress::Upstream);
    assert_eq!(parked.sent_upstream().header("x-unparked"), Some(&b"yes"[..]));
    assert_eq!(parked.request_body(), b"abc");
    assert!(parked.sent_upstream().ended);
}

#[test]
fn a_stream_that_is_gone_cannot_be_made_effective() {
    let host = scripted().build().unwrap();
    let parked = host.request(script("rh:pause;rh:park").body("abc")).unwrap();
    let id = parked.context_id().unwrap();
    parked.client_reset().unwrap();
    host.request(script("rh:unpark")).unwrap();
    assert_eq!(heard(&host, "unpark"), [format!("{id} BadArgument")]);
}

#[test]
fn a_parked_request_of_another_worker_is_out_of_reach() {
    let host = scripted().workers(2).build().unwrap();
    let parked = host.request(script("rh:pause;rh:park;rb:pause").body("abc").worker(0)).unwrap();
    host.request(script("rh:unpark").worker(1)).unwrap();
    assert!(parked.is_request_paused());
    host.request(script("rh:unpark").worker(0)).unwrap();
    assert!(!parked.is_request_paused());
}

#[test]
fn a_client_that_goes_away_brings_only_log_done_and_delete() {
    let host = scripted().build().unwrap();
    let request = script("rh:pause;rb:pause;log:property=response.flags;log:property=response.code;log:header=:path");
    let stream = host.request(request.body("abc").unfinished()).unwrap();
    stream.client_reset().unwrap();
    assert_eq!(callbacks(&stream), ["context_create", "request_headers", "request_body", "log", "done", "delete"]);
    assert_eq!(
        heard(&host, "property"),
        [r#"response.flags Some("\\x00@\\x00\\x00\\x00\\x00\\x00\\x00")"#, "response.code None"]
    );
    assert_eq!(heard(&host, "header"), [":path Some(\"/v1/completions\")"]);
    let again = stream.client_reset();
    assert!(matches!(again, Err(Error::StreamOver { .. })), "{again:?}");
}

#[test]
fn an_upstream_reset_is_a_503_before_headers_and_silence_after_them() {
    let host = scripted().build().unwrap();
    let before = host.request(script("sh:property=response.code_details")).unwrap();
    before.upstream_reset().unwrap();
    assert_eq!(before.response_status(), Some(503));
    assert_eq!(
        heard(&host, "property"),
        ["response.code_details Some(\"upstream_reset_before_response_started{connection_termination}\")"]
    );
    let after = host.request(script("")).unwrap();
    after.respond(Response::new(200).body("a").unfinished()).unwrap();
    after.upstream_reset().unwrap();
    assert_eq!(after.end(), Some(StreamEnd::UpstreamReset));
    let seen = callbacks(&after);
    assert_eq!(seen[seen.len() - 4..], ["response_body", "log", "done", "delete"]);
}

#[test]
fn replies_of_the_router_come_through_the_filter() {
    let host = scripted().build().unwrap();
    let down = host.request(script("sh:header=:status;sh:set=x-seen=1")).unwrap();
    down.no_healthy_upstream().unwrap();
    assert_eq!(down.response_status(), Some(503));
    assert_eq!(down.sent_downstream().header("x-seen"), Some(&b"1"[..]));
    let slow = host.request(script("sh:header=:status")).unwrap();
    slow.upstream_timeout().unwrap();
    assert_eq!(slow.response_status(), Some(504));
    assert_eq!(heard(&host, "header"), [":status Some(\"503\")", ":status Some(\"504\")"]);
}

#[test]
fn a_stream_that_the_guest_closes_is_reset() {
    let host = scripted().build().unwrap();
    let stream = host.request(script("rh:reset").body("abc")).unwrap();
    assert_eq!(stream.end(), Some(StreamEnd::LocalReset));
    assert_eq!(stream.code_details().as_deref(), Some("wasm_close_stream"));
    assert_eq!(stream.crossings().callbacks("proxy_on_request_body"), 0);
}

#[test]
fn steps_out_of_order_are_errors_and_not_guesses() {
    let host = scripted().build().unwrap();
    let paused = host.request(script("rh:pause;rb:pause").body("a").unfinished()).unwrap();
    assert!(matches!(paused.respond(Response::new(200)), Err(Error::OutOfOrder { .. })));
    assert!(matches!(paused.respond_body("x", true), Err(Error::OutOfOrder { .. })));
    let twice = host.request(script("")).unwrap();
    twice.respond(Response::new(200).unfinished()).unwrap();
    assert!(matches!(twice.respond(Response::new(200)), Err(Error::OutOfOrder { .. })));
    let nobody = host.request(script("").worker(7));
    assert!(matches!(nobody, Err(Error::NoSuchWorker { worker: 7, workers: 1 })));
}

#[test]
fn a_held_response_is_resumed_by_the_response_to_a_call() {
    for allow in [false, true] {
        let host = scripted()
            .allow_on_headers_stop_iteration(allow)
            .cluster("backend", [host_sim::HttpOutcome::response(200, "x")])
            .build()
            .unwrap();
        let request = script("sh:pause;sh:call=backend,0;sb:body=0;sb:pause;call:resume_response");
        let stream = host.request(request).unwrap();
        stream.respond(Response::new(200).body("response")).unwrap();
        assert_eq!(stream.progress(), StreamProgress::ResponsePaused);
        // With a full stop the body comes to the filter only now, which buffers it.
        assert_eq!(stream.crossings().callbacks("proxy_on_response_body"), u64::from(allow));
        host.advance(std::time::Duration::ZERO);
        assert_eq!(heard(&host, "body"), ["Some(\"response\")"]);
        assert_eq!(stream.end().is_some(), allow);
        assert_eq!(stream.response_status(), Some(200));
    }
}

#[test]
fn a_resume_inside_of_a_body_callback_lets_headers_and_that_piece_go() {
    let host = scripted().build().unwrap();
    let stream = host.request(script("rh:pause;rb:resume;rb:body=0").body_chunks(["ab", "cd"])).unwrap();
    let sent = stream.sent_upstream();
    assert_eq!(sent.chunks, [b"ab".to_vec(), b"cd".to_vec()]);
    assert!(sent.ended);
    // Resuming takes the request's buffer away from the guest at once.
    assert_eq!(heard(&host, "body"), ["None", "None"]);
}

#[test]
fn a_head_request_gets_a_local_reply_without_a_body() {
    let host = scripted().build().unwrap();
    let request = host_sim::Request::new("HEAD", "/").header("x-script", "rh:reply=404,no such page");
    let sent = host.request(request).unwrap().sent_downstream();
    assert_eq!((sent.status(), sent.header("content-length")), (Some(404), Some(&b"12"[..])));
    assert!(sent.ended && sent.body().is_empty());
}
