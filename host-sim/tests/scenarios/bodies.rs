//! Pausing, buffering, splicing, trailers.

use host_sim::{HeaderMap, Host, Request, Response, StreamProgress};

use crate::support::{guest, heard, script, scripted};

#[test]
fn a_pause_in_headers_holds_them_until_the_body_lets_go() {
    let host = scripted().build().unwrap();
    let stream =
        host.request(script("rh:pause;rb:pause_until_end;rb:set=x-picked=a").body("one").unfinished()).unwrap();
    assert_eq!(stream.progress(), StreamProgress::RequestPaused);
    assert_eq!(stream.sent_upstream().headers, None);
    stream.send_body("two", true).unwrap();
    let sent = stream.sent_upstream();
    assert_eq!(sent.header("x-picked"), Some(&b"a"[..]));
    assert_eq!(sent.chunks, [b"onetwo".to_vec()]);
    assert!(sent.ended);
}

#[test]
fn a_paused_body_is_cumulative_and_a_passed_one_is_not() {
    let host = scripted().build().unwrap();
    host.request(script("rh:pause;rb:size;rb:pause_until_end").body_chunks(["abc", "de", "f"])).unwrap();
    assert_eq!(heard(&host, "size"), ["3 end false", "5 end false", "6 end true"]);
    host.clear_trace();
    host.request(script("rb:size").body_chunks(["abc", "de", "f"])).unwrap();
    assert_eq!(heard(&host, "size"), ["3 end false", "2 end false", "1 end true"]);
}

#[test]
fn without_the_option_a_pause_in_headers_stops_body_callbacks_too() {
    let host = Host::builder().compiled(guest()).build().unwrap();
    let stream = host.request(script("rh:pause;rb:size;rb:body=0").body_chunks(["abc", "def"])).unwrap();
    assert!(stream.is_request_paused());
    assert_eq!(stream.crossings().callbacks("proxy_on_request_body"), 0);
}

#[test]
fn after_a_full_stop_the_held_body_comes_to_the_filter_in_one_piece() {
    let host = Host::builder().compiled(guest()).build().unwrap();
    let parked =
        host.request(script("rh:park;rh:pause;rb:body=0").body_chunks(["abc", "def"]).trailer("t", "1")).unwrap();
    host.request(script("log:unpark").body("x")).unwrap().client_reset().unwrap();
    assert_eq!(heard(&host, "body"), ["Some(\"abcdef\")"]);
    let sent = parked.sent_upstream();
    assert_eq!(sent.body(), b"abcdef");
    assert_eq!(sent.trailers, Some([("t", "1")].into_iter().collect::<HeaderMap>()));
    assert!(sent.ended);
}

#[test]
fn a_full_stop_above_the_limit_stops_reading_and_refuses_nothing() {
    let host = Host::builder().compiled(guest()).request_buffer_limit(4).build().unwrap();
    let stream = host.request(script("rh:pause").body("12345")).unwrap();
    assert!(stream.is_above_watermark());
    assert_eq!(stream.local_reply(), None);
}

#[test]
fn a_buffered_body_above_the_limit_gets_413() {
    let host = scripted().request_buffer_limit(4).build().unwrap();
    let request = script("rh:pause;rb:pause;sh:header=:status").body_chunks(["1234", "5", "6"]);
    let stream = host.request(request).unwrap();
    assert_eq!(stream.response_status(), Some(413));
    assert_eq!(stream.code_details().as_deref(), Some("request_payload_too_large"));
    assert_eq!(stream.crossings().callbacks("proxy_on_request_body"), 2);
    assert_eq!(heard(&host, "header"), [":status Some(\"413\")"]);
    let at_limit = host.request(script("rh:pause;rb:pause").body("1234")).unwrap();
    assert_eq!(at_limit.local_reply(), None);
}

#[test]
fn a_buffered_response_above_the_limit_becomes_500_or_a_reset() {
    let host = scripted().response_buffer_limit(4).build().unwrap();
    let held = host.request(script("sh:pause;sb:pause")).unwrap();
    held.respond(Response::new(200).body("12345")).unwrap();
    assert_eq!(held.response_status(), Some(500));
    let sent = host.request(script("sb:pause")).unwrap();
    sent.respond(Response::new(200).body("12345")).unwrap();
    assert_eq!(sent.response_status(), Some(200));
    assert_eq!(sent.end(), Some(host_sim::StreamEnd::LocalReset));
}

#[test]
fn a_body_is_replaced_appended_to_and_never_cut_in_the_middle() {
    let host = scripted().build().unwrap();
    let whole = host.request(script("rb:splice=0,,new").body("old body")).unwrap();
    assert_eq!(whole.request_body(), b"new");
    let front = host.request(script("rb:splice=0,3,new").body("old body")).unwrap();
    assert_eq!(front.request_body(), b"new body");
    let back = host.request(script("rb:splice=8,0,!").body("old body")).unwrap();
    assert_eq!(back.request_body(), b"old body!");
    let middle = host.request(script("rb:splice=4,4,BODY").body("old body")).unwrap();
    assert_eq!(middle.request_body(), b"old body");
    assert_eq!(heard(&host, "splice"), ["0", "0", "0", "2"]);
}

