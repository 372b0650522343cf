//! Classic Prometheus histogram: cumulative buckets, a sum and a count.

use std::sync::Arc;

/// Histogram over fixed upper bounds.
#[derive(Clone, Debug)]
pub struct Histogram {
    bounds: Arc<[f64]>,
    counts: Vec<u64>,
    sum: f64,
    count: u64,
}

impl Histogram {
    /// Empty histogram; `bounds` are ascending upper bounds without the infinite one.
    #[must_use]
    pub fn new(bounds: &[f64]) -> Self {
        Self { bounds: bounds.into(), counts: vec![0; bounds.len()], sum: 0.0, count: 0 }
    }

    /// Counts one value.
    pub fn observe(&mut self, value: f64) {
        let slot = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(slot) {
            *count += 1;
        }
        self.sum += value;
        self.count += 1;
    }

    /// Upper bounds with their cumulative counts; the infinite bucket is [`Histogram::count`].
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        self.bounds.iter().zip(&self.counts).scan(0, |total, (bound, count)| {
            *total += count;
            Some((*bound, *total))
        })
    }

    /// Sum of the values.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Number of values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_is_inclusive_and_buckets_accumulate() {
        let mut histogram = Histogram::new(&[1.0, 2.0]);
        for value in [0.5, 1.0, 2.0, 9.0] {
            histogram.observe(value);
        }
        assert_eq!(histogram.buckets().collect::<Vec<_>>(), [(1.0, 2), (2.0, 3)]);
        assert_eq!(histogram.count(), 4);
        assert!((histogram.sum() - 12.5).abs() < 1e-9);
    }
}
