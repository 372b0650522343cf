//! The policies that ours is compared with: plain models, each one gateway that sees every request.

pub(crate) mod cache_aware;
pub(crate) mod cost;
pub(crate) mod endpoint_picker_defaults;
pub(crate) mod plain;
mod prefix_table;

use endpoint_picker::rng::Rng;

use crate::engine::{Engine, Page};
use crate::prompt::Prompt;

/// What a policy is asked.
pub(crate) struct Offer<'a> {
    /// The model or adapter that it asks for.
    pub(crate) model: &'a str,
    /// The body as the client sent it.
    pub(crate) body: &'a str,
    pub(crate) prompt: &'a Prompt,
}

/// What a policy may know of one pod that it can choose.
pub(crate) struct Candidate<'a> {
    /// Its place among all pods.
    pub(crate) pod: usize,
    /// What its metrics page said when it was polled last.
    pub(crate) page: Page,
    /// Requests that were sent there and have not ended.
    pub(crate) in_flight: u32,
    /// The truth, for policies that are all-knowing.
    pub(crate) engine: &'a Engine,
}

/// A way to choose.
pub(crate) trait Policy {
    /// The pod for a request; `candidates` is never empty.
    fn pick(&mut self, offer: &Offer<'_>, candidates: &[Candidate<'_>], rng: &mut Rng) -> usize;
}

/// The candidate with the least cost, one of several by chance.
fn cheapest(candidates: &[Candidate<'_>], rng: &mut Rng, mut cost: impl FnMut(&Candidate<'_>) -> f64) -> usize {
    let (mut best, mut least, mut equals) = (0, f64::INFINITY, 0);
    for candidate in candidates {
        let cost = cost(candidate);
        if cost < least {
            (best, least, equals) = (candidate.pod, cost, 1);
        } else if cost <= least {
            equals += 1;
            if rng.below(equals) == 0 {
                best = candidate.pod;
            }
        }
    }
    best
}

#[cfg(test)]
mod tests;
