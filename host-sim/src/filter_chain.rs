//! Moves a stream through the filter as Envoy's filter manager does
//! (`source/common/http/filter_manager.cc`) with the wasm filter's own bookkeeping
//! (`source/extensions/common/wasm/context.cc`).
//!
//! A name behind "seen:" is a scenario that was played on Envoy 1.40.0 with the same outcome (`tests/tests/fidelity`).

use crate::body::Body;
use crate::codes::{Callback, grpc_status};
use crate::headers::HeaderMap;
use crate::settings::FailurePolicy;
use crate::state::ContextKind;
use crate::stream::{Filter, Iteration, LocalReply, ReplyOrigin, Sent, Side, StreamEnd};
use crate::vm::{CallbackReturn, Core, word};

/// `FilterHeadersStatus::StopAllIterationAndWatermark` and, one less, `StopAllIterationAndBuffer`; on the
/// other callbacks anything from 1 up holds back.
const STOP_ALL: u32 = 4;
const STOP_ALL_AND_BUFFER: u32 = 3;
const STOP: u32 = 1;

/// `FilterDataStatus`
const BUFFER: u32 = 1;
const WATERMARK: u32 = 2;

/// `response.flags` bits (Envoy `envoy/stream_info/stream_info.h`, the legacy bit set).
pub(crate) mod flags {
    pub(crate) const NO_HEALTHY_UPSTREAM: u64 = 0x2;
    pub(crate) const UPSTREAM_REQUEST_TIMEOUT: u64 = 0x4;
    pub(crate) const UPSTREAM_CONNECTION_TERMINATION: u64 = 0x40;
    pub(crate) const DOWNSTREAM_CONNECTION_TERMINATION: u64 = 0x4000;
    pub(crate) const UPSTREAM_PROTOCOL_ERROR: u64 = 0x80_0000;
}

impl Core {
    /// The wasm side of a new stream on this VM. A failed VM is reloaded first if the policy and the
    /// backoff allow it (Envoy `PluginConfig::maybeReloadHandleIfNeeded`, `PluginConfig::createContext`; seen:
    /// `after_a_crash_the_vm_is_loaded_anew`, `a_vm_that_crashes_again_at_once_waits`).
    pub(crate) fn new_filter(&mut self, vm: usize) -> Filter {
        let policy = self.state().settings.failure_policy;
        let dead = self.state().vm(vm).is_some_and(|vm| vm.failed.is_some());
        if dead && (policy != FailurePolicy::FailReload || !self.try_reload(vm)) {
            return match policy {
                FailurePolicy::FailOpen => Filter::Skipped,
                FailurePolicy::FailClosed | FailurePolicy::FailReload => Filter::Closed,
            };
        }
        match self.state_mut().vm_mut(vm) {
            None => Filter::Skipped,
            Some(vm) => {
                let context = vm.next_context;
                vm.next_context += 1;
                Filter::Context { context, generation: vm.generation }
            }
        }
    }

    fn try_reload(&mut self, vm: usize) -> bool {
        let state = self.state_mut();
        let name = state.settings.plugin_name.clone();
        let now = state.clock.monotonic();
        let loaded_at = state.vm(vm).map_or(now, |vm| vm.loaded_at);
        if now.saturating_sub(loaded_at) < state.settings.reload_backoff {
            state.stats.count(&format!("wasm.{name}.vm_reload_backoff"));
            return false;
        }
        let reloaded = self.reload(vm).is_ok();
        let event = if reloaded { "vm_reload_success" } else { "vm_reload_failure" };
        self.state_mut().stats.count(&format!("wasm.{name}.{event}"));
        reloaded
    }

    /// Makes the stream context known to the guest (`Context::onCreate`).
    pub(crate) fn create_context(&mut self, stream_id: u64) {
        let Some((vm, filter)) = self.state().stream(stream_id).map(|stream| (stream.vm, stream.filter)) else {
            return;
        };
        let Filter::Context { context, .. } = filter else { return };
        let Some(parent) = self.state_mut().vm_mut(vm) else { return };
        parent.contexts.insert(context, ContextKind::Stream(stream_id));
        let root = parent.root;
        self.call(vm, context, Callback::ContextCreate, &[context, root]);
        self.run_deferred(vm);
    }

