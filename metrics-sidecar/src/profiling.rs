//! Profiles of a process that is the sidecar's own, as far as this build has them.

#[cfg(any(feature = "cpu-profile", feature = "heap-profile"))]
use std::sync::Arc;

use crate::profilers::Profilers;

/// The allocator that samples. A program has its heap profiled if it is its `#[global_allocator]`.
#[cfg(feature = "heap-profile")]
pub use heap_profile::Allocator;

/// The profilers of the process, whose allocator must be [`Allocator`] where there is one.
#[must_use]
pub fn profilers() -> Profilers {
    let profilers = Profilers::default();
    #[cfg(feature = "cpu-profile")]
    let profilers = Profilers { cpu: Some(Arc::new(|length| Box::pin(crate::cpu_profile::cpu(length)))), ..profilers };
    #[cfg(feature = "heap-profile")]
    let profilers = Profilers { heap: Some(Arc::new(|_| Box::pin(crate::heap_profile::heap()))), ..profilers };
    profilers
}
