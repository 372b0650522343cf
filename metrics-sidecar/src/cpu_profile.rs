//! Where the process's CPU goes, by the signal SIGPROF.

use std::time::Duration;

use crate::profile_format::encode;
use crate::profilers::{ProfileBytes, ProfileError};

/// Samples a second of CPU: no multiple of what usually ticks.
const FREQUENCY: i32 = 99;
/// Libraries in which a stack is not looked at: the signal may come while they hold the locks that this takes.
const BLOCKED: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];

/// Watches the CPU for so long.
pub(crate) async fn cpu(length: Duration) -> ProfileBytes {
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
