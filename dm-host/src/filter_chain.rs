//! Moves a stream through the module's filter as Envoy's filter manager does (`source/common/http/filter_manager.cc`), with the
//! bookkeeping of its dynamic module filter (`source/extensions/filters/http/dynamic_modules/filter.cc`). Everything runs on the
//! stream's worker.

use std::ffi::c_void;

use crate::config_state::pointer;
use crate::headers::Headers;
use crate::hooks::Hooks;
use crate::message::Chunk;
use crate::role;
use crate::stream_state::{Finish, Half, Hold, Life, ProxyReply, StreamState};

/// `FilterHeadersStatus`; on bodies `BUFFER` and on trailers `STOP` are the same 1.
const CONTINUE: i32 = 0;
const STOP: i32 = 1;
const STOP_ALL_AND_BUFFER: i32 = 3;
const STOP_ALL_AND_WATERMARK: i32 = 4;
/// `FilterDataStatus`
const WATERMARK: i32 = 2;
const NO_BUFFER: i32 = 3;

/// `response.flags` bits (Envoy `envoy/stream_info/stream_info.h`, the legacy bit set).
pub(crate) mod flags {
    pub(crate) const NO_HEALTHY_UPSTREAM: u64 = 0x2;
    pub(crate) const UPSTREAM_REQUEST_TIMEOUT: u64 = 0x4;
    pub(crate) const UPSTREAM_CONNECTION_TERMINATION: u64 = 0x40;
    pub(crate) const DOWNSTREAM_CONNECTION_TERMINATION: u64 = 0x4000;
    pub(crate) const UPSTREAM_PROTOCOL_ERROR: u64 = 0x80_0000;
}

/// Calls a hook of a stream. When it returns, what was lent to it is poisoned; when none runs any more, an end that waited is told.
fn hook<R>(id: usize, name: &'static str, call: impl FnOnce(&Hooks, *mut c_void, *const c_void) -> R) -> Option<R> {
    let process = role::process()?;
    let module = role::stream(id, |stream| {
        stream.depth += 1;
        stream.hooks_seen.push(name);
        stream.module
    })?;
    let returned = call(&process.hooks, pointer(id), module);
    let is_outermost = role::stream(id, |stream| {
        stream.loans.take_back(stream.depth);
        stream.depth -= 1;
        stream.depth == 0
    })?;
    if is_outermost {
        settle(id);
    }
    Some(returned)
}

/// Tells the module of an end as far as it has come.
fn settle(id: usize) {
    if role::stream(id, |stream| stream.life == Life::Over && stream.depth == 0) == Some(true) {
        complete(id);
    }
    if role::stream(id, |stream| stream.life == Life::Completed && stream.depth == 0) == Some(true) {
        destroy(id);
    }
}

fn complete(id: usize) {
    role::stream(id, |stream| stream.life = Life::Completed);
    hook(id, "stream_complete", |hooks, host, filter| hooks.stream_complete(host, filter));
}

fn destroy(id: usize) {
    let module = role::stream(id, |stream| {
        stream.life = Life::Destroying;
        stream.hooks_seen.push("destroy");
        std::mem::replace(&mut stream.module, std::ptr::null())
    });
    if let (Some(process), Some(module)) = (role::process(), module.filter(|module| !module.is_null())) {
        process.hooks.filter_destroy(module);
    }
    let is_abandoned = role::stream(id, |stream| {
        stream.life = Life::Destroyed;
        stream.abandoned
    });
    if is_abandoned == Some(true) {
        role::remove_stream(id);
    }
}

/// Whether nothing more is to be done on this half.
fn halted(id: usize, half: Half) -> bool {
    role::stream(id, |stream| stream.finish.is_some() || (half == Half::Request && stream.reply.is_some()))
        .unwrap_or(true)
}

/// Whether the module hears of this half: not of its own reply, and not when it gave no filter.
fn is_heard(stream: &StreamState, half: Half) -> bool {
    let is_own = half == Half::Response && stream.reply.as_ref().is_some_and(|reply| reply.by_module);
    !is_own && !stream.module.is_null()
}

/// A new filter for a stream that is there already. A module that gives none is answered for with 500.
pub(crate) fn begin(id: usize) {
    let (Some(process), Some(config)) = (role::process(), role::stream(id, |stream| stream.config.module())) else {
        return;
    };
    let module = process.hooks.filter_new(config, pointer(id));
    role::stream(id, |stream| stream.module = module);
    if module.is_null() {
        reply(id, ProxyReply::of_proxy(500, "", "filter_config_error"));
    }
}

