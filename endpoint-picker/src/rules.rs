//! What holds for every request besides the pick itself.

use crate::affinity::ResponseMakers;
use crate::scheduling::Saturation;
use crate::session::Session;

/// Ids of responses whose makers are known: 1.7 MB once they are all in use.
pub const DEFAULT_MAX_RESPONSE_IDS: u64 = 65_536;
/// Bodies up to this size come in one or two pieces, so that holding them costs nothing, and are checked to their last byte.
pub const DEFAULT_EARLY_PICK_BYTES: u64 = 32 * 1024;
/// Requests waiting, used part of the KV cache and age in milliseconds at which the endpoint picker takes an endpoint for full.
pub const DEFAULT_SATURATION: (u32, f64, u64) = (5, 0.8, 200);

/// What holds for every request besides the pick itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// What to do with a model that nobody in the pool serves.
    pub unknown_model: UnknownModel,
    /// Where makers of responses are kept.
    pub response_makers: ResponseMakers,
    /// When requests of negative priority are refused; `None`: never.
    pub shedding: Option<Saturation>,
    /// Where a hint of the only endpoints that may be picked is taken from.
    pub subset_hint: SubsetHint,
    /// Where the endpoint that served is read.
    pub served_endpoint: ServedEndpoint,
    /// The header of the conformance tests chooses the endpoints.
    pub conformance: bool,
    /// Engines are asked for load reports in their answers, which then count between polls.
    pub orca: bool,
    /// When requests go on before their bodies are whole; `None`: never.
    pub early_pick: Option<EarlyPick>,
    /// Clients that hand back a token stay with their endpoint.
    pub session: Option<Session>,
    /// How Envoy's load balancer is told whom to take; `None`: as the binding does by itself.
    pub destination: Option<Destination>,
}

/// Requests whose bodies are longer than [`Self::bytes`] go on before they are whole, once the pick can depend on nothing that is yet to
/// come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EarlyPick {
    /// Bytes after which that is looked at for the first time, and again whenever twice as many came. More than 0.
    pub bytes: u64,
    /// The rest is read as it passes, where something needs it; else it never is.
    pub reads_rest: bool,
}

/// What to do with a model that nobody in the pool serves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UnknownModel {
    /// Answer 404, as a model server does.
    Reject,
    /// Let it pass: an endpoint may know more than it lists.
    Pass,
}

/// How Envoy's load balancer is told whom to take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Destination {
    /// By dynamic metadata, which no client can write and no endpoint sees. The native module only.
    Metadata,
    /// By a header.
    Header,
}

/// Where a hint of the only endpoints that may be picked is taken from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SubsetHint {
    /// There is none.
    Off,
    /// The proxy's metadata, which clients cannot write. Each request costs a call of the host.
    Metadata,
    /// A header: clients can send it, unless somebody before this filter removes it.
    Header,
}

/// Where the endpoint that served is read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ServedEndpoint {
    /// From the proxy, which costs a call of the host a request.
    Property,
    /// From [`crate::head::SERVED_HEADER`], which the proxy writes over whatever an endpoint sent. It is removed before the client sees it.
    Header,
}
