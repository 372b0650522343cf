//! Who got cold prompts: requests of whose prompt no candidate has anything in its cache.
//!
//! Such a prompt takes new room in a cache, whoever gets it. `no-hit-lru-scorer` lets caches grow alike: it prefers the endpoint that got a
//! cold prompt longest ago. Each worker knows only its own.

use hashbrown::HashMap;

use super::candidate::Candidate;
use crate::pool::EndpointId;

/// Parameters of `no-hit-lru-scorer`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NoHitLru {
    /// Endpoints that are remembered; beyond that, the one that got a cold prompt longest ago counts as if it never had.
    pub lru_size: u32,
}

impl NoHitLru {
    /// The EPP's.
    pub const DEFAULT: Self = Self { lru_size: 1_024 };
}

/// When endpoints last got a cold prompt, as a count of cold prompts.
#[derive(Clone, Debug, Default)]
pub(super) struct ColdEndpoints {
    last: HashMap<EndpointId, u64>,
    count: u64,
}

impl ColdEndpoints {
    /// The number of the last cold prompt that `endpoint` got; `None`: it got none, or that is forgotten.
    pub(super) fn last(&self, endpoint: EndpointId) -> Option<u64> {
        self.last.get(&endpoint).copied()
    }

    /// Notes that `endpoint` gets a cold prompt now, and remembers at most `lru_size` endpoints.
    pub(super) fn note(&mut self, endpoint: EndpointId, NoHitLru { lru_size }: NoHitLru) {
        if !self.last.contains_key(&endpoint) {
            let size = usize::try_from(lru_size).unwrap_or(usize::MAX);
            while self.last.len() >= size.max(1) {
                let Some(oldest) = self.last.iter().min_by_key(|&(_, &last)| last).map(|(&id, _)| id) else { break };
                self.last.remove(&oldest);
            }
        }
        self.count += 1;
        self.last.insert(endpoint, self.count);
    }
}

/// Whether no candidate has anything of the prompt.
pub(super) fn is_cold(candidates: &[Candidate]) -> bool {
    candidates.iter().all(|candidate| candidate.matched_bytes == 0)
}