    /// Calls the guest; what it returns is an action's number. `CHECK_FAIL_HTTP` before and after the call: a dead
    /// VM gives one local reply, 503. That is so when the policy is to fail open too, which helps only streams that begin
    /// after the crash (seen: `a_crash_at_headers_that_is_passed_over`, `a_crash_that_is_passed_over`,
    /// `a_stream_whose_vm_another_has_killed_though_crashes_are_passed_over`).
    fn ask(&mut self, stream_id: u64, callback: Callback, args: &[u32]) -> u32 {
        let Some(stream) = self.state().stream(stream_id) else { return 0 };
        let (index, failed) = (stream.vm, stream.failed);
        let (context, generation) = match stream.filter {
            Filter::Skipped => return 0,
            Filter::Closed => return if failed { 0 } else { self.fail(stream_id) },
            Filter::Context { context, generation } => (context, generation),
        };
        if failed {
            return 0;
        }
        let alive = self.state().vm(index).is_some_and(|vm| vm.generation == generation && vm.failed.is_none());
        if !alive {
            return self.fail(stream_id);
        }
        let args: Vec<u32> = std::iter::once(context).chain(args.iter().copied()).collect();
        let returned = self.call(index, context, callback, &args);
        let stopped = self.state().vm(index).is_some_and(|vm| vm.stop_iteration);
        let action = match returned {
            CallbackReturn::Value(_) if stopped => STOP_ALL,
            CallbackReturn::Value(action) => action,
            CallbackReturn::Absent => 0,
            CallbackReturn::Failed => self.fail(stream_id),
        };
        self.run_deferred(index);
        action
    }

    /// `ContextBase::failStream`, once per stream.
    fn fail(&mut self, stream_id: u64) -> u32 {
        let Some(stream) = self.state_mut().stream_mut(stream_id) else { return 0 };
        if !stream.failed {
            stream.failed = true;
            self.send_local_reply(
                stream_id,
                LocalReply {
                    status: 503,
                    headers: HeaderMap::new(),
                    body: Vec::new(),
                    details: "wasm_fail_stream".to_owned(),
                    grpc_status: Some(14),
                    origin: ReplyOrigin::VmFailure,
                },
            );
        }
        STOP_ALL
    }

    /// Whether nothing more is to be done on this side: the stream is over, or a local reply has aborted
    /// the request.
    fn halted(&self, stream_id: u64, side: Side) -> bool {
        self.state()
            .stream(stream_id)
            .is_none_or(|stream| stream.end.is_some() || (side == Side::Request && stream.local_reply.is_some()))
    }

    /// Headers arrive (`Context::decodeHeaders`, `encodeHeaders`). A pause holds them until a body callback continues;
    /// with the end of the stream nothing follows that could (seen: `a_pause_at_headers_is_ended_by_the_body`,
    /// `a_bodiless_request_is_paused_and_stays`, `a_response_without_a_body_is_paused_and_stays`).
    pub(crate) fn headers(&mut self, stream_id: u64, side: Side, headers: HeaderMap, end: bool) {
        let allow_stop = self.state().settings.allow_on_headers_stop_iteration;
        let Some(stream) = self.state_mut().stream_mut(stream_id) else { return };
        let half = stream.half_mut(side);
        let count = word(headers.len());
        half.started = true;
        half.headers = headers;
        half.headers_open = true;
        half.end_of_stream = end;
        half.complete = end;
        let action = self.ask(stream_id, side.headers_callback(), &[count, u32::from(end)]);
        if self.halted(stream_id, side) {
            return;
        }
        let Some(stream) = self.state_mut().stream_mut(stream_id) else { return };
        let half = stream.half_mut(side);
        match action {
            // Without the option a pause from a headers callback means stop everything
            // (proxy-wasm-cpp-host issue 143, `convertVmCallResultToFilterHeadersStatus`; seen:
            // `without_the_option_a_pause_at_headers_is_a_full_stop`).
            STOP if allow_stop => half.iteration = Iteration::Stopped,
            STOP | STOP_ALL_AND_BUFFER.. => half.iteration = Iteration::StoppedAll,
            _ => {
                half.headers_open = false;
                self.forward_headers(stream_id, side);
            }
        }
    }

