//! VMs that die.

use std::time::Duration;

use host_sim::{Callback, FailurePolicy, Fault, ReplyOrigin, Response, VmName};

use crate::support::{heard, script, scripted};

const WORKER: VmName = VmName::Worker(0);

#[test]
fn a_trap_is_a_local_reply_of_503_and_fail_closed_stays_closed() {
    let host = scripted().build().unwrap();
    let stream = host.request(script("rh:panic").body("abc")).unwrap();
    assert_eq!(stream.response_status(), Some(503));
    assert_eq!(stream.local_reply().unwrap().origin, ReplyOrigin::VmFailure);
    assert_eq!(stream.code_details().as_deref(), Some("wasm_fail_stream"));
    assert_eq!(stream.crossings().callbacks("proxy_on_log"), 0);
    assert!(host.failure(WORKER).unwrap().contains("unreachable"));
    host.advance(Duration::from_secs(3600));
    let next = host.request(script("")).unwrap();
    assert_eq!(next.response_status(), Some(503));
    assert_eq!(next.context_id(), None);
}

#[test]
fn fail_open_refuses_what_crashed_and_goes_on_without_the_filter() {
    let host = scripted().failure_policy(FailurePolicy::FailOpen).build().unwrap();
    let broken = host.request(script("rb:panic").body_chunks(["a", "b"])).unwrap();
    assert_eq!(broken.response_status(), Some(503));
    let next = host.request(script("rh:reply=429").body("c")).unwrap();
    assert_eq!((next.local_reply(), next.request_body()), (None, b"c".to_vec()));
}

#[test]
fn fail_reload_gives_the_next_stream_a_new_vm_after_the_backoff() {
    let host = scripted().failure_policy(FailurePolicy::FailReload).plugin_name("picker").workers(2).build().unwrap();
    let waiting = host.request(script("")).unwrap();
    host.request(script("rh:panic")).unwrap();
    assert_eq!(host.request(script("")).unwrap().response_status(), Some(503));
    assert_eq!(host.stats().counter("wasm.picker.vm_reload_backoff"), Some(1));
    assert_eq!(host.request(script("").worker(1)).unwrap().response_status(), None);
    host.advance(Duration::from_secs(1));
    let next = host.request(script("")).unwrap();
    assert_eq!(next.context_id(), Some(2));
    assert_eq!((host.reloads(WORKER), host.failure(WORKER)), (1, None));
    assert_eq!(host.stats().counter("wasm.picker.vm_reload_success"), Some(1));
    next.respond(Response::new(200)).unwrap();
    assert_eq!(next.response_status(), Some(200));
    waiting.respond(Response::new(200)).unwrap();
    assert_eq!(waiting.response_status(), Some(503));
}

#[test]
fn a_reload_loses_ticks_calls_and_memory_of_the_old_vm() {
    let host = scripted()
        .failure_policy(FailurePolicy::FailReload)
        .cluster("slow", [host_sim::HttpOutcome::response(200, "late").after(Duration::from_secs(5))])
        .plugin_configuration("conf:tick_every=1000;tick:call=slow,0")
        .build()
        .unwrap();
    host.advance(Duration::from_millis(1500));
    host.request(script("rh:panic")).unwrap();
    host.advance(Duration::from_secs(2));
    assert_eq!(heard(&host, "tick"), ["1"]);
    host.request(script("")).unwrap();
    host.clear_trace();
    host.advance(Duration::from_millis(5500));
    assert_eq!(heard(&host, "tick"), ["1", "2", "3", "4", "5"]);
    assert!(heard(&host, "response").is_empty());
}

#[test]
fn a_stream_of_a_dead_vm_gets_a_local_reply_at_its_next_step() {
    let host = scripted().build().unwrap();
    let unsent = host.request(script("rh:pause;rb:pause").body("a").unfinished()).unwrap();
    let responding = host.request(script("")).unwrap();
    responding.respond(Response::new(200).body("a").unfinished()).unwrap();
    host.request(script("rh:panic")).unwrap();
    assert_eq!((unsent.end(), responding.end()), (None, None));
    unsent.send_body("b", true).unwrap();
    assert_eq!(unsent.response_status(), Some(503));
    responding.respond_body("b", true).unwrap();
    assert_eq!(responding.end(), Some(host_sim::StreamEnd::LocalReset));
}

#[test]
fn a_trap_in_a_tick_kills_the_vm_and_its_timer() {
    let host = scripted().plugin_configuration("conf:tick_every=10;tick:panic").build().unwrap();
    host.advance(Duration::from_millis(100));
    assert!(host.failure(WORKER).is_some());
    assert_eq!(heard(&host, "tick"), ["1"]);
    assert_eq!(host.advance_to_next(), None);
}

#[test]
fn an_endless_loop_runs_out_of_fuel() {
    let host = scripted().fuel_limit(2_000_000).build().unwrap();
    let stream = host.request(script("rh:loop")).unwrap();
    assert_eq!(stream.response_status(), Some(503));
    assert!(host.failure(WORKER).unwrap().contains("fuel"));
    assert_eq!(host.worst_fuel(Callback::RequestHeaders), Some(2_000_000));
}

#[test]
fn memory_above_the_limit_is_refused_and_the_peak_is_readable() {
    let host = scripted().memory_limit(8 << 20).build().unwrap();
    let before = host.peak_memory_pages(WORKER);
    assert_eq!(host.request(script("rh:grow=2000000")).unwrap().local_reply(), None);
    let after = host.peak_memory_pages(WORKER);
    assert!(before > 0 && after >= before + 30, "{before} {after}");
    let too_much = host.request(script("rh:grow=9000000")).unwrap();
    assert_eq!(too_much.response_status(), Some(503));
    assert!(host.peak_memory_pages(WORKER) <= (8 << 20) / 65_536);
}

#[test]
fn a_host_call_can_end_the_vm_that_makes_it() {
    let host = scripted().build().unwrap();
    host.inject(Fault::trap("proxy_get_buffer_bytes"));
    let stream = host.request(script("rb:body=0").body("abc")).unwrap();
    assert_eq!(stream.response_status(), Some(503));
    let reason = host.failure(VmName::Worker(0)).unwrap();
    assert!(reason.contains("proxy_get_buffer_bytes was to end the VM"), "{reason}");
}
