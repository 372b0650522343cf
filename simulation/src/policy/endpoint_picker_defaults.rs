//! The endpoint picker of the Gateway API Inference Extension (v1.3.1 to v1.5.0) with its default profile: queue 2, KV cache 2, prefix 3.

use endpoint_picker::rng::Rng;

use super::prefix_table::{PrefixTable, hashes};
use super::{Candidate, Offer, Policy, cheapest};

const QUEUE_WEIGHT: f64 = 2.0;
const KV_CACHE_WEIGHT: f64 = 2.0;
const PREFIX_WEIGHT: f64 = 3.0;
/// 16 tokens of 4 characters: what its autotuning makes of a block size of 16.
const BLOCK_BYTES: usize = 64;
const MAX_BLOCKS: usize = 256;

/// Its state: which pod was sent which prefix.
#[derive(Debug)]
pub(crate) struct EndpointPickerDefaults {
    table: PrefixTable,
}

impl EndpointPickerDefaults {
    /// Its autotuning gives each pod room for as many blocks as the engine has.
    pub(crate) const fn new(num_gpu_blocks: usize) -> Self {
        Self { table: PrefixTable::new(num_gpu_blocks) }
    }
}

impl Policy for EndpointPickerDefaults {
    fn pick(&mut self, offer: &Offer<'_>, candidates: &[Candidate<'_>], rng: &mut Rng) -> usize {
        let hashes = hashes(offer, BLOCK_BYTES, MAX_BLOCKS);
        // It walks until a block is on no pod at all, and counts for each pod how many of those walked it has.
        let known = hashes.iter().take_while(|&&hash| candidates.iter().any(|other| self.table.has(other.pod, hash)));
        let known: Vec<u64> = known.copied().collect();
        let queues = || candidates.iter().map(|candidate| candidate.page.waiting);
        let (least, most) = (queues().min().unwrap_or(0), queues().max().unwrap_or(0));
        let pod = cheapest(candidates, rng, |candidate| {
            let queue =
                if most == least { 1.0 } else { f64::from(most - candidate.page.waiting) / f64::from(most - least) };
            let held = known.iter().filter(|&&hash| self.table.has(candidate.pod, hash)).count();
            let prefix = if hashes.is_empty() { 0.0 } else { held as f64 / hashes.len() as f64 };
            let kv_cache = (1.0 - candidate.page.kv_usage).clamp(0.0, 1.0);
            -(QUEUE_WEIGHT * queue + KV_CACHE_WEIGHT * kv_cache + PREFIX_WEIGHT * prefix)
        });
        self.table.insert(pod, &hashes);
        pod
    }
}
