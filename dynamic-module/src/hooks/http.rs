//! Hooks of the HTTP filter.
#![allow(unsafe_code, reason = "Envoy calls these with its own pointers")]
#![allow(clippy::missing_safety_doc, reason = "the contract is the interface's; the head of `hooks` states it")]

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use endpoint_picker::filter_time::Phase;

use super::{bytes, give, given, take_back};
use crate::abi::{Buffer, Header};
use crate::envoy::HttpStream;
use crate::panics::{Hook, guard};
use crate::plugin::configure_filter;
use crate::process::Instance;
use crate::stream::{Stream, Verdict, answer_fault};

/// What Envoy does with headers and trailers.
#[derive(Clone, Copy)]
enum Status {
    Continue = 0,
    Stop = 1,
}

/// What Envoy does with a body.
#[derive(Clone, Copy)]
enum BodyStatus {
    Continue = 0,
    StopAndBuffer = 1,
}

impl From<Verdict> for Status {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Go => Self::Continue,
            Verdict::Stay => Self::Stop,
        }
    }
}

impl From<Verdict> for BodyStatus {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Go => Self::Continue,
            Verdict::Stay => Self::StopAndBuffer,
        }
    }
}

/// A filter is configured, on the main thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_new(
    _: *mut c_void,
    _: Buffer,
    document: Buffer,
) -> *const c_void {
    let run = || {
        #[cfg(feature = "fault-injection")]
        crate::fault::inject_if_ordered(Hook::FilterConfig);
        // SAFETY: Envoy's buffer, used within the hook.
        give(configure_filter(unsafe { bytes(document) }))
    };
    guard(Hook::FilterConfig, run, std::ptr::null, std::ptr::null())
}

/// Nobody uses that configuration any more; any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_destroy(config: *const c_void) {
    let run = || {
        #[cfg(feature = "fault-injection")]
        crate::fault::inject_if_ordered(Hook::FilterConfigEnd);
        // SAFETY: Envoy gives back what `config_new` made.
        unsafe { take_back::<Arc<Instance>>(config) }
    };
    guard(Hook::FilterConfigEnd, run, || (), ());
}

/// A stream begins. Null: Envoy answers it with 500.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_http_filter_new(
    config: *const c_void,
    _: *mut c_void,
) -> *const c_void {
    let run = || {
        #[cfg(feature = "fault-injection")]
        crate::fault::inject_if_ordered(Hook::Stream);
        // SAFETY: what `config_new` made.
        give(unsafe { given::<Arc<Instance>>(config) }.map(|instance| Stream::new(Arc::clone(instance))))
    };
    guard(Hook::Stream, run, std::ptr::null, std::ptr::null())
}

/// The phase of a stream whose time a hook takes.
const fn phase_of(hook: Hook) -> Phase {
    match hook {
        Hook::RequestHeaders => Phase::RequestHeaders,
        Hook::RequestBody | Hook::RequestTrailers | Hook::Scheduled => Phase::RequestBody,
        Hook::ResponseHeaders => Phase::ResponseHeaders,
        _ => Phase::ResponseBody,
    }
}

/// Runs a hook on the request's way in. If it panics, the client gets 500.
///
/// # Safety
///
/// The pointers must be those of the current hook.
unsafe fn inward(
    hook: Hook,
    raw: *mut c_void,
    stream: *const c_void,
    run: impl FnOnce(&Stream, &mut HttpStream<'_>) -> Verdict,
) -> Verdict {
    // SAFETY: Envoy's stream, and what `new` made of it.
    let (stream, mut envoy, mut again) =
        unsafe { (given::<Stream>(stream), HttpStream::new(raw), HttpStream::new(raw)) };
    let Some(stream) = stream else { return Verdict::Go };
    let run = || {
        #[cfg(feature = "fault-injection")]
        crate::fault::inject(hook, &envoy);
        stream.timed(phase_of(hook), || {
            let verdict = run(stream, &mut envoy);
            stream.tell(&mut envoy);
            verdict
        })
    };
    let recover = || {
        stream.abandon();
        stream.tell(&mut again);
        answer_fault(&mut again);
        Verdict::Stay
    };
    guard(hook, run, recover, Verdict::Stay)
}

/// Runs a hook on the response's way out. If it panics, the exchange is settled and `recover` says what becomes of the response.
///
/// # Safety
///
/// The pointers must be those of the current hook.
unsafe fn outward(
    hook: Hook,
    raw: *mut c_void,
    stream: *const c_void,
    run: impl FnOnce(&Stream, &mut HttpStream<'_>),
    recover: impl FnOnce(&mut HttpStream<'_>) -> Verdict,
) -> Verdict {
    // SAFETY: Envoy's stream, and what `new` made of it.
    let (stream, mut envoy, mut again) =
        unsafe { (given::<Stream>(stream), HttpStream::new(raw), HttpStream::new(raw)) };
    let Some(stream) = stream else { return Verdict::Go };
    let run = || {
        #[cfg(feature = "fault-injection")]
        crate::fault::inject(hook, &envoy);
        stream.timed(phase_of(hook), || {
            run(stream, &mut envoy);
            stream.tell(&mut envoy);
        });
        Verdict::Go
    };
    let recover = || {
        stream.abandon();
        stream.tell(&mut again);
        recover(&mut again)
    };
    guard(hook, run, recover, Verdict::Go)
}

/// The request's headers came.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_http_filter_request_headers(
    raw: *mut c_void,
    stream: *const c_void,
    end: bool,
) -> c_int {
    // SAFETY: the hook's pointers.
    let verdict =
        unsafe { inward(Hook::RequestHeaders, raw, stream, |stream, envoy| stream.request_headers(envoy, end)) };
    Status::from(verdict) as c_int
}

/// More of the request's body came.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_http_filter_request_body(
    raw: *mut c_void,
    stream: *const c_void,
    end: bool,
) -> c_int {
    // SAFETY: the hook's pointers.
    let verdict = unsafe { inward(Hook::RequestBody, raw, stream, |stream, envoy| stream.request_body(envoy, end)) };
    BodyStatus::from(verdict) as c_int
}

/// The request ends with trailers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_http_filter_request_trailers(
    raw: *mut c_void,
    stream: *const c_void,
) -> c_int {
    // SAFETY: the hook's pointers.
    let verdict = unsafe { inward(Hook::RequestTrailers, raw, stream, |stream, envoy| stream.request_trailers(envoy)) };
    Status::from(verdict) as c_int
}

