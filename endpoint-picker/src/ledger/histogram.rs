//! A classic histogram between two flushes.

use alloc::boxed::Box;
use alloc::vec::Vec;

use catalogue::Bounds;

const MILLIONTHS: u64 = 1_000_000;

#[derive(Debug)]
pub(super) struct Histogram {
    bounds: Bounds,
    limits: Box<[u64]>,
    /// Samples by bucket, not cumulative; the last is beyond all limits.
    counts: Box<[u64]>,
    sum: u64,
    /// Millionths that did not fill a whole second, or 1, yet.
    carry: u64,
}

impl Histogram {
    pub(super) fn new(bounds: Bounds) -> Self {
        let limits = bounds.limits().into_boxed_slice();
        Self { bounds, counts: alloc::vec![0; limits.len() + 1].into_boxed_slice(), limits, sum: 0, carry: 0 }
    }

    /// Buckets, the one without a limit included.
    pub(super) fn buckets(&self) -> usize {
        self.counts.len()
    }

    /// The bucket's limit as its label spells it.
    pub(super) fn le(&self, bucket: usize) -> &'static str {
        self.bounds.le().nth(bucket).unwrap_or("+Inf")
    }

    /// Suffix of the exact twin of the sum, where there is one.
    pub(super) const fn exact_sum_suffix(&self) -> Option<&'static str> {
        self.bounds.scale.exact_sum_suffix()
    }

    pub(super) fn record(&mut self, sample: u64) {
        let bucket = self.limits.partition_point(|&limit| limit < sample);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum = self.sum.saturating_add(sample);
    }

    /// Takes samples by finer buckets, each of which falls into the bucket that `places` says.
    pub(super) fn add(&mut self, counts: &[u32], places: &[u8], sum: u64) {
        for (&count, &place) in counts.iter().zip(places) {
            if let Some(held) = self.counts.get_mut(usize::from(place)) {
                *held += u64::from(count);
            }
        }
        self.sum = self.sum.saturating_add(sum);
    }

    /// What to add to each slot, in the slots' order: buckets, sum, count, and the sum in millionths where it has a twin.
    /// Nothing is left behind but the carry.
    pub(super) fn take(&mut self, deltas: &mut Vec<u64>) {
        deltas.clear();
        let mut cumulative = 0;
        deltas.extend(self.counts.iter_mut().map(|count| {
            cumulative += core::mem::take(count);
            cumulative
        }));
        let sum = core::mem::take(&mut self.sum);
        if self.exact_sum_suffix().is_none() {
            deltas.extend([sum, cumulative]);
        } else {
            self.carry = self.carry.saturating_add(sum);
            deltas.extend([self.carry / MILLIONTHS, cumulative, sum]);
            self.carry %= MILLIONTHS;
        }
    }
}
