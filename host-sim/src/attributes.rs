//! The properties a guest can read, and where their values come from when no test has set them
//! (<https://www.envoyproxy.io/docs/envoy/v1.40.0/intro/arch_overview/advanced/attributes>).

use std::time::Duration;

use crate::codes::{CallError, grpc_status};
use crate::headers::HeaderMap;
use crate::pairs;
use crate::property::{PropertyValue, parts};
use crate::state::{State, Vm};
use crate::stream::{Half, Stream};

/// The upstream host that has the request unless a test sets another `upstream.address`.
pub(crate) const DEFAULT_UPSTREAM: &str = "127.0.0.1:8000";

/// The cluster of the route unless a test sets another `xds.cluster_name`.
pub(crate) const DEFAULT_CLUSTER: &str = "upstream";

/// Groups of properties, which cannot be had as a whole (seen on Envoy 1.40.0: scenarios `properties_*`).
const GROUPS: [&str; 9] =
    ["", "request", "response", "connection", "upstream", "source", "destination", "filter_state", "xds"];

/// The bytes of a property.
///
/// Order: what a test has set for the stream, what the host knows, filter state that the guest has set.
/// Envoy finds `wasm.<name>` by the bare first part of the path (`Context::findValue`), and any filter state
/// by `filter_state.<full key>`. What there is in which callback was seen on Envoy 1.40.0: scenarios `properties_*`.
pub(crate) fn lookup(state: &State, vm: &Vm, stream: Option<&Stream>, path: &[u8]) -> Result<Vec<u8>, CallError> {
    if stream.is_some() && GROUPS.iter().any(|group| group.as_bytes() == path) {
        return Err(CallError::PropertyGroup);
    }
    value(state, vm, stream, path).ok_or(CallError::NoProperty)
}

fn value(state: &State, vm: &Vm, stream: Option<&Stream>, path: &[u8]) -> Option<Vec<u8>> {
    let parts = parts(path);
    let dotted = parts.join(".");
    if let Some(value) = stream.and_then(|stream| stream.properties.get(&dotted)) {
        return value.bytes();
    }
    let words: Vec<&str> = parts.iter().map(String::as_str).collect();
    let plain = match words.as_slice() {
        ["plugin_name"] => Some(PropertyValue::from(vm.plugin.name.as_str())),
        ["plugin_root_id"] => Some(PropertyValue::from(vm.plugin.root_id.as_str())),
        ["plugin_vm_id"] => Some(PropertyValue::from(state.settings.vm_id.as_str())),
        _ => None,
    };
    if plain.is_some() {
        return plain.and_then(|value| value.bytes());
    }
    let stream = stream?;
    match words.as_slice() {
        ["request", rest @ ..] => request(state, stream, rest)?.bytes(),
        ["response", rest @ ..] => response(stream, rest)?.bytes(),
        ["connection_id"] | ["connection", "id"] => PropertyValue::from(stream.id).bytes(),
        ["connection", "mtls"] => PropertyValue::from(false).bytes(),
        ["source", "address"] => PropertyValue::from("127.0.0.1:40000").bytes(),
        ["source", "port"] => PropertyValue::from(40_000_i64).bytes(),
        ["destination", "address"] => PropertyValue::from("127.0.0.1:80").bytes(),
        ["destination", "port"] => PropertyValue::from(80_i64).bytes(),
        ["upstream", "address"] if contacted(stream) => PropertyValue::from(DEFAULT_UPSTREAM).bytes(),
        ["upstream", "port"] if contacted(stream) => upstream_port(stream)?.bytes(),
        ["upstream", "request_attempt_count"] => PropertyValue::from(u64::from(contacted(stream))).bytes(),
        // The route is known before the filters run.
        ["xds", "cluster_name"] => PropertyValue::from(DEFAULT_CLUSTER).bytes(),
        ["metadata"] => Some(Vec::new()),
        ["filter_state", key] => stream.filter_state.get(key.as_bytes()).cloned(),
        [first, ..] => {
            let value = stream.filter_state.get(format!("wasm.{first}").as_bytes())?;
            (words.len() == 1).then(|| value.clone())
        }
        [] => None,
    }
}

