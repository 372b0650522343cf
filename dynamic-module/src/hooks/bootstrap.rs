//! Hooks of the bootstrap extension, all on Envoy's main thread but for those that say otherwise.
#![allow(unsafe_code, reason = "Envoy calls these with its own pointers")]
#![allow(clippy::missing_safety_doc, reason = "the contract is the interface's; the head of `hooks` states it")]

use std::borrow::Cow;
use std::ffi::{c_int, c_void};

use endpoint_picker::snapshot_service::{SidecarResponse, WATCHED_HEADER};

use super::{bytes, give, given, take_back};
use crate::abi::{Buffer, Header, ShutdownDone};
use crate::envoy::{Callout, ExtensionConfig, is_validation_mode};
use crate::main_thread::MainThread;
use crate::panics::{Hook, guard};
use crate::plugin::configure_extension;

/// The ABI's word for a call that was answered.
const ANSWERED: c_int = 0;
/// The admin page has no path of ours.
const NOT_FOUND: u32 = 404;

/// What Envoy carries between the hooks of the extension: Envoy's configuration is an argument of some only.
#[derive(Debug)]
struct Extension {
    main_thread: MainThread,
    config: *mut c_void,
}

/// The extension is configured. Null ends Envoy's start.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_bootstrap_extension_config_new(
    config: *mut c_void,
    _: Buffer,
    document: Buffer,
) -> *const c_void {
    let run = || {
        // SAFETY: Envoy's buffer, used within the hook.
        let Some(sidecar) = configure_extension(unsafe { bytes(document) }) else { return std::ptr::null() };
        // SAFETY: the configuration that is being made.
        let mut envoy = unsafe { ExtensionConfig::new(config) };
        let main_thread = MainThread::new(&mut envoy, sidecar);
        // A gateway without a sidecar picks by what is in flight, so nothing is to be waited for.
        envoy.signal_init_complete();
        give(Some(Extension { main_thread, config }))
    };
    guard(Hook::ExtensionConfig, run, std::ptr::null, std::ptr::null())
}

/// Nobody uses the configuration any more; any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_bootstrap_extension_config_destroy(extension: *const c_void) {
    // SAFETY: Envoy gives back what `config_new` made.
    guard(Hook::ExtensionConfigEnd, || unsafe { take_back::<Extension>(extension) }, || (), ());
}

/// The extension is made: it is its configuration.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_bootstrap_extension_new(
    extension: *const c_void,
    _: *mut c_void,
) -> *const c_void {
    extension
}

/// The extension ends: `config_destroy` takes back what it has.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_bootstrap_extension_destroy(_: *const c_void) {}

/// The server is about to serve.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_bootstrap_extension_server_initialized(
    _: *mut c_void,
    extension: *const c_void,
) {
    // SAFETY: what `config_new` made.
    let Some(extension) = (unsafe { given::<Extension>(extension) }) else { return };
    // SAFETY: the extension's configuration lives as long as the extension.
    let mut envoy = unsafe { ExtensionConfig::new(extension.config) };
    let run = || {
        if !is_validation_mode() {
            extension.main_thread.begin(&mut envoy);
        }
    };
    guard(Hook::ServerInitialized, run, || (), ());
}

/// A worker thread begins: all workers share one state.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_bootstrap_extension_worker_thread_initialized(
    _: *mut c_void,
    _: *const c_void,
) {
}

/// Envoy drains: requests are served until it ends.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_bootstrap_extension_drain_started(_: *mut c_void, _: *const c_void) {}

/// Envoy ends. `done` is called once, whatever happens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_bootstrap_extension_shutdown(
    _: *mut c_void,
    extension: *const c_void,
    done: Option<ShutdownDone>,
    context: *mut c_void,
) {
    // SAFETY: what `config_new` made.
    if let Some(extension) = unsafe { given::<Extension>(extension) } {
        // SAFETY: the extension's configuration lives as long as the extension.
        let (mut envoy, mut again) =
            unsafe { (ExtensionConfig::new(extension.config), ExtensionConfig::new(extension.config)) };
        let run = || {
            #[cfg(feature = "fault-injection")]
            crate::fault::inject_if_ordered(Hook::Shutdown);
            extension.main_thread.finish(&mut envoy);
        };
        // What is left to be done is done: each part of it is taken before it is.
        guard(Hook::Shutdown, run, || extension.main_thread.finish(&mut again), ());
    }
    if let Some(done) = done {
        // SAFETY: Envoy's function with Envoy's argument, called this once.
        unsafe { done(context) };
    }
}

/// An event was scheduled for the extension: nothing here schedules any.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_bootstrap_extension_config_scheduled(
    _: *mut c_void,
    _: *const c_void,
    _: u64,
) {
}

