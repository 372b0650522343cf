//! Stacks and how often each was seen, in memory that never grows: a signal's handler may not allocate.

use crate::{Seen, SeenStack};

/// The innermost frames of a stack that are kept. Those of an asynchronous server have some 40.
pub const MOST_FRAMES: usize = 128;
/// Bytes that are set aside while a profile is made. The kernel gives them as they are filled.
pub const MEMORY: usize = WORDS * size_of::<u64>() + SLOTS * size_of::<u32>();

/// Room for 16 000 different stacks of 62 frames.
const WORDS: usize = 1 << 20;
/// Twice as many as there can be stacks of that length, so that looking for one takes few steps.
const SLOTS: usize = 1 << 15;
/// Places that are looked at for a stack before it counts as one too many: what a handler takes is bounded.
const MOST_STEPS: usize = 32;
/// Words before a stack's addresses: samples, thread, number of addresses.
const HEAD: usize = 3;

/// Stacks by what they hash to.
#[derive(Debug)]
pub(crate) struct Stacks {
    /// Stack after stack, each with its head; the first word is none's.
    words: Vec<u64>,
    used: usize,
    /// Where stacks begin in `words`; 0: free.
    slots: Vec<u32>,
    left_out: u64,
}

impl Stacks {
    /// Sets the memory aside.
    pub(crate) fn new() -> Self {
        Self::with_room(WORDS, SLOTS)
    }

    fn with_room(words: usize, slots: usize) -> Self {
        Self { words: vec![0; words], used: 1, slots: vec![0; slots], left_out: 0 }
    }

    /// Counts a sample. It neither allocates nor takes a lock.
    pub(crate) fn count(&mut self, thread: u64, addresses: &[u64]) {
        if self.find_or_add(thread, addresses).is_none() {
            self.left_out += 1;
        }
    }

    fn find_or_add(&mut self, thread: u64, addresses: &[u64]) -> Option<()> {
        let start = hash(thread, addresses);
        for step in 0..MOST_STEPS {
            let slot = start.wrapping_add(step).checked_rem(self.slots.len())?;
            let slot = self.slots.get_mut(slot)?;
            if *slot == 0 {
                let entry = self.words.get_mut(self.used..self.used + HEAD + addresses.len())?;
                let (head, kept) = entry.split_at_mut_checked(HEAD)?;
                head.copy_from_slice(&[1, thread, addresses.len() as u64]);
                kept.copy_from_slice(addresses);
                *slot = u32::try_from(self.used).ok()?;
                self.used += HEAD + addresses.len();
                return Some(());
            }
            if let Some([samples, of, length, rest @ ..]) = self.words.get_mut(*slot as usize..)
                && (*of, *length) == (thread, addresses.len() as u64)
                && rest.starts_with(addresses)
            {
                *samples += 1;
                return Some(());
            }
        }
        None
    }

    /// All that were counted.
    pub(crate) fn seen(&self) -> Seen {
        let mut stacks = Vec::new();
        let mut rest = self.words.get(1..self.used).unwrap_or_default();
        while let [samples, thread, length, after @ ..] = rest {
            let Some((addresses, next)) =
                usize::try_from(*length).ok().and_then(|length| after.split_at_checked(length))
            else {
                break;
            };
            stacks.push(SeenStack { thread: *thread, addresses: addresses.to_vec(), samples: *samples });
            rest = next;
        }
        Seen { stacks, left_out: self.left_out }
    }
}

/// Fowler, Noll and Vo's, of words, with the upper half mixed in: addresses differ in few bits.
fn hash(thread: u64, addresses: &[u64]) -> usize {
    let mixed = addresses.iter().fold(thread ^ 0xcbf2_9ce4_8422_2325, |hash, address| {
        let hash = (hash ^ address).wrapping_mul(0x0100_0000_01b3);
        hash ^ (hash >> 32)
    });
    // A slot is one of some thousands, for which any part will do.
    usize::try_from(mixed & u64::from(u32::MAX)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(thread: u64, addresses: &[u64], samples: u64) -> SeenStack {
        SeenStack { thread, addresses: addresses.to_vec(), samples }
    }

    #[test]
    fn a_stack_of_a_thread_is_one_however_often_it_is_seen() {
        let mut stacks = Stacks::with_room(64, 16);
        for (thread, addresses) in
            [(1, &[7, 8][..]), (1, &[7]), (2, &[7, 8]), (1, &[7, 8]), (1, &[]), (1, &[7, 8]), (1, &[])]
        {
            stacks.count(thread, addresses);
        }
        let expected = [stack(1, &[7, 8], 3), stack(1, &[7], 1), stack(2, &[7, 8], 1), stack(1, &[], 2)];
        assert_eq!(stacks.seen(), Seen { stacks: expected.to_vec(), left_out: 0 });
    }

    #[test]
    fn what_there_is_no_room_for_is_counted_and_what_is_known_goes_on() {
        // The first word, and two stacks of one address.
        let mut words = Stacks::with_room(1 + 2 * (HEAD + 1), 16);
        // Two slots.
        let mut slots = Stacks::with_room(64, 2);
        for stacks in [&mut words, &mut slots] {
            for address in [1, 2, 3, 4, 1, 2] {
                stacks.count(9, &[address]);
            }
            let expected = [stack(9, &[1], 2), stack(9, &[2], 2)];
            assert_eq!(stacks.seen(), Seen { stacks: expected.to_vec(), left_out: 2 });
        }
    }

    #[test]
    fn stacks_that_differ_in_little_find_their_places() {
        let mut stacks = Stacks::new();
        let frames: Vec<u64> = (0..59).map(|frame| 0x5555_0000_0000 + frame * 0x40).collect();
        for round in 0..2 {
            for number in 0..16_000u64 {
                let own = [[0x5555_0000_0000 + number * 4].as_slice(), &frames].concat();
                stacks.count(1, &own);
            }
            let seen = stacks.seen();
            assert_eq!((seen.stacks.len(), seen.left_out), (16_000, 0), "round {round}");
            assert!(seen.stacks.iter().all(|stack| stack.samples == round + 1));
        }
    }
}