/// Values that come from the headers exist only while the guest can reach them: Envoy's activation uses the
/// context's own pointer, or the access log's.
fn request(state: &State, stream: &Stream, path: &[&str]) -> Option<PropertyValue> {
    let half = &stream.request;
    let headers = (half.headers_open || stream.logging).then_some(&half.headers);
    let header = |name: &str| headers.and_then(|headers| headers.get(name)).map(PropertyValue::from);
    match path {
        ["path"] => header(":path"),
        ["url_path"] => split_path(headers?).0,
        ["query"] => split_path(headers?).1,
        ["host"] => header(":authority"),
        ["scheme"] => header(":scheme"),
        ["method"] => header(":method"),
        ["id"] => header("x-request-id"),
        ["referer"] => header("referer"),
        ["useragent"] => header("user-agent"),
        ["headers"] => Some(PropertyValue::Bytes(pairs::encode(headers?))),
        ["headers", name] => header(name),
        ["protocol"] => Some(PropertyValue::from("HTTP/1.1")),
        ["time"] => Some(PropertyValue::Duration(stream.started_wall)),
        ["duration"] => stream.ended.map(|_| PropertyValue::Duration(age(state, stream))),
        ["size"] => Some(PropertyValue::Int(size(half.received_bytes))),
        ["total_size"] => Some(PropertyValue::Int(size(half.received_bytes) + byte_size(headers))),
        _ => None,
    }
}

fn response(stream: &Stream, path: &[&str]) -> Option<PropertyValue> {
    let half = &stream.response;
    let headers = (half.headers_open || (stream.logging && half.started)).then_some(&half.headers);
    match path {
        ["code"] => Some(PropertyValue::Int(i64::from(status_code(half)?))),
        ["code_details"] => stream.code_details.as_deref().map(PropertyValue::from),
        ["flags"] => Some(PropertyValue::Int(stream.response_flags.cast_signed())),
        ["headers"] => Some(PropertyValue::Bytes(pairs::encode(headers?))),
        ["headers", name] => headers?.get(name).map(PropertyValue::from),
        ["trailers", name] => half.trailers.as_ref()?.get(name).map(PropertyValue::from),
        ["size"] => {
            let bytes: usize = half.sent.chunks.iter().map(Vec::len).sum();
            Some(PropertyValue::Int(i64::try_from(bytes).unwrap_or(i64::MAX)))
        }
        ["total_size"] => {
            let bytes: usize = half.sent.chunks.iter().map(Vec::len).sum();
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            let trailers = half.trailers.as_ref().filter(|_| half.trailers_open || stream.logging);
            Some(PropertyValue::Int(bytes + byte_size(headers) + byte_size(trailers)))
        }
        ["grpc_status"] => {
            let status = status_code(half)?;
            let maps = [half.trailers.as_ref().filter(|_| half.trailers_open || stream.logging), headers];
            let told = maps.into_iter().flatten().find_map(|map| map.text("grpc-status")?.parse().ok());
            // A response that is none of gRPC is told in gRPC's terms all the same.
            Some(PropertyValue::Int(told.unwrap_or_else(|| i64::from(grpc_status(status)))))
        }
        _ => None,
    }
}

fn status_code(half: &Half) -> Option<u16> {
    let status = half.started.then(|| half.headers.get(":status")).flatten()?;
    std::str::from_utf8(status).ok()?.parse().ok()
}

fn upstream_port(stream: &Stream) -> Option<PropertyValue> {
    let address = match stream.properties.get("upstream.address") {
        None => DEFAULT_UPSTREAM.to_owned(),
        Some(address) => String::from_utf8(address.bytes()?).ok()?,
    };
    address.rsplit_once(':')?.1.parse().ok().map(PropertyValue::Int)
}

/// An upstream host is known from when the request has left the filter.
const fn contacted(stream: &Stream) -> bool {
    stream.request.sent.headers.is_some()
}

fn split_path(headers: &HeaderMap) -> (Option<PropertyValue>, Option<PropertyValue>) {
    let Some(path) = headers.get(":path") else { return (None, None) };
    let mark = path.iter().position(|byte| *byte == b'?');
    match mark.and_then(|mark| path.split_at_checked(mark)) {
        None => (Some(path.into()), Some(PropertyValue::from(""))),
        Some((url, query)) => (Some(url.into()), Some(query.strip_prefix(b"?").unwrap_or(query).into())),
    }
}

fn age(state: &State, stream: &Stream) -> Duration {
    stream.ended.unwrap_or_else(|| state.clock.monotonic()).saturating_sub(stream.started)
}

fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn byte_size(headers: Option<&HeaderMap>) -> i64 {
    i64::try_from(headers.map_or(0, HeaderMap::byte_size)).unwrap_or(i64::MAX)
}
