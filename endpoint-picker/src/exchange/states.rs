//! The states of an exchange, each with what it needs and nothing else.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use core::net::SocketAddr;

use crate::accounts::Charge;
use crate::ending::Flags;
use crate::flow_control::{Held, Ticket};
use crate::head::ResponseHead;
use crate::openai::response::{RefusalReader, UsageEventRemover};
use crate::openai::{Edit, PromptDigest, RequestScanner, ResponseId, ResponseReader};
use crate::pool::EndpointId;
use crate::record::{End, ExchangeRecord, ResponseOutcome};
use crate::reply::ErrorCode;
use crate::rewrite::Splice;
use crate::scheduling::Subset;
use crate::time::Timestamp;

use super::upload::Upload;

#[derive(Debug, Default)]
pub(super) enum State {
    /// No callback yet.
    #[default]
    New,
    /// The body is being read.
    Reading(Box<Reading>),
    /// Everything needed for a pick is known.
    Ready(Ready),
    /// It waits in flow control until an endpoint has room.
    Parked(Box<Parked>),
    /// Passed on, be it that its body is still coming ([`Sent::upload`]); no answer yet.
    Sent(Sent),
    /// The answer is coming, which may be while the request's body still is.
    Answering(Box<Answering>),
    /// Settled, or none of the picker's business.
    Done,
}

/// A request that has not been sent.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) record: Box<ExchangeRecord>,
    pub(super) deadline: Option<Timestamp>,
    /// For so long it wants to wait in flow control at most; microseconds.
    pub(super) ttl_micros: Option<u64>,
    pub(super) accepts_encoded: bool,
    /// Bytes of its body, where it declares them.
    pub(super) content_length: Option<u64>,
    /// The only endpoints that it may go to.
    pub(super) subset: Option<Subset>,
    /// The stored response that it asks for or continues.
    pub(super) asked: Option<ResponseId>,
    /// Who made that response.
    pub(super) maker: Option<EndpointId>,
    /// The client asks for a load report itself.
    pub(super) asks_load: bool,
    /// The endpoint of the client's session.
    pub(super) session: Option<EndpointId>,
    /// The flow that its client named, where flow control is on.
    pub(super) fairness_id: Option<String>,
    /// It asks for a tunnel.
    pub(super) is_tunnel: bool,
    /// How its body asks for usage, where the client does not and the server has not been asked either.
    pub(super) usage_edit: Option<Edit>,
    /// How the server is asked for usage, which the client did not do; `None`: it is not.
    pub(super) asks_usage: Option<UsageQuestion>,
}

#[derive(Debug)]
pub(super) struct Reading {
    pub(super) request: Request,
    pub(super) scanner: RequestScanner,
    /// Bytes after which is looked whether the request can go on.
    pub(super) next_look: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Ready {
    pub(super) request: Request,
    pub(super) splice: Option<Splice>,
    pub(super) prompt: PromptDigest,
    /// What is still to come of its body; `None`: the pick waited for all of it.
    pub(super) upload: Option<Box<Upload>>,
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) ready: Ready,
    pub(super) ticket: Ticket,
    /// What flow control needs to place it, its prompt among it.
    pub(super) held: Arc<Held>,
}

#[derive(Debug)]
pub(super) struct Sent {
    pub(super) record: Box<ExchangeRecord>,
    pub(super) charge: Charge,
    /// Hash of the end of its prompt, by which the prompt is known.
    pub(super) tail: u64,
    /// A load report was asked for that the client does not want to see.
    pub(super) asks_load: bool,
    /// The endpoint of the client's session.
    pub(super) session: Option<EndpointId>,
    /// What is still to come of its body; `None`: the pick waited for all of it.
    pub(super) upload: Option<Box<Upload>>,
    /// How the server was asked for usage, which its client did not do; `None`: it was not.
    pub(super) asks_usage: Option<UsageQuestion>,
    /// It asks for a tunnel.
    pub(super) is_tunnel: bool,
}

/// How a server is asked for usage.
#[derive(Clone, Copy, Debug)]
pub(super) struct UsageQuestion {
    /// Its client wrote nothing of `stream_options`, so that whoever refuses them refuses what was added.
    pub(super) is_all_ours: bool,
    /// That servers of the model take it is noted.
    pub(super) is_trusted: bool,
}

