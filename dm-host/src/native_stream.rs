//! One request and its response: what a test drives and looks at.

use std::sync::Arc;

use crate::abi::attribute;
use crate::config_state::{ConfigState, new_handle};
use crate::filter_chain::{self, flags};
use crate::headers::Headers;
use crate::memory::Loans;
use crate::message::{HttpMessage, sliced};
use crate::role;
use crate::stream_state::{
    Finish, Forwarded, Half, HalfState, Hold, Life, Metadata, MetadataValue, ProxyReply, StreamState,
};
use crate::worker::WorkerLink;

/// How streams of a worker begin.
#[derive(Clone, Debug)]
pub(crate) struct StreamSettings {
    pub(crate) request_buffer_limit: usize,
    pub(crate) response_buffer_limit: usize,
    pub(crate) completes_inline: bool,
}

/// A handle to a stream. Steps that Envoy would take by itself (the rest of a request, the upstream's response, resets) are its
/// methods; they run on the stream's worker and return when they are done. Steps that come too late do nothing. Dropping the handle
/// forgets the stream once it is over. A handle does not outlive its host.
#[derive(Debug)]
pub struct NativeStream {
    link: WorkerLink,
    id: usize,
}

impl Drop for NativeStream {
    fn drop(&mut self) {
        let id = self.id;
        if std::thread::panicking() {
            return;
        }
        self.link.run_if_alive(move || {
            let is_over = role::stream(id, |stream| {
                stream.abandoned = true;
                stream.life == Life::Destroyed
            });
            if is_over == Some(true) {
                role::remove_stream(id);
            }
        });
    }
}

impl NativeStream {
    /// Begins a stream; `decoded`: its request comes to the filter.
    pub(crate) fn start(
        link: &WorkerLink,
        config: Arc<ConfigState>,
        settings: StreamSettings,
        metadata: Metadata,
        request: Option<HttpMessage>,
    ) -> Self {
        let id = link.run(move || {
            let id = new_handle();
            role::add_stream(id, new_state(config, &settings, metadata));
            filter_chain::begin(id);
            if let Some(request) = request {
                role::stream(id, |stream| stream.request.replayed = request.replayed);
                feed(id, Half::Request, request);
            }
            id
        });
        Self { link: link.clone(), id }
    }

