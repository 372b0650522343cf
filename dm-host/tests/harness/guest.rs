//! A module that does what a request's `x-do` says. It has declarations of its own, so that those of the harness are checked too.
#![allow(unsafe_code, reason = "a module's hooks and callbacks")]

use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_void};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

// Miri takes two C structs of one layout for different arguments.
#[cfg(miri)]
type Buffer = dm_host::abi::AbiBuffer;

#[cfg(not(miri))]
#[repr(C)]
#[derive(Clone, Copy)]
struct Buffer {
    ptr: *const u8,
    length: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    key_ptr: *const u8,
    key_length: usize,
    value_ptr: *const u8,
    value_length: usize,
}

type Ptr = *mut c_void;
type ConstPtr = *const c_void;

macro_rules! callbacks {
    ($(fn $name:ident($($argument:ident: $kind:ty),*) $(-> $returned:ty)?;)*) => {
        unsafe extern "C" {
            $(
                #[link_name = concat!("envoy_dynamic_module_callback_", stringify!($name))]
                fn $name($($argument: $kind),*) $(-> $returned)?;
            )*
        }
    };
}

callbacks! {
    fn log_v2(level: i32, message: Buffer, file: Buffer, line: u32);
    fn get_concurrency() -> u32;
    fn is_validation_mode() -> bool;
    fn http_get_header(filter: Ptr, map: i32, key: Buffer, out: *mut Buffer, index: usize, count: *mut usize) -> bool;
    fn http_set_header(filter: Ptr, map: i32, key: Buffer, value: Buffer) -> bool;
    fn http_send_response(filter: Ptr, status: u32, headers: *const Header, n: usize, body: Buffer, details: Buffer);
    fn http_get_body_size(filter: Ptr, body: i32) -> usize;
    fn http_get_body_chunks_size(filter: Ptr, body: i32) -> usize;
    fn http_get_body_chunks(filter: Ptr, body: i32, out: *mut Buffer) -> bool;
    fn http_append_body(filter: Ptr, body: i32, added: Buffer) -> bool;
    fn http_drain_body(filter: Ptr, body: i32, count: usize) -> bool;
    fn http_received_buffered_request_body(filter: Ptr) -> bool;
    fn http_set_dynamic_metadata_string(filter: Ptr, namespace: Buffer, key: Buffer, value: Buffer);
    fn http_filter_get_attribute_string(filter: Ptr, id: i32, out: *mut Buffer) -> bool;
    fn http_filter_get_attribute_int(filter: Ptr, id: i32, out: *mut u64) -> bool;
    fn http_get_upstream_hosts_attempted_size(filter: Ptr) -> usize;
    fn http_get_upstream_hosts_attempted(filter: Ptr, out: *mut Buffer) -> bool;
    fn http_filter_get_worker_index(filter: Ptr) -> u32;
    fn http_filter_continue_decoding(filter: Ptr) -> bool;
    fn http_filter_scheduler_new(filter: Ptr) -> Ptr;
    fn http_filter_scheduler_commit(scheduler: Ptr, event: u64);
    fn http_filter_scheduler_delete(scheduler: Ptr);
    fn http_filter_config_define_counter(config: Ptr, name: Buffer, labels: *const Buffer, n: usize, id: *mut usize) -> i32;
    fn http_filter_increment_counter(filter: Ptr, id: usize, values: *const Buffer, n: usize, value: u64) -> i32;
    fn bootstrap_extension_config_signal_init_complete(config: Ptr);
    fn bootstrap_extension_timer_new(config: Ptr) -> Ptr;
    fn bootstrap_extension_timer_enable(timer: Ptr, milliseconds: u64);
    fn bootstrap_extension_timer_delete(timer: Ptr);
    fn bootstrap_extension_http_callout(
        config: Ptr, id: *mut u64, cluster: Buffer, headers: *const Header, n: usize, body: Buffer, timeout: u64) -> i32;
    fn bootstrap_extension_register_admin_handler(config: Ptr, prefix: Buffer, help: Buffer, removable: bool, mutates: bool) -> bool;
    fn bootstrap_extension_admin_set_response(config: Ptr, body: Buffer);
    fn bootstrap_extension_config_define_gauge(config: Ptr, name: Buffer, labels: *const Buffer, n: usize, id: *mut usize) -> i32;
    fn bootstrap_extension_config_set_gauge(config: Ptr, id: usize, values: *const Buffer, n: usize, value: u64) -> i32;
}

