//! Scripted upstreams for `proxy_http_call`.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use crate::error::Error;
use crate::headers::HeaderMap;
use crate::message::Response;
use crate::trace::VmName;

/// A call that a guest made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCall {
    /// The VM that made it.
    pub vm: VmName,
    /// The token the guest was given.
    pub token: u32,
    /// The cluster's name.
    pub cluster: String,
    /// Request headers, `content-length` added when there is a body.
    pub headers: HeaderMap,
    /// Request body.
    pub body: Vec<u8>,
    /// Request trailers.
    pub trailers: HeaderMap,
    /// `None` for a timeout of 0, which means none (Envoy `Context::httpCall`).
    pub timeout: Option<Duration>,
    /// Monotonic virtual time of the call.
    pub at: Duration,
}

/// What an upstream does with a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpOutcome {
    pub(crate) delay: Duration,
    pub(crate) kind: OutcomeKind,
    /// The response is none of the upstream but of the async client's own router.
    pub(crate) by_router: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OutcomeKind {
    Response { headers: HeaderMap, body: Vec<u8>, trailers: HeaderMap },
    Failure,
    Silence,
    Refused,
}

impl HttpOutcome {
    /// A response with this status and body.
    #[must_use]
    pub fn response(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::of(OutcomeKind::Response {
            headers: [(":status", status.to_string())].into_iter().collect(),
            body: body.into(),
            trailers: HeaderMap::new(),
        })
    }

    /// Reads a plain HTTP/1.1 response.
    ///
    /// # Errors
    /// [`Error::Message`] when the text is no such message.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let response = Response::parse(text)?;
        Ok(Self::of(OutcomeKind::Response {
            headers: response.headers,
            body: response.chunks.concat(),
            trailers: HeaderMap::new(),
        }))
    }

    /// The stream was reset after the response had begun, or the response was larger than the async client
    /// may buffer: the guest sees 0 headers, 0 body bytes, 0 trailers
    /// (Envoy `Context::onHttpCallFailure`, `source/extensions/common/wasm/context.cc`).
    #[must_use]
    pub fn failure() -> Self {
        Self::of(OutcomeKind::Failure)
    }

    /// The upstream cannot be reached. Envoy's async client runs its own router, so the guest sees not a
    /// failure but that router's 503 (seen on Envoy 1.40.0: scenario `a_call_whose_cluster_has_no_host`).
    #[must_use]
    pub fn unreachable() -> Self {
        Self::by_router(
            503,
            "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure",
        )
    }

    /// The upstream never responds. With a timeout the guest sees the async client's own 504 when it is over
    /// (same file, `RequestTimeout`: success with status 504); without one, nothing.
    #[must_use]
    pub fn silence() -> Self {
        Self::of(OutcomeKind::Silence)
    }

    /// The call cannot even start: `proxy_http_call` returns `InternalFailure` (Envoy `Context::httpCall`,
    /// when the async client returns no request).
    #[must_use]
    pub fn refused() -> Self {
        Self::of(OutcomeKind::Refused)
    }

    /// Adds a response header; no effect on other outcomes.
    #[must_use]
    pub fn header(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        if let OutcomeKind::Response { headers, .. } = &mut self.kind {
            headers.add(name, value);
        }
        self
    }

    /// Adds a response trailer; no effect on other outcomes.
    #[must_use]
    pub fn trailer(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        if let OutcomeKind::Response { trailers, .. } = &mut self.kind {
            trailers.add(name, value);
        }
        self
    }

    /// The outcome comes this much virtual time after the call, instead of at once (that is, at the next
    /// step of the clock that reaches it; `advance(Duration::ZERO)` is enough for none).
    #[must_use]
    pub const fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    const fn of(kind: OutcomeKind) -> Self {
        Self { delay: Duration::ZERO, kind, by_router: false }
    }

    /// The local reply of the async client's own router to a timeout (seen on Envoy 1.40.0: scenario
    /// `a_call_whose_response_is_late`).
    pub(crate) fn timed_out() -> Self {
        Self::by_router(504, "upstream request timeout")
    }

    fn by_router(status: u16, body: &str) -> Self {
        let outcome = Self::response(status, body)
            .header("content-length", body.len().to_string())
            .header("content-type", "text/plain");
        Self { by_router: true, ..outcome }
    }

    /// The outcome as it is delivered: the async client's router adds how long the upstream took, in milliseconds
    /// (seen on Envoy 1.40.0: scenario `a_call_has_its_response`).
    pub(crate) fn delivered(self) -> Self {
        if self.by_router {
            return self;
        }
        let taken = self.delay.as_millis().to_string();
        self.header("x-envoy-upstream-service-time", taken)
    }
}

type Script = Box<dyn FnMut(&HttpCall) -> HttpOutcome + Send>;

/// The upstream clusters a guest can call.
#[derive(Default)]
pub(crate) struct Clusters {
    scripts: BTreeMap<String, Script>,
    calls: Vec<HttpCall>,
}

impl fmt::Debug for Clusters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clusters")
            .field("names", &self.scripts.keys().collect::<Vec<_>>())
            .field("calls", &self.calls)
            .finish()
    }
}

impl Clusters {
    pub(crate) fn script(&mut self, cluster: String, script: Script) {
        self.scripts.insert(cluster, script);
    }

    /// A script that plays a list and then repeats its last outcome; an empty list is an unreachable upstream.
    pub(crate) fn playing(outcomes: Vec<HttpOutcome>) -> Script {
        let mut queue = VecDeque::from(outcomes);
        Box::new(move |_| {
            if queue.len() > 1 {
                queue.pop_front().unwrap_or_else(HttpOutcome::unreachable)
            } else {
                queue.front().cloned().unwrap_or_else(HttpOutcome::unreachable)
            }
        })
    }

    pub(crate) fn knows(&self, cluster: &str) -> bool {
        self.scripts.contains_key(cluster)
    }

    /// Records the call and asks the script; `None` when there is no such cluster.
    pub(crate) fn call(&mut self, call: HttpCall) -> Option<HttpOutcome> {
        let outcome = self.scripts.get_mut(&call.cluster).map(|script| script(&call))?;
        self.calls.push(call);
        Some(outcome)
    }

    pub(crate) fn calls(&self) -> &[HttpCall] {
        &self.calls
    }
}