#[test]
fn a_buffered_body_is_spliced_as_a_whole() {
    let host = scripted().build().unwrap();
    let request = script("rh:pause;rb:splice=0,2,XY;rb:pause_until_end").body_chunks(["ab", "cd"]);
    let stream = host.request(request).unwrap();
    assert_eq!(stream.request_body(), b"XYcd");
}

#[test]
fn a_body_outside_of_its_callback_reads_empty_and_cannot_be_written() {
    let host = scripted().build().unwrap();
    let stream = host.request(script("rh:body=0;rh:splice=0,,x").body("abc")).unwrap();
    assert_eq!(heard(&host, "body"), ["None"]);
    assert_eq!(heard(&host, "splice"), ["2"]);
    assert_eq!(stream.request_body(), b"abc");
}

#[test]
fn a_body_can_be_read_in_ranges() {
    let host = scripted().build().unwrap();
    host.request(script("rb:body=2,3;rb:body=4;rb:body=9").body("0123456")).unwrap();
    assert_eq!(heard(&host, "body"), ["Some(\"234\")", "Some(\"456\")", "None"]);
}

#[test]
fn headers_that_were_let_through_are_out_of_reach() {
    let host = scripted().build().unwrap();
    let stream = host.request(script("rb:set=x-late=1").body("abc")).unwrap();
    assert_eq!(heard(&host, "set"), ["x-late 2"]);
    assert_eq!(stream.request_headers().get("x-late"), None);
}

#[test]
fn trailers_end_a_stream_and_can_be_held() {
    let host = scripted().build().unwrap();
    let request = script("rh:pause;rb:size;rb:pause;rt:trailer=x-t=2").body("abc").trailer("x-t", "1");
    let stream = host.request(request).unwrap();
    assert_eq!(heard(&host, "size"), ["3 end false"]);
    let sent = stream.sent_upstream();
    assert_eq!(sent.body(), b"abc");
    let trailers = sent.trailers.unwrap();
    assert_eq!(trailers.get_all("x-t").collect::<Vec<_>>(), [&b"1"[..], b"2"]);
    let held = host.request(script("rt:pause").body("abc").trailer("x-t", "1")).unwrap();
    assert_eq!(held.sent_upstream().trailers, None);
    assert!(held.is_request_paused());
}

#[test]
fn trailers_can_be_added_in_the_last_body_callback_only() {
    let host = scripted().build().unwrap();
    let stream = host.request(script("rh:trailer=x-t=1;rb:trailer=x-t=2").body_chunks(["a", "b"])).unwrap();
    assert_eq!(heard(&host, "add"), ["x-t 2", "x-t 2"]);
    let sent = stream.sent_upstream();
    assert_eq!(sent.trailers, Some([("x-t", "2")].into_iter().collect::<HeaderMap>()));
    assert_eq!(sent.body(), b"ab");
    assert!(sent.ended);
}

#[test]
fn a_response_streams_through_chunk_by_chunk() {
    let host = scripted().build().unwrap();
    let stream = host.request(script("sb:body=0;sb:size")).unwrap();
    stream.respond(Response::new(200).body("data: 1\n").unfinished()).unwrap();
    assert_eq!(stream.progress(), StreamProgress::Responding);
    assert_eq!(stream.sent_downstream().chunks.len(), 1);
    stream.respond_body("data: 2\n", false).unwrap();
    stream.respond_body("", true).unwrap();
    assert_eq!(stream.sent_downstream().body(), b"data: 1\ndata: 2\n");
    assert_eq!(heard(&host, "size"), ["8 end false", "8 end false", "0 end true"]);
}

#[test]
fn response_trailers_end_a_stream() {
    let host = scripted().build().unwrap();
    let stream = host.request(script("st:pairs")).unwrap();
    let response = Response::new(200).body("abc").trailer("grpc-status", "0");
    stream.respond(response).unwrap();
    assert_eq!(stream.end(), Some(host_sim::StreamEnd::Complete));
    assert_eq!(stream.sent_downstream().trailers, Some([("grpc-status", "0")].into_iter().collect::<HeaderMap>()));
}

#[test]
fn every_split_of_a_body_gives_the_same_upstream_body() {
    let host = scripted().record_trace(false).build().unwrap();
    let body = b"{\"model\":\"m\",\"prompt\":\"p\"}";
    for first in 0..=body.len() {
        for second in first..=body.len() {
            let chunks = [&body[..first], &body[first..second], &body[second..]];
            let held = Request::post("/").header("x-script", "rh:pause;rb:pause_until_end").body_chunks(chunks);
            assert_eq!(host.request(held).unwrap().request_body(), body, "{first} {second}");
        }
    }
}

#[test]
fn a_request_may_be_let_through_before_it_is_complete() {
    let host = scripted().build().unwrap();
    let stream = host.request(script("rh:pause;rb:continue").body("a").unfinished()).unwrap();
    assert_eq!(stream.progress(), StreamProgress::Upstream);
    assert!(!stream.sent_upstream().ended);
    stream.send_body("b", false).unwrap();
    stream.send_trailers([("t", "1")].into_iter().collect()).unwrap();
    assert_eq!(stream.sent_upstream().chunks, [b"a".to_vec(), b"b".to_vec()]);
    assert!(stream.sent_upstream().ended);
    let late = stream.send_body("c", true);
    assert!(matches!(late, Err(host_sim::Error::OutOfOrder { .. })), "{late:?}");
}
