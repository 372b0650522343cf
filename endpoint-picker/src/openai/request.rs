//! Facts of a request body.

use alloc::{string::String, vec::Vec};
use core::{fmt, ops::Range};

use xxhash_rust::{
    xxh3::{xxh3_64, xxh3_64_with_seed},
    xxh64::Xxh64,
};

use super::{
    Api,
    json::{self, Container, Node, ROOT, SKIP, Scalar, ScanError, Scanner, Want, Watch},
    prefix::PrefixChain,
};

/// Bytes of prompt text in one prefix block: about 16 tokens, the block size of vLLM, at four bytes a token.
pub const PREFIX_BLOCK_BYTES: usize = 64;

/// Prefix blocks kept of one prompt: 16 KiB of text, as far as an endpoint picker looks.
pub const MAX_PREFIX_BLOCKS: usize = 256;

/// Longest model name, in decoded bytes. Names are repository paths and adapter names, well below it.
pub const MAX_MODEL_BYTES: usize = 1024;

/// Most `model` members of one body. More are no client's doing, and each one costs memory.
pub const MAX_MODEL_MEMBERS: usize = 16;

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
        /// Where the value of each `model` member lies in the body, quotes included, in body order: what to replace to
        /// rename the model. There are several only if the body repeats the member, and then some may be of another type.
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
    /// Whether the stream asked for will report usage: on `stream_options.include_usage`, and always for the APIs that
    /// have no such option.
    pub include_usage: bool,
    /// Most tokens to generate, if the request sets a limit: `max_completion_tokens` (before `max_tokens`) of a chat,
    /// `max_output_tokens` of a response, `max_tokens` of a completion or message.
    pub max_tokens: Option<u64>,
    /// vLLM's `priority`: lower is earlier.
    pub priority: Option<i64>,
    /// Bytes of prompt and preamble text: the leaves that [`RequestScanner`] describes.
    pub prompt_bytes: u64,
    /// One hash for each whole block of the prompt, each covering all before it, as [`RequestScanner`] describes.
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
            Self::ModelNotAString | Self::ModelEmpty | Self::ModelTooLong | Self::ModelRepeated => Some("model"),
            Self::Empty | Self::Malformed { .. } | Self::NotUtf8 { .. } | Self::TooDeep { .. } | Self::NotAnObject => {
                None
            }
        }
    }

    /// The text for `error.message` of an OpenAI error body.
    pub fn message(&self) -> String {
        alloc::string::ToString::to_string(self)
    }
}

/// Reads the facts of one request body, chunk by chunk, keeping none of it but the facts.
///
/// Member names and string values may be written with escapes. Of a member given twice the last one counts, as for the
/// servers' parsers. Members of a wrong type are as if they were absent, except `model`: judging them is for the server.
/// `stream` and `include_usage` also take the forms that vLLM's validation takes for a boolean (`"true"`, `"on"`, `1`, …).
///
/// # Prefix hashes
///
/// A prompt is read as a list of leaves: every string (the bytes between its quotes as written) and every number, in body
/// order, each followed by the byte 0xFF. The leaves of a chat are those below `messages` whatever their names, so roles,
/// texts, tool calls and images all count, while white space, member names and `null` do not. Of the other APIs the leaves
/// are those below `prompt`, `input`, `query`, `documents`, `text_1`, `text_2`, `queries`.
/// Leaves below `tools`, `system` and `instructions` form a preamble, which stands before the prompt wherever it is in the body,
/// because that is where chat templates put it.
///
/// Preamble and prompt are each cut into blocks of `prefix_block_bytes`; a last block that is not full has no hash. With
/// xxh3-64 under a seed, a block's hash is `h(i) = xxh3(block(i), seed = h(i - 1))` from `h(-1) = 0`. The end of the body
/// mixes in what may come anywhere in it: `s = xxh3(le(xxh64(salt)), seed = xxh3(model))` with `cache_salt` as written (0 for
/// its hash without one), the preamble's hashes become `xxh3(le(h), seed = s)`, and the prompt's `xxh3(le(h), seed = xxh3(le(p), seed = s))` where `p` is the
/// hash of the whole preamble with its last part. Of both together, the first `max_prefix_blocks` are given.
#[derive(Clone)]
pub struct RequestScanner {
    scanner: Scanner,
    reader: Reader,
}

