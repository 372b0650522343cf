//! One stream as Envoy's filter manager and its wasm filter see it: data only, `filter_chain` moves it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::body::Body;
use crate::codes::{Callback, StreamKind};
use crate::headers::HeaderMap;
use crate::property::PropertyValue;
use crate::trace::Crossings;

/// The two halves of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Request,
    Response,
}

impl Side {
    pub(crate) const fn headers_callback(self) -> Callback {
        match self {
            Self::Request => Callback::RequestHeaders,
            Self::Response => Callback::ResponseHeaders,
        }
    }

    pub(crate) const fn body_callback(self) -> Callback {
        match self {
            Self::Request => Callback::RequestBody,
            Self::Response => Callback::ResponseBody,
        }
    }

    pub(crate) const fn trailers_callback(self) -> Callback {
        match self {
            Self::Request => Callback::RequestTrailers,
            Self::Response => Callback::ResponseTrailers,
        }
    }

    /// The side of a stream type that HTTP contexts have.
    pub(crate) const fn of(kind: StreamKind) -> Option<Self> {
        match kind {
            StreamKind::Request => Some(Self::Request),
            StreamKind::Response => Some(Self::Response),
            StreamKind::Downstream | StreamKind::Upstream => None,
        }
    }
}

/// Whether the filter lets its half go on (Envoy `ActiveStreamFilterBase::IterationState`,
/// `source/common/http/filter_manager.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Iteration {
    #[default]
    Going,
    /// Headers or body are held back, the filter still gets what follows.
    Stopped,
    /// Everything is held back and the filter gets nothing until it continues.
    StoppedAll,
}

/// What has left the filter: upstream for a request, downstream for a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// The headers, once they were let through.
    pub headers: Option<HeaderMap>,
    /// The body so far, in the pieces in which it was let through.
    pub chunks: Vec<Vec<u8>>,
    /// The trailers, if there were any.
    pub trailers: Option<HeaderMap>,
    /// Whether this half is complete.
    pub ended: bool,
}

impl Sent {
    /// The body so far in one piece.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        self.chunks.concat()
    }

    /// The first value of a header, if headers were let through and have it.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.as_ref()?.get(name)
    }

    /// The `:status` of a response.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        std::str::from_utf8(self.header(":status")?).ok()?.parse().ok()
    }
}

/// One half. The `*_open` flags are the context's pointers of Envoy's `Context`: a map or buffer is
/// reachable for the guest only while its pointer is set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Half {
    pub(crate) started: bool,
    pub(crate) headers: HeaderMap,
    pub(crate) headers_open: bool,
    /// The piece that a body callback is about.
    pub(crate) chunk: Body,
    pub(crate) chunk_open: bool,
    pub(crate) in_body_callback: bool,
    /// Whether the last body callback paused, so that reads see everything buffered.
    pub(crate) buffering: bool,
    pub(crate) buffered: Option<Body>,
    pub(crate) trailers: Option<HeaderMap>,
    pub(crate) trailers_open: bool,
    pub(crate) end_of_stream: bool,
    /// Everything of this half has arrived.
    pub(crate) complete: bool,
    pub(crate) iteration: Iteration,
    pub(crate) headers_continued: bool,
    pub(crate) trailers_continued: bool,
    /// The trailers have arrived and wait behind a full stop.
    pub(crate) trailers_waiting: bool,
    pub(crate) received_bytes: u64,
    pub(crate) sent: Sent,
}

/// A response that the proxy makes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalReply {
    /// HTTP status.
    pub status: u16,
    /// Headers added to `:status` (and to `content-length` and `content-type` when there is a body).
    pub headers: HeaderMap,
    /// Body.
    pub body: Vec<u8>,
    /// `response.code_details`; empty for the Rust SDK, which has no argument for it.
    pub details: String,
    /// gRPC status, if one was given.
    pub grpc_status: Option<u32>,
    /// Who made it.
    pub origin: ReplyOrigin,
}

impl LocalReply {
    /// What the proxy says of itself, without headers of its own.
    pub(crate) fn of_proxy(status: u16, body: &str, details: &str) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: body.as_bytes().to_vec(),
            details: details.to_owned(),
            grpc_status: None,
            origin: ReplyOrigin::Proxy,
        }
    }
}

/// Who made a local reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyOrigin {
    /// The guest, by `proxy_send_local_response`.
    Guest,
    /// The proxy: a buffer limit, the router, or whatever a test lets it say.
    Proxy,
    /// The proxy, because the VM has failed (`wasm_fail_stream`).
    VmFailure,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// The response was sent to its end.
    Complete,
    /// The client went away.
    ClientReset,
    /// The upstream reset the stream after response headers had gone downstream.
    UpstreamReset,
    /// The proxy reset the stream: the guest closed it, or a failure came after response headers.
    LocalReset,
}

/// The wasm side of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// A context in this generation of the VM.
    Context { context: u32, generation: u32 },
    /// The VM had failed and the policy is a local reply, 503 (Envoy: a `Context` without a VM).
    Closed,
    /// The VM had failed and the policy is to go without it.
    Skipped,
}

/// A stream.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) id: u64,
    pub(crate) vm: usize,
    pub(crate) filter: Filter,
    pub(crate) request: Half,
    pub(crate) response: Half,
    /// `stream_failed_` and `failure_local_reply_sent_` of Envoy's context: the guest is not called again.
    pub(crate) failed: bool,
    pub(crate) local_reply: Option<LocalReply>,
    /// The access log is being written: maps are those of the log.
    pub(crate) logging: bool,
    pub(crate) above_watermark: bool,
    pub(crate) end: Option<StreamEnd>,
    pub(crate) properties: BTreeMap<String, PropertyValue>,
    pub(crate) filter_state: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) response_flags: u64,
    pub(crate) code_details: Option<String>,
    pub(crate) started: Duration,
    pub(crate) started_wall: Duration,
    pub(crate) ended: Option<Duration>,
    pub(crate) crossings: Crossings,
    /// The handle was dropped: forget the stream when it ends.
    pub(crate) abandoned: bool,
}

impl Stream {
    pub(crate) const fn half(&self, side: Side) -> &Half {
        match side {
            Side::Request => &self.request,
            Side::Response => &self.response,
        }
    }

    pub(crate) const fn half_mut(&mut self, side: Side) -> &mut Half {
        match side {
            Side::Request => &mut self.request,
            Side::Response => &mut self.response,
        }
    }

    pub(crate) const fn context(&self) -> u32 {
        match self.filter {
            Filter::Context { context, .. } => context,
            Filter::Closed | Filter::Skipped => 0,
        }
    }
}
