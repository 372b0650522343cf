//! vLLM's calls for adapters.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use crate::config::Adapter;
use crate::plan::Listing;

/// How long a look at the server may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long loading may take: the server may have to fetch the adapter first.
const LOAD_TIMEOUT: Duration = Duration::from_secs(600);
/// Largest answer in bytes; a listed model has some 600.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// Characters that are told of an answer that is an error.
const MAX_TOLD: usize = 300;

/// One model server.
#[derive(Clone, Debug)]
pub struct ModelServer {
    client: Client<HttpConnector, Full<Bytes>>,
    base: String,
}

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No answer.
    #[error("no answer of {url}: {why}")]
    NoAnswer {
        /// What was asked.
        url: String,
        /// What came instead.
        why: String,
    },
    /// An answer that is an error.
    #[error("{url} answers {status}: {text}")]
    Status {
        /// What was asked.
        url: String,
        /// The status.
        status: StatusCode,
        /// The message of the answer, or the beginning of it.
        text: String,
    },
    /// An answer that is no list of models.
    #[error("{url} lists no models: {why}")]
    NoListing {
        /// What was asked.
        url: String,
        /// What is wrong.
        why: String,
    },
}

impl ModelServer {
    /// The server at that place.
    #[must_use]
    pub fn new(host: &str, port: u16) -> Self {
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
        // Connections are not kept: uvicorn closes idle ones at any moment, and what is asked here is asked seldom.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(HttpConnector::new());
        Self { client, base: format!("http://{host}:{port}") }
    }

    /// Where it is.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Its models and adapters, if it says that it is healthy.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn look(&self) -> Result<Listing, CallError> {
        self.call(Method::GET, "/health", None, LOOK_TIMEOUT).await?;
        self.list().await
    }

    /// Its models and adapters.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn list(&self) -> Result<Listing, CallError> {
        let body = self.call(Method::GET, "/v1/models", None, LOOK_TIMEOUT).await?;
        serde_json::from_slice(&body)
            .map_err(|error| CallError::NoListing { url: format!("{}/v1/models", self.base), why: error.to_string() })
    }

    /// Loads an adapter.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn load(&self, adapter: &Adapter) -> Result<(), CallError> {
        let mut body = json!({"lora_name": adapter.id, "lora_path": adapter.source});
        if let (Some(base_model), Some(fields)) = (&adapter.base_model, body.as_object_mut()) {
            fields.insert("base_model_name".to_owned(), json!(base_model));
        }
        self.call(Method::POST, "/v1/load_lora_adapter", Some(body), LOAD_TIMEOUT).await.map(drop)
    }

    /// Unloads an adapter.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn unload(&self, id: &str) -> Result<(), CallError> {
        let body = json!({"lora_name": id});
        self.call(Method::POST, "/v1/unload_lora_adapter", Some(body), LOOK_TIMEOUT).await.map(drop)
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let url = format!("{}{path}", self.base);
        let no_answer = |why: String| CallError::NoAnswer { url: url.clone(), why };
        let mut request = Request::builder().method(method).uri(&url);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = Full::new(body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string())));
        let request = request.body(body).map_err(|error| no_answer(error.to_string()))?;
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| no_answer(causes(&error)))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| no_answer(error.to_string()))?.to_bytes();
            if status.is_success() {
                return Ok(body);
            }
            Err(CallError::Status { url: url.clone(), status, text: message(&body) })
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok(result) => result,
            Err(_) => Err(no_answer(format!("nothing within {} s", timeout.as_secs()))),
        }
    }
}

/// An error with what caused it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// What an answer says is wrong.
fn message(body: &[u8]) -> String {
    let told = serde_json::from_slice::<Value>(body).ok();
    let told = told.as_ref().and_then(|told| told.pointer("/error/message")?.as_str());
    told.map_or_else(|| String::from_utf8_lossy(body), Into::into).chars().take(MAX_TOLD).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_error_is_told_in_its_own_words() {
        let body = br#"{"error":{"message":"The lora adapter 'lora-zz' cannot be found.","type":"NotFoundError","param":null,"code":404}}"#;
        assert_eq!(message(body), "The lora adapter 'lora-zz' cannot be found.");
        assert_eq!(message(b"Internal Server Error"), "Internal Server Error");
        assert_eq!(message("\u{e9}".repeat(1000).as_bytes()).chars().count(), MAX_TOLD);
    }

    #[test]
    fn addresses_of_ipv6_have_brackets() {
        assert_eq!(ModelServer::new("::1", 8000).base(), "http://[::1]:8000");
        assert_eq!(ModelServer::new("vllm.default.svc", 80).base(), "http://vllm.default.svc:80");
    }
}
