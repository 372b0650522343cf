//! KV blocks with a prefix cache on top: reference-counted blocks that are found again by the hash of their tokens.
//!
//! A block is either *anonymous* (partly filled, generated, or a duplicate) or *cached* under its hash. A cached block that no
//! sequence holds any more stays findable until its room is needed; the one idle for longest goes first, as in vLLM.

use std::collections::{BTreeMap, HashMap};

/// Hash of a full block of prompt tokens and of every block before it.
pub type BlockHash = u64;

#[derive(Debug)]
struct Cached {
    holders: usize,
    /// Key in `idle` while nobody holds the block.
    idle_since: u64,
}

/// The KV blocks of one engine.
#[derive(Debug)]
pub struct KvCache {
    capacity: usize,
    anonymous: usize,
    held: usize,
    cached: HashMap<BlockHash, Cached>,
    idle: BTreeMap<u64, BlockHash>,
    clock: u64,
    prefix_caching: bool,
}

/// Blocks that one sequence holds.
#[derive(Debug, Default)]
pub struct Holding {
    cached: Vec<BlockHash>,
    anonymous: usize,
}

impl Holding {
    /// Number of blocks held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cached.len() + self.anonymous
    }

    /// True when nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl KvCache {
    /// A cache that sequences may fill with `capacity` blocks.
    #[must_use]
    pub fn new(capacity: usize, prefix_caching: bool) -> Self {
        Self {
            capacity,
            anonymous: 0,
            held: 0,
            cached: HashMap::new(),
            idle: BTreeMap::new(),
            clock: 0,
            prefix_caching,
        }
    }

    /// Share of the blocks that sequences hold, 0 to 1. Idle cached blocks count as free.
    #[must_use]
    pub fn usage(&self) -> f64 {
        if self.capacity == 0 {
            return 0.0;
        }
        self.used() as f64 / self.capacity as f64
    }

    /// Blocks that sequences hold.
    #[must_use]
    pub fn used(&self) -> usize {
        self.anonymous + self.held
    }

    /// Blocks findable by hash, held or idle.
    #[must_use]
    pub fn cached_blocks(&self) -> usize {
        self.cached.len()
    }

    /// Holds the longest run of leading `hashes` that is cached. Returns what is held; its length is the number of blocks hit.
    pub fn hold_prefix(&mut self, hashes: &[BlockHash]) -> Holding {
        let mut holding = Holding::default();
        if !self.prefix_caching {
            return holding;
        }
        for hash in hashes {
            let Some(block) = self.cached.get_mut(hash) else {
                break;
            };
            if block.holders == 0 {
                self.idle.remove(&block.idle_since);
                self.held += 1;
            }
            block.holders += 1;
            holding.cached.push(*hash);
        }
        holding
    }

    /// Grows a holding to `blocks` blocks. The leading `full` blocks of the prompt are entered in the prefix cache. Returns false, and
    /// changes nothing, when too few blocks are free.
    pub fn grow(&mut self, holding: &mut Holding, blocks: usize, full: &[BlockHash]) -> bool {
        let wanted = blocks.saturating_sub(holding.len());
        if wanted > self.capacity.saturating_sub(self.used()) {
            return false;
        }
        for _ in 0..wanted {
            self.make_room();
            self.anonymous += 1;
            holding.anonymous += 1;
        }
        if self.prefix_caching {
            self.publish(holding, full);
        }
        true
    }

    /// Gives every block back. Cached ones stay findable, the end of the prompt being the first to go.
    pub fn release(&mut self, holding: &mut Holding) {
        self.anonymous = self.anonymous.saturating_sub(holding.anonymous);
        holding.anonymous = 0;
        for hash in holding.cached.drain(..).rev() {
            let Some(block) = self.cached.get_mut(&hash) else {
                continue;
            };
            block.holders = block.holders.saturating_sub(1);
            if block.holders == 0 {
                self.clock += 1;
                block.idle_since = self.clock;
                self.idle.insert(self.clock, hash);
                self.held = self.held.saturating_sub(1);
            }
        }
    }

    /// Turns anonymous blocks that are now full into cached ones. Blocks already cached by another sequence stay anonymous here,
    /// and so does everything after them: the run of cached blocks in a holding has no gaps.
    fn publish(&mut self, holding: &mut Holding, full: &[BlockHash]) {
        for hash in full.iter().skip(holding.cached.len()) {
            if holding.anonymous == 0 || self.cached.contains_key(hash) {
                break;
            }
            self.cached.insert(*hash, Cached { holders: 1, idle_since: 0 });
            holding.cached.push(*hash);
            holding.anonymous -= 1;
            self.anonymous -= 1;
            self.held += 1;
        }
    }

    fn make_room(&mut self) {
        if self.anonymous + self.cached.len() < self.capacity {
            return;
        }
        if let Some((_, hash)) = self.idle.pop_first() {
            self.cached.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_prefix_is_found_again() {
        let mut cache = KvCache::new(10, true);
        let mut first = Holding::default();
        assert!(cache.grow(&mut first, 3, &[1, 2]));
        assert_eq!(cache.used(), 3);
        cache.release(&mut first);
        assert_eq!(cache.used(), 0);
        let second = cache.hold_prefix(&[1, 2, 3]);
        assert_eq!(second.len(), 2);
        assert_eq!(cache.used(), 2);
    }

    #[test]
    fn shared_prefix_is_held_once() {
        let mut cache = KvCache::new(10, true);
        let mut first = Holding::default();
        assert!(cache.grow(&mut first, 2, &[1, 2]));
        let mut second = cache.hold_prefix(&[1, 2]);
        assert!(cache.grow(&mut second, 3, &[1, 2]));
        assert_eq!(cache.used(), 3);
        cache.release(&mut first);
        assert_eq!(cache.used(), 3);
        cache.release(&mut second);
        assert_eq!(cache.used(), 0);
    }

    #[test]
    fn longest_idle_block_goes_first() {
        let mut cache = KvCache::new(3, true);
        for hash in [1, 2, 3] {
            let mut one = Holding::default();
            assert!(cache.grow(&mut one, 1, &[hash]));
            cache.release(&mut one);
        }
        let mut next = Holding::default();
        assert!(cache.grow(&mut next, 1, &[4]));
        assert!(cache.hold_prefix(&[1]).is_empty());
        assert_eq!(cache.hold_prefix(&[2]).len(), 1);
    }

    #[test]
    fn full_pool_refuses_and_changes_nothing() {
        let mut cache = KvCache::new(2, true);
        let mut first = Holding::default();
        assert!(cache.grow(&mut first, 2, &[]));
        let mut second = Holding::default();
        assert!(!cache.grow(&mut second, 1, &[9]));
        assert_eq!(cache.used(), 2);
        assert!(second.is_empty());
    }

    #[test]
    fn without_prefix_caching_nothing_is_found() {
        let mut cache = KvCache::new(4, false);
        let mut first = Holding::default();
        assert!(cache.grow(&mut first, 1, &[1]));
        cache.release(&mut first);
        assert!(cache.hold_prefix(&[1]).is_empty());
    }
}
