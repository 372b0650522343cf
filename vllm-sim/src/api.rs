//! The APIs a pod serves: requests read into engine work, answers written from outcomes.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod messages;
pub(crate) mod models;
pub(crate) mod pooling;
pub(crate) mod responses;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64;

use crate::engine::stats::FinishReason;
use crate::engine::{GenerationRequest, Prompt};
use crate::pod::{Pod, lock};
use crate::prompt;
use crate::refusal::Refusal;
use crate::stream::ResponseWriter;
use crate::text::Words;

/// vLLM's fingerprint of its build, sent with every OpenAI answer.
pub(crate) const FINGERPRINT: &str = "vllm-0.32.0-f08b45e9";

/// Work for the engine and the answer that comes of it.
pub(crate) struct Job {
    pub(crate) requests: Vec<GenerationRequest>,
    pub(crate) writer: Box<dyn ResponseWriter>,
    pub(crate) stream: bool,
}

/// The model a request is for.
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) adapter: Option<Arc<str>>,
}

/// Finds the model; without a name it is the base model.
pub(crate) fn target(pod: &Pod, body: &Map<String, Value>) -> Result<Target, Refusal> {
    let given = match body.get("model") {
        None | Some(Value::Null) => "",
        Some(Value::String(name)) => name,
        Some(_) => {
            return Err(Refusal::WrongType { field: "model", expected: "string" });
        }
    };
    if given.is_empty() {
        return Ok(Target { name: pod.base_names.first().cloned().unwrap_or_default(), adapter: None });
    }
    if pod.base_names.iter().any(|name| name == given) {
        return Ok(Target { name: given.to_owned(), adapter: None });
    }
    let adapter =
        lock(&pod.adapters).iter().find(|adapter| &*adapter.name == given).map(|adapter| adapter.name.clone());
    match adapter {
        Some(adapter) => Ok(Target { name: given.to_owned(), adapter: Some(adapter) }),
        None => Err(Refusal::UnknownModel { given: given.to_owned(), aliases: pod.base_names.join(", ") }),
    }
}

/// How long an answer gets, and why it ends.
#[derive(Clone, Copy)]
pub(crate) struct Length {
    pub(crate) max_tokens: Option<u32>,
    pub(crate) tokens: u32,
    pub(crate) reason: FinishReason,
}

impl Length {
    /// Reads the first of `names` that is set.
    pub(crate) fn read(pod: &Pod, body: &Map<String, Value>, names: &[&'static str]) -> Result<Self, Refusal> {
        let limit = pod.config.context();
        for name in names {
            let Some(value) = body.get(*name).filter(|value| !value.is_null()) else {
                continue;
            };
            let Some(given) = value.as_i64() else {
                return Err(Refusal::WrongType { field: name, expected: "integer" });
            };
            if given < 1 {
                return Err(Refusal::MaxTokensTooSmall { given, name });
            }
            let Some(tokens) = u32::try_from(given).ok().filter(|given| *given <= limit) else {
                return Err(Refusal::MaxTokensTooBig { given, limit });
            };
            return Ok(Self { max_tokens: Some(tokens), tokens, reason: FinishReason::Length });
        }
        Ok(Self { max_tokens: None, tokens: pod.config.default_output_tokens, reason: FinishReason::Stop })
    }
}

/// Makes engine work of a prompt, or refuses what does not fit the context.
pub(crate) fn request(
    pod: &Pod,
    prompt: Prompt,
    length: Length,
    target: &Target,
    stream: bool,
) -> Result<GenerationRequest, Refusal> {
    let limit = pod.config.context();
    if prompt.tokens >= limit {
        return Err(Refusal::PromptTooLong { limit });
    }
    let room = limit - prompt.tokens;
    if length.tokens > room && length.max_tokens.is_some() {
        return Err(Refusal::PromptAndAnswerTooLong { limit, prompt: prompt.tokens, output: length.tokens });
    }
    Ok(GenerationRequest {
        prompt,
        output_tokens: length.tokens.min(room),
        max_tokens: length.max_tokens,
        adapter: target.adapter.clone(),
        finish_reason: length.reason,
        token_events: stream,
    })
}

/// A text prompt for `target`.
pub(crate) fn text_prompt(pod: &Pod, body: &Map<String, Value>, target: &Target, text: &str) -> Prompt {
    let salt = prompt::salt(target.adapter.as_deref(), body.get("cache_salt").and_then(Value::as_str));
    prompt::from_text(text, pod.config.block_size, salt)
}

/// The words of the answer to a text prompt.
pub(crate) fn words(pod: &Pod, text: &str, choice: usize) -> Words {
    Words::new(pod.config.seed, xxh3_64(text.as_bytes()), choice)
}

pub(crate) fn is_true(value: Option<&Value>) -> bool {
    value.and_then(Value::as_bool).unwrap_or(false)
}

/// `stream_options` of a request.
#[derive(Clone, Copy)]
pub(crate) struct StreamOptions {
    pub(crate) usage: bool,
    pub(crate) continuous: bool,
}

impl StreamOptions {
    pub(crate) fn read(body: &Map<String, Value>) -> Self {
        let options = body.get("stream_options");
        let usage = is_true(options.and_then(|options| options.get("include_usage")));
        Self { usage, continuous: usage && is_true(options.and_then(|options| options.get("continuous_usage_stats"))) }
    }
}

/// A list that must be there.
pub(crate) fn list<'a>(body: &'a Map<String, Value>, field: &'static str) -> Result<&'a [Value], Refusal> {
    match body.get(field) {
        None => Err(Refusal::Missing { field, fields: body.len() }),
        Some(Value::Array(list)) => Ok(list),
        Some(_) => Err(Refusal::WrongType { field, expected: "list" }),
    }
}

pub(crate) fn finish_name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Abort => "abort",
    }
}

/// A JSON string, quotes included.
pub(crate) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

pub(crate) fn data(out: &mut VecDeque<Bytes>, json: &str) {
    out.push_back(Bytes::from(format!("data: {json}\n\n")));
}

pub(crate) fn named_event(out: &mut VecDeque<Bytes>, name: &str, json: &str) {
    out.push_back(Bytes::from(format!("event: {name}\ndata: {json}\n\n")));
}

/// `prompt_tokens_details` of a plain answer.
pub(crate) fn cached_details(enabled: bool, cached: u32) -> String {
    if enabled { format!("{{\"cached_tokens\":{cached}}}") } else { "null".to_owned() }
}
