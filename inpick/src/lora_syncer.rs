//! `inpick lora-syncer`: the syncer as a process.

use std::process::ExitCode;

use ::lora_syncer::{Syncer, SyncerFlags};
use metrics_sidecar::process::{exit_code, signals, start_logging};

/// Runs until a signal ends it or it cannot go on. Prints where it serves its metrics, and logs to standard error.
pub(crate) fn run(flags: SyncerFlags) -> ExitCode {
    start_logging();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    exit_code(runtime.map_err(|error| error.to_string()).and_then(|runtime| runtime.block_on(serve(flags))))
}

async fn serve(flags: SyncerFlags) -> Result<(), String> {
    let stop = signals().map_err(|error| error.to_string())?;
    let syncer = Syncer::bind(flags).await.map_err(|error| error.to_string())?;
    println!("listening on http://{}", syncer.address());
    syncer.run(stop).await.map_err(|error| error.to_string())
}
