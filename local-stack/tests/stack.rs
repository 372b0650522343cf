//! A stack of a real Envoy and stand-ins for the pods, without inpick: starting, finding, ending and restarting its parts.

// Helpers outside of test functions fail by panicking too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use local_stack::{Builder, HttpClient, ProcessError, Stack, StackError};
use serde_json::json;

const PLAIN: &str = "local-stack/tests/fixtures/plain.yaml";

/// A pod that responds to every request with its body.
async fn echo() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let echo = service_fn(|request: http::Request<hyper::body::Incoming>| async {
                let body =
                    request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                Ok::<_, Infallible>(http::Response::new(Full::<Bytes>::new(body)))
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), echo));
        }
    });
    addr
}

async fn plain() -> Builder {
    Stack::builder().config(PLAIN).without_sidecar().pods_at([echo().await.to_string()])
}

#[tokio::test]
async fn request_goes_through_envoy_to_a_listed_pod_and_its_page_shows_it() {
    let stack = plain().await.start().await.unwrap();
    let response = HttpClient::new().post_json(&stack.url("/v1/echo"), r#"{"a": 1}"#).await.unwrap();
    assert_eq!((response.status.as_u16(), response.text().as_str()), (200, r#"{"a": 1}"#));
    assert_eq!(stack.listeners.len(), 2);
    let page = stack.envoy_page().await.unwrap();
    let labels = [("envoy_cluster_name", "pool-default"), ("envoy_response_code", "200")];
    assert_eq!(page.value("envoy_cluster_upstream_rq", &labels), Some(1.0));
    stack.stop().await;
}

#[tokio::test]
async fn envoy_can_be_killed_and_restarted_on_its_ports() {
    let mut stack = plain().await.start().await.unwrap();
    let (gateway, client) = (stack.gateway, HttpClient::new());
    stack.envoy().unwrap().kill().await;
    assert!(stack.check().is_err());
    assert!(client.get(&stack.url("/")).await.is_err());
    stack.restart_envoy().await.unwrap();
    assert_eq!(stack.gateway, gateway);
    assert_eq!(client.get(&stack.url("/")).await.unwrap().status.as_u16(), 200);
    stack.check().unwrap();
}

#[tokio::test]
async fn two_stacks_live_side_by_side() {
    let (first, second) = (plain().await.start().await.unwrap(), plain().await.start().await.unwrap());
    assert_ne!(first.gateway, second.gateway);
    for stack in [&first, &second] {
        assert_eq!(HttpClient::new().get(&stack.url("/")).await.unwrap().status.as_u16(), 200);
    }
}

#[tokio::test]
async fn bad_bootstrap_is_reported_with_what_envoy_says() {
    let broken = plain().await.patch(|tree| tree["static_resources"]["clusters"][0]["no_such_field"] = json!(1));
    let error = broken.start().await.unwrap_err();
    assert!(matches!(error, StackError::Process(ProcessError::Ended { .. })), "{error}");
    assert!(error.to_string().contains("no_such_field"), "{error}");
}

#[tokio::test]
async fn dropped_stack_leaves_no_process() {
    let mut stack = plain().await.start().await.unwrap();
    let pid = rustix::process::Pid::from_raw(stack.envoy().unwrap().id().cast_signed()).unwrap();
    rustix::process::test_kill_process(pid).unwrap();
    drop(stack);
    assert!(rustix::process::test_kill_process(pid).is_err());
}
