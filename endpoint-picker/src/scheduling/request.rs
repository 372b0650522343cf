//! What a pick is told of its request, and what is told back of how it went.

use crate::openai::{PromptDigest, Usage};
use crate::pool::EndpointId;
use crate::time::Timestamp;

use super::room::Room;
use super::subset::Subset;

/// One request, as far as a pick may depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PickRequest<'a> {
    /// The model that is asked of the endpoint; empty when the request names none.
    pub target_model: &'a str,
    /// What the prompt begins with; `None`: it has none, or nobody reads it.
    pub prompt: Option<&'a PromptDigest>,
    /// Length of the prompt in bytes of its texts.
    pub prompt_bytes: u64,
    /// Most tokens that may be generated, where the request sets a limit.
    pub max_tokens: Option<u64>,
    /// Priority of its objective; higher is more urgent.
    pub priority: i64,
    /// When the client stops waiting, where it said so.
    pub deadline: Option<Timestamp>,
    /// The only endpoint that can answer: it made the response that is asked for.
    pub pinned: Option<EndpointId>,
    /// The endpoint that served the client's session so far.
    pub session: Option<EndpointId>,
    /// The only endpoints that it may go to.
    pub subset: Option<&'a Subset>,
    /// Only endpoints with room for one more may be picked; `None`: full ones too.
    pub room: Option<Room>,
    /// Requests that will be sent to each endpoint before this one, by its slot; those that are missing have none.
    pub ahead: &'a [u32],
    /// Somebody may want to know why: what endpoints were rated by is kept until the next pick.
    pub is_explained: bool,
}

impl PickRequest<'_> {
    /// Tokens that the request needs room for: its prompt's, at so many bytes each, and those that it may have generated.
    pub(super) fn tokens(&self, bytes_per_token: f64) -> u64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of floats saturates")]
        let prompt = (self.prompt_bytes as f64 / bytes_per_token) as u64;
        prompt.saturating_add(self.max_tokens.unwrap_or(0))
    }
}

/// What became of a request at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Observation {
    /// It answered with the first content of a stream, so many microseconds after the request was sent to it.
    FirstToken {
        /// Microseconds from the pick to the first event with content.
        after_micros: u64,
    },
    /// It served the request to its end.
    Finished {
        /// Token counts as far as it reported them.
        usage: Usage,
        /// Microseconds from the pick to the end.
        after_micros: u64,
    },
    /// It failed.
    Failed(Failure),
    /// The request ended without a word about the endpoint: the client left, or the proxy gave up for a reason of its own.
    Abandoned,
}

/// How an endpoint failed a request.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Failure {
    /// The connection failed or was reset before an answer, or it answered with a status that the proxy tried again elsewhere.
    NoAnswer,
    /// It turned the request away because it is full: 503 or 429. It is well, and has no room for a moment.
    Busy {
        /// Seconds after which it wants to be asked again; 0: it does not say.
        seconds: u32,
    },
    /// It answered 5xx.
    ServerError,
    /// The answer broke off, or ended before its time.
    BrokenOff,
    /// The answer carried an error of the server, or was no answer of its API at all.
    BadAnswer,
    /// It answered that it will not serve the request, or with what is no answer of its API. The client may be to blame: it counts against the
    /// endpoint if it does so with most requests and the others do not.
    Rejected,
}

impl Failure {
    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoAnswer => "no_answer",
            Self::Busy { .. } => "busy",
            Self::ServerError => "server_error",
            Self::BrokenOff => "broken_off",
            Self::BadAnswer => "bad_answer",
            Self::Rejected => "rejected",
        }
    }
}
