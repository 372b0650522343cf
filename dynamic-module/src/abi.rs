//! Envoy's side of the dynamic module interface (ABI), as far as the module needs it: types and functions of Envoy 1.40.0.
//!
//! Written by hand from the interface's description and checked against the released binary: `scripts/native_symbols.py` compares the
//! names, and the end-to-end tests run on the real Envoy. No function is used here whose arguments differ between 1.40 and later
//! versions (`http_get_headers` is one that does).
#![allow(unsafe_code, reason = "foreign functions are declared here and called in `envoy` only")]
#![allow(missing_docs, reason = "the names are the ABI's own")]

use std::ffi::{c_char, c_int, c_void};

/// The version that `on_program_init` names; another one only makes Envoy warn.
pub const VERSION: &std::ffi::CStr = c"v0.2.0";

/// Bytes, by value in both directions.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Buffer {
    pub ptr: *const c_char,
    pub length: usize,
}

impl Buffer {
    /// No bytes: as a header's value it removes the header.
    pub const NULL: Self = Self { ptr: std::ptr::null(), length: 0 };

    /// Bytes that outlive the call they are for.
    #[must_use]
    pub const fn of(bytes: &[u8]) -> Self {
        Self { ptr: bytes.as_ptr().cast(), length: bytes.len() }
    }
}

/// A header, by value in both directions.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Header {
    pub key_ptr: *const c_char,
    pub key_length: usize,
    pub value_ptr: *const c_char,
    pub value_length: usize,
}

impl Header {
    /// A name and a value that outlive the call they are for.
    #[must_use]
    pub const fn of(name: &[u8], value: &[u8]) -> Self {
        Self {
            key_ptr: name.as_ptr().cast(),
            key_length: name.len(),
            value_ptr: value.as_ptr().cast(),
            value_length: value.len(),
        }
    }
}

/// What Envoy hands a bootstrap extension to say that it has shut down.
pub type ShutdownDone = unsafe extern "C" fn(*mut c_void);

// The layout that a 64-bit Envoy compiles.
const _: () = {
    assert!(size_of::<Buffer>() == 16 && align_of::<Buffer>() == 8);
    assert!(std::mem::offset_of!(Buffer, ptr) == 0 && std::mem::offset_of!(Buffer, length) == 8);
    assert!(size_of::<Header>() == 32 && align_of::<Header>() == 8);
    assert!(std::mem::offset_of!(Header, key_length) == 8);
    assert!(std::mem::offset_of!(Header, value_ptr) == 16 && std::mem::offset_of!(Header, value_length) == 24);
    assert!(size_of::<usize>() == 8 && size_of::<c_int>() == 4);
    assert!(size_of::<Option<ShutdownDone>>() == 8);
};

