//! The facts of a JSON body.

use alloc::{boxed::Box, string::String};
use core::ops::Range;

use super::facts::{Model, Notation, RequestError, RequestFacts, ScanOptions};
use super::stream_options::StreamOptions;
use super::values::{MAX_SWITCH_BYTES, ModelValue, ModelValues, signed, switch, whole};
use crate::openai::api::Api;
use crate::openai::json::{Container, Node, ROOT, SKIP, Scalar, Scanner, Want, Watch};
use crate::openai::prefix::{PromptDigest, PromptHasher, Section};
use crate::openai::response_id::{MAX_RESPONSE_ID_BYTES, ResponseId};

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
/// `stream_format` of speech: `sse` or `audio`.
const STREAM_FORMAT: Node = 12;
const PREVIOUS_RESPONSE: Node = 13;
/// `continuous_usage_stats` of the stream options: usage in every event.
const CONTINUOUS_USAGE: Node = 14;

/// What has been read of a JSON body.
#[derive(Clone)]
pub(super) struct JsonBody {
    api: Api,
    max_model_bytes: usize,
    is_object: bool,
    /// Offset behind the bracket that opens the body.
    root_at: u64,
    models: ModelValues,
    /// Where an array or object given as the model begins.
    model_at: u64,
    stream: bool,
    event_format: bool,
    options: StreamOptions,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    priority: Option<i64>,
    previous_response: Option<ResponseId>,
    /// `None` while hashing is off.
    hasher: Option<Box<PromptHasher>>,
    prompt_bytes: u64,
    /// Arrays and objects of the prompt that are open.
    prompt_depth: u32,
}

impl JsonBody {
    /// Nothing read yet.
    pub(super) fn new(api: Api, options: ScanOptions) -> Self {
        Self {
            api,
            max_model_bytes: options.max_model_bytes,
            is_object: false,
            root_at: 0,
            models: ModelValues::default(),
            model_at: 0,
            stream: false,
            event_format: false,
            options: StreamOptions::default(),
            max_tokens: None,
            max_completion_tokens: None,
            priority: None,
            previous_response: None,
            hasher: PromptHasher::new(options.prefix_block_bytes, options.max_prefix_blocks).map(Box::new),
            prompt_bytes: 0,
            prompt_depth: 0,
        }
    }

    /// The facts of a body of `body_bytes` that was valid JSON.
    pub(super) fn facts(mut self, body_bytes: u64) -> Result<RequestFacts, RequestError> {
        if !self.is_object {
            return Err(RequestError::NotAnObject);
        }
        let model = core::mem::take(&mut self.models).model(Notation::Json)?;
        Ok(self.said(body_bytes, model, ""))
    }

    /// What the body says that `scanner` has read so far. A prompt for no named model is taken for one for `assumed`.
    pub(super) fn so_far(&self, scanner: &Scanner, assumed: &str) -> RequestFacts {
        let model = self.models.clone().model(Notation::Json).unwrap_or(Model::Missing);
        let mut facts = self.said(scanner.offset(), model, assumed);
        facts.prompt.is_cut = true;
        if let Some((PREAMBLE | PROMPT, bytes)) = scanner.open_text() {
            facts.prompt_bytes = facts.prompt_bytes.saturating_add(bytes);
        }
        facts
    }

    /// Whether the body names a model so far.
    pub(super) fn has_model(&self) -> bool {
        self.models.named().is_some()
    }

    /// Whether the body says so far which response it continues.
    pub(super) fn has_previous_response(&self) -> bool {
        self.previous_response.is_some()
    }

    /// Whether the body sets a limit of tokens so far.
    pub(super) fn has_max_tokens(&self) -> bool {
        self.max_completion_tokens.or(self.max_tokens).is_some()
    }

    /// What hashes the prompt; `None` while hashing is off.
    pub(super) fn hasher(&self) -> Option<&PromptHasher> {
        self.hasher.as_deref()
    }

    /// [`PromptDigest::tail`] of the prompt so far, for `assumed` if no model is named.
    pub(super) fn tail(&self, assumed: &str) -> Option<u64> {
        Some(self.hasher()?.tail(self.models.named().unwrap_or(assumed)))
    }

