//! Every way in which a stream can end, as a filter hears of it.

use crate::scenario::{Route, Scenario};

const TOLD: &str =
    "log:try_property=response.code;log:try_property=response.flags;log:try_property=response.code_details";

scenarios! {
    a_complete_stream: Scenario::guest().get(TOLD).respond_with(200, "text/plain", "fine");

    an_upstream_that_resets_before_its_headers: Scenario::guest()
        .post(&format!("sh:try_pairs=response;sb:body=0;sh:try_property=response.code_details;\
              {TOLD}")).body("a").end().reset();

    an_upstream_that_resets_before_the_request_is_complete: Scenario::guest()
        .post(&format!("rb:continue;sh:try_property=response.code_details;{TOLD}")).body("a").reset();

    an_upstream_that_resets_after_its_headers: Scenario::guest().get(TOLD).respond(200).reset();

    an_upstream_that_resets_in_its_body: Scenario::guest().get(TOLD).respond(200).respond_body("abc").reset();

    an_upstream_that_resets_a_held_response: Scenario::guest()
        .get(&format!("sh:pause;sb:pause;{TOLD}")).respond(200).respond_body("abc").reset();

    an_upstream_that_is_too_late: Scenario::guest().route(Route::Timeout(50))
        .get(&format!("sh:try_pairs=response;sb:body=0;{TOLD}")).timed_out();

    no_upstream: Scenario::guest().route(Route::Nowhere)
        .get(&format!("sh:try_pairs=response;sb:body=0;{TOLD}")).no_host();

    a_reply_of_the_router_is_changed: Scenario::guest().route(Route::Nowhere)
        .get("sh:set=x-seen=1;sh:set=:status=429;sh:del=content-length;sb:splice=0,,changed").no_host();

    a_client_that_leaves_before_its_body: Scenario::guest().post(&format!("rh:pause;{TOLD}")).leave();

    a_client_that_leaves_in_its_body: Scenario::guest()
        .post(&format!("rh:pause;rb:pause_until_end;{TOLD}")).body("abc").leave();

    a_client_that_leaves_before_the_response: Scenario::guest().post(TOLD).body("abc").end().leave();

    a_client_that_leaves_in_the_response: Scenario::guest()
        .get(TOLD).respond(200).respond_body("abc").leave();

    a_client_that_leaves_while_the_response_is_held: Scenario::guest()
        .get(&format!("sh:pause;sb:pause;{TOLD}")).respond(200).respond_body("abc").leave();

    a_response_before_the_request_is_complete: Scenario::guest()
        .post("rb:continue").body("abc").respond_with(200, "text/plain", "fine");

    errors_of_the_upstream_pass: Scenario::guest()
        .get("sh:header=:status").respond_with(500, "text/plain", "a").get("sh:header=:status").respond_with(503, "text/plain", "b")
        .get("sh:header=:status").respond_with(404, "text/plain", "c");

    responses_without_a_body: Scenario::guest()
        .get("sh:size").respond_bare(204).get("sh:size").respond_bare(304)
        .bodiless("HEAD", "/", &[("x-script", "sh:size")]).respond_bare(200).header("content-length", "12");

    a_body_declared_empty_is_none: Scenario::guest()
        .bodiless("POST", "/", &[("x-script", "rh:size"), ("content-length", "0")]).respond_empty(200);

    a_body_of_chunks_may_be_empty: Scenario::guest().post("rh:size;rb:size").end().respond(200).respond_end();

    a_client_that_waits_for_100_continue: Scenario::guest()
        .bodied("/", &[("x-script", "rh:try_pairs=request"), ("expect", "100-continue")]).measured().body("abc").end()
        .respond_with(200, "text/plain", "fine");
}
