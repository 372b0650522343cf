//! One HTTP stream, for the length of one hook.
//!
//! Everything that Envoy hands out belongs to it and is valid until the hook returns or the stream is changed. So what is read borrows the
//! [`HttpStream`], what changes it takes it mutably, and the stream itself lives as long as the hook: the compiler refuses a slice that
//! is used after either.
#![allow(unsafe_code, reason = "calls Envoy")]

use std::ffi::c_void;
use std::marker::PhantomData;

use super::Scheduler;
use crate::abi::{self, Buffer, Header};

/// Header maps by the ABI's numbers.
#[derive(Clone, Copy)]
pub(crate) enum Map {
    /// The request's headers.
    Request = 0,
    /// The response's headers.
    Response = 2,
}

/// Bodies by the ABI's numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Body {
    /// What the current hook brings of the request's.
    Received = 0,
    /// What Envoy held back of it so far.
    Buffered = 1,
    /// What the current hook brings of the response's.
    ReceivedResponse = 2,
}

/// Integers that Envoy knows of a stream, by the ABI's numbers.
#[derive(Clone, Copy)]
pub(crate) enum Attribute {
    /// Response flags, a bit each.
    ResponseFlags = 17,
    /// How often an endpoint was tried.
    Attempts = 53,
}

/// Texts that Envoy knows of a stream, by the ABI's numbers.
#[derive(Clone, Copy)]
pub(crate) enum Text {
    /// Why the response has the status that it has.
    CodeDetails = 16,
    /// The address of the endpoint that answered, or was tried last.
    UpstreamAddress = 41,
}

/// Chunks of a body for which no memory is taken. A hook mostly brings one; more come of a body that was held.
const FEW_CHUNKS: usize = 4;

/// Dynamic metadata, by the ABI's number.
const DYNAMIC_METADATA: i32 = 0;

/// Envoy's stream, for the length of one hook.
pub(crate) struct HttpStream<'hook> {
    raw: *mut c_void,
    hook: PhantomData<&'hook mut c_void>,
}

