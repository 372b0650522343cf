//! /sim: what real vLLM does not have. Faults, pinned load, and what the pod has received.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::control::Control;
use crate::fault::FaultSpec;
use crate::metrics_page;
use crate::pod::{PinnedLoad, ReceivedRequest, lock};
use crate::response::Response;

/// A change of the pod's state, as opposed to a fault that requests meet.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Change {
    /// Ends all faults, freezing and draining, and opens the port again.
    None,
    /// Stops the engine.
    Freeze { duration_ms: Option<u64> },
    /// Refuses new requests with vLLM's shutdown error.
    Drain { duration_ms: Option<u64> },
    /// Closes the port and every connection but the one that asks.
    Refuse { duration_ms: Option<u64> },
    /// Kills the engine: 500 or an error event for what is in flight, and a closed port.
    Crash { duration_ms: Option<u64> },
    /// Cuts every connection but the one that asks; the port stays open.
    HangUp,
}

/// Answers a request that came on connection `number`, which outlives what it asks for.
pub(crate) async fn respond(
    control: &Arc<Control>,
    number: u64,
    method: &Method,
    path: &str,
    body: &Bytes,
) -> Response {
    let pod = &control.pod;
    match (method.as_str(), path) {
        ("GET", "/sim/state") => Response::value(200, &control.state()),
        ("GET", "/sim/last-request") => match pod.last_request() {
            Some(request) => Response::value(200, &describe(&request)),
            None => no_request(),
        },
        ("GET", "/sim/last-request/body") => match pod.last_request() {
            Some(request) => Response::new(200, Some("application/octet-stream"), request.body),
            None => no_request(),
        },
        ("DELETE", "/sim/last-request") => {
            pod.forget_requests();
            Response::empty(204)
        }
        ("POST", "/sim/fault") => fault(control, number, body).await,
        ("DELETE", "/sim/fault") => {
            recover(control).await;
            Response::value(200, &control.state())
        }
        ("POST", "/sim/load") => load(control, body),
        ("DELETE", "/sim/load") => {
            pod.pin(None);
            Response::value(200, &control.state())
        }
        _ => Response::no_such_path(),
    }
}

async fn fault(control: &Arc<Control>, number: u64, body: &Bytes) -> Response {
    let pod = &control.pod;
    let value: Value = match serde_json::from_slice(body) {
        Ok(value) => value,
        Err(error) => return bad(&error.to_string()),
    };
    if let Ok(change) = Change::deserialize(&value) {
        apply(control, number, change).await;
        return Response::value(200, &control.state());
    }
    let specs: Result<Vec<FaultSpec>, _> = match value {
        Value::Array(list) => list.into_iter().map(serde_json::from_value).collect(),
        one => serde_json::from_value(one).map(|spec| vec![spec]),
    };
    let specs = match specs {
        Ok(specs) => specs,
        Err(error) => return bad(&error.to_string()),
    };
    if let Some(error) = specs.iter().find_map(|spec| spec.check().err()) {
        return bad(&error);
    }
    for spec in specs {
        lock(&pod.faults).add(spec);
    }
    Response::value(200, &control.state())
}

async fn apply(control: &Arc<Control>, number: u64, change: Change) {
    let pod = &control.pod;
    let lasting = match change {
        Change::None => {
            recover(control).await;
            None
        }
        Change::Freeze { duration_ms } => {
            metrics_page::freeze(pod);
            duration_ms
        }
        Change::Drain { duration_ms } => {
            pod.drain();
            duration_ms
        }
        Change::Refuse { duration_ms } => {
            control.refuse(Some(number)).await;
            duration_ms
        }
        Change::Crash { duration_ms } => {
            control.crash().await;
            duration_ms
        }
        Change::HangUp => {
            control.hang_up(Some(number));
            None
        }
    };
    if let Some(duration) = lasting {
        let control = control.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(duration)).await;
            control.pod.resume();
            control.reopen().await;
        });
    }
}

async fn recover(control: &Arc<Control>) {
    lock(&control.pod.faults).clear();
    control.pod.resume();
    control.reopen().await;
}

fn load(control: &Arc<Control>, body: &Bytes) -> Response {
    match serde_json::from_slice::<Option<PinnedLoad>>(body) {
        Ok(load) => {
            control.pod.pin(load);
            Response::value(200, &control.state())
        }
        Err(error) => bad(&error.to_string()),
    }
}

fn describe(request: &ReceivedRequest) -> Value {
    json!({
        "number": request.number,
        "method": request.method,
        "path": request.path,
        "headers": header_list(&request.headers),
        "body_bytes": request.body.len(),
        "body_sha256": hex(&Sha256::digest(&request.body)),
        "body": String::from_utf8_lossy(&request.body),
    })
}

fn header_list(headers: &HeaderMap) -> Vec<Value> {
    headers.iter().map(header_pair).collect()
}

fn header_pair((name, value): (&HeaderName, &HeaderValue)) -> Value {
    json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn no_request() -> Response {
    Response::error(404, "NotFoundError", None, "no request has been received")
}

fn bad(why: &str) -> Response {
    Response::error(400, "BadRequestError", None, why)
}
