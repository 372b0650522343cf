//! The settings of a pick.

use alloc::vec::Vec;

use super::scorer::Scorer;

/// How to pick.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Scorers with their weights; 1 is the best score.
    pub scorers: Vec<(Scorer, f64)>,
    /// What ranks the scores.
    pub picker: Picker,
    /// Entries of the ranked list, 1 to [`super::MAX_RANKED`].
    pub ranked: usize,
    /// Loads that were last confirmed longer ago than this are stale; microseconds.
    pub max_snapshot_age_micros: u64,
    /// Staleness and ejection together leave out at most this part of a pool, 0 to 100 percent.
    pub max_excluded_percent: u8,
}

impl Profile {
    /// Whether some scorer asks what a request would take, so that prompts are hashed and answers taught.
    #[must_use]
    pub fn needs_outlooks(&self) -> bool {
        self.scorers.iter().any(|(scorer, _)| scorer.needs_outlooks())
    }
}

/// What ranks the scores.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Picker {
    /// Highest score first, ties in random order.
    MaxScore,
    /// Random order, whatever the scores.
    Random,
}
