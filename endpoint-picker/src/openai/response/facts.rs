//! What a response body says.

use alloc::string::String;

use crate::openai::response_id::ResponseId;

/// Longest kept model name of a response, in bytes; a longer one is dropped.
pub const MAX_MODEL_BYTES: usize = 256;

/// Longest kept error type, in bytes; a longer one is cut.
pub const MAX_KIND_BYTES: usize = 64;

/// Token counts as the server reports them.
///
/// Input counts include cached tokens and output counts include reasoning tokens for every API; Anthropic's wire format,
/// which counts cached tokens apart, is added up. Fields of a wrong type are as if absent.
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
    /// The error's own code, when it is a number that fits 16 bits, be it written as a string: an HTTP status by convention.
    pub code: Option<u16>,
    /// The error's type, else its textual code, cut at [`MAX_KIND_BYTES`]; empty when it has neither.
    pub kind: String,
}

impl ErrorEvent {
    /// Whether the server is at fault rather than the client: by the code where that is a status of 4xx or 5xx, else by the kind.
    /// What neither tells is the server's, which had taken the request.
    pub fn is_server_fault(&self) -> bool {
        match self.code {
            Some(400..=499) => false,
            Some(500..=599) => true,
            _ => !is_client_kind(&self.kind),
        }
    }
}

/// Whether `kind` is one under which vLLM, SGLang, TGI, llama.cpp, OpenAI or Anthropic refuse a request for what is in it, for who
/// sends it or for how many were sent. Case, punctuation and a last "error" make no difference (`BadRequestError`, `Bad Request`).
fn is_client_kind(kind: &str) -> bool {
    let letters = kind.chars().filter(char::is_ascii_alphanumeric);
    let word: String = letters.map(|letter| letter.to_ascii_lowercase()).collect();
    let word = word.strip_suffix("error").unwrap_or(&word);
    let is_listed = matches!(
        word,
        "authentication"
            | "badrequest"
            | "billing"
            | "contentfilter"
            | "contentpolicyviolation"
            | "contextlengthexceeded"
            | "exceedcontextsize"
            | "forbidden"
            | "insufficientquota"
            | "missingrequiredparameter"
            | "modelnotfound"
            | "notfound"
            | "notsupported"
            | "permission"
            | "permissiondenied"
            | "ratelimit"
            | "ratelimitexceeded"
            | "requesttoolarge"
            | "requestvalidation"
            | "toomanyrequests"
            | "unauthorized"
            | "unprocessableentity"
            | "validation"
            | "value"
            | "vllmvalidation"
    );
    is_listed || word.starts_with("invalid") || word.starts_with("unsupported")
}

/// How a response body ended that ended without a failure of the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// It is whole: a buffered body that is JSON, or a stream that came to its end, as [`ResponseReader`](super::ResponseReader) tells.
    Complete,
    /// A stream that stopped before its end.
    Truncated,
    /// What should be JSON is none: a buffered body, be it empty or cut short, or the data of an event.
    Malformed,
    /// There is nothing to judge by: the body was not read, or its events are none of a known API.
    #[default]
    Unknown,
}

impl Ending {
    /// Whether the body is known not to be what the server owed.
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Truncated | Self::Malformed)
    }
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
    /// Token counts, if the server reported any. Of a stream that reports them several times, the last of each count.
    pub usage: Option<Usage>,
    /// The first error in the body. It counts whatever the ending is.
    pub error: Option<ErrorEvent>,
    /// The first model that the server says it used, if it is at most [`MAX_MODEL_BYTES`] long.
    pub model: Option<String>,
    /// The id under which the response can be asked for, where the API has one.
    pub response_id: Option<ResponseId>,
    /// How the body ended.
    pub ending: Ending,
    /// Events that bore content, over the whole stream.
    pub content_events: u64,
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn an_error_is_the_servers_unless_it_says_otherwise() {
        let is_server_fault = |code, kind: &str| ErrorEvent { code, kind: kind.into() }.is_server_fault();
        for kind in [
            "invalid_request_error",
            "BadRequestError",
            "Bad Request",
            "NotFoundError",
            "not_found_error",
            "authentication_error",
            "permission_error",
            "PermissionDeniedError",
            "UnprocessableEntityError",
            "rate_limit_error",
            "rate_limit_exceeded",
            "context_length_exceeded",
            "exceed_context_size_error",
            "request_too_large",
            "validation",
            "ValueError",
            "invalid_prompt",
            "unsupported_parameter",
        ] {
            assert!(!is_server_fault(None, kind), "{kind}");
            assert!(!is_server_fault(Some(0), kind), "{kind}");
            assert!(is_server_fault(Some(500), kind), "{kind}");
        }
        for kind in [
            "",
            "error",
            "InternalServerError",
            "ServiceUnavailableError",
            "server_error",
            "api_error",
            "overloaded_error",
            "timeout_error",
            "unavailable_error",
            "generation",
            "internal_error",
        ] {
            assert!(is_server_fault(None, kind), "{kind}");
            assert!(is_server_fault(Some(503), kind), "{kind}");
            assert!(!is_server_fault(Some(400), kind), "{kind}");
            assert!(!is_server_fault(Some(429), kind), "{kind}");
        }
    }
}
