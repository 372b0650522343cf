//! From scores to a short ranked list.

use super::candidate::Candidate;
use super::decision::MAX_RANKED;
use crate::rng::Rng;

/// Replaces scores by keys whose order is a draw without putting back, each candidate with a chance in proportion to its score: the
/// algorithm A-Res (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006). A score of 0 or less comes
/// behind all others; where all are, chance alone decides.
pub(super) fn draw(scores: &mut [f64], rng: &mut Rng) {
    for score in scores {
        // The logarithm of A-Res's key, which has the same order and does not round to 0 for small scores.
        *score = if *score > 0.0 { libm::log(rng.unit()) / *score } else { f64::NEG_INFINITY };
    }
}

/// Positions of the best `length` candidates, best first, and whether the best score was shared. Those that come last by right come
/// last; equal scores come in random order: each gets a random key, so that the order does not depend on where an endpoint
/// stands in the pool.
pub(super) fn rank(
    candidates: &[Candidate],
    scores: &[f64],
    length: usize,
    rng: &mut Rng,
) -> ([Option<usize>; MAX_RANKED], bool) {
    let mut best: [Option<(bool, f64, u64, usize)>; MAX_RANKED] = [None; MAX_RANKED];
    let mut tied = false;
    for (position, (candidate, &score)) in candidates.iter().zip(scores).enumerate() {
        let mut entry = (!candidate.is_last, score, rng.next_u64(), position);
        if let Some((is_first, leader, _, _)) = best.first().copied().flatten() {
            if (entry.0, score) > (is_first, leader) {
                tied = false;
            } else if entry.0 == is_first && score.total_cmp(&leader).is_eq() {
                tied = true;
            }
        }
        for place in best.iter_mut().take(length) {
            match place {
                Some(held) if (held.0, held.1, held.2) >= (entry.0, entry.1, entry.2) => {}
                Some(held) => core::mem::swap(held, &mut entry),
                None => {
                    *place = Some(entry);
                    break;
                }
            }
        }
    }
    (best.map(|place| place.map(|(_, _, _, position)| position)), tied)
}
