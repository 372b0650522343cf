//! Single requests to Envoy's admin endpoint, to the Kubernetes API server and to collectors, whose answers are read piece by piece.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::failures::Task;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    #[error("connection closed: {0}")]
    Lost(String),
    #[error("status {0}")]
    Status(u16),
    #[error("more than {0} bytes")]
    TooLarge(usize),
    #[error("no complete response within {} ms", .0.as_millis())]
    Timeout(Duration),
}

/// An answer whose body is still to come.
pub(crate) struct Answer {
    response: Response<Incoming>,
    _connection: Task,
}

/// Connects.
///
/// # Errors
///
/// [`RequestError::Connect`].
pub(crate) async fn connect(host: &str, port: u16) -> Result<TcpStream, RequestError> {
    let stream = TcpStream::connect((host, port)).await.map_err(RequestError::Connect)?;
    // It only makes small requests quicker.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Sends a request over a connection made for it.
///
/// # Errors
///
/// [`RequestError::Lost`].
pub(crate) async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer, RequestError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let lost = |error: hyper::Error| RequestError::Lost(cause(&error));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    let connection = Task(tokio::spawn(async move {
        // What goes wrong with it, the sender and the body tell too.
        let _ = connection.await;
    }));
    let response = sender.send_request(request).await.map_err(lost)?;
    Ok(Answer { response, _connection: connection })
}

impl Answer {
    /// Its status.
    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// A header, if it is there and a text.
    #[cfg(feature = "otlp")]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// Hands the body on, piece by piece, up to `most` bytes.
    ///
    /// # Errors
    ///
    /// [`RequestError::Lost`], [`RequestError::TooLarge`].
    pub(crate) async fn read(&mut self, most: usize, mut take: impl FnMut(&[u8])) -> Result<(), RequestError> {
        let mut read = 0;
        while let Some(frame) = self.response.body_mut().frame().await {
            let frame = frame.map_err(|error| RequestError::Lost(cause(&error)))?;
            if let Some(piece) = frame.data_ref() {
                read += piece.len();
                if read > most {
                    return Err(RequestError::TooLarge(most));
                }
                take(piece);
            }
        }
        Ok(())
    }
}

/// The innermost reason, which says more than what was being done.
fn cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), cause)
}
