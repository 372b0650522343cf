//! Header and trailer maps.

use crate::scenario::Scenario;

scenarios! {
    request_headers_are_listed_in_order: Scenario::guest()
        .bodiless("GET", "/path?a=b", &[("x-script", "rh:try_pairs=request"), ("x-b", "2"), ("x-a", "1")])
        .respond_empty(200);

    request_headers_of_a_body_in_chunks_do_not_tell_so: Scenario::guest()
        .post("rh:try_header=request,transfer-encoding").body("a").end().respond_empty(200);

    response_headers_are_listed_in_order: Scenario::guest()
        .get("sh:try_pairs=response").respond(200).header("X-Upper", "A").header("x-b", "2").header("x-a", "1")
        .respond_body("a").respond_end();

    a_missing_header_is_told_from_an_empty_one: Scenario::guest()
        .bodiless("GET", "/", &[("x-script", "rh:try_header=request,x-none;rh:try_header=request,x-empty;\
            rh:try_header=request,X-Empty;rh:try_header=request,;sh:try_header=response,x-none"), ("x-empty", "")])
        .respond_empty(200);

    of_several_values_the_first_is_read: Scenario::guest()
        .bodiless("GET", "/", &[("x-script", "rh:try_header=request,x-a;\
              rh:try_pairs=request"), ("x-a", "1"), ("x-b", "2"), ("x-a", "3")])
        .respond_empty(200).header("x-r", "1").header("x-r", "2");

    cookies_come_as_they_are: Scenario::guest()
        .bodiless("GET", "/", &[("x-script", "rh:try_header=request,cookie"), ("cookie", "a=1"), ("cookie", "b=2")])
        .respond_empty(200).header("set-cookie", "c=1").header("set-cookie", "d=2");

    request_headers_are_changed: Scenario::guest()
        .bodiless("GET", "/", &[("x-script", "rh:try_set=request,x-a,9;rh:try_add=request,x-a,8;\
              rh:try_add=request,x-n,1;\
            rh:try_set=request,X-Set,1;rh:try_remove=request,x-b;rh:try_remove=request,x-none;rh:try_set=request,x-e,"),
            ("x-a", "1"), ("x-b", "2"), ("x-a", "3"), ("x-c", "4")])
        .respond_empty(200);

    all_headers_are_replaced: Scenario::guest()
        .get("rh:set_all=:method=GET,:path=/new,:authority=gateway,:scheme=http,x-forwarded-proto=http,x-stream=@/0,x-a=1,x-a=2;rh:try_pairs=request;\
              sh:set_all=:status=201,x-b=1,content-length=0;sh:try_pairs=response")
        .respond_empty(200).header("x-gone", "1");

    pseudo_headers_are_changed: Scenario::guest()
        .get("rh:try_set=request,:path,/other;rh:try_set=request,:authority,else;rh:try_set=request,:method,DELETE;\
              sh:try_set=response,:status,418;sh:try_header=response,:status")
        .respond_empty(200);

    pseudo_headers_that_are_changed_stay_in_front: Scenario::guest()
        .get("rh:try_set=request,:path,/other;rh:try_pairs=request;sh:try_set=response,:status,418;\
              sh:try_pairs=response")
        .respond_empty(200);

    response_headers_are_changed: Scenario::guest()
        .get("sh:try_set=response,x-a,9;sh:try_add=response,x-a,8;sh:try_add=response,x-n,1;sh:try_remove=response,x-b")
        .respond_empty(200).header("x-a", "1").header("x-b", "2").header("x-a", "3").header("x-c", "4");

    headers_that_are_held_are_changed_from_the_body: Scenario::guest()
        .post("rh:pause;rb:try_set=request,x-late,1;rb:try_pairs=request").body("a").end()
        .respond_with(200, "text/plain", "fine");

    headers_that_have_gone_are_out_of_reach: Scenario::guest()
        .post("rb:try_set=request,x-late,1;rb:try_add=request,x-late,1;rb:try_remove=request,x-late;\
               rb:try_header=request,:path;rb:try_pairs=request;sh:try_header=request,:path;sh:try_set=request,x-late,1;\
               sb:try_header=response,:status;sb:try_set=response,x-late,1;sb:try_pairs=response")
        .body("abc").end().respond_with(200, "text/plain", "fine");

    maps_of_the_response_are_out_of_reach_before_it: Scenario::guest()
        .get("rh:try_header=response,:status;rh:try_pairs=response;rh:try_set=response,x,1;\
              rh:try_pairs=request_trailers;rh:try_pairs=response_trailers;rh:try_header=request_trailers,x")
        .respond_empty(200);

    other_maps_are_out_of_reach: Scenario::guest()
        .get("rh:try_pairs=4;rh:try_pairs=5;rh:try_pairs=6;rh:try_pairs=7;rh:try_pairs=8;rh:try_header=6,:status;\
              rh:try_header=8,x;rh:try_set=6,x,1;rh:try_set=8,x,1;rh:try_remove=8,x;rh:try_add=4,x,1")
        .respond_empty(200);

    the_log_reads_the_headers_of_both_sides: Scenario::guest()
        .get("log:try_header=request,:path;log:try_header=request,x-none;log:try_header=response,:status;\
              log:try_pairs=request_trailers;log:try_pairs=response_trailers;log:try_header=response_trailers,x;\
              log:try_set=request,x,1;log:try_set=response,x,1")
        .respond_empty(200);

    the_log_reads_trailers: Scenario::guest()
        .post("log:try_pairs=request_trailers;log:try_pairs=response_trailers").body("a").trailers(&[("x-q", "1")])
        .respond(200).respond_body("a").respond_trailers(&[("x-s", "2")]);

    the_log_of_a_request_that_had_no_response: Scenario::guest()
        .post("rh:pause;log:try_header=request,:path;log:try_header=response,:status;log:try_pairs=response").leave();

    headers_that_are_no_text_pass: Scenario::guest()
        .get("rh:try_header=request,x-raw;sh:try_header=response,x-raw").header("x-raw", b"a\xff\xfeb")
        .respond_empty(200).header("x-raw", b"\xe9t\xe9");
}
