//! What the demo's clients counted.

use std::time::Duration;

use local_stack::traffic::{Call, Usage};

/// One request that was answered as it should be.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) call: Call,
    pub(crate) model: &'static str,
    pub(crate) streamed: bool,
    pub(crate) pod: String,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    pub(crate) usage: Usage,
    pub(crate) first_byte: Duration,
    pub(crate) duration: Duration,
}

/// All of them, and what went wrong with the others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) served: Vec<Served>,
    pub(crate) failures: Vec<String>,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.served.extend(other.served);
        self.failures.extend(other.failures);
    }

    /// Models that were asked for, sorted.
    pub(crate) fn models(&self) -> Vec<&'static str> {
        let mut models: Vec<_> = self.served.iter().map(|request| request.model).collect();
        models.sort_unstable();
        models.dedup();
        models
    }

    pub(crate) fn of_model(&self, model: &str) -> impl Iterator<Item = &Served> {
        self.served.iter().filter(move |request| request.model == model)
    }
}

/// The value below which that share (0 to 1) of the values lies, by nearest rank; zero of none.
pub(crate) fn quantile(mut values: Vec<Duration>, share: f64) -> Duration {
    values.sort_unstable();
    // Counts are far below 2^52.
    let rank = (values.len() as f64 * share).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let values: Vec<Duration> = (1..=20).rev().map(Duration::from_millis).collect();
        assert_eq!(quantile(values.clone(), 0.5), Duration::from_millis(10));
        assert_eq!(quantile(values.clone(), 0.95), Duration::from_millis(19));
        assert_eq!(quantile(values, 1.0), Duration::from_millis(20));
        assert_eq!(quantile(Vec::new(), 0.5), Duration::ZERO);
    }
}
