//! Header maps.

use host_sim::{MAX_PAIRS, Response};

use crate::support::{heard, script, scripted};

#[test]
fn raw_bytes_order_and_duplicates_reach_the_guest() {
    let host = scripted().build().unwrap();
    let request = host_sim::Request::get("/a?b=c")
        .header(":authority", "svc")
        .header("x-script", "rh:pairs;rh:header=x-dup;rh:header=x-empty;rh:header=x-none")
        .header("X-Dup", b"\xff1")
        .header("x-dup", "2")
        .header("x-empty", "");
    let stream = host.request(request).unwrap();
    let pairs = &heard(&host, "pairs")[0];
    assert!(pairs.starts_with(":authority=svc,:path=/a?b=c,:method=GET,:scheme=http,x-script="), "{pairs}");
    assert!(pairs.ends_with(r"x-dup=\xff1,x-dup=2,x-empty="), "{pairs}");
    assert_eq!(heard(&host, "header"), [r#"x-dup Some("\\xff1")"#, r#"x-empty Some("")"#, "x-none None"]);
    let sent = stream.sent_upstream().headers.unwrap();
    assert_eq!(sent.get_all("x-dup").collect::<Vec<_>>(), [&b"\xff1"[..], b"2"]);
}

#[test]
fn headers_are_set_added_and_removed() {
    let host = scripted().build().unwrap();
    let request = script("rh:set=a=9;rh:add=b=2;rh:del=c;sh:del=server;sh:add=x=1");
    let stream = host.request(request.header("a", "1").header("a", "2").header("b", "1").header("c", "1")).unwrap();
    let sent = stream.sent_upstream().headers.unwrap();
    assert_eq!(sent.get_all("a").collect::<Vec<_>>(), [b"9"]);
    assert_eq!(sent.get_all("b").collect::<Vec<_>>(), [b"1", b"2"]);
    assert_eq!(sent.get("c"), None);
    stream.respond(Response::new(200).header("server", "vllm")).unwrap();
    let back = stream.sent_downstream();
    assert_eq!((back.header("server"), back.header("x")), (None, Some(&b"1"[..])));
}

#[test]
fn more_pairs_than_the_limit_empty_the_map() {
    let host = scripted().build().unwrap();
    let full = host.request(script(&format!("rh:many_pairs={MAX_PAIRS}"))).unwrap();
    assert_eq!(full.request_headers().len(), MAX_PAIRS);
    let over = host.request(script(&format!("rh:many_pairs={}", MAX_PAIRS + 1))).unwrap();
    assert!(over.request_headers().is_empty());
    assert_eq!(heard(&host, "many_pairs"), ["0", "0"]);
}

#[test]
fn the_log_sees_the_headers_of_both_halves_whatever_was_let_through() {
    let host = scripted().build().unwrap();
    let stream = host.request(script("log:header=:path;log:request_header=:path;log:pairs")).unwrap();
    stream.respond(Response::new(204)).unwrap();
    assert_eq!(heard(&host, "request_header"), [":path Some(\"/v1/completions\")"]);
}

#[test]
fn request_headers_can_be_read_and_changed_while_they_are_held() {
    let host = scripted().build().unwrap();
    let request = script("rh:pause;rb:header=:method;rb:set=x-late=1").body("abc");
    let stream = host.request(request).unwrap();
    assert_eq!(heard(&host, "header"), [":method Some(\"POST\")"]);
    assert_eq!(stream.sent_upstream().header("x-late"), Some(&b"1"[..]));
}
