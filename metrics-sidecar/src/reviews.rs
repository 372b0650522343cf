//! What the API server said of tokens, kept for a bounded time and in a bounded number, so that it is asked seldom.
//!
//! A token that is asked for by many at once is reviewed once. Tokens that nobody knows are reviewed at a bounded rate, so that a burst
//! of them does not reach the API server; those that it has let in before go past that bound, or the burst would keep scrapers out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use tracing::warn;

use crate::api_server::ApiServer;
use crate::shared::lock;

/// A refusal stands for this part of the time for which an admission does: a right that was just given should not take long.
const REFUSED_PART: u32 = 6;
/// How long the API server is left alone after it could not answer.
const FAILED_FOR: Duration = Duration::from_secs(1);
/// How long after its last review a token that was let in may be reviewed ahead of unknown ones.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);
/// Answers that are kept at most.
const MOST_KEPT: usize = 1024;
/// Reviews of unknown tokens that may come at once, and how many come to be allowed each second.
const UNKNOWN_BURST: f64 = 20.0;
const UNKNOWN_RATE: f64 = 5.0;

/// What became of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    Allowed,
    /// Nobody's token.
    Unknown,
    /// Somebody's who may not; their name.
    Forbidden(String),
    /// The API server could not be asked.
    Failed,
    /// Too many tokens that nobody knows.
    Busy,
}

/// Asks the API server, or remembers what it said.
#[derive(Debug)]
pub(crate) struct Reviews {
    server: ApiServer,
    /// How long somebody who was let in is let in without another review: so long does a token work on after it was revoked.
    ttl: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    kept: HashMap<Asked, Arc<Entry>>,
    /// Reviews of unknown tokens that may be made now, as of then.
    budget: f64,
    budgeted: Instant,
}

/// What was asked: never the token itself.
type Asked = [u8; 32];

#[derive(Debug, Default)]
struct Entry {
    /// Held by the one who asks the API server.
    answer: tokio::sync::Mutex<()>,
    last: Mutex<Option<(Verdict, Instant)>>,
    /// When the API server let its token in last, unless it has refused it since.
    admitted: Mutex<Option<Instant>>,
}

impl Reviews {
    pub(crate) fn new(server: ApiServer, ttl: Duration) -> Self {
        let state = State { kept: HashMap::new(), budget: UNKNOWN_BURST, budgeted: Instant::now() };
        Self { server, ttl, state: Mutex::new(state) }
    }

    /// Whether who has this token may do this to this path.
    pub(crate) async fn judge(&self, token: &str, verb: &str, path: &str) -> Verdict {
        let asked = asked(token, verb, path);
        let now = Instant::now();
        let Some(entry) = self.entry(asked, now) else { return Verdict::Busy };
        if let Some(verdict) = entry.fresh(now, self.ttl) {
            return verdict;
        }
        let _asking = entry.answer.lock().await;
        if let Some(verdict) = entry.fresh(Instant::now(), self.ttl) {
            return verdict;
        }
        let verdict = self.ask(token, verb, path).await;
        entry.set(&verdict, Instant::now());
        verdict
    }

    /// The place for an answer, if the API server may be asked for it now.
    fn entry(&self, asked: Asked, now: Instant) -> Option<Arc<Entry>> {
        let mut state = lock(&self.state);
        if let Some(entry) = state.kept.get(&asked).map(Arc::clone)
            && (entry.fresh(now, self.ttl).is_some() || entry.was_admitted(now) || entry.is_asked())
        {
            return Some(entry);
        }
        let grown = now.duration_since(state.budgeted).as_secs_f64() * UNKNOWN_RATE;
        state.budget = (state.budget + grown).min(UNKNOWN_BURST);
        state.budgeted = now;
        if state.budget < 1.0 {
            return None;
        }
        state.budget -= 1.0;
        if let Some(entry) = state.kept.get(&asked) {
            return Some(Arc::clone(entry));
        }
        state.make_room(now, self.ttl);
        let entry = Arc::<Entry>::default();
        state.kept.insert(asked, Arc::clone(&entry));
        Some(entry)
    }

    async fn ask(&self, token: &str, verb: &str, path: &str) -> Verdict {
        let user = match self.server.authenticate(token).await {
            Ok(Some(user)) => user,
            Ok(None) => return Verdict::Unknown,
            Err(problem) => {
                warn!(problem, "a token cannot be reviewed");
                return Verdict::Failed;
            }
        };
        match self.server.authorize(&user, verb, path).await {
            Ok(true) => Verdict::Allowed,
            Ok(false) => Verdict::Forbidden(user.username),
            Err(problem) => {
                warn!(problem, user = user.username, path, "access cannot be reviewed");
                Verdict::Failed
            }
        }
    }
}