impl RequestScanner {
    /// A scanner at the start of a body.
    pub fn new(api: Api, options: ScanOptions) -> Self {
        let chain = PrefixChain::new(options.prefix_block_bytes, options.max_prefix_blocks);
        Self {
            scanner: Scanner::new(),
            reader: Reader {
                api,
                max_model_bytes: options.max_model_bytes,
                is_object: false,
                model: ModelMember::Missing,
                model_ranges: Vec::new(),
                model_repeated: false,
                model_at: 0,
                stream: false,
                include_usage: false,
                max_tokens: None,
                max_completion_tokens: None,
                priority: None,
                salt: Xxh64::new(0),
                salt_hash: 0,
                preamble: chain.clone(),
                prompt: chain,
                prompt_bytes: 0,
            },
        }
    }

    /// Takes the next bytes of the body.
    ///
    /// # Errors
    /// As soon as the body cannot become valid JSON; every later call gives the same error.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<(), RequestError> {
        Ok(self.scanner.feed(chunk, &mut self.reader)?)
    }

    /// Ends the body.
    ///
    /// # Errors
    /// When the body is no valid JSON, else when it is no acceptable request.
    pub fn finish(mut self) -> Result<RequestFacts, RequestError> {
        self.scanner.finish(&mut self.reader)?;
        let reader = self.reader;
        if !reader.is_object {
            return Err(RequestError::NotAnObject);
        }
        if reader.model_repeated {
            return Err(RequestError::ModelRepeated);
        }
        let model = match reader.model {
            ModelMember::Missing => Model::Missing,
            ModelMember::NotAString => return Err(RequestError::ModelNotAString),
            ModelMember::Empty => return Err(RequestError::ModelEmpty),
            ModelMember::TooLong => return Err(RequestError::ModelTooLong),
            ModelMember::Named(name) => Model::Named { name, value_ranges: reader.model_ranges },
        };
        let name = match &model {
            Model::Missing => "",
            Model::Named { name, .. } => name,
        };
        let seed = xxh3_64_with_seed(&reader.salt_hash.to_le_bytes(), xxh3_64(name.as_bytes()));
        let max_tokens = match reader.api {
            Api::ChatCompletions => reader.max_completion_tokens.or(reader.max_tokens),
            _ => reader.max_tokens,
        };
        let include_usage = match reader.api {
            Api::Messages | Api::Responses => true,
            _ => reader.include_usage,
        };
        Ok(RequestFacts {
            api: reader.api,
            body_bytes: self.scanner.offset(),
            model,
            stream: reader.stream,
            include_usage: reader.stream && include_usage,
            max_tokens,
            priority: reader.priority,
            prompt_bytes: reader.prompt_bytes,
            prefix_hashes: reader.preamble.join(&reader.prompt, seed),
        })
    }
}

impl fmt::Debug for RequestScanner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RequestScanner")
            .field("api", &self.reader.api)
            .field("offset", &self.scanner.offset())
            .finish_non_exhaustive()
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

const MODEL: Node = 2;
const STREAM: Node = 3;
const STREAM_OPTIONS: Node = 4;
const INCLUDE_USAGE: Node = 5;
const MAX_TOKENS: Node = 6;
const MAX_COMPLETION_TOKENS: Node = 7;
const PRIORITY: Node = 8;
const SALT: Node = 9;
const PREAMBLE: Node = 10;
const PROMPT: Node = 11;

/// Longest string that can spell a boolean or a number, with room to see that a longer one does not.
const MAX_SWITCH_BYTES: usize = 24;

/// The last `model` member.
#[derive(Clone, Debug)]
enum ModelMember {
    Missing,
    Named(String),
    Empty,
    TooLong,
    NotAString,
}

#[derive(Clone)]
struct Reader {
    api: Api,
    max_model_bytes: usize,
    is_object: bool,
    model: ModelMember,
    model_ranges: Vec<Range<usize>>,
    model_repeated: bool,
    /// Where an array or object given as the model begins.
    model_at: u64,
    stream: bool,
    include_usage: bool,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    priority: Option<i64>,
    salt: Xxh64,
    salt_hash: u64,
    preamble: PrefixChain,
    prompt: PrefixChain,
    prompt_bytes: u64,
}

