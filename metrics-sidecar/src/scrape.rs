//! A lean HTTP/1.1 client for one page of one peer, and the pace at which pods are read.
//!
//! Written by hand over httparse because this is the sidecar's whole cost: one write, one wait and a read or two per page,
//! into a buffer that is still in the processor's cache.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::outcome::Outcome;
use crate::response::{ResponseError, ResponseParser};
use crate::tls::Tls;

/// Space for one read: a whole page of a busy engine and its head.
const READ_BYTES: usize = 128 * 1024;

/// Buffers kept for reuse; more pages than these are rarely in flight at once.
const KEPT_BUFFERS: usize = 16;

/// A buffer that has grown beyond this is given back to the allocator.
const KEPT_BYTES: usize = 1024 * 1024;

/// How long a connection may take: a pod in the same network accepts within milliseconds. A request for one that is lost is
/// repeated by the kernel only after 1 s, which would keep a pod's return unnoticed.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(250);

/// How long sent bytes may stay unacknowledged before the connection counts as lost: a pod whose machine is gone resets nothing.
const LOST_AFTER: Duration = Duration::from_millis(500);

/// Longest rest after a poll that failed, so that a pod's return is noticed within it.
const LONGEST_REST_AFTER_FAILURE: Duration = Duration::from_millis(250);

/// Share of the interval by which a poll may come earlier or later, so that pods listed together drift apart.
const JITTER: f64 = 0.1;

/// Why a page was not read.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    /// The connection broke.
    #[error("connection lost: {0}")]
    Io(#[from] std::io::Error),
    /// Not the response that was hoped for.
    #[error(transparent)]
    Response(#[from] ResponseError),
    /// A redirect that is not followed.
    #[error("redirected to {location:?}, which {why}")]
    Redirect {
        /// Where to.
        location: String,
        /// Why it is not followed.
        why: &'static str,
    },
    /// Not in time.
    #[error("no complete response within {} ms", .0.as_millis())]
    Timeout(Duration),
}

impl GetError {
    /// Its value of the label `outcome`.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Connect(_) => Outcome::Connect,
            Self::Io(_) | Self::Response(ResponseError::Protocol(_) | ResponseError::Closed(_)) => Outcome::Protocol,
            Self::Response(ResponseError::Status(_)) => Outcome::Status,
            Self::Response(ResponseError::TooLarge(_)) => Outcome::TooLarge,
            Self::Redirect { .. } | Self::Response(ResponseError::Redirect(_)) => Outcome::Redirect,
            Self::Timeout(_) => Outcome::Timeout,
        }
    }
}

/// Whom to connect to.
#[derive(Clone, Debug)]
pub enum Peer {
    /// An address.
    Address(SocketAddr),
    /// A name or address, and a port.
    Name(String, u16),
}

/// Read buffers, last used first so that the next page lands in warm memory.
#[derive(Debug, Default)]
pub struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    fn take(&self) -> Vec<u8> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| Vec::with_capacity(READ_BYTES))
    }

    fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_BUFFERS && buffer.capacity() <= KEPT_BYTES {
            kept.push(buffer);
        }
    }
}

