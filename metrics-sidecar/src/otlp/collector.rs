//! The collector: requests to it, and what it says to them.

use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use axum::http::Request;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, HOST, USER_AGENT};
use http_body_util::Full;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use prost::Message;
use tokio_rustls::rustls::pki_types::ServerName;

use super::config::{CollectorTrust, OtlpConfig};
use crate::request::{Answer, RequestError, connect, send};
use crate::tls::Tls;

/// Largest answer in bytes; one that says nothing of refused points is empty.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Of what the collector says, so many characters are told.
const TOLD: usize = 300;

/// What came of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum PushReply {
    /// It was taken, but for so many points; the text says why, or warns.
    Taken { rejected: u64, message: String },
    /// Another try may help, after this time if it is known.
    Unavailable { problem: String, retry_after: Option<Duration> },
    /// Another try would not help.
    Refused(String),
}

/// Where requests go.
pub(crate) trait MetricsReceiver {
    /// Sends one.
    fn push(&self, body: Bytes) -> impl Future<Output = PushReply> + Send;
}

/// A collector that is reached over HTTP.
#[derive(Debug)]
pub(crate) struct Collector(OtlpConfig);

/// Body of an answer that is no success: `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct ErrorStatus {
    #[prost(string, tag = "2")]
    message: String,
}

impl Collector {
    /// The one that the configuration names.
    pub(crate) const fn new(config: OtlpConfig) -> Self {
        Self(config)
    }

    async fn exchange(&self, body: Bytes) -> Result<PushReply, String> {
        let OtlpConfig { target, gzip, headers, trust, .. } = &self.0;
        let mut request = Request::post(target.path.clone())
            .header(HOST, target.authority())
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(USER_AGENT, concat!("inpick-metrics-sidecar/", env!("CARGO_PKG_VERSION")));
        if *gzip {
            request = request.header(CONTENT_ENCODING, "gzip");
        }
        let mut request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
        request.headers_mut().extend(headers.clone());
        let told = |error: RequestError| error.to_string();
        let stream = connect(&target.host, target.port).await.map_err(told)?;
        let mut answer = if target.is_tls {
            let trust = trust.clone();
            let tls = tokio::task::spawn_blocking(move || trust.tls()).await.map_err(|error| error.to_string())??;
            let name = ServerName::try_from(target.host.clone()).map_err(|error| error.to_string())?;
            let stream =
                tls.connector.connect(name, stream).await.map_err(|error| told(RequestError::Connect(error)))?;
            send(stream, request).await
        } else {
            send(stream, request).await
        }
        .map_err(told)?;
        Ok(reply(&mut answer).await)
    }
}

impl MetricsReceiver for Collector {
    async fn push(&self, body: Bytes) -> PushReply {
        let timeout = self.0.timeout;
        let exchange = tokio::time::timeout(timeout, self.exchange(body)).await;
        let exchange = exchange.unwrap_or_else(|_| Err(RequestError::Timeout(timeout).to_string()));
        exchange.unwrap_or_else(|problem| PushReply::Unavailable { problem, retry_after: None })
    }
}

impl CollectorTrust {
    /// Trust as the files say now: they are rotated.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub(crate) fn tls(&self) -> Result<Tls, String> {
        match self {
            Self::System => Tls::with_system_roots().map_err(str::to_owned),
            Self::File(file) => Tls::with_ca_file(file).map_err(|why| format!("{}: {why}", file.display())),
        }
    }
}

async fn reply(answer: &mut Answer) -> PushReply {
    let status = answer.status();
    let retry_after = answer.header("retry-after").and_then(|text| pause_asked(text, SystemTime::now()));
    let mut body = Vec::new();
    // The status stands, whatever becomes of the body.
    let is_read = answer.read(MAX_ANSWER_BYTES, |piece| body.extend_from_slice(piece)).await.is_ok();
    let problem = || {
        let message = ErrorStatus::decode(body.as_slice()).map(|status| status.message).unwrap_or_default();
        let said = if message.is_empty() { String::from_utf8_lossy(&body).into_owned() } else { message };
        match told(&said) {
            said if said.is_empty() => format!("status {status}"),
            said => format!("status {status}: {said}"),
        }
    };
    match status {
        200..=299 => {
            let partial = ExportMetricsServiceResponse::decode(body.as_slice()).ok().filter(|_| is_read);
            let partial = partial.and_then(|response| response.partial_success).unwrap_or_default();
            let rejected = u64::try_from(partial.rejected_data_points).unwrap_or(0);
            PushReply::Taken { rejected, message: told(&partial.error_message) }
        }
        429 | 502 | 503 | 504 => PushReply::Unavailable { problem: problem(), retry_after },
        _ => PushReply::Refused(problem()),
    }
}

/// What may stand in a log line.
fn told(said: &str) -> String {
    said.chars().filter(|character| !character.is_control()).take(TOLD).collect::<String>().trim().to_owned()
}

/// The pause that `Retry-After` asks for: seconds, or a date.
fn pause_asked(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (text, expected) in [
            ("7", seconds(7)),
            (" 0 ", seconds(0)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", seconds(30)),
            ("Sun, 06 Nov 1994 08:40:00 GMT", seconds(0)),
            ("-1", None),
            ("soon", None),
        ] {
            assert_eq!(pause_asked(text, now), expected, "{text}");
        }
    }
}