impl ProxyReply {
    pub(crate) fn of_proxy(status: u16, body: &str, details: &str) -> Self {
        Self {
            status,
            headers: Headers::default(),
            body: body.as_bytes().to_vec(),
            details: details.to_owned(),
            by_module: false,
        }
    }
}

/// Headers arrive (`decodeHeaders`, `encodeHeaders`).
pub(crate) fn headers(id: usize, half: Half, headers: Headers, end: bool) {
    let heard = role::stream(id, |stream| {
        let heard = is_heard(stream, half);
        let state = stream.half(half);
        state.started = true;
        state.headers = headers;
        state.complete = end;
        heard
    });
    let status = match (heard, half) {
        (Some(true), Half::Request) => {
            hook(id, "request_headers", |hooks, host, filter| hooks.request_headers(host, filter, end))
        }
        (Some(true), Half::Response) => {
            hook(id, "response_headers", |hooks, host, filter| hooks.response_headers(host, filter, end))
        }
        _ => Some(CONTINUE),
    };
    if halted(id, half) {
        return;
    }
    match status.unwrap_or(CONTINUE) {
        CONTINUE => forward_headers(id, half),
        STOP => set_hold(id, half, Hold::Stopped),
        STOP_ALL_AND_BUFFER | STOP_ALL_AND_WATERMARK => set_hold(id, half, Hold::StoppedAll),
        other => unknown("a headers hook", other),
    }
}

fn set_hold(id: usize, half: Half, hold: Hold) {
    role::stream(id, |stream| stream.half(half).hold = hold);
}

fn unknown(hook: &str, status: i32) {
    if let Some(process) = role::process() {
        process.violation(format!("{hook} returned {status}, which is no status"));
    }
}

/// A piece of a body arrives (`decodeData`, `encodeData`). The module is offered each piece once, as the received body; what it
/// held of earlier ones is the buffered body. Its own edits of either go on.
pub(crate) fn data(id: usize, half: Half, chunk: Chunk, end: bool) {
    let holds_all = role::stream(id, |stream| {
        let state = stream.half(half);
        state.complete |= end;
        state.hold == Hold::StoppedAll
    });
    if holds_all == Some(true) {
        role::stream(id, |stream| stream.half(half).buffered.get_or_insert_default().extend(chunk));
        return;
    }
    filter_data(id, half, chunk, end);
}

fn filter_data(id: usize, half: Half, chunk: Chunk, end: bool) {
    let heard = role::stream(id, |stream| {
        let heard = is_heard(stream, half);
        stream.half(half).received = Some(chunk);
        heard
    });
    let status = match (heard, half) {
        (Some(true), Half::Request) => {
            hook(id, "request_body", |hooks, host, filter| hooks.request_body(host, filter, end))
        }
        (Some(true), Half::Response) => {
            hook(id, "response_body", |hooks, host, filter| hooks.response_body(host, filter, end))
        }
        _ => Some(CONTINUE),
    };
    let received = role::stream(id, |stream| stream.half(half).received.take()).flatten().unwrap_or_default();
    if halted(id, half) {
        return;
    }
    let is_held = role::stream(id, |stream| stream.half(half).hold != Hold::Nothing) == Some(true);
    match status.unwrap_or(CONTINUE) {
        CONTINUE if is_held => {
            role::stream(id, |stream| stream.half(half).buffered.get_or_insert_default().extend(received));
            resume(id, half);
        }
        CONTINUE => forward_data(id, half, &received, end),
        status @ (STOP | WATERMARK) => {
            let is_above = role::stream(id, |stream| {
                let limit = if half == Half::Request { stream.buffer_limit } else { stream.response_buffer_limit };
                let state = stream.half(half);
                state.hold = Hold::Stopped;
                let buffered = state.buffered.get_or_insert_default();
                buffered.extend(received);
                buffered.iter().map(Vec::len).sum::<usize>() > limit
            });
            if status == STOP && is_above == Some(true) {
                overflow(id, half);
            }
        }
        NO_BUFFER => set_hold(id, half, Hold::Stopped),
        other => unknown("a body hook", other),
    }
}