    /// A piece of a body arrives (`Context::decodeData`, `encodeData`). The end of an HTTP/1 body comes as an empty piece
    /// of its own.
    ///
    /// While the guest pauses, it sees all that is held, and after it has continued only what is new (seen:
    /// `a_paused_body_is_cumulative`, `a_body_is_held_when_its_headers_have_gone`,
    /// `a_request_is_let_through_before_it_is_complete`). The limit of what is held:
    /// - a first piece above it reaches the guest, and is refused when the guest pauses (seen:
    ///   `a_first_piece_above_the_limit_is_refused`, `a_first_piece_of_a_held_response_above_the_limit_is_replaced`), and passes
    ///   when it does not (seen: `a_first_piece_above_the_limit_that_is_let_go_passes`);
    /// - a later piece of a held request that brings it above reaches the guest too, and the request is refused whatever the
    ///   guest returns (seen: `a_buffered_body_above_the_limit_is_refused`, `a_body_that_is_let_go_when_it_is_above_the_limit`);
    /// - a later piece of a held response does not reach the guest any more (seen:
    ///   `a_held_response_above_the_limit_is_replaced`, `a_response_that_is_let_go_when_it_is_above_the_limit`);
    /// - what is not held has no limit (seen: `a_body_above_the_limit_that_is_not_held_passes`).
    pub(crate) fn data(&mut self, stream_id: u64, side: Side, bytes: Vec<u8>, end: bool) {
        let limit = self.buffer_limit(side);
        let Some(stream) = self.state_mut().stream_mut(stream_id) else { return };
        let half = stream.half_mut(side);
        half.complete |= end;
        half.received_bytes += u64::try_from(bytes.len()).unwrap_or(0);
        if half.iteration == Iteration::StoppedAll {
            let held = half.buffered.get_or_insert_default();
            held.append(&bytes);
            // Reading stops at the limit, nothing is refused (seen: `a_full_stop_above_the_limit_refuses_nothing`).
            stream.above_watermark |= held.len() > limit;
            return;
        }
        self.filter_data(stream_id, side, bytes, end);
    }

    fn filter_data(&mut self, stream_id: u64, side: Side, bytes: Vec<u8>, end: bool) {
        let limit = self.buffer_limit(side);
        let Some(stream) = self.state_mut().stream_mut(stream_id) else { return };
        let half = stream.half_mut(side);
        half.chunk = Body::default();
        let mut refused = false;
        if half.buffering {
            let buffered = half.buffered.get_or_insert_default();
            buffered.append(&bytes);
            if buffered.len() > limit {
                if side == Side::Response {
                    self.overflow(stream_id, side);
                    return;
                }
                refused = true;
            }
        } else {
            half.chunk = Body::from(bytes);
        }
        half.chunk_open = true;
        half.end_of_stream = end;
        let had_trailers = half.trailers.is_some();
        let seen = if half.buffering { half.buffered.as_ref().map_or(0, Body::len) } else { half.chunk.len() };
        half.in_body_callback = true;
        let action = self.ask(stream_id, side.body_callback(), &[word(seen), u32::from(end)]);
        if let Some(stream) = self.state_mut().stream_mut(stream_id) {
            stream.half_mut(side).in_body_callback = false;
        }
        if self.halted(stream_id, side) {
            return;
        }
        if refused {
            self.overflow(stream_id, side);
            return;
        }
        let Some(stream) = self.state_mut().stream_mut(stream_id) else { return };
        let half = stream.half_mut(side);
        let chunk = half.chunk.take();
        half.buffering = false;
        match action {
            0 => {
                half.chunk_open = false;
                if half.iteration == Iteration::Going {
                    let mut data = half.buffered.take().map(|mut body| body.take()).unwrap_or_default();
                    data.extend(chunk);
                    let ends = end && half.trailers.is_none();
                    let added_trailers = !had_trailers && half.trailers.is_some();
                    self.forward_data(stream_id, side, data, ends);
                    if added_trailers {
                        self.forward_trailers(stream_id, side);
                    }
                } else {
                    half.buffered.get_or_insert_default().append(&chunk);
                    self.resume(stream_id, side);
                }
            }
            BUFFER => {
                half.buffering = true;
                half.iteration = Iteration::Stopped;
                let buffered = half.buffered.get_or_insert_default();
                buffered.append(&chunk);
                if buffered.len() > limit {
                    self.overflow(stream_id, side);
                }
            }
            WATERMARK => {
                half.iteration = Iteration::Stopped;
                let buffered = half.buffered.get_or_insert_default();
                buffered.append(&chunk);
                stream.above_watermark |= buffered.len() > limit;
            }
            _ => {
                // StopIterationNoBuffer: the filter keeps the data, so it is gone from the stream.
                half.iteration = Iteration::Stopped;
                if half.complete {
                    half.buffered.get_or_insert_default();
                }
            }
        }
    }

