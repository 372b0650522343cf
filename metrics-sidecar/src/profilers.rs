//! What can be profiled of the process.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// A profile in the format of pprof, compressed with gzip; or why there is none.
pub type ProfileBytes = Result<Vec<u8>, ProfileError>;

/// Makes a profile; without a length of time it is of the state as it is.
pub type Profiler = Arc<dyn Fn(Duration) -> Pin<Box<dyn Future<Output = ProfileBytes> + Send>> + Send + Sync>;

/// Why there is no profile.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProfileError {
    /// Another one is being made.
    #[error("another profile is being made")]
    Busy,
    /// It cannot be had in this process.
    #[error("{0}")]
    Absent(String),
    /// It failed.
    #[error("{0}")]
    Failed(String),
}

/// What the process can tell of itself. What is not there is answered with 501 and a reason.
#[derive(Clone, Default)]
pub struct Profilers {
    /// Where its CPU goes.
    pub cpu: Option<Profiler>,
    /// Where its memory went.
    pub heap: Option<Profiler>,
}

impl std::fmt::Debug for Profilers {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cpu, heap } = self;
        out.debug_struct("Profilers").field("cpu", &cpu.is_some()).field("heap", &heap.is_some()).finish()
    }
}
