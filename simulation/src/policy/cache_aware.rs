//! `cache_aware` of sglang's router: the longest match above a threshold, the shortest queue once loads are far apart.

use endpoint_picker::rng::Rng;

use super::prefix_table::{PrefixTable, hashes};
use super::{Candidate, Offer, Policy, cheapest};

/// Its published defaults (`--cache-threshold`, `--balance-abs-threshold`, `--balance-rel-threshold`):
/// <https://github.com/lightseekorg/smg/blob/main/docs/getting-started/load-balancing.md>.
const CACHE_THRESHOLD: f64 = 0.3;
const BALANCE_ABS_THRESHOLD: u32 = 64;
const BALANCE_REL_THRESHOLD: f64 = 1.5;
/// It keeps a tree of characters; blocks of this many come close.
const BLOCK_BYTES: usize = 64;
/// Its tree holds 2^26 characters.
const CAPACITY: usize = (1 << 26) / BLOCK_BYTES;

/// Its state: a tree for each pod.
#[derive(Debug)]
pub(crate) struct CacheAware {
    table: PrefixTable,
}

impl Default for CacheAware {
    fn default() -> Self {
        Self { table: PrefixTable::new(CAPACITY) }
    }
}

impl Policy for CacheAware {
    fn pick(&mut self, offer: &Offer<'_>, candidates: &[Candidate<'_>], rng: &mut Rng) -> usize {
        let hashes = hashes(offer, BLOCK_BYTES, usize::MAX);
        let loads = || candidates.iter().map(|candidate| candidate.in_flight);
        let (least, most) = (loads().min().unwrap_or(0), loads().max().unwrap_or(0));
        let is_imbalanced =
            most - least > BALANCE_ABS_THRESHOLD && f64::from(most) > f64::from(least) * BALANCE_REL_THRESHOLD;
        let longest = candidates.iter().map(|candidate| self.table.matched(candidate.pod, &hashes)).max().unwrap_or(0);
        let is_match = longest as f64 > CACHE_THRESHOLD * hashes.len() as f64;
        let pod = if is_imbalanced || !is_match {
            cheapest(candidates, rng, |candidate| f64::from(candidate.in_flight))
        } else {
            cheapest(candidates, rng, |candidate| -(self.table.matched(candidate.pod, &hashes) as f64))
        };
        self.table.insert(pod, &hashes);
        pod
    }
}
