//! The command line.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};

use crate::aims::{self, aims};
use crate::calibration::Calibration;
use crate::contender::{Contender, ContenderSettings};
use crate::experiment::{Experiment, Purpose, Traffic, run_all};
use crate::gateway::SignalLoss;
use crate::overload::{self, Length};
use crate::picture::picture;
use crate::report;
use crate::scenario::standard;
use crate::workload::chats::ChatSettings;
use crate::workload::trace::{Scale, Trace};

/// One conversation in twelve of Mooncake's hour.
const SAMPLE: &str = include_str!("../traces/mooncake-conversation-sample.jsonl");

/// Compares ways to pick an endpoint in virtual time.
#[derive(Debug, Parser)]
#[command(name = "simulation")]
pub struct SimulationFlags {
    /// What clients send.
    #[arg(long, value_enum, default_value = "standard")]
    workload: WorkloadFlag,
    /// A trace of Mooncake's form or an access log (simulation/README.md has its format); without it a part of Mooncake's hour is played.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Requests of the trace at most; 0: all.
    #[arg(long, default_value_t = 0)]
    lines: usize,
    /// The trace's requests a second, times this.
    #[arg(long, default_value_t = 1.0)]
    rate_scale: f64,
    /// The trace's lengths, times this.
    #[arg(long, default_value_t = 1.0)]
    length_scale: f64,
    /// Chats: conversations that begin each second.
    #[arg(long, default_value_t = 8.0)]
    rate: f64,
    /// Chats: different system prompts.
    #[arg(long, default_value_t = 16)]
    prompts: usize,
    /// Chats: tokens of an answer at most; the length is drawn evenly from 1 on.
    #[arg(long, default_value_t = 60)]
    out: u32,
    /// Chats: seconds for which conversations begin.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Chats: adapters that are asked for; 0: none.
    #[arg(long, default_value_t = 0)]
    adapters: usize,
    /// Chats: part of the requests that ask for no stream.
    #[arg(long, default_value_t = 0.0)]
    unary: f64,
    /// Policies to compare, by comma; `ours@4x8` is the real core in 4 Envoys with 8 workers.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "round-robin,random,least-request,epp,cache-aware,lmetric,oracle,ours"
    )]
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
    /// The engines: inference-sim, a100 or h100.
    #[arg(long, default_value = "inference-sim")]
    calibration: String,
    /// All times of the engines, times this.
    #[arg(long, default_value_t = 1.0)]
    slowness: f64,
    /// Part of the polls of metrics pages that get no answer.
    #[arg(long, default_value_t = 0.0)]
    lost_polls: f64,
    /// Milliseconds that a metrics page takes to arrive.
    #[arg(long, default_value_t = 0)]
    page_delay_ms: u64,
    /// Standard: two seeds and a few seconds of each experiment, to see that all of it works.
    #[arg(long)]
    quick: bool,
    /// Standard: only experiments whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Standard: fail when an aim is not met.
    #[arg(long)]
    enforce: bool,
    /// Folder for results.md and policies.svg.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Threads; 0: one for each processor.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum WorkloadFlag {
    /// Every experiment that has an aim, and some more.
    Standard,
    /// Generated chats, as the flags say.
    Chats,
    /// A trace, as the flags say.
    Trace,
    /// Flow control on and off, below, at and above what the pods can do; part of the standard ones.
    Overload,
}

impl SimulationFlags {
    fn settings(&self) -> ContenderSettings {
        ContenderSettings {
            config: self.config.clone(),
            replicas: self.replicas,
            workers: self.workers,
            loss: SignalLoss { lost_polls: self.lost_polls, delay_micros: self.page_delay_ms * 1_000 },
        }
    }

    fn read_trace(&self) -> Result<Trace> {
        let trace = match &self.trace {
            Some(path) => {
                let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
                Trace::read(&text).with_context(|| path.display().to_string())?
            }
            None => Trace::read(SAMPLE)?,
        };
        Ok(if self.lines > 0 { trace.beginning(self.lines) } else { trace })
    }

    /// Whether flow control is compared too.
    fn has_overload(&self) -> bool {
        match self.workload {
            WorkloadFlag::Overload => true,
            WorkloadFlag::Standard => self.only.as_ref().is_none_or(|only| overload::NAME.contains(only.as_str())),
            WorkloadFlag::Chats | WorkloadFlag::Trace => false,
        }
    }

    fn experiments(&self) -> Result<Vec<Experiment>> {
        let settings = self.settings();
        let (name, traffic) = match self.workload {
            WorkloadFlag::Standard => {
                let mut all = standard(self.read_trace()?, &settings, self.quick)?;
                if let Some(only) = &self.only {
                    all.retain(|experiment| experiment.name.contains(only));
                }
                return Ok(all);
            }
            WorkloadFlag::Overload => return Ok(Vec::new()),
            WorkloadFlag::Chats => {
                let chats = ChatSettings {
                    seconds: self.seconds,
                    adapters: self.adapters,
                    unary_part: self.unary,
                    ..ChatSettings::measured(self.rate, self.prompts.max(1), self.out.max(1))
                };
                let name = format!("{} conversations/s, {} prompts, {} out", self.rate, self.prompts, self.out);
                (name, Traffic::Chats(chats))
            }
            WorkloadFlag::Trace => {
                let scale = Scale { rate: self.rate_scale, length: self.length_scale };
                let name = format!("trace, rate × {}, length × {}", scale.rate, scale.length);
                (name, Traffic::Trace(Arc::new(self.read_trace()?), scale))
            }
        };
        let names = Calibration::NAMES.join(", ");
        let calibration = Calibration::named(&self.calibration).with_context(|| format!("calibrations are {names}"))?;
        Ok(vec![Experiment {
            name: format!("{name}, {} pods like {}", self.pods, calibration.name),
            purpose: Purpose::Figure,
            traffic,
            pods: self.pods,
            calibration,
            slowness: self.slowness,
            mishaps: Vec::new(),
            counted: 0..u64::MAX,
            contenders: self.policies.iter().map(|name| Contender::named(name, &settings)).collect::<Result<_>>()?,
        }])
    }
}

/// Runs what the flags say, prints it, and writes it where a folder is given.
///
/// # Errors
///
/// When a flag's value is none, or a file cannot be read or written; with `--enforce` when an aim is not met.
pub fn run(flags: &SimulationFlags) -> Result<()> {
    ensure!(flags.pods > 0 && flags.seeds > 0, "at least one pod and one seed");
    ensure!(flags.rate > 0.0 && flags.rate_scale > 0.0, "rates are above 0");
    ensure!(flags.length_scale > 0.0 && flags.slowness > 0.0, "scales are above 0");
    let experiments = flags.experiments()?;
    let threads = match flags.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let seeds = if flags.quick { flags.seeds.min(2) } else { flags.seeds };
    let results = run_all(&experiments, seeds, threads);
    let aims = aims(&results);
    let mut text = report::text(&results, &aims, seeds);
    if flags.has_overload() {
        let length = if flags.quick { Length::Quick } else { Length::Whole };
        text.push_str(&overload::table(&overload::run(&flags.settings(), seeds, length, threads)?));
    }
    println!("{text}");
    if let Some(folder) = &flags.output {
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        write("results.md", &text)?;
        write("policies.svg", &picture(&results))?;
    }
    let unmet = aims.iter().filter(|aim| !aim.is_met()).count();
    ensure!(!flags.enforce || unmet == 0, "{unmet} aims are not met:\n{}", aims::table(&aims));
    Ok(())
}