    fn run<R: Send + 'static>(&self, step: impl FnOnce(usize) -> R + Send + 'static) -> R {
        let id = self.id;
        self.link.run(move || step(id))
    }

    fn read<R: Send + Default + 'static>(&self, look: impl FnOnce(&mut StreamState) -> R + Send + 'static) -> R {
        self.run(move |id| role::stream(id, look).unwrap_or_default())
    }

    // ---- the request ----

    /// A further piece of a request that was unfinished.
    pub fn send_body(&self, bytes: impl AsRef<[u8]>, end: bool) {
        let chunk = sliced(bytes.as_ref(), usize::MAX);
        self.run(move |id| step(id, Half::Request, |id| filter_chain::data(id, Half::Request, chunk, end)));
    }

    /// The trailers of a request that was unfinished.
    pub fn send_trailers(&self, trailers: Headers) {
        self.run(move |id| step(id, Half::Request, |id| filter_chain::trailers(id, Half::Request, trailers)));
    }

    /// The client goes away.
    pub fn client_reset(&self) {
        self.run(|id| filter_chain::finish(id, Finish::ClientReset));
    }

    // ---- the upstream ----

    /// A host was tried: `upstream_hosts_attempted`, `upstream.address` and the attempt count say so.
    pub fn attempt(&self, address: &str) {
        let address = address.as_bytes().to_vec();
        self.run(move |id| {
            role::stream(id, |stream| {
                stream.attempted.push(address.clone());
                stream.texts.insert(attribute::UPSTREAM_ADDRESS, address);
                let attempts = u64::try_from(stream.attempted.len()).unwrap_or(0);
                stream.numbers.insert(attribute::ATTEMPT_COUNT, attempts);
            })
        });
    }

    /// An attribute as text, or without a value.
    pub fn set_text(&self, attribute: i32, value: Option<&str>) {
        let value = value.map(|value| value.as_bytes().to_vec());
        self.run(move |id| {
            role::stream(id, |stream| match value {
                Some(value) => stream.texts.insert(attribute, value),
                None => stream.texts.remove(&attribute),
            })
        });
    }

    /// An attribute as a number.
    pub fn set_number(&self, attribute: i32, value: u64) {
        self.run(move |id| role::stream(id, |stream| stream.numbers.insert(attribute, value)));
    }

    /// The upstream responds: headers, body and trailers go through the filter as far as it lets them.
    pub fn respond(&self, response: HttpMessage) {
        self.run(|id| {
            step(id, Half::Response, |id| {
                role::stream(id, |stream| {
                    stream.texts.insert(attribute::CODE_DETAILS, b"via_upstream".to_vec());
                    stream.response.replayed = response.replayed;
                });
                feed(id, Half::Response, response);
            });
        });
    }

    /// A further piece of a response that was unfinished.
    pub fn respond_body(&self, bytes: impl AsRef<[u8]>, end: bool) {
        let chunk = sliced(bytes.as_ref(), usize::MAX);
        self.run(move |id| step(id, Half::Response, |id| filter_chain::data(id, Half::Response, chunk, end)));
    }

    /// The trailers of a response that was unfinished.
    pub fn respond_trailers(&self, trailers: Headers) {
        self.run(move |id| step(id, Half::Response, |id| filter_chain::trailers(id, Half::Response, trailers)));
    }

    /// The upstream closes its HTTP/1.1 connection: 503 from the router before response headers, and an end without a word after them.
    pub fn upstream_reset(&self) {
        const BEFORE: &str =
            "upstream connect error or disconnect/reset before headers. reset reason: connection termination";
        const AFTER_HEADERS: &str = "upstream_reset_after_response_started{protocol_error}";
        let begun = self.read(|stream| stream.response.started);
        if !begun {
            let details = "upstream_reset_before_response_started{connection_termination}";
            return self.proxy_reply(503, BEFORE, details, flags::UPSTREAM_CONNECTION_TERMINATION);
        }
        self.run(|id| {
            role::stream(id, |stream| {
                *stream.numbers.entry(attribute::RESPONSE_FLAGS).or_default() |= flags::UPSTREAM_PROTOCOL_ERROR;
                stream.texts.insert(attribute::CODE_DETAILS, AFTER_HEADERS.as_bytes().to_vec());
            });
            filter_chain::finish(id, Finish::UpstreamReset);
        });
    }

    /// The router has no host to send to: 503, flag UH.
    pub fn no_healthy_upstream(&self) {
        self.set_text(attribute::UPSTREAM_ADDRESS, None);
        self.proxy_reply(503, "no healthy upstream", "no_healthy_upstream", flags::NO_HEALTHY_UPSTREAM);
    }

    /// The upstream does not respond in time: 504, flag UT.
    pub fn upstream_timeout(&self) {
        self.proxy_reply(504, "upstream request timeout", "response_timeout", flags::UPSTREAM_REQUEST_TIMEOUT);
    }

    /// A reply made behind the filter, which comes through it; `response_flags` are Envoy's legacy bits.
    pub fn proxy_reply(&self, status: u16, body: &str, details: &str, response_flags: u64) {
        let reply = ProxyReply::of_proxy(status, body, details);
        self.run(move |id| {
            role::stream(id, |stream| {
                *stream.numbers.entry(attribute::RESPONSE_FLAGS).or_default() |= response_flags;
            });
            filter_chain::reply(id, reply);
        });
    }

    /// Calls every hook of the filter that follows only from something that the module may ask for.
    pub fn call_unasked(&self) {
        self.run(filter_chain::call_unasked);
    }

    // ---- what came of it ----

    /// A text of the dynamic metadata, which the module or the test has set.
    #[must_use]
    pub fn metadata(&self, namespace: &str, key: &str) -> Option<String> {
        let entry = (namespace.to_owned(), key.to_owned());
        self.read(move |stream| match stream.metadata.get(&entry) {
            Some(MetadataValue::Text(text)) => Some(text.clone()),
            Some(MetadataValue::List(_) | MetadataValue::Struct(_)) | None => None,
        })
    }

    /// The serialised `google.protobuf.Struct` that the module has set as all of a namespace of the dynamic metadata.
    #[must_use]
    pub fn metadata_struct(&self, namespace: &str) -> Option<Vec<u8>> {
        let entry = (namespace.to_owned(), String::new());
        self.read(move |stream| match stream.metadata.get(&entry) {
            Some(MetadataValue::Struct(structure)) => Some(structure.clone()),
            Some(MetadataValue::List(_) | MetadataValue::Text(_)) | None => None,
        })
    }

    /// The request's headers as they are now.
    #[must_use]
    pub fn request_headers(&self) -> Headers {
        self.read(|stream| stream.request.headers.clone())
    }

    /// What of the request has gone upstream.
    #[must_use]
    pub fn upstream(&self) -> Forwarded {
        self.read(|stream| stream.request.forwarded.clone())
    }

    /// What of the response has gone downstream.
    #[must_use]
    pub fn downstream(&self) -> Forwarded {
        self.read(|stream| stream.response.forwarded.clone())
    }

    /// A reply that was not the upstream's.
    #[must_use]
    pub fn reply(&self) -> Option<ProxyReply> {
        self.read(|stream| stream.reply.clone())
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn finish(&self) -> Option<Finish> {
        self.read(|stream| stream.finish)
    }

    /// Whether the filter holds back some of the request.
    #[must_use]
    pub fn is_request_held(&self) -> bool {
        self.read(|stream| stream.finish.is_none() && stream.reply.is_none() && stream.request.hold != Hold::Nothing)
    }

    /// The hooks that were called, in order.
    #[must_use]
    pub fn hooks(&self) -> Vec<&'static str> {
        self.read(|stream| stream.hooks_seen.clone())
    }

    /// Whether its worker is the one with this index.
    #[must_use]
    pub fn worker(&self) -> u32 {
        self.link.index
    }
}

