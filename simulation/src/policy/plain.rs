//! Policies that read no body.

use endpoint_picker::rng::Rng;

use super::{Candidate, Offer, Policy};

/// One after the other.
#[derive(Debug, Default)]
pub(crate) struct RoundRobin {
    next: usize,
}

impl Policy for RoundRobin {
    fn pick(&mut self, _: &Offer<'_>, candidates: &[Candidate<'_>], _: &mut Rng) -> usize {
        self.next = (self.next + 1) % candidates.len();
        candidates[self.next].pod
    }
}

/// Any.
#[derive(Debug, Default)]
pub(crate) struct Random;

impl Policy for Random {
    fn pick(&mut self, _: &Offer<'_>, candidates: &[Candidate<'_>], rng: &mut Rng) -> usize {
        candidates[rng.below(candidates.len() as u64) as usize].pod
    }
}

/// Of two drawn at random the one with fewer requests in flight, as Envoy's `LEAST_REQUEST` does by default.
#[derive(Debug, Default)]
pub(crate) struct LeastRequest;

impl Policy for LeastRequest {
    fn pick(&mut self, _: &Offer<'_>, candidates: &[Candidate<'_>], rng: &mut Rng) -> usize {
        let mut draw = || &candidates[rng.below(candidates.len() as u64) as usize];
        let (first, second) = (draw(), draw());
        if second.in_flight < first.in_flight { second.pod } else { first.pod }
    }
}