    fn said(&self, body_bytes: u64, model: Model, assumed: &str) -> RequestFacts {
        let prompt = match (&self.hasher, &model) {
            (None, _) => PromptDigest::default(),
            (Some(hasher), Model::Missing) => hasher.digest(assumed),
            (Some(hasher), Model::Named { name, .. }) => hasher.digest(name),
        };
        let stream = self.stream || self.event_format;
        let always_includes_usage = matches!(self.api, Api::Messages | Api::Responses);
        RequestFacts {
            api: self.api,
            body_bytes,
            model,
            stream,
            include_usage: stream && (always_includes_usage || self.options.include_usage()),
            usage_edit: if self.stream && matches!(self.api, Api::ChatCompletions | Api::Completions) {
                self.options.usage_edit(self.root_at)
            } else {
                None
            },
            max_tokens: self.max_completion_tokens.or(self.max_tokens),
            priority: self.priority,
            previous_response: self.previous_response,
            prompt_bytes: self.prompt_bytes,
            prompt,
        }
    }

    fn root_member(&self, key: &[u8]) -> Node {
        match key {
            b"model" => MODEL,
            b"stream" => STREAM,
            b"stream_options" => STREAM_OPTIONS,
            b"priority" => PRIORITY,
            b"cache_salt" => SALT,
            _ => api_member(self.api, key),
        }
    }

    fn end_salt(&mut self, is_text: bool) {
        if let Some(hasher) = &mut self.hasher {
            hasher.end_salt(is_text);
        }
    }

    fn end_leaf(&mut self, section: Section, scalar: Scalar<'_>, range: Range<u64>) {
        let (number, bytes) = match scalar {
            Scalar::Null | Scalar::Bool(_) => return,
            Scalar::Number(token) => (token, token.len() as u64),
            // Without its quotes.
            Scalar::Text { .. } | Scalar::Opaque => (b"".as_slice(), (range.end - range.start).saturating_sub(2)),
        };
        self.prompt_bytes = self.prompt_bytes.saturating_add(bytes);
        if let Some(hasher) = &mut self.hasher {
            hasher.leaf(section, number);
            hasher.end_leaf(section);
        }
    }
}

/// The member of an API's own at the root of its body. An invocation may be any of them.
fn api_member(api: Api, key: &[u8]) -> Node {
    match (key, api) {
        (b"max_output_tokens", Api::Responses) => MAX_TOKENS,
        (b"max_tokens", Api::ChatCompletions | Api::Completions | Api::Messages | Api::Invocations) => MAX_TOKENS,
        (b"max_completion_tokens", Api::ChatCompletions | Api::Invocations) => MAX_COMPLETION_TOKENS,
        (b"previous_response_id", Api::Responses) => PREVIOUS_RESPONSE,
        (b"stream_format", Api::Speech) => STREAM_FORMAT,
        (b"tools", Api::ChatCompletions | Api::Responses | Api::Messages | Api::Invocations) => PREAMBLE,
        (b"system", Api::Messages) | (b"instructions", Api::Responses | Api::Speech) => PREAMBLE,
        (
            b"messages",
            Api::ChatCompletions | Api::Messages | Api::Embeddings | Api::Classify | Api::Pooling | Api::Invocations,
        ) => PROMPT,
        (b"prompt", Api::Completions | Api::Invocations) => PROMPT,
        (
            b"input",
            Api::Responses | Api::Embeddings | Api::Classify | Api::Pooling | Api::Speech | Api::Invocations,
        ) => PROMPT,
        (b"texts" | b"images" | b"inputs", Api::Embeddings) => PROMPT,
        (b"data", Api::Pooling | Api::Invocations) => PROMPT,
        (b"query" | b"documents", Api::Rerank | Api::Score | Api::Invocations) => PROMPT,
        (b"text_1" | b"text_2" | b"data_1" | b"data_2" | b"queries" | b"items", Api::Score | Api::Invocations) => {
            PROMPT
        }
        _ => SKIP,
    }
}

