//! Which pod got which prefix, as a router remembers it: hashes of text, least recently used out first.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use xxhash_rust::xxh64::xxh64;

/// Chained hashes of the full blocks of a text, `most` at most.
pub(super) fn hashes(text: &[u8], block_bytes: usize, most: usize) -> Vec<u64> {
    let mut hash = 0;
    let blocks = text.chunks_exact(block_bytes).take(most);
    blocks
        .map(|block| {
            hash = xxh64(block, hash);
            hash
        })
        .collect()
}

/// The part of a chat's body that holds its messages.
pub(super) fn messages(body: &str) -> &[u8] {
    body.find(r#""messages":"#).and_then(|at| body.get(at..)).unwrap_or(body).as_bytes()
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
