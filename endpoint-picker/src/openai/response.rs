//! Facts of a response body, buffered or streamed.

use alloc::string::String;

use super::Api;

/// Token counts as the server reports them.
///
/// Input counts include cached tokens and output counts include reasoning tokens for every API; Anthropic's wire format, which
/// counts cached tokens apart, is added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of input, cached ones included.
    pub prompt_tokens: Option<u64>,
    /// Tokens of output, reasoning included.
    pub completion_tokens: Option<u64>,
    /// Tokens of both, as reported.
    pub total_tokens: Option<u64>,
    /// Tokens of input that came from a cache.
    pub cached_tokens: Option<u64>,
    /// Tokens of output spent on reasoning.
    pub reasoning_tokens: Option<u64>,
}

/// An error that a response carries in its body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorEvent {
    /// The error's own code, when it is a number that fits a status code.
    pub code: Option<u16>,
    /// The error's type or textual code, cut at a bound; empty when it has none.
    pub kind: String,
}

/// What one chunk of a response brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The chunk completed the first event that bears content.
    pub first_content: bool,
    /// Events completed by the chunk that bear content.
    pub content_events: u32,
    /// The chunk completed the stream's terminal event.
    pub terminal: bool,
}

/// What a response body said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseFacts {
    /// Length of the body in bytes.
    pub bytes: u64,
    /// Token counts, if the server reported any.
    pub usage: Option<Usage>,
    /// The first error in the body.
    pub error: Option<ErrorEvent>,
    /// The model that the server says it used, if it is text of a sane length.
    pub model: Option<String>,
    /// A stream: its terminal event came. A buffered body: it was valid JSON. Opaque: never.
    pub completed: bool,
    /// Events that bore content, over the whole stream.
    pub content_events: u64,
}

/// Reads the facts of one response body, chunk by chunk. No input is an error: what cannot be read yields no facts.
#[derive(Debug)]
pub enum ResponseReader {
    /// A buffered JSON body.
    Json(u64),
    /// An event stream.
    Sse(u64),
    /// A body of another or unknown kind: only its bytes are counted.
    Opaque(u64),
}

impl ResponseReader {
    /// A reader for a buffered JSON body. Without `api` every known form of usage is read.
    pub fn json(_api: Option<Api>) -> Self {
        Self::Json(0)
    }

    /// A reader for an event stream. Without `api` every known form of event is read.
    pub fn sse(_api: Option<Api>) -> Self {
        Self::Sse(0)
    }

    /// A reader that only counts bytes.
    pub fn opaque() -> Self {
        Self::Opaque(0)
    }

    /// Takes the next bytes of the body.
    pub fn feed(&mut self, chunk: &[u8]) -> Progress {
        let (Self::Json(bytes) | Self::Sse(bytes) | Self::Opaque(bytes)) = self;
        *bytes = bytes.saturating_add(chunk.len() as u64);
        Progress::default()
    }

    /// Ends the body.
    pub fn finish(self) -> ResponseFacts {
        let (Self::Json(bytes) | Self::Sse(bytes) | Self::Opaque(bytes)) = self;
        ResponseFacts {
            bytes,
            ..ResponseFacts::default()
        }
    }
}