/// Configurations that were destroyed.
pub(crate) static CONFIGS_DESTROYED: AtomicU32 = AtomicU32::new(0);
/// A filter that is destroyed.
static LATE: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

fn buffer(bytes: &(impl AsRef<[u8]> + ?Sized)) -> Buffer {
    let bytes = bytes.as_ref();
    Buffer { ptr: bytes.as_ptr(), length: bytes.len() }
}

const NOTHING: Buffer = Buffer { ptr: null(), length: 0 };

fn copy(buffer: Buffer) -> Vec<u8> {
    if buffer.length == 0 {
        Vec::new()
    } else {
        unsafe { std::slice::from_raw_parts(buffer.ptr, buffer.length) }.to_vec()
    }
}

fn text(buffer: Buffer) -> String {
    String::from_utf8_lossy(&copy(buffer)).into_owned()
}

struct FilterConfig {
    text: String,
    host: Ptr,
    requests: usize,
}

struct Filter {
    host: Ptr,
    wish: RefCell<String>,
    seen: RefCell<Vec<u8>>,
    kept: Cell<Option<Buffer>>,
    requests: usize,
    config: Ptr,
    replying: Cell<bool>,
}

impl Filter {
    /// Shared, since a hook may come inside another one of the same filter.
    fn of<'a>(filter: ConstPtr) -> &'a Self {
        unsafe { &*filter.cast::<Self>() }
    }

    fn wish(&self) -> String {
        self.wish.borrow().clone()
    }

    fn note_seen(&self) {
        self.note("seen", &*self.seen.borrow());
    }

    fn note(&self, key: &str, value: impl AsRef<[u8]>) {
        unsafe { http_set_dynamic_metadata_string(self.host, buffer("guest"), buffer(key), buffer(value.as_ref())) };
    }

    fn header(&self, map: i32, name: &str) -> Option<Buffer> {
        let mut out = NOTHING;
        let found = unsafe { http_get_header(self.host, map, buffer(name), &raw mut out, 0, null_mut()) };
        found.then_some(out)
    }

    fn slices(&self, body: i32) -> Vec<Buffer> {
        let count = unsafe { http_get_body_chunks_size(self.host, body) };
        let mut slices = vec![NOTHING; count];
        if !unsafe { http_get_body_chunks(self.host, body, slices.as_mut_ptr()) } {
            slices.clear();
        }
        slices
    }

    fn at_headers(&self) -> i32 {
        self.wish.replace(self.header(0, "x-do").map(text).unwrap_or_default());
        self.note("worker", unsafe { http_filter_get_worker_index(self.host) }.to_string());
        match self.wish().as_str() {
            "hold" | "rewrite" | "drop" => 1,
            "stop-all" => {
                let scheduler = AtomicPtr::new(unsafe { http_filter_scheduler_new(self.host) });
                let wake = move || unsafe {
                    let scheduler = scheduler.into_inner();
                    http_filter_scheduler_commit(scheduler, 1);
                    http_filter_scheduler_delete(scheduler);
                };
                drop(std::thread::spawn(wake));
                3
            }
            "keep" => {
                self.kept.set(self.header(0, "x-do"));
                0
            }
            "reply" => {
                self.reply();
                1
            }
            "strip" => {
                let removed = unsafe { http_set_header(self.host, 0, buffer("x-do"), NOTHING) };
                unsafe { http_set_header(self.host, 0, buffer("x-new"), buffer("value")) };
                self.note("stripped", removed.to_string());
                0
            }
            "empty-value" => {
                unsafe { http_set_header(self.host, 0, buffer("x-do"), buffer("")) };
                0
            }
            "foreign-thread" => {
                let host = AtomicPtr::new(self.host);
                let call = move || unsafe { http_get_body_size(host.into_inner(), 0) };
                std::thread::spawn(call).join().unwrap();
                0
            }
            "main-only" => {
                unsafe { get_concurrency() };
                0
            }
            "bad-status" => 9,
            "bytes-at-null" => {
                self.header(0, "x-do");
                let nowhere = Buffer { ptr: null(), length: 3 };
                unsafe { http_get_header(self.host, 0, nowhere, null_mut(), 0, null_mut()) };
                0
            }
            "late" => {
                unsafe { http_get_body_size(LATE.load(Ordering::SeqCst), 0) };
                0
            }
            "define" => {
                let mut id = 0;
                let define = http_filter_config_define_counter;
                let result = unsafe { define(self.config, buffer("late"), null(), 0, &raw mut id) };
                self.note("result", result.to_string());
                0
            }
            "labels" => {
                let values = [buffer("a"), buffer("b")];
                let count = |id, n| unsafe { http_filter_increment_counter(self.host, id, values.as_ptr(), n, 1) };
                let results = [count(self.requests, 2), count(self.requests + 9, 1), count(0, 1)];
                self.note("results", format!("{results:?}"));
                0
            }
            _ => 0,
        }
    }

