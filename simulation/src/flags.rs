//! The command line.

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};

use crate::calibration::Calibration;
use crate::contender::Contender;
use crate::experiment::{Experiment, Traffic, run_all};
use crate::report;
use crate::sidecar::Mishaps;
use crate::workload::chats::ChatSettings;

/// Compares ways to pick an endpoint in virtual time.
#[derive(Debug, Parser)]
#[command(name = "simulation")]
pub struct Flags {
    /// What clients send.
    #[arg(long, value_enum, default_value = "chats")]
    workload: WorkloadFlag,
    /// Conversations that begin each second.
    #[arg(long, default_value_t = 8.0)]
    rate: f64,
    /// Different system prompts.
    #[arg(long, default_value_t = 16)]
    prompts: usize,
    /// Tokens of an answer at most.
    #[arg(long, default_value_t = 60)]
    out: u32,
    /// Tokens of an answer at least.
    #[arg(long, default_value_t = 1)]
    out_min: u32,
    /// Seconds for which conversations begin.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Policies to compare, by comma.
    #[arg(long, value_delimiter = ',', default_value = "round-robin,random,least-request,epp,cache-aware,lmetric,oracle,ours")]
    policies: Vec<String>,
    /// Configuration of `ours`.
    #[arg(long, default_value = "{}")]
    config: String,
    /// Seeds, from 1 on.
    #[arg(long, default_value_t = 8)]
    seeds: u64,
    /// Workers of each Envoy of `ours`.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Envoys of `ours`.
    #[arg(long, default_value_t = 1)]
    replicas: usize,
    /// Pods.
    #[arg(long, default_value_t = 4)]
    pods: usize,
    /// The engine: inference-sim.
    #[arg(long, default_value = "inference-sim")]
    calibration: String,
    /// Part of the sidecar's polls that get no answer.
    #[arg(long, default_value_t = 0.0)]
    lost_polls: f64,
    /// Threads; 0: one for each processor.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum WorkloadFlag {
    Chats,
}

/// Runs what the flags say and prints it.
///
/// # Errors
///
/// When a flag's value is none, or a file cannot be read or written.
pub fn run(flags: &Flags) -> Result<()> {
    let calibration = Calibration::named(&flags.calibration).context("no such calibration")?;
    let mishaps = Mishaps { lost_polls: flags.lost_polls, delay_micros: 0 };
    let contender = |name: &String| Contender::named(name, &flags.config, flags.replicas, flags.workers, mishaps);
    let contenders = flags.policies.iter().map(contender).collect::<Result<Vec<Contender>>>()?;
    let WorkloadFlag::Chats = flags.workload;
    let settings = ChatSettings {
        rate: flags.rate,
        seconds: flags.seconds,
        turns: 4,
        prompts: flags.prompts,
        prompt_tokens: 800.0,
        output_tokens: (flags.out_min.min(flags.out), flags.out),
        think_seconds: 1.0,
    };
    let name = format!("chats: {} conversations/s, {} prompts, {} out", flags.rate, flags.prompts, flags.out);
    let experiment = Experiment {
        name,
        traffic: Traffic::Chats(settings),
        pods: flags.pods,
        calibration,
        mishaps: Vec::new(),
        counted: 0..u64::MAX,
        contenders,
    };
    let threads = match flags.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    for result in run_all(&[experiment], flags.seeds, threads) {
        println!("{}", report::table(&result));
    }
    Ok(())
}
