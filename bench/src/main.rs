//! Measures what inpick costs Envoy: CPU per request, as a ratio to the same Envoy without it.
//!
//! Compared are `plain` (no piece of inpick in the bootstrap, round robin), `nothing` (plain and a wasm filter that does nothing),
//! `floor` (our bootstrap with a filter that makes only the unavoidable host calls) and `ours` (as shipped, with a sidecar that
//! polls the pods; what fetching its snapshots costs Envoy is in the figures, its own process is reported beside them). All have
//! one worker and talk to the same four canned pods in one process of their own. Every response is checked.
//! `--arms` compares anything else, for example `--arms plain,ours,ours-strip,ours@/tmp/other.wasm`.
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
use crate::load::WORKLOADS;
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
    /// What is compared: plain, nothing, floor, unhashed (ours with a profile that needs no hashes of prompts), ours; each may be followed by -PIECE and +PIECE of the bootstrap and by @MODULE
    #[arg(long, value_delimiter = ',', default_value = "plain,nothing,floor,ours")]
    arms: Vec<Arm>,
    /// Of "1 KB", "64 KB", "400 KB", "stream" and "idle"; all if none is named
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<String>,
    /// Times that every instance is started
    #[arg(long, default_value_t = 3)]
    starts: usize,
    /// Rounds of each start and workload
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of a round
    #[arg(long, default_value_t = 1.2)]
    seconds: f64,
    /// Seconds of a round at an idle rate
    #[arg(long, default_value_t = 6.0)]
    idle_seconds: f64,
}

#[derive(Subcommand)]
enum Command {
    /// Serves canned pods until standard input ends
    Pods {
        /// How many
        #[arg(long, default_value_t = 4)]
        count: usize,
    },
    /// Compares policies by the time to the first token, the same chats through each gateway
    Routing(RoutingFlags),
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    match &arguments.command {
        Some(Command::Pods { count }) => pods::serve(*count),
        Some(Command::Routing(flags)) => runtime()?.block_on(routing::compare(flags)),
        None => runtime()?.block_on(compare(arguments)),
    }
}

async fn compare(arguments: Arguments) -> anyhow::Result<()> {
    let extent = if arguments.quick {
        let moment = Duration::from_millis(300);
        Extent { starts: 1, rounds: 1, round: moment, idle_round: moment, first_warm_up: moment, warm_up: moment }
    } else {
        Extent {
            starts: arguments.starts,
            rounds: arguments.rounds,
            round: Duration::try_from_secs_f64(arguments.seconds)?,
            idle_round: Duration::try_from_secs_f64(arguments.idle_seconds)?,
            first_warm_up: Duration::from_secs(4),
            warm_up: Duration::from_millis(500),
        }
    };
    let workloads: Vec<_> = WORKLOADS
        .into_iter()
        .filter(|workload| {
            arguments.workloads.is_empty() || arguments.workloads.iter().any(|name| name == workload.name)
        })
        .collect();
    ensure!(!workloads.is_empty(), "there are no workloads {:?}", arguments.workloads);
    let before = report::machine();
    let measurements = session::run(&arguments.arms, &workloads, &extent).await?;
    let machine = [before, report::machine()];
    println!("{}", report::markdown(&measurements, &arguments.arms, &workloads));
    for state in &machine {
        println!("{state}");
    }
    let path = report::write_json(&measurements, &arguments.arms, &workloads, &machine)?;
    println!("{}", path.display());
    if arguments.quick {
        for (arm, workload) in
            arguments.arms.iter().flat_map(|arm| workloads.iter().map(move |workload| (arm, workload)))
        {
            let ratio = report::ratio(&measurements, &arm.name, workload.name)
                .with_context(|| format!("{}, {}: not compared with {}", arm.name, workload.name, report::BASE))?;
            ensure!(ratio.median.is_finite() && ratio.median > 0.0, "{}, {}: {ratio:?}", arm.name, workload.name);
        }
    }
    Ok(())
}
