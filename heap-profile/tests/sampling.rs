//! The real allocator's samples.
#![allow(clippy::unwrap_used, reason = "a test should stop at what it did not expect")]

use std::hint::black_box;

use heap_profile::{Heap, give_back, sample};

#[global_allocator]
static ALLOCATOR: heap_profile::Allocator = heap_profile::Allocator;

const BLOCK: usize = 1 << 20;

#[inline(never)]
fn fill_the_hall() -> Vec<Vec<u8>> {
    (0..64).map(|_| black_box(vec![1; BLOCK])).collect()
}

fn is_of_the_hall(return_address: u64) -> bool {
    let address = std::ptr::without_provenance_mut(usize::try_from(return_address).unwrap());
    let mut is_ours = false;
    backtrace::resolve(address, |symbol| {
        is_ours |= symbol.name().is_some_and(|name| name.to_string().contains("fill_the_hall"));
    });
    is_ours
}

/// Bytes that are live by way of the function above.
fn held(heap: &Heap) -> u64 {
    let is_ours = |stack: &[u64]| stack.iter().any(|address| is_of_the_hall(*address));
    heap.live.iter().filter(|live| is_ours(&live.stack)).map(|live| live.bytes).sum()
}

#[test]
fn what_is_held_is_told_with_who_allocated_it_and_what_was_freed_is_not() {
    let before = held(&sample().unwrap());
    let hall = fill_the_hall();
    let full = held(&sample().unwrap());
    drop(black_box(hall));
    give_back();
    let after = held(&sample().unwrap());
    assert_eq!(before, 0);
    // Each block is sampled with a chance of 86 %, and stands for what that makes it: 64 MiB in the mean, by some 2 either way.
    let expected = 64 * BLOCK as u64;
    assert!(full > expected / 4 * 3 && full < expected / 4 * 5, "{full} bytes of {expected}");
    assert_eq!(after, 0);
}
