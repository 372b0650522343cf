//! What an exchange was, complete at its end: the one value from which every statistic, log line and page is made.

use alloc::boxed::Box;
use alloc::string::String;
use core::net::SocketAddr;

use crate::flow_control::Queued;
use crate::learning::Forecast;
use crate::openai::{Api, Usage};
use crate::pool::EndpointId;
use crate::reply::ErrorCode;
use crate::scheduling::{Failure, MAX_RANKED, Ranked, Ratings, Reason};
use crate::time::Timestamp;

/// Longest request id that is kept, in bytes: a UUID has 36.
pub const MAX_REQUEST_ID_BYTES: usize = 64;

/// One exchange, filled while it runs and emitted once when it settles.
#[derive(Clone, Debug)]
pub struct ExchangeRecord {
    /// `x-request-id`, by which logs of client, proxy and server find each other.
    pub request_id: Option<RequestId>,
    /// The API that was asked; `None`: a request that is routed by load alone.
    pub api: Option<Api>,
    /// The model's name as the client wrote it; empty when there is none or it could not be read.
    pub model: String,
    /// The model's name as it was sent upstream.
    pub target_model: String,
    /// Name of the rewrite rule that decided the target.
    pub rewrite_rule: Option<String>,
    /// Priority of the request's objective.
    pub priority: i64,
    /// The request's body.
    pub request: RequestSummary,
    /// Its time in flow control; `None`: that is off, or the request ended before it was ready to be sent.
    pub queued: Option<Queued>,
    /// What the pick gave.
    pub pick: Pick,
    /// What the endpoints of the ranked list were rated by, where somebody may want to know.
    pub ratings: Option<Box<Ratings>>,
    /// How often an endpoint was tried, as far as the host was asked; 0: never.
    pub attempts: u32,
    /// Endpoints that were tried and failed, in order.
    pub failed: [Option<(EndpointId, Failure)>; MAX_RANKED],
    /// Who answered.
    pub served: Option<Served>,
    /// The answer of the endpoint; `None`: there was none.
    pub response: Option<ResponseSummary>,
    /// The model that the answer names.
    pub response_model: Option<String>,
    /// When what happened.
    pub times: Times,
    /// Times between pieces of a streamed response, where a family shows them.
    pub intervals: Option<Box<Intervals>>,
    /// How it ended.
    pub end: End,
}

/// An identifier of at most [`MAX_REQUEST_ID_BYTES`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RequestId {
    bytes: [u8; MAX_REQUEST_ID_BYTES],
    length: u8,
}

impl RequestId {
    /// `None` for an empty or a longer one.
    #[must_use]
    pub fn new(id: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_REQUEST_ID_BYTES];
        bytes.get_mut(..id.len())?.copy_from_slice(id);
        (!id.is_empty()).then_some(Self { bytes, length: u8::try_from(id.len()).ok()? })
    }

    /// The identifier as it was sent.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

/// A request's body, as far as it was read.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RequestSummary {
    /// What reading it gave; `None`: there was nothing to read.
    pub outcome: Option<BodyOutcome>,
    /// Its length in bytes.
    pub bytes: u64,
    /// Bytes of prompt in it.
    pub prompt_bytes: u64,
    /// Most tokens that it allows to be generated.
    pub max_tokens: Option<u64>,
    /// It asks for an event stream.
    pub stream: bool,
    /// It continues a stored response, whose conversation the server has: its prompt is longer than what it carries.
    pub continues: bool,
}

/// What reading a request's body gave; the `outcome` label.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum BodyOutcome {
    /// It was read.
    Parsed,
    /// It is compressed: routed by load, unread.
    Unparsed,
    /// It went on before it was whole, and nothing needed the rest.
    Unread,
    /// It is empty.
    Empty,
    /// It is not what its content type says.
    Malformed,
    /// Its model is no name.
    Invalid,
    /// It names no model where one is demanded.
    MissingModel,
    /// Envoy refused it for its size.
    TooLarge,
    /// It never came to its end.
    Incomplete,
    /// The host did not hand it out.
    Unreadable,
}

