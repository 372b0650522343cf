//! Where the process's CPU goes, by the signal SIGPROF.

use std::collections::HashMap;
use std::time::Duration;

use cpu_profile::{Sampling, SamplingError, Seen};

use crate::profile_format::ProfileBuilder;
use crate::profilers::{ProfileBytes, ProfileError};
use crate::symbols::Symbols;

/// Samples a second of CPU: no multiple of what usually ticks.
const FREQUENCY: u32 = 99;

/// Watches the CPU for so long.
pub(crate) async fn cpu(length: Duration) -> ProfileBytes {
    let failed = |error: &dyn std::fmt::Display| ProfileError::Failed(format!("the CPU cannot be profiled: {error}"));
    let sampling = match Sampling::start(FREQUENCY) {
        Err(SamplingError::Busy) => return Err(ProfileError::Busy),
        other => other.map_err(|error| failed(&error))?,
    };
    // A client that goes away drops this, which ends the profile.
    tokio::time::sleep(length).await;
    let seen = sampling.stop();
    if seen.left_out > 0 {
        tracing::warn!(
            samples = seen.left_out,
            "a CPU profile had no room for samples of stacks that it had not seen before"
        );
    }
    // Names of functions are read from the program's file, which takes a while.
    let encoding = tokio::task::spawn_blocking(move || packed(&seen, length));
    encoding.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}

/// What was seen within `length`.
fn packed(seen: &Seen, length: Duration) -> std::io::Result<Vec<u8>> {
    let period = 1_000_000_000 / i64::from(FREQUENCY);
    let cpu = ["cpu", "nanoseconds"];
    let mut profile = ProfileBuilder::new(&[["samples", "count"], cpu], cpu, period, length);
    let (mut symbols, mut names) = (Symbols::new(|_| false), HashMap::new());
    for stack in &seen.stacks {
        // Where the thread was is no return address: the next one is.
        let addresses = stack.addresses.iter().enumerate().map(|(place, address)| address + u64::from(place == 0));
        let locations = symbols.stack(&mut profile, addresses);
        let samples = i64::try_from(stack.samples).unwrap_or(i64::MAX);
        let name: &mut String = names.entry(stack.thread).or_insert_with(|| thread_name(stack.thread));
        profile.sample(locations, vec![samples, samples.saturating_mul(period)], &[["thread", name]]);
    }
    profile.pack()
}

/// A thread's name; its number once it has ended.
fn thread_name(thread: u64) -> String {
    let name = std::fs::read_to_string(format!("/proc/self/task/{thread}/comm"));
    name.map_or_else(|_| thread.to_string(), |name| name.trim_end().to_owned())
}