impl HttpStream<'_> {
    /// # Safety
    ///
    /// `raw` must be the stream that Envoy gave the current hook, and the result must not outlive the hook.
    pub(crate) const unsafe fn new(raw: *mut c_void) -> Self {
        Self { raw, hook: PhantomData }
    }

    /// The values of a header, in order.
    pub(crate) fn values<'a>(&'a self, map: Map, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let mut count = 0;
        let first = self.value(map, name, 0, Some(&mut count));
        let rest = (1..count).filter_map(move |index| self.value(map, name, index, None));
        first.into_iter().chain(rest)
    }

    /// The names and values of the headers of these names, in the order of the names.
    pub(crate) fn pairs(
        &self,
        map: Map,
        names: impl IntoIterator<Item = &'static str>,
    ) -> impl Iterator<Item = (&[u8], &[u8])> {
        let values = move |name: &'static str| self.values(map, name).map(move |value| (name.as_bytes(), value));
        names.into_iter().flat_map(values)
    }

    fn value(&self, map: Map, name: &str, index: usize, count: Option<&mut usize>) -> Option<&[u8]> {
        let mut value = Buffer::NULL;
        let count = count.map_or(std::ptr::null_mut(), std::ptr::from_mut);
        let name = Buffer::of(name.as_bytes());
        // SAFETY: `raw` is the hook's stream; Envoy reads the name and writes through the two pointers during the call.
        let found = unsafe {
            abi::envoy_dynamic_module_callback_http_get_header(self.raw, map as i32, name, &raw mut value, index, count)
        };
        found.then(|| self.bytes(value))
    }

    /// Sets a header to one value, whatever it had before; false: refused.
    pub(crate) fn set_header(&mut self, map: Map, name: &str, value: &[u8]) -> bool {
        let (name, value) = (Buffer::of(name.as_bytes()), Buffer::of(value));
        // SAFETY: `raw` is the hook's stream; Envoy copies name and value during the call.
        unsafe { abi::envoy_dynamic_module_callback_http_set_header(self.raw, map as i32, name, value) }
    }

    /// Adds a header beside others of its name; false: refused.
    pub(crate) fn add_header(&mut self, map: Map, name: &str, value: &[u8]) -> bool {
        let (name, value) = (Buffer::of(name.as_bytes()), Buffer::of(value));
        // SAFETY: `raw` is the hook's stream; Envoy copies name and value during the call.
        unsafe { abi::envoy_dynamic_module_callback_http_add_header(self.raw, map as i32, name, value) }
    }

    /// Removes a header; false: refused.
    pub(crate) fn remove_header(&mut self, map: Map, name: &str) -> bool {
        let name = Buffer::of(name.as_bytes());
        // SAFETY: `raw` is the hook's stream; a null value removes the header, in this and in later versions of Envoy.
        unsafe { abi::envoy_dynamic_module_callback_http_set_header(self.raw, map as i32, name, Buffer::NULL) }
    }

    /// Size of a body in bytes.
    pub(crate) fn body_size(&self, body: Body) -> usize {
        // SAFETY: `raw` is the hook's stream.
        unsafe { abi::envoy_dynamic_module_callback_http_get_body_size(self.raw, body as i32) }
    }

    /// A body as Envoy holds it, slice by slice; `None`: Envoy does not hand it out.
    pub(crate) fn body(&self, body: Body) -> Option<impl Iterator<Item = &[u8]>> {
        // SAFETY: `raw` is the hook's stream.
        let count = unsafe { abi::envoy_dynamic_module_callback_http_get_body_chunks_size(self.raw, body as i32) };
        let mut few = [Buffer::NULL; FEW_CHUNKS];
        let mut many = if count > FEW_CHUNKS { vec![Buffer::NULL; count] } else { Vec::new() };
        let chunks = if many.is_empty() { few.as_mut_ptr() } else { many.as_mut_ptr() };
        // SAFETY: Envoy writes as many buffers as it just said there are, for which there is room in the one or the other.
        let given = count == 0
            || unsafe { abi::envoy_dynamic_module_callback_http_get_body_chunks(self.raw, body as i32, chunks) };
        // Those that Envoy did not write are empty.
        let chunks = few.into_iter().chain(many);
        given.then(|| chunks.map(|chunk| self.bytes(chunk)).filter(|slice| !slice.is_empty()))
    }

    /// Whether what the current hook brings of the request is what Envoy had held back, given once more.
    pub(crate) fn received_is_buffered(&self) -> bool {
        // SAFETY: `raw` is the hook's stream.
        unsafe { abi::envoy_dynamic_module_callback_http_received_buffered_request_body(self.raw) }
    }

    /// Removes all bytes of a body; false: refused.
    pub(crate) fn drain(&mut self, body: Body) -> bool {
        let size = self.body_size(body);
        // SAFETY: `raw` is the hook's stream.
        size == 0 || unsafe { abi::envoy_dynamic_module_callback_http_drain_body(self.raw, body as i32, size) }
    }

    /// Adds bytes to the end of a body; false: refused.
    pub(crate) fn append(&mut self, body: Body, bytes: &[u8]) -> bool {
        // SAFETY: `raw` is the hook's stream; Envoy copies the bytes during the call.
        unsafe { abi::envoy_dynamic_module_callback_http_append_body(self.raw, body as i32, Buffer::of(bytes)) }
    }

    /// Answers the client. Other hooks of the same stream may run before this returns: nothing of it may be borrowed or locked.
    pub(crate) fn send_response(&mut self, status: u16, headers: &[(&str, &str)], body: &[u8], details: &str) {
        let headers: Vec<Header> =
            headers.iter().map(|(name, value)| Header::of(name.as_bytes(), value.as_bytes())).collect();
        // SAFETY: `raw` is the hook's stream; Envoy copies headers, body and details before it runs anything else.
        unsafe {
            abi::envoy_dynamic_module_callback_http_send_response(
                self.raw,
                u32::from(status),
                headers.as_ptr(),
                headers.len(),
                Buffer::of(body),
                Buffer::of(details.as_bytes()),
            );
        }
    }

    /// The way back to the stream, for any thread; `None`: Envoy gives none.
    pub(crate) fn scheduler(&self) -> Option<Scheduler> {
        // SAFETY: `raw` is the hook's stream.
        unsafe { Scheduler::new(self.raw) }
    }

    /// Has a request go on that was held; Envoy does not say if it cannot. Other hooks of the same stream run before this returns.
    pub(crate) fn continue_request(&mut self) {
        // SAFETY: `raw` is the hook's stream.
        unsafe { abi::envoy_dynamic_module_callback_http_filter_continue_decoding(self.raw) };
    }

    /// Sets a text of the stream's dynamic metadata.
    pub(crate) fn set_metadata(&mut self, namespace: &str, key: &str, value: &str) {
        let [namespace, key, value] = [namespace, key, value].map(|text| Buffer::of(text.as_bytes()));
        // SAFETY: `raw` is the hook's stream; Envoy copies the texts during the call.
        unsafe { abi::envoy_dynamic_module_callback_http_set_dynamic_metadata_string(self.raw, namespace, key, value) }
    }

    /// Sets all of a namespace of the stream's dynamic metadata, a serialised `google.protobuf.Struct`; Envoy does not say if it cannot.
    pub(crate) fn set_metadata_struct(&mut self, namespace: &str, structure: &[u8]) {
        let [namespace, structure] = [namespace.as_bytes(), structure].map(Buffer::of);
        // SAFETY: `raw` is the hook's stream; Envoy reads name and structure during the call.
        unsafe { abi::envoy_dynamic_module_callback_http_set_dynamic_metadata_struct(self.raw, namespace, structure) };
    }

    /// The texts of the stream's dynamic metadata under a key, one or a list, joined by commas; `None`: there is no such key.
    pub(crate) fn metadata(&self, namespace: &str, key: &str) -> Option<Vec<u8>> {
        let [namespace, key] = [namespace, key].map(|text| Buffer::of(text.as_bytes()));
        let mut value = Buffer::NULL;
        // SAFETY: `raw` is the hook's stream; Envoy reads the texts and writes through the pointer during the call.
        let is_text = unsafe {
            abi::envoy_dynamic_module_callback_http_get_metadata_string(
                self.raw,
                DYNAMIC_METADATA,
                namespace,
                key,
                &raw mut value,
            )
        };
        if is_text {
            return Some(self.bytes(value).to_vec());
        }
        let mut size = 0;
        // SAFETY: as above.
        let is_list = unsafe {
            abi::envoy_dynamic_module_callback_http_get_metadata_list_size(
                self.raw,
                DYNAMIC_METADATA,
                namespace,
                key,
                &raw mut size,
            )
        };
        let texts = (0..size).filter_map(|index| {
            let mut value = Buffer::NULL;
            // SAFETY: as above.
            let is_text = unsafe {
                abi::envoy_dynamic_module_callback_http_get_metadata_list_string(
                    self.raw,
                    DYNAMIC_METADATA,
                    namespace,
                    key,
                    index,
                    &raw mut value,
                )
            };
            is_text.then(|| self.bytes(value))
        });
        is_list.then(|| texts.collect::<Vec<_>>().join(&b","[..]))
    }

    /// An integer that Envoy knows of the stream.
    pub(crate) fn integer(&self, attribute: Attribute) -> Option<u64> {
        let mut value = 0;
        // SAFETY: `raw` is the hook's stream; Envoy writes through the pointer during the call.
        let known = unsafe {
            abi::envoy_dynamic_module_callback_http_filter_get_attribute_int(self.raw, attribute as i32, &raw mut value)
        };
        known.then_some(value)
    }

    /// A text that Envoy knows of the stream.
    pub(crate) fn text(&self, text: Text) -> Option<&[u8]> {
        let mut value = Buffer::NULL;
        // SAFETY: `raw` is the hook's stream; Envoy writes through the pointer during the call.
        let known = unsafe {
            abi::envoy_dynamic_module_callback_http_filter_get_attribute_string(self.raw, text as i32, &raw mut value)
        };
        known.then(|| self.bytes(value))
    }

    /// The addresses of the endpoints that were tried, in order.
    pub(crate) fn hosts_attempted(&self) -> Vec<&[u8]> {
        // SAFETY: `raw` is the hook's stream.
        let count = unsafe { abi::envoy_dynamic_module_callback_http_get_upstream_hosts_attempted_size(self.raw) };
        let mut hosts = vec![Buffer::NULL; count];
        // SAFETY: Envoy writes as many addresses as it just said there are.
        let given = count > 0
            && unsafe {
                abi::envoy_dynamic_module_callback_http_get_upstream_hosts_attempted(self.raw, hosts.as_mut_ptr())
            };
        if !given {
            hosts.clear();
        }
        hosts.into_iter().map(|host| self.bytes(host)).collect()
    }

    /// Bytes that Envoy handed out, for as long as the stream is neither changed nor left.
    const fn bytes(&self, buffer: Buffer) -> &[u8] {
        if buffer.ptr.is_null() || buffer.length == 0 {
            return &[];
        }
        // SAFETY: Envoy handed the buffer out in this hook, and whoever changes the stream borrows it mutably.
        unsafe { std::slice::from_raw_parts(buffer.ptr.cast(), buffer.length) }
    }
}
