//! What an engine has done since it started, as its page counts it. Pure.

use crate::dialect::COUNTERS;

/// Counters of a page, each summed over the engines that the page is of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counters {
    /// In the order of the engine's dialect; `None`: not on the page.
    pub values: [Option<f64>; COUNTERS],
    /// Whether one of them moves with every few tokens of any request.
    pub count_steps: bool,
}

impl Counters {
    /// Whether one of them is smaller than it was: only a new process counts from 0.
    #[must_use]
    pub fn fell_since(&self, earlier: &Self) -> bool {
        let pairs = self.values.iter().zip(&earlier.values);
        pairs.into_iter().any(|(now, before)| now.zip(*before).is_some_and(|(now, before)| now < before))
    }

    /// Takes newer ones; of what they lack the older stay known.
    pub fn update(&mut self, newer: &Self) {
        for (known, newer) in self.values.iter_mut().zip(newer.values) {
            *known = newer.or(*known);
        }
        self.count_steps = newer.count_steps;
    }
}
