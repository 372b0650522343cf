//! Answers that the picker makes itself, in the shape that OpenAI clients parse.

use alloc::string::String;
use alloc::vec::Vec;

use serde::Serialize;

use crate::openai::RequestError;

/// Why a request failed; the `error_code` label. The first four are refusals of ours, under the names that the picker's alerts
/// already know.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ErrorCode {
    /// The request is not one that can be served.
    BadRequest,
    /// Nothing can take it now.
    ServiceUnavailable,
    /// Shed to protect the pool.
    ResourceExhausted,
    /// A fault of ours.
    Internal,
    /// The model server answered with 4xx or 5xx, or with an error inside its stream.
    ModelServerError,
    /// The connection to the model server failed or broke, and no retry was left.
    UpstreamReset,
    /// The model server was silent for too long.
    Timeout,
    /// The client left.
    Cancelled,
}

impl ErrorCode {
    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "BadRequest",
            Self::ServiceUnavailable => "ServiceUnavailable",
            Self::ResourceExhausted => "ResourceExhausted",
            Self::Internal => "Internal",
            Self::ModelServerError => "ModelServerError",
            Self::UpstreamReset => "UpstreamReset",
            Self::Timeout => "Timeout",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// A complete answer to the client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LocalReply {
    /// HTTP status.
    pub status: u16,
    /// JSON: `{"error":{"message","type","param","code"}}`.
    pub body: Vec<u8>,
    /// How the failure is counted.
    pub error_code: ErrorCode,
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: ErrorBody<'a>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: &'a str,
}

impl LocalReply {
    /// 400 for a body that cannot be served.
    #[must_use]
    pub fn bad_request(error: &RequestError) -> Self {
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
        Self::new(400, ErrorCode::BadRequest, "invalid_request_error", &error.message(), error.param(), code)
    }

    /// 400 for a body without a model where the configuration demands one.
    #[must_use]
    pub fn missing_model() -> Self {
        let message = "The request body must name a 'model'";
        Self::new(400, ErrorCode::BadRequest, "invalid_request_error", message, Some("model"), "missing_model")
    }

    /// 503 when there is no endpoint and the configuration says not to leave the choice to Envoy.
    #[must_use]
    pub fn no_endpoint(pool: &str) -> Self {
        let message = alloc::format!("No endpoint of pool {pool:?} can take this request");
        Self::new(503, ErrorCode::ServiceUnavailable, "server_error", &message, None, "no_endpoint")
    }

    fn new(status: u16, error_code: ErrorCode, kind: &str, message: &str, param: Option<&str>, code: &str) -> Self {
        let envelope = Envelope { error: ErrorBody { message, r#type: kind, param, code } };
        // Strings always serialise; the fallback only keeps this total.
        let body = serde_json::to_vec(&envelope).unwrap_or_else(|_| String::from("{}").into_bytes());
        Self { status, body, error_code }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_refusal_has_the_shape_that_clients_parse() {
        let reply = LocalReply::bad_request(&RequestError::Empty);
        let json: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(reply.status, 400);
        assert_eq!(json["error"]["type"], "invalid_request_error");
        assert!(json["error"]["message"].is_string() && json["error"]["code"].is_string());
        assert!(json["error"].as_object().unwrap().contains_key("param"));
    }
}