/// The timer fired.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_bootstrap_extension_timer_fired(
    config: *mut c_void,
    extension: *const c_void,
    _: *mut c_void,
) {
    // SAFETY: what `config_new` made.
    let Some(extension) = (unsafe { given::<Extension>(extension) }) else { return };
    // SAFETY: the hook's own configuration.
    let (mut envoy, mut again) = unsafe { (ExtensionConfig::new(config), ExtensionConfig::new(config)) };
    let run = || {
        #[cfg(feature = "fault-injection")]
        crate::fault::inject_if_ordered(Hook::TimerFired);
        extension.main_thread.tick(&mut envoy);
    };
    guard(Hook::TimerFired, run, || extension.main_thread.keep_on(&mut again), ());
}

/// A file changed: none is watched.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_bootstrap_extension_file_changed(
    _: *mut c_void,
    _: *const c_void,
    _: Buffer,
    _: u32,
) {
}

/// A cluster answered a call, or did not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_bootstrap_extension_http_callout_done(
    config: *mut c_void,
    extension: *const c_void,
    call: u64,
    result: c_int,
    headers: *const Header,
    header_count: usize,
    chunks: *const Buffer,
    chunk_count: usize,
) {
    // SAFETY: what `config_new` made.
    let Some(extension) = (unsafe { given::<Extension>(extension) }) else { return };
    // SAFETY: the hook's own configuration, headers and chunks.
    let (mut envoy, headers, chunks) =
        unsafe { (ExtensionConfig::new(config), slice(headers, header_count), slice(chunks, chunk_count)) };
    let run = || {
        #[cfg(feature = "fault-injection")]
        crate::fault::inject_if_ordered(Hook::CalloutDone);
        // SAFETY: names, values and bytes of the hook's own headers and chunks.
        let (status, watched, body) =
            unsafe { (value(headers, b":status"), value(headers, WATCHED_HEADER.as_bytes()), joined(chunks)) };
        let is_watched = watched.is_some();
        let answered = status.filter(|_| result == ANSWERED);
        let response = answered.map(|status| SidecarResponse { status, body: &body, is_watched });
        extension.main_thread.handle_response(&mut envoy, Callout(call), response);
    };
    guard(Hook::CalloutDone, run, || (), ());
}

/// Something asked the admin page for a path of ours: there is none.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_bootstrap_extension_admin_request(
    _: *mut c_void,
    _: *const c_void,
    _: Buffer,
    _: Buffer,
    _: Buffer,
) -> u32 {
    NOT_FOUND
}

/// A cluster changed: pools come from snapshots.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_bootstrap_extension_cluster_add_or_update(
    _: *mut c_void,
    _: *const c_void,
    _: Buffer,
) {
}

/// A cluster is gone.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_bootstrap_extension_cluster_removal(
    _: *mut c_void,
    _: *const c_void,
    _: Buffer,
) {
}

/// A listener changed.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_bootstrap_extension_listener_add_or_update(
    _: *mut c_void,
    _: *const c_void,
    _: Buffer,
) {
}

/// A listener is gone.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_bootstrap_extension_listener_removal(
    _: *mut c_void,
    _: *const c_void,
    _: Buffer,
) {
}

/// # Safety
///
/// `first` must be null or the first of `count` values that are valid for `'hook`.
const unsafe fn slice<'hook, T>(first: *const T, count: usize) -> &'hook [T] {
    if first.is_null() {
        return &[];
    }
    // SAFETY: see above.
    unsafe { std::slice::from_raw_parts(first, count) }
}

/// The value of the first header of that name.
///
/// # Safety
///
/// The headers must be those of the current hook, which `'hook` must not outlive.
unsafe fn value<'a>(headers: &'a [Header], wanted: &[u8]) -> Option<&'a [u8]> {
    headers.iter().find_map(|header| {
        let Header { key_ptr, key_length, value_ptr, value_length } = *header;
        // SAFETY: see above.
        let (name, value) = unsafe {
            (bytes(Buffer { ptr: key_ptr, length: key_length }), bytes(Buffer { ptr: value_ptr, length: value_length }))
        };
        (name == wanted).then_some(value)
    })
}

/// A body in one piece.
///
/// # Safety
///
/// The chunks must be those of the current hook, which `'hook` must not outlive.
unsafe fn joined<'hook>(chunks: &[Buffer]) -> Cow<'hook, [u8]> {
    match chunks {
        // SAFETY: see above.
        [only] => Cow::Borrowed(unsafe { bytes(*only) }),
        // SAFETY: see above.
        several => Cow::Owned(several.iter().flat_map(|chunk| unsafe { bytes(*chunk) }).copied().collect()),
    }
}
