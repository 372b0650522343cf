//! Samples and their percentiles.

/// Sorted samples.
#[derive(Clone, Debug, Default)]
pub(crate) struct Distribution(Vec<f64>);

impl Distribution {
    pub(crate) fn new(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        Self(samples)
    }

    /// The sample below which that part of them lies, by nearest rank; 0 when there is none.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let rank = (part * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
    }
}

/// The mean; 0 of nothing.
pub(crate) fn mean(samples: impl IntoIterator<Item = f64>) -> f64 {
    let (count, sum) = samples.into_iter().fold((0_u32, 0.0), |(count, sum), sample| (count + 1, sum + sample));
    if count == 0 { 0.0 } else { sum / f64::from(count) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples_by_nearest_rank() {
        let distribution = Distribution::new((1..=10).rev().map(f64::from).collect());
        assert_eq!([0.5, 0.9, 0.99, 1.0].map(|part| distribution.quantile(part)), [5.0, 9.0, 10.0, 10.0]);
        assert_eq!(Distribution::default().quantile(0.5), 0.0);
        assert_eq!((mean([1.0, 3.0]), mean([])), (2.0, 0.0));
    }
}
