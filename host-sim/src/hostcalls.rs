//! What each host call does, on plain Rust values. The rules are those of Envoy's `Context`
//! (`source/extensions/common/wasm/context.cc`) unless a comment says otherwise.
//!
//! Statuses and values were compared with Envoy 1.40.0 by the scenarios of `tests/tests/fidelity`: `maps` for headers and
//! trailers, `bodies` for buffers, `properties`, `sharing` for shared data, queues, stats and calls, `replies` for the rest.

use std::time::Duration;

use crate::codes::{BufferKind, CallError, MapKind, Status, StreamKind};
use crate::headers::HeaderMap;
use crate::http_call::{HttpCall, HttpOutcome, OutcomeKind};
use crate::shared_data::{Consumer, Dequeued};
use crate::state::{ContextKind, Deferred, Due, State};
use crate::stats::{StatError, StatKind};
use crate::stream::{LocalReply, ReplyOrigin, Side, Stream};

/// Bits of a call's token that carry its kind (proxy-wasm-cpp-host, `include/proxy-wasm/wasm.h`).
const CALL_KIND_BITS: u32 = 2;

impl From<StatError> for CallError {
    fn from(error: StatError) -> Self {
        match error {
            StatError::UnknownId => Self::NoStat,
            StatError::NotAllowed => Self::StatNotAllowed,
        }
    }
}

impl State {
    /// The context that host calls act on: the effective one while it exists, else the one whose callback
    /// runs (proxy-wasm-cpp-host `contextOrEffectiveContext`).
    fn target(&self) -> Option<(usize, ContextKind)> {
        let frame = self.frame?;
        let contexts = &self.vm(frame.vm)?.contexts;
        let kind =
            contexts.get(&frame.effective).filter(|_| frame.effective != 0).or_else(|| contexts.get(&frame.context))?;
        Some((frame.vm, *kind))
    }

    fn target_stream(&self) -> Option<&Stream> {
        match self.target()? {
            (_, ContextKind::Stream(stream_id)) => self.stream(stream_id),
            (_, ContextKind::Vm | ContextKind::Root) => None,
        }
    }

    fn target_stream_mut(&mut self) -> Option<&mut Stream> {
        match self.target()? {
            (_, ContextKind::Stream(stream_id)) => self.stream_mut(stream_id),
            (_, ContextKind::Vm | ContextKind::Root) => None,
        }
    }

    fn running_vm(&self) -> usize {
        self.frame.map_or(0, |frame| frame.vm)
    }

    /// `proxy_set_effective_context`
    pub(crate) fn set_effective_context(&mut self, context: u32) -> Result<(), CallError> {
        let known = self.vm(self.running_vm()).is_some_and(|vm| vm.contexts.contains_key(&context));
        match &mut self.frame {
            Some(frame) if known => {
                frame.effective = context;
                Ok(())
            }
            _ => Err(CallError::NoContext),
        }
    }

    /// A map for reading (`getConstMap`). During the access log these are the maps of the log, where request
    /// trailers are never available.
    pub(crate) fn map(&self, kind: MapKind) -> Option<&HeaderMap> {
        let (side, trailers) = match kind {
            MapKind::RequestHeaders => (Side::Request, false),
            MapKind::RequestTrailers => (Side::Request, true),
            MapKind::ResponseHeaders => (Side::Response, false),
            MapKind::ResponseTrailers => (Side::Response, true),
            MapKind::GrpcInitialMetadata | MapKind::GrpcTrailingMetadata => return None,
            MapKind::CallResponseHeaders => {
                return Some(&self.vm(self.running_vm())?.call_response.as_ref()?.headers);
            }
            MapKind::CallResponseTrailers => {
                return Some(&self.vm(self.running_vm())?.call_response.as_ref()?.trailers);
            }
        };
        let stream = self.target_stream()?;
        let half = stream.half(side);
        match (trailers, stream.logging) {
            (false, true) => half.started.then_some(&half.headers),
            (false, false) => half.headers_open.then_some(&half.headers),
            (true, true) if side == Side::Request => None,
            (true, true) => half.trailers.as_ref(),
            (true, false) => half.trailers.as_ref().filter(|_| half.trailers_open),
        }
    }

