//! A panic in each hook: Envoy lives, the client gets an answer in the API's shape if none has begun, and it is counted.

use std::time::Duration;

use dm_host::{HostError, NativeStream};

use crate::flow_control;
use crate::world::{self, assert_nothing_in_flight, complete, total};

tests! {
    a_panic_on_the_way_in_is_answered_with_500
    a_panic_on_the_way_out_costs_its_answer_at_most
    a_panic_of_a_request_that_waited_is_answered_with_500
    a_panic_of_the_main_thread_costs_one_turn
    a_panic_where_a_stream_begins_or_ends_costs_that_stream_at_most
    a_panic_where_a_configuration_begins_or_ends_leaves_the_one_that_works
    a_panic_at_shutdown_completes_it
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

    /// Has the next call of a hook that knows no request panic.
    fn order(host: &world::Host, hook: &str) {
        let stream = host.request(world::chat().header(FAULT, hook));
        stream.attempt("10.0.0.1:8000");
        stream.respond(world::answer("application/json").body(world::ANSWER));
        assert_eq!(stream.downstream().status(), Some(200));
        assert_eq!(stream.downstream().body, world::ANSWER.as_bytes());
    }

    pub(super) fn a_panic_of_the_main_thread_costs_one_turn() {
        let host = world::host();
        for hook in ["bootstrap_extension_timer_fired", "bootstrap_extension_http_callout_done"] {
            order(&host, hook);
            let stats = assert_nothing_in_flight(&host);
            assert_eq!(stats.get(&format!("reason={hook};inpick_panics_total")), Some(&1), "{hook}: {stats:#?}");
            complete(&host);
        }
        host.shut_down().unwrap();
    }

    pub(super) fn a_panic_where_a_stream_begins_or_ends_costs_that_stream_at_most() {
        let host = world::host();
        order(&host, "new");
        let unborn = host.request(world::chat());
        assert_eq!(unborn.downstream().status(), Some(500), "Envoy's own answer, since there is no stream of ours");
        order(&host, "destroy");
        complete(&host);
        let stats = assert_nothing_in_flight(&host);
        for hook in ["new", "destroy"] {
            assert_eq!(stats.get(&format!("reason={hook};inpick_panics_total")), Some(&1), "{hook}: {stats:#?}");
        }
        assert_eq!(total(&stats, ";inference_objective_request_total"), 3, "{stats:#?}");
        host.shut_down().unwrap();
    }

    pub(super) fn a_panic_where_a_configuration_begins_or_ends_leaves_the_one_that_works() {
        let mut host = world::host();
        order(&host, "config_new");
        let refused = host.replace_filter(world::CONFIG);
        assert!(matches!(refused, Err(HostError::FilterRefused(_))), "{refused:?}");
        complete(&host);
        order(&host, "config_destroy");
        host.replace_filter(world::CONFIG).unwrap();
        host.run_for(Duration::from_secs(1));
        complete(&host);
        let stats = assert_nothing_in_flight(&host);
        for hook in ["config_new", "config_destroy"] {
            assert_eq!(stats.get(&format!("reason={hook};inpick_panics_total")), Some(&1), "{hook}: {stats:#?}");
        }
        assert_eq!(total(&stats, ";inference_objective_request_total"), 4, "{stats:#?}");
        host.shut_down().unwrap();
    }

    pub(super) fn a_panic_at_shutdown_completes_it() {
        let host = world::host();
        order(&host, "bootstrap_extension_shutdown");
        // The host complains of anything but one completion, and of timers that are left.
        host.shut_down().unwrap();
    }
}
