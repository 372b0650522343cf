//! What vLLM refuses, and its error bodies.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// vLLM's error object.
pub(crate) fn error_body(status: u16, kind: &str, param: Option<&str>, message: &str) -> Value {
    json!({"error": {"message": message, "type": kind, "param": param, "code": status}})
}

/// The `type` vLLM gives an error that has only a status.
pub(crate) fn kind_of(status: u16) -> &'static str {
    match status {
        400 => "BadRequestError",
        404 => "NotFoundError",
        500 => "InternalServerError",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        _ => "Error",
    }
}

/// A request that vLLM refuses, before any work is done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    Malformed { at: usize, why: &'static str },
    EmptyBody,
    WrongContentType,
    Missing { field: &'static str, fields: usize },
    WrongType { field: &'static str, expected: &'static str },
    MaxTokensTooSmall { given: i64, name: &'static str },
    MaxTokensTooBig { given: i64, limit: u32 },
    PromptTooLong { limit: u32 },
    PromptAndAnswerTooLong { limit: u32, prompt: u32, output: u32 },
    UnknownModel { given: String, aliases: String },
    UnknownResponse { id: String },
    CannotCancel,
    Busy,
    ShuttingDown,
}

impl Refusal {
    /// Status, type, parameter and message.
    pub(crate) fn parts(&self) -> (u16, &'static str, Option<String>, String) {
        const BAD: &str = "BadRequestError";
        let validation = |param: Option<String>, detail: String| {
            let message = format!("1 validation error:\n  {detail}");
            (400, "Bad Request", param, message)
        };
        match self {
            Self::Malformed { at, why } => validation(
                Some(format!("body.{at}")),
                format!(
                    "{{'type': 'json_invalid', 'loc': 'body.{at}', 'msg': 'JSON decode error', \
                     'input': '<dict of 0 items>', 'ctx': {{'error': {}}}}}",
                    python_string(why)
                ),
            ),
            Self::EmptyBody => validation(
                Some("body".to_owned()),
                "{'type': 'missing', 'loc': 'body', 'msg': 'Field required', 'input': 'None'}".to_owned(),
            ),
            Self::WrongContentType => {
                validation(None, "Unsupported Media Type: Only 'application/json' is allowed".to_owned())
            }
            Self::Missing { field, fields } => validation(
                Some(format!("body.{field}")),
                format!(
                    "{{'type': 'missing', 'loc': 'body.{field}', 'msg': 'Field required', \
                     'input': '<dict of {fields} items>'}}"
                ),
            ),
            Self::WrongType { field, expected } => validation(
                Some(format!("body.{field}")),
                format!(
                    "{{'type': '{expected}_type', 'loc': 'body.{field}', \
                     'msg': 'Input should be a valid {expected}'}}"
                ),
            ),
            Self::MaxTokensTooSmall { given, name } => (
                400,
                BAD,
                Some((*name).to_owned()),
                format!("{name} must be at least 1, got {given}. (parameter={name}, value={given})"),
            ),
            Self::MaxTokensTooBig { given, limit } => (
                400,
                BAD,
                Some("max_tokens".to_owned()),
                format!(
                    "max_tokens={given} cannot be greater than max_model_len={limit}. Please request \
                     fewer output tokens. (parameter=max_tokens, value={given})"
                ),
            ),
            Self::PromptTooLong { limit } => {
                let least = limit + 1;
                (
                    400,
                    BAD,
                    Some("input_tokens".to_owned()),
                    format!(
                        "This model's maximum context length is {limit} tokens. However, your prompt \
                         contains at least {least} input tokens, which exceeds this limit even \
                         without any output tokens. Please reduce the length of the input prompt. \
                         (parameter=input_tokens, value={least})"
                    ),
                )
            }
            Self::PromptAndAnswerTooLong { limit, prompt, output } => (
                400,
                BAD,
                Some("input_tokens".to_owned()),
                format!(
                    "This model's maximum context length is {limit} tokens. However, you requested \
                     {output} output tokens and your prompt contains at least {prompt} input tokens, \
                     for a total of at least {} tokens. Please reduce the length of the input prompt \
                     or the number of requested output tokens. (parameter=input_tokens, value={prompt})",
                    u64::from(*prompt) + u64::from(*output)
                ),
            ),
            Self::UnknownModel { given, aliases } => (
                404,
                "NotFoundError",
                Some("model".to_owned()),
                format!("The model `{given}` does not exist. Valid aliases: {aliases}."),
            ),
            Self::UnknownResponse { id } => (
                404,
                "invalid_request_error",
                Some("response_id".to_owned()),
                format!("Response with id '{id}' not found."),
            ),
            Self::CannotCancel => (
                400,
                "invalid_request_error",
                Some("response_id".to_owned()),
                "Cannot cancel a synchronous response.".to_owned(),
            ),
            Self::Busy => (
                503,
                kind_of(503),
                None,
                "The engine is currently busy and cannot accept new requests. Please try again \
                 later or on a different instance."
                    .to_owned(),
            ),
            Self::ShuttingDown => (500, kind_of(500), None, "cannot schedule new futures after shutdown".to_owned()),
        }
    }
}

/// A string the way Python prints it: in double quotes when it holds single ones.
fn python_string(text: &str) -> String {
    let mut out = String::new();
    let quote = if text.contains('\'') { '"' } else { '\'' };
    let _ = write!(out, "{quote}{text}{quote}");
    out
}

/// Reads a JSON object, or says where and why it is none, in the words of Python's parser.
pub(crate) fn parse_object(body: &[u8]) -> Result<Value, Refusal> {
    if body.is_empty() {
        return Err(Refusal::EmptyBody);
    }
    match serde_json::from_slice::<Value>(body) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(Refusal::WrongType { field: "", expected: "dictionary" }),
        Err(error) => Err(malformed(body, &error)),
    }
}

fn malformed(body: &[u8], error: &serde_json::Error) -> Refusal {
    let line_start: usize =
        body.split(|byte| *byte == b'\n').take(error.line().saturating_sub(1)).map(|line| line.len() + 1).sum();
    let at = if error.is_eof() { body.trim_ascii_end().len() } else { line_start + error.column().saturating_sub(1) };
    let text = error.to_string();
    let why = if text.starts_with("expected `,`") {
        "Expecting ',' delimiter"
    } else if text.starts_with("expected `:`") {
        "Expecting ':' delimiter"
    } else if text.starts_with("key must be") || text.starts_with("trailing comma") {
        "Expecting property name enclosed in double quotes"
    } else if text.starts_with("trailing characters") {
        "Extra data"
    } else if text.contains("while parsing a string") {
        "Unterminated string starting at"
    } else {
        "Expecting value"
    };
    Refusal::Malformed { at, why }
}
