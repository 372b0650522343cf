//! Hooks in orders that a usual request does not have.

use dm_host::CallbackName;

use crate::world::{self, assert_nothing_in_flight, complete};

tests! {
    hooks_that_nobody_asked_for_do_nothing
    the_response_of_a_stream_that_was_never_decoded_is_none_of_ours
    an_answer_of_ours_may_end_the_stream_inside_the_call_that_sends_it
    a_clients_own_destination_goes_no_further
    what_is_in_flight_is_shown_and_goes_to_nothing
}

mod scenarios {
    use super::*;

    pub(super) fn hooks_that_nobody_asked_for_do_nothing() {
        let host = world::host();
        let stream = host.request(world::chat().unfinished());
        stream.call_unasked();
        host.call_unasked();
        stream.client_reset();
        complete(&host);
        assert_eq!(host.admin("GET", "/inpick"), None);
        assert_nothing_in_flight(&host);
        host.shut_down().unwrap();
    }

    pub(super) fn the_response_of_a_stream_that_was_never_decoded_is_none_of_ours() {
        let host = world::host();
        complete(&host);
        let stream = host.worker(0).undecoded();
        stream.proxy_reply(403, "no", "earlier_filter", 0);
        assert_eq!(stream.downstream().status(), Some(403));
        let stats = assert_nothing_in_flight(&host);
        let errors = stats.keys().filter(|name| name.ends_with("request_error_total")).count();
        assert_eq!((errors, stats[&format!("{}priority=0;inference_objective_request_total", world::MODEL)]), (0, 1));
    }

    pub(super) fn an_answer_of_ours_may_end_the_stream_inside_the_call_that_sends_it() {
        let host = world::host();
        complete(&host);
        for request in [world::post("/v1/completions").body("nonsense"), world::post("/v1/completions").body("")] {
            let stream = host.worker(0).completing_inline().request(request);
            assert_eq!(stream.reply().map(|reply| (reply.status, reply.by_module)), Some((400, true)));
            let hooks = stream.hooks();
            assert_eq!(hooks[hooks.len() - 2..], ["stream_complete", "destroy"]);
        }
        let stats = assert_nothing_in_flight(&host);
        assert_eq!(world::total(&stats, "request_error_total"), 2, "{stats:#?}");
    }

    pub(super) fn a_clients_own_destination_goes_no_further() {
        let host = world::host();
        let stream = host.request(world::chat().header("x-gateway-destination-endpoint", "6.6.6.6:6"));
        assert_eq!(stream.request_headers().text("x-gateway-destination-endpoint"), None);
        assert_ne!(world::picked(&stream), "6.6.6.6:6");
        assert!(host.calls(CallbackName::SetMetadataString) > 0);
    }

    pub(super) fn what_is_in_flight_is_shown_and_goes_to_nothing() {
        let host = world::informed(world::builder().workers(2).build().unwrap());
        let held: Vec<_> = (0..2)
            .map(|index| {
                let stream = host.worker(index).request(world::chat());
                stream.attempt(&world::picked(&stream));
                stream
            })
            .collect();
        let stats = world::settled(&host);
        assert_eq!(world::total(&stats, ";inpick_in_flight_requests"), 2, "{stats:#?}");
        assert_eq!(world::total(&stats, ";inference_objective_running_requests"), 2, "{stats:#?}");
        held[0].client_reset();
        held[1].respond(world::answer("application/json").body(world::ANSWER));
        assert_nothing_in_flight(&host);
    }
}
