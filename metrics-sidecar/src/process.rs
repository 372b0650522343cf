//! The sidecar as a process: logging, signals and exit codes.

use std::fmt::Display;
use std::io::IsTerminal;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::config::Config;
use crate::flags::{EX_USAGE, Flags};
use crate::profiling::profilers;
use crate::sidecar::{LOG_FILTER, Sidecar};

/// Runs until a signal ends it or it cannot go on. Prints where it listens, logs to standard error, and returns the process's exit code:
/// 64 for flags that cannot be used.
#[must_use]
pub fn run(flags: &Flags) -> ExitCode {
    let config = match flags.parse_all() {
        Ok(config) => config,
        Err(errors) => {
            for error in errors {
                eprintln!("error: {error}");
            }
            return ExitCode::from(EX_USAGE);
        }
    };
    start_logging();
    let mut builder = if config.threads > 1 {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    if config.threads > 1 {
        builder.worker_threads(config.threads);
    }
    let result = match builder.enable_all().build() {
        Ok(runtime) => {
            let result = runtime.block_on(serve(config));
            // A name lookup that hangs must not hold the exit.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(error),
    };
    exit_code(result)
}

/// Logs to standard error, what `RUST_LOG` says or `info` and above.
pub fn start_logging() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG_FILTER)))
        .init();
}

/// Returns a future that is there with the first SIGTERM or SIGINT.
///
/// # Errors
///
/// Signals cannot be had.
pub fn signals() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Tells an error, and gives the exit code of the process.
pub fn exit_code(result: Result<(), impl Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: Config) -> std::io::Result<()> {
    let stop = signals()?;
    let scheme = if config.access.tls.is_some() { "https" } else { "http" };
    let running = Sidecar::start_profiled(config, profilers()).await?;
    println!("listening on http://{}", running.addr());
    if let Some(address) = running.metrics_addr() {
        println!("listening for scrapers on {scheme}://{address}");
    }
    let failure = tokio::select! {
        () = stop => None,
        failure = running.failed() => Some(failure),
    };
    running.stop().await;
    failure.map_or(Ok(()), |failure| Err(std::io::Error::other(failure)))
}
