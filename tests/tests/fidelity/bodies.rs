//! Pausing, buffering, limiting and changing bodies and trailers.

use crate::scenario::Scenario;

scenarios! {
    everything_passes:
        Scenario::guest().post("rh:continue").body("abc").body("de").end().respond_with(200, "text/plain", "fine");

    a_pause_at_headers_is_ended_by_the_body: Scenario::guest()
        .post("rh:pause;rb:body=0;rb:pause_until_end;rb:set=x-picked=a")
        .body("one").body("two").end()
        .respond_with(200, "text/plain", "fine");

    a_bodiless_request_passes: Scenario::guest().get("rh:continue").respond_bare(204);

    a_bodiless_request_is_paused_and_stays: Scenario::guest().get("rh:pause");

    a_paused_body_is_cumulative: Scenario::guest()
        .post("rh:pause;rb:body=0;rb:pause_until_end").body("abc").body("de").body("f").end()
        .respond_with(200, "text/plain", "fine");

    a_body_is_held_when_its_headers_have_gone: Scenario::guest()
        .post("rb:body=0;rb:pause_until_end").body("abc").body("de").end()
        .respond_with(200, "text/plain", "fine");

    a_request_is_let_through_before_it_is_complete: Scenario::guest()
        .post("rh:pause;rb:continue").body("a").body("b").end()
        .respond_with(200, "text/plain", "fine");

    a_body_that_resumes_itself_is_let_go: Scenario::guest()
        .post("rh:pause;rb:resume;rb:try_body=request,0,9").body("ab").body("cd").end()
        .respond_with(200, "text/plain", "fine");

    a_body_that_resumes_itself_and_pauses_is_let_go: Scenario::guest()
        .post("rh:pause;rb:resume;rb:pause").body("ab").body("cd").end()
        .respond_with(200, "text/plain", "fine");

    without_the_option_a_pause_at_headers_is_a_full_stop: Scenario::guest().stop_all()
        .post("rh:park;rh:pause;rb:body=0").body("abc").body("def").end()
        .get("rh:unpark").respond_empty(200)
        .on(0).respond_with(200, "text/plain", "fine");

    a_full_stop_is_over_while_the_body_comes: Scenario::guest().stop_all()
        .post("rh:park;rh:pause;rb:body=0").body("abc")
        .get("rh:unpark").respond_empty(200)
        .on(0).body("def").end().respond_with(200, "text/plain", "fine");

    after_a_full_stop_trailers_come_behind_the_body: Scenario::guest().stop_all()
        .post("rh:park;rh:pause;rb:body=0").body("abc").trailers(&[("x-t", "1")])
        .get("rh:unpark").respond_empty(200)
        .on(0).respond_with(200, "text/plain", "fine");

    after_a_full_stop_the_body_may_be_held_again: Scenario::guest().stop_all()
        .post("rh:park;rh:pause;rb:pause_until_end").body("abc")
        .get("rh:unpark").respond_empty(200)
        .on(0).body("def").end().respond_with(200, "text/plain", "fine");

    after_a_full_stop_a_response_comes_to_the_filter: Scenario::guest().stop_all()
        .get("sh:park;sh:pause;\
              sb:body=0").respond(200).respond_body("ab").respond_body("cd").respond_trailers(&[("x-t", "1")])
        .get("rh:unpark_response").respond_empty(200);

    a_full_stop_of_a_response_is_over_while_it_comes: Scenario::guest().stop_all()
        .get("sh:park;sh:pause;sb:body=0").respond(200).respond_body("ab")
        .get("rh:unpark_response").respond_empty(200)
        .on(0).respond_body("cd").respond_end();

    a_held_response_is_let_go_by_another: Scenario::guest()
        .get("sh:park;sh:pause;sb:pause").respond(200).respond_body("ab")
        .get("rh:unpark_response").respond_empty(200)
        .on(0).respond_body("cd").respond_end();

    a_full_stop_above_the_limit_refuses_nothing: Scenario::guest().stop_all().limit(4)
        .post("rh:pause").body("12345").body("6789").end();

    a_buffered_body_above_the_limit_is_refused: Scenario::guest().limit(4)
        .post("rh:pause;rb:pause;sh:header=:status").body("1234").body("5").body("6");

    a_first_piece_above_the_limit_is_refused: Scenario::guest().limit(4)
        .post("rh:pause;rb:pause").body("12345").body("6");

    a_last_piece_above_the_limit_is_refused: Scenario::guest().limit(4)
        .bodied("/v1/completions", &[("x-script", "rh:pause;\
              rb:pause_until_end")]).measured().body("1234").body("5").end();

    a_body_that_is_let_go_when_it_is_above_the_limit: Scenario::guest().limit(4)
        .post("rh:pause;rb:pause_below=5").body("1234").body("5").end();

    a_first_piece_above_the_limit_that_is_let_go_passes: Scenario::guest().limit(4)
        .post("rh:pause;rb:continue").body("12345").end().respond_with(200, "text/plain", "fine");

    a_response_that_is_let_go_when_it_is_above_the_limit: Scenario::guest().limit(16)
        .get("sh:pause;\
              sb:pause_below=20").respond(200).respond_body("0123456789").respond_body("0123456789").respond_end();

    a_body_at_the_limit_passes: Scenario::guest().limit(4)
        .post("rh:pause;rb:pause_until_end").body("12").body("34").end().respond_with(200, "text/plain", "fine");

    a_body_above_the_limit_that_is_not_held_passes: Scenario::guest().limit(4)
        .post("rb:continue").body("123456").body("789012").end().respond_with(200, "text/plain", "fine");

    a_held_response_above_the_limit_is_replaced: Scenario::guest().limit(16)
        .get("sh:pause;sb:pause").respond(200).respond_body("0123456789").respond_body("0123456789").respond_end();

    a_first_piece_of_a_held_response_above_the_limit_is_replaced: Scenario::guest().limit(16)
        .get("sh:pause;sb:pause").respond(200).respond_body("0123456789 0123456789").respond_end();

    a_response_above_the_limit_whose_headers_have_gone_is_cut: Scenario::guest().limit(16)
        .get("sb:pause").respond(200).respond_body("0123456789").respond_body("0123456789").respond_end();

    a_body_is_replaced: Scenario::guest()
        .post("rb:splice=0,,new").body("old body").end().respond_with(200, "text/plain", "fine");

    a_body_is_changed_at_its_front: Scenario::guest()
        .post("rb:splice=0,3,new").body("old body").end().respond_with(200, "text/plain", "fine");

    a_body_is_appended_to: Scenario::guest()
        .post("rb:splice=8,0,!").body("old body").end().respond_with(200, "text/plain", "fine");

    a_body_is_never_cut_in_the_middle: Scenario::guest()
        .post("rb:splice=4,4,BODY").body("old body").end().respond_with(200, "text/plain", "fine");

    a_buffered_body_is_changed_as_a_whole: Scenario::guest()
        .post("rh:pause;rb:splice=0,2,XY;rb:body=0;rb:pause_until_end").body("ab").body("cd").end()
        .respond_with(200, "text/plain", "fine");

    a_buffered_body_is_emptied: Scenario::guest()
        .post("rh:pause;rb:pause_until_end;rb:splice=0,,").body("ab").body("cd").end()
        .respond_with(200, "text/plain", "fine");

    a_response_body_is_replaced: Scenario::guest()
        .get("sh:del=content-length;sb:splice=0,,new").respond_with(200, "text/plain", "old body");

    a_response_body_is_buffered_and_replaced: Scenario::guest()
        .get("sh:pause;sb:body=0;sb:pause_until_end;sb:splice=0,,new").respond(200)
        .respond_body("ab").respond_body("cd").respond_end();

    a_response_streams_through_piece_by_piece: Scenario::guest()
        .get("sb:body=0").respond(200).header("content-type", "text/event-stream")
        .respond_body("data: 1\n\n").respond_body("data: 2\n\n").respond_end();

    a_response_is_held_to_its_end: Scenario::guest()
        .get("sh:pause;sb:pause_until_end").respond(200).respond_body("ab").respond_body("cd").respond_end();

    a_response_without_a_body_is_paused_and_stays: Scenario::guest().get("sh:pause").respond_empty(200);

    a_body_outside_of_its_callback_is_out_of_reach: Scenario::guest()
        .post("rh:try_body=request,0,9;rh:try_splice=request,0,0,x;sh:try_body=request,0,9;sh:try_body=response,0,9;\
               sb:try_body=request,0,9;log:try_body=request,0,9;log:try_body=response,0,9;\
              log:try_splice=response,0,0,x")
        .body("abc").end().respond_with(200, "text/plain", "fine");

    a_body_is_read_in_ranges: Scenario::guest()
        .post("rb:try_body=request,2,3;rb:try_body=request,4,999;rb:try_body=request,4;rb:try_body=request,0,0;\
               rb:try_body=request,7,1;rb:try_body=request,9,1;rb:try_body=request,9,0")
        .body("0123456").end().respond_with(200, "text/plain", "fine");

    other_buffers_are_read: Scenario::guest()
        .get("rh:try_body=2,0,9;rh:try_body=3,0,9;rh:try_body=4,0,9;rh:try_body=5,0,9;rh:try_body=6,0,99;\
              rh:try_body=7,0,99;rh:try_body=8,0,9;rh:try_body=9,0,9;rh:try_splice=6,0,0,x;rh:try_splice=9,0,0,x")
        .respond_empty(200);

    request_trailers_end_a_held_body: Scenario::guest()
        .post("rh:pause;rb:body=0;rb:pause;rt:trailer=x-t=2;rt:try_pairs=request_trailers;rt:try_body=request,0,9")
        .body("abc").body("de").trailers(&[("x-t", "1")]).respond_with(200, "text/plain", "fine");

    request_trailers_are_held: Scenario::guest()
        .post("rh:park;rt:pause").body("abc").trailers(&[("x-t", "1")])
        .get("rh:unpark").respond_empty(200)
        .on(0).respond_with(200, "text/plain", "fine");

    trailers_are_added_in_the_last_body_callback_only: Scenario::guest()
        .post("rh:try_add=request_trailers,x-t,1;rb:try_add=request_trailers,x-t,2").body("a").body("b").end()
        .respond_with(200, "text/plain", "fine");

    response_trailers_pass: Scenario::guest()
        .get("st:try_pairs=response_trailers;st:try_set=response_trailers,x-t,2;st:try_add=response_trailers,x-u,3")
        .respond(200).respond_body("ab").respond_trailers(&[("x-t", "1")]);

    response_trailers_end_a_held_body: Scenario::guest()
        .get("sh:pause;sb:pause;st:try_body=response,0,9").respond(200).respond_body("ab").respond_body("cd")
        .respond_trailers(&[("x-t", "1")]);

    response_trailers_are_added_in_the_last_body_callback_only: Scenario::guest()
        .get("sb:try_add=response_trailers,x-t,2").respond(200).respond_body("ab").respond_end();
}
