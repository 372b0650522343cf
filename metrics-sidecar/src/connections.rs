//! Open connections of a listener: what each waits for, until when, and which one goes when there are too many.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::shared::lock;

/// Connections of one listener at once. Envoy has one or two, Prometheus one for each replica, and the 32 who may watch the live page up to
/// six each in a browser. It is a fourth of the usual limit of 1024 file descriptors, of which each pod takes one, too.
pub(crate) const MOST_CONNECTIONS: usize = 256;
/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a client may take for the head of a request, or to begin with the first one: the networks' retries of a lost packet or two.
const HEAD: Duration = Duration::from_secs(10);
/// How long a connection may be kept for a further request: scrapers come each minute or so, and lose nothing when they connect anew.
const KEPT: Duration = Duration::from_secs(180);

/// What a connection waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Awaited {
    /// Its handshake.
    Handshake(Instant),
    /// The head of its first request, or the rest of a head that has begun.
    Head(Instant),
    /// A further request.
    Next(Instant),
    /// The sidecar's own answer.
    Answer,
}

impl Awaited {
    /// When it began to wait for the client.
    const fn since(self) -> Option<Instant> {
        match self {
            Self::Handshake(since) | Self::Head(since) | Self::Next(since) => Some(since),
            Self::Answer => None,
        }
    }

    fn deadline(self) -> Option<Instant> {
        match self {
            Self::Handshake(since) => Some(since + HANDSHAKE),
            Self::Head(since) => Some(since + HEAD),
            Self::Next(since) => Some(since + KEPT),
            Self::Answer => None,
        }
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    awaited: Mutex<Awaited>,
    dismissed: Notify,
}

impl Connection {
    fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self { awaited: Mutex::new(Awaited::Handshake(now)), dismissed: Notify::new() })
    }

    /// Its handshake is over, or it needs none.
    pub(crate) fn greeted(&self, now: Instant) {
        *lock(&self.awaited) = Awaited::Head(now);
    }

    /// Bytes came.
    pub(crate) fn heard(&self, now: Instant) {
        let mut awaited = lock(&self.awaited);
        // Further bytes of a head do not give it more time.
        if matches!(*awaited, Awaited::Next(_)) {
            *awaited = Awaited::Head(now);
        }
    }

    /// A request came, which is answered until what this returns is dropped.
    pub(crate) fn answering(self: &Arc<Self>) -> Answering {
        *lock(&self.awaited) = Awaited::Answer;
        Answering(Arc::clone(self))
    }

    /// When its client's time is over, as things are; `None`: it does not wait for its client.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        lock(&self.awaited).deadline()
    }

    /// Returns once another connection was let in instead.
    pub(crate) async fn dismissed(&self) {
        self.dismissed.notified().await;
    }
}

/// An answer under way.
#[derive(Debug)]
pub(crate) struct Answering(Arc<Connection>);

impl Drop for Answering {
    fn drop(&mut self) {
        *lock(&self.0.awaited) = Awaited::Next(Instant::now());
    }
}

/// The open connections of a listener.
#[derive(Debug, Default)]
pub(crate) struct Connections(Mutex<Vec<Arc<Connection>>>);

/// A connection that is open until this is dropped.
#[derive(Debug)]
pub(crate) struct Open {
    connection: Arc<Connection>,
    connections: Arc<Connections>,
}

/// What becomes of a connection that comes.
#[derive(Debug)]
pub(crate) enum Admitted {
    /// It is let in.
    In(Open),
    /// It is let in, and the one that has waited for its client for longest is closed.
    Instead(Open),
    /// All the others are being answered.
    Refused,
}

impl Connections {
    /// Lets one in, if there is room or can be.
    pub(crate) fn admit(self: &Arc<Self>, now: Instant) -> Admitted {
        let is_full = lock(&self.0).len() >= MOST_CONNECTIONS;
        if is_full && !self.dismiss_one() {
            return Admitted::Refused;
        }
        let connection = Connection::new(now);
        lock(&self.0).push(Arc::clone(&connection));
        let open = Open { connection, connections: Arc::clone(self) };
        if is_full { Admitted::Instead(open) } else { Admitted::In(open) }
    }

    /// Has the connection that has waited for its client for longest closed; false: there is none.
    pub(crate) fn dismiss_one(&self) -> bool {
        let mut connections = lock(&self.0);
        let waiting = connections.iter().enumerate();
        let waiting = waiting.filter_map(|(place, connection)| Some((lock(&connection.awaited).since()?, place)));
        let Some((_, place)) = waiting.min() else { return false };
        connections.swap_remove(place).dismissed.notify_one();
        true
    }
}

impl Open {
    pub(crate) const fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        lock(&self.connections.0).retain(|other| !Arc::ptr_eq(other, &self.connection));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn open(admitted: Admitted) -> Open {
        match admitted {
            Admitted::In(open) | Admitted::Instead(open) => open,
            Admitted::Refused => unreachable!("there is room"),
        }
    }

    #[test]
    fn a_client_has_its_time_for_each_step_and_the_sidecar_has_any() {
        let begin = Instant::now();
        let open = open(Arc::new(Connections::default()).admit(begin));
        let connection = open.connection();
        assert_eq!(connection.deadline(), Some(begin + HANDSHAKE));
        let greeted = begin + Duration::from_secs(1);
        connection.greeted(greeted);
        assert_eq!(connection.deadline(), Some(greeted + HEAD));
        connection.heard(greeted + Duration::from_secs(2));
        assert_eq!(connection.deadline(), Some(greeted + HEAD), "bytes one by one win nothing");
        let answering = connection.answering();
        connection.heard(greeted + Duration::from_secs(3));
        assert_eq!(connection.deadline(), None);
        let before = Instant::now();
        drop(answering);
        let kept = connection.deadline().unwrap() - KEPT;
        assert!((before..=Instant::now()).contains(&kept));
        let asking = begin + Duration::from_secs(60);
        connection.heard(asking);
        assert_eq!(connection.deadline(), Some(asking + HEAD));
    }

    fn is_dismissed(open: &Open) -> bool {
        open.connection().dismissed().now_or_never().is_some()
    }

    #[test]
    fn one_too_many_takes_the_place_of_the_one_that_waits_for_longest() {
        let (connections, begin) = (Arc::new(Connections::default()), Instant::now());
        let mut moments = (0..).map(|moment| begin + Duration::from_millis(moment));
        let mut all: Vec<Open> = moments
            .by_ref()
            .take(MOST_CONNECTIONS)
            .map(|moment| {
                let Admitted::In(open) = connections.admit(moment) else { unreachable!("there is room") };
                open
            })
            .collect();
        // The first one is being answered, and the second has just begun to wait anew.
        let mut answers = vec![all[0].connection().answering()];
        all[1].connection().greeted(moments.next().unwrap());
        let Admitted::Instead(late) = connections.admit(moments.next().unwrap()) else { unreachable!("one goes") };
        all.push(late);
        let dismissed: Vec<usize> = (0..all.len()).filter(|place| is_dismissed(&all[*place])).collect();
        assert_eq!(dismissed, [2]);
        all.remove(2);
        answers.extend(all.iter().skip(1).map(|open| open.connection().answering()));
        assert!(matches!(connections.admit(moments.next().unwrap()), Admitted::Refused));
        assert!(!connections.dismiss_one());
        all.pop();
        assert!(matches!(connections.admit(moments.next().unwrap()), Admitted::In(_)));
    }
}