impl BodyOutcome {
    /// Every outcome.
    pub const ALL: [Self; 10] = [
        Self::Parsed,
        Self::Unparsed,
        Self::Unread,
        Self::Empty,
        Self::Malformed,
        Self::Invalid,
        Self::MissingModel,
        Self::TooLarge,
        Self::Incomplete,
        Self::Unreadable,
    ];

    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Parsed => "parsed",
            Self::Unparsed => "unparsed",
            Self::Unread => "unread",
            Self::Empty => "empty",
            Self::Malformed => "malformed",
            Self::Invalid => "invalid",
            Self::MissingModel => "missing_model",
            Self::TooLarge => "too_large",
            Self::Incomplete => "incomplete",
            Self::Unreadable => "unreadable",
        }
    }
}

/// What a pick gave.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Pick {
    /// There was none: the request was refused or left before.
    #[default]
    None,
    /// No endpoint could take it.
    NoEndpoint,
    /// These, best first.
    Ranked(Ranked, Reason),
}

/// Who answered, and what decided that.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Served {
    /// Its address.
    pub address: SocketAddr,
    /// `None`: an address outside the pool.
    pub endpoint: Option<EndpointId>,
    /// The pick's reason, or that a later entry or the fallback policy served.
    pub reason: Reason,
}

/// An endpoint's answer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ResponseSummary {
    /// HTTP status.
    pub status: u16,
    /// Length of the body in bytes, as far as it came.
    pub bytes: u64,
    /// It was an event stream.
    pub streamed: bool,
    /// What reading it gave.
    pub outcome: ResponseOutcome,
    /// Token counts, as far as they were reported and can be believed.
    pub usage: Usage,
    /// It came to its last byte.
    pub complete: bool,
}

/// What reading an answer gave; the `outcome` label.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum ResponseOutcome {
    /// There was nothing to read: an error's body, another content type, a request routed by load alone.
    #[default]
    Opaque,
    /// It was read to its end.
    Parsed,
    /// It carried an error.
    Error,
    /// It is compressed: its usage is lost.
    Encoded,
    /// It is not what its content type says.
    Malformed,
    /// It ended before its terminal event, or broke off.
    Truncated,
    /// The host did not hand it out.
    Unreadable,
}

impl ResponseOutcome {
    /// Every outcome.
    pub const ALL: [Self; 7] =
        [Self::Opaque, Self::Parsed, Self::Error, Self::Encoded, Self::Malformed, Self::Truncated, Self::Unreadable];

    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opaque => "opaque",
            Self::Parsed => "parsed",
            Self::Error => "error",
            Self::Encoded => "encoded",
            Self::Malformed => "malformed",
            Self::Truncated => "truncated",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Moments of an exchange, on the host's monotonic clock.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Times {
    /// The request's headers came.
    pub started: Timestamp,
    /// It was sent to an endpoint.
    pub sent: Option<Timestamp>,
    /// The last of it was sent, where that was later.
    pub whole: Option<Timestamp>,
    /// The first event with content came.
    pub first_content: Option<Timestamp>,
    /// The last one.
    pub last_content: Option<Timestamp>,
    /// It settled.
    pub ended: Timestamp,
}

/// Upper limits of the buckets of [`Intervals`], in microseconds: those of [`catalogue::Bounds::INTER_TOKEN`].
const INTERVAL_LIMITS: [u64; 15] = [
    1_000, 5_000, 10_000, 20_000, 40_000, 60_000, 80_000, 100_000, 150_000, 200_000, 300_000, 500_000, 750_000,
    1_000_000, 2_000_000,
];

/// Times between pieces with content, sorted into buckets as they come: a stream has thousands.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Intervals {
    counts: [u32; INTERVAL_LIMITS.len() + 1],
    sum_micros: u64,
}

