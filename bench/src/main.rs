//! Measures what inpick costs Envoy: CPU per request, as a ratio to the same Envoy without it.
//!
//! Compared are `plain` (no piece of inpick in the bootstrap, round robin), `nothing` (plain and a wasm filter that does nothing),
//! `floor` (our bootstrap with a wasm filter that makes only the unavoidable host calls), `wasm` and `native` (as shipped, with a sidecar
//! that polls the pods) and `embedded` (the native module polls them on a thread of its own). What fetching snapshots costs Envoy is in
//! the figures; what polls the pods is reported beside them. All talk to the same canned pods in one process of their own, and every
//! response is checked. `--arms` compares anything else, for example `--arms plain,wasm,wasm-strip,wasm@/tmp/other.wasm`.
//!
//! `bench routing` compares how well gateways pick instead: `make routing`.

mod arm;
mod chat;
mod cpu;
mod load;
mod pods;
mod report;
mod response;
mod routing;
mod session;
mod statistics;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{Parser, Subcommand};

use crate::arm::Arm;
use crate::load::{Fleet, WORKLOADS, Workload};
use crate::routing::RoutingFlags;
use crate::session::Extent;

#[derive(Parser)]
#[command(about = "Measures what inpick costs Envoy")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// A smoke test: every arm serves every workload for a moment, and the figures mean nothing
    #[arg(long)]
    quick: bool,
    /// What is compared: plain, nothing, floor, unhashed (wasm with a profile that needs no hashes of prompts), wasm, native, embedded; each may be followed by -PIECE and +PIECE of the bootstrap and by @MODULE. +early lets long requests go on before their end, +early+unread does not read the rest, +log adds the shipped access log
    #[arg(long, value_delimiter = ',', default_value = "plain,floor,wasm,wasm+early,native,native+early,embedded")]
    arms: Vec<Arm>,
    /// Of "1 KB", "64 KB", "400 KB", "64 KB new", "400 KB new" (prompts that no pod knows), "stream", "idle" and "study"; all if none is named
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Envoy's worker threads; each count is measured by itself. With one, Envoy has a core and clients and pods have another on the smallest machine
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    workers: Vec<usize>,
    /// Times that every instance is started
    #[arg(long, default_value_t = 3)]
    starts: usize,
    /// Rounds of each start and workload
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of a round
    #[arg(long, default_value_t = 1.2)]
    seconds: f64,
    /// Seconds of a round at a fixed rate
    #[arg(long, default_value_t = 6.0)]
    open_seconds: f64,
}

#[derive(Subcommand)]
enum Command {
    /// Serves canned pods until standard input ends
    Pods {
        /// How many
        #[arg(long)]
        count: usize,
        /// Milliseconds between two events of a stream
        #[arg(long)]
        step_millis: u64,
    },
    /// Compares policies by the time to the first token, the same chats through each gateway
    Routing(RoutingFlags),
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    match &arguments.command {
        Some(Command::Pods { count, step_millis }) => pods::serve(Fleet { pods: *count, step_millis: *step_millis }),
        Some(Command::Routing(flags)) => runtime()?.block_on(routing::compare(flags)),
        None => runtime()?.block_on(compare(arguments)),
    }
}

async fn compare(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { quick, arms, rows, workers, .. } = &arguments;
    let extent = if *quick {
        let moment = Duration::from_millis(300);
        Extent {
            workers: workers.iter().copied().take(1).collect(),
            starts: 1,
            rounds: 1,
            round: moment,
            open_round: moment,
            first_warm_up: moment,
            warm_up: moment,
        }
    } else {
        Extent {
            workers: workers.clone(),
            starts: arguments.starts,
            rounds: arguments.rounds,
            round: Duration::try_from_secs_f64(arguments.seconds)?,
            open_round: Duration::try_from_secs_f64(arguments.open_seconds)?,
            first_warm_up: Duration::from_secs(4),
            warm_up: Duration::from_millis(500),
        }
    };
    let unknown: Vec<_> = rows.iter().filter(|row| WORKLOADS.iter().all(|workload| workload.name != **row)).collect();
    ensure!(unknown.is_empty(), "there are no rows {unknown:?}");
    let is_asked_for = |workload: &Workload| rows.is_empty() || rows.iter().any(|name| name == workload.name);
    let workloads: Vec<_> = WORKLOADS.into_iter().filter(is_asked_for).collect();
    let before = report::machine();
    let measurements = session::run(arms, &workloads, &extent).await?;
    let machine = [before, report::machine()];
    println!("{}", report::markdown(&measurements, arms, &workloads, &extent.workers));
    for state in &machine {
        println!("{state}");
    }
    let path = report::write_json(&measurements, arms, &workloads, &extent.workers, &machine)?;
    println!("{}", path.display());
    if *quick {
        for (arm, workload) in arms.iter().flat_map(|arm| workloads.iter().map(move |workload| (arm, workload))) {
            for &workers in &extent.workers {
                let ratio = report::ratio(&measurements, &arm.name, workload.name, workers)
                    .with_context(|| format!("{}, {}: not compared with {}", arm.name, workload.name, report::BASE))?;
                ensure!(ratio.median.is_finite() && ratio.median > 0.0, "{}, {}: {ratio:?}", arm.name, workload.name);
            }
        }
    }
    Ok(())
}
