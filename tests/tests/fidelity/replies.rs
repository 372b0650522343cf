//! Local replies, resets, and who hears of them.

use crate::scenario::Scenario;

const SEEN: &str = "sh:header=x-from;sb:body=0";

scenarios! {
    a_reply_at_headers_comes_back_through_the_filter:
        Scenario::guest().post(&format!("rh:reply=429,slow down;{SEEN}")).body("abc").end();

    a_reply_without_a_body: Scenario::guest().get("rh:reply=429;sh:try_pairs=response");

    a_reply_in_the_body: Scenario::guest().post(&format!("rh:pause;rb:reply=400,bad;\
              {SEEN}")).body("abc").body("def").end();

    a_reply_in_the_body_whose_headers_have_gone:
        Scenario::guest().post(&format!("rb:reply=400,bad;{SEEN}")).body("abc").body("def").end();

    a_reply_at_trailers: Scenario::guest()
        .post(&format!("rh:pause;rb:pause;rt:reply=400,bad;{SEEN}")).body("abc").trailers(&[("x-t", "1")]);

    a_reply_stops_the_request_whatever_the_callback_returns:
        Scenario::guest().post(&format!("rh:replies_on=429,no;rh:continue;{SEEN}")).body("abc").end();

    a_reply_in_the_body_stops_the_request_whatever_the_callback_returns:
        Scenario::guest().post(&format!("rb:replies_on=429,no;rb:continue;{SEEN}")).body("abc").body("d").end();

    a_reply_is_changed_on_its_way_out: Scenario::guest()
        .get("rh:reply=429,slow;sh:set=x-add=1;sh:set=:status=430;sh:del=content-length;sb:splice=0,,changed");

    a_reply_is_held_on_its_way_out: Scenario::guest().get("rh:reply=429,slow;sh:pause;sb:pause_until_end");

    a_reply_is_held_for_good: Scenario::guest().get("rh:reply=429,slow;sh:pause;sb:pause");

    a_reply_at_response_headers: Scenario::guest()
        .get("sh:reply=502,bad;sb:body=0").respond_with(200, "text/plain", "good");

    a_reply_at_headers_of_a_response_without_a_body: Scenario::guest().get("sh:reply=502,bad").respond_empty(200);

    a_reply_in_the_response_body_whose_headers_are_held: Scenario::guest()
        .get("sh:pause;sb:reply=502,bad").respond_with(200, "text/plain", "good");

    a_reply_in_the_response_body_whose_headers_have_gone: Scenario::guest()
        .get("sb:reply=502,bad").respond(200).respond_body("good").respond_body("better").respond_end();

    a_reply_at_response_trailers: Scenario::guest()
        .get("st:reply=502,bad").respond(200).respond_body("good").respond_trailers(&[("x-t", "1")]);

    a_reply_at_response_trailers_when_all_is_held: Scenario::guest()
        .get("sh:pause;sb:pause;st:reply=502,bad").respond(200).respond_body("good").respond_trailers(&[("x-t", "1")]);

    a_second_reply_in_the_callback_of_the_first: Scenario::guest().get("rh:reply=429,one;sh:reply=500,two");

    a_second_reply_in_the_body_of_the_first: Scenario::guest().get("rh:reply=429,one;sb:reply=500,two");

    two_replies_in_one_callback: Scenario::guest().get("rh:replies_on=429,one;rh:replies_on=500,two");

    a_reply_to_head: Scenario::guest()
        .bodiless("HEAD", "/", &[("x-script", "rh:reply=404,no such page;sh:try_pairs=response")]);

    a_reply_to_grpc: Scenario::guest()
        .bodiless("POST", "/", &[("content-type", "application/grpc"), ("x-script", "rh:reply=503,no backend;\
              sh:try_pairs=response")]);

    a_reply_while_the_request_still_comes: Scenario::guest().post("rb:reply=429,enough").body("abc");

    a_request_is_reset_at_its_headers: Scenario::guest().post("rh:reset").body("abc").end();

    a_request_is_reset_in_its_body: Scenario::guest().post("rh:pause;rb:reset;rb:pause").body("abc").end();

    a_response_is_reset_at_its_headers: Scenario::guest().get("sh:reset").respond_with(200, "text/plain", "good");

    a_response_is_reset_in_its_body: Scenario::guest()
        .get("sb:reset").respond(200).respond_body("good").respond_body("better").respond_end();

    a_parked_request_is_resumed_by_the_end_of_another: Scenario::guest()
        .post("rh:pause;rb:park;rb:pause").body("abc")
        .get("log:unpark").respond_empty(200)
        .on(0).respond_with(200, "text/plain", "fine");

    a_parked_request_that_is_gone_is_not_found: Scenario::guest()
        .post("rh:park;rh:pause").leave()
        .get("rh:unpark").respond_empty(200);

    a_parked_request_is_resumed_by_a_tick: Scenario::guest()
        .post("rh:pause;rb:park;rb:tick_every=20;rb:pause").body("abc").pass(100)
        .end().respond_with(200, "text/plain", "fine");

    a_parked_request_is_resumed_by_the_response_to_a_call: Scenario::guest()
        .post("rh:call=backend,500;rh:pause;rb:pause;call:try_header=6,:status;call:resume").body("abc").pass(100)
        .respond_with(200, "text/plain", "fine");

    a_request_is_continued_at_its_headers: Scenario::guest().differs()
        .post("rh:try_continue=0").body("abc").end().respond_with(200, "text/plain", "fine");

    a_request_is_continued_in_its_body: Scenario::guest()
        .post("rb:try_continue=0").body("abc").body("def").end().respond_with(200, "text/plain", "fine");

    a_response_is_continued_at_its_headers: Scenario::guest().differs()
        .get("sh:try_continue=1").respond_with(200, "text/plain", "fine");

    a_response_is_continued_in_its_body: Scenario::guest()
        .get("sb:try_continue=1").respond(200).respond_body("ab").respond_body("cd").respond_end();

    other_streams_are_continued: Scenario::guest()
        .get("rh:try_continue=2;rh:try_continue=3;rh:try_continue=4").respond_empty(200);

    a_held_response_is_resumed_by_the_response_to_a_call: Scenario::guest()
        .get("sh:pause;sh:call=backend,500;sb:pause;call:resume_response").respond(200).respond_body("response").pass(100)
        .respond_end();
}
