//! One request and its response: what a test drives and looks at.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::filter_chain::flags;
use crate::headers::HeaderMap;
use crate::message::{Request, Response};
use crate::property::PropertyValue;
use crate::shared_core::SharedCore;
use crate::stream::{Filter, Half, Iteration, LocalReply, Sent, Side, Stream, StreamEnd};
use crate::trace::{Crossings, Record, VmName};
use crate::vm::Core;

/// Where a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamProgress {
    /// The filter holds the request's headers.
    RequestPaused,
    /// The request's headers were let through, the response has not begun.
    Upstream,
    /// The response has begun and the filter holds its headers.
    ResponsePaused,
    /// The response's headers were let through.
    Responding,
    /// It is over.
    Over(StreamEnd),
}

/// A handle to a stream. Steps that Envoy would take by itself (the rest of a request, the upstream's
/// response, resets) are taken by its methods; what the filter made of them is read by its accessors.
/// Dropping the handle forgets the stream once it is over.
pub struct HttpStream {
    core: SharedCore,
    id: u64,
}

impl std::fmt::Debug for HttpStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpStream").field("id", &self.id).field("progress", &self.progress()).finish_non_exhaustive()
    }
}

impl Drop for HttpStream {
    fn drop(&mut self) {
        let Some(mut core) = self.core.try_lock() else { return };
        let streams = &mut core.state_mut().streams;
        if let Some(stream) = streams.get_mut(&self.id) {
            stream.abandoned = true;
            if stream.end.is_some() {
                streams.remove(&self.id);
            }
        }
    }
}

impl HttpStream {
    pub(crate) fn start(shared: &SharedCore, request: Request) -> Result<Self, Error> {
        let mut core = shared.lock();
        let workers = core.state().settings.workers;
        let vm = core
            .state()
            .vms
            .iter()
            .position(|vm| vm.name == VmName::Worker(request.from.worker))
            .ok_or(Error::NoSuchWorker { worker: request.from.worker, workers })?;
        let filter = core.new_filter(vm);
        let state = core.state_mut();
        let id = state.next_stream_id;
        state.next_stream_id += 1;
        let stream = Stream {
            id,
            vm,
            filter,
            request: Half::default(),
            response: Half::default(),
            failed: false,
            local_reply: None,
            logging: false,
            above_watermark: false,
            end: None,
            properties: request.from.properties.into_iter().collect(),
            filter_state: BTreeMap::new(),
            response_flags: 0,
            code_details: None,
            started: state.clock.monotonic(),
            started_wall: state.clock.wall(),
            ended: None,
            crossings: Crossings::default(),
            abandoned: false,
        };
        state.streams.insert(id, stream);
        core.create_context(id);
        let headers_end = request.chunks.is_empty() && request.trailers.is_none() && !request.open;
        core.headers(id, Side::Request, request.headers, headers_end);
        let ends = request.trailers.is_none() && !request.open;
        feed_body(&mut core, id, Side::Request, request.chunks, ends);
        if let Some(trailers) = request.trailers
            && open(&core, id, Side::Request)
        {
            core.trailers(id, Side::Request, trailers);
        }
        core.settle();
        drop(core);
        Ok(Self { core: shared.clone(), id })
    }

    /// The number of this stream, also its default `connection.id`.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// The guest's context id; `None` when the filter was skipped or has no VM.
    #[must_use]
    pub fn context_id(&self) -> Option<u32> {
        match self.read(|stream| stream.filter)? {
            Filter::Context { context, .. } => Some(context),
            Filter::Closed | Filter::Skipped => None,
        }
    }

    // ---- the request ----

    /// Sends a further piece of a request made with [`Request::unfinished`].
    ///
    /// # Errors
    /// [`Error::StreamOver`], or [`Error::OutOfOrder`] when the request is complete.
    pub fn send_body(&self, bytes: impl AsRef<[u8]>, end: bool) -> Result<(), Error> {
        const STEP: &str = "request body";
        let mut core = self.step(STEP)?;
        self.require(&core, STEP, "the request is complete", |stream| !stream.request.complete)?;
        core.data(self.id, Side::Request, bytes.as_ref().to_vec(), end);
        core.settle();
        Ok(())
    }

