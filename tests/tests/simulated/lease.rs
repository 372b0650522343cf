//! The snapshot service without its singleton: trapped, or never there.

use std::time::Duration;

use host_sim::{Callback, Fault, Host, VmName};

use crate::world::{self, answer, chat, complete, loaded, picked, sidecar};

/// Ends the singleton's virtual machine.
fn trap_the_service(host: &Host) {
    host.inject(Fault::trap("proxy_http_call").during(Callback::Tick));
    host.advance(Duration::from_millis(400));
    assert!(host.failure(VmName::Service).is_some(), "the service lives");
}

#[test]
fn the_filter_alone_picks_by_load_and_publishes_the_gauges() {
    for (waiting, expected) in [([9, 0], "10.0.0.2:8000"), ([0, 9], "10.0.0.1:8000")] {
        let host =
            world::without_service().cluster_script("inpick-sidecar", sidecar(&loaded(waiting))).build().unwrap();
        host.advance(Duration::from_secs(2));
        let exchange = host.request(chat()).unwrap();
        assert_eq!(picked(&exchange), expected);
        exchange.set_property("upstream.address", expected);
        exchange.respond(answer("application/json").body(world::ANSWER)).unwrap();
        let stats = world::settled(&host);
        assert_eq!(stats["name=default;inference_pool_ready_pods"], 2);
        assert_eq!(stats["inpick_snapshot_generation"], 1);
        assert!(stats["outcome=unchanged;inpick_snapshot_fetches_total"] > 10, "{stats:#?}");
    }
}

#[test]
fn a_trap_in_the_singleton_is_made_up_for_within_three_seconds() {
    for is_serving in [false, true] {
        let host = world::builder().cluster_script("inpick-sidecar", sidecar(&loaded([9, 0]))).build().unwrap();
        host.advance(Duration::from_secs(2));
        if is_serving {
            assert_eq!(picked(&complete(&host)), "10.0.0.2:8000");
        }
        let held = is_serving.then(|| host.request(chat()).unwrap());
        host.advance(Duration::from_secs(3));
        trap_the_service(&host);
        let mut news = loaded([0, 9]);
        news.loads.generation = 2;
        host.cluster_script("inpick-sidecar", sidecar(&news));
        host.advance(Duration::from_secs(3));
        assert_eq!(picked(&host.request(chat()).unwrap()), "10.0.0.1:8000", "serving: {is_serving}");
        host.advance(Duration::from_secs(3));
        let gauge = |name: &str| host.stats().gauges().find(|(known, _)| *known == name).map(|(_, value)| value);
        assert_eq!(gauge("inpick_snapshot_generation"), Some(2));
        assert_eq!(gauge("pool=default;endpoint=10.0.0.1:8000;inpick_in_flight_requests"), Some(1));
        if let Some(held) = held {
            let second = "pool=default;endpoint=10.0.0.2:8000;inpick_in_flight_requests";
            assert_eq!(gauge(second), Some(1));
            held.client_reset().unwrap();
            host.advance(Duration::from_secs(3));
            // What the trapped singleton had set goes to 0.
            assert_eq!(gauge(second), Some(0));
        }
    }
}
