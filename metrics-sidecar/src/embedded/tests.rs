use std::net::{TcpListener, TcpStream};
use std::sync::atomic::AtomicUsize;

use snapshot::Snapshot;

use super::*;
use crate::settings;

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn config(listen: &str) -> Config {
    let members = serde_json::json!({
        "pool": ["default=static:127.0.0.1:1,127.0.0.1:2"], "listen": listen, "poll-interval": "20ms",
    });
    settings::read(members.as_object().unwrap()).unwrap()
}

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn snapshots_come_through_memory_as_they_would_over_http() {
    let embedded = Embedded::start(config("127.0.0.1:0")).unwrap();
    let Fetched { status, body, .. } = eventually("a snapshot", || embedded.fetch("/snapshot?wait_ms=200", None, b""));
    assert_eq!(status, 200);
    let whole = Snapshot::decode(&body).unwrap();
    assert_eq!(whole.membership.as_ref().unwrap().pools[0].endpoints.len(), 2);
    assert_eq!(embedded.vitals(), Vitals { is_up: true, restarts: 0 });

    // Once both pods are known to be out of reach nothing changes any more.
    let settled = eventually("a 304", || {
        let Fetched { body, .. } = embedded.fetch("/snapshot", None, b"")?;
        let tag = Snapshot::decode(&body).unwrap().loads.tag().to_string();
        std::thread::sleep(Duration::from_millis(100));
        let Fetched { status, body, .. } = embedded.fetch("/snapshot", Some(&format!("\"other\", {tag}")), b"")?;
        (status == 304).then_some(body)
    });
    assert!(settled.is_empty());
    assert_eq!(
        embedded.fetch("/metrics", None, b""),
        Some(Fetched { status: 404, body: Bytes::new(), is_watched: false })
    );
}

#[test]
fn while_another_has_its_address_it_works_and_listens_there_once_it_can() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let embedded = Embedded::start(config(&address.to_string())).unwrap();
    eventually("a snapshot", || embedded.fetch("/snapshot", None, b""));
    assert_eq!(embedded.vitals(), Vitals { is_up: true, restarts: 0 });
    drop(taken);
    eventually("it listens", || TcpStream::connect(address).ok());
    assert_eq!(embedded.vitals(), Vitals { is_up: true, restarts: 0 });
    // It lets go of the address at its end, though it was not the first to have it.
    drop(embedded);
    eventually("the address is free", || TcpListener::bind(address).ok());
}

#[test]
fn an_address_that_nobody_can_have_is_tried_again_and_again() {
    // TEST-NET-1, of which no machine has an address.
    let embedded = Embedded::start(config("192.0.2.1:9090")).unwrap();
    eventually("a restart", || (embedded.vitals().restarts >= 1).then_some(()));
    assert_eq!(embedded.fetch("/snapshot", None, b""), None);
    assert!(!embedded.vitals().is_up);
}

/// Two that push the same streams would be taken for one whose counters jump.
#[cfg(feature = "otlp")]
#[test]
fn metrics_are_pushed_by_the_one_that_has_the_address() {
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    collector.set_nonblocking(true).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let members = serde_json::json!({
        "pool": ["default=static:127.0.0.1:1"], "listen": taken.local_addr().unwrap().to_string(),
        "otlp-endpoint": format!("http://{}", collector.local_addr().unwrap()), "otlp-interval": "50ms",
    });
    let embedded = Embedded::start(settings::read(members.as_object().unwrap()).unwrap()).unwrap();
    eventually("a snapshot", || embedded.fetch("/snapshot", None, b""));
    std::thread::sleep(Duration::from_millis(500));
    assert!(collector.accept().is_err(), "it pushed");
    drop(taken);
    eventually("a push", || collector.accept().ok());
}

#[test]
fn a_panic_of_a_task_starts_the_sidecar_anew() {
    let embedded = Embedded::start(config("127.0.0.1:0")).unwrap();
    eventually("a snapshot", || embedded.fetch("/snapshot", None, b""));
    let shared = lock(&embedded.inner.shared).clone().unwrap();
    shared.failures.report("a poller panicked".to_owned());
    drop(shared);
    eventually("it is down", || embedded.fetch("/snapshot", None, b"").is_none().then_some(()));
    eventually("it is up again", || embedded.fetch("/snapshot", None, b""));
    assert_eq!(embedded.vitals(), Vitals { is_up: true, restarts: 1 });
}

#[test]
fn errors_and_panics_are_followed_by_a_restart_and_an_end_is_not() {
    static LIVES: AtomicUsize = AtomicUsize::new(0);
    let embedded = Embedded::keep(|_, _| match LIVES.fetch_add(1, Ordering::Relaxed) {
        0 => Err(io::Error::other("on purpose")),
        1 => panic!("on purpose"),
        _ => Ok(()),
    })
    .unwrap();
    // Pauses of one and two seconds.
    eventually("two restarts", || (embedded.vitals().restarts == 2).then_some(()));
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(LIVES.load(Ordering::Relaxed), 3);
    assert_eq!(embedded.fetch("/snapshot", None, b""), None);
}

#[test]
fn pauses_double_up_to_half_a_minute_and_a_good_run_ends_that() {
    let mut backoff = Backoff::default();
    let pauses: Vec<u64> = (0..7).map(|_| backoff.next(Duration::ZERO).as_secs()).collect();
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
    assert_eq!(backoff.next(GOOD_RUN), FIRST_PAUSE);
}

#[test]
fn a_reader_does_not_wait_for_the_fleet() {
    let embedded = Embedded::start(config("127.0.0.1:0")).unwrap();
    let Fetched { body, .. } = eventually("a snapshot", || embedded.fetch("/snapshot", None, b""));
    let tag = Snapshot::decode(&body).unwrap().loads.tag().to_string();
    let shared = lock(&embedded.inner.shared).clone().unwrap();
    let busy = shared.fleet_as_it_is();
    let start = Instant::now();
    assert_eq!(embedded.fetch("/snapshot", None, b""), None);
    assert_eq!(
        embedded.fetch("/snapshot", Some(&tag), b""),
        Some(Fetched { status: 304, body: Bytes::new(), is_watched: false })
    );
    assert!(start.elapsed() < Duration::from_millis(500), "it waited");
    // One that never gets on is as good as dead.
    std::thread::sleep(HANGS_AFTER + Duration::from_millis(200));
    assert_eq!(embedded.fetch("/snapshot", Some(&tag), b""), None);
    drop(busy);
    eventually("it goes on", || embedded.fetch("/snapshot", Some(&tag), b""));
}

#[test]
fn the_thread_ends_after_the_drop_which_does_not_wait() {
    let embedded = Embedded::keep(|_, stopped| {
        std::thread::sleep(Duration::from_millis(300));
        assert!(is_stopped_within(stopped, PATIENCE));
        Ok(())
    })
    .unwrap();
    let inner = Arc::downgrade(&embedded.inner);
    let start = Instant::now();
    drop(embedded);
    assert!(start.elapsed() < Duration::from_millis(200), "it waited");
    eventually("the thread ends", || (inner.strong_count() == 0).then_some(()));
}
