//! Facts of a request body.

use alloc::{string::String, vec::Vec};
use core::ops::Range;

use super::Api;

/// Bytes of prompt text in one prefix block: about 16 tokens, the block size of vLLM, at four bytes a token.
pub const PREFIX_BLOCK_BYTES: usize = 64;

/// Prefix blocks kept of one prompt: 16 KiB of text, as far as an endpoint picker looks.
pub const MAX_PREFIX_BLOCKS: usize = 256;

/// Longest model name, in decoded bytes. Names are repository paths and adapter names, well below it.
pub const MAX_MODEL_BYTES: usize = 1024;

/// What a [`RequestScanner`] looks for, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanOptions {
    /// Bytes of prompt text in one prefix block; 0 turns prefix hashing off.
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
    /// No `model` member, or `null`, which servers treat alike.
    Missing,
    /// A named model.
    Named {
        /// The name, with escapes decoded. With several `model` members the last one counts, as for the servers' parsers.
        name: String,
        /// Where each value of a `model` member lies in the body, quotes included, in body order.
        value_ranges: Vec<Range<usize>>,
    },
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
    /// Whether a stream will report usage.
    pub include_usage: bool,
    /// Most tokens to generate, if the request sets a limit.
    pub max_tokens: Option<u64>,
    /// vLLM's `priority`: lower is earlier.
    pub priority: Option<i64>,
    /// One hash for each whole block of the prompt, each covering all before it.
    pub prefix_hashes: Vec<u64>,
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
    /// There are more `model` members than any honest client sends.
    #[error("'model' is given too often")]
    ModelRepeated,
}

impl RequestError {
    /// The member at fault, for `error.param` of an OpenAI error body.
    pub fn param(&self) -> Option<&'static str> {
        match self {
            Self::ModelNotAString | Self::ModelEmpty | Self::ModelTooLong | Self::ModelRepeated => {
                Some("model")
            }
            Self::Empty
            | Self::Malformed { .. }
            | Self::NotUtf8 { .. }
            | Self::TooDeep { .. }
            | Self::NotAnObject => None,
        }
    }

    /// The text for `error.message` of an OpenAI error body.
    pub fn message(&self) -> String {
        alloc::string::ToString::to_string(self)
    }
}

/// Reads the facts of one request body, chunk by chunk.
#[derive(Clone, Debug)]
pub struct RequestScanner {
    api: Api,
    options: ScanOptions,
    body: Vec<u8>,
}

impl RequestScanner {
    /// A scanner at the start of a body.
    pub fn new(api: Api, options: ScanOptions) -> Self {
        Self {
            api,
            options,
            body: Vec::new(),
        }
    }

    /// Takes the next bytes of the body.
    ///
    /// # Errors
    /// As soon as the body cannot become valid JSON; every later call gives the same error.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<(), RequestError> {
        self.body.extend_from_slice(chunk);
        Ok(())
    }

    /// Ends the body.
    ///
    /// # Errors
    /// When the body is no valid JSON, else when it is no acceptable request.
    pub fn finish(self) -> Result<RequestFacts, RequestError> {
        let value: serde_json::Value =
            serde_json::from_slice(&self.body).map_err(|error| RequestError::Malformed {
                offset: error.column() as u64,
                reason: "not JSON",
            })?;
        let members = value.as_object().ok_or(RequestError::NotAnObject)?;
        let model = match members.get("model") {
            None | Some(serde_json::Value::Null) => Model::Missing,
            Some(serde_json::Value::String(name)) if name.is_empty() => {
                return Err(RequestError::ModelEmpty);
            }
            Some(serde_json::Value::String(name)) if name.len() > self.options.max_model_bytes => {
                return Err(RequestError::ModelTooLong);
            }
            Some(serde_json::Value::String(name)) => Model::Named {
                name: name.clone(),
                value_ranges: Vec::new(),
            },
            Some(_) => return Err(RequestError::ModelNotAString),
        };
        Ok(RequestFacts {
            api: self.api,
            body_bytes: self.body.len() as u64,
            model,
            stream: value
                .get("stream")
                .and_then(serde_json::Value::as_bool)
                .unwrap_or(false),
            include_usage: value
                .pointer("/stream_options/include_usage")
                .and_then(serde_json::Value::as_bool)
                .unwrap_or(false),
            max_tokens: value.get("max_tokens").and_then(serde_json::Value::as_u64),
            priority: value.get("priority").and_then(serde_json::Value::as_i64),
            prefix_hashes: Vec::new(),
        })
    }
}