    /// A map for writing (`getMap`). Naming trailers in the body callback that ends the stream adds them (seen on Envoy 1.40.0:
    /// scenarios `trailers_are_added_in_the_last_body_callback_only`, `response_trailers_are_added_in_the_last_body_callback_only`).
    pub(crate) fn map_mut(&mut self, kind: MapKind) -> Result<&mut HeaderMap, CallError> {
        let (side, trailers) = match kind {
            MapKind::RequestHeaders => (Side::Request, false),
            MapKind::RequestTrailers => (Side::Request, true),
            MapKind::ResponseHeaders => (Side::Response, false),
            MapKind::ResponseTrailers => (Side::Response, true),
            MapKind::GrpcInitialMetadata
            | MapKind::GrpcTrailingMetadata
            | MapKind::CallResponseHeaders
            | MapKind::CallResponseTrailers => return Err(CallError::MapUnavailable),
        };
        let half = self.target_stream_mut().ok_or(CallError::MapUnavailable)?.half_mut(side);
        if !trailers {
            return half.headers_open.then_some(&mut half.headers).ok_or(CallError::MapUnavailable);
        }
        if !half.trailers_open && half.chunk_open && half.end_of_stream {
            half.trailers_open = true;
            half.trailers.get_or_insert_default();
        }
        let open = half.trailers_open;
        half.trailers.as_mut().filter(|_| open).ok_or(CallError::MapUnavailable)
    }

    /// `proxy_get_header_map_value`
    pub(crate) fn header(&self, kind: MapKind, name: &[u8]) -> Result<Vec<u8>, CallError> {
        let Some(map) = self.map(kind) else {
            let logging = self.target_stream().is_some_and(|stream| stream.logging);
            return Err(if logging { CallError::NoHeader } else { CallError::MapUnavailable });
        };
        map.get(name).map(<[u8]>::to_vec).ok_or(CallError::NoHeader)
    }

    /// `proxy_set_header_map_pairs`
    pub(crate) fn set_headers(&mut self, kind: MapKind, pairs: HeaderMap) -> Result<(), CallError> {
        *self.map_mut(kind)? = pairs;
        Ok(())
    }

    /// The bytes of a buffer (`getBuffer`); an unavailable body is an empty one, not an error.
    pub(crate) fn buffer(&self, kind: BufferKind) -> Result<&[u8], CallError> {
        let vm = self.vm(self.running_vm()).ok_or(CallError::BufferUnavailable)?;
        match kind {
            BufferKind::RequestBody => Ok(self.body(Side::Request)),
            BufferKind::ResponseBody => Ok(self.body(Side::Response)),
            BufferKind::VmConfiguration => Ok(&self.settings.vm_configuration),
            BufferKind::PluginConfiguration if vm.configuring => Ok(&vm.plugin.configuration),
            BufferKind::PluginConfiguration => Err(CallError::BufferUnavailable),
            BufferKind::CallResponseBody => {
                vm.call_response.as_ref().map(|response| response.body.as_slice()).ok_or(CallError::BufferUnavailable)
            }
            BufferKind::DownstreamData | BufferKind::UpstreamData | BufferKind::GrpcReceive | BufferKind::CallData => {
                Ok(&[])
            }
        }
    }

    fn body(&self, side: Side) -> &[u8] {
        let Some(half) = self.target_stream().map(|stream| stream.half(side)) else {
            return &[];
        };
        if half.buffering {
            half.buffered.as_ref().map_or(&[], |body| body.bytes())
        } else if half.chunk_open {
            half.chunk.bytes()
        } else {
            &[]
        }
    }

    /// `proxy_set_buffer_bytes` (`Buffer::copyFrom`): only bodies can be written, and only while there is one.
    pub(crate) fn set_buffer(
        &mut self,
        kind: BufferKind,
        start: usize,
        size: usize,
        data: &[u8],
    ) -> Result<(), CallError> {
        let side = match kind {
            BufferKind::RequestBody => Side::Request,
            BufferKind::ResponseBody => Side::Response,
            BufferKind::DownstreamData
            | BufferKind::UpstreamData
            | BufferKind::CallResponseBody
            | BufferKind::GrpcReceive
            | BufferKind::VmConfiguration
            | BufferKind::PluginConfiguration
            | BufferKind::CallData => {
                self.buffer(kind)?;
                return Err(CallError::BufferReadOnly);
            }
        };
        let half = self.target_stream_mut().ok_or(CallError::BufferReadOnly)?.half_mut(side);
        let body = if half.buffering {
            half.buffered.as_mut().ok_or(CallError::BufferReadOnly)?
        } else if half.chunk_open {
            &mut half.chunk
        } else {
            return Err(CallError::BufferReadOnly);
        };
        body.splice(start, size, data).map_err(|_| CallError::PartialOverlap)
    }

