//! Sidecars in the process, while one configuration takes another's place.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::world::{self, complete};

tests! {
    a_new_sidecar_at_the_same_address_waits_for_the_old_one_and_is_counted_once
}

mod scenarios {
    use super::*;

    /// Long enough for the pauses before restarts to have become longer than what the test waits for.
    const DRAINING: Duration = Duration::from_secs(8);
    const SOON: Duration = Duration::from_secs(3);

    pub(super) fn a_new_sidecar_at_the_same_address_waits_for_the_old_one_and_is_counted_once() {
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let document = |interval: &str| {
            let pools = r#"["default=static:127.0.0.1:1,127.0.0.1:2"]"#;
            let embedded = format!(r#"{{"pool": {pools}, "listen": "{listen}", "poll-interval": "{interval}"}}"#);
            let metrics = r#"{"flush_interval_ms": 20}"#;
            format!(r#"{{"pool": "default", "metrics": {metrics}, "sidecar": {{"embedded": {embedded}}}}}"#)
        };
        let is_up = |host: &world::Host| host.metrics().sum("inpick_embedded_sidecar_up", &[]) == 1;
        let restarts = |host: &world::Host| host.metrics().sum("inpick_embedded_sidecar_restarts_total", &[]);
        let mut host = world::builder().bootstrap("").filter(&document("50ms")).build().unwrap();
        assert!(host.run_until(Duration::from_secs(30), is_up), "{:#?}", host.log());
        let held = host.request(world::chat());
        host.replace_filter(&document("60ms")).unwrap();
        host.run_for(DRAINING);
        // Pauses of 1, 2 and 4 seconds.
        let waited = restarts(&host);
        assert!((2..=3).contains(&waited), "{waited} restarts");
        assert!(!is_up(&host), "the old one has the address");
        held.client_reset();
        drop(held);
        let began = Instant::now();
        assert!(host.run_until(SOON, is_up), "nobody listens {:?} after the old one's end", began.elapsed());
        host.run_for(Duration::from_secs(1));
        assert_eq!(restarts(&host), waited + 1);
        complete(&host);
        host.shut_down().unwrap();
    }
}
