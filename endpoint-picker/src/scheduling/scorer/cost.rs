//! Scores of costs: the lowest cost among the candidates scores 1, twice that cost 0.5.

use crate::scheduling::forecast::Outlook;

use super::sight::{Memory, Sight};

/// Fills the memory's values. A candidate whose cost is no finite number scores 0.
pub(super) fn rate(cost: impl Fn(&Outlook) -> f64, sight: &Sight<'_>, memory: &mut Memory) {
    memory.set(sight.outlooks.iter().map(|outlook| cost(outlook).max(f64::MIN_POSITIVE)));
    let lowest = memory.values.iter().copied().fold(f64::INFINITY, f64::min);
    memory.values.iter_mut().for_each(|value| *value = if value.is_finite() { lowest / *value } else { 0.0 });
}
