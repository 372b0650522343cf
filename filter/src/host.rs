//! The host's functions, as far as the filter needs them: the only file that talks to Envoy and the only unsafe one.
//!
//! The SDK's own wrappers end the virtual machine on every status that they do not expect, and read headers as UTF-8, which
//! clients need not send. Here every status but `Ok` is a value ([`Refused`]), and everything is bytes.
//!
//! The contract behind each `unsafe`: the host writes through the pointers it is given only during the call; pointers to
//! results it returns were made by `proxy_on_memory_allocate`, which the SDK exports as a `Vec` of exactly the returned size
//! whose ownership passes to the caller (proxy-wasm ABI 0.2.1; SDK 0.2.5, `src/allocator.rs`).
#![allow(unsafe_code, reason = "host functions are foreign; this is the one file that may call them")]

use std::time::Duration;

use endpoint_picker::Timestamp;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_log(level: u32, message: *const u8, size: usize) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        key: *const u8,
        key_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_add_header_map_value(
        map: u32,
        key: *const u8,
        key_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_remove_header_map_value(map: u32, key: *const u8, key_size: usize) -> u32;
    fn proxy_get_buffer_bytes(buffer: u32, start: usize, length: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_set_buffer_bytes(buffer: u32, start: usize, length: usize, data: *const u8, size: usize) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: i32,
    ) -> u32;
    fn proxy_get_property(path: *const u8, path_size: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> u32;
    fn proxy_increment_metric(id: u32, offset: i64) -> u32;
    fn proxy_record_metric(id: u32, value: u64) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
        cas: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(key: *const u8, key_size: usize, value: *const u8, value_size: usize, cas: u32) -> u32;
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn clock_time_get(id: u32, precision: u64, nanos: *mut u64) -> u32;
    fn random_get(data: *mut u8, size: usize) -> u32;
}

/// The host answered with this status instead of `Ok`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Refused(pub(crate) u32);

/// A compare-and-swap found that the value had changed.
pub(crate) const CAS_MISMATCH: Refused = Refused(8);

const OK: u32 = 0;
const MONOTONIC: u32 = 1;

/// Header maps, by the ABI's numbers.
#[derive(Clone, Copy)]
pub(crate) enum Map {
    Request = 0,
    Response = 2,
    CallResponse = 6,
}

/// Buffers, by the ABI's numbers.
#[derive(Clone, Copy)]
pub(crate) enum Buffer {
    RequestBody = 0,
    ResponseBody = 1,
    CallResponseBody = 4,
    PluginConfiguration = 7,
}

fn check(status: u32) -> Result<(), Refused> {
    if status == OK { Ok(()) } else { Err(Refused(status)) }
}

/// Calls a host function that returns bytes and takes them over.
fn returned(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Result<Vec<u8>, Refused> {
    let mut data: *mut u8 = std::ptr::null_mut();
    let mut size: usize = 0;
    check(call(&raw mut data, &raw mut size))?;
    if data.is_null() || size == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: see the head of this file; the SDK allocated exactly `size` bytes as a `Vec` and gave it away.
    Ok(unsafe { Vec::from_raw_parts(data, size, size) })
}

/// Writes a line to Envoy's log; what the host makes of it is its own affair.
pub(crate) fn log(level: u32, message: &str) {
    // SAFETY: the string outlives the call.
    let _ = unsafe { proxy_log(level, message.as_ptr(), message.len()) };
}

/// Now, on the monotonic clock that all virtual machines of the process share.
pub(crate) fn now() -> Timestamp {
    let mut nanos = 0;
    // SAFETY: the host writes eight bytes into a local. A failure leaves the origin.
    let _ = unsafe { clock_time_get(MONOTONIC, 0, &raw mut nanos) };
    Timestamp::from_micros(nanos / 1_000)
}

/// 64 random bits.
pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    // SAFETY: the host fills the array. A failure leaves zeros; then the clock tells machines apart.
    let failed = unsafe { random_get(bytes.as_mut_ptr(), bytes.len()) } != OK;
    u64::from_le_bytes(bytes) ^ if failed { now().as_micros() } else { 0 }
}

/// Size of this virtual machine's linear memory in bytes; it never shrinks.
#[cfg(target_arch = "wasm32")]
pub(crate) fn memory_bytes() -> u64 {
    const PAGE_BYTES: u64 = 65_536;
    core::arch::wasm32::memory_size::<0>() as u64 * PAGE_BYTES
}

/// Checked natively by the compiler, run in virtual machines only: elsewhere there is no linear memory.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn memory_bytes() -> u64 {
    0
}

/// Asks for a tick every so many milliseconds.
pub(crate) fn set_tick_period(millis: u32) -> Result<(), Refused> {
    // SAFETY: plain integers.
    check(unsafe { proxy_set_tick_period_milliseconds(millis) })
}

/// All headers of a map.
pub(crate) fn headers(map: Map) -> Result<Pairs, Refused> {
    // SAFETY: `returned` hands in valid pointers.
    returned(|data, size| unsafe { proxy_get_header_map_pairs(map as u32, data, size) }).map(Pairs)
}

/// Sets a header to one value, whatever it had before.
pub(crate) fn set_header(map: Map, name: &str, value: &[u8]) -> Result<(), Refused> {
    // SAFETY: both slices outlive the call.
    check(unsafe { proxy_replace_header_map_value(map as u32, name.as_ptr(), name.len(), value.as_ptr(), value.len()) })
}

/// Adds a header beside others of that name.
pub(crate) fn add_header(map: Map, name: &str, value: &[u8]) -> Result<(), Refused> {
    // SAFETY: both slices outlive the call.
    check(unsafe { proxy_add_header_map_value(map as u32, name.as_ptr(), name.len(), value.as_ptr(), value.len()) })
}

