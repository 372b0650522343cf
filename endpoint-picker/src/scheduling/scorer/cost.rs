//! Scores of costs: the lowest cost among the candidates scores 1, twice that cost 0.5.

use super::sight::{Memory, Sight};

/// Fills the memory's values. A candidate whose cost is unknown, which is no finite number, scores 0.
pub(super) fn rate(sight: &Sight<'_>, memory: &mut Memory) {
    let known = |cost: f64| cost.is_finite().then(|| cost.max(f64::MIN_POSITIVE));
    let lowest = sight.costs.iter().copied().filter_map(known).fold(f64::INFINITY, f64::min);
    let costs = sight.costs.iter().copied().chain(core::iter::repeat(f64::NAN));
    memory.set(costs.take(sight.candidates.len()).map(|cost| known(cost).map_or(0.0, |cost| lowest / cost)));
}
