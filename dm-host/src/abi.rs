//! The C types and numbers of Envoy's dynamic module ABI, written down apart from the module's own: two readings of one document
//! that must agree.

use std::ffi::c_void;

/// Bytes of one side, by value: `envoy_dynamic_module_type_envoy_buffer` and `..._module_buffer`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AbiBuffer {
    /// Null only when there are no bytes.
    pub ptr: *const u8,
    /// Bytes.
    pub length: usize,
}

/// A header of one side: `envoy_dynamic_module_type_envoy_http_header` and `..._module_http_header`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AbiHeader {
    /// The name's bytes.
    pub key_ptr: *const u8,
    /// Bytes of the name.
    pub key_length: usize,
    /// The value's bytes.
    pub value_ptr: *const u8,
    /// Bytes of the value.
    pub value_length: usize,
}

/// What Envoy gives a module to call once it has shut down.
pub type OnShutdown = unsafe extern "C" fn(*mut c_void);

const _: () = assert!(size_of::<AbiBuffer>() == 2 * size_of::<usize>());
const _: () = assert!(size_of::<AbiHeader>() == 4 * size_of::<usize>());

impl AbiBuffer {
    /// No bytes.
    pub const EMPTY: Self = Self { ptr: std::ptr::null(), length: 0 };
}

/// What `on_program_init` has to return for Envoy 1.40.
pub const VERSION: &str = "v0.2.0";

/// `envoy_dynamic_module_type_metrics_result`
pub mod metrics_result {
    /// Done.
    pub const OK: i32 = 0;
    /// The id is no metric of that kind.
    pub const NOT_FOUND: i32 = 1;
    /// As many values as labels are wanted.
    pub const INVALID_LABELS: i32 = 2;
    /// Metrics are defined in `config_new` only.
    pub const FROZEN: i32 = 3;
}

/// `envoy_dynamic_module_type_http_callout_init_result`
pub mod callout_init {
    /// It is on its way.
    pub const OK: i32 = 0;
    /// `:method`, `:path` or `host` is missing.
    pub const MISSING_HEADERS: i32 = 1;
    /// There is no such cluster.
    pub const CLUSTER_NOT_FOUND: i32 = 2;
    /// The cluster has no host, for example.
    pub const CANNOT_CREATE: i32 = 4;
}

/// `envoy_dynamic_module_type_http_callout_result`
pub mod callout_result {
    /// There is a response.
    pub const SUCCESS: i32 = 0;
    /// The connection broke, or it took too long.
    pub const RESET: i32 = 1;
}

/// `envoy_dynamic_module_type_attribute_id`, those that are used.
pub mod attribute {
    /// Number: the response's status.
    pub const RESPONSE_CODE: i32 = 15;
    /// Text: how the response came to be.
    pub const CODE_DETAILS: i32 = 16;
    /// Number: Envoy's legacy bit set.
    pub const RESPONSE_FLAGS: i32 = 17;
    /// Text: who serves.
    pub const UPSTREAM_ADDRESS: i32 = 41;
    /// Number: attempts so far.
    pub const ATTEMPT_COUNT: i32 = 53;
}