/// The response's headers came: the endpoint's, or those of an answer that Envoy made itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_http_filter_response_headers(
    raw: *mut c_void,
    stream: *const c_void,
    end: bool,
) -> c_int {
    let recover = |envoy: &mut HttpStream<'_>| {
        answer_fault(envoy);
        Verdict::Stay
    };
    // SAFETY: the hook's pointers.
    let verdict = unsafe {
        outward(Hook::ResponseHeaders, raw, stream, |stream, envoy| stream.response_headers(envoy, end), recover)
    };
    Status::from(verdict) as c_int
}

/// More of the response's body came. After a panic the client gets what the endpoint sent: its headers are gone already.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_http_filter_response_body(
    raw: *mut c_void,
    stream: *const c_void,
    end: bool,
) -> c_int {
    // SAFETY: the hook's pointers.
    let verdict = unsafe {
        outward(Hook::ResponseBody, raw, stream, |stream, envoy| stream.response_body(envoy, end), |_| Verdict::Go)
    };
    BodyStatus::from(verdict) as c_int
}

/// The response ends with trailers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_http_filter_response_trailers(
    raw: *mut c_void,
    stream: *const c_void,
) -> c_int {
    // SAFETY: the hook's pointers.
    let verdict = unsafe {
        outward(Hook::ResponseTrailers, raw, stream, |stream, envoy| stream.response_trailers(envoy), |_| Verdict::Go)
    };
    Status::from(verdict) as c_int
}

/// The stream is over. It can come while another hook of the stream answers the client.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_http_filter_stream_complete(raw: *mut c_void, stream: *const c_void) {
    // SAFETY: the hook's pointers.
    unsafe {
        outward(Hook::StreamComplete, raw, stream, |stream, envoy| stream.stream_complete(envoy), |_| Verdict::Go);
    }
}

/// Envoy lets go of the stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_http_filter_destroy(stream: *const c_void) {
    let run = || {
        #[cfg(feature = "fault-injection")]
        crate::fault::inject_if_ordered(Hook::StreamEnd);
        // SAFETY: Envoy gives back what `new` made.
        unsafe { take_back::<Stream>(stream) }
    };
    guard(Hook::StreamEnd, run, || (), ());
}

/// A request that waited in flow control is to go on. If that panics, the client gets 500.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_http_filter_scheduled(
    raw: *mut c_void,
    stream: *const c_void,
    event: u64,
) {
    // SAFETY: the hook's pointers.
    unsafe {
        inward(Hook::Scheduled, raw, stream, |stream, envoy| {
            stream.resume(envoy, event);
            Verdict::Stay
        });
    }
}

/// The client reads slowly: Envoy's own flow control is all that is needed.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_downstream_above_write_buffer_high_watermark(
    _: *mut c_void,
    _: *const c_void,
) {
}

/// The client has caught up.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_downstream_below_write_buffer_low_watermark(
    _: *mut c_void,
    _: *const c_void,
) {
}

/// A call of the stream was answered: streams call nobody.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_http_callout_done(
    _: *mut c_void,
    _: *const c_void,
    _: u64,
    _: c_int,
    _: *const Header,
    _: usize,
    _: *const Buffer,
    _: usize,
) {
}

/// See [`envoy_dynamic_module_on_http_filter_http_callout_done`].
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_http_stream_headers(
    _: *mut c_void,
    _: *const c_void,
    _: u64,
    _: *const Header,
    _: usize,
    _: bool,
) {
}

/// See [`envoy_dynamic_module_on_http_filter_http_callout_done`].
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_http_stream_data(
    _: *mut c_void,
    _: *const c_void,
    _: u64,
    _: *const Buffer,
    _: usize,
    _: bool,
) {
}

/// See [`envoy_dynamic_module_on_http_filter_http_callout_done`].
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_http_stream_trailers(
    _: *mut c_void,
    _: *const c_void,
    _: u64,
    _: *const Header,
    _: usize,
) {
}

/// See [`envoy_dynamic_module_on_http_filter_http_callout_done`].
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_http_stream_complete(_: *mut c_void, _: *const c_void, _: u64) {}

/// See [`envoy_dynamic_module_on_http_filter_http_callout_done`].
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_http_stream_reset(
    _: *mut c_void,
    _: *const c_void,
    _: u64,
    _: c_int,
) {
}
