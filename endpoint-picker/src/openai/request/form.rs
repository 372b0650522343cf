//! The facts of a form.

use alloc::{string::String, vec::Vec};

use super::facts::{Model, Notation, RequestError, RequestFacts, ScanOptions};
use super::values::{MAX_SWITCH_BYTES, ModelValue, ModelValues, signed, switch, whole};
use crate::openai::api::Api;
use crate::openai::json::Scalar;
use crate::openai::multipart::Parts;
use crate::openai::prefix::PromptDigest;

/// A part that says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Model,
    Stream,
    IncludeUsage,
    MaxTokens,
    Priority,
}

/// What has been read of a form. Of its parts, the start of one that says something is kept, and nothing of a file.
#[derive(Clone)]
pub(super) struct Form {
    api: Api,
    max_model_bytes: usize,
    /// The part being read, if it says something, and the offset of its content.
    field: Option<(Field, u64)>,
    text: Vec<u8>,
    models: ModelValues,
    stream: bool,
    include_usage: bool,
    max_tokens: Option<u64>,
    priority: Option<i64>,
}

impl Form {
    /// Nothing read yet.
    pub(super) fn new(api: Api, options: ScanOptions) -> Self {
        Self {
            api,
            max_model_bytes: options.max_model_bytes,
            field: None,
            text: Vec::new(),
            models: ModelValues::default(),
            stream: false,
            include_usage: false,
            max_tokens: None,
            priority: None,
        }
    }

    /// The facts of a body of `body_bytes` that was a valid form.
    pub(super) fn facts(mut self, body_bytes: u64) -> Result<RequestFacts, RequestError> {
        let model = core::mem::take(&mut self.models).model(Notation::Plain)?;
        Ok(self.said(body_bytes, model))
    }

    /// What the first `body_bytes` of a body say.
    pub(super) fn so_far(&self, body_bytes: u64) -> RequestFacts {
        let model = self.models.clone().model(Notation::Plain).unwrap_or(Model::Missing);
        self.said(body_bytes, model)
    }

    /// Whether the body names a model so far.
    pub(super) fn has_model(&self) -> bool {
        self.models.named().is_some()
    }

    /// Whether the body sets a limit of tokens so far.
    pub(super) const fn has_max_tokens(&self) -> bool {
        self.max_tokens.is_some()
    }

    fn said(&self, body_bytes: u64, model: Model) -> RequestFacts {
        RequestFacts {
            api: self.api,
            body_bytes,
            model,
            stream: self.stream,
            include_usage: self.stream && self.include_usage,
            usage_edit: None,
            max_tokens: self.max_tokens,
            priority: self.priority,
            previous_response: None,
            prompt_bytes: 0,
            prompt: PromptDigest::default(),
        }
    }

    /// Most bytes of a part that are kept.
    fn limit(&self, field: Field) -> usize {
        match field {
            Field::Model => self.max_model_bytes,
            Field::Stream | Field::IncludeUsage | Field::MaxTokens | Field::Priority => MAX_SWITCH_BYTES,
        }
    }

    fn model_value(&self, at: u64) -> ModelValue {
        if self.text.is_empty() {
            return ModelValue::Missing;
        }
        if self.text.len() > self.max_model_bytes {
            return ModelValue::TooLong;
        }
        match core::str::from_utf8(&self.text) {
            Ok(name) => ModelValue::Named(String::from(name)),
            Err(error) => ModelValue::NotUtf8(at + error.valid_up_to() as u64),
        }
    }
}

impl Parts for Form {
    fn begin(&mut self, name: &[u8], is_file: bool, at: u64) -> bool {
        let field = match name {
            _ if is_file => None,
            b"model" => Some(Field::Model),
            b"stream" => Some(Field::Stream),
            b"stream_include_usage" => Some(Field::IncludeUsage),
            b"max_completion_tokens" => Some(Field::MaxTokens),
            b"priority" => Some(Field::Priority),
            _ => None,
        };
        self.text.clear();
        self.field = field.map(|field| (field, at));
        self.field.is_some()
    }

    fn content(&mut self, piece: &[u8]) {
        let Some((field, _)) = self.field else { return };
        // One byte beyond the limit tells a longer text from one that fits exactly.
        let room = self.limit(field).saturating_add(1).saturating_sub(self.text.len());
        self.text.extend_from_slice(piece.get(..room).unwrap_or(piece));
    }

    fn end(&mut self, end: u64) {
        let Some((field, at)) = self.field.take() else { return };
        let cut = self.text.len() > self.limit(field);
        let scalar = Scalar::Text { text: &self.text, cut };
        match field {
            Field::Model => {
                let value = self.model_value(at);
                self.models.add(value, at..end);
            }
            Field::Stream => self.stream = switch(scalar),
            Field::IncludeUsage => self.include_usage = switch(scalar),
            Field::MaxTokens => self.max_tokens = whole(scalar),
            Field::Priority => self.priority = signed(scalar),
        }
    }
}
