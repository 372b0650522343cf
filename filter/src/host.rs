//! The host's functions, as far as the filter needs them: the only file that calls Envoy.
//!
//! The SDK's own wrappers end the virtual machine on every status that they do not expect, and read headers as UTF-8, which
//! clients need not send. Here every status but `Ok` is a value ([`Refused`]), and everything is bytes.
//!
//! The contract behind each `unsafe` (proxy-wasm ABI 0.2.1): the host writes through the pointers it is given only during the call; what
//! a call returns it writes into memory that it asks [`lend`] for within the call, once, and says how many bytes it wrote.
#![allow(unsafe_code, reason = "host functions are foreign; this is the one file that may call them")]

use std::cell::RefCell;
use std::mem;
use std::ops::Deref;
use std::time::Duration;

use endpoint_picker::Timestamp;

use crate::abi::{Buffer, FOREIGN_MEMORY, Map, NO_GRPC_STATUS, OK, Refused};

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_log(level: u32, message: *const u8, size: usize) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_set_effective_context(context: u32) -> u32;
    fn proxy_continue_stream(stream: u32) -> u32;
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
    fn proxy_set_property(path: *const u8, path_size: usize, value: *const u8, value_size: usize) -> u32;
    fn proxy_call_foreign_function(
        name: *const u8,
        name_size: usize,
        arguments: *const u8,
        arguments_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
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
    fn proxy_http_call(
        cluster: *const u8,
        cluster_size: usize,
        headers: *const u8,
        headers_size: usize,
        body: *const u8,
        body_size: usize,
        trailers: *const u8,
        trailers_size: usize,
        timeout_millis: u32,
        token: *mut u32,
    ) -> u32;
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn clock_time_get(id: u32, precision: u64, nanos: *mut u64) -> u32;
    fn random_get(data: *mut u8, size: usize) -> u32;
}

const MONOTONIC: u32 = 1;
/// The request of a stream, where streams are named by kind.
const REQUEST_STREAM: u32 = 0;

fn check(status: u32) -> Result<(), Refused> {
    if status == OK { Ok(()) } else { Err(Refused(status)) }
}

/// Memory that the host writes into. Almost everything that it returns in a request fits into a small piece, and a slab of a body into a
/// large one, so both are used again instead of being allocated and freed.
struct Pieces {
    /// What was lent for the host call that runs.
    lent: Vec<u8>,
    small: Vec<Vec<u8>>,
    large: Vec<u8>,
}

const SMALL_BYTES: usize = 8 * 1024;
/// What one callback returns at a time, at most: headers and a body, and one to spare.
const MAX_SMALL: usize = 4;
/// A slab, see [`endpoint_picker::slab`].
const LARGE_BYTES: usize = 256 * 1024;

thread_local! {
    static PIECES: RefCell<Pieces> =
        const { RefCell::new(Pieces { lent: Vec::new(), small: Vec::new(), large: Vec::new() }) };
}

impl Pieces {
    fn lend(&mut self, size: usize) -> *mut u8 {
        self.lent = if size <= SMALL_BYTES {
            self.small.pop().unwrap_or_else(|| Vec::with_capacity(SMALL_BYTES))
        } else if size <= LARGE_BYTES && self.large.capacity() == LARGE_BYTES {
            mem::take(&mut self.large)
        } else {
            // The first body is as large as it is: most workers never see one of a whole slab.
            Vec::with_capacity(if size > LARGE_BYTES / 2 && size <= LARGE_BYTES { LARGE_BYTES } else { size })
        };
        self.lent.as_mut_ptr()
    }

    fn take_back(&mut self, mut piece: Vec<u8>) {
        piece.clear();
        match piece.capacity() {
            SMALL_BYTES if self.small.len() < MAX_SMALL => self.small.push(piece),
            LARGE_BYTES => self.large = piece,
            _ => {}
        }
    }
}

/// Memory for what the host call that runs returns.
pub(crate) fn lend(size: usize) -> *mut u8 {
    PIECES.with(|pieces| pieces.try_borrow_mut().map_or(std::ptr::null_mut(), |mut pieces| pieces.lend(size)))
}

/// What a host call returned.
#[derive(Debug, Default)]
pub(crate) struct Returned(Vec<u8>);

impl Deref for Returned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Returned {
    fn drop(&mut self) {
        if self.0.capacity() > 0 {
            let piece = mem::take(&mut self.0);
            PIECES.with(|pieces| pieces.try_borrow_mut().map(|mut pieces| pieces.take_back(piece)).ok());
        }
    }
}

