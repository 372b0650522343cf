//! Sidecars in the process, while one configuration takes another's place.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::world::{self, complete};

tests! {
    a_new_sidecar_at_the_same_address_works_while_the_old_one_has_it
    a_restart_of_a_sidecar_that_two_configurations_share_is_counted_once
}

mod scenarios {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn document(listen: &str, interval: &str, flush_ms: u32) -> String {
        let pools = r#"["default=static:127.0.0.1:1,127.0.0.1:2"]"#;
        let embedded = format!(r#"{{"pool": {pools}, "listen": "{listen}", "poll-interval": "{interval}"}}"#);
        let metrics = format!(r#"{{"flush_interval_ms": {flush_ms}}}"#);
        format!(r#"{{"pool": "default", "metrics": {metrics}, "sidecar": {{"embedded": {embedded}}}}}"#)
    }

    fn is_up(host: &world::Host) -> bool {
        host.metrics().sum("inpick_embedded_sidecar_up", &[]) == 1
    }

    fn restarts(host: &world::Host) -> u64 {
        host.metrics().sum("inpick_embedded_sidecar_restarts_total", &[])
    }

    pub(super) fn a_new_sidecar_at_the_same_address_works_while_the_old_one_has_it() {
        let address: SocketAddr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let listen = address.to_string();
        let mut host = world::builder().bootstrap("").filter(&document(&listen, "50ms", 20)).build().unwrap();
        assert!(host.run_until(LONG, is_up), "{:#?}", host.log());
        let held = host.request(world::chat());
        host.replace_filter(&document(&listen, "60ms", 20)).unwrap();
        host.run_for(Duration::from_secs(3));
        assert!(is_up(&host), "{:#?}", host.log());
        held.client_reset();
        drop(held);
        // The old one ends with its last stream; whoever is then reached is the new one.
        host.run_for(Duration::from_secs(1));
        assert!(host.run_until(LONG, |_| TcpStream::connect(address).is_ok()), "nobody listens");
        assert!(is_up(&host));
        assert_eq!(restarts(&host), 0);
        complete(&host);
        host.shut_down().unwrap();
    }

    pub(super) fn a_restart_of_a_sidecar_that_two_configurations_share_is_counted_once() {
        // TEST-NET-1, of which no machine has an address.
        let document = |flush_ms: u32| document("192.0.2.1:9090", "50ms", flush_ms);
        let mut host = world::builder().bootstrap("").filter(&document(20)).build().unwrap();
        let began = Instant::now();
        let held = host.request(world::chat());
        host.replace_filter(&document(30)).unwrap();
        assert!(host.run_until(LONG, |host| restarts(host) >= 2), "{:#?}", host.log());
        // Pauses of one and two seconds.
        assert!(began.elapsed() > Duration::from_millis(2_500), "two restarts after {:?}", began.elapsed());
        assert_eq!(restarts(&host), 2);
        assert!(!is_up(&host));
        held.client_reset();
        drop(held);
        host.shut_down().unwrap();
    }
}
