//! Every status that the host could answer to every call that the filter makes: the virtual machine lives on, and the next
//! request is served.

use host_sim::{Callback, FailurePolicy, Fault, Host, Status, VmName};

use crate::world::{self, complete};

const STATUSES: [Status; 12] = [
    Status::NotFound,
    Status::BadArgument,
    Status::SerializationFailure,
    Status::ParseFailure,
    Status::BadExpression,
    Status::InvalidMemoryAccess,
    Status::Empty,
    Status::CasMismatch,
    Status::ResultMismatch,
    Status::InternalFailure,
    Status::BrokenConnection,
    Status::Unimplemented,
];

/// Calls of a worker. `proxy_http_call` is the service's and has a test of its own.
const CALLS: [&str; 17] = [
    "proxy_log",
    "proxy_get_header_map_pairs",
    "proxy_replace_header_map_value",
    "proxy_remove_header_map_value",
    "proxy_get_buffer_bytes",
    "proxy_set_buffer_bytes",
    "proxy_send_local_response",
    "proxy_get_property",
    "proxy_define_metric",
    "proxy_increment_metric",
    "proxy_record_metric",
    "proxy_set_property",
    "proxy_call_foreign_function",
    "proxy_get_shared_data",
    "proxy_set_shared_data",
    "clock_time_get",
    "random_get",
];

/// One request of each kind that makes the filter call what it can call.
fn exercise(host: &Host) {
    let step = std::time::Duration::from_millis(1_100);
    for body in [world::CHAT, r#"{"model":"rewritten","stream":true}"#, "not json", ""] {
        let request = host_sim::Request::post("/v1/chat/completions")
            .header("x-gateway-destination-endpoint", "1.2.3.4:5")
            .header("x-inpick-explain", world::SECRET)
            .header("content-length", body.len().to_string())
            .body(body);
        // A host that refuses everything may also refuse to answer; the machine's life is what counts here.
        if let Ok(exchange) = host.request(request) {
            exchange.set_property("upstream.address", "10.0.0.1:8000");
            let kind = if body.contains("stream") { "text/event-stream" } else { "application/json" };
            let _ = exchange.respond(world::answer(kind).body_chunks([world::ANSWER, "data: {", "}\n\n"]));
            let _ = exchange.client_reset();
        }
        host.advance(step);
    }
    if let Ok(exchange) =
        host.request(host_sim::Request::get("/health").header("x-gateway-destination-endpoint", "1.2.3.4:5"))
    {
        let _ = exchange.respond(world::answer("text/plain").body("ok"));
    }
    host.advance(step);
}

fn host() -> Host {
    let config = format!(
        r#"{{"model_rewrites": [{{"name": "r", "model": "rewritten", "targets": [{{"model": "t"}}]}}],
            "access_log": true, "explain": {{"secret": "{}"}}}}"#,
        world::SECRET
    );
    let host = world::builder().plugin_configuration(config).failure_policy(FailurePolicy::FailClosed).build().unwrap();
    host.advance(std::time::Duration::from_secs(1));
    host
}

#[test]
fn no_status_of_any_call_ends_a_workers_machine() {
    for call in CALLS {
        for status in STATUSES {
            let host = host();
            host.inject(Fault::new(call, status).always());
            exercise(&host);
            host.clear_faults();
            for vm in [VmName::Worker(0), VmName::Service] {
                assert_eq!(host.failure(vm), None, "{call} answered {status:?} to {vm}");
            }
            let exchange = complete(&host);
            assert_eq!(exchange.response_status(), Some(200), "{call} had answered {status:?}");
        }
    }
}

#[test]
fn a_refused_call_to_the_sidecar_is_counted() {
    for status in STATUSES {
        let host = host();
        host.inject(Fault::new("proxy_http_call", status).always().during(Callback::Tick));
        host.advance(std::time::Duration::from_secs(2));
        for vm in [VmName::Worker(0), VmName::Service] {
            assert_eq!(host.failure(vm), None, "{status:?}");
        }
        host.clear_faults();
        assert_eq!(complete(&host).response_status(), Some(200), "{status:?}");
        assert!(world::settled(&host)["outcome=refused;inpick_snapshot_fetches_total"] > 0, "{status:?}");
    }
}