/// Calls a host function that returns bytes.
fn returned(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Result<Returned, Refused> {
    let mut data: *mut u8 = std::ptr::null_mut();
    let mut size: usize = 0;
    check(call(&raw mut data, &raw mut size))?;
    if data.is_null() || size == 0 {
        return Ok(Returned::default());
    }
    let mut piece =
        PIECES.with(|pieces| pieces.try_borrow_mut().map(|mut pieces| mem::take(&mut pieces.lent)).unwrap_or_default());
    if piece.as_ptr() != data.cast_const() || size > piece.capacity() {
        return Err(FOREIGN_MEMORY);
    }
    // SAFETY: the host says that it wrote `size` bytes, which is no more than the piece has room for.
    unsafe { piece.set_len(size) };
    Ok(Returned(piece))
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
pub(crate) fn buffer(buffer: Buffer, start: usize, length: usize) -> Result<Returned, Refused> {
    // SAFETY: `returned` hands in valid pointers.
    returned(|data, size| unsafe { proxy_get_buffer_bytes(buffer as u32, start, length, data, size) })
}

/// Puts other bytes in the place of the first `length` of a buffer, or of all if it has fewer.
pub(crate) fn replace_beginning(buffer: Buffer, length: usize, bytes: &[u8]) -> Result<(), Refused> {
    // SAFETY: the slice outlives the call.
    check(unsafe { proxy_set_buffer_bytes(buffer as u32, 0, length, bytes.as_ptr(), bytes.len()) })
}

/// From here to the end of the callback, calls are about the stream of that context.
pub(crate) fn turn_to(context: u32) -> Result<(), Refused> {
    // SAFETY: no memory is involved.
    check(unsafe { proxy_set_effective_context(context) })
}

/// Lets a request go on that was held. Takes effect when the callback returns; its headers and body cannot be changed any more.
pub(crate) fn continue_request() -> Result<(), Refused> {
    // SAFETY: no memory is involved.
    check(unsafe { proxy_continue_stream(REQUEST_STREAM) })
}

/// Answers the client. Takes effect when the callback returns.
pub(crate) fn send_local_reply(
    status: u16,
    details: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<(), Refused> {
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
pub(crate) fn property(path: &str) -> Option<Returned> {
    // SAFETY: the string outlives the call and `returned` hands in valid pointers.
    returned(|data, size| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, size) }).ok()
}

/// Sets a property of the filter's own: filter state of the stream, under `wasm.` and the name.
pub(crate) fn set_property(name: &str, value: &[u8]) -> Result<(), Refused> {
    // SAFETY: both slices outlive the call.
    check(unsafe { proxy_set_property(name.as_ptr(), name.len(), value.as_ptr(), value.len()) })
}

/// Calls a function that Envoy has beside the interface; what it returns is not asked for.
pub(crate) fn call_foreign_function(name: &str, arguments: &[u8]) -> Result<(), Refused> {
    // SAFETY: both slices outlive the call and `returned` hands in valid pointers.
    returned(|data, size| unsafe {
        proxy_call_foreign_function(name.as_ptr(), name.len(), arguments.as_ptr(), arguments.len(), data, size)
    })
    .map(drop)
}

/// The texts of a property, one or a list, joined by commas.
pub(crate) fn texts(property: Returned) -> Vec<u8> {
    // A list comes as pairs whose names are its members, and its count alone has a NUL, which no text has that is an address.
    if !property.contains(&0) {
        return property.to_vec();
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
    Some((value.to_vec(), cas))
}

/// Sets a shared value; `cas` 0 sets it whatever it was.
pub(crate) fn set_shared_data(key: &str, value: &[u8], cas: u32) -> Result<(), Refused> {
    // SAFETY: both slices outlive the call.
    check(unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), cas) })
}

/// Starts a request without a body to a cluster; the answer comes to `proxy_on_http_call_response` of the root context whose callback this
/// is.
pub(crate) fn call(cluster: &str, headers: &[(&str, &str)], body: &[u8], timeout: Duration) -> Result<(), Refused> {
    let headers = serialize_pairs(headers);
    let no_trailers = serialize_pairs(&[]);
    let timeout = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    let mut token = 0;
    // SAFETY: all slices outlive the call, the token is a local.
    check(unsafe {
        proxy_http_call(
            cluster.as_ptr(),
            cluster.len(),
            headers.as_ptr(),
            headers.len(),
            body.as_ptr(),
            body.len(),
            no_trailers.as_ptr(),
            no_trailers.len(),
            timeout,
            &raw mut token,
        )
    })
}

/// A header map as the host serialises it: a count, the sizes of all names and values, then names and values each followed by
/// a NUL. Integers are little-endian, 32 bits.
pub(crate) struct Pairs(Returned);

impl Pairs {
    /// Names and values in order. A block that contradicts itself ends early.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let bytes: &[u8] = &self.0;
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
