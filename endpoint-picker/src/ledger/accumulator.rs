//! One figure of many requests, from which every family that shows it is derived when it is flushed.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use catalogue::Bounds;

use super::series::SeriesId;

/// Limits fine enough for each of several families' buckets.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Limits(Box<[u64]>);

impl Limits {
    /// Every limit of any of these.
    #[must_use]
    pub fn of(bounds: impl Iterator<Item = Bounds>) -> Self {
        let mut limits: Vec<u64> = bounds.flat_map(Bounds::limits).collect();
        limits.sort_unstable();
        limits.dedup();
        Self(limits.into_boxed_slice())
    }

    /// The bucket of those bounds into which each bucket of these limits falls, the one beyond all limits included.
    fn places(&self, bounds: Bounds) -> Box<[u8]> {
        let theirs = bounds.limits();
        let place = |limit: u64| theirs.partition_point(|&their| their < limit);
        let places = self.0.iter().map(|&limit| place(limit)).chain([theirs.len()]);
        places.map(|place| u8::try_from(place).unwrap_or(u8::MAX)).collect()
    }
}

/// What a series takes of an accumulator.
#[derive(Debug)]
pub(super) enum Target {
    /// A histogram takes the samples; its bucket by the accumulator's.
    Samples(SeriesId, Box<[u8]>),
    /// A counter takes their number.
    Number(SeriesId),
    /// A counter takes their sum.
    Sum(SeriesId),
}

/// Samples since the last flush.
#[derive(Debug)]
pub struct Accumulator {
    limits: Arc<Limits>,
    /// By bucket, not cumulative.
    counts: Box<[u32]>,
    sum: u64,
    pub(super) targets: Vec<Target>,
}

impl Accumulator {
    /// Without samples, and without anybody to give them to.
    #[must_use]
    pub fn new(limits: Arc<Limits>) -> Self {
        Self { counts: alloc::vec![0; limits.0.len() + 1].into_boxed_slice(), limits, sum: 0, targets: Vec::new() }
    }

    /// Gives the samples to a histogram of those bounds, all of which are among the limits.
    pub fn give_samples(&mut self, series: SeriesId, bounds: Bounds) {
        self.targets.push(Target::Samples(series, self.limits.places(bounds)));
    }

    /// Gives the number of samples to a counter.
    pub fn give_number(&mut self, series: SeriesId) {
        self.targets.push(Target::Number(series));
    }

    /// Gives the sum of the samples to a counter.
    pub fn give_sum(&mut self, series: SeriesId) {
        self.targets.push(Target::Sum(series));
    }

    /// Takes one sample.
    pub fn record(&mut self, sample: u64) {
        self.record_many(sample, 1);
    }

    /// Takes as many samples of that value.
    pub fn record_many(&mut self, sample: u64, number: u32) {
        let bucket = self.limits.0.partition_point(|&limit| limit < sample);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count = count.saturating_add(number);
        }
        self.sum = self.sum.saturating_add(sample.saturating_mul(u64::from(number)));
    }

    /// Takes samples that somebody else sorted into the limits of this one, and their sum.
    pub fn add(&mut self, counts: &[u32], sum: u64) {
        for (count, more) in self.counts.iter_mut().zip(counts) {
            *count = count.saturating_add(*more);
        }
        self.sum = self.sum.saturating_add(sum);
    }

    /// The samples by bucket and their sum; none are left.
    pub(super) fn take(&mut self) -> (&mut [u32], u64, &[Target]) {
        (&mut self.counts, core::mem::take(&mut self.sum), &self.targets)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn each_bucket_falls_into_the_one_bucket_that_takes_its_samples() {
        let all = [Bounds::LATENCY, Bounds::GEN_AI_DURATION, Bounds::LLM_D_FIRST_TOKEN];
        let limits = Limits::of(all.into_iter());
        for bounds in all {
            let (theirs, places) = (bounds.limits(), limits.places(bounds));
            // At, below and above every limit of any of them.
            for sample in limits.0.iter().flat_map(|&limit| [limit - 1, limit, limit + 1]).chain([u64::MAX]) {
                let bucket = limits.0.partition_point(|&limit| limit < sample);
                let expected = theirs.partition_point(|&limit| limit < sample);
                assert_eq!(usize::from(places[bucket]), expected, "{sample} of {bounds:?}");
            }
        }
    }
}
