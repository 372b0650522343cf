//! The scorer of cold prompts.

use crate::scheduling::cold::is_cold;

use super::sight::{Memory, Sight};

/// Fills the memory's values. A prompt that somebody has scores 0.5 everywhere. Those that never got a cold one score 1; the others
/// follow behind them in the order of their last one, at even distances down to 0.
///
/// The EPP spaces those that never got one out as well, in an order that means nothing.
pub(super) fn rate(sight: &Sight<'_>, memory: &mut Memory) {
    let candidates = sight.candidates;
    if !is_cold(candidates) {
        memory.set(candidates.iter().map(|_| 0.5));
        return;
    }
    memory.order.clear();
    let last = candidates.iter().enumerate().map(|(position, candidate)| (sight.cold.last(candidate.id), position));
    memory.order.extend(last.filter_map(|(last, position)| Some((last?, position))));
    memory.order.sort_unstable();
    memory.set(candidates.iter().map(|_| 1.0));
    let never = candidates.len() - memory.order.len();
    let steps = candidates.len().saturating_sub(1).max(1);
    for (place, &(_, position)) in memory.order.iter().enumerate() {
        if let Some(value) = memory.values.get_mut(position) {
            *value = 1.0 - (never + place) as f64 / steps as f64;
        }
    }
}
