//! Which pod got which prefix, as a router remembers it: hashes of text, least recently used out first.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use xxhash_rust::xxh64::xxh64;

use super::Offer;

/// Chained hashes of the full blocks of a chat's messages, `most` at most; the model is part of each.
pub(super) fn hashes(offer: &Offer<'_>, block_bytes: usize, most: usize) -> Vec<u64> {
    let messages = offer.body.find(r#""messages":"#).and_then(|at| offer.body.get(at..)).unwrap_or(offer.body);
    let mut hash = xxh64(offer.model.as_bytes(), 0);
    let blocks = messages.as_bytes().chunks_exact(block_bytes).take(most);
    blocks
        .map(|block| {
            hash = xxh64(block, hash);
            hash
        })
        .collect()
}

/// The hashes of one pod.
#[derive(Debug, Default)]
struct PodTable {
    stamps: HashMap<u64, u64>,
    oldest: BTreeMap<u64, u64>,
}

/// The hashes of all pods.
#[derive(Debug)]
pub(super) struct PrefixTable {
    capacity: usize,
    pods: Vec<PodTable>,
    clock: u64,
}

impl PrefixTable {
    /// `capacity` hashes for each pod.
    pub(super) const fn new(capacity: usize) -> Self {
        Self { capacity, pods: Vec::new(), clock: 0 }
    }

    /// Whether that pod has that hash.
    pub(super) fn has(&self, pod: usize, hash: u64) -> bool {
        self.pods.get(pod).is_some_and(|table| table.stamps.contains_key(&hash))
    }

    /// Leading hashes that a pod has.
    pub(super) fn matched(&self, pod: usize, hashes: &[u64]) -> usize {
        hashes.iter().take_while(|&&hash| self.has(pod, hash)).count()
    }

    /// That pod got them.
    pub(super) fn insert(&mut self, pod: usize, hashes: &[u64]) {
        while self.pods.len() <= pod {
            self.pods.push(PodTable::default());
        }
        let table = &mut self.pods[pod];
        for &hash in hashes {
            self.clock += 1;
            if let Some(stamp) = table.stamps.insert(hash, self.clock) {
                table.oldest.remove(&stamp);
            }
            table.oldest.insert(self.clock, hash);
        }
        while table.stamps.len() > self.capacity
            && let Some((_, hash)) = table.oldest.pop_first()
        {
            table.stamps.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_keeps_the_most_recent_hashes_of_each_pod() {
        let mut table = PrefixTable::new(3);
        table.insert(1, &[1, 2, 3]);
        table.insert(1, &[1, 4]);
        assert_eq!((table.matched(1, &[1, 3, 4]), table.matched(1, &[2])), (3, 0));
        assert_eq!(table.matched(0, &[1]), 0);
    }
}