    /// Sends the trailers of a request made with [`Request::unfinished`].
    ///
    /// # Errors
    /// [`Error::StreamOver`], or [`Error::OutOfOrder`] when the request is complete.
    pub fn send_trailers(&self, trailers: HeaderMap) -> Result<(), Error> {
        const STEP: &str = "request trailers";
        let mut core = self.step(STEP)?;
        self.require(&core, STEP, "the request is complete", |stream| !stream.request.complete)?;
        core.trailers(self.id, Side::Request, trailers);
        core.settle();
        Ok(())
    }

    /// The client goes away: only access log, done and delete follow.
    ///
    /// # Errors
    /// [`Error::StreamOver`]
    pub fn client_reset(&self) -> Result<(), Error> {
        let mut core = self.step("client reset")?;
        core.finish(self.id, StreamEnd::ClientReset);
        core.settle();
        Ok(())
    }

    // ---- the upstream ----

    /// The upstream responds: headers, body chunks and trailers go through the filter as far as it lets them.
    ///
    /// # Errors
    /// [`Error::StreamOver`]; [`Error::OutOfOrder`] when the request was not let through or a response has
    /// begun.
    pub fn respond(&self, response: Response) -> Result<(), Error> {
        const STEP: &str = "response headers";
        let mut core = self.step(STEP)?;
        self.require_upstream(&core, STEP)?;
        if let Some(stream) = core.state_mut().stream_mut(self.id) {
            // Known from the response's first callback on.
            stream.code_details = Some("via_upstream".to_owned());
        }
        let headers_end = response.chunks.is_empty() && response.trailers.is_none() && !response.open;
        core.headers(self.id, Side::Response, response.headers, headers_end);
        let ends = response.trailers.is_none() && !response.open;
        feed_body(&mut core, self.id, Side::Response, response.chunks, ends);
        if let Some(trailers) = response.trailers
            && open(&core, self.id, Side::Response)
        {
            core.trailers(self.id, Side::Response, trailers);
        }
        core.settle();
        Ok(())
    }

    /// A further piece of a response made with [`Response::unfinished`].
    ///
    /// # Errors
    /// [`Error::StreamOver`], or [`Error::OutOfOrder`] when no response has begun.
    pub fn respond_body(&self, bytes: impl AsRef<[u8]>, end: bool) -> Result<(), Error> {
        const STEP: &str = "response body";
        let mut core = self.step(STEP)?;
        self.require_response(&core, STEP)?;
        core.data(self.id, Side::Response, bytes.as_ref().to_vec(), end);
        core.settle();
        Ok(())
    }

    /// The trailers of a response made with [`Response::unfinished`].
    ///
    /// # Errors
    /// [`Error::StreamOver`], or [`Error::OutOfOrder`] when no response has begun.
    pub fn respond_trailers(&self, trailers: HeaderMap) -> Result<(), Error> {
        const STEP: &str = "response trailers";
        let mut core = self.step(STEP)?;
        self.require_response(&core, STEP)?;
        core.trailers(self.id, Side::Response, trailers);
        core.settle();
        Ok(())
    }

    /// The upstream closes its HTTP/1.1 connection. Before response headers the router makes a local reply, 503, which comes through
    /// the filter; after them only access log, done and delete follow. If the filter holds the headers back, the client
    /// gets 502, of which no callback hears.
    ///
    /// Seen on Envoy 1.40.0: scenarios `an_upstream_that_resets_*`. An HTTP/2 stream that is reset has other details and
    /// flags.
    ///
    /// # Errors
    /// [`Error::StreamOver`]; [`Error::OutOfOrder`] when the request was not let through.
    pub fn upstream_reset(&self) -> Result<(), Error> {
        const STEP: &str = "upstream reset";
        const AFTER_HEADERS: &str = "upstream_reset_after_response_started{protocol_error}";
        const RESET_WHILE_HELD: &str =
            "upstream connect error or disconnect/reset before headers. reset reason: protocol error";
        let begun = self.read(|stream| stream.response.started).unwrap_or(false);
        if !begun {
            return self.proxy_reply(
                503,
                "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
                "upstream_reset_before_response_started{connection_termination}",
                flags::UPSTREAM_CONNECTION_TERMINATION,
            );
        }
        let mut core = self.step(STEP)?;
        let mut held = false;
        if let Some(stream) = core.state_mut().stream_mut(self.id) {
            stream.response_flags |= flags::UPSTREAM_PROTOCOL_ERROR;
            stream.code_details = Some(AFTER_HEADERS.to_owned());
            held = stream.response.sent.headers.is_none();
        }
        if held {
            core.send_local_reply(self.id, LocalReply::of_proxy(502, RESET_WHILE_HELD, AFTER_HEADERS));
        } else {
            core.finish(self.id, StreamEnd::UpstreamReset);
        }
        core.settle();
        Ok(())
    }

