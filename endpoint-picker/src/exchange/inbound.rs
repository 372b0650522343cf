//! How a response's headers are changed on their way to the client.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::load_report::{BINARY_REPORT_HEADER, REPORT_HEADER};
use crate::picker::EndpointPicker;
use crate::session;

use super::states::Sent;

/// Names the endpoint that served, in conformance tests.
const SERVED_HEADER: &str = "x-conformance-test-served-endpoint";

/// How a response's headers are changed on their way to the client.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Inbound {
    /// Headers to remove.
    pub remove: &'static [&'static str],
    /// Headers to add, which others of the same name stay beside.
    pub add: Vec<(String, String)>,
}

/// What tells of the bytes of a body, which a stream that something is taken out of does not have: its length (RFC 9110 section 8.6), its
/// tag (8.8.3), and its digests (RFC 9530, RFC 3230, RFC 1864).
const BYTES_HEADERS: &[&str] = &["content-length", "etag", "digest", "content-digest", "repr-digest", "content-md5"];

/// What becomes of the headers of an answer; `has_load`: it carries a load report; `takes_out`: something
/// is taken out of its body.
pub(super) fn changes(picker: &EndpointPicker, sent: &Sent, has_load: bool, takes_out: bool) -> Inbound {
    let rules = &picker.config().rules;
    let mut inbound = Inbound::default();
    if has_load && sent.asks_load {
        inbound.remove = &[REPORT_HEADER, BINARY_REPORT_HEADER];
    }
    if takes_out {
        inbound.remove = BYTES_HEADERS;
    }
    let Some(served) = sent.record.served else { return inbound };
    if rules.conformance {
        inbound.add.push((SERVED_HEADER.into(), served.address.to_string()));
    }
    if let (Some(session), Some(id)) = (&rules.session, served.endpoint)
        && sent.session != Some(id)
        && let Some(endpoint) = picker.pool().endpoint(id)
    {
        inbound.add.push(session.header(&session::token(picker.pool(), endpoint)));
    }
    inbound
}