    /// Trailers arrive and complete their half (`Context::decodeTrailers`, `encodeTrailers`). Continuing there lets go what
    /// the body's callbacks have held (seen: `request_trailers_end_a_held_body`, `response_trailers_end_a_held_body`,
    /// `request_trailers_are_held`).
    pub(crate) fn trailers(&mut self, stream_id: u64, side: Side, trailers: HeaderMap) {
        let Some(stream) = self.state_mut().stream_mut(stream_id) else { return };
        let half = stream.half_mut(side);
        half.complete = true;
        half.trailers = Some(trailers);
        if half.iteration == Iteration::StoppedAll {
            half.trailers_waiting = true;
            return;
        }
        self.filter_trailers(stream_id, side);
    }

    fn filter_trailers(&mut self, stream_id: u64, side: Side) {
        let Some(stream) = self.state_mut().stream_mut(stream_id) else { return };
        let half = stream.half_mut(side);
        half.trailers_waiting = false;
        half.trailers_open = true;
        let count = word(half.trailers.as_ref().map_or(0, HeaderMap::len));
        let action = self.ask(stream_id, side.trailers_callback(), &[count]);
        if self.halted(stream_id, side) {
            return;
        }
        let Some(stream) = self.state_mut().stream_mut(stream_id) else { return };
        let half = stream.half_mut(side);
        if action != 0 {
            half.iteration = Iteration::Stopped;
            return;
        }
        half.trailers_open = false;
        if half.iteration == Iteration::Going {
            self.forward_trailers(stream_id, side);
        } else {
            self.resume(stream_id, side);
        }
    }

    /// The guest resumes a half (`continueDecoding`, `continueEncoding`). A request that has its response,
    /// or anything that is over, stays as it is (`ActiveStreamDecoderFilter::canContinue`).
    ///
    /// A half that is not held, from the very callback of its headers, goes on as it would have. Envoy 1.40.0 sends its
    /// headers twice then: scenarios `a_request_is_continued_at_its_headers`, `a_response_is_continued_at_its_headers`.
    pub(crate) fn continue_side(&mut self, stream_id: u64, side: Side) {
        if self.halted(stream_id, side) {
            return;
        }
        self.resume(stream_id, side);
    }

    /// `ActiveStreamFilterBase::commonContinue`: lets go whatever is held. After a full stop the body and the
    /// trailers come to this filter first, since it has not seen them (seen: `a_full_stop_is_over_while_the_body_comes`,
    /// `after_a_full_stop_trailers_come_behind_the_body`, `after_a_full_stop_the_body_may_be_held_again`,
    /// `after_a_full_stop_a_response_comes_to_the_filter`).
    fn resume(&mut self, stream_id: u64, side: Side) {
        let Some(stream) = self.state_mut().stream_mut(stream_id) else { return };
        let half = stream.half_mut(side);
        if !half.started {
            return;
        }
        let unseen = half.iteration == Iteration::StoppedAll;
        half.iteration = Iteration::Going;
        stream.above_watermark = false;
        let half = stream.half_mut(side);
        if !half.headers_continued {
            self.forward_headers(stream_id, side);
        }
        let Some(stream) = self.state_mut().stream_mut(stream_id) else { return };
        if stream.end.is_some() {
            return;
        }
        let half = stream.half_mut(side);
        let ends = half.complete && half.trailers.is_none();
        if let Some(mut body) = half.buffered.take() {
            let data = body.take();
            if unseen {
                self.filter_data(stream_id, side, data, ends);
            } else {
                self.forward_data(stream_id, side, data, ends);
            }
        }
        let Some(half) = self.state().stream(stream_id).map(|stream| stream.half(side)) else { return };
        if half.trailers.is_none() || half.trailers_continued || half.iteration == Iteration::StoppedAll {
            return;
        }
        if half.trailers_waiting {
            self.filter_trailers(stream_id, side);
        } else if half.iteration == Iteration::Going {
            self.forward_trailers(stream_id, side);
        }
    }

