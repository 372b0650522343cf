//! Local replies: what the picker answers itself, in the shape that clients of the API parse.

use alloc::string::String;
use alloc::vec::Vec;

use serde::Serialize;

use crate::openai::{Api, RequestError};

/// When a client may try again that was refused for a full pool: queues of requests that take seconds do not empty faster.
const RETRY_AFTER_SECONDS: u32 = 1;

/// Why a request failed; the `error_code` label. The first four are refusals of the proxy, under the names that the endpoint picker's
/// alerts know. [`Self::BadRequest`], [`Self::ModelServerRejected`] and [`Self::Cancelled`] are the client's doing.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ErrorCode {
    /// The request is not one that can be served.
    BadRequest,
    /// Nothing can take it now.
    ServiceUnavailable,
    /// There is no room for it: a limit of the proxy, or 429 from the model server.
    ResourceExhausted,
    /// A fault of ours.
    Internal,
    /// The model server answered 5xx, with an error of its own inside a response, or with what is no response of its API.
    ModelServerError,
    /// The model server refused the request as the client's mistake: 4xx other than 429, or such an error inside a response.
    ModelServerRejected,
    /// The connection to the model server failed or broke and no retry was left, or the response ended before its time.
    UpstreamReset,
    /// The model server was silent for too long.
    Timeout,
    /// The client left.
    Cancelled,
}

impl ErrorCode {
    /// How the failure of a response with that status is counted; `None` for one that is no failure.
    #[must_use]
    pub const fn of_status(status: u16) -> Option<Self> {
        match status {
            429 => Some(Self::ResourceExhausted),
            400..=499 => Some(Self::ModelServerRejected),
            500.. => Some(Self::ModelServerError),
            _ => None,
        }
    }

    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "BadRequest",
            Self::ServiceUnavailable => "ServiceUnavailable",
            Self::ResourceExhausted => "ResourceExhausted",
            Self::Internal => "Internal",
            Self::ModelServerError => "ModelServerError",
            Self::ModelServerRejected => "ModelServerRejected",
            Self::UpstreamReset => "UpstreamReset",
            Self::Timeout => "Timeout",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// A complete local reply to the client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LocalReply {
    /// HTTP status.
    pub status: u16,
    /// JSON: `{"error":{"message","type","param","code"}}`, and for Anthropic's API `{"type":"error","error":{"type","message"}}`.
    pub body: Vec<u8>,
    /// How the failure is counted.
    pub error_code: ErrorCode,
    /// Seconds after which the client may try again, for `retry-after`.
    pub retry_after: Option<u32>,
    /// What is told of the request in [`crate::head::EXPLANATION_HEADER`], to a client that may know.
    pub explanation: Option<String>,
}

#[derive(Serialize)]
struct OpenAi<'a> {
    error: OpenAiError<'a>,
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: &'a str,
}

#[derive(Serialize)]
struct Anthropic<'a> {
    r#type: &'a str,
    error: AnthropicError<'a>,
}

#[derive(Serialize)]
struct AnthropicError<'a> {
    r#type: &'a str,
    message: &'a str,
}

/// What a local reply says, whatever shape it takes.
struct Refusal<'a> {
    status: u16,
    error_code: ErrorCode,
    message: &'a str,
    param: Option<&'a str>,
    code: &'a str,
}

impl LocalReply {
    /// 400 for a body that cannot be served.
    #[must_use]
    pub fn bad_request(api: Option<Api>, error: &RequestError) -> Self {
        let code = match error {
            RequestError::Empty => "empty_body",
            RequestError::Malformed { .. } | RequestError::NotUtf8 { .. } | RequestError::TooDeep { .. } => {
                "invalid_json"
            }
            RequestError::NotAForm | RequestError::NoBoundary => "invalid_content_type",
            RequestError::MalformedForm { .. } => "invalid_form",
            RequestError::NotAnObject => "invalid_type",
            RequestError::ModelNotAString
            | RequestError::ModelEmpty
            | RequestError::ModelTooLong
            | RequestError::ModelRepeated => "invalid_model",
        };
        let message = error.message();
        let error_code = ErrorCode::BadRequest;
        Self::new(api, &Refusal { status: 400, error_code, message: &message, param: error.param(), code })
    }

    /// 400 for a body without a model where the configuration demands one.
    #[must_use]
    pub fn missing_model(api: Option<Api>) -> Self {
        let message = "The request body must name a 'model'";
        let error_code = ErrorCode::BadRequest;
        Self::new(api, &Refusal { status: 400, error_code, message, param: Some("model"), code: "missing_model" })
    }

    /// 404 for a model that nobody in the pool serves.
    #[must_use]
    pub fn unknown_model(api: Option<Api>, model: &str) -> Self {
        let message = alloc::format!("The model `{model}` does not exist.");
        let error_code = ErrorCode::BadRequest;
        let refusal =
            Refusal { status: 404, error_code, message: &message, param: Some("model"), code: "model_not_found" };
        Self::new(api, &refusal)
    }

