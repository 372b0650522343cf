//! A lean HTTP/1.1 client for one page of one peer, and the pace at which pods are read.
//!
//! Written by hand over httparse because this is the sidecar's whole cost: one write, one wait and a read or two per page,
//! into a buffer that is still in the processor's cache.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::answer::{Answer, AnswerError};
use crate::state::Outcome;

/// Space for one read: a whole page of a busy engine and its head.
const READ_BYTES: usize = 128 * 1024;

/// Buffers kept for reuse; more pages than these are rarely in flight at once.
const KEPT_BUFFERS: usize = 16;

/// A buffer that has grown beyond this is given back to the allocator.
const KEPT_BYTES: usize = 1024 * 1024;

/// First and longest pause after failures. The first is the usual interval, the longest keeps a pod's return unnoticed for 2 s at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

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
    Answer(#[from] AnswerError),
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
            Self::Io(_) | Self::Answer(AnswerError::Protocol(_) | AnswerError::Closed(_)) => Outcome::Protocol,
            Self::Answer(AnswerError::Status(_)) => Outcome::Status,
            Self::Answer(AnswerError::TooLarge(_)) => Outcome::TooLarge,
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
    request: Vec<u8>,
    max_body: usize,
    stream: Option<TcpStream>,
}

impl Client {
    /// A client that is not connected yet. `authority` goes into the `Host` header, `path` into the request line.
    #[must_use]
    pub fn new(peer: Peer, authority: &str, path: &str, max_body: usize) -> Self {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: inpick-metrics-sidecar\r\nAccept: */*\r\n\r\n"
        );
        Self { peer, request: request.into_bytes(), max_body, stream: None }
    }

    /// Reads the page once and hands its bytes to `read`.
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
        let attempt = async {
            if let Some(stream) = self.stream.take() {
                match self.exchange(stream, buffers).await {
                    Err(GetError::Io(_) | GetError::Answer(AnswerError::Closed(0))) => {}
                    result => return result,
                }
            }
            let stream = match &self.peer {
                Peer::Address(address) => TcpStream::connect(address).await,
                Peer::Name(host, port) => TcpStream::connect((host.as_str(), *port)).await,
            };
            let stream = stream.map_err(GetError::Connect)?;
            self.exchange(stream, buffers).await
        };
        let (buffer, body) = tokio::time::timeout(limit, attempt).await.map_err(|_| GetError::Timeout(limit))??;
        let value = read(buffer.get(body).unwrap_or_default());
        buffers.give(buffer);
        Ok(value)
    }

    async fn exchange(
        &mut self,
        mut stream: TcpStream,
        buffers: &Buffers,
    ) -> Result<(Vec<u8>, std::ops::Range<usize>), GetError> {
        stream.write_all(&self.request).await?;
        // A pod takes milliseconds to write its page; a buffer is taken only once there is something to put into it.
        stream.readable().await?;
        let mut buffer = buffers.take();
        let mut answer = Answer::new(self.max_body);
        loop {
            let wanted = answer.missing(buffer.len()).max(READ_BYTES / 2);
            buffer.reserve(wanted.min(READ_BYTES.saturating_sub(buffer.len()).max(READ_BYTES / 2)));
            let complete = match stream.read_buf(&mut buffer).await? {
                0 => answer.end(buffer.len())?,
                _ => match answer.read(&mut buffer)? {
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

/// When to read a pod next.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    random: SmallRng,
    failures: u32,
}

impl Pace {
    /// A pace around `interval`.
    #[must_use]
    pub fn new(interval: Duration, seed: u64) -> Self {
        Self { interval, random: SmallRng::seed_from_u64(seed), failures: 0 }
    }

    /// Pause before the first poll: pods that are discovered together are spread over the interval.
    pub fn first(&mut self) -> Duration {
        self.interval.mul_f64(self.random.random_range(0.0..1.0))
    }

    /// Pause after a poll that took `took`. At least as long as the poll itself: writing the page holds the engine's API
    /// server, which must not spend more than half its time on it.
    pub fn after(&mut self, took: Duration, success: bool) -> Duration {
        if success {
            self.failures = 0;
            let interval = self.interval.mul_f64(self.random.random_range(1.0 - JITTER..1.0 + JITTER));
            return interval.saturating_sub(took).max(took);
        }
        let (first, longest) = BACKOFF;
        let pause = first.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures = self.failures.saturating_add(1);
        pause.mul_f64(self.random.random_range(0.5..1.0)).max(self.interval.min(longest))
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
        let pauses: Vec<_> = (0..100).map(|_| pace.after(took, true) + took).collect();
        assert!(pauses.iter().all(|pause| (Duration::from_millis(45)..=Duration::from_millis(55)).contains(pause)));
        assert!(pauses.windows(2).any(|pair| pair[0] != pair[1]));
        assert!(pace.first() < INTERVAL);
    }

    #[test]
    fn a_slow_pod_rests_as_long_as_it_worked() {
        let took = Duration::from_millis(400);
        assert_eq!(Pace::new(INTERVAL, 1).after(took, true), took);
    }

    #[test]
    fn failures_are_met_with_growing_pauses_until_the_next_success() {
        let mut pace = Pace::new(INTERVAL, 1);
        let pauses: Vec<_> = (0..20).map(|_| pace.after(Duration::ZERO, false)).collect();
        assert!(pauses[0] >= INTERVAL && pauses[0] <= Duration::from_millis(100));
        assert!(pauses[19] >= Duration::from_secs(1) && pauses[19] <= Duration::from_secs(2));
        pace.after(Duration::ZERO, true);
        assert!(pace.after(Duration::ZERO, false) <= Duration::from_millis(100));
    }

    #[test]
    fn the_same_seed_gives_the_same_pace() {
        let pauses = |seed| {
            let mut pace = Pace::new(INTERVAL, seed);
            (0..10).map(|_| pace.after(Duration::ZERO, true)).collect::<Vec<_>>()
        };
        assert_eq!(pauses(3), pauses(3));
        assert_ne!(pauses(3), pauses(4));
    }
}
