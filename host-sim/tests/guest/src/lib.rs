//! A filter that does what the request's `x-script` header says, phase by phase.
//!
//! A script is a list of `phase:command` separated by `;`. Phases are `rh rb rt sh sb st log` (request and
//! response headers, body, trailers, and the access log), for the root context `start conf tick queue call`,
//! whose script is the plugin configuration. A command may have an argument behind `=`.
//!
//! `put_after` writes shared data by the number that the key has, or by one so far ahead. Commands that begin with
//! `try_` make one host call, whatever the situation, and say which status came back: a number of the ABI.
//! `trace` lets every callback of a stream say that it was called, with its arguments.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, BufferType, ContextType, LogLevel, MapType, MetricType};

proxy_wasm::main! {{
    hostcalls::log(LogLevel::Debug, "main").unwrap();
    if std::env::var_os("CALL_IN_MAIN").is_some() {
        hostcalls::define_metric(MetricType::Counter, "too_early").unwrap();
    }
    proxy_wasm::set_log_level(LogLevel::Trace);
    proxy_wasm::set_root_context(|id| Box::new(Root { id, script: String::new() }));
}}

thread_local! {
    static PARKED: RefCell<VecDeque<u32>> = const { RefCell::new(VecDeque::new()) };
    static TICKS: Cell<u32> = const { Cell::new(0) };
    static TRACED: Cell<bool> = const { Cell::new(false) };
}

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        size: usize,
    ) -> u32;
    fn proxy_add_header_map_value(map: u32, name: *const u8, name_size: usize, value: *const u8, size: usize) -> u32;
    fn proxy_remove_header_map_value(map: u32, name: *const u8, name_size: usize) -> u32;
    fn proxy_get_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_get_header_map_pairs(map: u32, pairs: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_set_header_map_pairs(map: u32, pairs: *const u8, size: usize) -> u32;
    fn proxy_get_buffer_bytes(buffer: u32, start: usize, length: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_get_property(path: *const u8, path_size: usize, value: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> u32;
    fn proxy_increment_metric(id: u32, offset: i64) -> u32;
    fn proxy_record_metric(id: u32, value: u64) -> u32;
    fn proxy_get_metric(id: u32, value: *mut u64) -> u32;
    fn proxy_continue_stream(stream: u32) -> u32;
    fn proxy_set_buffer_bytes(buffer: u32, start: usize, length: usize, data: *const u8, size: usize) -> u32;
    fn proxy_http_call(
        cluster: *const u8,
        cluster_size: usize,
        headers: *const u8,
        headers_size: usize,
        body: *const u8,
        body_size: usize,
        trailers: *const u8,
        trailers_size: usize,
        timeout: u32,
        token: *mut u32,
    ) -> u32;
}

fn say(text: String) {
    hostcalls::log(LogLevel::Info, &text).unwrap();
}

/// Says that a callback came, if the script wants to know.
fn saw(text: impl FnOnce() -> String) {
    if TRACED.get() {
        say(format!("saw {}", text()));
    }
}

/// The bytes that a host call has given, owned by the guest from now on.
fn given(data: *mut u8, size: usize) -> Vec<u8> {
    if data.is_null() { Vec::new() } else { unsafe { Vec::from_raw_parts(data, size, size) } }
}

/// Makes a call that gives bytes, and says its status and the bytes, or what else they are shown as.
fn attempt(what: &str, call: impl FnOnce(*mut *mut u8, *mut usize) -> u32, shown: impl FnOnce(&[u8]) -> String) {
    let (mut data, mut size) = (std::ptr::null_mut(), 0);
    let status = call(&mut data, &mut size);
    let bytes = given(data, size);
    say(format!("{what} -> {status} {}", shown(&bytes)));
}

fn escaped(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

/// A header map as the ABI writes it: how many, the sizes, then names and values with a NUL behind each.
fn shown_pairs(blob: &[u8]) -> String {
    let word = |at: usize| {
        blob.get(at * 4..at * 4 + 4).map_or(0, |word| u32::from_le_bytes(word.try_into().unwrap()) as usize)
    };
    let count = word(0);
    let mut at = 4 + 8 * count;
    let mut text = Vec::new();
    for pair in 0..count {
        let (name, value) = (word(1 + 2 * pair), word(2 + 2 * pair));
        text.push(format!(
            "{}={}",
            blob[at..at + name].escape_ascii(),
            blob[at + name + 1..at + name + 1 + value].escape_ascii()
        ));
        at += name + value + 2;
    }
    text.join(",")
}

fn map_of(name: &str) -> u32 {
    match name {
        "request" => 0,
        "request_trailers" => 1,
        "response" => 2,
        "response_trailers" => 3,
        other => other.parse().unwrap(),
    }
}

fn buffer_of(name: &str) -> u32 {
    match name {
        "request" => 0,
        "response" => 1,
        other => other.parse().unwrap(),
    }
}

fn split<'a>(text: &'a str, at: &str) -> (&'a str, &'a str) {
    text.split_once(at).unwrap_or((text, ""))
}

/// What a command works on.
struct Scene {
    id: u32,
    size: usize,
    end: bool,
    response: bool,
}

impl Scene {
    fn map(&self) -> MapType {
        if self.response { MapType::HttpResponseHeaders } else { MapType::HttpRequestHeaders }
    }

    fn buffer(&self) -> BufferType {
        if self.response { BufferType::HttpResponseBody } else { BufferType::HttpRequestBody }
    }

    fn run(&self, script: &str, phase: &str) -> Action {
        let mut action = Action::Continue;
        for step in script.split(';') {
            let (when, command) = split(step, ":");
            if when != phase {
                continue;
            }
            let (name, argument) = split(command, "=");
            if let Some(returned) = self.command(name, argument) {
                action = returned;
            }
        }
        action
    }

    /// One host call, and what became of it.
    fn attempted(&self, name: &str, argument: &str) {
        let what = format!("{name}={argument}");
        let (first, rest) = split(argument, ",");
        let (second, third) = split(rest, ",");
        let number = |text: &str| text.parse::<usize>().unwrap_or(usize::MAX);
        match name {
            "try_header" => {
                let call = |data, size| unsafe {
                    proxy_get_header_map_value(map_of(first), rest.as_ptr(), rest.len(), data, size)
                };
                attempt(&what, call, escaped);
            }
            "try_pairs" => {
                let call = |data, size| unsafe { proxy_get_header_map_pairs(map_of(first), data, size) };
                attempt(&what, call, shown_pairs);
            }
            "try_body" => {
                let call = |data, size| unsafe {
                    proxy_get_buffer_bytes(buffer_of(first), number(second), number(third), data, size)
                };
                attempt(&what, call, escaped);
            }
            "try_property" => {
                let path = argument.replace('.', "\0");
                let call = |data, size| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, size) };
                attempt(&what, call, escaped);
            }
            "try_has_property" => {
                let path = argument.replace('.', "\0");
                let call = |data, size| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, size) };
                attempt(
                    &what,
                    call,
                    |bytes| if bytes.is_empty() { "empty".to_owned() } else { "something".to_owned() },
                );
            }
            "try_set" | "try_add" | "try_remove" => {
                let map = map_of(first);
                let status = unsafe {
                    match name {
                        "try_set" => proxy_replace_header_map_value(
                            map,
                            second.as_ptr(),
                            second.len(),
                            third.as_ptr(),
                            third.len(),
                        ),
                        "try_add" => {
                            proxy_add_header_map_value(map, second.as_ptr(), second.len(), third.as_ptr(), third.len())
                        }
                        _ => proxy_remove_header_map_value(map, second.as_ptr(), second.len()),
                    }
                };
                say(format!("{what} -> {status}"));
            }
            "try_splice" => {
                let (length, text) = split(third, ",");
                let status = unsafe {
                    proxy_set_buffer_bytes(buffer_of(first), number(second), number(length), text.as_ptr(), text.len())
                };
                say(format!("{what} -> {status}"));
            }
            "try_define" => {
                let mut id = 0;
                let status = unsafe { proxy_define_metric(first.parse().unwrap(), rest.as_ptr(), rest.len(), &mut id) };
                say(format!("{what} -> {status} {id}"));
            }
            "try_increment" => {
                let status = unsafe { proxy_increment_metric(first.parse().unwrap(), rest.parse().unwrap()) };
                say(format!("{what} -> {status}"));
            }
            "try_record" => {
                let status = unsafe { proxy_record_metric(first.parse().unwrap(), rest.parse().unwrap()) };
                say(format!("{what} -> {status}"));
            }
            "try_get" => {
                let mut value = 0;
                let status = unsafe { proxy_get_metric(first.parse().unwrap(), &mut value) };
                say(format!("{what} -> {status} {value}"));
            }
            "try_continue" => {
                let status = unsafe { proxy_continue_stream(first.parse().unwrap()) };
                say(format!("{what} -> {status}"));
            }
            other => panic!("no command {other}"),
        }
    }

    fn command(&self, name: &str, argument: &str) -> Option<Action> {
        match name {
            "trace" => TRACED.set(true),
            "replies_on" => {
                let (status, body) = split(argument, ",");
                let body = Some(body.as_bytes()).filter(|body| !body.is_empty());
                hostcalls::send_http_response(status.parse().unwrap(), vec![("x-from", "guest")], body).unwrap();
            }
            call if call.starts_with("try_") => self.attempted(call, argument),
            "pause" => return Some(Action::Pause),
            "continue" => return Some(Action::Continue),
            "pause_until_end" => {
                return Some(if self.end { Action::Continue } else { Action::Pause });
            }
            "pause_below" => {
                return Some(if self.size < argument.parse().unwrap() { Action::Pause } else { Action::Continue });
            }
            "put_after" => {
                let (key, rest) = split(argument, ",");
                let (value, ahead) = split(rest, ",");
                let (_, number) = hostcalls::get_shared_data(key).unwrap();
                let number = number.unwrap().wrapping_add(ahead.parse().unwrap());
                let status = hostcalls::set_shared_data(key, Some(value.as_bytes()), Some(number));
                say(format!("put_after {ahead} {status:?}"));
            }
            "value" => {
                let (value, number) = hostcalls::get_shared_data(argument).unwrap();
                let value = value.map(|value| value.escape_ascii().to_string());
                say(format!("value {value:?}, a number: {}", number.is_some_and(|number| number > 0)));
            }
            "size" => say(format!("size {} end {}", self.size, self.end)),
            "set" | "add" | "del" => self.edit(name, argument, self.map()),
            "set_request" => self.edit("set", argument, MapType::HttpRequestHeaders),
            "trailer" => {
                let map = if self.response { MapType::HttpResponseTrailers } else { MapType::HttpRequestTrailers };
                self.edit("add", argument, map);
            }
            "header" => {
                let value = hostcalls::get_map_value_bytes(self.map(), argument).unwrap();
                say(format!("header {argument} {:?}", value.map(|value| value.escape_ascii().to_string())));
            }
            "request_header" => {
                let value = hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, argument).unwrap();
                say(format!("request_header {argument} {:?}", value.map(|value| value.escape_ascii().to_string())));
            }
            "pairs" => {
                let pairs = hostcalls::get_map_bytes(self.map()).unwrap();
                let text: Vec<String> =
                    pairs.iter().map(|(name, value)| format!("{name}={}", value.escape_ascii())).collect();
                say(format!("pairs {}", text.join(",")));
            }
            "many_pairs" => {
                let count: u32 = argument.parse().unwrap();
                let mut blob = count.to_le_bytes().to_vec();
                for _ in 0..count {
                    blob.extend(1_u32.to_le_bytes());
                    blob.extend(1_u32.to_le_bytes());
                }
                for _ in 0..count {
                    blob.extend(b"a\0b\0");
                }
                let status = unsafe { proxy_set_header_map_pairs(self.map() as u32, blob.as_ptr(), blob.len()) };
                say(format!("many_pairs {status}"));
            }
            "body" => {
                let (start, size) = split(argument, ",");
                let size = size.parse().unwrap_or(usize::MAX);
                let body = hostcalls::get_buffer(self.buffer(), start.parse().unwrap_or(0), size).unwrap();
                say(format!("body {:?}", body.map(|body| String::from_utf8_lossy(&body).into_owned())));
            }
            "splice" => {
                let (start, rest) = split(argument, ",");
                let (size, text) = split(rest, ",");
                let size = size.parse().unwrap_or(usize::MAX);
                let start = start.parse().unwrap();
                let status =
                    unsafe { proxy_set_buffer_bytes(self.buffer() as u32, start, size, text.as_ptr(), text.len()) };
                say(format!("splice {status}"));
            }
            "reply" => {
                let (status, body) = split(argument, ",");
                let body = Some(body.as_bytes()).filter(|body| !body.is_empty());
                hostcalls::send_http_response(status.parse().unwrap(), vec![("x-from", "guest")], body).unwrap();
                return Some(Action::Pause);
            }
            "resume" => hostcalls::resume_http_request().unwrap(),
            "resume_response" => hostcalls::resume_http_response().unwrap(),
            "reset" => hostcalls::reset_http_request().unwrap(),
            "park" => PARKED.with_borrow_mut(|parked| parked.push_back(self.id)),
            "unpark" => {
                while let Some(id) = PARKED.with_borrow_mut(VecDeque::pop_front) {
                    match hostcalls::set_effective_context(id) {
                        Ok(()) => {
                            self.edit("set", "x-unparked=yes", MapType::HttpRequestHeaders);
                            hostcalls::resume_http_request().unwrap();
                        }
                        Err(status) => say(format!("unpark {id} {status:?}")),
                    }
                }
                hostcalls::set_effective_context(self.id).unwrap();
            }
            "unpark_response" => {
                while let Some(id) = PARKED.with_borrow_mut(VecDeque::pop_front) {
                    hostcalls::set_effective_context(id).unwrap();
                    hostcalls::resume_http_response().unwrap();
                }
                hostcalls::set_effective_context(self.id).unwrap();
            }
            "set_all" => {
                let pairs: Vec<(&str, &str)> = argument.split(',').map(|pair| split(pair, "=")).collect();
                hostcalls::set_map(self.map(), pairs).unwrap();
            }
            "property" => {
                let value = hostcalls::get_property(argument.split('.').collect()).unwrap();
                say(format!("property {argument} {:?}", value.map(|value| value.escape_ascii().to_string())));
            }
            "set_property" => {
                let (path, value) = split(argument, ",");
                hostcalls::set_property(vec![path], Some(value.as_bytes())).unwrap();
            }
            "count" => {
                let id = hostcalls::define_metric(MetricType::Counter, argument).unwrap();
                hostcalls::increment_metric(id, 1).unwrap();
            }
            "count_by" => {
                let (name, offset) = split(argument, ",");
                let id = hostcalls::define_metric(MetricType::Counter, name).unwrap();
                say(format!("count_by {id} {:?}", hostcalls::increment_metric(id, offset.parse().unwrap())));
            }
            "gauge" => {
                let (name, value) = split(argument, ",");
                let id = hostcalls::define_metric(MetricType::Gauge, name).unwrap();
                hostcalls::record_metric(id, value.parse().unwrap()).unwrap();
                say(format!("gauge {id} {:?}", hostcalls::get_metric(id)));
            }
            "histogram" => {
                let (name, value) = split(argument, ",");
                let id = hostcalls::define_metric(MetricType::Histogram, name).unwrap();
                hostcalls::record_metric(id, value.parse().unwrap()).unwrap();
            }
            "put" => {
                let (key, rest) = split(argument, ",");
                let (value, cas) = split(rest, ",");
                let status = hostcalls::set_shared_data(key, Some(value.as_bytes()), cas.parse().ok());
                say(format!("put {status:?}"));
            }
            "get" => {
                let (value, cas) = hostcalls::get_shared_data(argument).unwrap();
                say(format!("get {:?} cas {cas:?}", value.map(|value| value.escape_ascii().to_string())));
            }
            "queue" => say(format!("queue {}", hostcalls::register_shared_queue(argument).unwrap())),
            "enqueue" => {
                let (queue, item) = split(argument, ",");
                match hostcalls::resolve_shared_queue("", queue).unwrap() {
                    Some(token) => hostcalls::enqueue_shared_queue(token, Some(item.as_bytes())).unwrap(),
                    None => say("enqueue no queue".to_owned()),
                }
            }
            "tick_every" => {
                hostcalls::set_tick_period(Duration::from_millis(argument.parse().unwrap())).unwrap();
            }
            "call" => self.call(argument),
            "time" => {
                let wall = hostcalls::get_current_time().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
                say(format!("time {}", wall.as_millis()));
            }
            "random" => {
                // A map's keys are seeded by the host's randomness.
                use std::hash::{BuildHasher, RandomState};
                say(format!("random {:x}", RandomState::new().hash_one(1)));
            }
            "instant" => {
                thread_local! {
                    static FIRST: Cell<Option<std::time::Instant>> = const { Cell::new(None) };
                }
                let first = FIRST.get().unwrap_or_else(std::time::Instant::now);
                FIRST.set(Some(first));
                say(format!("instant {}", first.elapsed().as_millis()));
            }
            "env" => say(format!("env {:?}", std::env::var(argument))),
            "print" => println!("{argument}"),
            "panic" => panic!("as the script says"),
            "loop" => loop {
                std::hint::black_box(());
            },
            "grow" => {
                let bytes: usize = argument.parse().unwrap();
                std::hint::black_box(vec![1_u8; bytes]);
            }
            "refuse" => {}
            "" => {}
            other => panic!("no command {other}"),
        }
        None
    }

    fn edit(&self, how: &str, argument: &str, map: MapType) {
        let (name, value) = split(argument, "=");
        let map = map as u32;
        let status = unsafe {
            match how {
                "set" => proxy_replace_header_map_value(map, name.as_ptr(), name.len(), value.as_ptr(), value.len()),
                "add" => proxy_add_header_map_value(map, name.as_ptr(), name.len(), value.as_ptr(), value.len()),
                _ => proxy_remove_header_map_value(map, name.as_ptr(), name.len()),
            }
        };
        if status != 0 {
            say(format!("{how} {name} {status}"));
        }
    }

    /// `cluster,timeout in ms`; `bare` as the timeout leaves the pseudo headers out.
    fn call(&self, argument: &str) {
        let (cluster, timeout) = split(argument, ",");
        if timeout == "bare" {
            let no_pairs = 0_u32.to_le_bytes();
            let mut token = 0;
            let status = unsafe {
                proxy_http_call(
                    cluster.as_ptr(),
                    cluster.len(),
                    no_pairs.as_ptr(),
                    4,
                    std::ptr::null(),
                    0,
                    no_pairs.as_ptr(),
                    4,
                    0,
                    &mut token,
                )
            };
            say(format!("call {status}"));
            return;
        }
        let headers = vec![(":method", "GET"), (":path", "/snapshot"), (":authority", "backend")];
        let timeout = Duration::from_millis(timeout.parse().unwrap_or(0));
        match hostcalls::dispatch_http_call(cluster, headers, Some(b"ask"), vec![], timeout) {
            Ok(token) => say(format!("call token {token}")),
            Err(status) => say(format!("call {status:?}")),
        }
    }
}

