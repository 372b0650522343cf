//! What a module may call about its process and its streams: `envoy_dynamic_module_callback_*`.
#![expect(unsafe_code, reason = "exported under the names that the module is linked against")]

use std::ffi::c_void;

use crate::abi::{AbiBuffer, AbiHeader, attribute};
use crate::filter_chain;
use crate::headers::Headers;
use crate::memory::{Lending, answer, answer_array, given, given_array};
use crate::message::drain;
use crate::refusals::CallbackName;
use crate::role::{self, ThreadKind, callback, main_callback, stream_callback};
use crate::stream_state::{MetadataValue, ProxyReply, StreamState};

/// Bytes that the module gave; bytes from nowhere are noted and taken for none.
fn bytes(name: CallbackName, buffer: AbiBuffer) -> Vec<u8> {
    given(buffer).unwrap_or_else(|| {
        violation(format!("{} was given {} bytes at null", name.name(), buffer.length));
        Vec::new()
    })
}

pub(crate) fn text(name: CallbackName, buffer: AbiBuffer) -> String {
    String::from_utf8_lossy(&bytes(name, buffer)).into_owned()
}

pub(crate) fn header_list(name: CallbackName, headers: *const AbiHeader, count: usize) -> Headers {
    let Some(headers) = given_array(headers, count) else {
        violation(format!("{} was given {count} headers at {headers:?}", name.name()));
        return Headers::default();
    };
    let part = |ptr, length| bytes(name, AbiBuffer { ptr, length });
    headers
        .into_iter()
        .map(|header| (part(header.key_ptr, header.key_length), part(header.value_ptr, header.value_length)))
        .collect()
}

