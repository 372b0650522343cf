//! What a module must not do is noticed, and fails the host that saw it.

use dm_host::HostError;

use crate::support::{asking, host};

fn broken_by(wish: &str) -> Vec<String> {
    let host = host();
    let stream = host.request(asking("hold").unfinished());
    stream.client_reset();
    drop(host.request(asking(wish)));
    match host.shut_down() {
        Ok(()) => Vec::new(),
        Err(HostError::Violations(all)) => all,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn each_breach_is_named() {
    assert_eq!(broken_by("plain"), [""; 0]);
    for (wish, named) in [
        ("foreign-thread", "http_get_body_size was called by a thread that is none of Envoy's"),
        ("main-only", "get_concurrency was called on Worker(0)"),
        ("bad-status", "a headers hook returned 9, which is no status"),
        ("bytes-at-null", "http_get_header was given 3 bytes at null"),
        ("empty-value", "http_set_header was given an empty value that is not null"),
        ("late", "http_get_body_size after destroy"),
        ("define", "http_filter_config_define_counter was called on Worker(0)"),
    ] {
        let all = broken_by(wish);
        assert!(all.iter().any(|line| line.contains(named)), "{wish}: {all:?}");
    }
}

#[test]
#[should_panic(expected = "get_concurrency")]
fn a_test_that_does_not_look_fails_too() {
    let host = host();
    drop(host.request(asking("main-only")));
    drop(host);
}