unsafe extern "C" {
    pub fn envoy_dynamic_module_callback_log_v2(level: c_int, message: Buffer, file: Buffer, line: u32);
    pub fn envoy_dynamic_module_callback_is_validation_mode() -> bool;

    pub fn envoy_dynamic_module_callback_http_get_header(
        filter: *mut c_void,
        map: c_int,
        name: Buffer,
        value: *mut Buffer,
        index: usize,
        count: *mut usize,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_http_set_header(
        filter: *mut c_void,
        map: c_int,
        name: Buffer,
        value: Buffer,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_http_add_header(
        filter: *mut c_void,
        map: c_int,
        name: Buffer,
        value: Buffer,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_http_send_response(
        filter: *mut c_void,
        status: u32,
        headers: *const Header,
        count: usize,
        body: Buffer,
        details: Buffer,
    );
    pub fn envoy_dynamic_module_callback_http_get_body_size(filter: *mut c_void, body: c_int) -> usize;
    pub fn envoy_dynamic_module_callback_http_get_body_chunks_size(filter: *mut c_void, body: c_int) -> usize;
    pub fn envoy_dynamic_module_callback_http_get_body_chunks(
        filter: *mut c_void,
        body: c_int,
        chunks: *mut Buffer,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_http_append_body(filter: *mut c_void, body: c_int, bytes: Buffer) -> bool;
    pub fn envoy_dynamic_module_callback_http_drain_body(filter: *mut c_void, body: c_int, bytes: usize) -> bool;
    pub fn envoy_dynamic_module_callback_http_received_buffered_request_body(filter: *mut c_void) -> bool;
    pub fn envoy_dynamic_module_callback_http_set_dynamic_metadata_string(
        filter: *mut c_void,
        namespace: Buffer,
        key: Buffer,
        value: Buffer,
    );
    pub fn envoy_dynamic_module_callback_http_set_dynamic_metadata_struct(
        filter: *mut c_void,
        namespace: Buffer,
        structure: Buffer,
    );
    pub fn envoy_dynamic_module_callback_http_get_metadata_string(
        filter: *mut c_void,
        source: c_int,
        namespace: Buffer,
        key: Buffer,
        value: *mut Buffer,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_http_get_metadata_list_size(
        filter: *mut c_void,
        source: c_int,
        namespace: Buffer,
        key: Buffer,
        size: *mut usize,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_http_get_metadata_list_string(
        filter: *mut c_void,
        source: c_int,
        namespace: Buffer,
        key: Buffer,
        index: usize,
        value: *mut Buffer,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_http_filter_get_attribute_string(
        filter: *mut c_void,
        attribute: c_int,
        value: *mut Buffer,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_http_filter_get_attribute_int(
        filter: *mut c_void,
        attribute: c_int,
        value: *mut u64,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_http_filter_continue_decoding(filter: *mut c_void);
    pub fn envoy_dynamic_module_callback_http_filter_scheduler_new(filter: *mut c_void) -> *mut c_void;
    pub fn envoy_dynamic_module_callback_http_filter_scheduler_commit(scheduler: *mut c_void, event: u64);
    pub fn envoy_dynamic_module_callback_http_filter_scheduler_delete(scheduler: *mut c_void);
    pub fn envoy_dynamic_module_callback_http_get_upstream_hosts_attempted_size(filter: *mut c_void) -> usize;
    pub fn envoy_dynamic_module_callback_http_get_upstream_hosts_attempted(
        filter: *mut c_void,
        hosts: *mut Buffer,
    ) -> bool;

    pub fn envoy_dynamic_module_callback_bootstrap_extension_config_signal_init_complete(config: *mut c_void);
    pub fn envoy_dynamic_module_callback_bootstrap_extension_timer_new(config: *mut c_void) -> *mut c_void;
    pub fn envoy_dynamic_module_callback_bootstrap_extension_timer_enable(timer: *mut c_void, millis: u64);
    pub fn envoy_dynamic_module_callback_bootstrap_extension_timer_delete(timer: *mut c_void);
    pub fn envoy_dynamic_module_callback_bootstrap_extension_http_callout(
        config: *mut c_void,
        id: *mut u64,
        cluster: Buffer,
        headers: *const Header,
        count: usize,
        body: Buffer,
        timeout_millis: u64,
    ) -> c_int;
    pub fn envoy_dynamic_module_callback_bootstrap_extension_config_define_counter(
        config: *mut c_void,
        name: Buffer,
        labels: *const Buffer,
        count: usize,
        id: *mut usize,
    ) -> c_int;
    pub fn envoy_dynamic_module_callback_bootstrap_extension_config_define_gauge(
        config: *mut c_void,
        name: Buffer,
        labels: *const Buffer,
        count: usize,
        id: *mut usize,
    ) -> c_int;
    pub fn envoy_dynamic_module_callback_bootstrap_extension_config_increment_counter(
        config: *mut c_void,
        id: usize,
        values: *const Buffer,
        count: usize,
        delta: u64,
    ) -> c_int;
    pub fn envoy_dynamic_module_callback_bootstrap_extension_config_set_gauge(
        config: *mut c_void,
        id: usize,
        values: *const Buffer,
        count: usize,
        value: u64,
    ) -> c_int;
}