    /// The router has no host to send to: 503, flag UH.
    ///
    /// # Errors
    /// As [`HttpStream::proxy_reply`].
    pub fn no_healthy_upstream(&self) -> Result<(), Error> {
        for property in ["upstream.address", "upstream.port"] {
            self.set_property(property, PropertyValue::Missing);
        }
        self.proxy_reply(503, "no healthy upstream", "no_healthy_upstream", flags::NO_HEALTHY_UPSTREAM)
    }

    /// The upstream does not respond in time: 504, flag UT.
    ///
    /// # Errors
    /// As [`HttpStream::proxy_reply`].
    pub fn upstream_timeout(&self) -> Result<(), Error> {
        self.proxy_reply(504, "upstream request timeout", "response_timeout", flags::UPSTREAM_REQUEST_TIMEOUT)
    }

    /// A local reply made behind the filter, so that it comes through the filter:
    /// `response.code_details` is `details`, `response.flags` gets these bits (Envoy's legacy bit set).
    ///
    /// # Errors
    /// [`Error::StreamOver`]; [`Error::OutOfOrder`] when the request was not let through or a response has
    /// begun.
    pub fn proxy_reply(&self, status: u16, body: &str, details: &str, response_flags: u64) -> Result<(), Error> {
        const STEP: &str = "reply of the proxy";
        let mut core = self.step(STEP)?;
        self.require_upstream(&core, STEP)?;
        if let Some(stream) = core.state_mut().stream_mut(self.id) {
            stream.response_flags |= response_flags;
        }
        core.send_local_reply(self.id, LocalReply::of_proxy(status, body, details));
        core.settle();
        Ok(())
    }

    // ---- properties ----

    /// Sets a property from now on, by dotted path such as `upstream.address`.
    pub fn set_property(&self, path: &str, value: impl Into<PropertyValue>) {
        let mut core = self.core.lock();
        if let Some(stream) = core.state_mut().stream_mut(self.id) {
            stream.properties.insert(path.to_owned(), value.into());
        }
    }

    /// What the guest stored by `proxy_set_property`, by its path without the `wasm.` in front.
    #[must_use]
    pub fn filter_state(&self, path: &str) -> Option<Vec<u8>> {
        self.read(|stream| stream.filter_state.get(format!("wasm.{path}").as_bytes()).cloned())?
    }

    // ---- what came of it ----

    /// Where the stream stands.
    #[must_use]
    pub fn progress(&self) -> StreamProgress {
        let progress = self.read(|stream| match stream.end {
            Some(end) => StreamProgress::Over(end),
            None if stream.response.sent.headers.is_some() => StreamProgress::Responding,
            None if stream.response.started => StreamProgress::ResponsePaused,
            None if stream.request.sent.headers.is_some() => StreamProgress::Upstream,
            None => StreamProgress::RequestPaused,
        });
        progress.unwrap_or(StreamProgress::Over(StreamEnd::Complete))
    }