    fn forward_headers(&mut self, stream_id: u64, side: Side) {
        let Some(stream) = self.state_mut().stream_mut(stream_id) else { return };
        let half = stream.half_mut(side);
        if half.headers_continued {
            return;
        }
        half.headers_continued = true;
        half.sent.headers = Some(half.headers.clone());
        if half.complete && half.buffered.is_none() && half.trailers.is_none() && !half.in_body_callback {
            self.ended(stream_id, side);
        }
    }

    fn forward_data(&mut self, stream_id: u64, side: Side, data: Vec<u8>, ends: bool) {
        let Some(stream) = self.state_mut().stream_mut(stream_id) else { return };
        if !data.is_empty() {
            stream.half_mut(side).sent.chunks.push(data);
        }
        if ends {
            self.ended(stream_id, side);
        }
    }

    fn forward_trailers(&mut self, stream_id: u64, side: Side) {
        let Some(stream) = self.state_mut().stream_mut(stream_id) else { return };
        let half = stream.half_mut(side);
        half.trailers_continued = true;
        half.sent.trailers.clone_from(&half.trailers);
        self.ended(stream_id, side);
    }

    fn ended(&mut self, stream_id: u64, side: Side) {
        let Some(stream) = self.state_mut().stream_mut(stream_id) else { return };
        stream.half_mut(side).sent.ended = true;
        if side == Side::Response {
            self.finish(stream_id, StreamEnd::Complete);
        }
    }

    fn buffer_limit(&self, side: Side) -> usize {
        let settings = &self.state().settings;
        match side {
            Side::Request => settings.request_buffer_limit,
            Side::Response => settings.response_buffer_limit,
        }
    }

    /// A buffered body is above its limit: 413 for a request; for a response 500, or a reset when its headers
    /// are gone (`FilterManager`, `requestDataTooLarge`, `responseDataTooLarge`; seen: the scenarios at `data`, and
    /// `a_response_above_the_limit_whose_headers_have_gone_is_cut`).
    fn overflow(&mut self, stream_id: u64, side: Side) {
        let (status, body, details) = match side {
            Side::Request => (413, "Payload Too Large", "request_payload_too_large"),
            Side::Response => (500, "Internal Server Error", "response_payload_too_large"),
        };
        self.send_local_reply(stream_id, LocalReply::of_proxy(status, body, details));
    }

    /// `FilterManager::sendLocalReply`: through the filter while no response has begun (seen:
    /// `a_reply_at_headers_comes_back_through_the_filter`, `a_reply_in_the_body_whose_headers_have_gone`,
    /// `a_reply_at_trailers`); straight to the client when one has begun but no headers were sent (seen:
    /// `a_reply_at_response_headers`, `a_reply_in_the_response_body_whose_headers_are_held`); else the stream is reset (seen:
    /// `a_reply_in_the_response_body_whose_headers_have_gone`). So a second reply, from a response callback of the first,
    /// takes its place or cuts it (seen: `a_second_reply_in_the_callback_of_the_first`,
    /// `a_second_reply_in_the_body_of_the_first`; older versions hang, envoy issue 28826).
    pub(crate) fn send_local_reply(&mut self, stream_id: u64, reply: LocalReply) {
        let Some(stream) = self.state_mut().stream_mut(stream_id) else { return };
        let vm = stream.vm;
        if stream.end.is_some() {
            return;
        }
        let (headers, body) = compose(&reply, &stream.request.headers);
        stream.code_details = Some(reply.details.clone());
        let status = reply.status;
        stream.local_reply = Some(reply);
        let begun = stream.response.started;
        let gone = stream.response.sent.headers.is_some();
        self.state_mut().note(Some(stream_id), vm, "local reply", status.to_string());
        if !begun {
            let bodiless = body.is_empty();
            self.headers(stream_id, Side::Response, headers, bodiless);
            if !bodiless && !self.halted(stream_id, Side::Response) {
                self.data(stream_id, Side::Response, body, true);
            }
        } else if !gone {
            if let Some(stream) = self.state_mut().stream_mut(stream_id) {
                stream.response.headers = headers.clone();
                stream.response.sent = Sent {
                    headers: Some(headers),
                    chunks: if body.is_empty() { Vec::new() } else { vec![body] },
                    trailers: None,
                    ended: true,
                };
            }
            self.finish(stream_id, StreamEnd::Complete);
        } else {
            self.finish(stream_id, StreamEnd::LocalReset);
        }
    }

