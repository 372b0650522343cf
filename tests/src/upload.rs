//! Requests whose bodies come in pieces, over HTTP/1.1 in chunks or over HTTP/2, with trailers if wanted.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

type Body = BoxBody<Bytes, Infallible>;

/// Sends bodies in pieces. One HTTP/2 uploader keeps one connection, so all of its requests meet the same worker.
#[derive(Clone, Debug)]
pub struct Uploader {
    client: Client<HttpConnector, Body>,
}

/// A whole response.
#[derive(Clone, Debug)]
pub struct UploadResponse {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Uploader {
    /// HTTP/1.1: bodies are chunked.
    #[must_use]
    pub fn http1() -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// HTTP/2 without TLS.
    #[must_use]
    pub fn http2() -> Self {
        Self { client: Client::builder(TokioExecutor::new()).http2_only(true).build_http() }
    }

    /// POSTs JSON and waits for the whole response.
    pub async fn post(
        &self,
        gateway: SocketAddr,
        path: &str,
        pieces: Vec<Bytes>,
        trailers: Option<HeaderMap>,
    ) -> UploadResponse {
        let (head, body) = self.begin(gateway, path, pieces, trailers).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        UploadResponse { status: head.status, headers: head.headers, body }
    }

    /// POSTs JSON and waits for the response's headers.
    pub async fn begin(
        &self,
        gateway: SocketAddr,
        path: &str,
        pieces: Vec<Bytes>,
        trailers: Option<HeaderMap>,
    ) -> http::Response<Incoming> {
        let frames = pieces.into_iter().map(Frame::data).chain(trailers.map(Frame::trailers));
        let frames: Vec<Result<Frame<Bytes>, Infallible>> = frames.map(Ok).collect();
        let body = BoxBody::new(StreamBody::new(futures_util::stream::iter(frames)));
        let request = Request::post(format!("http://{gateway}{path}")).header("content-type", "application/json");
        self.client.request(request.body(body).unwrap()).await.unwrap()
    }
}

impl UploadResponse {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