pub(crate) fn violation(what: String) {
    if let Some(process) = role::process() {
        process.violation(what);
    }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_log_v2(level: i32, message: AbiBuffer, _file: AbiBuffer, _line: u32) {
    let text = text(CallbackName::Log, message);
    callback(CallbackName::Log, (), |role| role.process.log(level, text));
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_log_enabled(level: i32) -> bool {
    callback(CallbackName::LogEnabled, false, |role| level >= role.process.log_level)
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_is_validation_mode() -> bool {
    main_callback(CallbackName::IsValidationMode, false, |role| role.process.is_validation)
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_get_concurrency() -> u32 {
    main_callback(CallbackName::Concurrency, 0, |role| role.process.workers)
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_get_header(
    filter: *mut c_void,
    map: i32,
    key: AbiBuffer,
    out: *mut AbiBuffer,
    index: usize,
    count: *mut usize,
) -> bool {
    let key = bytes(CallbackName::GetHeader, key);
    answer(out, AbiBuffer::EMPTY);
    answer(count, 0);
    stream_callback(CallbackName::GetHeader, filter, false, |stream| {
        let Some(headers) = stream.map(map) else { return false };
        let values: Vec<Vec<u8>> = headers.values(&key).map(<[u8]>::to_vec).collect();
        answer(count, values.len());
        let Some(value) = values.get(index) else { return false };
        let lent = stream.loans.lend(value, Lending::Headers(map), stream.depth);
        answer(out, lent);
        true
    })
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_set_header(
    filter: *mut c_void,
    map: i32,
    key: AbiBuffer,
    value: AbiBuffer,
) -> bool {
    let key = bytes(CallbackName::SetHeader, key);
    let removes = value.ptr.is_null();
    if !removes && value.length == 0 {
        // Versions differ: it removes the header up to 1.40 and sets it empty later.
        violation(format!("{} was given an empty value that is not null", CallbackName::SetHeader.name()));
    }
    let value = bytes(CallbackName::SetHeader, value);
    stream_callback(CallbackName::SetHeader, filter, false, |stream| {
        let Some(headers) = stream.map(map) else { return false };
        if value.is_empty() {
            headers.remove(&key);
        } else {
            headers.set(&key, &value);
        }
        stream.loans.edited(Lending::Headers(map));
        true
    })
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_add_header(
    filter: *mut c_void,
    map: i32,
    key: AbiBuffer,
    value: AbiBuffer,
) -> bool {
    let (key, value) = (bytes(CallbackName::AddHeader, key), bytes(CallbackName::AddHeader, value));
    stream_callback(CallbackName::AddHeader, filter, false, |stream| {
        let Some(headers) = stream.map(map) else { return false };
        headers.add(&key, &value);
        stream.loans.edited(Lending::Headers(map));
        true
    })
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_send_response(
    filter: *mut c_void,
    status: u32,
    headers: *const AbiHeader,
    count: usize,
    body: AbiBuffer,
    details: AbiBuffer,
) {
    const NAME: CallbackName = CallbackName::SendResponse;
    let reply = ProxyReply {
        status: u16::try_from(status).unwrap_or(0),
        headers: header_list(NAME, headers, count),
        body: bytes(NAME, body),
        details: text(NAME, details),
        by_module: true,
    };
    if stream_callback(NAME, filter, false, |_| true) {
        // Nothing of the host is borrowed here: the module's `stream_complete` may run inside this.
        filter_chain::reply(filter.addr(), reply);
    }
}

fn of_body<R: Clone>(
    name: CallbackName,
    filter: *mut c_void,
    refused: R,
    body: i32,
    look: impl FnOnce(&mut StreamState) -> R,
) -> R {
    stream_callback(
        name,
        filter,
        refused.clone(),
        |stream| if stream.body(body).is_some() { look(stream) } else { refused },
    )
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_get_body_size(filter: *mut c_void, body: i32) -> usize {
    of_body(CallbackName::BodySize, filter, 0, body, |stream| {
        stream.body(body).map_or(0, |chunk| chunk.iter().map(Vec::len).sum())
    })
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_get_body_chunks_size(filter: *mut c_void, body: i32) -> usize {
    of_body(CallbackName::BodyChunksSize, filter, 0, body, |stream| stream.body(body).map_or(0, |chunk| chunk.len()))
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_get_body_chunks(
    filter: *mut c_void,
    body: i32,
    out: *mut AbiBuffer,
) -> bool {
    of_body(CallbackName::BodyChunks, filter, false, body, |stream| {
        let slices = stream.body(body).cloned().unwrap_or_default();
        let depth = stream.depth;
        let lent: Vec<AbiBuffer> =
            slices.iter().map(|slice| stream.loans.lend(slice, Lending::Body(body), depth)).collect();
        answer_array(out, &lent);
        true
    })
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_append_body(filter: *mut c_void, body: i32, added: AbiBuffer) -> bool {
    let added = bytes(CallbackName::AppendBody, added);
    of_body(CallbackName::AppendBody, filter, false, body, |stream| {
        if let Some(chunk) = stream.body(body).filter(|_| !added.is_empty()) {
            chunk.push(added);
        }
        stream.loans.edited(Lending::Body(body));
        true
    })
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_drain_body(filter: *mut c_void, body: i32, count: usize) -> bool {
    of_body(CallbackName::DrainBody, filter, false, body, |stream| {
        if let Some(chunk) = stream.body(body) {
            drain(chunk, count);
        }
        stream.loans.edited(Lending::Body(body));
        true
    })
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_received_buffered_request_body(filter: *mut c_void) -> bool {
    stream_callback(CallbackName::ReceivedBufferedRequestBody, filter, false, |stream| {
        stream.request.replayed && stream.request.received.is_some()
    })
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_received_buffered_response_body(filter: *mut c_void) -> bool {
    stream_callback(CallbackName::ReceivedBufferedResponseBody, filter, false, |stream| {
        stream.response.replayed && stream.response.received.is_some()
    })
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_set_buffer_limit(filter: *mut c_void, limit: u64) {
    stream_callback(CallbackName::SetBufferLimit, filter, (), |stream| {
        stream.buffer_limit = usize::try_from(limit).unwrap_or(usize::MAX);
    });
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_set_dynamic_metadata_string(
    filter: *mut c_void,
    namespace: AbiBuffer,
    key: AbiBuffer,
    value: AbiBuffer,
) {
    const NAME: CallbackName = CallbackName::SetMetadataString;
    let entry = (text(NAME, namespace), text(NAME, key));
    let value = text(NAME, value);
    stream_callback(NAME, filter, (), |stream| {
        stream.metadata.insert(entry, MetadataValue::Text(value));
    });
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_set_dynamic_metadata_struct(
    filter: *mut c_void,
    namespace: AbiBuffer,
    structure: AbiBuffer,
) {
    const NAME: CallbackName = CallbackName::SetMetadataStruct;
    let (namespace, structure) = (text(NAME, namespace), bytes(NAME, structure));
    stream_callback(NAME, filter, (), |stream| {
        stream.metadata.retain(|(known, _), _| *known != namespace);
        stream.metadata.insert((namespace, String::new()), MetadataValue::Struct(structure));
    });
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_get_metadata_string(
    filter: *mut c_void,
    _source: i32,
    namespace: AbiBuffer,
    key: AbiBuffer,
    out: *mut AbiBuffer,
) -> bool {
    const NAME: CallbackName = CallbackName::GetMetadataString;
    let entry = (text(NAME, namespace), text(NAME, key));
    answer(out, AbiBuffer::EMPTY);
    stream_callback(NAME, filter, false, |stream| {
        let Some(MetadataValue::Text(value)) = stream.metadata.get(&entry) else { return false };
        let lent = stream.loans.lend(value.as_bytes(), Lending::Hook, stream.depth);
        answer(out, lent);
        true
    })
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_get_metadata_list_size(
    filter: *mut c_void,
    _source: i32,
    namespace: AbiBuffer,
    key: AbiBuffer,
    out: *mut usize,
) -> bool {
    const NAME: CallbackName = CallbackName::MetadataListSize;
    let entry = (text(NAME, namespace), text(NAME, key));
    answer(out, 0);
    stream_callback(NAME, filter, false, |stream| {
        let Some(MetadataValue::List(values)) = stream.metadata.get(&entry) else { return false };
        answer(out, values.len());
        true
    })
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_get_metadata_list_string(
    filter: *mut c_void,
    _source: i32,
    namespace: AbiBuffer,
    key: AbiBuffer,
    index: usize,
    out: *mut AbiBuffer,
) -> bool {
    const NAME: CallbackName = CallbackName::MetadataListString;
    let entry = (text(NAME, namespace), text(NAME, key));
    answer(out, AbiBuffer::EMPTY);
    stream_callback(NAME, filter, false, |stream| {
        let Some(MetadataValue::List(values)) = stream.metadata.get(&entry) else { return false };
        let Some(value) = values.get(index) else { return false };
        let lent = stream.loans.lend(value.as_bytes(), Lending::Hook, stream.depth);
        answer(out, lent);
        true
    })
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_get_attribute_string(
    filter: *mut c_void,
    id: i32,
    out: *mut AbiBuffer,
) -> bool {
    answer(out, AbiBuffer::EMPTY);
    stream_callback(CallbackName::AttributeString, filter, false, |stream| {
        let Some(value) = stream.texts.get(&id) else { return false };
        let lent = stream.loans.lend(value, Lending::Hook, stream.depth);
        answer(out, lent);
        true
    })
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_get_attribute_int(
    filter: *mut c_void,
    id: i32,
    out: *mut u64,
) -> bool {
    stream_callback(CallbackName::AttributeInt, filter, false, |stream| {
        let status = || stream.response.headers.text(":status")?.parse().ok();
        let value = match id {
            attribute::RESPONSE_CODE => status(),
            _ => stream.numbers.get(&id).copied(),
        };
        let Some(value) = value else { return false };
        answer(out, value);
        true
    })
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_get_upstream_hosts_attempted_size(filter: *mut c_void) -> usize {
    stream_callback(CallbackName::AttemptedHostsSize, filter, 0, |stream| stream.attempted.len())
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_get_upstream_hosts_attempted(
    filter: *mut c_void,
    out: *mut AbiBuffer,
) -> bool {
    stream_callback(CallbackName::AttemptedHosts, filter, false, |stream| {
        let depth = stream.depth;
        let lent: Vec<AbiBuffer> =
            stream.attempted.iter().map(|host| stream.loans.lend(host, Lending::Hook, depth)).collect();
        answer_array(out, &lent);
        !lent.is_empty()
    })
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_get_worker_index(filter: *mut c_void) -> u32 {
    let worker = match role::kind() {
        Some(ThreadKind::Worker(index)) => index,
        Some(ThreadKind::Main) | None => 0,
    };
    stream_callback(CallbackName::WorkerIndex, filter, 0, |_| worker)
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_continue_decoding(filter: *mut c_void) {
    if stream_callback(CallbackName::ContinueDecoding, filter, false, |_| true) {
        filter_chain::continue_request(filter.addr());
    }
}
