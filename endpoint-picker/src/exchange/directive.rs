//! What an exchange tells its host to do with the request.

use alloc::string::String;

use crate::reply::LocalReply;
use crate::rewrite::Splice;

/// What the host shall do with the request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Directive {
    /// Pass it on as it is.
    Continue,
    /// Hold it: more of it is needed.
    Wait,
    /// Hold it and call [`Exchange::pick`](super::Exchange::pick).
    Pick,
    /// Hold it, and call [`Exchange::resume`](super::Exchange::resume) when [`EndpointPicker::poll_wake`](crate::EndpointPicker::poll_wake)
    /// gives that number.
    Park(u64),
    /// Change it like this and pass it on: all that the host holds of it, and what is still to come of its body as it comes.
    Send(Outbound),
    /// Answer it.
    Reply(LocalReply),
    /// Hold it until its time runs out: it may not pass, and the host does not answer it. That holds for what still comes of its body
    /// too, see [`Exchange::is_sealed`](super::Exchange::is_sealed).
    Hold,
}

/// How a request is changed on its way out.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Outbound {
    /// Ranked endpoints, `ip:port,ip:port`; `None`: the load balancer's fallback policy chooses.
    pub destination: Option<String>,
    /// Replace `accept-encoding` by `identity`: the response is to be read.
    pub ask_identity: bool,
    /// Ask for a load report in the answer.
    pub ask_load: bool,
    /// Replaces the model in the body.
    pub splice: Option<Splice>,
    /// The length to declare for the body, where the splice changes one that the request declares.
    pub content_length: Option<u64>,
}

/// What the host refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused {
    /// To remove the destination that the client itself had sent.
    Strip,
    /// To hand out the request's body. One that is passed on already goes on unread.
    Body,
    /// To set the destination: the request may still pass, and the fallback policy chooses.
    Destination,
    /// To replace the body or its length: it may be in any state.
    Splice,
    /// To send a local reply.
    Reply,
}
