//! Whether the API server is there, for each resource that is watched.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A resource that is watched.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ResourceKind {
    /// Pods.
    Pods,
    /// The pool itself.
    Pool,
    /// Its objectives.
    Objectives,
    /// Its rewrites.
    Rewrites,
}

impl ResourceKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pods, Self::Pool, Self::Objectives, Self::Rewrites];

    /// Its plural, as in paths and in roles.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Pool => "inferencepools",
            Self::Objectives => "inferenceobjectives",
            Self::Rewrites => "inferencemodelrewrites",
        }
    }
}

/// Whether a watch is current.
#[derive(Debug)]
pub struct Contact {
    began: Instant,
    /// Milliseconds since the beginning at which it was lost, plus 1; 0: it is not lost.
    lost_at: AtomicU64,
}

impl Default for Contact {
    fn default() -> Self {
        Self { began: Instant::now(), lost_at: AtomicU64::new(0) }
    }
}

impl Contact {
    /// How long the watch has not been current; zero while it is, and before the first try.
    #[must_use]
    pub fn lost_for(&self) -> Duration {
        match self.lost_at.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            at => self.began.elapsed().saturating_sub(Duration::from_millis(at - 1)),
        }
    }

    /// Whether it is lost.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost_at.load(Ordering::Relaxed) > 0
    }

    /// The server answered.
    pub(crate) fn regain(&self) {
        self.lost_at.store(0, Ordering::Relaxed);
    }

    /// It did not, or refused. Only the first time counts until it answers again.
    pub(crate) fn lose(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1;
        // Another thread that was quicker knows as much.
        let _ = self.lost_at.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// The contacts of everything that a pool needs watched.
#[derive(Debug, Default)]
pub struct Contacts([Contact; ResourceKind::ALL.len()]);

impl Contacts {
    /// That of one resource.
    #[must_use]
    pub fn of(&self, kind: ResourceKind) -> &Contact {
        let [pods, pool, objectives, rewrites] = &self.0;
        match kind {
            ResourceKind::Pods => pods,
            ResourceKind::Pool => pool,
            ResourceKind::Objectives => objectives,
            ResourceKind::Rewrites => rewrites,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contact_is_lost_from_its_first_failure_until_an_answer() {
        let contacts = Contacts::default();
        let contact = contacts.of(ResourceKind::Pods);
        assert_eq!((contact.is_lost(), contact.lost_for()), (false, Duration::ZERO));
        contact.lose();
        std::thread::sleep(Duration::from_millis(15));
        contact.lose();
        assert!(contact.is_lost() && contact.lost_for() >= Duration::from_millis(10), "{:?}", contact.lost_for());
        assert!(!contacts.of(ResourceKind::Pool).is_lost());
        contact.regain();
        assert_eq!((contact.is_lost(), contact.lost_for()), (false, Duration::ZERO));
    }
}
