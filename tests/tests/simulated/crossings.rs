//! What one request costs in calls between host and guest, and in work of the guest. The numbers are a budget: a change that
//! needs more must say so here.

use std::time::Duration;

use host_sim::{Callback, Crossings, VmName};

use crate::world::{self, answer, chat, complete, complete_told, picked};

#[test]
fn a_unary_request_stays_within_its_crossings() {
    let host = world::told_host();
    complete_told(&host);
    let exchange = complete_told(&host);
    let crossings = exchange.crossings();
    // Calls that return data cost most: the host calls back to allocate. Headers and body of both sides.
    for (call, budget) in [
        ("proxy_get_header_map_pairs", 2),
        ("proxy_get_buffer_bytes", 2),
        ("proxy_get_property", 0),
        ("proxy_replace_header_map_value", 1),
        ("proxy_remove_header_map_value", 1),
        ("clock_time_get", 4),
    ] {
        assert!(crossings.calls(call) <= budget, "{call}: {} calls, {budget} allowed", crossings.calls(call));
    }
    assert_eq!(crossings.allocations(), 4);
    assert!(crossings.total_calls() <= 10, "{crossings:?}");
    // A context's birth, five of its life, its log and its end; and the memory for what the calls return.
    assert!(crossings.total_callbacks() <= 8 + 4, "{crossings:?}");
    assert!(crossings.cost(Callback::Log).instructions < 300, "{:?}", crossings.cost(Callback::Log));
}

#[test]
fn one_request_in_sixteen_looks_at_the_clock_around_its_callbacks() {
    let host = world::told_host();
    let looks: Vec<u64> = (0..32).map(|_| complete_told(&host).crossings().calls("clock_time_get")).collect();
    let usual = looks[1];
    // The first request of all is one more, at which the worker looks for news.
    assert_eq!(looks[0], usual + 8 + 1);
    for (place, calls) in looks.iter().enumerate().skip(1) {
        // Two looks for each of headers and bodies, both ways.
        let expected = if place % 16 == 0 { usual + 8 } else { usual };
        assert_eq!(*calls, expected, "request {place} of {looks:?}");
    }
    let stats = world::settled(&host);
    for phase in ["request_headers", "request_body", "response_headers", "response_body"] {
        let name = format!("phase={phase};inpick_filter_time_seconds_count");
        let count = stats.iter().find(|(other, _)| other.ends_with(&name)).map(|(_, count)| *count);
        assert_eq!(count, Some(2), "{phase}");
    }
}

#[test]
fn who_served_is_a_property_where_no_header_says_it() {
    for (host, is_told) in [(world::told_host(), true), (world::host(), false)] {
        // A header that the proxy did not write is not believed, and one that it would have written may be missing.
        let exchange = host.request(chat()).unwrap();
        let endpoint = picked(&exchange);
        exchange.set_property("upstream.address", endpoint.as_str());
        let mut answer = answer("application/json");
        if !is_told {
            answer = answer.header(world::SERVED_HEADER, "10.0.0.9:1");
        }
        exchange.respond(answer.body(world::ANSWER)).unwrap();
        assert_eq!(exchange.crossings().calls("proxy_get_property"), 1);
        assert_eq!(exchange.sent_downstream().headers.unwrap().get(world::SERVED_HEADER), None);
        let stats = world::settled(&host);
        let picks: Vec<_> = stats.iter().filter(|(name, _)| name.ends_with("inpick_picks_total")).collect();
        assert_eq!(picks.len(), 1, "{picks:?}");
        assert!(picks[0].0.contains(&format!("endpoint={endpoint};")), "{picks:?}");
    }
}

#[test]
fn an_answer_that_is_none_of_the_pickers_business_does_not_say_who_served() {
    let host = world::told_host();
    let exchange = host.request(host_sim::Request::get("/health")).unwrap();
    exchange.respond(answer("text/plain").header(world::SERVED_HEADER, "10.0.0.1:8000")).unwrap();
    assert_eq!(exchange.sent_downstream().headers.unwrap().get(world::SERVED_HEADER), None);
}