/// Removes a header.
pub(crate) fn remove_header(map: Map, name: &str) -> Result<(), Refused> {
    // SAFETY: the string outlives the call.
    check(unsafe { proxy_remove_header_map_value(map as u32, name.as_ptr(), name.len()) })
}

/// Bytes of a buffer, at most `length` of them.
pub(crate) fn buffer(buffer: Buffer, start: usize, length: usize) -> Result<Vec<u8>, Refused> {
    // SAFETY: `returned` hands in valid pointers.
    returned(|data, size| unsafe { proxy_get_buffer_bytes(buffer as u32, start, length, data, size) })
}

/// Replaces a whole buffer.
pub(crate) fn replace_buffer(buffer: Buffer, bytes: &[u8]) -> Result<(), Refused> {
    // SAFETY: the slice outlives the call. A length beyond the buffer's end replaces all of it.
    check(unsafe { proxy_set_buffer_bytes(buffer as u32, 0, usize::MAX, bytes.as_ptr(), bytes.len()) })
}

/// Answers the client. Takes effect when the callback returns.
pub(crate) fn send_local_reply(
    status: u16,
    details: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<(), Refused> {
    /// No gRPC status: the ABI's -1.
    const NO_GRPC_STATUS: i32 = -1;
    let headers = serialize_pairs(headers);
    // SAFETY: all slices outlive the call.
    check(unsafe {
        proxy_send_local_response(
            u32::from(status),
            details.as_ptr(),
            details.len(),
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            NO_GRPC_STATUS,
        )
    })
}

/// A property by its path, segments separated by NUL; `None` when there is none.
pub(crate) fn property(path: &str) -> Option<Vec<u8>> {
    // SAFETY: the string outlives the call and `returned` hands in valid pointers.
    returned(|data, size| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, size) }).ok()
}

/// The texts of a property, one or a list, joined by commas.
pub(crate) fn texts(property: Vec<u8>) -> Vec<u8> {
    // A list comes as pairs whose names are its members, and its count alone has a NUL, which no text has that is an address.
    if !property.contains(&0) {
        return property;
    }
    let pairs = Pairs(property);
    pairs.iter().map(|(name, _)| name).collect::<Vec<_>>().join(&b","[..])
}

/// Defines a stat. 0 is a counter, 1 a gauge.
pub(crate) fn define_metric(kind: u32, name: &str) -> Result<u32, Refused> {
    let mut id = 0;
    // SAFETY: the string outlives the call, the id is a local.
    check(unsafe { proxy_define_metric(kind, name.as_ptr(), name.len(), &raw mut id) })?;
    Ok(id)
}

/// Adds to a stat.
pub(crate) fn increment_metric(id: u32, offset: i64) -> Result<(), Refused> {
    // SAFETY: plain integers.
    check(unsafe { proxy_increment_metric(id, offset) })
}

/// Sets a gauge.
pub(crate) fn record_metric(id: u32, value: u64) -> Result<(), Refused> {
    // SAFETY: plain integers.
    check(unsafe { proxy_record_metric(id, value) })
}

/// A value shared by all virtual machines, and the number that a compare-and-swap must give.
pub(crate) fn shared_data(key: &str) -> Option<(Vec<u8>, u32)> {
    let mut cas = 0;
    // SAFETY: the string outlives the call, `returned` hands in valid pointers, the number is a local.
    let value =
        returned(|data, size| unsafe { proxy_get_shared_data(key.as_ptr(), key.len(), data, size, &raw mut cas) })
            .ok()?;
    Some((value, cas))
}

/// Sets a shared value; `cas` 0 sets it whatever it was.
pub(crate) fn set_shared_data(key: &str, value: &[u8], cas: u32) -> Result<(), Refused> {
    // SAFETY: both slices outlive the call.
    check(unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), cas) })
}

/// Starts a request without a body to a cluster; the answer comes to the root context's `on_http_call_response`. This goes
/// through the SDK, whose dispatcher must know the call to hand its answer on.
pub(crate) fn call(cluster: &str, headers: Vec<(&str, &str)>, timeout: Duration) -> Result<(), Refused> {
    proxy_wasm::hostcalls::dispatch_http_call(cluster, headers, None, Vec::new(), timeout)
        .map(|_token| ())
        .map_err(|status| Refused(status as u32))
}

/// A header map as the host serialises it: a count, the sizes of all names and values, then names and values each followed by
/// a NUL. Integers are little-endian, 32 bits.
pub(crate) struct Pairs(Vec<u8>);

impl Pairs {
    /// Names and values in order. A block that contradicts itself ends early.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let bytes = self.0.as_slice();
        let integer = |at: usize| {
            bytes.get(at..).and_then(<[u8]>::first_chunk::<4>).map(|word| u32::from_le_bytes(*word) as usize)
        };
        let count = integer(0).unwrap_or(0);
        let mut at = count.saturating_mul(8).saturating_add(4);
        (0..count).map_while(move |index| {
            let sizes = 4 + index * 8;
            let name_end = at.checked_add(integer(sizes)?)?;
            let value_end = name_end.checked_add(1)?.checked_add(integer(sizes + 4)?)?;
            let pair = (bytes.get(at..name_end)?, bytes.get(name_end + 1..value_end)?);
            at = value_end + 1;
            Some(pair)
        })
    }
}

fn serialize_pairs(pairs: &[(&str, &str)]) -> Vec<u8> {
    let word = |size: usize| u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes();
    let mut bytes = Vec::from(word(pairs.len()));
    for (name, value) in pairs {
        bytes.extend_from_slice(&word(name.len()));
        bytes.extend_from_slice(&word(value.len()));
    }
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
    }
    bytes
}
