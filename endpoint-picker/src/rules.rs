//! What holds for every request besides the pick itself.

use alloc::string::String;

use subtle::ConstantTimeEq as _;

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
    /// Servers are asked to report usage for streams whose clients did not ask, and what they report is kept from the client.
    pub ask_for_usage: bool,
    /// What each request was is told to Envoy, for its access log and its spans.
    pub access_log: bool,
    /// What a client must send to be told why its request went where it went; `None`: nobody is told.
    pub explain: Option<Secret>,
}

/// What a client must know.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(String);

impl Secret {
    /// The shortest that is accepted, in bytes: 16 random letters and digits take longer to guess than any gateway lives.
    pub const MIN_BYTES: usize = 16;

    /// `None` for one that is too short, or that no header can carry.
    #[must_use]
    pub fn new(secret: String) -> Option<Self> {
        let is_sendable = secret.bytes().all(|byte| byte.is_ascii_graphic());
        (secret.len() >= Self::MIN_BYTES && is_sendable).then_some(Self(secret))
    }

    /// Whether a client knows it. That takes as long for a wrong one as for the right one, but for its length.
    #[must_use]
    pub fn is(&self, told: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(told).into()
    }
}

/// Not for logs.
impl core::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("Secret")
    }
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

#[cfg(test)]
mod tests {
    use alloc::format;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn a_secret_is_known_whole_or_not_at_all() {
        let secret = Secret::new("0123456789abcdef".into()).unwrap();
        assert!(secret.is(b"0123456789abcdef"));
        for told in [&b""[..], b"0123456789abcdeF", b"0123456789abcde", b"0123456789abcdef0", b" 0123456789abcdef"] {
            assert!(!secret.is(told), "{told:?}");
        }
        assert!(!format!("{secret:?}").contains("0123"));
    }

    #[test]
    fn a_secret_that_is_easy_to_guess_or_cannot_be_sent_is_none() {
        for secret in ["", "0123456789abcde", "0123456789 abcdef", "0123456789abcdef\n", "0123456789abcd\u{e9}f"] {
            assert_eq!(Secret::new(secret.into()), None, "{secret:?}");
        }
    }
}