#[test]
fn each_event_of_a_stream_costs_one_read_and_one_look_at_the_clock() {
    const EVENTS: u64 = 50;
    let host = world::host();
    // The first of 16 is timed.
    complete(&host);
    let exchange = host.request(chat()).unwrap();
    let endpoint = picked(&exchange);
    exchange.set_property("upstream.address", endpoint.as_str());
    exchange.respond(answer("text/event-stream").unfinished()).unwrap();
    let before = exchange.crossings().total_calls();
    for _ in 0..EVENTS {
        exchange.respond_body("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n", false).unwrap();
    }
    let spent = exchange.crossings().total_calls() - before;
    assert!(spent <= 2 * EVENTS, "{spent} calls for {EVENTS} events");
}

#[test]
fn an_idle_worker_reads_one_small_key_a_tick() {
    let host = world::host();
    complete(&host);
    host.advance(world::SETTLE);
    let before = host.crossings(VmName::Worker(0));
    host.advance(Duration::from_secs(10));
    let after = host.crossings(VmName::Worker(0));
    let ticks = after.callbacks("proxy_on_tick") - before.callbacks("proxy_on_tick");
    let calls = after.total_calls() - before.total_calls();
    assert_eq!(ticks, 200);
    // The clock twice and the version key; posts and flushes are far between.
    assert!(calls <= 5 * ticks, "{calls} calls in {ticks} ticks");
    let spent = after.cost(Callback::Tick).instructions - before.cost(Callback::Tick).instructions;
    println!("{} instructions and {:.1} calls a tick", spent / ticks, calls as f64 / ticks as f64);
    // At 20 ticks a second and some 3 instructions a nanosecond, a thousandth of a core would be 150 000 a tick.
    assert!(spent / ticks < 6_000, "{spent} instructions in {ticks} ticks");
}