    /// 429 for a request of negative priority while the pool is full.
    #[must_use]
    pub fn saturated(api: Option<Api>) -> Self {
        let message = "The pool is saturated and this request may be dropped; try again later";
        let error_code = ErrorCode::ResourceExhausted;
        let refusal = Refusal { status: 429, error_code, message, param: None, code: "saturated" };
        Self { retry_after: Some(RETRY_AFTER_SECONDS), ..Self::new(api, &refusal) }
    }

    /// 429 for a request that may not wait, because so many do; they should be gone after so many seconds.
    #[must_use]
    pub fn queue_full(api: Option<Api>, seconds: u32) -> Self {
        let message = "The pool is saturated and too many requests are waiting; try again later";
        let error_code = ErrorCode::ResourceExhausted;
        let refusal = Refusal { status: 429, error_code, message, param: None, code: "queue_full" };
        Self { retry_after: Some(seconds), ..Self::new(api, &refusal) }
    }

    /// 503 for a request that waited for as long as it may.
    #[must_use]
    pub fn waited_too_long(api: Option<Api>) -> Self {
        let message = "The pool stayed saturated for as long as a request may wait";
        let error_code = ErrorCode::ServiceUnavailable;
        let refusal = Refusal { status: 503, error_code, message, param: None, code: "queue_timeout" };
        Self { retry_after: Some(RETRY_AFTER_SECONDS), ..Self::new(api, &refusal) }
    }

    /// 429 when a conformance test chooses no endpoint that takes traffic, as the endpoint picker of these tests answers.
    #[must_use]
    pub fn none_selected(api: Option<Api>) -> Self {
        let message = "The test selects no endpoint that can take this request";
        let error_code = ErrorCode::ResourceExhausted;
        Self::new(api, &Refusal { status: 429, error_code, message, param: None, code: "no_endpoint" })
    }

    /// 503 when there is no endpoint and the configuration says not to leave the choice to Envoy.
    #[must_use]
    pub fn no_endpoint(api: Option<Api>, pool: &str) -> Self {
        let message = alloc::format!("No endpoint of pool {pool:?} can take this request");
        let error_code = ErrorCode::ServiceUnavailable;
        Self::new(api, &Refusal { status: 503, error_code, message: &message, param: None, code: "no_endpoint" })
    }

    /// 500 when the proxy refused what a request needs.
    #[must_use]
    pub fn internal(api: Option<Api>) -> Self {
        let message = "The gateway could not process this request";
        Self::new(
            api,
            &Refusal { status: 500, error_code: ErrorCode::Internal, message, param: None, code: "internal" },
        )
    }

    fn new(api: Option<Api>, refusal: &Refusal<'_>) -> Self {
        let Refusal { status, error_code, message, param, code } = *refusal;
        let is_client = status < 500;
        let body = if api == Some(Api::Messages) {
            let r#type = match status {
                404 => "not_found_error",
                429 => "rate_limit_error",
                503 => "overloaded_error",
                _ if is_client => "invalid_request_error",
                _ => "api_error",
            };
            serde_json::to_vec(&Anthropic { r#type: "error", error: AnthropicError { r#type, message } })
        } else {
            let r#type = match status {
                429 => "rate_limit_error",
                _ if is_client => "invalid_request_error",
                _ => "server_error",
            };
            serde_json::to_vec(&OpenAi { error: OpenAiError { message, r#type, param, code } })
        };
        // Strings always serialise; the fallback only keeps this total.
        Self { status, body: body.unwrap_or_else(|_| b"{}".to_vec()), error_code, retry_after: None, explanation: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn json(reply: &LocalReply) -> serde_json::Value {
        serde_json::from_slice(&reply.body).unwrap()
    }

    #[test]
    fn a_refusal_has_the_shape_that_clients_parse() {
        let reply = LocalReply::bad_request(Some(Api::ChatCompletions), &RequestError::Empty);
        let json = json(&reply);
        assert_eq!(reply.status, 400);
        assert_eq!(json["error"]["type"], "invalid_request_error");
        assert!(json["error"]["message"].is_string() && json["error"]["code"].is_string());
        assert!(json["error"].as_object().unwrap().contains_key("param"));
    }

    #[test]
    fn anthropics_clients_get_their_own_shape() {
        for (reply, kind) in [
            (LocalReply::missing_model(Some(Api::Messages)), "invalid_request_error"),
            (LocalReply::no_endpoint(Some(Api::Messages), "p"), "overloaded_error"),
            (LocalReply::internal(Some(Api::Messages)), "api_error"),
            (LocalReply::unknown_model(Some(Api::Messages), "x"), "not_found_error"),
            (LocalReply::saturated(Some(Api::Messages)), "rate_limit_error"),
        ] {
            let json = json(&reply);
            assert_eq!((json["type"].as_str(), json["error"]["type"].as_str()), (Some("error"), Some(kind)));
            assert!(json["error"]["message"].is_string());
        }
    }

    #[test]
    fn the_clients_mistakes_are_not_the_servers() {
        assert_eq!(
            [200, 400, 404, 429, 500, 503].map(ErrorCode::of_status),
            [
                None,
                Some(ErrorCode::ModelServerRejected),
                Some(ErrorCode::ModelServerRejected),
                Some(ErrorCode::ResourceExhausted),
                Some(ErrorCode::ModelServerError),
                Some(ErrorCode::ModelServerError),
            ]
        );
    }
}
