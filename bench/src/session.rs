//! A run: instances started several times, rounds interleaved, every number kept.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use catalogue::Stat;
use local_stack::{Stack, repository};
use serde::Serialize;

use crate::arm::{Arm, Parts, Poller};
use crate::cpu::Cpu;
use crate::load::{self, Done, Fleet, Pace, Workload};
use crate::pods::Pods;

/// Until an Envoy with a sidecar knows the pods.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(20);
/// Envoy names its worker threads so.
const WORKER_THREADS: &str = "wrk:";
/// The native module names its own threads so.
const OWN_THREADS: &str = "inpick-";

/// How much is measured.
#[derive(Clone, Debug)]
pub(crate) struct Extent {
    /// Envoy's worker threads; each count is measured by itself.
    pub(crate) workers: Vec<usize>,
    /// Times that every instance is started.
    pub(crate) starts: usize,
    /// Rounds of each start.
    pub(crate) rounds: usize,
    /// Length of a round.
    pub(crate) round: Duration,
    /// Length of a round at a fixed rate; one a start.
    pub(crate) open_round: Duration,
    /// Before the first round of an instance: V8 compiles a module's functions well only after they ran some ten thousand times.
    pub(crate) first_warm_up: Duration,
    /// Before the first round of a workload.
    pub(crate) warm_up: Duration,
}

/// What one arm did in one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measurement {
    pub(crate) arm: String,
    pub(crate) workload: &'static str,
    /// Envoy's worker threads.
    pub(crate) workers: usize,
    pub(crate) start: usize,
    pub(crate) round: usize,
    #[serde(flatten)]
    pub(crate) done: Done,
    /// CPU of Envoy, nanoseconds; without the thread that polls the pods.
    pub(crate) envoy_ns: u64,
    /// Of which its worker threads.
    pub(crate) workers_ns: u64,
    /// CPU of what polls the pods, nanoseconds: the sidecar's process, or the thread inside Envoy. `None` without one.
    pub(crate) poller_ns: Option<u64>,
}

impl Measurement {
    /// Envoy's CPU for one request, nanoseconds.
    pub(crate) fn per_request(&self) -> f64 {
        self.envoy_ns as f64 / self.done.requests as f64
    }
}

/// Runs all of it.
///
/// # Errors
/// An instance does not start or does not serve.
pub(crate) async fn run(arms: &[Arm], workloads: &[Workload], extent: &Extent) -> anyhow::Result<Vec<Measurement>> {
    let guest = if arms.iter().any(Arm::has_guest) { build_guest()?.display().to_string() } else { String::new() };
    let mut fleets: Vec<Fleet> = Vec::new();
    for workload in workloads {
        if !fleets.contains(&workload.fleet) {
            fleets.push(workload.fleet);
        }
    }
    let mut measurements = Vec::new();
    let begun = Instant::now();
    for fleet in fleets {
        let pods = Pods::start(fleet)?;
        let addrs = pods.addrs.iter().map(ToString::to_string).collect();
        let parts = Parts { guest: guest.clone(), pods: addrs };
        let workloads: Vec<Workload> = workloads.iter().copied().filter(|workload| workload.fleet == fleet).collect();
        for start in 0..extent.starts {
            for &workers in &extent.workers {
                let measured = one_start(arms, &workloads, &parts, start, workers, extent).await?;
                measurements.extend(measured);
                eprintln!(
                    "{} pods, start {} of {}, {workers} workers: done after {:.0} s",
                    fleet.pods,
                    start + 1,
                    extent.starts,
                    begun.elapsed().as_secs_f64()
                );
            }
        }
    }
    Ok(measurements)
}