impl Reader {
    fn root_member(&self, key: &[u8]) -> Node {
        match (key, self.api) {
            (b"model", _) => MODEL,
            (b"stream", _) => STREAM,
            (b"stream_options", _) => STREAM_OPTIONS,
            (b"priority", _) => PRIORITY,
            (b"cache_salt", _) => SALT,
            (b"max_output_tokens", Api::Responses) => MAX_TOKENS,
            (b"max_tokens", Api::ChatCompletions | Api::Completions | Api::Messages) => MAX_TOKENS,
            (b"max_completion_tokens", Api::ChatCompletions) => MAX_COMPLETION_TOKENS,
            (b"tools", Api::ChatCompletions | Api::Responses | Api::Messages) => PREAMBLE,
            (b"system", Api::Messages) | (b"instructions", Api::Responses) => PREAMBLE,
            (b"messages", Api::ChatCompletions | Api::Messages | Api::Embeddings) => PROMPT,
            (b"prompt", Api::Completions) => PROMPT,
            (b"input", Api::Responses | Api::Embeddings) => PROMPT,
            (b"query" | b"documents", Api::Rerank) => PROMPT,
            (b"text_1" | b"text_2" | b"queries" | b"documents", Api::Score) => PROMPT,
            _ => SKIP,
        }
    }

    fn model_range(&mut self, range: Range<u64>) {
        if self.model_ranges.len() >= MAX_MODEL_MEMBERS {
            self.model_repeated = true;
            return;
        }
        // A body is in memory, so its offsets fit.
        self.model_ranges.push(range.start as usize..range.end as usize);
    }

    fn leaf(&mut self, node: Node, piece: &[u8]) {
        if node == PREAMBLE {
            self.preamble.extend(piece);
        } else {
            self.prompt.extend(piece);
        }
        self.prompt_bytes = self.prompt_bytes.saturating_add(piece.len() as u64);
    }
}

impl Watch for Reader {
    fn member(&mut self, node: Node, key: &[u8]) -> Node {
        match node {
            ROOT => self.root_member(key),
            STREAM_OPTIONS if key == b"include_usage" => INCLUDE_USAGE,
            PREAMBLE | PROMPT => node,
            _ => SKIP,
        }
    }

    fn element(&mut self, node: Node) -> Node {
        match node {
            PREAMBLE | PROMPT => node,
            _ => SKIP,
        }
    }

    fn want(&mut self, node: Node) -> Want {
        match node {
            MODEL => Want::Text(self.max_model_bytes),
            STREAM | INCLUDE_USAGE | MAX_TOKENS | MAX_COMPLETION_TOKENS | PRIORITY => Want::Text(MAX_SWITCH_BYTES),
            SALT | PREAMBLE | PROMPT => Want::Raw,
            _ => Want::Nothing,
        }
    }

    fn scalar(&mut self, node: Node, scalar: Scalar<'_>, range: Range<u64>) {
        match node {
            MODEL => {
                self.model = match scalar {
                    Scalar::Null => ModelMember::Missing,
                    Scalar::Text { cut: true, .. } => ModelMember::TooLong,
                    Scalar::Text { text: b"", .. } => ModelMember::Empty,
                    Scalar::Text { text, .. } => ModelMember::Named(String::from_utf8_lossy(text).into_owned()),
                    Scalar::Bool(_) | Scalar::Number(_) | Scalar::Opaque => ModelMember::NotAString,
                };
                self.model_range(range);
            }
            STREAM => self.stream = switch(scalar),
            STREAM_OPTIONS => self.include_usage = false,
            INCLUDE_USAGE => self.include_usage = switch(scalar),
            MAX_TOKENS => self.max_tokens = whole(scalar),
            MAX_COMPLETION_TOKENS => self.max_completion_tokens = whole(scalar),
            PRIORITY => self.priority = signed(scalar),
            SALT => {
                self.salt_hash = match scalar {
                    Scalar::Opaque => self.salt.digest(),
                    _ => 0,
                };
                self.salt = Xxh64::new(0);
            }
            PREAMBLE | PROMPT => {
                let is_leaf = match scalar {
                    Scalar::Number(token) => {
                        self.leaf(node, token);
                        true
                    }
                    Scalar::Text { .. } | Scalar::Opaque => true,
                    Scalar::Null | Scalar::Bool(_) => false,
                };
                if is_leaf && node == PREAMBLE {
                    self.preamble.end_leaf();
                } else if is_leaf {
                    self.prompt.end_leaf();
                }
            }
            _ => {}
        }
    }

