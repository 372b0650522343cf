//! The functions that Envoy calls, by the names of proxy-wasm ABI 0.2.1: each hands on to the one [`Dispatcher`] of the virtual machine.
//!
//! The SDK's own exports are not used: its dispatcher keeps every context in maps of boxed objects, ends the machine on an unknown
//! context, and its exports have names that no second set can have. Callbacks that are not here are not made, and each that is made costs:
//! the filter is for HTTP only, and a stream is settled and let go of in `proxy_on_done`, so nothing is left for `proxy_on_log`, which
//! comes just before it, or for `proxy_on_delete`.
#![allow(unsafe_code, reason = "names without mangling are promises to the linker; the names here are the ABI's")]

use std::cell::RefCell;

use endpoint_picker::filter_time::Phase;

use crate::abi::Action;
use crate::dispatcher::Dispatcher;
use crate::log_sink;

thread_local! {
    /// A virtual machine has one thread.
    static DISPATCHER: RefCell<Dispatcher> = const { RefCell::new(Dispatcher::new()) };
}

/// Runs one callback. Envoy makes none within another one; if it did, the inner one would get `otherwise`.
fn dispatch<T>(otherwise: T, callback: impl FnOnce(&mut Dispatcher) -> T) -> T {
    DISPATCHER.with(|dispatcher| match dispatcher.try_borrow_mut() {
        Ok(mut dispatcher) => callback(&mut dispatcher),
        Err(_) => otherwise,
    })
}

/// Says which ABI this is; never called.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn proxy_abi_version_0_2_1() {}

/// The module starts.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn _initialize() {
    #[cfg(target_os = "wasi")]
    {
        unsafe extern "C" {
            fn __wasm_call_ctors();
        }
        // SAFETY: the linker makes this function, and the host calls `_initialize` once, before anything else.
        unsafe { __wasm_call_ctors() };
    }
    log_sink::install();
}

/// Memory for what a host call returns.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    crate::host::lend(size)
}

/// A root context (`parent` 0) or the context of a stream begins.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn proxy_on_context_create(context: u32, parent: u32) {
    dispatch((), |dispatcher| dispatcher.create(context, parent));
}

/// The plugin's configuration has so many bytes. False refuses it.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn proxy_on_configure(context: u32, size: usize) -> u32 {
    dispatch(0, |dispatcher| u32::from(dispatcher.configure(context, size)))
}

/// The timer of a root context.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn proxy_on_tick(context: u32) {
    dispatch((), |dispatcher| dispatcher.tick(context));
}

/// A call of a root context was answered, or was not (no headers).
#[unsafe(no_mangle)]
pub(crate) extern "C" fn proxy_on_http_call_response(context: u32, _: u32, headers: usize, body_size: usize, _: usize) {
    dispatch((), |dispatcher| dispatcher.call_answered(context, headers, body_size));
}

/// A request's headers.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn proxy_on_request_headers(context: u32, count: usize, end: u32) -> Action {
    dispatch(Action::Continue, |dispatcher| {
        dispatcher.stream(context, Phase::RequestHeaders, |stream| stream.on_http_request_headers(count, end != 0))
    })
}

/// A request's body: so many bytes are held.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn proxy_on_request_body(context: u32, size: usize, end: u32) -> Action {
    dispatch(Action::Continue, |dispatcher| {
        dispatcher.stream(context, Phase::RequestBody, |stream| stream.on_http_request_body(size, end != 0))
    })
}

/// A request's trailers.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn proxy_on_request_trailers(context: u32, count: usize) -> Action {
    dispatch(Action::Continue, |dispatcher| {
        dispatcher.stream(context, Phase::RequestBody, |stream| stream.on_http_request_trailers(count))
    })
}

/// A response's headers.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn proxy_on_response_headers(context: u32, count: usize, end: u32) -> Action {
    dispatch(Action::Continue, |dispatcher| {
        dispatcher.stream(context, Phase::ResponseHeaders, |stream| stream.on_http_response_headers(count, end != 0))
    })
}

/// A piece of a response's body.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn proxy_on_response_body(context: u32, size: usize, end: u32) -> Action {
    dispatch(Action::Continue, |dispatcher| {
        dispatcher.stream(context, Phase::ResponseBody, |stream| stream.on_http_response_body(size, end != 0))
    })
}

/// A response's trailers.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn proxy_on_response_trailers(context: u32, count: usize) -> Action {
    dispatch(Action::Continue, |dispatcher| {
        dispatcher.stream(context, Phase::ResponseBody, |stream| stream.on_http_response_trailers(count))
    })
}

/// A context is over, and a stream with it, whichever way it ended; true: nothing has to be waited for.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn proxy_on_done(context: u32) -> u32 {
    dispatch((), |dispatcher| dispatcher.end(context));
    1
}
