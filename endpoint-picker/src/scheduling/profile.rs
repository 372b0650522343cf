//! The settings of a pick.

use alloc::vec::Vec;

use super::cold::NoHitLru;
use super::scorer::{PrefixCache, Scorer};

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
    /// Whether some scorer asks what a request would take at each endpoint, so that answers must teach.
    #[must_use]
    pub fn needs_outlooks(&self) -> bool {
        self.scorers.iter().any(|(scorer, _)| scorer.needs_outlooks())
    }

    /// Whether some scorer asks who has a request's prompt, so that prompts must be hashed.
    #[must_use]
    pub fn needs_prefixes(&self) -> bool {
        self.scorers.iter().any(|(scorer, _)| scorer.needs_prefixes())
    }

    /// Whether a scorer weighs the endpoint of a client's session against others.
    pub(super) fn weighs_sessions(&self) -> bool {
        self.scorers.iter().any(|(scorer, _)| *scorer == Scorer::SessionAffinity)
    }

    /// The parameters of its `prefix-cache-scorer`, if it has one.
    pub(super) fn prefix_cache(&self) -> Option<PrefixCache> {
        self.scorers.iter().find_map(|(scorer, _)| match scorer {
            Scorer::PrefixCache(parameters) => Some(*parameters),
            _ => None,
        })
    }

    /// The parameters of its `no-hit-lru-scorer`, if it has one.
    pub(super) fn no_hit_lru(&self) -> Option<NoHitLru> {
        self.scorers.iter().find_map(|(scorer, _)| match scorer {
            Scorer::NoHitLru(parameters) => Some(*parameters),
            _ => None,
        })
    }
}

/// What ranks the scores.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Picker {
    /// `max-score-picker`: highest score first, ties in random order.
    MaxScore,
    /// `weighted-random-picker`: drawn without putting back, each with a chance in proportion to its score.
    WeightedRandom,
    /// `random-picker`: random order, whatever the scores.
    Random,
}

impl Picker {
    /// Every picker.
    pub const ALL: [Self; 3] = [Self::MaxScore, Self::WeightedRandom, Self::Random];

    /// The plugin's name in configurations.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MaxScore => "max-score-picker",
            Self::WeightedRandom => "weighted-random-picker",
            Self::Random => "random-picker",
        }
    }
}
