//! The Kubernetes API server as a judge: whose a token is (TokenReview), and what they may get (SubjectAccessReview).

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::Request;
use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use http_body_util::Full;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio_rustls::rustls::pki_types::ServerName;

use crate::request::{RequestError, connect, send};
use crate::tls::Tls;
use crate::token_file::read_token;

const TOKEN_REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const TOKEN_REVIEW_VERSION: &str = "authentication.k8s.io/v1";
const ACCESS_REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
const ACCESS_REVIEW_VERSION: &str = "authorization.k8s.io/v1";

/// Largest answer in bytes; a review has a few hundred.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long a review may take with all its tries: half of the time that a scraper waits.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pauses before further tries, when the server is away or asks for patience.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(500)];

/// Where the API server is, and how the sidecar shows who it is itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ApiServer {
    is_tls: bool,
    host: String,
    port: u16,
    token_file: PathBuf,
    ca_file: PathBuf,
}

/// Whose a token is. The fields are sent back as they came.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
pub(crate) struct User {
    #[serde(default)]
    pub(crate) username: String,
    uid: Option<String>,
    groups: Option<Vec<String>>,
    extra: Option<Map<String, Value>>,
}

/// What is asked about somebody.
#[derive(Serialize)]
struct AccessSpec<'a> {
    user: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra: Option<&'a Map<String, Value>>,
    #[serde(rename = "nonResourceAttributes")]
    attributes: NonResourceAttributes<'a>,
}

#[derive(Serialize)]
struct NonResourceAttributes<'a> {
    path: &'a str,
    verb: &'a str,
}

/// A review, as far as it matters here.
#[derive(Deserialize)]
struct Review<T> {
    #[serde(rename = "apiVersion", default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    status: Option<T>,
}

#[derive(Deserialize)]
struct TokenStatus {
    #[serde(default)]
    authenticated: bool,
    user: Option<User>,
}

#[derive(Deserialize)]
struct AccessStatus {
    #[serde(default)]
    allowed: bool,
    #[serde(default)]
    denied: bool,
}

impl ApiServer {
    /// An API server at `https://HOST[:PORT]`; tokens go over plain `http://` only within this machine. `None`: not such a URL.
    #[must_use]
    pub fn new(url: &str, token_file: PathBuf, ca_file: PathBuf) -> Option<Self> {
        let (is_tls, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return None,
        };
        let authority: axum::http::uri::Authority = rest.strip_suffix('/').unwrap_or(rest).parse().ok()?;
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned();
        let is_here = bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let is_fit = !authority.as_str().contains('@') && !bare.is_empty() && port > 0 && (is_tls || is_here);
        is_fit.then_some(Self { is_tls, host: bare, port, token_file, ca_file })
    }

    /// Whose a token is; `None`: nobody's.
    ///
    /// # Errors
    ///
    /// Why it cannot be known.
    pub(crate) async fn authenticate(&self, token: &str) -> Result<Option<User>, String> {
        let review = json!({"apiVersion": TOKEN_REVIEW_VERSION, "kind": "TokenReview", "spec": {"token": token}});
        let status: TokenStatus = self.review(TOKEN_REVIEWS, TOKEN_REVIEW_VERSION, "TokenReview", &review).await?;
        Ok(status.user.filter(|user| status.authenticated && !user.username.is_empty()))
    }

    /// Whether somebody may do this to a path that is no resource.
    ///
    /// # Errors
    ///
    /// Why it cannot be known.
    pub(crate) async fn authorize(&self, user: &User, verb: &str, path: &str) -> Result<bool, String> {
        let spec = AccessSpec {
            user: &user.username,
            uid: user.uid.as_deref(),
            groups: user.groups.as_deref(),
            extra: user.extra.as_ref(),
            attributes: NonResourceAttributes { path, verb },
        };
        let review = json!({"apiVersion": ACCESS_REVIEW_VERSION, "kind": "SubjectAccessReview", "spec": spec});
        let kind = "SubjectAccessReview";
        let status: AccessStatus = self.review(ACCESS_REVIEWS, ACCESS_REVIEW_VERSION, kind, &review).await?;
        Ok(status.allowed && !status.denied)
    }

