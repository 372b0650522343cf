//! An engine's KV blocks: those of running sequences, and those that may be used again, the least recently used of which go first.

use std::collections::VecDeque;

use hashbrown::HashMap;

/// The KV blocks of one engine.
#[derive(Debug)]
pub(crate) struct KvCache {
    capacity: usize,
    /// Blocks that hold nothing of use.
    free: usize,
    cached: HashMap<u64, CachedBlock>,
    /// Blocks in the order in which they were released, by stamp and hash. One that was taken since is of no account here.
    released: VecDeque<(u64, u64)>,
    /// Blocks that no sequence uses.
    evictable: usize,
    clock: u64,
}

#[derive(Clone, Copy, Debug)]
struct CachedBlock {
    users: u32,
    /// Its stamp in `released` while nobody uses it.
    stamp: u64,
}

/// The blocks of one sequence.
#[derive(Debug, Default)]
pub(crate) struct Allocation {
    /// Shared blocks in use, in order.
    shared: Vec<u64>,
    /// Blocks whose content nobody else can use.
    private: usize,
}

impl KvCache {
    /// So many blocks, all free.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, free: capacity, cached: HashMap::new(), released: VecDeque::new(), evictable: 0, clock: 0 }
    }

    /// Leading blocks that are cached.
    pub(crate) fn matched(&self, blocks: &[u64]) -> usize {
        blocks.iter().take_while(|hash| self.cached.contains_key(*hash)).count()
    }

    /// Part of the blocks that sequences use.
    pub(crate) fn usage(&self) -> f64 {
        let used = self.capacity - self.free - self.evictable;
        used as f64 / self.capacity as f64
    }

    /// Takes `total` blocks for a sequence, the first `matched` of `blocks` from the cache; `None` when there are not enough.
    pub(crate) fn allocate(&mut self, blocks: &[u64], matched: usize, total: usize) -> Option<Allocation> {
        let matched = &blocks[..matched];
        let idle = matched.iter().filter(|hash| self.cached.get(*hash).is_some_and(|block| block.users == 0)).count();
        let needed = total - matched.len();
        if needed > self.free + self.evictable - idle {
            return None;
        }
        for hash in matched {
            self.take_shared(*hash);
        }
        self.make_room(needed);
        self.free -= needed;
        Some(Allocation { shared: matched.to_vec(), private: needed })
    }

    /// One more block; false when there is none.
    pub(crate) fn grow(&mut self, allocation: &mut Allocation) -> bool {
        if self.free == 0 && self.evictable == 0 {
            return false;
        }
        self.make_room(1);
        self.free -= 1;
        allocation.private += 1;
        true
    }

    /// The first `computed` of `blocks` are filled: others can use them from now on.
    pub(crate) fn publish(&mut self, allocation: &mut Allocation, blocks: &[u64], computed: usize) {
        for &hash in blocks.iter().take(computed).skip(allocation.shared.len()) {
            if allocation.private == 0 {
                return;
            }
            allocation.private -= 1;
            if self.cached.contains_key(&hash) {
                // Two sequences computed the same block; the second copy is given back.
                self.free += 1;
                self.take_shared(hash);
            } else {
                self.cached.insert(hash, CachedBlock { users: 1, stamp: 0 });
            }
            allocation.shared.push(hash);
        }
    }

    /// The sequence is over. Its last blocks go first, since they are of use to the fewest.
    pub(crate) fn release(&mut self, allocation: Allocation) {
        self.free += allocation.private;
        for hash in allocation.shared.into_iter().rev() {
            let Some(block) = self.cached.get_mut(&hash) else { continue };
            block.users -= 1;
            if block.users == 0 {
                self.clock += 1;
                block.stamp = self.clock;
                self.released.push_back((self.clock, hash));
                self.evictable += 1;
            }
        }
        if self.released.len() > 2 * self.capacity {
            let cached = &self.cached;
            self.released.retain(|&(stamp, hash)| is_idle(cached, hash, stamp));
        }
    }

    fn take_shared(&mut self, hash: u64) {
        if let Some(block) = self.cached.get_mut(&hash) {
            if block.users == 0 {
                self.evictable -= 1;
            }
            block.users += 1;
        }
    }

    fn make_room(&mut self, blocks: usize) {
        while self.free < blocks
            && let Some((stamp, hash)) = self.released.pop_front()
        {
            if is_idle(&self.cached, hash, stamp) {
                self.cached.remove(&hash);
                self.evictable -= 1;
                self.free += 1;
            }
        }
    }
}

/// Whether nobody has used a block since it got that stamp.
fn is_idle(cached: &HashMap<u64, CachedBlock>, hash: u64, stamp: u64) -> bool {
    cached.get(&hash).is_some_and(|block| block.users == 0 && block.stamp == stamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(cache: &mut KvCache, blocks: &[u64]) -> usize {
        let matched = cache.matched(blocks);
        let mut allocation = cache.allocate(blocks, matched, blocks.len()).unwrap();
        cache.publish(&mut allocation, blocks, blocks.len());
        cache.release(allocation);
        matched
    }

    #[test]
    fn a_prefix_that_ran_before_is_cached() {
        let mut cache = KvCache::new(10);
        assert_eq!(run(&mut cache, &[1, 2, 3]), 0);
        assert_eq!(run(&mut cache, &[1, 2, 4, 5]), 2);
        assert_eq!(cache.matched(&[1, 2, 3]), 3);
        assert!(cache.usage() < 1e-9);
    }

    #[test]
    fn the_least_recently_used_prefix_goes_first_and_of_it_the_end() {
        let mut cache = KvCache::new(6);
        run(&mut cache, &[1, 2, 3]);
        run(&mut cache, &[11, 12, 13]);
        run(&mut cache, &[1, 2, 3]);
        run(&mut cache, &[21]);
        assert_eq!((cache.matched(&[1, 2, 3]), cache.matched(&[11, 12, 13])), (3, 2));
    }

    #[test]
    fn what_runs_is_never_evicted_and_too_much_is_refused() {
        let mut cache = KvCache::new(4);
        let mut running = cache.allocate(&[1, 2, 3], 0, 3).unwrap();
        cache.publish(&mut running, &[1, 2, 3], 3);
        assert!(cache.allocate(&[7, 8], 0, 2).is_none());
        assert!(cache.grow(&mut running));
        assert!(!cache.grow(&mut running));
        assert!((cache.usage() - 1.0).abs() < 1e-9);
        let second = cache.allocate(&[1, 2, 3], 3, 3).unwrap();
        cache.release(running);
        cache.release(second);
        assert_eq!((cache.free, cache.evictable), (1, 3));
    }

    #[test]
    fn a_block_that_two_computed_is_kept_once() {
        let mut cache = KvCache::new(4);
        let mut left = cache.allocate(&[1], 0, 2).unwrap();
        let mut right = cache.allocate(&[1], 0, 2).unwrap();
        cache.publish(&mut left, &[1], 1);
        cache.publish(&mut right, &[1], 1);
        assert_eq!(cache.free, 1);
        cache.release(left);
        cache.release(right);
        assert_eq!((cache.free, cache.evictable), (3, 1));
    }
}