/// Starts every instance once and lets each serve every workload, in turns.
async fn one_start(
    arms: &[Arm],
    workloads: &[Workload],
    parts: &Parts,
    start: usize,
    workers: usize,
    extent: &Extent,
) -> anyhow::Result<Vec<Measurement>> {
    let mut measurements = Vec::new();
    let mut stacks = Vec::new();
    for arm in arms {
        stacks.push((arm, start_stack(arm, parts, workers).await.with_context(|| arm.name.clone())?));
    }
    for (number, workload) in workloads.iter().enumerate() {
        let warm_up = if number == 0 { extent.first_warm_up } else { extent.warm_up };
        for (arm, stack) in &stacks {
            load::run(*workload, stack.gateway, warm_up).await.with_context(|| arm.name.clone())?;
        }
        let (rounds, length) = match workload.pace {
            Pace::Closed { .. } => (extent.rounds, extent.round),
            Pace::Open { .. } => (1, extent.open_round),
        };
        for round in 0..rounds {
            // Another one goes first each time, so that drifts of the machine favour nobody.
            let count = stacks.len().max(1);
            stacks.rotate_left(1 % count);
            for (arm, stack) in &mut stacks {
                let measured = measure(arm, stack, *workload, (workers, start, round), length).await;
                measurements.push(measured.with_context(|| format!("{}, {}", arm.name, workload.name))?);
            }
        }
    }
    for (_, stack) in stacks {
        stack.stop().await;
    }
    Ok(measurements)
}

async fn measure(
    arm: &Arm,
    stack: &mut Stack,
    workload: Workload,
    (workers, start, round): (usize, usize, usize),
    length: Duration,
) -> anyhow::Result<Measurement> {
    stack.check()?;
    let envoy = stack.envoy().context("Envoy is gone")?.id();
    let sidecar = stack.sidecar_process().map(|process| process.id());
    let sidecar_cpu = || sidecar.map(Cpu::of).transpose();
    let (envoy_before, sidecar_before) = (Cpu::of(envoy)?, sidecar_cpu()?);
    let done = load::run(workload, stack.gateway, length).await?;
    let spent = Cpu::of(envoy)?.since(&envoy_before);
    let own_ns = spent.of_threads(OWN_THREADS);
    let poller_ns = match arm.poller() {
        Poller::Nobody => None,
        Poller::Sidecar => sidecar_cpu()?.zip(sidecar_before).map(|(now, before)| now.since(&before).total()),
        Poller::Thread => Some(own_ns),
    };
    Ok(Measurement {
        arm: arm.name.clone(),
        workload: workload.name,
        workers,
        start,
        round,
        done,
        envoy_ns: spent.total() - own_ns,
        workers_ns: spent.of_threads(WORKER_THREADS),
        poller_ns,
    })
}

async fn start_stack(arm: &Arm, parts: &Parts, workers: usize) -> anyhow::Result<Stack> {
    let (patched, owned) = (arm.clone(), parts.clone());
    let builder = Stack::builder()
        .mode(arm.mode())
        .pods_at(parts.pods.clone())
        .workers(workers)
        .patch(move |tree| patched.patch(tree, &owned));
    let mut stack = match arm.poller() {
        Poller::Nobody => return Ok(builder.without_sidecar().start().await?),
        Poller::Sidecar | Poller::Thread => builder.start().await?,
    };
    let deadline = Instant::now() + SNAPSHOT_TIMEOUT;
    let fresh = Stat::Endpoints.family().name;
    while stack.envoy_page().await?.sum(fresh, &[("state", "fresh")]) < parts.pods.len() as f64 {
        ensure!(Instant::now() < deadline, "Envoy does not learn of the pods:\n{}", stack.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(stack)
}

/// Builds the guest with the tools that build the filter.
fn build_guest() -> anyhow::Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| repository().join("target"), PathBuf::from)
        .join("bench-guest");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = std::process::Command::new(cargo)
        .args(["build", "--quiet", "--release", "--target", "wasm32-wasip1"])
        .arg("--manifest-path")
        .arg(repository().join("bench/guest/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .current_dir(repository())
        .status()
        .context("cargo could not be started")?;
    ensure!(status.success(), "the guest of the bench does not build");
    Ok(target.join("wasm32-wasip1/release/bench_guest.wasm").canonicalize()?)
}
