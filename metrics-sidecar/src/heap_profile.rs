//! Where the process's memory went, by the allocator's samples.

use std::collections::HashMap;
use std::time::Duration;

use heap_profile::{Heap, HeapError, sample, symbols};

use crate::profile_format::ProfileBuilder;
use crate::profilers::{ProfileBytes, ProfileError};

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
    let mut locations = HashMap::new();
    for allocations in &heap.live {
        let stack = allocations.stack.iter().map(|&address| {
            *locations.entry(address).or_insert_with(|| {
                let symbols = symbols(address);
                let lines = symbols
                    .iter()
                    .map(|symbol| profile.line(&symbol.name, &symbol.mangled, &symbol.file, symbol.line))
                    .collect();
                profile.location(address, lines)
            })
        });
        let stack = stack.collect();
        profile.sample(stack, vec![whole(allocations.objects), whole(allocations.bytes)], &[]);
    }
    profile.pack()
}
