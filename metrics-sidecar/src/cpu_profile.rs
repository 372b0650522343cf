//! Where the process's CPU goes, by the signal SIGPROF.

use std::time::Duration;

use pprof::Report;

use crate::profile_format::ProfileBuilder;
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
        packed(&report.map_err(|error| error.to_string())?, length).map_err(|error| error.to_string())
    });
    encoding.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}

/// What was seen within `length`.
fn packed(report: &Report, length: Duration) -> std::io::Result<Vec<u8>> {
    let period = 1_000_000_000 / i64::from(FREQUENCY);
    let cpu = ["cpu", "nanoseconds"];
    let mut profile = ProfileBuilder::new(&[["samples", "count"], cpu], cpu, period, length);
    for (stack, count) in &report.data {
        let mut locations = Vec::with_capacity(stack.frames.len());
        for inlined in &stack.frames {
            let lines = inlined
                .iter()
                .map(|symbol| profile.line(&symbol.name(), &symbol.sys_name(), &symbol.filename(), symbol.lineno()));
            let lines = lines.collect();
            let address = inlined.first().and_then(|symbol| symbol.addr).map_or(0, |address| address as usize as u64);
            locations.push(profile.location(address, lines));
        }
        let count = i64::try_from(*count).unwrap_or(i64::MAX);
        let values = vec![count, count.saturating_mul(period)];
        profile.sample(locations, values, &[["thread", &stack.thread_name_or_id()]]);
    }
    profile.pack()
}
