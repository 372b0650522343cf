//! Who may call a route.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;
use tracing::warn;

use crate::access::Readers;
use crate::listening::Peer;
use crate::reviews::{Reviews, Verdict};
use crate::shared::lock;
use crate::token_file::{is_token, read_tokens};

/// A file of tokens is read again when it was read so long ago.
const TOKENS_LAST: Duration = Duration::from_secs(1);
/// What a loopback caller is told about others.
const LOOPBACK_ONLY: &str =
    "only loopback may read this: see --metrics-endpoint-auth and --metrics-endpoint-token-file\n";

/// What the API server is asked about for the live page's data, whose own paths begin with `/api/`: these are the API server's, too, and
/// Kubernetes' role `system:discovery` lets every account get them.
const LIVE: &str = "/live";

/// Who may call a route.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Access {
    /// Anyone: what probes ask for.
    Anyone,
    /// Envoy: whoever comes over loopback, and others as the settings say.
    Envoy,
    /// Scrapers and people, as the settings say.
    Reader,
    /// The same, for the live page's data: recent requests are among it, so the API server is asked about a right of its own, `/live`.
    Viewer,
    /// Whoever may be a reader: the live page without its data. Where tokens are asked for that is anyone, since a browser sends none
    /// with a page that it opens; the page asks for it, and reads its data with it.
    Shell,
    /// The same, but never anyone: what shows the process's memory or slows it down.
    Profiler,
}

/// What let a request in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Admission {
    /// Where it came from, or that anyone may.
    Open,
    /// A token, which may be revoked.
    Token,
}

/// Why a request is refused.
#[derive(Debug)]
enum Refusal {
    /// Only loopback may.
    Elsewhere,
    NoToken,
    /// Nobody's token.
    Unknown,
    /// Somebody's who may not; their name.
    Forbidden(String),
    /// It cannot be known.
    Failed,
    /// Too many tokens that nobody knows.
    Busy,
}

/// Lets callers in.
#[derive(Debug)]
pub(crate) struct Gate(Asks);

#[derive(Debug)]
enum Asks {
    Nobody { only_loopback: bool },
    TokenFile(TokenFile),
    Kubernetes(Reviews),
}

/// What the middleware of one route knows.
#[derive(Clone)]
pub(crate) struct Guard {
    pub(crate) gate: Arc<Gate>,
    pub(crate) access: Access,
}

/// Lets a request through to its route, or refuses it.
pub(crate) async fn guard(
    State(Guard { gate, access }): State<Guard>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let verb = request.method().as_str().to_ascii_lowercase();
    match gate.admit(access, peer, request.headers(), &verb, request.uri().path()).await {
        Ok(admission) => {
            request.extensions_mut().insert(admission);
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    }
}

impl Gate {
    pub(crate) fn new(readers: &Readers) -> Self {
        Self(match readers {
            Readers::Loopback => Asks::Nobody { only_loopback: true },
            Readers::Anyone => Asks::Nobody { only_loopback: false },
            Readers::TokenFile(file) => Asks::TokenFile(TokenFile { file: file.clone(), read: Mutex::default() }),
            Readers::Kubernetes { server, ttl } => Asks::Kubernetes(Reviews::new(server.clone(), *ttl)),
        })
    }

    async fn admit(
        &self,
        access: Access,
        peer: Peer,
        headers: &HeaderMap,
        verb: &str,
        path: &str,
    ) -> Result<Admission, Refusal> {
        let is_open = match access {
            Access::Anyone => true,
            // Where nobody asks, an Envoy may be anywhere.
            Access::Envoy => peer.is_loopback() || matches!(self.0, Asks::Nobody { .. }),
            Access::Reader | Access::Viewer => matches!(self.0, Asks::Nobody { only_loopback: false }),
            Access::Shell => !matches!(self.0, Asks::Nobody { only_loopback: true }),
            Access::Profiler => false,
        };
        if is_open {
            return Ok(Admission::Open);
        }
        let path = if access == Access::Viewer { LIVE } else { path };
        let token = || bearer(headers).ok_or(Refusal::NoToken);
        match &self.0 {
            Asks::Nobody { .. } if peer.is_loopback() => Ok(Admission::Open),
            Asks::Nobody { .. } => Err(Refusal::Elsewhere),
            Asks::TokenFile(tokens) => match tokens.have(token()?, Instant::now()) {
                Ok(true) => Ok(Admission::Token),
                Ok(false) => Err(Refusal::Unknown),
                Err(problem) => {
                    warn!(file = %tokens.file.display(), problem, "tokens cannot be read");
                    Err(Refusal::Failed)
                }
            },
            Asks::Kubernetes(reviews) => match reviews.judge(token()?, verb, path).await {
                Verdict::Allowed => Ok(Admission::Token),
                Verdict::Unknown => Err(Refusal::Unknown),
                Verdict::Forbidden(user) => Err(Refusal::Forbidden(user)),
                Verdict::Failed => Err(Refusal::Failed),
                Verdict::Busy => Err(Refusal::Busy),
            },
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let challenge = [(WWW_AUTHENTICATE, "Bearer")];
        match self {
            Self::Elsewhere => (StatusCode::FORBIDDEN, LOOPBACK_ONLY).into_response(),
            Self::NoToken => (StatusCode::UNAUTHORIZED, challenge, "a bearer token is wanted\n").into_response(),
            Self::Unknown => (StatusCode::UNAUTHORIZED, challenge, "nobody's token\n").into_response(),
            Self::Forbidden(user) => {
                (StatusCode::FORBIDDEN, format!("Authorization denied for user {user}\n")).into_response()
            }
            Self::Failed => (StatusCode::INTERNAL_SERVER_ERROR, "Authentication failed\n").into_response(),
            Self::Busy => {
                let retry = [(RETRY_AFTER, "1")];
                (StatusCode::TOO_MANY_REQUESTS, retry, "too many tokens that nobody knows\n").into_response()
            }
        }
    }
}

/// The token of a request: of `Authorization: Bearer TOKEN`, given once.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (values.next()?.to_str().ok()?, values.next()) else { return None };
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && is_token(token)).then_some(token)
}