    /// The stream is over: access log, then done, then delete (`ConnectionManagerImpl::
    /// doDeferredStreamDestroy`; seen: `a_complete_stream` and its neighbours in `endings`). A dead VM hears nothing of it
    /// (seen: `a_crash_at_request_headers`, `a_crash_in_the_log`).
    pub(crate) fn finish(&mut self, stream_id: u64, end: StreamEnd) {
        let now = self.state().clock.monotonic();
        let Some(stream) = self.state_mut().stream_mut(stream_id) else { return };
        if stream.end.is_some() {
            return;
        }
        stream.end = Some(end);
        stream.ended = Some(now);
        match end {
            StreamEnd::ClientReset => {
                stream.response_flags |= flags::DOWNSTREAM_CONNECTION_TERMINATION;
                stream.code_details = Some("downstream_remote_disconnect".to_owned());
            }
            StreamEnd::Complete if stream.code_details.is_none() => {
                stream.code_details = Some("via_upstream".to_owned());
            }
            StreamEnd::Complete | StreamEnd::UpstreamReset | StreamEnd::LocalReset => {}
        }
        let (index, filter) = (stream.vm, stream.filter);
        self.state_mut().note(Some(stream_id), index, "stream_id over", format!("{end:?}"));
        if let Filter::Context { context, generation } = filter {
            let same = self.state().vm(index).is_some_and(|vm| vm.generation == generation);
            if same {
                self.set_logging(stream_id, true);
                self.call(index, context, Callback::Log, &[context]);
                self.set_logging(stream_id, false);
                self.run_deferred(index);
                self.call(index, context, Callback::Done, &[context]);
                self.run_deferred(index);
                self.call(index, context, Callback::Delete, &[context]);
                self.run_deferred(index);
                if let Some(vm) = self.state_mut().vm_mut(index) {
                    vm.contexts.remove(&context);
                }
            }
        }
        if self.state().stream(stream_id).is_some_and(|stream| stream.abandoned) {
            self.state_mut().streams.remove(&stream_id);
        }
    }

    fn set_logging(&mut self, stream_id: u64, logging: bool) {
        if let Some(stream) = self.state_mut().stream_mut(stream_id) {
            stream.logging = logging;
        }
    }
}

/// Headers and body of a local reply (Envoy `Utility::prepareLocalReply`, `source/common/http/utility.cc`):
/// a gRPC request gets a trailers-only response, a HEAD request no body. Order of the headers seen on Envoy 1.40.0:
/// scenarios `a_reply_at_headers_comes_back_through_the_filter`, `a_reply_to_grpc`, `a_reply_to_head`.
fn compose(reply: &LocalReply, request: &HeaderMap) -> (HeaderMap, Vec<u8>) {
    let grpc = request
        .get("content-type")
        .is_some_and(|kind| kind == b"application/grpc" || kind.starts_with(b"application/grpc+"));
    let mut headers = HeaderMap::new();
    if grpc {
        headers.add(":status", "200");
        for (name, value) in reply.headers.iter() {
            headers.add(name, value);
        }
        headers.add("content-type", "application/grpc");
        let status = reply.grpc_status.unwrap_or_else(|| grpc_status(reply.status));
        headers.add("grpc-status", status.to_string());
        if !reply.body.is_empty() {
            headers.add("grpc-message", &reply.body);
        }
    } else {
        headers.add(":status", reply.status.to_string());
        for (name, value) in reply.headers.iter() {
            headers.add(name, value);
        }
    }
    if grpc || reply.body.is_empty() {
        return (headers, Vec::new());
    }
    headers.set("content-length", reply.body.len().to_string());
    if headers.get("content-type").is_none() {
        headers.add("content-type", "text/plain");
    }
    let head = request.get(":method") == Some(b"HEAD");
    (headers, if head { Vec::new() } else { reply.body.clone() })
}