impl Sent {
    /// Whether an event of usage is one that the client did not ask for.
    pub(super) fn hides_usage(&self) -> bool {
        self.asks_usage.is_some() && self.upload.as_ref().is_none_or(|upload| !upload.may_ask_usage())
    }

    /// Whether its body is still coming.
    pub(super) fn is_coming(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| upload.is_coming())
    }

    /// Its end is there. `answered_as`: the model that its answer names, which counts where nothing else told it.
    pub(super) fn close(&mut self, answered_as: Option<&str>) {
        if self.upload.as_ref().is_some_and(|upload| upload.is_model_open()) {
            self.record.model = String::from(answered_as.unwrap_or_default());
            self.record.target_model.clone_from(&self.record.model);
        }
    }
}

#[derive(Debug)]
pub(super) struct Answering {
    pub(super) sent: Sent,
    pub(super) status: u16,
    pub(super) streamed: bool,
    pub(super) reader: ResponseReader,
    /// Why the reader is shown nothing, if it is not.
    pub(super) unread: Option<ResponseOutcome>,
    /// The event came that ends its stream.
    pub(super) is_terminated: bool,
    /// Bytes that the reader was not shown.
    pub(super) unread_bytes: u64,
    /// Its type is none that its API answers with.
    pub(super) is_foreign: bool,
    /// The response's id was handed out.
    pub(super) is_id_known: bool,
    /// What becomes of the usage that the server was asked for.
    pub(super) asked: AskedUsage,
}

/// What becomes of the usage that a server was asked for.
#[derive(Debug)]
pub(super) enum AskedUsage {
    /// It was not asked, or there is nothing to read.
    None,
    /// What the client did not ask for is taken out of the stream.
    Hidden(Box<UsageEventRemover>),
    /// It refuses something, perhaps that.
    Refused(Box<RefusalReader>),
}

impl Answering {
    /// An answer that begins with these headers.
    pub(super) fn begin(sent: Sent, head: &ResponseHead) -> Self {
        let (reader, unread) = match sent.record.api {
            Some(_) if head.status >= 300 => (ResponseReader::opaque(), Some(ResponseOutcome::Opaque)),
            Some(_) if head.encoded => (ResponseReader::opaque(), Some(ResponseOutcome::Encoded)),
            Some(api) if head.event_stream => (ResponseReader::sse(Some(api)), None),
            Some(api) if head.json => (ResponseReader::json(Some(api)), None),
            _ => (ResponseReader::opaque(), Some(ResponseOutcome::Opaque)),
        };
        let asked = match head.status {
            _ if sent.asks_usage.is_none() => AskedUsage::None,
            // One that is encoded names nothing.
            400 | 422 | 500 | 501 => AskedUsage::Refused(Box::default()),
            _ if head.encoded => AskedUsage::None,
            200..300 if head.event_stream && sent.hides_usage() => AskedUsage::Hidden(Box::default()),
            _ => AskedUsage::None,
        };
        let is_foreign = head.status < 300 && head.has_type && !head.json && !head.event_stream && !head.encoded;
        Self {
            is_foreign,
            asked,
            sent,
            status: head.status,
            streamed: head.event_stream,
            reader,
            unread,
            is_terminated: false,
            unread_bytes: 0,
            is_id_known: false,
        }
    }

    /// How it ends when the stream is over with these flags before the end of its body came.
    ///
    /// Either side ends a tunnel by closing its connection, a server of WebSockets each one (RFC 6455 section 7.1.1): that is no failure, and
    /// Envoy tells a clean end from a broken one by nothing. A client that has the last event has the answer, and need not wait for the end of
    /// the body, which servers send in a packet of its own: the official Python client does not.
    pub(super) const fn end_at(&self, flags: Flags) -> End {
        let is_open_tunnel = self.sent.is_tunnel && matches!(self.status, 101 | 200..300);
        match flags.error_code() {
            ErrorCode::Cancelled | ErrorCode::UpstreamReset if is_open_tunnel => End::Complete,
            ErrorCode::Cancelled if self.is_terminated => End::Complete,
            code => End::Failed(code),
        }
    }

    /// The response's id and the endpoint that made it, once.
    pub(super) fn newly_made(&mut self) -> Option<(ResponseId, SocketAddr)> {
        let id = self.reader.response_id().filter(|_| !self.is_id_known)?;
        self.is_id_known = true;
        Some((id, self.sent.record.served?.address))
    }
}