/// Tokens in a file, of which digests are kept.
#[derive(Debug)]
struct TokenFile {
    file: PathBuf,
    read: Mutex<Option<(Instant, Digests)>>,
}

/// Digests of the tokens, or why there are none.
type Digests = Result<Vec<[u8; 32]>, String>;

impl TokenFile {
    /// Whether the token is one of the file's. How long that takes tells nothing of them.
    fn have(&self, token: &str, now: Instant) -> Result<bool, String> {
        let mut read = lock(&self.read);
        let is_fresh = read.as_ref().is_some_and(|(at, _)| now.duration_since(*at) < TOKENS_LAST);
        if !is_fresh {
            let tokens = read_tokens(&self.file);
            let digests = tokens.map(|tokens| tokens.iter().map(|token| Sha256::digest(token).into()).collect());
            *read = Some((now, digests));
        }
        let Some((_, digests)) = read.as_ref() else { return Ok(false) };
        let digest: [u8; 32] = Sha256::digest(token).into();
        let known = digests.as_ref().map_err(Clone::clone)?.iter();
        Ok(known.fold(subtle::Choice::from(0), |found, known| found | known.ct_eq(&digest)).into())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const HERE: [&str; 3] = ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.9]:1"];
    const ELSEWHERE: [&str; 3] = ["10.0.0.1:1", "[2001:db8::1]:1", "[::ffff:10.0.0.1]:1"];

    async fn status(gate: &Gate, access: Access, peer: &str, authorization: &[&str]) -> u16 {
        let mut headers = HeaderMap::new();
        for value in authorization {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        let admitted = gate.admit(access, Peer(peer.parse().unwrap()), &headers, "get", "/metrics").await;
        admitted.err().map_or(200, |refusal| refusal.into_response().status().as_u16())
    }

    #[tokio::test]
    async fn without_a_word_about_it_only_loopback_reads() {
        let gate = Gate::new(&Readers::Loopback);
        for access in [Access::Anyone, Access::Envoy, Access::Reader, Access::Viewer, Access::Shell, Access::Profiler] {
            for peer in HERE {
                assert_eq!(status(&gate, access, peer, &[]).await, 200, "{access:?} {peer}");
            }
            let expected = if matches!(access, Access::Anyone | Access::Envoy) { 200 } else { 403 };
            for peer in ELSEWHERE {
                assert_eq!(status(&gate, access, peer, &[]).await, expected, "{access:?} {peer}");
            }
        }
    }

    #[tokio::test]
    async fn anyone_reads_if_that_is_said_but_profiles() {
        let gate = Gate::new(&Readers::Anyone);
        for peer in ELSEWHERE {
            for access in [Access::Reader, Access::Viewer, Access::Shell] {
                assert_eq!(status(&gate, access, peer, &[]).await, 200);
            }
            assert_eq!(status(&gate, Access::Profiler, peer, &[]).await, 403);
        }
        assert_eq!(status(&gate, Access::Profiler, HERE[0], &[]).await, 200);
    }

    #[tokio::test]
    async fn a_token_is_wanted_even_on_loopback_but_of_envoy() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "first\n\n second ").unwrap();
        let gate = Gate::new(&Readers::TokenFile(file.path().to_owned()));
        for peer in [HERE[0], ELSEWHERE[0]] {
            for access in [Access::Reader, Access::Profiler] {
                for good in ["Bearer first", "bearer second", "BEARER  first "] {
                    assert_eq!(status(&gate, access, peer, &[good]).await, 200, "{good}");
                }
                for bad in
                    ["Bearer", "Bearer ", "Bearer firs", "Bearer firstt", "Basic first", "first", "Bearer first second"]
                {
                    assert_eq!(status(&gate, access, peer, &[bad]).await, 401, "{bad}");
                }
                assert_eq!(status(&gate, access, peer, &[]).await, 401);
                assert_eq!(status(&gate, access, peer, &["Bearer first", "Bearer first"]).await, 401, "two of them");
            }
            for access in [Access::Anyone, Access::Shell] {
                assert_eq!(status(&gate, access, peer, &[]).await, 200);
            }
        }
        assert_eq!(status(&gate, Access::Envoy, HERE[0], &[]).await, 200);
        assert_eq!(status(&gate, Access::Envoy, ELSEWHERE[0], &[]).await, 401);
    }

    #[test]
    fn a_token_file_is_read_again_and_without_it_nobody_comes_in() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let tokens = TokenFile { file: file.path().to_owned(), read: Mutex::default() };
        let begin = Instant::now();
        std::fs::write(file.path(), "old").unwrap();
        assert_eq!(tokens.have("old", begin), Ok(true));
        std::fs::write(file.path(), "new").unwrap();
        let later = begin + TOKENS_LAST;
        assert_eq!((tokens.have("old", later), tokens.have("new", later)), (Ok(false), Ok(true)));
        for (round, broken) in (2..).zip(["", "two words"]) {
            std::fs::write(file.path(), broken).unwrap();
            assert!(tokens.have("new", begin + TOKENS_LAST * round).is_err(), "{broken:?}");
        }
    }
}
