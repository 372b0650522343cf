//! A small HTTP client for the gateway and the pages of a stack.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client as Connections;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// A generation on a loaded simulated pod takes seconds; a minute of it is a hang.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Keeps connections open between requests. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    connections: Connections<HttpConnector, Full<Bytes>>,
    timeout: Duration,
}

/// A whole response.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body as received.
    pub body: Bytes,
    /// From sending the request to the first byte of the body.
    pub first_byte: Duration,
    /// From sending the request to the end of the body.
    pub duration: Duration,
}

/// No response, or not all of one.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL or a header is not valid.
    #[error("not a request: {0}")]
    Request(#[from] http::Error),
    /// No response came.
    #[error("{url}: {source}")]
    Connect {
        /// What was asked for.
        url: String,
        /// Why.
        source: hyper_util::client::legacy::Error,
    },
    /// The body broke off.
    #[error("{url}: the body broke off after {received} bytes: {source}")]
    Body {
        /// What was asked for.
        url: String,
        /// Bytes received before.
        received: usize,
        /// Why.
        source: hyper::Error,
    },
    /// No end in time.
    #[error("{url}: no end after {after:?}")]
    TimedOut {
        /// What was asked for.
        url: String,
        /// How long was waited.
        after: Duration,
    },
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Client {
    /// A client that waits a minute for the end of a response.
    #[must_use]
    pub fn new() -> Self {
        Self { connections: Connections::builder(TokioExecutor::new()).build_http(), timeout: TIMEOUT }
    }

    /// The same with another limit on a whole exchange.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// GET.
    ///
    /// # Errors
    /// See [`ClientError`]; a status of 400 and above is none.
    pub async fn get(&self, url: &str) -> Result<Reply, ClientError> {
        self.send(Request::get(url).body(Full::default())?).await
    }

    /// POST of a JSON body.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn post_json(&self, url: &str, body: impl Into<Bytes>) -> Result<Reply, ClientError> {
        let request = Request::post(url).header(header::CONTENT_TYPE, "application/json");
        self.send(request.body(Full::new(body.into()))?).await
    }

    /// Any request.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Reply, ClientError> {
        let url = request.uri().to_string();
        tokio::time::timeout(self.timeout, self.exchange(request, &url))
            .await
            .unwrap_or_else(|_| Err(ClientError::TimedOut { url: url.clone(), after: self.timeout }))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, url: &str) -> Result<Reply, ClientError> {
        let start = Instant::now();
        let connect = |source| ClientError::Connect { url: url.to_owned(), source };
        let (head, mut stream) = self.connections.request(request).await.map_err(connect)?.into_parts();
        let mut body = BytesMut::new();
        let mut first_byte = None;
        while let Some(frame) = stream.frame().await {
            let frame =
                frame.map_err(|source| ClientError::Body { url: url.to_owned(), received: body.len(), source })?;
            if let Some(data) = frame.data_ref() {
                first_byte.get_or_insert_with(|| start.elapsed());
                body.extend_from_slice(data);
            }
        }
        let duration = start.elapsed();
        let first_byte = first_byte.unwrap_or(duration);
        Ok(Reply { status: head.status, headers: head.headers, body: body.freeze(), first_byte, duration })
    }
}

impl Reply {
    /// The body as text, broken UTF-8 replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value, if it is there once at least and is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The payloads of a server-sent event stream, `[DONE]` included.
    #[must_use]
    pub fn events(&self) -> Vec<String> {
        let text = self.text();
        text.lines().filter_map(|line| line.strip_prefix("data:")).map(|data| data.trim().to_owned()).collect()
    }
}