impl Watch for JsonBody {
    fn member(&mut self, node: Node, key: &[u8]) -> Node {
        match node {
            ROOT => self.root_member(key),
            STREAM_OPTIONS => {
                self.options.member();
                match key {
                    b"include_usage" => INCLUDE_USAGE,
                    b"continuous_usage_stats" => CONTINUOUS_USAGE,
                    _ => SKIP,
                }
            }
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
            STREAM | STREAM_FORMAT | INCLUDE_USAGE | MAX_TOKENS | MAX_COMPLETION_TOKENS | PRIORITY => {
                Want::Text(MAX_SWITCH_BYTES)
            }
            PREVIOUS_RESPONSE => Want::Text(MAX_RESPONSE_ID_BYTES),
            SALT | PREAMBLE | PROMPT if self.hasher.is_some() => Want::Raw,
            _ => Want::Nothing,
        }
    }

    fn scalar(&mut self, node: Node, scalar: Scalar<'_>, range: Range<u64>) {
        match node {
            MODEL => {
                let value = match scalar {
                    Scalar::Null => ModelValue::Missing,
                    Scalar::Text { cut: true, .. } => ModelValue::TooLong,
                    Scalar::Text { text: b"", .. } => ModelValue::Empty,
                    Scalar::Text { text, .. } => ModelValue::Named(String::from_utf8_lossy(text).into_owned()),
                    Scalar::Bool(_) | Scalar::Number(_) | Scalar::Opaque => ModelValue::NotAString,
                };
                self.models.add(value, range);
            }
            STREAM => self.stream = switch(scalar),
            STREAM_OPTIONS => self.options.scalar(scalar, range),
            INCLUDE_USAGE => self.options.switch(scalar, range),
            CONTINUOUS_USAGE => self.options.continuous(scalar),
            MAX_TOKENS => self.max_tokens = whole(scalar),
            MAX_COMPLETION_TOKENS => self.max_completion_tokens = whole(scalar),
            PRIORITY => self.priority = signed(scalar),
            PREVIOUS_RESPONSE => {
                self.previous_response = match scalar {
                    Scalar::Text { text, cut: false } => ResponseId::of(text),
                    _ => None,
                };
            }
            STREAM_FORMAT => self.event_format = matches!(scalar, Scalar::Text { text: b"sse", cut: false }),
            SALT => self.end_salt(scalar == Scalar::Opaque),
            PREAMBLE => self.end_leaf(Section::Preamble, scalar, range),
            PROMPT => self.end_leaf(Section::Prompt, scalar, range),
            _ => {}
        }
    }

    fn raw(&mut self, node: Node, piece: &[u8]) {
        if let Some(hasher) = &mut self.hasher {
            match node {
                SALT => hasher.salt(piece),
                PREAMBLE => hasher.leaf(Section::Preamble, piece),
                _ => hasher.leaf(Section::Prompt, piece),
            }
        }
    }

    fn open(&mut self, node: Node, container: Container, at: u64) {
        match node {
            ROOT => {
                self.is_object = container == Container::Object;
                self.root_at = at + 1;
            }
            MODEL => self.model_at = at,
            STREAM => self.stream = false,
            STREAM_OPTIONS => self.options.open(container, at),
            INCLUDE_USAGE | CONTINUOUS_USAGE => self.options.spoil(),
            MAX_TOKENS => self.max_tokens = None,
            MAX_COMPLETION_TOKENS => self.max_completion_tokens = None,
            PRIORITY => self.priority = None,
            PREVIOUS_RESPONSE => self.previous_response = None,
            STREAM_FORMAT => self.event_format = false,
            SALT => self.end_salt(false),
            PROMPT => self.prompt_depth = self.prompt_depth.saturating_add(1),
            _ => {}
        }
    }

    fn close(&mut self, node: Node, end: u64) {
        match node {
            MODEL => self.models.add(ModelValue::NotAString, self.model_at..end),
            STREAM_OPTIONS => self.options.close(),
            PROMPT => {
                self.prompt_depth = self.prompt_depth.saturating_sub(1);
                if self.prompt_depth == 1
                    && let Some(hasher) = &mut self.hasher
                {
                    hasher.end_message();
                }
            }
            _ => {}
        }
    }
}
