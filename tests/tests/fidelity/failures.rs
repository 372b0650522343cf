//! VMs that die.

use host_sim::FailurePolicy::{FailOpen, FailReload};

use crate::scenario::Scenario;

scenarios! {
    a_crash_at_request_headers: Scenario::guest().post("rh:panic").body("abc").end().get("");

    a_crash_in_the_request_body: Scenario::guest().post("rh:pause;rb:panic").body("abc").body("def").end();

    a_crash_in_a_request_body_whose_headers_have_gone: Scenario::guest().post("rb:panic").body("abc").body("def").end();

    a_crash_at_request_trailers: Scenario::guest().post("rh:pause;rb:pause;\
              rt:panic").body("abc").trailers(&[("x-t", "1")]);

    a_crash_at_response_headers: Scenario::guest().get("sh:panic").respond_with(200, "text/plain", "good");

    a_crash_in_the_response_body_whose_headers_are_held: Scenario::guest()
        .get("sh:pause;sb:panic").respond_with(200, "text/plain", "good");

    a_crash_in_the_response_body_whose_headers_have_gone: Scenario::guest()
        .get("sb:panic").respond(200).respond_body("good").respond_body("better").respond_end();

    a_crash_at_response_trailers: Scenario::guest()
        .get("st:panic").respond(200).respond_body("good").respond_trailers(&[("x-t", "1")]);

    a_crash_in_the_log: Scenario::guest().get("log:panic").respond_with(200, "text/plain", "good").get("");

    a_stream_whose_vm_another_has_killed: Scenario::guest()
        .post("rh:pause;rb:pause").body("a")
        .get("").respond(200).respond_body("a")
        .get("rh:panic")
        .on(0).body("b").end()
        .on(1).respond_body("b").respond_end();

    a_response_through_a_vm_that_another_has_killed: Scenario::guest()
        .get("").get("rh:panic").on(0).respond_with(200, "text/plain", "good");

    a_stream_whose_vm_another_has_killed_though_crashes_are_passed_over: Scenario::guest().failure_policy(FailOpen)
        .post("rh:pause;rb:pause").body("a")
        .get("").respond(200).respond_body("a")
        .get("rh:panic")
        .on(0).body("b").end()
        .on(1).respond_body("b").respond_end();

    a_crash_that_is_passed_over: Scenario::guest().failure_policy(FailOpen)
        .post("rb:panic").body("abc").body("def").end().respond_with(200, "text/plain", "good")
        .post("rh:reply=429").body("c").end().respond_with(200, "text/plain", "good");

    a_crash_at_headers_that_is_passed_over: Scenario::guest().failure_policy(FailOpen)
        .post("rh:panic").body("abc").end().respond_with(200, "text/plain", "good");

    a_crash_at_response_headers_that_is_passed_over: Scenario::guest().failure_policy(FailOpen)
        .get("sh:panic").respond_with(200, "text/plain", "good");

    after_a_crash_the_vm_is_loaded_anew: Scenario::guest().failure_policy(FailReload)
        .get("").respond_empty(200).pass(300).get("rh:panic").get("rh:trace;rh:size").respond_empty(200);

    a_vm_that_crashes_again_at_once_waits: Scenario::guest().failure_policy(FailReload)
        .get("").respond_empty(200).pass(300).get("rh:panic").get("rh:panic").get("").pass(300).get("").respond_empty(200);
}
