//! The hooks of a module, as a table of the functions that Envoy looks up by name.
#![expect(unsafe_code, reason = "the module's functions are declared and called here")]

use std::ffi::{c_char, c_void};

use crate::abi::{AbiBuffer, AbiHeader, OnShutdown};

type Host = *mut c_void;
type Module = *const c_void;

macro_rules! hooks {
    ($($field:ident = $symbol:ident($($name:ident: $kind:ty),*) $(-> $returned:ty)?;)*) => {
        /// Every hook that Envoy 1.40 requires of a module with an HTTP filter and a bootstrap extension.
        #[derive(Clone, Copy, Debug)]
        pub struct Hooks {
            $($field: unsafe extern "C" fn($($kind),*) $(-> $returned)?,)*
        }

        mod linked {
            use super::*;

            unsafe extern "C" {
                $(pub(super) fn $symbol($($name: $kind),*) $(-> $returned)?;)*
            }
        }

        impl Hooks {
            /// Those of the module that is linked with this program. It does not link without all of them.
            #[must_use]
            pub fn linked() -> Self {
                Self { $($field: linked::$symbol,)* }
            }

            $(
                #[expect(clippy::allow_attributes, reason = "one macro for hooks of any length")]
                #[allow(clippy::too_many_arguments, reason = "the ABI's")]
                pub(crate) fn $field(&self, $($name: $kind),*) $(-> $returned)? {
                    // SAFETY: a module's hooks take what Envoy gives: handles, and buffers that live as long as the call.
                    unsafe { (self.$field)($($name),*) }
                }
            )*
        }
    };
}

hooks! {
    program_init = envoy_dynamic_module_on_program_init() -> *const c_char;
    filter_config_new = envoy_dynamic_module_on_http_filter_config_new(host: Host, name: AbiBuffer, config: AbiBuffer) -> Module;
    filter_config_destroy = envoy_dynamic_module_on_http_filter_config_destroy(config: Module);
    filter_new = envoy_dynamic_module_on_http_filter_new(config: Module, host: Host) -> Module;
    request_headers = envoy_dynamic_module_on_http_filter_request_headers(host: Host, filter: Module, end: bool) -> i32;
    request_body = envoy_dynamic_module_on_http_filter_request_body(host: Host, filter: Module, end: bool) -> i32;
    request_trailers = envoy_dynamic_module_on_http_filter_request_trailers(host: Host, filter: Module) -> i32;
    response_headers = envoy_dynamic_module_on_http_filter_response_headers(host: Host, filter: Module, end: bool) -> i32;
    response_body = envoy_dynamic_module_on_http_filter_response_body(host: Host, filter: Module, end: bool) -> i32;
    response_trailers = envoy_dynamic_module_on_http_filter_response_trailers(host: Host, filter: Module) -> i32;
    stream_complete = envoy_dynamic_module_on_http_filter_stream_complete(host: Host, filter: Module);
    filter_destroy = envoy_dynamic_module_on_http_filter_destroy(filter: Module);
    filter_scheduled = envoy_dynamic_module_on_http_filter_scheduled(host: Host, filter: Module, event: u64);
    above_high_watermark = envoy_dynamic_module_on_http_filter_downstream_above_write_buffer_high_watermark(host: Host, filter: Module);
    below_low_watermark = envoy_dynamic_module_on_http_filter_downstream_below_write_buffer_low_watermark(host: Host, filter: Module);
    filter_callout_done = envoy_dynamic_module_on_http_filter_http_callout_done(
        host: Host, filter: Module, id: u64, result: i32, headers: *const AbiHeader, header_count: usize,
        body: *const AbiBuffer, body_count: usize);
    filter_stream_headers = envoy_dynamic_module_on_http_filter_http_stream_headers(
        host: Host, filter: Module, id: u64, headers: *const AbiHeader, header_count: usize, end: bool);
    filter_stream_data = envoy_dynamic_module_on_http_filter_http_stream_data(
        host: Host, filter: Module, id: u64, body: *const AbiBuffer, body_count: usize, end: bool);
    filter_stream_trailers = envoy_dynamic_module_on_http_filter_http_stream_trailers(
        host: Host, filter: Module, id: u64, headers: *const AbiHeader, header_count: usize);
    filter_stream_complete = envoy_dynamic_module_on_http_filter_http_stream_complete(host: Host, filter: Module, id: u64);
    filter_stream_reset = envoy_dynamic_module_on_http_filter_http_stream_reset(host: Host, filter: Module, id: u64, reason: i32);
    bootstrap_config_new = envoy_dynamic_module_on_bootstrap_extension_config_new(host: Host, name: AbiBuffer, config: AbiBuffer) -> Module;
    bootstrap_config_destroy = envoy_dynamic_module_on_bootstrap_extension_config_destroy(config: Module);
    extension_new = envoy_dynamic_module_on_bootstrap_extension_new(config: Module, host: Host) -> Module;
    extension_destroy = envoy_dynamic_module_on_bootstrap_extension_destroy(extension: Module);
    server_initialized = envoy_dynamic_module_on_bootstrap_extension_server_initialized(host: Host, extension: Module);
    worker_initialized = envoy_dynamic_module_on_bootstrap_extension_worker_thread_initialized(host: Host, extension: Module);
    drain_started = envoy_dynamic_module_on_bootstrap_extension_drain_started(host: Host, extension: Module);
    shutdown = envoy_dynamic_module_on_bootstrap_extension_shutdown(
        host: Host, extension: Module, done: OnShutdown, context: *mut c_void);
    config_scheduled = envoy_dynamic_module_on_bootstrap_extension_config_scheduled(host: Host, config: Module, event: u64);
    timer_fired = envoy_dynamic_module_on_bootstrap_extension_timer_fired(host: Host, config: Module, timer: *mut c_void);
    file_changed = envoy_dynamic_module_on_bootstrap_extension_file_changed(
        host: Host, config: Module, path: AbiBuffer, events: u32);
    callout_done = envoy_dynamic_module_on_bootstrap_extension_http_callout_done(
        host: Host, config: Module, id: u64, result: i32, headers: *const AbiHeader, header_count: usize,
        body: *const AbiBuffer, body_count: usize);
    admin_request = envoy_dynamic_module_on_bootstrap_extension_admin_request(
        host: Host, config: Module, method: AbiBuffer, path: AbiBuffer, body: AbiBuffer) -> u32;
    cluster_added = envoy_dynamic_module_on_bootstrap_extension_cluster_add_or_update(host: Host, config: Module, name: AbiBuffer);
    cluster_removed = envoy_dynamic_module_on_bootstrap_extension_cluster_removal(host: Host, config: Module, name: AbiBuffer);
    listener_added = envoy_dynamic_module_on_bootstrap_extension_listener_add_or_update(host: Host, config: Module, name: AbiBuffer);
    listener_removed = envoy_dynamic_module_on_bootstrap_extension_listener_removal(host: Host, config: Module, name: AbiBuffer);
}
