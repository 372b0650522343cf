//! The endings that both bindings share, and those that only a virtual machine or virtual time has.

use std::time::Duration;

use host_sim::{HttpOutcome, HttpStream, VmName};

use crate::scenarios::{assert_ended, each_ending};
use crate::world::{self, chat, complete};

macro_rules! tests {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            crate::scenarios::$name();
        }
    )*};
}

each_ending!(tests);

#[test]
fn a_worker_that_is_replaced_leaves_the_gauges_with_its_machine() {
    // Enough work for any usual callback, too little for a body of a million escapes: that ends a machine, as a bug would.
    const FUEL: u64 = 500_000;
    let host = world::builder().workers(2).fuel_limit(FUEL).build().unwrap();
    host.advance(Duration::from_secs(1));
    let held: Vec<HttpStream> = (0..2)
        .map(|worker| {
            let exchange = host.request(chat().worker(worker)).unwrap();
            assert!(exchange.local_reply().is_none());
            exchange
        })
        .collect();
    host.advance(Duration::from_secs(5));
    // Nobody was served under that name yet, so it has no label of its own.
    let running = "model_name=other;inference_objective_running_requests";
    assert_eq!(host.stats().gauge(running), Some(2));
    let heavy = format!(r#"{{"model":"m","prompt":"{}"}}"#, r"\u0041\n".repeat(100_000));
    let crashed = host.request(host_sim::Request::post("/v1/completions").body(heavy).worker(0)).unwrap();
    assert_eq!(crashed.response_status(), Some(503));
    host.advance(Duration::from_secs(10));
    let next = host.request(chat().worker(0)).unwrap();
    assert!(next.local_reply().is_none(), "a new machine serves the next request");
    next.client_reset().unwrap();
    assert_eq!(host.reloads(VmName::Worker(0)), 1);
    host.advance(Duration::from_secs(10));
    assert_eq!(host.stats().gauge(running), Some(1));
    drop(held);
}

#[test]
fn a_sidecar_that_dies_makes_picks_go_by_requests_in_flight() {
    let mut left = 3;
    let mut sidecar = world::sidecar(&world::snapshot());
    let script = move |call: &host_sim::HttpCall| {
        left -= 1;
        if left >= 0 { sidecar(call) } else { HttpOutcome::unreachable() }
    };
    let host = world::builder().cluster_script("inpick-sidecar", script).build().unwrap();
    host.advance(Duration::from_secs(10));
    complete(&host);
    let stats = assert_ended(&host, &[]);
    let by_in_flight: u64 =
        stats.iter().filter(|(name, _)| name.contains("reason=in_flight_only")).map(|(_, value)| value).sum();
    assert_eq!(by_in_flight, 1, "{stats:#?}");
    assert!(stats["inpick_snapshot_age_seconds"] >= 9);
}
