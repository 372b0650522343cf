//! The process: flags, logging, signals and exit codes.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use metrics_sidecar::Sidecar;
use metrics_sidecar::config::Config;
use metrics_sidecar::flags::{EX_USAGE, Flags};
use metrics_sidecar::profiling::profilers;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// So that a profile of the heap can be had.
#[cfg(feature = "heap-profile")]
#[global_allocator]
static ALLOCATOR: metrics_sidecar::profiling::Allocator = metrics_sidecar::profiling::Allocator;

fn main() -> ExitCode {
    let flags = match Flags::try_parse() {
        Ok(flags) => flags,
        Err(error) => {
            let asked_for_help = !error.use_stderr();
            let _ = error.print();
            return if asked_for_help { ExitCode::SUCCESS } else { ExitCode::from(EX_USAGE) };
        }
    };
    let config = match flags.parse_all() {
        Ok(config) => config,
        Err(errors) => {
            for error in errors {
                eprintln!("error: {error}");
            }
            return ExitCode::from(EX_USAGE);
        }
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")))
        .init();
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
            let result = runtime.block_on(run(config));
            // A name lookup that hangs must not hold the exit.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let scheme = if config.access.tls.is_some() { "https" } else { "http" };
    let running = Sidecar::start_profiled(config, profilers()).await?;
    println!("listening on http://{}", running.addr());
    if let Some(address) = running.metrics_addr() {
        println!("listening for scrapers on {scheme}://{address}");
    }
    let failure = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        failure = running.failed() => Some(failure),
    };
    running.stop().await;
    failure.map_or(Ok(()), |failure| Err(std::io::Error::other(failure)))
}