fn new_state(config: Arc<ConfigState>, settings: &StreamSettings, metadata: Metadata) -> StreamState {
    StreamState {
        config,
        module: std::ptr::null(),
        request: HalfState::default(),
        response: HalfState::default(),
        metadata,
        attempted: Vec::new(),
        texts: std::collections::BTreeMap::new(),
        numbers: [(attribute::RESPONSE_FLAGS, 0)].into(),
        buffer_limit: settings.request_buffer_limit,
        response_buffer_limit: settings.response_buffer_limit,
        reply: None,
        finish: None,
        life: Life::Open,
        completes_inline: settings.completes_inline,
        depth: 0,
        loans: Loans::default(),
        abandoned: false,
        hooks_seen: Vec::new(),
    }
}

/// Whether a half takes no more: the stream is over, or the request has its answer.
fn is_closed(id: usize, half: Half) -> bool {
    role::stream(id, |stream| stream.finish.is_some() || (half == Half::Request && stream.reply.is_some()))
        .unwrap_or(true)
}

fn step(id: usize, half: Half, step: impl FnOnce(usize)) {
    if !is_closed(id, half) {
        step(id);
    }
}

fn feed(id: usize, half: Half, message: HttpMessage) {
    if is_closed(id, half) {
        return;
    }
    let is_bodiless = message.chunks.is_empty() && message.trailers.is_none() && !message.open;
    filter_chain::headers(id, half, message.headers, is_bodiless);
    let ends = message.trailers.is_none() && !message.open;
    let count = message.chunks.len();
    for (index, chunk) in message.chunks.into_iter().enumerate() {
        step(id, half, |id| filter_chain::data(id, half, chunk, ends && index + 1 == count));
    }
    if let Some(trailers) = message.trailers {
        step(id, half, |id| filter_chain::trailers(id, half, trailers));
    }
}
