//! Summaries of few and noisy numbers.

use serde::Serialize;

/// Where the middle of a sample is and how far it spreads.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// Half of the sample lies below.
    pub(crate) median: f64,
    /// A quarter lies below.
    pub(crate) lower: f64,
    /// A quarter lies above.
    pub(crate) upper: f64,
    /// The least of all.
    pub(crate) least: f64,
    /// The most of all.
    pub(crate) most: f64,
    /// Size of the sample.
    pub(crate) count: usize,
}

impl Summary {
    /// Of a sample; `None` of an empty one.
    pub(crate) fn of(sample: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = sample.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            median: quantile(&sorted, 0.5)?,
            lower: quantile(&sorted, 0.25)?,
            upper: quantile(&sorted, 0.75)?,
            least: quantile(&sorted, 0.0)?,
            most: quantile(&sorted, 1.0)?,
            count: sorted.len(),
        })
    }
}

/// Between two values of a sorted sample, the straight line.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted.get(place.floor() as usize)?, sorted.get(place.ceil() as usize)?);
    Some(below + (above - below) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_of_five_are_the_second_third_and_fourth() {
        let summary = Summary::of([5.0, 1.0, 4.0, 2.0, 3.0]).unwrap();
        assert_eq!(summary, Summary { median: 3.0, lower: 2.0, upper: 4.0, least: 1.0, most: 5.0, count: 5 });
    }

    #[test]
    fn median_of_two_lies_between_and_of_none_is_none() {
        assert_eq!(Summary::of([1.0, 2.0]).unwrap().median, 1.5);
        assert!(Summary::of([]).is_none());
    }
}
