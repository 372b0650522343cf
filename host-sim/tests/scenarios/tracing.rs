//! The trace, crossings and injected statuses.

use host_sim::{Callback, Direction, Fault, Response, Status, VmName};

use crate::support::{heard, script, scripted};

#[test]
fn crossings_are_counted_per_stream_both_ways_allocations_included() {
    let host = scripted().build().unwrap();
    let stream = host.request(script("rb:body=0;rb:body=9").body("abc")).unwrap();
    stream.respond(Response::new(200)).unwrap();
    let crossings = stream.crossings();
    assert_eq!(crossings.calls("proxy_get_buffer_bytes"), 2);
    assert_eq!(crossings.calls("proxy_get_header_map_value"), 1);
    assert_eq!(crossings.allocations(), 2);
    assert_eq!(crossings.callbacks("proxy_on_request_body"), 1);
    let logged = crossings.calls("proxy_log");
    assert_eq!(crossings.total_calls(), 3 + logged);
    // Create, request headers and body, response headers, log, done, delete.
    assert_eq!(crossings.total_callbacks(), 7 + 2);
    assert_eq!(crossings.total(), crossings.total_calls() + crossings.total_callbacks());
    assert_eq!(crossings.iter().map(|(_, _, count)| count).sum::<u64>(), crossings.total());
    let other = host.request(script("")).unwrap();
    assert_eq!(other.crossings().calls("proxy_get_buffer_bytes"), 0);
    assert!(host.crossings(VmName::Worker(0)).total() > crossings.total());
}

#[test]
fn crossings_are_counted_without_a_trace() {
    let host = scripted().record_trace(false).build().unwrap();
    let stream = host.request(script("rb:body=0").body("abc")).unwrap();
    assert!(host.trace().is_empty());
    assert_eq!(stream.crossings().calls("proxy_get_buffer_bytes"), 1);
    assert!(host.worst_fuel(Callback::RequestBody).is_some());
}

#[test]
fn each_kind_of_callback_has_its_instructions_calls_and_allocations() {
    let host = scripted().build().unwrap();
    let stream = host.request(script("rb:body=0;rb:body=9").body_chunks(["abc", "de"])).unwrap();
    stream.respond(Response::new(200)).unwrap();
    let crossings = stream.crossings();
    let body = crossings.cost(Callback::RequestBody);
    let trace = stream.trace();
    let logged =
        trace.iter().filter(|record| record.name == "proxy_log" && record.during == Some(Callback::RequestBody));
    assert_eq!((body.callbacks, body.allocations), (2, crossings.calls("proxy_get_buffer_bytes") - 2));
    assert_eq!(body.calls, crossings.calls("proxy_get_buffer_bytes") + logged.count() as u64);
    let fuel = |callback: Callback| -> u64 {
        let callbacks = stream.trace().into_iter().filter(|record| record.name == callback.name());
        callbacks.filter_map(|record| record.fuel).sum()
    };
    for (callback, cost) in crossings.costs() {
        assert_eq!(cost.instructions, fuel(callback), "{callback:?}");
    }
    assert_eq!(crossings.instructions(), crossings.costs().map(|(_, cost)| cost.instructions).sum::<u64>());
    assert_eq!(crossings.cost(Callback::RequestTrailers), host_sim::Cost::default());
    // The start of the module belongs to the VM and not to a stream.
    assert_eq!(crossings.cost(Callback::Initialize).callbacks, 0);
    assert_eq!(host.crossings(VmName::Worker(0)).cost(Callback::Initialize).callbacks, 1);
}

#[test]
fn the_trace_keeps_order_arguments_status_and_fuel() {
    let host = scripted().build().unwrap();
    let stream = host.request(script("rb:body=0").body("abc")).unwrap();
    let trace = stream.trace();
    let at = |name: &str| trace.iter().position(|record| record.name == name).unwrap();
    let call = &trace[at("proxy_get_buffer_bytes")];
    assert_eq!((call.status, call.during), (Some(Status::Ok), Some(Callback::RequestBody)));
    assert_eq!(call.args, "RequestBody, 0, 4294967295 -> 3 bytes");
    assert_eq!(call.direction, Direction::GuestToHost);
    assert_eq!(trace[at("proxy_get_buffer_bytes") + 1].name, "proxy_on_memory_allocate");
    let callback = &trace[at("proxy_on_request_body")];
    assert_eq!((callback.args.as_str(), callback.outcome.as_str()), ("2, 3, 1", "Continue"));
    assert!(callback.fuel.unwrap() > 0);
    assert_eq!(host.worst_fuel(Callback::RequestBody), callback.fuel);
    let line = call.to_string();
    assert!(line.contains("<- proxy_get_buffer_bytes(RequestBody, 0, 4294967295 -> 3 bytes) Ok"), "{line}");
}

#[test]
fn an_injected_status_fails_one_call_and_the_call_does_nothing() {
    let host = scripted().build().unwrap();
    host.inject(Fault::new("proxy_replace_header_map_value", Status::InternalFailure));
    let stream = host.request(script("rh:set=a=1;rh:set=b=2")).unwrap();
    assert_eq!(heard(&host, "set"), ["a 10"]);
    assert_eq!(stream.request_headers().get("a"), None);
    assert_eq!(stream.request_headers().get("b"), Some(&b"2"[..]));
    let injected: Vec<_> = stream.trace().into_iter().filter(|record| record.injected).collect();
    assert_eq!(injected.len(), 1);
    assert_eq!(injected[0].status, Some(Status::InternalFailure));
}

#[test]
fn an_injected_status_can_be_bound_to_a_phase() {
    let host = scripted().build().unwrap();
    let fault = Fault::new("proxy_get_buffer_bytes", Status::InternalFailure);
    host.inject(fault.always().during(Callback::ResponseBody));
    let stream = host.request(script("rb:body=0;sb:body=0").body("abc")).unwrap();
    assert_eq!(host.failure(VmName::Worker(0)), None);
    stream.respond(Response::new(200).body("abc")).unwrap();
    // The SDK panics on a status it does not expect, and the VM with it.
    assert!(host.failure(VmName::Worker(0)).is_some());
    host.clear_faults();
}

#[test]
fn an_endless_trace_can_be_cleared_between_looks() {
    let host = scripted().build().unwrap();
    let stream = host.request(script("rb:size").body("a").unfinished()).unwrap();
    host.clear_trace();
    assert!(host.trace().is_empty() && host.logs().is_empty());
    stream.send_body("bc", true).unwrap();
    let first = &host.trace()[0];
    assert_eq!((first.name, first.outcome.as_str()), ("proxy_on_request_body", "Continue"));
}
