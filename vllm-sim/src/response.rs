//! Responses before they become HTTP: whole bodies or event streams.

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use crate::refusal::{Refusal, error_body, kind_of};
use crate::stream::{Break, EventStream};

/// A response that still lacks the headers every response has.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) content_type: Option<&'static str>,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: ResponseBody,
}

#[derive(Debug)]
pub(crate) enum ResponseBody {
    Whole(Bytes),
    Events(Box<EventStream>),
    /// The first half of a body whose whole length is announced, and what comes then.
    Half(Bytes, Break),
}

impl Response {
    pub(crate) fn new(status: u16, content_type: Option<&'static str>, body: impl Into<Bytes>) -> Self {
        Self { status, content_type, headers: Vec::new(), body: ResponseBody::Whole(body.into()) }
    }

    pub(crate) fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(status, Some("application/json"), body)
    }

    pub(crate) fn value(status: u16, body: &Value) -> Self {
        Self::json(status, body.to_string())
    }

    pub(crate) fn empty(status: u16) -> Self {
        Self::new(status, None, Bytes::new())
    }

    pub(crate) fn events(stream: EventStream) -> Self {
        Self {
            status: 200,
            content_type: Some("text/event-stream; charset=utf-8"),
            headers: Vec::new(),
            body: ResponseBody::Events(Box::new(stream)),
        }
    }

    /// The web framework's own 404, for paths that the server does not have.
    pub(crate) fn no_such_path() -> Self {
        Self::json(404, r#"{"detail":"Not Found"}"#)
    }

    pub(crate) fn wrong_method(allowed: &'static str) -> Self {
        let mut response = Self::json(405, r#"{"detail":"Method Not Allowed"}"#);
        response.headers.push((http::header::ALLOW, HeaderValue::from_static(allowed)));
        response
    }

    pub(crate) fn error(status: u16, kind: &str, param: Option<&str>, message: &str) -> Self {
        Self::value(status, &error_body(status, kind, param, message))
    }

    /// vLLM's answer to what it refuses.
    pub(crate) fn refused(refusal: &Refusal) -> Self {
        let (status, kind, param, message) = refusal.parts();
        Self::error(status, kind, param.as_deref(), &message)
    }

    /// The same in the shape of the Anthropic API, which has no parameter and no code.
    pub(crate) fn refused_message(refusal: &Refusal) -> Self {
        let (status, kind, _, message) = refusal.parts();
        Self::value(status, &json!({"type": "error", "error": {"type": kind, "message": message}}))
    }

    pub(crate) fn server_error(status: u16, message: &str) -> Self {
        Self::error(status, kind_of(status), None, message)
    }
}
