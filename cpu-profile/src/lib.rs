//! Which calls a process's CPU time is spent in, by the signal SIGPROF, with memory that is set aside beforehand: [`MEMORY`] bytes while
//! a profile is made, none afterwards.
//!
//! A [`Sampling`] has the kernel signal whichever thread has used the CPU for a period. The thread then walks its own stack, except in
//! libraries that hold locks which the walk itself takes: there only the place is noted.

mod libraries;
mod sampler;
mod stacks;

pub use sampler::{Sampling, SamplingError};
pub use stacks::{MEMORY, MOST_FRAMES};

/// What was seen of the CPU.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Seen {
    /// Each stack of each thread once.
    pub stacks: Vec<SeenStack>,
    /// Samples that there was no room for.
    pub left_out: u64,
}

/// A stack that was seen.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SeenStack {
    /// The kernel's number of the thread.
    pub thread: u64,
    /// Where the thread was, then return addresses, from the innermost out; [`MOST_FRAMES`] at most.
    pub addresses: Vec<u64>,
    /// In how many samples.
    pub samples: u64,
}