    fn raw(&mut self, node: Node, piece: &[u8]) {
        match node {
            SALT => self.salt.update(piece),
            _ => self.leaf(node, piece),
        }
    }

    fn open(&mut self, node: Node, container: Container, at: u64) {
        match node {
            ROOT => self.is_object = container == Container::Object,
            MODEL => {
                self.model = ModelMember::NotAString;
                self.model_at = at;
            }
            STREAM => self.stream = false,
            STREAM_OPTIONS | INCLUDE_USAGE => self.include_usage = false,
            MAX_TOKENS => self.max_tokens = None,
            MAX_COMPLETION_TOKENS => self.max_completion_tokens = None,
            PRIORITY => self.priority = None,
            SALT => self.salt_hash = 0,
            _ => {}
        }
    }

    fn close(&mut self, node: Node, end: u64) {
        if node == MODEL {
            self.model_range(self.model_at..end);
        }
    }
}

/// A boolean as vLLM's validation reads it; what it would refuse is false.
fn switch(scalar: Scalar<'_>) -> bool {
    match scalar {
        Scalar::Bool(value) => value,
        Scalar::Number(token) => json::unsigned(token) == Some(1),
        Scalar::Text { text, cut: false } => {
            let words: [&[u8]; 6] = [b"true", b"t", b"yes", b"y", b"on", b"1"];
            words.iter().any(|word| text.eq_ignore_ascii_case(word))
        }
        _ => false,
    }
}

fn whole(scalar: Scalar<'_>) -> Option<u64> {
    match scalar {
        Scalar::Number(text) | Scalar::Text { text, cut: false } => json::unsigned(text),
        _ => None,
    }
}

fn signed(scalar: Scalar<'_>) -> Option<i64> {
    match scalar {
        Scalar::Number(text) | Scalar::Text { text, cut: false } => json::signed(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_request_is_read_across_cuts() {
        let body =
            "{\"messages\":[{\"role\":\"user\",\"content\":\"héllo\"}],\"mod\\u0065l\":\"org/model\",\"stream\":true,\
                    \"stream_options\":{\"include_usage\":\"true\"},\"max_tokens\":16,\"priority\":-2}"
                .as_bytes();
        for place in 0..=body.len() {
            let (head, tail) = body.split_at(place);
            let options = ScanOptions { prefix_block_bytes: 4, ..ScanOptions::default() };
            let mut scanner = RequestScanner::new(Api::ChatCompletions, options);
            scanner.feed(head).unwrap();
            scanner.feed(tail).unwrap();
            let facts = scanner.finish().unwrap();
            let Model::Named { name, value_ranges } = facts.model else { panic!("no model") };
            assert_eq!((name.as_str(), &body[value_ranges[0].clone()]), ("org/model", b"\"org/model\"".as_slice()));
            assert!(facts.stream && facts.include_usage);
            assert_eq!((facts.max_tokens, facts.priority), (Some(16), Some(-2)));
            assert_eq!((facts.prompt_bytes, facts.prefix_hashes.len()), (10, 3));
            assert_eq!(facts.body_bytes, body.len() as u64);
        }
    }

    #[test]
    fn an_error_speaks_to_the_client() {
        let mut scanner = RequestScanner::new(Api::Completions, ScanOptions::default());
        let error = scanner.feed(b"{\"model\": }").unwrap_err();
        assert_eq!(error.message(), "Invalid JSON at byte 10: expected a value");
        assert_eq!(scanner.feed(b"{}"), Err(error));
        assert_eq!(scanner.finish(), Err(error));
        assert_eq!(RequestError::ModelNotAString.param(), Some("model"));
    }
}