/// Reads one page of one peer again and again, over one connection while that lasts.
#[derive(Debug)]
pub struct Client {
    peer: Peer,
    authority: String,
    path: String,
    token: Option<Arc<str>>,
    request: Vec<u8>,
    /// The request for the place to which the peer redirected the last one, until a read of it fails.
    redirected: Option<Vec<u8>>,
    max_body: usize,
    tls: Option<Tls>,
    stream: Option<Stream>,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Client {
    /// A client that is not connected yet. `authority` goes into the `Host` header, `path` into the request line.
    #[must_use]
    pub fn new(peer: Peer, authority: &str, path: &str, max_body: usize) -> Self {
        Self {
            peer,
            authority: authority.to_owned(),
            path: path.to_owned(),
            token: None,
            request: request(authority, path, None),
            redirected: None,
            max_body,
            tls: None,
            stream: None,
        }
    }

    /// Connects over TLS from now on, or plainly.
    pub fn set_tls(&mut self, tls: Option<Tls>) {
        self.tls = tls;
        self.stream = None;
    }

    /// Sends this bearer token from now on.
    pub fn set_token(&mut self, token: Option<Arc<str>>) {
        if token != self.token {
            self.request = request(&self.authority, &self.path, token.as_deref());
            self.redirected = None;
            self.token = token;
        }
    }

    /// Reads the page once and hands its bytes to `read`. One redirect is followed if it leads to the same origin, so that a token
    /// reaches no other server.
    ///
    /// # Errors
    ///
    /// See [`GetError`]. A kept connection that the peer has closed meanwhile is replaced once without complaint.
    pub async fn get<T>(
        &mut self,
        buffers: &Buffers,
        limit: Duration,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, GetError> {
        let fetched = tokio::time::timeout(limit, self.follow(buffers)).await;
        let fetched = fetched.unwrap_or(Err(GetError::Timeout(limit)));
        if fetched.is_err() {
            self.redirected = None;
        }
        let (buffer, body) = fetched?;
        let value = read(buffer.get(body).unwrap_or_default());
        buffers.give(buffer);
        Ok(value)
    }

    async fn follow(&mut self, buffers: &Buffers) -> Result<(Vec<u8>, Range<usize>), GetError> {
        let location = match self.fetch(buffers).await {
            Err(GetError::Response(ResponseError::Redirect(location))) => location,
            result => return result,
        };
        if self.redirected.is_some() {
            return Err(GetError::Redirect { location, why: SECOND });
        }
        let path = match redirect_path(&location, self.tls.is_some(), &self.authority, &self.path) {
            Ok(path) => path,
            Err(why) => return Err(GetError::Redirect { location, why }),
        };
        self.redirected = Some(request(&self.authority, &path, self.token.as_deref()));
        match self.fetch(buffers).await {
            Err(GetError::Response(ResponseError::Redirect(location))) => {
                Err(GetError::Redirect { location, why: SECOND })
            }
            result => result,
        }
    }

    async fn fetch(&mut self, buffers: &Buffers) -> Result<(Vec<u8>, Range<usize>), GetError> {
        if let Some(stream) = self.stream.take() {
            match self.exchange(stream, buffers).await {
                Err(GetError::Io(_) | GetError::Response(ResponseError::Closed(0))) => {}
                result => return result,
            }
        }
        let connecting = async {
            match &self.peer {
                Peer::Address(address) => TcpStream::connect(address).await,
                Peer::Name(host, port) => TcpStream::connect((host.as_str(), *port)).await,
            }
        };
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected.map_err(GetError::Connect)?,
            Err(_) => return Err(GetError::Connect(ErrorKind::TimedOut.into())),
        };
        // Without it a lost connection is only noticed later.
        let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(LOST_AFTER));
        let stream = match &self.tls {
            None => Stream::Plain(stream),
            Some(tls) => {
                let address = || stream.peer_addr().map(|address| ServerName::from(address.ip()));
                let name = tls.server_name.clone().map_or_else(address, Ok).map_err(GetError::Connect)?;
                let stream = tls.connector.connect(name, stream).await.map_err(GetError::Connect)?;
                Stream::Tls(Box::new(stream))
            }
        };
        self.exchange(stream, buffers).await
    }

    async fn exchange(&mut self, mut stream: Stream, buffers: &Buffers) -> Result<(Vec<u8>, Range<usize>), GetError> {
        let request = self.redirected.as_ref().unwrap_or(&self.request);
        // A pod takes milliseconds to write its page; a buffer is taken only once there is something to put into it.
        match &mut stream {
            Stream::Plain(stream) => {
                stream.write_all(request).await?;
                stream.readable().await?;
            }
            Stream::Tls(stream) => {
                stream.write_all(request).await?;
                stream.flush().await?;
            }
        }
        let mut buffer = buffers.take();
        let mut response = ResponseParser::new(self.max_body);
        loop {
            let wanted = response.missing(buffer.len()).max(READ_BYTES / 2);
            buffer.reserve(wanted.min(READ_BYTES.saturating_sub(buffer.len()).max(READ_BYTES / 2)));
            let read = match &mut stream {
                Stream::Plain(stream) => stream.read_buf(&mut buffer).await?,
                Stream::Tls(stream) => stream.read_buf(&mut buffer).await?,
            };
            let complete = match read {
                0 => response.end(buffer.len())?,
                _ => match response.read(&mut buffer)? {
                    Some(complete) => complete,
                    None => continue,
                },
            };
            if complete.reusable {
                self.stream = Some(stream);
            }
            return Ok((buffer, complete.body));
        }
    }
}

