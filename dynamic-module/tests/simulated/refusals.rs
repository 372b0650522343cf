//! Every callback refuses, once, twice and always: the process lives, nothing is in flight for ever, and the next request is served.

use dm_host::{CallbackName, Refusal};

use crate::world::{self, Host, assert_nothing_in_flight, complete};

tests! {
    no_refusal_of_any_call_costs_more_than_its_request
}

mod scenarios {
    use super::*;

    const CONFIG: &str = r#"{"metrics": {"flush_interval_ms": 20},
        "access_log": true, "explain": {"secret": "a-secret-of-the-operator"},
        "model_rewrites": [{"name": "r", "model": "virtual", "targets": [{"model": "t"}]}]}"#;

    /// One request of each kind that makes the module call what it can call. A host that refuses may also refuse to answer.
    fn exercise(host: &Host) {
        for body in [world::CHAT, r#"{"model":"virtual","stream":true}"#, "not json", ""] {
            let request = world::post("/v1/chat/completions")
                .header("x-gateway-destination-endpoint", "1.2.3.4:5")
                .header("x-inpick-explain", "a-secret-of-the-operator")
                .header("content-length", body.len().to_string())
                .body_chunks(body.as_bytes().chunks(11));
            for inline in [false, true] {
                let worker = host.worker(0);
                let worker = if inline { worker.completing_inline() } else { worker };
                let stream = worker.request(request.clone());
                stream.attempt("10.0.0.1:8000");
                let kind = if body.contains("stream") { "text/event-stream" } else { "application/json" };
                stream.respond(world::answer(kind).body_chunks(world::ANSWER.as_bytes().chunks(20)));
                stream.client_reset();
            }
        }
        host.fire_timers();
        host.fire_timers();
    }

    pub(super) fn no_refusal_of_any_call_costs_more_than_its_request() {
        let host = world::informed(world::builder().filter(CONFIG).build().unwrap());
        complete(&host);
        for callback in CallbackName::ALL {
            // A timer that is refused is a timer that never fires; the extension has nothing else to wake it.
            if callback == CallbackName::TimerEnable {
                continue;
            }
            for refusal in [Refusal::of(callback), Refusal::of(callback).nth(1), Refusal::of(callback).always()] {
                host.refuse(refusal);
                exercise(&host);
                host.clear_refusals();
            }
            assert_eq!(complete(&host).downstream().status(), Some(200), "{callback:?} had refused");
            assert_eq!(host.violations(), [""; 0], "{callback:?}");
        }
        let stats = assert_nothing_in_flight(&host);
        assert!(stats.keys().all(|name| !name.contains("panics")), "{stats:#?}");
        host.shut_down().unwrap();
    }
}
