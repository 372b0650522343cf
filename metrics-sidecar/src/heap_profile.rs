//! Where the process's memory went, by the allocator's samples.

use std::time::Duration;

use heap_profile::{Heap, HeapError, sample};

use crate::profile_format::ProfileBuilder;
use crate::profilers::{ProfileBytes, ProfileError};
use crate::symbols::Symbols;

/// What is allocated now.
pub(crate) async fn heap() -> ProfileBytes {
    // Names of functions are read from the program's file, which takes a while.
    let making = tokio::task::spawn_blocking(|| match sample() {
        Ok(heap) => packed(&heap).map_err(|error| failed(&error)),
        Err(off @ HeapError::Off) => Err(ProfileError::Absent(off.to_string())),
        Err(error) => Err(failed(&error)),
    });
    making.await.map_err(|error| failed(&error))?
}

fn failed(error: &dyn std::fmt::Display) -> ProfileError {
    ProfileError::Failed(format!("the heap cannot be profiled: {error}"))
}

/// The values of a heap profile of Go's, as far as they are known: what is in use.
fn packed(heap: &Heap) -> std::io::Result<Vec<u8>> {
    let space = ["space", "bytes"];
    let values = [["inuse_objects", "count"], ["inuse_space", "bytes"]];
    let whole = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let mut profile = ProfileBuilder::new(&values, space, whole(heap.sample_bytes), Duration::ZERO);
    let mut symbols = Symbols::new(is_allocator);
    for allocations in &heap.live {
        let stack = symbols.stack(&mut profile, allocations.stack.iter().copied());
        profile.sample(stack, vec![whole(allocations.objects), whole(allocations.bytes)], &[]);
    }
    profile.pack()
}

/// Whether a function is the allocator's own, or one by which every call of it goes: who asked for the memory is outside of them. The
/// names are those of jemalloc's build, of its crate, of what the compiler puts before any allocator, and of the module `alloc::alloc`.
fn is_allocator(name: &str) -> bool {
    const BEGINNINGS: [&str; 5] = ["_rjem_", "je_", "prof_", "alloc::alloc::", "<alloc::alloc::Global as "];
    const PARTS: [&str; 5] = ["tikv_jemallocator::", "__rust_alloc", "__rust_realloc", "__rdl_", "__rg_"];
    BEGINNINGS.iter().any(|beginning| name.starts_with(beginning)) || PARTS.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allocators_functions_are_told_from_those_that_use_it() {
        for name in [
            "prof_backtrace_impl",
            "_rjem_je_prof_tctx_create",
            "_rjem_mallocx",
            "<tikv_jemallocator::Jemalloc as core::alloc::global::GlobalAlloc>::alloc",
            "__rustc::__rust_alloc_zeroed",
            "__rustc::__rg_realloc",
            "__rust_realloc",
            "alloc::alloc::exchange_malloc",
            "<alloc::alloc::Global as core::alloc::Allocator>::allocate",
        ] {
            assert!(is_allocator(name), "{name}");
        }
        for name in [
            "",
            "metrics_sidecar::page::print",
            "<alloc::raw_vec::RawVecInner<alloc::alloc::Global>>::finish_grow",
            "alloc::raw_vec::finish_grow",
            "profile",
        ] {
            assert!(!is_allocator(name), "{name}");
        }
    }
}