/// Why a second redirect is not followed.
const SECOND: &str = "is a second redirect";

fn request(authority: &str, path: &str, token: Option<&str>) -> Vec<u8> {
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    format!(
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: inpick-metrics-sidecar\r\nAccept: */*\r\n{authorization}\r\n"
    )
    .into_bytes()
}

/// The path and query of a location, seen from `path` at `authority`; else why the location is not followed.
fn redirect_path(location: &str, is_tls: bool, authority: &str, path: &str) -> Result<String, &'static str> {
    let (scheme, port) = if is_tls { ("https://", ":443") } else { ("http://", ":80") };
    let location = location.split('#').next().unwrap_or_default();
    if location.is_empty() || !location.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("is no location");
    }
    let is_absolute = location.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    let rest = if is_absolute { location.get(scheme.len()..) } else { location.strip_prefix("//") };
    if let Some(rest) = rest {
        let (host, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let bare = |authority: &str| authority.strip_suffix(port).unwrap_or(authority).to_ascii_lowercase();
        if bare(host) != bare(authority) {
            return Err("is another host");
        }
        return Ok(if target.starts_with('/') { target.to_owned() } else { format!("/{target}") });
    }
    let before_query = location.split('?').next().unwrap_or_default();
    if before_query.split('/').next().unwrap_or_default().contains(':') {
        return Err("has another scheme");
    }
    if location.starts_with('/') {
        return Ok(location.to_owned());
    }
    let folder = path.split('?').next().unwrap_or_default().rsplit_once('/').map_or("", |(folder, _)| folder);
    Ok(format!("{folder}/{location}"))
}

/// Pages in a row without a request after which a pod counts as at rest: a second at the usual interval, longer than a pause between
/// the turns of one busy client.
const RESTFUL_PAGES: u32 = 20;

/// How many times less often a pod at rest is read. Its page then is 0.1 s old on average when another gateway's first request comes, and
/// this gateway's own are known anyway; an idle pool costs a quarter.
const REST_FACTOR: u32 = 4;

/// How a poll ended, as far as the next one depends on it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PollEnd {
    /// The pod has requests, had some since the last page, or does not say.
    AtWork,
    /// The pod has no request, and nothing has moved since the last page.
    AtRest,
    /// There is no page.
    Failed,
}

/// When to read a pod next.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    random: SmallRng,
    /// Pages in a row that showed a pod at rest.
    restful: u32,
}

impl Pace {
    /// A pace around `interval`.
    #[must_use]
    pub fn new(interval: Duration, seed: u64) -> Self {
        Self { interval, random: SmallRng::seed_from_u64(seed), restful: 0 }
    }

    /// Pause before the first poll: pods that are discovered together are spread over the interval.
    pub fn first(&mut self) -> Duration {
        self.interval.mul_f64(self.random.random_range(0.0..1.0))
    }

    /// Pause after a poll that took `took`. At least as long as the poll itself: writing the page holds the engine's API
    /// server, which must not spend more than half its time on it. A pod that fails is read as often as one that does not, so that
    /// its return is seen within the interval. One that has been at rest for [`RESTFUL_PAGES`] is read [`REST_FACTOR`] times less often
    /// until a page shows otherwise.
    pub fn after(&mut self, took: Duration, end: PollEnd) -> Duration {
        self.restful = if end == PollEnd::AtRest { self.restful.saturating_add(1) } else { 0 };
        let interval = if self.restful >= RESTFUL_PAGES { self.interval * REST_FACTOR } else { self.interval };
        let pause = interval.mul_f64(self.random.random_range(1.0 - JITTER..1.0 + JITTER)).saturating_sub(took);
        pause.max(if end == PollEnd::Failed { took.min(LONGEST_REST_AFTER_FAILURE) } else { took })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(50);

    #[test]
    fn polls_keep_the_interval_with_jitter() {
        let mut pace = Pace::new(INTERVAL, 1);
        let took = Duration::from_millis(10);
        let pauses: Vec<_> = (0..100).map(|_| pace.after(took, PollEnd::AtWork) + took).collect();
        assert!(pauses.iter().all(|pause| (Duration::from_millis(45)..=Duration::from_millis(55)).contains(pause)));
        assert!(pauses.windows(2).any(|pair| pair[0] != pair[1]));
        assert!(pace.first() < INTERVAL);
    }

    #[test]
    fn a_slow_pod_rests_as_long_as_it_worked() {
        let took = Duration::from_millis(400);
        assert_eq!(Pace::new(INTERVAL, 1).after(took, PollEnd::AtWork), took);
    }

    #[test]
    fn a_pod_that_fails_is_read_as_often_as_one_that_does_not() {
        let mut pace = Pace::new(INTERVAL, 1);
        let pauses: Vec<_> = (0..100).map(|_| pace.after(Duration::from_millis(1), PollEnd::Failed)).collect();
        assert!(pauses.iter().all(|pause| *pause <= Duration::from_millis(55)), "{pauses:?}");
        assert_eq!(pace.after(Duration::from_secs(10), PollEnd::Failed), LONGEST_REST_AFTER_FAILURE);
    }

    #[test]
    fn a_pod_at_rest_is_read_less_often_until_a_page_shows_otherwise() {
        let mut pace = Pace::new(INTERVAL, 1);
        let mut is_slow = |reading| pace.after(Duration::from_millis(1), reading) > INTERVAL * 2;
        let restful: Vec<_> = (0..30).map(|_| is_slow(PollEnd::AtRest)).collect();
        assert_eq!(restful.iter().position(|slow| *slow), Some(19));
        assert!(restful[19..].iter().all(|slow| *slow));
        for reading in [PollEnd::AtWork, PollEnd::Failed] {
            assert!(!is_slow(reading));
            assert_eq!((0..20).filter(|_| is_slow(PollEnd::AtRest)).count(), 1, "it begins anew");
        }
    }

    #[test]
    fn a_redirect_leads_to_the_same_origin_or_nowhere() {
        let seen = |location| redirect_path(location, false, "10.0.0.1:8000", "/a/metrics?x");
        for (location, path) in [
            ("/metrics/", "/metrics/"),
            ("http://10.0.0.1:8000/metrics/?x=1#y", "/metrics/?x=1"),
            ("HTTP://10.0.0.1:8000", "/"),
            ("//10.0.0.1:8000/b", "/b"),
            ("metrics/", "/a/metrics/"),
        ] {
            assert_eq!(seen(location).as_deref(), Ok(path), "{location}");
        }
        for location in [
            "",
            "http://10.0.0.2:8000/metrics/",
            "http://10.0.0.1:9000/metrics/",
            "http://10.0.0.1:8000@evil/metrics",
            "https://10.0.0.1:8000/metrics/",
            "//evil/metrics",
            "file:/etc/passwd",
            "/a b",
            "/a\r\nx: y",
        ] {
            assert!(seen(location).is_err(), "{location}");
        }
        assert_eq!(redirect_path("http://Pod/m", false, "pod:80", "/").as_deref(), Ok("/m"));
        assert_eq!(redirect_path("https://pod/m", true, "pod:443", "/").as_deref(), Ok("/m"));
        assert!(redirect_path("http://pod/m", true, "pod:80", "/").is_err());
    }

    #[test]
    fn the_same_seed_gives_the_same_pace() {
        let pauses = |seed| {
            let mut pace = Pace::new(INTERVAL, seed);
            (0..10).map(|_| pace.after(Duration::ZERO, PollEnd::AtWork)).collect::<Vec<_>>()
        };
        assert_eq!(pauses(3), pauses(3));
        assert_ne!(pauses(3), pauses(4));
    }
}
