//! What a request body says, and why one is refused.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use crate::openai::api::Api;
use crate::openai::json::ScanError;
use crate::openai::multipart::MultipartError;
use crate::openai::prefix::PromptDigest;
use crate::openai::response_id::ResponseId;

/// Bytes of prompt text in the first prefix blocks: two blocks of a vLLM's cache at four bytes a token. Less would double what every
/// prompt costs the index, and save a server some 16 tokens.
pub const PREFIX_BLOCK_BYTES: usize = 128;

/// Prefix blocks kept of one prompt: 4 MiB of text, a context of a million tokens.
pub const MAX_PREFIX_BLOCKS: usize = 192;

/// Longest model name, in decoded bytes. Names are repository paths and adapter names, well below it.
pub const MAX_MODEL_BYTES: usize = 1024;

/// Most `model` members or parts of one body. More are no client's doing, and each one costs memory.
pub const MAX_MODEL_MEMBERS: usize = 16;

/// What a [`RequestScanner`](super::RequestScanner) looks for, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanOptions {
    /// Bytes of prompt text in each of the first prefix blocks; 0 turns prefix hashing off.
    pub prefix_block_bytes: usize,
    /// Most prefix blocks hashed; 0 turns prefix hashing off.
    pub max_prefix_blocks: usize,
    /// Longest accepted model name in decoded bytes.
    pub max_model_bytes: usize,
}

impl Default for ScanOptions {
    fn default() -> Self {
        Self {
            prefix_block_bytes: PREFIX_BLOCK_BYTES,
            max_prefix_blocks: MAX_PREFIX_BLOCKS,
            max_model_bytes: MAX_MODEL_BYTES,
        }
    }
}

/// The model a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Model {
    /// No `model` member or part, a member that is `null`, or an empty part, which servers treat alike.
    Missing,
    /// A named model.
    Named {
        /// The name, with escapes decoded. With several `model` members or parts the last one counts, as for the servers'
        /// parsers.
        name: String,
        /// Where the value of each `model` member (quotes included) or part lies in the body, in body order: what to replace
        /// to rename the model. There are several only if the body repeats it, and then some may be of another type.
        value_ranges: Vec<Range<usize>>,
        /// How a name is written in these ranges.
        notation: Notation,
    },
}

/// How a text stands in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notation {
    /// As a JSON string, in quotes and with escapes.
    Json,
    /// As it is: the content of a form's part.
    Plain,
}

/// A change of a body: other text in the place of what lies in a range, which may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Where, in bytes of the body.
    pub range: Range<usize>,
    /// What stands there instead.
    pub text: &'static str,
}

/// What a request body says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFacts {
    /// The API it was read for.
    pub api: Api,
    /// Length of the body in bytes.
    pub body_bytes: u64,
    /// The model asked for.
    pub model: Model,
    /// Whether an event stream is asked for.
    pub stream: bool,
    /// Whether the stream asked for will report usage: on `stream_options.include_usage` or a form's `stream_include_usage`,
    /// and always for the APIs that have no such option.
    pub include_usage: bool,
    /// What makes a chat or completion that asks for a stream without usage ask for it too: nothing else of the body changes. `None`: it
    /// asks for it, or for no stream, or what it says in `stream_options` is more than that it wants none.
    pub usage_edit: Option<Edit>,
    /// Most tokens to generate, if the request sets a limit: `max_completion_tokens` (before `max_tokens`) of a chat,
    /// `max_output_tokens` of a response, `max_tokens` of a completion or message, `max_completion_tokens` of a form.
    pub max_tokens: Option<u64>,
    /// vLLM's `priority`: lower is earlier.
    pub priority: Option<i64>,
    /// The stored response that this one continues (`previous_response_id` of a response).
    pub previous_response: Option<ResponseId>,
    /// Bytes of prompt and preamble text: the leaves that [`RequestScanner`](super::RequestScanner) describes. A form has none.
    pub prompt_bytes: u64,
    /// What the prompt begins with, as [`RequestScanner`](super::RequestScanner) describes.
    pub prompt: PromptDigest,
}

/// Why a request body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The body has no byte, or only white space.
    #[error("The request body is empty")]
    Empty,
    /// The body is not JSON.
    #[error("Invalid JSON at byte {offset}: {reason}")]
    Malformed {
        /// Offset of the first byte that cannot be, or the body's length when it ends too early.
        offset: u64,
        /// What is wrong there.
        reason: &'static str,
    },
    /// A string is not UTF-8.
    #[error("Invalid UTF-8 at byte {offset}")]
    NotUtf8 {
        /// Offset of the first byte of the invalid sequence.
        offset: u64,
    },
    /// Arrays and objects are nested too deep.
    #[error("JSON nested too deep at byte {offset}")]
    TooDeep {
        /// Offset of the bracket that is one too many.
        offset: u64,
    },
    /// The API takes a form, and the `content-type` names neither one nor JSON.
    #[error("The request body must be multipart/form-data")]
    NotAForm,
    /// The `content-type` of a form names no boundary, or one that can be none.
    #[error("The content-type must name the boundary of the multipart body")]
    NoBoundary,
    /// The body is no multipart body of its boundary.
    #[error("Invalid multipart body at byte {offset}: {reason}")]
    MalformedForm {
        /// Offset of the first byte that cannot be or of its header line, or the body's length when it ends too early.
        offset: u64,
        /// What is wrong there.
        reason: &'static str,
    },
    /// The body is JSON, but no object.
    #[error("The request body must be a JSON object")]
    NotAnObject,
    /// `model` is neither a string nor `null`.
    #[error("'model' must be a string")]
    ModelNotAString,
    /// `model` is an empty string.
    #[error("'model' must not be empty")]
    ModelEmpty,
    /// `model` is longer than the limit.
    #[error("'model' is too long")]
    ModelTooLong,
    /// There are more `model` members or parts than any honest client sends.
    #[error("'model' is given too often")]
    ModelRepeated,
}

impl RequestError {
    /// The member at fault, for `error.param` of an OpenAI error body.
    pub fn param(&self) -> Option<&'static str> {
        match self {
            Self::ModelNotAString | Self::ModelEmpty | Self::ModelTooLong | Self::ModelRepeated => Some("model"),
            Self::Empty
            | Self::Malformed { .. }
            | Self::NotUtf8 { .. }
            | Self::TooDeep { .. }
            | Self::NotAForm
            | Self::NoBoundary
            | Self::MalformedForm { .. }
            | Self::NotAnObject => None,
        }
    }

    /// The text for `error.message` of an OpenAI error body.
    pub fn message(&self) -> String {
        alloc::string::ToString::to_string(self)
    }
}

impl From<ScanError> for RequestError {
    fn from(error: ScanError) -> Self {
        match error {
            ScanError::Empty => Self::Empty,
            ScanError::Malformed { offset, reason } => Self::Malformed { offset, reason },
            ScanError::NotUtf8 { offset } => Self::NotUtf8 { offset },
            ScanError::TooDeep { offset } => Self::TooDeep { offset },
        }
    }
}

impl From<MultipartError> for RequestError {
    fn from(error: MultipartError) -> Self {
        match error {
            MultipartError::Empty => Self::Empty,
            MultipartError::Malformed { offset, reason } => Self::MalformedForm { offset, reason },
        }
    }
}