/// What is held is above its limit: 413 for a request, 500 for a response.
fn overflow(id: usize, half: Half) {
    let of_proxy = ProxyReply::of_proxy;
    reply(
        id,
        match half {
            Half::Request => of_proxy(413, "Payload Too Large", "request_payload_too_large"),
            Half::Response => of_proxy(500, "Internal Server Error", "response_payload_too_large"),
        },
    );
}

/// Trailers arrive and complete their half.
pub(crate) fn trailers(id: usize, half: Half, trailers: Headers) {
    let holds_all = role::stream(id, |stream| {
        let state = stream.half(half);
        state.complete = true;
        state.trailers = Some(trailers);
        state.trailers_waiting = state.hold == Hold::StoppedAll;
        state.trailers_waiting
    });
    if holds_all != Some(true) {
        filter_trailers(id, half);
    }
}

fn filter_trailers(id: usize, half: Half) {
    let heard = role::stream(id, |stream| {
        stream.half(half).trailers_waiting = false;
        is_heard(stream, half)
    });
    let status = match (heard, half) {
        (Some(true), Half::Request) => {
            hook(id, "request_trailers", |hooks, host, filter| hooks.request_trailers(host, filter))
        }
        (Some(true), Half::Response) => {
            hook(id, "response_trailers", |hooks, host, filter| hooks.response_trailers(host, filter))
        }
        _ => Some(CONTINUE),
    };
    if halted(id, half) {
        return;
    }
    match status.unwrap_or(CONTINUE) {
        CONTINUE if role::stream(id, |stream| stream.half(half).hold == Hold::Nothing) == Some(true) => {
            forward_trailers(id, half);
        }
        CONTINUE => resume(id, half),
        STOP => set_hold(id, half, Hold::Stopped),
        other => unknown("a trailers hook", other),
    }
}

/// An event that the module has posted, if its stream is there to hear of it.
pub(crate) fn scheduled(id: usize, event: u64) {
    let is_there = role::stream(id, |stream| !stream.module.is_null() && stream.life == Life::Open);
    if is_there == Some(true) {
        hook(id, "scheduled", |hooks, host, filter| hooks.filter_scheduled(host, filter, event));
    }
}

/// Calls every hook of the filter that follows only from something that the module may ask for.
pub(crate) fn call_unasked(id: usize) {
    const EVENT: u64 = 7;
    scheduled(id, EVENT);
    let is_there = role::stream(id, |stream| !stream.module.is_null() && stream.life == Life::Open);
    if is_there != Some(true) {
        return;
    }
    hook(id, "unasked", |hooks, host, filter| {
        let none = std::ptr::null;
        hooks.above_high_watermark(host, filter);
        hooks.below_low_watermark(host, filter);
        hooks.filter_callout_done(host, filter, EVENT, 1, none(), 0, std::ptr::null(), 0);
        hooks.filter_stream_headers(host, filter, EVENT, none(), 0, false);
        hooks.filter_stream_data(host, filter, EVENT, std::ptr::null(), 0, false);
        hooks.filter_stream_trailers(host, filter, EVENT, none(), 0);
        hooks.filter_stream_complete(host, filter, EVENT);
        hooks.filter_stream_reset(host, filter, EVENT, 1);
    });
}

/// The module lets the request go on (`continueDecoding`), from wherever.
pub(crate) fn continue_request(id: usize) {
    let is_held = role::stream(id, |stream| stream.request.started && stream.request.hold != Hold::Nothing);
    if is_held == Some(true) && !halted(id, Half::Request) {
        resume(id, Half::Request);
    }
}

/// `commonContinue`: lets go whatever is held. After a full stop the body and the trailers come to the filter first, since it has not
/// seen them.
fn resume(id: usize, half: Half) {
    let unseen = role::stream(id, |stream| {
        let state = stream.half(half);
        let unseen = state.hold == Hold::StoppedAll;
        state.hold = Hold::Nothing;
        unseen
    });
    forward_headers(id, half);
    if halted(id, half) {
        return;
    }
    let held = role::stream(id, |stream| {
        let state = stream.half(half);
        let ends = state.complete && state.trailers.is_none();
        state.buffered.take().map(|buffered| (buffered, ends))
    });
    match (held.flatten(), unseen) {
        (Some((buffered, ends)), Some(true)) => filter_data(id, half, buffered, ends),
        (Some((buffered, ends)), _) => forward_data(id, half, &buffered, ends),
        (None, _) => {}
    }
    let next = role::stream(id, |stream| {
        let state = stream.half(half);
        let due = state.trailers.is_some() && !state.trailers_gone && state.hold == Hold::Nothing;
        (due, state.trailers_waiting)
    });
    match next {
        Some((true, true)) => filter_trailers(id, half),
        Some((true, false)) if !halted(id, half) => forward_trailers(id, half),
        _ => {}
    }
}