    fn reply(&self) {
        let header = Header { key_ptr: b"x-a".as_ptr(), key_length: 3, value_ptr: b"b".as_ptr(), value_length: 1 };
        self.replying.set(true);
        unsafe { http_send_response(self.host, 429, &raw const header, 1, buffer("no"), buffer("guest_said_no")) };
        self.replying.set(false);
    }

    fn at_body(&self, end: bool) -> i32 {
        let slices = self.slices(0);
        for slice in &slices {
            self.seen.borrow_mut().extend(copy(*slice));
        }
        if let Some(kept) = self.kept.take() {
            // On purpose what a module must not do; not where that would be reported as the fault that it is.
            #[cfg(not(any(miri, sanitized)))]
            self.note("kept", format!("{:x?}", copy(kept)));
            let _ = kept;
        }
        match self.wish().as_str() {
            "hold" if !end => 1,
            "hold" => {
                self.note_seen();
                self.note("buffered", unsafe { http_get_body_size(self.host, 1) }.to_string());
                self.note("replayed", unsafe { http_received_buffered_request_body(self.host) }.to_string());
                0
            }
            "rewrite" if !end => 1,
            "rewrite" => {
                self.rewrite();
                0
            }
            "drop" => 3,
            "edit" => {
                let edited = unsafe { http_drain_body(self.host, 0, 1) };
                #[cfg(not(any(miri, sanitized)))]
                self.note("edited", format!("{edited} {:x?}", slices.first().map(|slice| copy(*slice))));
                let _ = edited;
                0
            }
            _ => 0,
        }
    }

    fn rewrite(&self) {
        for body in [0, 1] {
            let size = unsafe { http_get_body_size(self.host, body) };
            unsafe { http_drain_body(self.host, body, size) };
        }
        let added = unsafe { http_append_body(self.host, 0, buffer("new")) }
            || unsafe { http_append_body(self.host, 1, buffer("new")) };
        self.note("added", added.to_string());
    }

