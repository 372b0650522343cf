//! Profiles of a process that is the sidecar's own: its CPU by the signal SIGPROF, its heap by the allocator's samples.

use std::sync::Arc;
use std::time::Duration;

use crate::profile_format::encode;
use crate::profilers::{ProfileBytes, ProfileError, Profilers};

/// The allocator that samples. A program has its heap profiled if it is its `#[global_allocator]`.
pub use tikv_jemallocator::Jemalloc as Allocator;

/// Samples a second of CPU: no multiple of what usually ticks.
const FREQUENCY: i32 = 99;
/// Libraries in which a stack is not looked at: the signal may come while they hold the locks that this takes.
const BLOCKED: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];

/// The profilers of a process whose allocator is [`Allocator`].
#[must_use]
pub fn profilers() -> Profilers {
    Profilers { cpu: Some(Arc::new(|length| Box::pin(cpu(length)))), heap: Some(Arc::new(|_| Box::pin(heap()))) }
}

async fn cpu(length: Duration) -> ProfileBytes {
    let failed = |error: &dyn std::fmt::Display| ProfileError::Failed(format!("the CPU cannot be profiled: {error}"));
    let guard = pprof::ProfilerGuardBuilder::default().frequency(FREQUENCY).blocklist(&BLOCKED).build();
    let guard = match guard {
        Err(pprof::Error::Running) => return Err(ProfileError::Busy),
        other => other.map_err(|error| failed(&error))?,
    };
    // A client that goes away drops this, which ends the profile.
    tokio::time::sleep(length).await;
    // Names of functions are read from the program's file, which takes a while.
    let encoding = tokio::task::spawn_blocking(move || {
        let report = guard.report().build();
        drop(guard);
        encode(&report.map_err(|error| error.to_string())?, FREQUENCY, length).map_err(|error| error.to_string())
    });
    encoding.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}

async fn heap() -> ProfileBytes {
    let Some(control) = jemalloc_pprof::PROF_CTL.as_ref() else {
        let why = "The allocator does not sample: start the process with _RJEM_MALLOC_CONF=prof:true,lg_prof_sample:19";
        return Err(ProfileError::Absent(why.to_owned()));
    };
    let mut control = Arc::clone(control).lock_owned().await;
    let dumping = tokio::task::spawn_blocking(move || control.dump_pprof().map_err(|error| format!("{error:#}")));
    let failed = |error: String| ProfileError::Failed(format!("the heap cannot be profiled: {error}"));
    dumping.await.map_err(|error| failed(error.to_string()))?.map_err(failed)
}