    async fn review<T: for<'a> Deserialize<'a>>(
        &self,
        path: &str,
        version: &str,
        kind: &str,
        review: &Value,
    ) -> Result<T, String> {
        let trying = tokio::time::timeout(PATIENCE, self.try_review(path, version, kind, review)).await;
        trying.unwrap_or_else(|_| Err(RequestError::Timeout(PATIENCE).to_string()))
    }

    async fn try_review<T: for<'a> Deserialize<'a>>(
        &self,
        path: &str,
        version: &str,
        kind: &str,
        review: &Value,
    ) -> Result<T, String> {
        let body = Bytes::from(review.to_string());
        let mut pauses = PAUSES.into_iter();
        let answer = loop {
            let posted = tokio::time::timeout(TIMEOUT, self.post(path, body.clone())).await;
            let problem = match posted.unwrap_or(Err(Problem::Passing(RequestError::Timeout(TIMEOUT).to_string()))) {
                Ok(answer) => break answer,
                Err(Problem::Lasting(problem)) => return Err(problem),
                Err(Problem::Passing(problem)) => problem,
            };
            match pauses.next() {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(problem),
            }
        };
        let review: Review<T> =
            serde_json::from_slice(&answer).map_err(|error| format!("the answer of {path} is no {kind}: {error}"))?;
        if review.api_version != version || review.kind != kind {
            return Err(format!("the answer of {path} is a {} {}", review.api_version, review.kind));
        }
        review.status.ok_or_else(|| format!("the answer of {path} has no status"))
    }

    async fn post(&self, path: &str, body: Bytes) -> Result<Vec<u8>, Problem> {
        let passing = |error: RequestError| Problem::Passing(error.to_string());
        let (token, tls) = self.credentials().await.map_err(Problem::Lasting)?;
        let mut bearer =
            HeaderValue::from_str(&format!("Bearer {token}")).map_err(|error| Problem::Lasting(error.to_string()))?;
        bearer.set_sensitive(true);
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let request = Request::post(path)
            .header(HOST, format!("{host}:{}", self.port))
            .header(AUTHORIZATION, bearer)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, "inpick-metrics-sidecar")
            .body(Full::new(body))
            .map_err(|error| Problem::Lasting(error.to_string()))?;
        let stream = connect(&self.host, self.port).await.map_err(passing)?;
        let mut answer = match tls {
            None => send(stream, request).await,
            Some(tls) => {
                let name =
                    ServerName::try_from(self.host.clone()).map_err(|error| Problem::Lasting(error.to_string()))?;
                let stream = tls.connector.connect(name, stream).await;
                send(stream.map_err(|error| passing(RequestError::Connect(error)))?, request).await
            }
        }
        .map_err(passing)?;
        let mut read = Vec::new();
        match answer.status() {
            200 | 201 => {
                answer.read(MAX_ANSWER_BYTES, |piece| read.extend_from_slice(piece)).await.map_err(passing)?;
                Ok(read)
            }
            status @ (401 | 403) => Err(Problem::Lasting(format!(
                "it refused the sidecar itself at {path}: status {status}; the sidecar's service account needs the ClusterRole system:auth-delegator"
            ))),
            status @ (429 | 500..=599) => Err(Problem::Passing(format!("status {status} of {path}"))),
            status => Err(Problem::Lasting(format!("status {status} of {path}"))),
        }
    }

    /// The sidecar's token and the trust in the server, both as their files are now: they are rotated.
    async fn credentials(&self) -> Result<(Arc<str>, Option<Tls>), String> {
        let Self { is_tls, token_file, ca_file, .. } = self.clone();
        let reading = move || {
            let token = read_token(&token_file).map_err(|why| format!("{}: {why}", token_file.display()))?;
            let tls =
                is_tls.then(|| Tls::with_ca_file(&ca_file).map_err(|why| format!("{}: {why}", ca_file.display())));
            Ok((token, tls.transpose()?))
        };
        tokio::task::spawn_blocking(reading).await.map_err(|error| error.to_string())?
    }
}

enum Problem {
    /// Another try may help.
    Passing(String),
    Lasting(String),
}
