//! Pausing, buffering and changing bodies.

use crate::scenario::Scenario;

scenarios! {
    everything_passes: Scenario::guest().post("rh:continue").body("abc").body("de").end().answer(200, "text/plain", "fine");

    a_pause_at_headers_is_ended_by_the_body: Scenario::guest()
        .post("rh:pause;rb:body=0;rb:pause_until_end;rb:set=x-picked=a")
        .body("one").body("two").end()
        .answer(200, "text/plain", "fine");

    a_bodiless_request_passes: Scenario::guest().get("rh:pairs").respond_empty(204);
}
