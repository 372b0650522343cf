//! One stream as Envoy's filter manager and its dynamic module filter see it: data only, `filter_chain` moves it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config_state::ConfigState;
use crate::headers::Headers;
use crate::memory::Loans;
use crate::message::Chunk;

/// A value of dynamic metadata.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum MetadataValue {
    /// One text.
    Text(String),
    /// A list of texts.
    List(Vec<String>),
    /// A serialised `google.protobuf.Struct`, which is all of its namespace.
    Struct(Vec<u8>),
}

/// Dynamic metadata by namespace and key.
pub(crate) type Metadata = BTreeMap<(String, String), MetadataValue>;

/// The two halves of a stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Half {
    Request,
    Response,
}

/// Whether the filter lets its half go on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Hold {
    #[default]
    Nothing,
    /// Headers or body are held back, the filter still gets what follows.
    Stopped,
    /// Everything is held back and the filter gets nothing until it continues.
    StoppedAll,
}

/// What has left the filter: upstream for a request, downstream for a response.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Forwarded {
    /// The headers, once they were let through.
    pub headers: Option<Headers>,
    /// The body so far.
    pub body: Vec<u8>,
    /// The trailers, if there were any.
    pub trailers: Option<Headers>,
    /// Whether this half is complete.
    pub ended: bool,
}

impl Forwarded {
    /// The `:status` of a response.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.headers.as_ref()?.text(":status")?.parse().ok()
    }
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Finish {
    /// The response was sent to its end.
    Complete,
    /// The client went away.
    ClientReset,
    /// The upstream broke off behind its headers.
    UpstreamReset,
    /// A reply came when headers had gone.
    LocalReset,
}

/// A reply that Envoy or the module made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProxyReply {
    /// The status.
    pub status: u16,
    /// The headers that the module gave.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
    /// `response_code_details`
    pub details: String,
    /// Whether the module made it: its response hooks are skipped then.
    pub by_module: bool,
}

#[derive(Debug, Default)]
pub(crate) struct HalfState {
    pub(crate) started: bool,
    pub(crate) headers: Headers,
    /// The chunk that a body hook is about; `None` outside of one.
    pub(crate) received: Option<Chunk>,
    pub(crate) buffered: Option<Chunk>,
    pub(crate) trailers: Option<Headers>,
    /// Everything of this half has arrived.
    pub(crate) complete: bool,
    /// An earlier filter replays what it held: the received body is the buffered one.
    pub(crate) replayed: bool,
    pub(crate) hold: Hold,
    pub(crate) headers_gone: bool,
    pub(crate) trailers_gone: bool,
    /// The trailers have arrived and wait behind a full stop.
    pub(crate) trailers_waiting: bool,
    pub(crate) forwarded: Forwarded,
}

/// How far a stream's end has got.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Life {
    #[default]
    Open,
    /// Over, and the module is to be told as soon as no hook runs.
    Over,
    /// `stream_complete` was called.
    Completed,
    /// `destroy` runs: callbacks do nothing.
    Destroying,
    Destroyed,
}

pub(crate) struct StreamState {
    pub(crate) config: Arc<ConfigState>,
    /// The module's filter.
    pub(crate) module: *const std::ffi::c_void,
    pub(crate) request: HalfState,
    pub(crate) response: HalfState,
    pub(crate) metadata: Metadata,
    pub(crate) attempted: Vec<Vec<u8>>,
    pub(crate) texts: BTreeMap<i32, Vec<u8>>,
    pub(crate) numbers: BTreeMap<i32, u64>,
    pub(crate) buffer_limit: usize,
    pub(crate) response_buffer_limit: usize,
    pub(crate) reply: Option<ProxyReply>,
    pub(crate) finish: Option<Finish>,
    pub(crate) life: Life,
    /// `stream_complete` comes inside the callback that sends a response.
    pub(crate) completes_inline: bool,
    /// Hooks that are running, one inside the other.
    pub(crate) depth: usize,
    pub(crate) loans: Loans,
    /// The test has dropped its handle.
    pub(crate) abandoned: bool,
    pub(crate) hooks_seen: Vec<&'static str>,
}

impl StreamState {
    pub(crate) fn half(&mut self, half: Half) -> &mut HalfState {
        match half {
            Half::Request => &mut self.request,
            Half::Response => &mut self.response,
        }
    }

    /// A header map by the ABI's number, once there is one.
    pub(crate) fn map(&mut self, number: i32) -> Option<&mut Headers> {
        match number {
            0 => self.request.started.then_some(&mut self.request.headers),
            1 => self.request.trailers.as_mut(),
            2 => self.response.started.then_some(&mut self.response.headers),
            3 => self.response.trailers.as_mut(),
            _ => None,
        }
    }

    /// A body by the ABI's number, if there is one now.
    pub(crate) fn body(&mut self, number: i32) -> Option<&mut Chunk> {
        match number {
            0 => self.request.received.as_mut(),
            1 if self.request.replayed => self.request.received.as_mut(),
            1 => self.request.buffered.as_mut(),
            2 => self.response.received.as_mut(),
            3 if self.response.replayed => self.response.received.as_mut(),
            3 => self.response.buffered.as_mut(),
            _ => None,
        }
    }
}