fn forward_headers(id: usize, half: Half) {
    let ends = role::stream(id, |stream| {
        let state = stream.half(half);
        if std::mem::replace(&mut state.headers_gone, true) {
            return false;
        }
        state.forwarded.headers = Some(state.headers.clone());
        state.complete && state.buffered.is_none() && state.received.is_none() && state.trailers.is_none()
    });
    if ends == Some(true) {
        ended(id, half);
    }
}

fn forward_data(id: usize, half: Half, chunk: &Chunk, end: bool) {
    let ends = role::stream(id, |stream| {
        let state = stream.half(half);
        state.forwarded.body.extend(chunk.iter().flatten());
        end && state.trailers.is_none()
    });
    if ends == Some(true) {
        ended(id, half);
    }
}

fn forward_trailers(id: usize, half: Half) {
    role::stream(id, |stream| {
        let state = stream.half(half);
        state.trailers_gone = true;
        state.forwarded.trailers.clone_from(&state.trailers);
    });
    ended(id, half);
}

fn ended(id: usize, half: Half) {
    role::stream(id, |stream| stream.half(half).forwarded.ended = true);
    if half == Half::Response {
        finish(id, Finish::Complete);
    }
}

/// `FilterManager::sendLocalReply`: through the filter while no response has begun, unless the module made it; straight to the client
/// when one has begun and its headers have not gone; else the stream is reset.
pub(crate) fn reply(id: usize, reply: ProxyReply) {
    let Some((begun, gone)) = role::stream(id, |stream| {
        if stream.finish.is_some() {
            return None;
        }
        stream.texts.insert(crate::abi::attribute::CODE_DETAILS, reply.details.clone().into_bytes());
        stream.reply = Some(reply.clone());
        Some((stream.response.started, stream.response.headers_gone))
    })
    .flatten() else {
        return;
    };
    let mut headers: Headers = [(":status", reply.status.to_string())].into_iter().collect();
    for (name, value) in reply.headers.pairs() {
        headers.add(name, value);
    }
    if !reply.body.is_empty() {
        headers.set("content-length", reply.body.len().to_string());
        if headers.text("content-type").is_none() {
            headers.add("content-type", "text/plain");
        }
    }
    if !begun {
        let is_bodiless = reply.body.is_empty();
        self::headers(id, Half::Response, headers, is_bodiless);
        if !is_bodiless && !halted(id, Half::Response) {
            data(id, Half::Response, vec![reply.body], true);
        }
    } else if gone {
        finish(id, Finish::LocalReset);
    } else {
        role::stream(id, |stream| {
            stream.response.headers.clone_from(&headers);
            stream.response.headers_gone = true;
            stream.response.forwarded =
                crate::Forwarded { headers: Some(headers), body: reply.body, trailers: None, ended: true };
        });
        finish(id, Finish::Complete);
    }
}

/// The stream is over. `stream_complete` comes at once if no hook of the stream runs, or if the stream is of the kind whose end
/// comes inside the callback that made it; else when the hook has returned. `destroy` never comes inside a hook.
pub(crate) fn finish(id: usize, finish: Finish) {
    let inline = role::stream(id, |stream| {
        if stream.finish.is_some() {
            return None;
        }
        stream.finish = Some(finish);
        let (flag, details) = match finish {
            Finish::ClientReset => (flags::DOWNSTREAM_CONNECTION_TERMINATION, Some("downstream_remote_disconnect")),
            Finish::Complete => (0, (stream.reply.is_none()).then_some("via_upstream")),
            Finish::UpstreamReset | Finish::LocalReset => (0, None),
        };
        *stream.numbers.entry(crate::abi::attribute::RESPONSE_FLAGS).or_default() |= flag;
        if let Some(details) = details {
            stream.texts.insert(crate::abi::attribute::CODE_DETAILS, details.as_bytes().to_vec());
        }
        if stream.module.is_null() {
            stream.life = Life::Destroyed;
            return None;
        }
        stream.life = Life::Over;
        Some(stream.completes_inline)
    });
    match inline.flatten() {
        Some(true) => {
            complete(id);
            settle(id);
        }
        Some(false) => settle(id),
        None => {}
    }
}
