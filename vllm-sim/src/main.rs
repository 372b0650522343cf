//! The pod as a program: starts, says where it listens, and ends as vLLM ends.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use vllm_sim::{Config, Server};

#[tokio::main]
async fn main() -> ExitCode {
    let config = Config::parse();
    let grace = Duration::from_secs(config.shutdown_timeout);
    match run(config, grace).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vllm-sim: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config, grace: Duration) -> Result<(), Box<dyn std::error::Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let server = Server::start(config).await?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "listening on http://{}", server.addr)?;
    if let Some(admin) = server.admin_addr {
        writeln!(stdout, "admin on http://{admin}")?;
    }
    stdout.flush()?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    if !grace.is_zero() {
        server.finish(grace).await;
    }
    server.stop().await;
    Ok(())
}
