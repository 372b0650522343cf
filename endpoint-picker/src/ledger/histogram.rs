//! A classic histogram between two flushes.

use alloc::boxed::Box;
use alloc::vec::Vec;

use catalogue::{Bounds, Scale};

const MILLIONTHS: u64 = 1_000_000;

#[derive(Debug)]
pub(super) struct Histogram {
    bounds: Bounds,
    limits: Box<[u64]>,
    /// Samples by bucket, not cumulative; the last is beyond all limits.
    counts: Box<[u64]>,
    sum: u64,
    /// Microseconds that did not fill a whole second yet.
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

    pub(super) fn in_seconds(&self) -> bool {
        self.bounds.scale == Scale::Microseconds
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

    /// What to add to each slot, in the slots' order: buckets, sum, count, and the sum in microseconds where the sum is in seconds.
    /// Nothing is left behind but the carry.
    pub(super) fn take(&mut self, deltas: &mut Vec<u64>) {
        deltas.clear();
        let mut cumulative = 0;
        deltas.extend(self.counts.iter_mut().map(|count| {
            cumulative += core::mem::take(count);
            cumulative
        }));
        let sum = core::mem::take(&mut self.sum);
        if self.bounds.scale == Scale::Unit {
            deltas.push(sum);
        } else {
            self.carry += sum;
            deltas.push(self.carry / MILLIONTHS);
            self.carry %= MILLIONTHS;
        }
        deltas.push(cumulative);
        if self.in_seconds() {
            deltas.push(sum);
        }
    }
}