    /// `proxy_set_property`: stores filter state under `wasm.` and the path.
    pub(crate) fn set_property(&mut self, path: &[u8], value: &[u8]) -> Result<(), CallError> {
        let stream = self.target_stream_mut().ok_or(CallError::NoStream)?;
        stream.filter_state.insert([b"wasm.", path].concat(), value.to_vec());
        Ok(())
    }

    /// `proxy_get_property`
    pub(crate) fn property(&self, path: &[u8]) -> Result<Vec<u8>, CallError> {
        let vm = self.vm(self.running_vm()).ok_or(CallError::NoProperty)?;
        crate::attributes::lookup(self, vm, self.target_stream(), path)
    }

    /// `proxy_get_shared_data`
    pub(crate) fn shared_data(&self, key: &[u8]) -> Result<(Vec<u8>, u32), CallError> {
        self.shared_data
            .get(&self.settings.vm_id, key)
            .map(|(value, cas)| (value.to_vec(), cas))
            .ok_or(CallError::NoKey)
    }

    /// `proxy_set_shared_data`
    pub(crate) fn set_shared_data(&mut self, key: &[u8], value: &[u8], cas: u32) -> Result<(), CallError> {
        self.shared_data.set(&self.settings.vm_id, key, value, cas).map_err(|_| CallError::CasMismatch)
    }

    /// `proxy_register_shared_queue`: the consumer is the root context, also when a stream context registers.
    pub(crate) fn register_queue(&mut self, name: &[u8]) -> u32 {
        let vm = self.running_vm();
        let context = self.vm(vm).map_or(0, |vm| vm.root);
        self.queues.register(&self.settings.vm_id, name, Consumer { vm, context })
    }

    /// `proxy_resolve_shared_queue`: an empty VM id is the caller's own.
    pub(crate) fn resolve_queue(&self, vm_id: &[u8], name: &[u8]) -> Result<u32, CallError> {
        let vm_id = String::from_utf8_lossy(vm_id);
        let vm_id = if vm_id.is_empty() { self.settings.vm_id.as_str() } else { &vm_id };
        self.queues.resolve(vm_id, name).ok_or(CallError::NoQueue)
    }

    /// `proxy_dequeue_shared_queue`
    pub(crate) fn dequeue(&mut self, token: u32) -> Result<Vec<u8>, CallError> {
        match self.queues.dequeue(token) {
            Dequeued::Item(item) => Ok(item),
            Dequeued::Empty => Err(CallError::QueueEmpty),
            Dequeued::NoSuchQueue => Err(CallError::NoQueue),
        }
    }

    /// `proxy_enqueue_shared_queue`: the consumer is woken after the present event, on its own thread.
    pub(crate) fn enqueue(&mut self, token: u32, item: &[u8]) -> Result<(), CallError> {
        let consumer = self.queues.enqueue(token, item).ok_or(CallError::NoQueue)?;
        self.posted.push_back((consumer, token));
        Ok(())
    }

    /// `proxy_define_metric`
    pub(crate) fn define_stat(&mut self, kind: u32, name: &[u8]) -> Result<u32, CallError> {
        let kind = StatKind::from_abi(kind).ok_or(CallError::UnknownStatKind)?;
        let vm = self.running_vm();
        let vm = self.vms.get_mut(vm).ok_or(CallError::NoStat)?;
        Ok(vm.stat_ids.define(&mut self.stats, kind, &String::from_utf8_lossy(name)))
    }

    /// `proxy_increment_metric`
    pub(crate) fn increment_stat(&mut self, id: u32, offset: i64) -> Result<(), CallError> {
        let vm = self.running_vm();
        let vm = self.vms.get(vm).ok_or(CallError::NoStat)?;
        Ok(vm.stat_ids.increment(&mut self.stats, id, offset)?)
    }

