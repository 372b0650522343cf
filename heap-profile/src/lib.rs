//! What a process has on its heap, and which calls allocated it, by the samples of its allocator.
//!
//! A program whose `#[global_allocator]` is [`Allocator`] samples one allocation in 512 KiB from its start on, which the environment changes:
//! `_RJEM_MALLOC_CONF=lg_prof_sample:12` for one in 4 KiB, `_RJEM_MALLOC_CONF=prof:false` for none.

mod dump;
mod sampler;

pub use sampler::{HeapError, sample};
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

/// A function at an address.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Symbol {
    /// Its name for people; empty: the program's file does not tell.
    pub name: String,
    /// Its name for the linker.
    pub mangled: String,
    /// The source file.
    pub file: String,
    /// Line of the file, from 1 on; 0: unknown.
    pub line: u32,
}

/// The functions at a return address, the innermost of those that were put into one first.
#[must_use]
pub fn symbols(address: u64) -> Vec<Symbol> {
    let mut found = Vec::new();
    // The call is before the address to which it returns.
    let Some(call) = usize::try_from(address).ok().and_then(|address| address.checked_sub(1)) else { return found };
    backtrace::resolve(std::ptr::without_provenance_mut(call), |symbol| {
        let name = symbol.name();
        found.push(Symbol {
            name: name.as_ref().map(|name| format!("{name:#}")).unwrap_or_default(),
            mangled: name.and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default(),
            file: symbol.filename().map(|file| file.display().to_string()).unwrap_or_default(),
            line: symbol.lineno().unwrap_or_default(),
        });
    });
    found
}
