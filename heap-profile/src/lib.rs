//! What a process has on its heap, and which calls allocated it, by the samples of its allocator.
//!
//! A program whose `#[global_allocator]` is [`Allocator`] samples one allocation in 512 KiB from its start on, which the environment changes:
//! `_RJEM_MALLOC_CONF=lg_prof_sample:12` for one in 4 KiB, `_RJEM_MALLOC_CONF=prof:false` for none.

mod dump;
mod sampler;

pub use sampler::{HeapError, give_back, sample};
/// The allocator that samples.
pub use tikv_jemallocator::Jemalloc as Allocator;

/// A heap at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heap {
    /// One allocation in so many bytes is sampled.
    pub sample_bytes: u64,
    /// What is allocated, by how it came.
    pub live: Vec<LiveAllocations>,
}

/// Allocations that came the same way and are not freed yet, as many as the samples stand for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LiveAllocations {
    /// Return addresses, the innermost first.
    pub stack: Vec<u64>,
    /// How many there are.
    pub objects: u64,
    /// How much memory they have.
    pub bytes: u64,
}