    /// `proxy_record_metric`
    pub(crate) fn record_stat(&mut self, id: u32, value: u64) -> Result<(), CallError> {
        let vm = self.running_vm();
        let vm = self.vms.get(vm).ok_or(CallError::NoStat)?;
        Ok(vm.stat_ids.record(&mut self.stats, id, value)?)
    }

    /// `proxy_get_metric`
    pub(crate) fn stat(&self, id: u32) -> Result<u64, CallError> {
        let vm = self.vm(self.running_vm()).ok_or(CallError::NoStat)?;
        Ok(vm.stat_ids.get(&self.stats, id)?)
    }

    /// The name behind a metric id, for the trace.
    pub(crate) fn stat_name(&self, id: u32) -> String {
        self.vm(self.running_vm())
            .and_then(|vm| vm.stat_ids.name(id))
            .map_or_else(|| format!("unknown id {id}"), ToOwned::to_owned)
    }

    /// `proxy_set_tick_period_milliseconds`: one timer per root context, started anew at each call; 0 stops
    /// it (Envoy `Wasm::setTimerPeriod`, `source/extensions/common/wasm/wasm.cc`).
    pub(crate) fn set_tick_period(&mut self, period: Duration) {
        let index = self.running_vm();
        let now = self.clock.monotonic();
        let Some(vm) = self.vms.get_mut(index) else { return };
        vm.tick_period = period;
        let generation = vm.generation;
        self.schedule.disarm(|due| matches!(due, Due::Tick { vm, .. } if *vm == index));
        if !period.is_zero() {
            self.schedule.arm(now.saturating_add(period), Due::Tick { vm: index, generation });
        }
    }

    /// `proxy_continue_stream`: deferred until the callback has returned. It always takes the *request's*
    /// maps and body away from the guest, also when the response is continued (seen on Envoy 1.40.0: scenario
    /// `a_body_that_resumes_itself_is_let_go`).
    pub(crate) fn continue_stream(&mut self, kind: StreamKind) -> Result<(), CallError> {
        let side = match kind {
            StreamKind::Upstream => return Err(CallError::StreamUnimplemented),
            StreamKind::Downstream => return Ok(()),
            StreamKind::Request | StreamKind::Response => Side::of(kind),
        };
        let vm = self.running_vm();
        let Some(stream) = self.target_stream_mut() else { return Ok(()) };
        let stream_id = stream.id;
        stream.request.headers_open = false;
        stream.request.chunk_open = false;
        stream.request.trailers_open = false;
        if let (Some(side), Some(vm)) = (side, self.vm_mut(vm)) {
            vm.deferred.push_back(Deferred::Continue { stream_id, side });
        }
        Ok(())
    }

    /// `proxy_close_stream`: deferred. Without details so far, they become `wasm_close_stream`.
    pub(crate) fn close_stream(&mut self, kind: StreamKind) {
        let vm = self.running_vm();
        if Side::of(kind).is_none() {
            return;
        }
        let Some(stream) = self.target_stream_mut() else { return };
        let stream_id = stream.id;
        stream.code_details.get_or_insert_with(|| "wasm_close_stream".to_owned());
        if let Some(vm) = self.vm_mut(vm) {
            vm.deferred.push_back(Deferred::Reset { stream_id });
        }
    }

    /// `proxy_send_local_response`: deferred, and whatever the present callback returns means pause
    /// (proxy-wasm-cpp-host `send_local_response`, `stopNextIteration`). Without a stream only that is done.
    pub(crate) fn send_local_response(&mut self, reply: LocalReply) {
        let index = self.running_vm();
        let stream_id = self.target_stream().map(|stream| stream.id);
        let Some(vm) = self.vm_mut(index) else { return };
        vm.stop_iteration = true;
        if let Some(stream_id) = stream_id {
            vm.deferred.push_back(Deferred::LocalReply { stream_id, reply });
        }
    }

