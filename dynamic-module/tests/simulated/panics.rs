//! A panic in each hook: Envoy lives, the client gets an answer in the API's shape if none has begun, and it is counted.

use dm_host::{HttpMessage, NativeStream};

use crate::flow_control;
use crate::world::{self, assert_nothing_in_flight, complete, total};

tests! {
    a_panic_on_the_way_in_is_answered_with_500
    a_panic_on_the_way_out_costs_its_answer_at_most
    a_panic_of_a_request_that_waited_is_answered_with_500
    a_panic_of_the_main_thread_costs_one_turn
}

mod scenarios {
    use super::*;

    const FAULT: &str = "x-inpick-fault";

    /// A reply of ours in the API's shape.
    #[track_caller]
    fn assert_500(stream: &NativeStream) {
        let sent = stream.downstream();
        let body = String::from_utf8(sent.body.clone()).unwrap();
        assert_eq!(sent.status(), Some(500), "{body}");
        assert!(body.starts_with(r#"{"error":{"message":"#) && body.contains(r#""type""#), "{body}");
        assert_eq!(sent.headers.unwrap().text("content-type").as_deref(), Some("application/json"));
    }

    pub(super) fn a_panic_on_the_way_in_is_answered_with_500() {
        let host = world::host();
        complete(&host);
        for hook in ["request_headers", "request_body", "request_trailers"] {
            for inline in [false, true] {
                let worker = host.worker(0);
                let worker = if inline { worker.completing_inline() } else { worker };
                let request = world::chat().header(FAULT, hook).trailer("x", "y");
                let stream = worker.request(request);
                assert_500(&stream);
                assert!(!stream.upstream().ended, "{hook}: nothing goes upstream");
                complete(&host);
            }
        }
        let stats = assert_nothing_in_flight(&host);
        for hook in ["request_headers", "request_body", "request_trailers"] {
            assert_eq!(stats.get(&format!("reason={hook};inpick_panics_total")), Some(&2), "{hook}: {stats:#?}");
        }
        // Those of which nothing was known yet, not even that they were requests of the API, are panics only.
        assert_eq!(total(&stats, "error_code=Internal;inference_objective_request_error_total"), 4, "{stats:#?}");
        assert_eq!(total(&stats, ";inference_objective_request_total"), 11, "{stats:#?}");
        host.shut_down().unwrap();
    }

    pub(super) fn a_panic_on_the_way_out_costs_its_answer_at_most() {
        let host = world::host();
        complete(&host);
        for hook in ["response_headers", "response_body", "response_trailers", "stream_complete"] {
            let stream = host.request(world::chat().header(FAULT, hook));
            stream.attempt("10.0.0.1:8000");
            stream.respond(world::answer("application/json").body(world::ANSWER).trailer("x", "y"));
            if hook == "response_headers" {
                assert_500(&stream);
            } else {
                assert_eq!(stream.downstream().status(), Some(200), "{hook}: its headers had gone");
                assert_eq!(stream.downstream().body, world::ANSWER.as_bytes(), "{hook}");
            }
            assert_eq!(stream.hooks().last(), Some(&"destroy"));
            complete(&host);
        }
        let stats = assert_nothing_in_flight(&host);
        assert_eq!(total(&stats, ";inference_objective_request_total"), 9, "{stats:#?}");
        for hook in ["response_headers", "response_body", "response_trailers", "stream_complete"] {
            assert_eq!(stats.get(&format!("reason={hook};inpick_panics_total")), Some(&1), "{hook}: {stats:#?}");
        }
        host.shut_down().unwrap();
    }

    pub(super) fn a_panic_of_a_request_that_waited_is_answered_with_500() {
        let host = flow_control::host("{}");
        let (running, first) = flow_control::fill(&host);
        let faulty = host.worker(1).request(world::chat().header(FAULT, "scheduled"));
        assert!(faulty.is_request_held());
        flow_control::answer_all(&host, running, vec![first], |_| ());
        assert!(host.run_until(flow_control::PATIENCE, |_| faulty.downstream().status().is_some()));
        assert_500(&faulty);
        complete(&host);
        let stats = assert_nothing_in_flight(&host);
        assert_eq!(stats.get("reason=scheduled;inpick_panics_total"), Some(&1), "{stats:#?}");
        host.shut_down().unwrap();
    }

    pub(super) fn a_panic_of_the_main_thread_costs_one_turn() {
        let host = world::host();
        for hook in ["bootstrap_extension_timer_fired", "bootstrap_extension_http_callout_done"] {
            let stream = host.request(world::chat().header(FAULT, hook));
            stream.attempt("10.0.0.1:8000");
            stream.respond(HttpMessage::response(200).header("content-type", "application/json").body(world::ANSWER));
            let stats = assert_nothing_in_flight(&host);
            assert_eq!(stats.get(&format!("reason={hook};inpick_panics_total")), Some(&1), "{hook}: {stats:#?}");
            complete(&host);
        }
        host.shut_down().unwrap();
    }
}
