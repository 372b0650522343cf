//! `make run`: the gateway on this machine, in the foreground until Ctrl-C.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use local_stack::{Mode, Ports, Stack, StatusLine, interrupted};

/// How often the status line's numbers change: stats are published each second.
const TICK: Duration = Duration::from_secs(1);

/// Starts vLLM pods, Envoy with inpick and, unless it is in Envoy, the metrics sidecar, and stops them on Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "run", version)]
struct Arguments {
    /// Real model servers, host:port, comma-separated, instead of simulated ones.
    #[arg(long, env = "PODS", value_delimiter = ',', value_parser = pod)]
    pods: Vec<String>,
    /// Simulated pods to start when no real ones are named.
    #[arg(long, default_value_t = 3)]
    simulated: usize,
    /// Further argument of every simulated pod; may be repeated.
    #[arg(long, allow_hyphen_values = true)]
    pod_arg: Vec<String>,
    /// Envoy's worker threads.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Takes free ports instead of 10000, 9901, 9090 and 8001 onwards.
    #[arg(long)]
    ephemeral: bool,
    /// What of inpick runs where: wasm or native-sidecar, with the sidecar beside Envoy, or native, with nothing beside it.
    #[arg(long, default_value_t = Mode::Wasm)]
    mode: Mode,
    /// Bootstrap, relative to the repository, instead of the mode's.
    #[arg(long)]
    config: Option<PathBuf>,
    /// JSON merged into the filter's configuration.
    #[arg(long, value_parser = json)]
    plugin_config: Option<serde_json::Value>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match until_stopped(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nrun: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn until_stopped(arguments: Arguments) -> anyhow::Result<()> {
    let stopped = interrupted()?;
    tokio::select! {
        // Dropping the other branch drops the stack, started or half started, and so stops it.
        () = stopped => {
            println!("\nstopped");
            Ok(())
        }
        failed = serve(arguments) => failed,
    }
}

/// Runs until a part fails.
async fn serve(arguments: Arguments) -> anyhow::Result<()> {
    let mut builder = Stack::builder().mode(arguments.mode).workers(arguments.workers);
    if let Some(config) = arguments.config {
        builder = builder.config(config);
    }
    if !arguments.ephemeral {
        builder = builder.ports(Ports::DOCUMENTED);
    }
    let simulated = arguments.pods.is_empty();
    builder = if simulated {
        builder.pods(arguments.simulated).vllm_sim_args(arguments.pod_arg)
    } else {
        // Servers of others may be down; the gateway shows that instead of refusing to start.
        builder.pods_at(arguments.pods).wait_for_snapshot(false)
    };
    if let Some(config) = arguments.plugin_config {
        builder = builder.plugin_config(config);
    }
    println!("starting the pods{} and Envoy", if arguments.mode.has_sidecar_process() { ", the sidecar" } else { "" });
    let mut stack = builder.start().await?;
    println!("{}", greeting(&stack, simulated));
    watch(&mut stack).await
}

/// Prints the status line until a part fails.
async fn watch(stack: &mut Stack) -> anyhow::Result<()> {
    // On a terminal the line is written over; in a file each second gets its own.
    let (before, after) = if std::io::stdout().is_terminal() { ("\r\x1b[2K", "") } else { ("", "\n") };
    let mut status = StatusLine::default();
    let mut last = Instant::now();
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
        stack.check()?;
        let line = match stack.sidecar_page().await {
            Ok(page) => status.line(&page, &stack.pods, last.elapsed()),
            Err(error) => format!("no metrics: {error}"),
        };
        last = Instant::now();
        let mut output = std::io::stdout().lock();
        write!(output, "{before}{line}{after}")?;
        output.flush()?;
    }
}

fn greeting(stack: &Stack, simulated: bool) -> String {
    let kind = if simulated { "simulated vLLM" } else { "model servers" };
    let pods: Vec<&str> = stack.pods.iter().map(|pod| pod.addr.as_str()).collect();
    let gateway = stack.gateway;
    format!(
        "\n  gateway   http://{gateway}\n  metrics   http://{}/metrics\n  admin     http://{}\n  pods      {} ({kind})\n\n\
         Try: curl http://{gateway}/v1/models\nCtrl-C stops everything.\n",
        stack.sidecar,
        stack.admin,
        pods.join(", "),
    )
}

fn pod(text: &str) -> Result<String, String> {
    let text = text.trim();
    let named = text.rsplit_once(':').filter(|(host, port)| {
        !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    named.map(|_| text.to_owned()).ok_or_else(|| "want host:port, for instance 10.0.0.7:8000".to_owned())
}

fn json(text: &str) -> Result<serde_json::Value, serde_json::Error> {
    serde_json::from_str(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_split_at_commas() {
        let arguments = Arguments::parse_from(["run", "--pods", "gpu-1:8000, 10.0.0.7:8001"]);
        assert_eq!(arguments.pods, ["gpu-1:8000", "10.0.0.7:8001"]);
    }

    #[test]
    fn pod_without_port_or_with_a_scheme_is_refused() {
        for wrong in ["gpu-1", "http://gpu-1:8000", ":8000", "gpu-1:0", "gpu-1:99999"] {
            assert!(Arguments::try_parse_from(["run", "--pods", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn arguments_of_pods_may_begin_with_hyphens() {
        let arguments = Arguments::parse_from(["run", "--pod-arg", "--speed", "--pod-arg", "2"]);
        assert_eq!(arguments.pod_arg, ["--speed", "2"]);
    }
}