    fn at_complete(&self) {
        let (mut details, mut flags) = (NOTHING, 0);
        if unsafe { http_filter_get_attribute_string(self.host, 16, &raw mut details) } {
            self.note("details", copy(details));
        }
        unsafe { http_filter_get_attribute_int(self.host, 17, &raw mut flags) };
        self.note("flags", flags.to_string());
        let mut hosts = vec![NOTHING; unsafe { http_get_upstream_hosts_attempted_size(self.host) }];
        unsafe { http_get_upstream_hosts_attempted(self.host, hosts.as_mut_ptr()) };
        self.note("hosts", hosts.into_iter().map(text).collect::<Vec<_>>().join(","));
        self.note("inline", self.replying.get().to_string());
        let label = buffer("m");
        unsafe { http_filter_increment_counter(self.host, self.requests, &raw const label, 1, 1) };
    }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_program_init() -> *const c_char {
    c"v0.2.0".as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_config_new(host: Ptr, _: Buffer, config: Buffer) -> ConstPtr {
    let text = text(config);
    if text == "refuse" {
        unsafe { log_v2(4, buffer("the guest is told to refuse"), NOTHING, 0) };
        return null();
    }
    let mut requests = 0;
    let label = buffer("model");
    let define = http_filter_config_define_counter;
    unsafe { define(host, buffer("requests"), &raw const label, 1, &raw mut requests) };
    Box::into_raw(Box::new(FilterConfig { text, host, requests })).cast()
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_config_destroy(config: ConstPtr) {
    CONFIGS_DESTROYED.fetch_add(1, Ordering::SeqCst);
    drop(unsafe { Box::from_raw(config.cast_mut().cast::<FilterConfig>()) });
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_new(config: ConstPtr, host: Ptr) -> ConstPtr {
    let config = unsafe { &*config.cast::<FilterConfig>() };
    if config.text == "no-filter" {
        return null();
    }
    let filter = Filter {
        host,
        wish: RefCell::default(),
        seen: RefCell::default(),
        kept: Cell::default(),
        requests: config.requests,
        config: config.host,
        replying: Cell::default(),
    };
    Box::into_raw(Box::new(filter)).cast()
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_request_headers(_: Ptr, filter: ConstPtr, _: bool) -> i32 {
    Filter::of(filter).at_headers()
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_request_body(_: Ptr, filter: ConstPtr, end: bool) -> i32 {
    Filter::of(filter).at_body(end)
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_request_trailers(_: Ptr, filter: ConstPtr) -> i32 {
    let filter = Filter::of(filter);
    match filter.wish().as_str() {
        "rewrite" => filter.rewrite(),
        _ => filter.note_seen(),
    }
    0
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_response_headers(_: Ptr, filter: ConstPtr, _: bool) -> i32 {
    let filter = Filter::of(filter);
    if filter.wish() == "reply-late" {
        filter.reply();
    }
    0
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_response_body(_: Ptr, filter: ConstPtr, _: bool) -> i32 {
    let filter = Filter::of(filter);
    let slices = filter.slices(2);
    filter.note("answer", slices.into_iter().flat_map(copy).collect::<Vec<u8>>());
    if filter.wish() == "hold-answer" { 1 } else { 0 }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_response_trailers(_: Ptr, _: ConstPtr) -> i32 {
    0
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_stream_complete(_: Ptr, filter: ConstPtr) {
    Filter::of(filter).at_complete();
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_destroy(filter: ConstPtr) {
    let filter = unsafe { Box::from_raw(filter.cast_mut().cast::<Filter>()) };
    // Callbacks do nothing by now, and that is no fault.
    unsafe { http_get_body_size(filter.host, 0) };
    LATE.store(filter.host, Ordering::SeqCst);
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_scheduled(host: Ptr, filter: ConstPtr, event: u64) {
    Filter::of(filter).note("event", event.to_string());
    unsafe { http_filter_continue_decoding(host) };
}

macro_rules! unused {
    ($($name:ident($($kind:ty),*);)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name($(_: $kind),*) {}
    )*};
}

unused! {
    envoy_dynamic_module_on_http_filter_downstream_above_write_buffer_high_watermark(Ptr, ConstPtr);
    envoy_dynamic_module_on_http_filter_downstream_below_write_buffer_low_watermark(Ptr, ConstPtr);
    envoy_dynamic_module_on_http_filter_http_callout_done(
        Ptr, ConstPtr, u64, i32, *const Header, usize, *const Buffer, usize);
    envoy_dynamic_module_on_http_filter_http_stream_headers(Ptr, ConstPtr, u64, *const Header, usize, bool);
    envoy_dynamic_module_on_http_filter_http_stream_data(Ptr, ConstPtr, u64, *const Buffer, usize, bool);
    envoy_dynamic_module_on_http_filter_http_stream_trailers(Ptr, ConstPtr, u64, *const Header, usize);
    envoy_dynamic_module_on_http_filter_http_stream_complete(Ptr, ConstPtr, u64);
    envoy_dynamic_module_on_http_filter_http_stream_reset(Ptr, ConstPtr, u64, i32);
    envoy_dynamic_module_on_bootstrap_extension_drain_started(Ptr, ConstPtr);
    envoy_dynamic_module_on_bootstrap_extension_config_scheduled(Ptr, ConstPtr, u64);
    envoy_dynamic_module_on_bootstrap_extension_file_changed(Ptr, ConstPtr, Buffer, u32);
    envoy_dynamic_module_on_bootstrap_extension_cluster_add_or_update(Ptr, ConstPtr, Buffer);
    envoy_dynamic_module_on_bootstrap_extension_cluster_removal(Ptr, ConstPtr, Buffer);
    envoy_dynamic_module_on_bootstrap_extension_listener_add_or_update(Ptr, ConstPtr, Buffer);
    envoy_dynamic_module_on_bootstrap_extension_listener_removal(Ptr, ConstPtr, Buffer);
}

struct Extension {
    text: String,
    timer: Ptr,
    ticks: usize,
    fired: AtomicUsize,
    workers: AtomicU32,
}

impl Extension {
    fn of<'a>(config: ConstPtr) -> &'a Self {
        unsafe { &*config.cast::<Self>() }
    }

    fn show(&self, host: Ptr, what: &str, value: u64) {
        let what = buffer(what);
        unsafe { bootstrap_extension_config_set_gauge(host, self.ticks, &raw const what, 1, value) };
    }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_bootstrap_extension_config_new(host: Ptr, _: Buffer, config: Buffer) -> ConstPtr {
    let text = text(config);
    if text == "refuse" {
        return null();
    }
    let mut ticks = 0;
    let label = buffer("what");
    let define = bootstrap_extension_config_define_gauge;
    unsafe { define(host, buffer("guest"), &raw const label, 1, &raw mut ticks) };
    let timer = unsafe { bootstrap_extension_timer_new(host) };
    unsafe { bootstrap_extension_timer_enable(timer, 1) };
    unsafe { bootstrap_extension_register_admin_handler(host, buffer("/guest"), buffer("help"), true, false) };
    let extension = Extension { text, timer, ticks, fired: AtomicUsize::new(0), workers: AtomicU32::new(0) };
    extension.show(host, "validation", u64::from(unsafe { is_validation_mode() }));
    extension.show(host, "concurrency", u64::from(unsafe { get_concurrency() }));
    let signals = match extension.text.as_str() {
        "never-ready" => 0,
        "ready-twice" => 2,
        _ => 1,
    };
    for _ in 0..signals {
        unsafe { bootstrap_extension_config_signal_init_complete(host) };
    }
    Box::into_raw(Box::new(extension)).cast()
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_bootstrap_extension_config_destroy(config: ConstPtr) {
    drop(unsafe { Box::from_raw(config.cast_mut().cast::<Extension>()) });
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_bootstrap_extension_new(config: ConstPtr, _: Ptr) -> ConstPtr {
    config
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_bootstrap_extension_destroy(_: ConstPtr) {}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_bootstrap_extension_server_initialized(_: Ptr, _: ConstPtr) {}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_bootstrap_extension_worker_thread_initialized(_: Ptr, extension: ConstPtr) {
    Extension::of(extension).workers.fetch_add(1, Ordering::SeqCst);
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_bootstrap_extension_timer_fired(host: Ptr, config: ConstPtr, timer: Ptr) {
    let extension = Extension::of(config);
    if timer != extension.timer {
        return;
    }
    let fired = extension.fired.fetch_add(1, Ordering::SeqCst) + 1;
    extension.show(host, "fired", fired as u64);
    extension.show(host, "workers", u64::from(extension.workers.load(Ordering::SeqCst)));
    unsafe { bootstrap_extension_timer_enable(timer, 60_000) };
    let header = |key: &'static str, value: &'static str| Header {
        key_ptr: key.as_ptr(),
        key_length: key.len(),
        value_ptr: value.as_ptr(),
        value_length: value.len(),
    };
    let mut headers = vec![header(":method", "GET"), header(":path", "/snapshot"), header(":authority", "a")];
    if extension.text == "no-host" {
        headers.pop();
    }
    let cluster = if extension.text == "no-cluster" { "nowhere" } else { "sidecar" };
    let mut id = 0;
    let call = bootstrap_extension_http_callout;
    let sent = unsafe { call(host, &raw mut id, buffer(cluster), headers.as_ptr(), headers.len(), NOTHING, 500) };
    extension.show(host, "sent", sent as u64);
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_bootstrap_extension_http_callout_done(
    host: Ptr,
    config: ConstPtr,
    _: u64,
    result: i32,
    headers: *const Header,
    header_count: usize,
    body: *const Buffer,
    body_count: usize,
) {
    let extension = Extension::of(config);
    extension.show(host, "result", result as u64);
    extension.show(host, "headers", header_count as u64);
    let slices: Vec<Buffer> = (0..body_count).map(|index| unsafe { *body.add(index) }).collect();
    extension.show(host, "slices", slices.len() as u64);
    extension.show(host, "bytes", slices.into_iter().map(|slice| copy(slice).len() as u64).sum());
    if header_count > 0 {
        let first = unsafe { *headers };
        let value = text(Buffer { ptr: first.value_ptr, length: first.value_length });
        extension.show(host, "status", value.parse().unwrap());
    }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_bootstrap_extension_admin_request(
    host: Ptr,
    _: ConstPtr,
    method: Buffer,
    path: Buffer,
    _: Buffer,
) -> u32 {
    let page = format!("{} {}", text(method), text(path));
    unsafe { bootstrap_extension_admin_set_response(host, buffer(&page)) };
    200
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_bootstrap_extension_shutdown(
    _: Ptr,
    extension: ConstPtr,
    done: unsafe extern "C" fn(Ptr),
    context: Ptr,
) {
    let extension = Extension::of(extension);
    if extension.text != "leaky" {
        unsafe { bootstrap_extension_timer_delete(extension.timer) };
    }
    let times = match extension.text.as_str() {
        "never-done" => 0,
        "done-twice" => 2,
        _ => 1,
    };
    for _ in 0..times {
        unsafe { done(context) };
    }
}
