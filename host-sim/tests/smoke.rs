//! One request through the script guest.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]

mod support;

use host_sim::{Progress, Response};
use support::{script, scripted};

#[test]
fn a_request_goes_through_and_its_response_comes_back() {
    let host = scripted().build().unwrap();
    let exchange = host.request(script("rh:set=x-picked=1.2.3.4").body("hello")).unwrap();
    assert_eq!(exchange.progress(), Progress::Upstream);
    assert_eq!(exchange.sent_upstream().header("x-picked"), Some(&b"1.2.3.4"[..]));
    assert_eq!(exchange.request_body(), b"hello");
    exchange.respond(Response::new(200).body("bye")).unwrap();
    assert_eq!(exchange.response_status(), Some(200));
    for record in host.trace() {
        println!("{record}");
    }
    println!("{:?}", support::guest().imports());
}
