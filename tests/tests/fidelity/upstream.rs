//! The servers behind Envoy: an upstream that does what a scenario says, and those that host calls go to.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::observed::Message;
use crate::wire;

/// What the backend of host calls responds with.
pub(crate) const BACKEND_RESPONSE: &str = "snapshot";
/// How long an attempt may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(2);

/// What a server does with its connections.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Waits for a scenario to respond.
    Scripted,
    /// Responds to each request at once.
    Backend,
    /// Reads and says nothing.
    Silent,
    /// Gives the snapshot, then says that nothing has changed.
    Sidecar,
}

/// All servers, each on a port of its own, until the process ends.
#[derive(Debug)]
pub(crate) struct Upstreams {
    /// Two addresses of the scripted upstream.
    pub(crate) scripted: [SocketAddr; 2],
    pub(crate) backend: SocketAddr,
    pub(crate) silent: SocketAddr,
    pub(crate) sidecar: SocketAddr,
    desk: Arc<Desk>,
}

#[derive(Debug, Default)]
struct Desk {
    /// By the value of `x-stream`, in order of arrival.
    attempts: Mutex<HashMap<String, Vec<Attempt>>>,
    changed: Condvar,
    snapshot: Mutex<Vec<u8>>,
    snapshot_known: AtomicBool,
}

#[derive(Debug)]
struct Attempt {
    /// Which of the addresses was chosen.
    address: SocketAddr,
    socket: TcpStream,
    received: Vec<u8>,
    closed: bool,
}

impl Upstreams {
    pub(crate) fn start() -> Self {
        let desk = Arc::new(Desk::default());
        let start = |kind| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let desk = Arc::clone(&desk);
            std::thread::spawn(move || {
                for socket in listener.incoming().flatten() {
                    let desk = Arc::clone(&desk);
                    std::thread::spawn(move || desk.serve(socket, kind));
                }
            });
            address
        };
        Self {
            scripted: [start(Kind::Scripted), start(Kind::Scripted)],
            backend: start(Kind::Backend),
            silent: start(Kind::Silent),
            sidecar: start(Kind::Sidecar),
            desk: Arc::clone(&desk),
        }
    }

    pub(crate) fn set_snapshot(&self, snapshot: Vec<u8>) {
        *self.desk.snapshot.lock().unwrap() = snapshot;
    }

    /// Whether someone has asked for news of a snapshot that it has.
    pub(crate) fn snapshot_is_known(&self) -> bool {
        self.desk.snapshot_known.load(Ordering::Relaxed)
    }

    /// Writes to the last attempt of a stream, after as many as `before` have come and gone. False if there is none.
    pub(crate) fn write(&self, stream: &str, before: usize, bytes: &[u8]) -> bool {
        self.with_attempt(stream, before, |attempt| attempt.socket.write_all(bytes).is_ok())
    }

    /// Closes the connection of the last attempt.
    pub(crate) fn close(&self, stream: &str, before: usize) -> bool {
        self.with_attempt(stream, before, |attempt| attempt.socket.shutdown(Shutdown::Both).is_ok())
    }

    fn with_attempt(&self, stream: &str, before: usize, what: impl FnOnce(&mut Attempt) -> bool) -> bool {
        let deadline = Instant::now() + ARRIVAL;
        let mut attempts = self.desk.attempts.lock().unwrap();
        loop {
            if let Some(attempt) = attempts.get_mut(stream).and_then(|known| known.get_mut(before)) {
                return what(attempt);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            attempts = self.desk.changed.wait_timeout(attempts, left).unwrap().0;
        }
    }

    /// What the attempts of a stream have brought so far.
    pub(crate) fn received(&self, stream: &str) -> Vec<Message> {
        let attempts = self.desk.attempts.lock().unwrap();
        let known = attempts.get(stream).into_iter().flatten();
        let read = |attempt: &Attempt| {
            let mut message = wire::read_request(&attempt.received, attempt.closed)?;
            message.start = format!("{} at {}", message.start, attempt.address);
            Some(message)
        };
        known.filter_map(read).collect()
    }

    /// How many bytes the attempts of a scenario have brought, and how many there are.
    pub(crate) fn activity(&self, scenario: &str) -> usize {
        let attempts = self.desk.attempts.lock().unwrap();
        let own = attempts.iter().filter(|(stream, _)| is_of(stream, scenario));
        own.flat_map(|(_, attempts)| attempts).map(|attempt| 1 + attempt.received.len()).sum()
    }
}

fn is_of(stream: &str, scenario: &str) -> bool {
    stream.strip_prefix(scenario).is_some_and(|rest| rest.starts_with('/'))
}

impl Desk {
    fn serve(&self, mut socket: TcpStream, kind: Kind) -> Option<()> {
        socket.set_nodelay(true).ok()?;
        let mut bytes = Vec::new();
        let mut buffer = [0; 16 * 1024];
        loop {
            let message = loop {
                if let Some(message) = wire::read_request(&bytes, false) {
                    break message;
                }
                match socket.read(&mut buffer).ok()? {
                    0 => return None,
                    read => bytes.extend(&buffer[..read]),
                }
            };
            match kind {
                Kind::Scripted => return self.attend(socket, bytes, &message),
                Kind::Silent => while socket.read(&mut buffer).ok()? > 0 {},
                Kind::Backend => {
                    let length = BACKEND_RESPONSE.len();
                    write!(socket, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{BACKEND_RESPONSE}").ok()?;
                }
                Kind::Sidecar => {
                    // A service on a tick asks again at once; this one has no news for a while.
                    let known = wire::header(&message, "if-none-match").is_some();
                    let body = if known { Vec::new() } else { self.snapshot.lock().unwrap().clone() };
                    self.snapshot_known.fetch_or(known, Ordering::Relaxed);
                    let status = if known { "304 Not Modified" } else { "200 OK" };
                    let length = if known { String::new() } else { format!("content-length: {}\r\n", body.len()) };
                    write!(socket, "HTTP/1.1 {status}\r\netag: \"1-1\"\r\n{length}\r\n").ok()?;
                    socket.write_all(&body).ok()?;
                }
            }
            // Host calls of these scenarios have bodies that arrive with their heads, or none.
            bytes.clear();
        }
    }

    /// Takes an attempt down, and what else comes of it until its connection ends.
    fn attend(&self, mut socket: TcpStream, received: Vec<u8>, message: &Message) -> Option<()> {
        let stream = wire::header(message, "x-stream")?;
        let number = {
            let mut attempts = self.attempts.lock().unwrap();
            let known = attempts.entry(stream.clone()).or_default();
            known.push(Attempt {
                address: socket.local_addr().ok()?,
                socket: socket.try_clone().ok()?,
                received,
                closed: false,
            });
            known.len() - 1
        };
        self.changed.notify_all();
        let mut buffer = [0; 16 * 1024];
        loop {
            let read = socket.read(&mut buffer).unwrap_or(0);
            let mut attempts = self.attempts.lock().unwrap();
            let attempt = &mut attempts.get_mut(&stream)?[number];
            if read == 0 {
                attempt.closed = true;
                return Some(());
            }
            attempt.received.extend(&buffer[..read]);
        }
    }
}