impl State {
    /// Leaves room for one more: what is over goes first, then the oldest refusal, then the oldest.
    fn make_room(&mut self, now: Instant, ttl: Duration) {
        if self.kept.len() < MOST_KEPT {
            return;
        }
        self.kept.retain(|_, entry| entry.is_asked() || entry.is_worth_keeping(now, ttl));
        while self.kept.len() >= MOST_KEPT {
            let least = self.kept.iter().min_by_key(|(_, entry)| entry.worth());
            let Some(oldest) = least.map(|(asked, _)| *asked) else { return };
            self.kept.remove(&oldest);
        }
    }
}

impl Entry {
    fn fresh(&self, now: Instant, ttl: Duration) -> Option<Verdict> {
        let last = lock(&self.last);
        let (verdict, at) = last.as_ref()?;
        let lasts = match verdict {
            Verdict::Allowed => ttl,
            Verdict::Unknown | Verdict::Forbidden(_) => ttl / REFUSED_PART,
            Verdict::Failed | Verdict::Busy => FAILED_FOR,
        };
        (now.saturating_duration_since(*at) < lasts).then(|| verdict.clone())
    }

    fn set(&self, verdict: &Verdict, now: Instant) {
        *lock(&self.last) = Some((verdict.clone(), now));
        match verdict {
            Verdict::Allowed => *lock(&self.admitted) = Some(now),
            Verdict::Unknown | Verdict::Forbidden(_) => *lock(&self.admitted) = None,
            // It may well be somebody's.
            Verdict::Failed | Verdict::Busy => {}
        }
    }

    fn was_admitted(&self, now: Instant) -> bool {
        lock(&self.admitted).is_some_and(|at| now.saturating_duration_since(at) < REMEMBERED_FOR)
    }

    /// Whether somebody asks the API server just now.
    fn is_asked(&self) -> bool {
        self.answer.try_lock().is_err()
    }

    fn is_worth_keeping(&self, now: Instant, ttl: Duration) -> bool {
        self.fresh(now, ttl).is_some() || self.was_admitted(now)
    }

    /// What goes first when there is no room: refusals before admissions, the oldest of each.
    fn worth(&self) -> (bool, Option<Instant>) {
        (lock(&self.admitted).is_some(), lock(&self.last).as_ref().map(|(_, at)| *at))
    }
}

fn asked(token: &str, verb: &str, path: &str) -> Asked {
    let mut hasher = Sha256::new();
    for part in [token, verb, path] {
        hasher.update(part.len().to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    fn entry(verdict: &Verdict, at: Instant) -> Arc<Entry> {
        let entry = Arc::<Entry>::default();
        entry.set(verdict, at);
        entry
    }

    fn key(index: usize) -> Asked {
        asked(&index.to_string(), "get", "/metrics")
    }

    #[test]
    fn answers_stand_for_their_time_and_no_longer() {
        let begin = Instant::now();
        for (verdict, lasts) in [
            (Verdict::Allowed, TTL),
            (Verdict::Unknown, TTL / 6),
            (Verdict::Forbidden("u".to_owned()), TTL / 6),
            (Verdict::Failed, FAILED_FOR),
        ] {
            let entry = entry(&verdict, begin);
            let just_before = begin + lasts - Duration::from_millis(1);
            assert_eq!(entry.fresh(just_before, TTL), Some(verdict.clone()));
            assert_eq!(entry.fresh(begin + lasts, TTL), None, "{verdict:?}");
        }
    }

    #[test]
    fn no_more_answers_are_kept_than_allowed_and_admissions_stay_longest() {
        let now = Instant::now();
        let mut state = State { kept: HashMap::new(), budget: 0.0, budgeted: now };
        let good = key(usize::MAX);
        state.kept.insert(good, entry(&Verdict::Allowed, now));
        for index in 0..3 * MOST_KEPT {
            let at = now + Duration::from_millis(u64::try_from(index).unwrap());
            state.make_room(at, TTL);
            state.kept.insert(key(index), entry(&Verdict::Unknown, at));
            assert!(state.kept.len() <= MOST_KEPT);
        }
        assert!(state.kept.contains_key(&good), "a scraper's answer was given up for those of strangers");
        assert!(state.kept.contains_key(&key(3 * MOST_KEPT - 1)) && !state.kept.contains_key(&key(0)));
    }

    #[test]
    fn a_scraper_is_remembered_through_an_outage_and_not_beyond_a_refusal() {
        let begin = Instant::now();
        let scraper = entry(&Verdict::Allowed, begin);
        scraper.set(&Verdict::Failed, begin + TTL);
        assert!(scraper.was_admitted(begin + TTL) && !scraper.was_admitted(begin + REMEMBERED_FOR));
        assert_eq!(scraper.fresh(begin + TTL, TTL), Some(Verdict::Failed), "it is not let in for that");
        scraper.set(&Verdict::Unknown, begin + TTL);
        assert!(!scraper.was_admitted(begin + TTL));
    }

    #[test]
    fn what_is_asked_tells_its_parts_apart() {
        assert_ne!(asked("a", "bc", "d"), asked("ab", "c", "d"));
        assert_ne!(asked("a", "get", "/metrics"), asked("a", "head", "/metrics"));
    }
}
