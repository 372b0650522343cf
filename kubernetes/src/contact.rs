//! Whether the API server is there, for each resource that is watched, and whether it lets us watch.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::right::{ResourceKind, Right};

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
pub struct Contacts {
    contacts: [Contact; ResourceKind::ALL.len()],
    refused: Mutex<BTreeSet<Right>>,
}

impl Contacts {
    /// That of one resource.
    #[must_use]
    pub fn of(&self, kind: ResourceKind) -> &Contact {
        let [pods, pool, objectives, rewrites] = &self.contacts;
        match kind {
            ResourceKind::Pods => pods,
            ResourceKind::Pool => pool,
            ResourceKind::Objectives => objectives,
            ResourceKind::Rewrites => rewrites,
        }
    }

    /// Whether the server refused what needs this right when it was asked last.
    #[must_use]
    pub fn is_refused(&self, right: Right) -> bool {
        self.refusals().contains(&right)
    }

    /// It refused; true if this is news.
    pub(crate) fn refuse(&self, right: Right) -> bool {
        self.refusals().insert(right)
    }

    /// It did not, or there is nothing that needs the right; true if this is news.
    pub(crate) fn grant(&self, right: Right) -> bool {
        self.refusals().remove(&right)
    }

    fn refusals(&self) -> MutexGuard<'_, BTreeSet<Right>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::right::Verb;

    #[test]
    fn a_right_is_refused_until_it_is_granted() {
        let contacts = Contacts::default();
        let right = Right { group: "", kind: ResourceKind::Pods, verb: Verb::Watch };
        assert!(!contacts.is_refused(right) && !contacts.grant(right));
        assert!(contacts.refuse(right) && !contacts.refuse(right));
        assert!(contacts.is_refused(right) && !contacts.is_refused(Right { verb: Verb::List, ..right }));
        assert!(contacts.grant(right) && !contacts.is_refused(right));
    }

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
