//! The real signal, of this process.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test should stop at what it did not expect")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use cpu_profile::{Sampling, SamplingError, Seen};

const FREQUENCY: u32 = 199;

#[inline(never)]
fn walk_the_treadmill(length: Duration) -> u64 {
    let (begin, mut steps) = (Instant::now(), 0);
    while steps & 0xffff != 0 || begin.elapsed() < length {
        steps = black_box(steps) + 1;
    }
    steps
}

fn names(return_address: u64) -> String {
    let mut names = String::new();
    let address = std::ptr::without_provenance_mut(usize::try_from(return_address).unwrap());
    backtrace::resolve(address, |symbol| names.extend(symbol.name().map(|name| format!("{name:#} "))));
    names
}

/// Frames inside the function above in a debug build: that which the compiler must not see through. The handler's own would come on top.
const INNERMOST: usize = 2;

/// Samples of the function above, among the innermost and at all.
fn on_the_treadmill(seen: &Seen) -> (u64, u64) {
    let (mut innermost, mut anywhere) = (0, 0);
    for stack in &seen.stacks {
        let is_there = |address: &u64| names(*address).contains("walk_the_treadmill");
        let place = stack.addresses.iter().position(is_there);
        let place = place.or_else(|| is_there(&(stack.addresses[0] + 1)).then_some(0));
        innermost += if place.is_some_and(|place| place < INNERMOST) { stack.samples } else { 0 };
        anywhere += if place.is_some() { stack.samples } else { 0 };
    }
    (innermost, anywhere)
}

/// One test: there is one timer.
#[test]
fn the_process_is_sampled_while_it_is_said_so() {
    for round in 0..2 {
        let sampling = Sampling::start(FREQUENCY).unwrap();
        assert!(matches!(Sampling::start(FREQUENCY), Err(SamplingError::Busy)));
        let threads: Vec<_> =
            (0..2).map(|_| std::thread::spawn(|| walk_the_treadmill(Duration::from_secs(1)))).collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let seen = sampling.stop();
        let (innermost, anywhere) = on_the_treadmill(&seen);
        // Two seconds of CPU at most, and a machine that others use too.
        assert!((FREQUENCY / 8..=FREQUENCY * 3).contains(&u32::try_from(anywhere).unwrap()), "round {round}: {seen:?}");
        assert!(innermost * 10 > anywhere * 9, "round {round}: {innermost} of {anywhere}");
        assert_eq!(seen.left_out, 0);
        let mut threads: Vec<u64> = seen.stacks.iter().map(|stack| stack.thread).collect();
        threads.sort_unstable();
        threads.dedup();
        assert!(threads.len() >= 2, "{threads:?}");
        // No signal comes after its end, and one that is dropped ends too.
        drop(Sampling::start(FREQUENCY).unwrap());
        walk_the_treadmill(Duration::from_millis(50));
    }
}
