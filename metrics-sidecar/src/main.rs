//! The sidecar's own program; `inpick run` is the same.

use std::process::ExitCode;

use clap::Parser;
use metrics_sidecar::flags::{EX_USAGE, Flags};
use metrics_sidecar::process;

/// So that a profile of the heap can be had.
#[cfg(feature = "heap-profile")]
#[global_allocator]
static ALLOCATOR: metrics_sidecar::profiling::Allocator = metrics_sidecar::profiling::Allocator;

fn main() -> ExitCode {
    match Flags::try_parse() {
        Ok(flags) => process::run(&flags),
        Err(error) => {
            let asked_for_help = !error.use_stderr();
            let _ = error.print();
            if asked_for_help { ExitCode::SUCCESS } else { ExitCode::from(EX_USAGE) }
        }
    }
}