#[test]
fn no_tick_defines_more_stats_than_fit_into_two_milliseconds() {
    // Envoy takes some 100 us to define a stat with the shipped tags.
    const LIMIT: usize = 16;
    let host = world::host();
    for model in ["a", "b", "c"] {
        let body = format!(r#"{{"model":"{model}","messages":[]}}"#);
        let request = host_sim::Request::post("/v1/chat/completions").body(body);
        let exchange = host.request(request).unwrap();
        let endpoint = picked(&exchange);
        exchange.set_property("upstream.address", endpoint.as_str());
        exchange.respond(answer("application/json").body(world::ANSWER)).unwrap();
    }
    let mut defined = 0;
    let mut worst = 0;
    loop {
        let before = host.crossings(VmName::Worker(0)).calls("proxy_define_metric");
        if host.advance_to_next().is_none() || host.now() > Duration::from_secs(30) {
            break;
        }
        let step = host.crossings(VmName::Worker(0)).calls("proxy_define_metric") - before;
        defined += step;
        worst = worst.max(step);
    }
    assert!(defined > 300, "{defined}");
    assert!(worst as usize <= LIMIT, "{worst} definitions in one tick");
}

#[test]
fn the_worst_bodies_keep_one_callback_within_a_bound() {
    /// A slab is 256 KiB and every byte may be looked at on its own; a callback may also hold one whole slab more.
    const FUEL_A_BYTE: u64 = 60;
    const SIZE: usize = 1 << 20;
    let deep = "[".repeat(SIZE);
    let escapes = format!(r#"{{"model":"m","prompt":"{}"}}"#, r"\u0041\n".repeat(SIZE / 8));
    let keys: String = (0..SIZE / 10).map(|index| format!("\"k{index:05}\":0,")).collect();
    let keys = format!(r#"{{{keys}"model":"m"}}"#);
    let digits = format!(r#"{{"model":"m","seed":{}}}"#, "1".repeat(SIZE));
    let unicode = format!(r#"{{"model":"m","prompt":"{}"}}"#, "é漢".repeat(SIZE / 5));
    let keys_named_model = format!(r#"{{{}"model":"m"}}"#, r#""model":"x","#.repeat(SIZE / 12));
    for (name, body) in [
        ("deep", deep),
        ("escapes", escapes),
        ("keys", keys),
        ("digits", digits),
        ("unicode", unicode),
        ("keys named model", keys_named_model),
    ] {
        let host = world::builder().request_buffer_limit(4 << 20).build().unwrap();
        host.advance(Duration::from_secs(1));
        host.clear_trace();
        host.request(chat_of(&body)).unwrap();
        assert!(host.failure(VmName::Worker(0)).is_none(), "{name}: {:?}", host.failure(VmName::Worker(0)));
        let worst = host.worst_fuel(Callback::RequestBody).unwrap();
        println!("{name}: {worst} instructions in the worst callback");
        assert!(worst < 2 * 256 * 1024 * FUEL_A_BYTE, "{name}: {worst}");
    }
}

#[test]
fn a_body_of_single_bytes_is_read_once() {
    let host = world::host();
    let bytes: Vec<[u8; 1]> = world::CHAT.bytes().map(|byte| [byte]).collect();
    let exchange = host.request(host_sim::Request::post("/v1/chat/completions").body_chunks(bytes)).unwrap();
    assert_eq!(exchange.sent_upstream().body(), world::CHAT.as_bytes());
    assert_eq!(exchange.crossings().calls("proxy_get_buffer_bytes"), 1);
}

fn chat_of(body: &str) -> host_sim::Request {
    host_sim::Request::post("/v1/completions").body_chunks(body.as_bytes().chunks(16 * 1024).collect::<Vec<_>>())
}

/// Sends a request to a [`world::told_host`] and answers it after a while: an answer that took no time teaches nothing.
fn complete_in_time(host: &host_sim::Host, request: host_sim::Request) -> Crossings {
    let exchange = host.request(request).unwrap();
    host.advance(Duration::from_millis(20));
    let answer = answer("application/json").header(world::SERVED_HEADER, picked(&exchange));
    exchange.respond(answer.body(world::ANSWER)).unwrap();
    exchange.crossings()
}

#[test]
fn a_usual_request_takes_few_instructions() {
    /// What one unary request with a short prompt may take in all, from its context's birth to its death. The module is compiled at level 2, which
    /// runs a few more instructions than level 3, and is quicker.
    const BUDGET: u64 = 46_000;
    /// Over so many requests a mean is taken: not each is timed, and not each teaches what it showed at once.
    const REQUESTS: u64 = 64;
    let host = world::told_host();
    let complete = || complete_in_time(&host, chat());
    for _ in 0..2 * REQUESTS {
        complete();
    }
    host.advance(world::SETTLE);
    let exchanges: Vec<_> = (0..REQUESTS).map(|_| complete()).collect();
    let mean = |of: &dyn Fn(&Crossings) -> u64| exchanges.iter().map(of).sum::<u64>() / REQUESTS;
    for (callback, budget) in [
        (Callback::RequestHeaders, 4_300),
        // A quarter of it is for hashing the prompt, the forecast and the prefix index.
        (Callback::RequestBody, 18_600),
        (Callback::ResponseHeaders, 5_400),
        // Everything is counted here, at the end.
        (Callback::ResponseBody, 17_200),
    ] {
        let spent = mean(&|crossings| crossings.cost(callback).instructions);
        println!("{callback:?}: {spent} instructions");
        assert!(spent < budget, "{callback:?}: {spent}");
    }
    let spent = mean(&Crossings::instructions);
    println!("in all: {spent} instructions");
    assert!(spent < BUDGET, "{spent}");
}

#[test]
fn a_long_prompt_that_begins_like_the_last_one_takes_few_instructions() {
    /// The prompt is read and hashed, three to four instructions a byte. The rest is for its 112 marks, most of which the endpoint holds.
    const BUDGET: u64 = 315_000;
    const HALF: usize = 32_000;
    const REQUESTS: u32 = 16;
    let host = world::told_host();
    let complete = |serial: u32| {
        let half = "The endpoint answers. ".repeat(HALF / 22);
        let content = format!("{half}{serial:012}{half}");
        let body = format!(r#"{{"messages":[{{"role":"user","content":"{content}"}}],"model":"m"}}"#);
        let pieces: Vec<_> = body.as_bytes().chunks(16 * 1024).collect();
        let request = host_sim::Request::post("/v1/chat/completions").body_chunks(pieces);
        complete_in_time(&host, request).cost(Callback::RequestBody).instructions
    };
    // Until each endpoint holds the beginning.
    (0..4 * REQUESTS).for_each(|serial| _ = complete(serial));
    host.advance(world::SETTLE);
    let spent = (0..REQUESTS).map(|serial| complete(100 + serial)).sum::<u64>() / u64::from(REQUESTS);
    println!("{spent} instructions");
    assert!(spent < BUDGET, "{spent}");
}

/// A host whose access log shows what each request was, and which explains it to a client with the secret.
fn telling_host() -> host_sim::Host {
    let config =
        format!(r#"{{"served_endpoint": "header", "access_log": true, "explain": {{"secret": "{}"}}}}"#, world::SECRET);
    let host = world::builder().plugin_configuration(config).build().unwrap();
    host.advance(Duration::from_secs(2));
    host
}

#[test]
fn what_is_logged_of_a_request_costs_one_call() {
    let (plain, telling) = (world::told_host(), telling_host());
    let [plain, telling] = [plain, telling].map(|host| {
        for _ in 0..20 {
            complete_told(&host);
        }
        host.advance(world::SETTLE);
        let exchange = complete_told(&host);
        (exchange.crossings(), exchange.filter_state("inpick"))
    });
    assert_eq!(plain.1, None);
    let told = telling.1.expect("the access log is told");
    let text = String::from_utf8_lossy(&told);
    assert!(text.contains("predicted_ttft_ms") && text.contains("10.0.0.1:8000"), "{text}");
    let calls = telling.0.total_calls() - plain.0.total_calls();
    let instructions = telling.0.instructions() - plain.0.instructions();
    println!("{instructions} instructions for {} bytes", told.len());
    assert_eq!((calls, telling.0.calls("proxy_set_property")), (1, 1));
    assert!(instructions < 45_000, "{instructions}");
}

#[test]
fn a_secret_that_nobody_sends_costs_nothing() {
    let host = telling_host();
    let exchange = complete_told(&host);
    // The choice alone.
    assert_eq!(exchange.crossings().calls("proxy_replace_header_map_value"), 1);
    assert_eq!(exchange.crossings().calls("proxy_add_header_map_value"), 0);
    let request =
        host_sim::Request::post("/v1/chat/completions").header("x-inpick-explain", world::SECRET).body(world::CHAT);
    let exchange = host.request(request).unwrap();
    assert_eq!(exchange.sent_upstream().headers.unwrap().get("x-inpick-explain"), None);
    exchange.respond(answer("application/json").body(world::ANSWER)).unwrap();
    assert!(exchange.sent_downstream().headers.unwrap().get("x-inpick-explanation").is_some());
}

#[test]
fn usage_is_asked_for_without_a_copy_of_the_body() {
    const SIZE: usize = 20_000;
    let host = world::host();
    complete(&host);
    let plain = complete(&host).crossings();
    let body = format!(r#"{{"model":"m","stream":true,"prompt":"{}"}}"#, "w ".repeat(SIZE / 2));
    let exchange = host.request(host_sim::Request::post("/v1/completions").body(body.clone())).unwrap();
    let asking = body.replacen('{', r#"{"stream_options":{"include_usage":true},"#, 1);
    assert!(exchange.sent_upstream().body() == asking.as_bytes());
    let crossings = exchange.crossings();
    // The body once, and of what is replaced one byte.
    assert_eq!((crossings.calls("proxy_get_buffer_bytes"), crossings.calls("proxy_set_buffer_bytes")), (2, 1));
    // Whether the model's server refuses, besides what each request looks up.
    assert_eq!(crossings.calls("proxy_get_shared_data"), plain.calls("proxy_get_shared_data") + 1);
    // Events that pass as they are cost what they cost without it; the one that does not is replaced.
    exchange.set_property("upstream.address", picked(&exchange).as_str());
    exchange.respond(answer("text/event-stream").unfinished()).unwrap();
    let event = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    let before = exchange.crossings();
    for _ in 0..50 {
        exchange.respond_body(event, false).unwrap();
    }
    let spent = exchange.crossings().total_calls() - before.total_calls();
    assert!(spent <= 100, "{spent} calls for 50 events");
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7}}\n\n";
    let (first, second) = usage.split_at(20);
    for (piece, is_end) in [(first, false), (second, false), ("data: [DO", false), ("NE]\n\n", true)] {
        exchange.respond_body(piece, is_end).unwrap();
    }
    let got = exchange.sent_downstream();
    assert_eq!(String::from_utf8_lossy(&got.body()), format!("{}data: [DONE]\n\n", event.repeat(50)));
}