    /// Whether the filter holds back some of the request.
    #[must_use]
    pub fn is_request_paused(&self) -> bool {
        self.read(|stream| {
            stream.end.is_none() && stream.local_reply.is_none() && stream.request.iteration != Iteration::Going
        })
        .unwrap_or(false)
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn end(&self) -> Option<StreamEnd> {
        self.read(|stream| stream.end)?
    }

    /// The local reply, if there was one.
    #[must_use]
    pub fn local_reply(&self) -> Option<LocalReply> {
        self.read(|stream| stream.local_reply.clone())?
    }

    /// Whether more of a body is held back than the buffer limit, so that Envoy would read no further.
    #[must_use]
    pub fn is_above_watermark(&self) -> bool {
        self.read(|stream| stream.above_watermark).unwrap_or(false)
    }

    /// The request's headers as they are now, let through or not.
    #[must_use]
    pub fn request_headers(&self) -> HeaderMap {
        self.read(|stream| stream.request.headers.clone()).unwrap_or_default()
    }

    /// The request's body as far as it was let through.
    #[must_use]
    pub fn request_body(&self) -> Vec<u8> {
        self.sent_upstream().body()
    }

    /// What has gone upstream.
    #[must_use]
    pub fn sent_upstream(&self) -> Sent {
        self.read(|stream| stream.request.sent.clone()).unwrap_or_default()
    }

    /// What has gone downstream.
    #[must_use]
    pub fn sent_downstream(&self) -> Sent {
        self.read(|stream| stream.response.sent.clone()).unwrap_or_default()
    }

    /// The status that has gone downstream.
    #[must_use]
    pub fn response_status(&self) -> Option<u16> {
        self.sent_downstream().status()
    }

    /// `response.code_details` as the access log sees them.
    #[must_use]
    pub fn code_details(&self) -> Option<String> {
        self.read(|stream| stream.code_details.clone())?
    }

    /// Crossings of this stream's own callbacks. What a tick does for it is counted for the VM only.
    #[must_use]
    pub fn crossings(&self) -> Crossings {
        self.read(|stream| stream.crossings.clone()).unwrap_or_default()
    }

    /// The records of this stream.
    #[must_use]
    pub fn trace(&self) -> Vec<Record> {
        let core = self.core.lock();
        let records = core.state().trace.records().iter();
        records.filter(|record| record.stream_id == Some(self.id)).cloned().collect()
    }

    fn read<T>(&self, what: impl FnOnce(&Stream) -> T) -> Option<T> {
        self.core.lock().state().stream(self.id).map(what)
    }

    fn step(&self, step: &'static str) -> Result<std::sync::MutexGuard<'_, Core>, Error> {
        let core = self.core.lock();
        if core.state().stream(self.id).is_none_or(|stream| stream.end.is_some()) {
            return Err(Error::StreamOver { id: self.id, step });
        }
        Ok(core)
    }

    fn require(
        &self,
        core: &Core,
        step: &'static str,
        reason: &'static str,
        holds: impl FnOnce(&Stream) -> bool,
    ) -> Result<(), Error> {
        if core.state().stream(self.id).is_some_and(holds) {
            Ok(())
        } else {
            Err(Error::OutOfOrder { id: self.id, step, reason })
        }
    }

    fn require_upstream(&self, core: &Core, step: &'static str) -> Result<(), Error> {
        self.require(core, step, "the request's headers were not let through", |stream| {
            stream.request.sent.headers.is_some()
        })?;
        self.require(core, step, "a response has begun", |stream| !stream.response.started)
    }

    fn require_response(&self, core: &Core, step: &'static str) -> Result<(), Error> {
        self.require(core, step, "no response has begun, or it is complete", |stream| {
            stream.response.started && !stream.response.complete
        })
    }
}

fn feed_body(core: &mut Core, id: u64, side: Side, chunks: Vec<Vec<u8>>, ends: bool) {
    let count = chunks.len();
    for (index, chunk) in chunks.into_iter().enumerate() {
        if !open(core, id, side) {
            return;
        }
        core.data(id, side, chunk, ends && index + 1 == count);
    }
}

/// Whether more of this half can be fed: the stream goes on, and a request got no local reply meanwhile.
fn open(core: &Core, id: u64, side: Side) -> bool {
    core.state()
        .stream(id)
        .is_some_and(|stream| stream.end.is_none() && (side == Side::Response || stream.local_reply.is_none()))
}
