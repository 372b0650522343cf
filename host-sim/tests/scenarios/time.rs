//! Ticks, HTTP calls, clocks.

use std::time::Duration;

use host_sim::{HttpOutcome, Status};

use crate::support::{heard, script, scripted};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn ticks_come_at_each_period_and_stop_at_period_zero() {
    let host = scripted().plugin_configuration("conf:tick_every=100;tick:time").wall_clock(ms(5_000)).build().unwrap();
    host.advance(ms(350));
    assert_eq!(heard(&host, "time"), ["5100", "5200", "5300"]);
    assert_eq!(host.now(), ms(350));
    let off = scripted().plugin_configuration("conf:tick_every=100;tick:tick_every=0").build().unwrap();
    off.advance(ms(1000));
    assert_eq!(heard(&off, "tick"), ["1"]);
}

#[test]
fn each_worker_ticks_by_itself_and_equal_times_keep_their_order() {
    let host = scripted().workers(2).plugin_configuration("conf:tick_every=100").build().unwrap();
    host.advance(ms(200));
    let order: Vec<_> = host
        .logs()
        .iter()
        .filter(|line| line.text.starts_with("tick"))
        .map(|line| (line.vm.to_string(), line.at))
        .collect();
    let expected = [("worker0", 100), ("worker1", 100), ("worker0", 200), ("worker1", 200)];
    assert_eq!(order, expected.map(|(vm, at)| (vm.to_owned(), ms(at))));
}

#[test]
fn a_call_has_its_response_after_its_delay() {
    let host = scripted()
        .plugin_configuration("conf:call=backend,500")
        .cluster("backend", [HttpOutcome::response(200, "snapshot").header("x", "1").after(ms(20))])
        .build()
        .unwrap();
    host.advance(ms(19));
    assert!(heard(&host, "response").is_empty());
    host.advance(ms(1));
    assert_eq!(heard(&host, "response"), ["4 3 8 0", "200 snapshot"]);
    let calls = host.http_calls();
    assert_eq!((calls.len(), calls[0].cluster.as_str(), calls[0].timeout), (1, "backend", Some(ms(500))));
    assert_eq!(calls[0].headers.text("content-length").as_deref(), Some("3"));
    assert_eq!(calls[0].body, b"ask");
}

#[test]
fn a_failed_call_has_no_headers_body_or_trailers() {
    let host = scripted()
        .plugin_configuration("conf:call=backend,500")
        .cluster("backend", [HttpOutcome::failure()])
        .build()
        .unwrap();
    host.advance(Duration::ZERO);
    assert_eq!(heard(&host, "response"), ["4 0 0 0"]);
}

#[test]
fn a_call_that_times_out_sees_the_async_clients_504() {
    let host = scripted()
        .plugin_configuration("conf:call=silent,50;conf:call=slow,50;conf:call=silent,0")
        .cluster("silent", [HttpOutcome::silence()])
        .cluster("slow", [HttpOutcome::response(200, "x").after(ms(51))])
        .build()
        .unwrap();
    host.advance(ms(49));
    assert!(heard(&host, "response").is_empty());
    host.advance(ms(3_600_000));
    let expected = ["4 3 24 0", "504 upstream request timeout", "8 3 24 0", "504 upstream request timeout"];
    assert_eq!(heard(&host, "response"), expected);
}

#[test]
fn an_unreachable_upstream_is_a_503_and_a_refused_call_an_error() {
    let host = scripted()
        .plugin_configuration("conf:call=down,50;conf:call=refused,50;conf:call=unknown,50;conf:call=down,bare")
        .cluster("down", [])
        .cluster("refused", [HttpOutcome::refused()])
        .build()
        .unwrap();
    host.advance(Duration::ZERO);
    assert_eq!(heard(&host, "call"), ["token 4", "InternalFailure", "BadArgument", "2"]);
    assert!(heard(&host, "response")[1].starts_with("503 upstream connect error"));
}

#[test]
fn a_script_responds_by_what_it_is_asked_and_a_list_repeats_its_last() {
    let host = scripted()
        .plugin_configuration("conf:tick_every=100;tick:call=list,50;tick:call=function,50")
        .cluster("list", [HttpOutcome::response(500, "first"), HttpOutcome::response(200, "then")])
        .build()
        .unwrap();
    let mut count = 0;
    host.cluster_script("function", move |call| {
        count += 1;
        HttpOutcome::response(200, format!("{count} at {}", call.at.as_millis()))
    });
    host.advance(ms(300));
    let bodies: Vec<_> = heard(&host, "response").into_iter().skip(1).step_by(2).collect();
    assert_eq!(bodies, ["500 first", "200 1 at 100", "200 then", "200 2 at 200", "200 then", "200 3 at 300"]);
}

#[test]
fn a_call_of_a_stream_outlives_it() {
    let host = scripted().cluster("backend", [HttpOutcome::response(200, "x").after(ms(5))]).build().unwrap();
    let alive = host.request(script("rh:call=backend,0;call:resume;rh:pause")).unwrap();
    let gone = host.request(script("rh:call=backend,0;rh:pause")).unwrap();
    gone.client_reset().unwrap();
    host.advance(ms(5));
    assert_eq!(heard(&host, "stream"), ["response 4 2"]);
    assert!(alive.sent_upstream().ended);
    let responses = host.trace().iter().filter(|record| record.name == "proxy_on_http_call_response").count();
    assert_eq!(responses, 2);
    let effective = host.trace().into_iter().find(|record| record.name == "proxy_set_effective_context").unwrap();
    assert_eq!(effective.status, Some(Status::Ok));
}

#[test]
fn the_monotonic_clock_ignores_a_jump_of_the_wall_clock() {
    let host = scripted().wall_clock(ms(1_000)).build().unwrap();
    host.request(script("rh:instant;rh:time")).unwrap();
    host.advance(ms(250));
    host.set_wall_clock(ms(10));
    host.request(script("rh:instant;rh:time")).unwrap();
    assert_eq!(heard(&host, "instant"), ["0", "250"]);
    assert_eq!(heard(&host, "time"), ["1000", "10"]);
    assert_eq!(host.wall_clock(), ms(10));
}

#[test]
fn randomness_is_seeded_and_differs_between_workers() {
    let numbers = |seed| {
        let host = scripted().seed(seed).workers(2).build().unwrap();
        host.request(script("rh:random")).unwrap();
        host.request(script("rh:random").worker(1)).unwrap();
        heard(&host, "random")
    };
    let first = numbers(7);
    assert_eq!(first, numbers(7));
    assert_ne!(first, numbers(8));
    assert_ne!(first[0], first[1]);
}

#[test]
fn a_new_period_starts_the_timer_anew() {
    let host = scripted()
        .plugin_configuration("conf:tick_every=100")
        .cluster("backend", [HttpOutcome::response(200, "x")])
        .build()
        .unwrap();
    host.advance(ms(90));
    host.request(script("rh:tick_every=50")).unwrap();
    host.advance(ms(49));
    assert!(heard(&host, "tick").is_empty());
    assert_eq!(host.advance_to_next(), Some(ms(1)));
    assert_eq!((heard(&host, "tick").len(), host.now()), (1, ms(140)));
}
