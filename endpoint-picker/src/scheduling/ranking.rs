//! From scores to a short ranked list.

use super::MAX_RANKED;
use crate::rng::Rng;

/// Indices of the best `length` scores, best first, and whether the best one was shared. Equal scores come in random order:
/// each gets a random key, so the order does not depend on where an endpoint stands in the pool.
pub(super) fn rank(scores: &[f64], length: usize, rng: &mut Rng) -> ([Option<usize>; MAX_RANKED], bool) {
    let mut best: [Option<(f64, u64, usize)>; MAX_RANKED] = [None; MAX_RANKED];
    let mut tied = false;
    for (index, &score) in scores.iter().enumerate() {
        let mut entry = (score, rng.next_u64(), index);
        if let Some((leader, _, _)) = best.first().copied().flatten() {
            if score > leader {
                tied = false;
            } else if score.total_cmp(&leader).is_eq() {
                tied = true;
            }
        }
        for place in best.iter_mut().take(length) {
            match place {
                Some(held) if (held.0, held.1) >= (entry.0, entry.1) => {}
                Some(held) => core::mem::swap(held, &mut entry),
                None => {
                    *place = Some(entry);
                    break;
                }
            }
        }
    }
    (best.map(|place| place.map(|(_, _, index)| index)), tied)
}