impl Intervals {
    /// A piece came so many microseconds after the one before.
    pub fn add(&mut self, micros: u64) {
        if let Some(count) = self.counts.get_mut(INTERVAL_LIMITS.partition_point(|&limit| limit < micros)) {
            *count = count.saturating_add(1);
        }
        self.sum_micros = self.sum_micros.saturating_add(micros);
    }

    /// How many by bucket, the last without a limit, and their sum in microseconds.
    #[must_use]
    pub const fn samples(&self) -> (&[u32], u64) {
        (&self.counts, self.sum_micros)
    }
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum End {
    /// The client has its answer.
    #[default]
    Complete,
    /// It was refused, failed or broke off.
    Failed(ErrorCode),
}

impl ExchangeRecord {
    /// An exchange that begins now.
    #[must_use]
    pub fn begin(now: Timestamp) -> Self {
        Self {
            request_id: None,
            api: None,
            model: String::new(),
            target_model: String::new(),
            rewrite_rule: None,
            priority: 0,
            request: RequestSummary::default(),
            queued: None,
            pick: Pick::None,
            ratings: None,
            attempts: 0,
            failed: [None; MAX_RANKED],
            served: None,
            response: None,
            response_model: None,
            times: Times { started: now, ..Times::default() },
            intervals: None,
            end: End::Complete,
        }
    }

    /// The ranked list, if the pick gave one.
    #[must_use]
    pub const fn ranked(&self) -> Option<Ranked> {
        match self.pick {
            Pick::Ranked(ranked, _) => Some(ranked),
            Pick::None | Pick::NoEndpoint => None,
        }
    }

    /// What the pick expected of the request at an endpoint; nothing where it did not rank that one.
    #[must_use]
    pub fn forecast(&self, endpoint: Option<EndpointId>) -> Forecast {
        endpoint.and_then(|id| self.ranked()?.forecast(id)).unwrap_or_default()
    }

    /// Whether its times tell what a prompt costs: it has one, which was read.
    #[must_use]
    pub const fn teaches(&self) -> bool {
        self.api.is_some() && self.request.prompt_bytes > 0 && !self.request.continues
    }

    /// Notes that an endpoint was tried and failed.
    pub fn note_failed(&mut self, endpoint: EndpointId, failure: Failure) {
        if let Some(place) = self.failed.iter_mut().find(|place| place.is_none()) {
            *place = Some((endpoint, failure));
        }
    }

    /// The endpoint served it: with a status of success, and with an answer, or with the content that one begins with. A status of
    /// success in front of an error, of nonsense or of nothing proves nothing of the model that was asked for.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.response.is_some_and(|response| {
            (200..300).contains(&response.status)
                && match response.outcome {
                    ResponseOutcome::Error | ResponseOutcome::Malformed => false,
                    ResponseOutcome::Truncated => self.times.first_content.is_some(),
                    ResponseOutcome::Opaque
                    | ResponseOutcome::Parsed
                    | ResponseOutcome::Encoded
                    | ResponseOutcome::Unreadable => true,
                }
        })
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn intervals_have_the_buckets_of_the_family_that_shows_them() {
        assert_eq!(INTERVAL_LIMITS.as_slice(), catalogue::Bounds::INTER_TOKEN.limits());
        let mut intervals = Intervals::default();
        for micros in [1_000, 1_001, 3_000_000] {
            intervals.add(micros);
        }
        let (counts, sum) = intervals.samples();
        assert_eq!((counts[0], counts[1], counts[15], sum), (1, 1, 1, 3_002_001));
    }

    #[test]
    fn a_request_id_is_kept_whole_or_not_at_all() {
        let uuid = b"0af7651916cd43dd8448eb211c80319c-abc";
        assert_eq!(RequestId::new(uuid).unwrap().as_bytes(), uuid);
        assert_eq!(RequestId::new(&[b'x'; MAX_REQUEST_ID_BYTES + 1]), None);
        assert_eq!(RequestId::new(b""), None);
    }
}