    /// `proxy_http_call`: always a call of the root context, so it outlives the stream that made it
    /// (proxy-wasm-cpp-host `exports.cc`, `http_call`).
    pub(crate) fn http_call(
        &mut self,
        cluster: &[u8],
        mut headers: HeaderMap,
        body: Vec<u8>,
        trailers: HeaderMap,
        timeout_ms: u32,
    ) -> Result<u32, CallError> {
        if i32::try_from(timeout_ms).is_err() {
            return Err(CallError::BadTimeout);
        }
        let cluster = String::from_utf8_lossy(cluster).into_owned();
        if !self.clusters.knows(&cluster) {
            return Err(CallError::NoCluster);
        }
        if [":path", ":method", ":authority"].iter().any(|name| headers.get(name).is_none()) {
            return Err(CallError::MissingPseudoHeader);
        }
        if !body.is_empty() {
            headers.set("content-length", body.len().to_string());
        }
        let index = self.running_vm();
        let now = self.clock.monotonic();
        let vm = self.vms.get_mut(index).ok_or(CallError::CallRefused)?;
        // Seen on Envoy 1.40.0, scenario `a_call_has_its_response`: the low two bits are the kind of call, and 0 is HTTP.
        let token = vm.next_call << CALL_KIND_BITS;
        let generation = vm.generation;
        let timeout = (timeout_ms > 0).then(|| Duration::from_millis(u64::from(timeout_ms)));
        let call = HttpCall { vm: vm.name, token, cluster, headers, body, trailers, timeout, at: now };
        let outcome = self.clusters.call(call).ok_or(CallError::NoCluster)?;
        let outcome = match (&outcome.kind, timeout) {
            (OutcomeKind::Refused, _) => return Err(CallError::CallRefused),
            (OutcomeKind::Silence, Some(timeout)) => Some(HttpOutcome::timed_out().after(timeout)),
            (OutcomeKind::Silence, None) => None,
            (_, Some(timeout)) if outcome.delay >= timeout => Some(HttpOutcome::timed_out().after(timeout)),
            (OutcomeKind::Response { .. } | OutcomeKind::Failure, _) => Some(outcome.delivered()),
        };
        vm.next_call = vm.next_call.wrapping_add(1).max(1);
        vm.pending_calls.insert(token);
        if let Some(outcome) = outcome {
            let at = now.saturating_add(outcome.delay);
            self.schedule.arm(at, Due::HttpCall { vm: index, generation, token, outcome });
        }
        Ok(token)
    }

    /// `proxy_call_foreign_function`: of Envoy's functions only `clear_route_cache` and `declare_property` do something here,
    /// and what they do is a note in the trace, since this host has no routes and reads no filter state.
    pub(crate) fn foreign_function(&mut self, name: &[u8]) -> Result<(), CallError> {
        let name = match name {
            b"clear_route_cache" => "clear_route_cache",
            b"declare_property" => "declare_property",
            _ => return Err(CallError::NoForeignFunction),
        };
        let stream_id = self.target_stream().map(|stream| stream.id);
        self.note(stream_id, self.running_vm(), name, String::new());
        Ok(())
    }

    /// `proxy_get_status`: of the HTTP call whose response is being delivered.
    pub(crate) fn call_status(&self) -> (Status, &'static str) {
        self.vm(self.running_vm()).map_or((Status::Ok, ""), |vm| vm.call_status)
    }

    /// Whether the stream that host calls act on is being logged.
    pub(crate) fn is_logging(&self) -> bool {
        self.target_stream().is_some_and(|stream| stream.logging)
    }

    /// Whether a host call may be made now: while the module starts, and while it allocates for the host,
    /// only logging may (proxy-wasm-cpp-host `setRestrictedCallback` in `src/wasm.cc`).
    pub(crate) fn permits(&self, name: &str) -> bool {
        let restricted =
            self.frame.is_some_and(|frame| frame.allocating || frame.callback == crate::codes::Callback::Initialize);
        !restricted || name == "proxy_log"
    }
}

/// A local reply as the guest asks for it.
pub(crate) fn guest_reply(
    status: u32,
    details: &[u8],
    body: Vec<u8>,
    headers: HeaderMap,
    grpc_status: u32,
) -> LocalReply {
    /// The highest gRPC status; the Rust SDK passes -1 for none.
    const MAX_GRPC_STATUS: u32 = 16;
    LocalReply {
        status: u16::try_from(status).unwrap_or(u16::MAX),
        headers,
        body,
        details: String::from_utf8_lossy(details).split_whitespace().collect::<Vec<_>>().join("_"),
        grpc_status: (grpc_status <= MAX_GRPC_STATUS).then_some(grpc_status),
        origin: ReplyOrigin::Guest,
    }
}