struct Root {
    id: u32,
    script: String,
}

impl Root {
    fn run(&self, phase: &str) {
        let scene = Scene { id: self.id, size: 0, end: false, response: false };
        scene.run(&self.script, phase);
    }
}

impl Context for Root {
    fn on_http_call_response(&mut self, token: u32, headers: usize, body: usize, trailers: usize) {
        say(format!("response {token} {headers} {body} {trailers}"));
        let status = hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, ":status");
        if headers > 0 {
            let status = status.unwrap().unwrap_or_default();
            let body = hostcalls::get_buffer(BufferType::HttpCallResponseBody, 0, body).unwrap();
            let body = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
            say(format!("response {} {body}", status.escape_ascii()));
        }
        self.run("call");
    }
}

impl RootContext for Root {
    fn on_vm_start(&mut self, _: usize) -> bool {
        let text = hostcalls::get_buffer(BufferType::VmConfiguration, 0, usize::MAX).unwrap().unwrap_or_default();
        let script = String::from_utf8(text).unwrap();
        let scene = Scene { id: self.id, size: 0, end: false, response: false };
        scene.run(&script, "start");
        !script.contains("start:refuse")
    }

    fn on_configure(&mut self, size: usize) -> bool {
        let text = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, size).unwrap().unwrap_or_default();
        self.script = String::from_utf8(text).unwrap();
        self.run("conf");
        !self.script.contains("conf:refuse")
    }

    fn on_tick(&mut self) {
        let ticks = TICKS.get() + 1;
        TICKS.set(ticks);
        say(format!("tick {ticks}"));
        self.run("tick");
    }

    fn on_queue_ready(&mut self, queue: u32) {
        let item = hostcalls::dequeue_shared_queue(queue);
        say(format!("ready {item:?}"));
        self.run("queue");
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream { id, script: String::new() }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Stream {
    id: u32,
    script: String,
}

impl Stream {
    fn run(&self, phase: &str, size: usize, end: bool) -> Action {
        let response = phase.starts_with('s');
        Scene { id: self.id, size, end, response }.run(&self.script, phase)
    }
}

impl Context for Stream {
    fn on_done(&mut self) -> bool {
        saw(|| "done".to_owned());
        true
    }

    fn on_http_call_response(&mut self, token: u32, headers: usize, _: usize, _: usize) {
        say(format!("stream response {token} {headers}"));
        self.run("call", 0, false);
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, count: usize, end: bool) -> Action {
        saw(|| format!("request_headers {count} {end}"));
        let script = hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, "x-script").unwrap();
        self.script = String::from_utf8(script.unwrap_or_default()).unwrap();
        self.run("rh", 0, end)
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        saw(|| format!("request_body {size} {end}"));
        self.run("rb", size, end)
    }

    fn on_http_request_trailers(&mut self, size: usize) -> Action {
        saw(|| format!("request_trailers {size}"));
        self.run("rt", size, true)
    }

    fn on_http_response_headers(&mut self, count: usize, end: bool) -> Action {
        saw(|| format!("response_headers {count} {end}"));
        self.run("sh", 0, end)
    }

    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        saw(|| format!("response_body {size} {end}"));
        self.run("sb", size, end)
    }

    fn on_http_response_trailers(&mut self, size: usize) -> Action {
        saw(|| format!("response_trailers {size}"));
        self.run("st", size, true)
    }

    fn on_log(&mut self) {
        saw(|| "log".to_owned());
        self.run("log", 0, true);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        saw(|| "delete".to_owned());
    }
}
