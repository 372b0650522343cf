//! The syncer as a process: logging, signals and exit codes.

use std::io::IsTerminal;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::flags::SyncerFlags;
use crate::syncer::Syncer;

/// Runs until a signal ends it or it cannot go on. Prints where it serves its metrics, and logs to standard error.
#[must_use]
pub fn run(flags: &SyncerFlags) -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")))
        .init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(|error| error.to_string()).and_then(|runtime| runtime.block_on(serve(flags.clone()))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(flags: SyncerFlags) -> Result<(), String> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let syncer = Syncer::bind(flags).await.map_err(|error| error.to_string())?;
    println!("listening on http://{}", syncer.address());
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    syncer.run(stop).await.map_err(|error| error.to_string())
}
