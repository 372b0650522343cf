//! A run: instances started several times, rounds interleaved, every number kept.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use catalogue::Stat;
use local_stack::{Stack, repository};
use serde::Serialize;

use crate::arm::Arm;
use crate::cpu::Cpu;
use crate::load::{self, Done, Pace, Workload};
use crate::pods::Pods;

/// Enough for a picker to have a choice.
const PODS: usize = 4;
/// One, so that Envoy has a core and the clients and pods have another on the smallest machine.
const WORKERS: usize = 1;
/// Until an Envoy with a sidecar knows the pods.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(20);
/// Envoy names its worker threads so.
const WORKER_THREADS: &str = "wrk:";

/// How much is measured.
#[derive(Clone, Debug)]
pub(crate) struct Extent {
    /// Times that every instance is started.
    pub(crate) starts: usize,
    /// Rounds of each start.
    pub(crate) rounds: usize,
    /// Length of a round.
    pub(crate) round: Duration,
    /// Length of a round at an idle rate; one a start.
    pub(crate) idle_round: Duration,
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
    pub(crate) start: usize,
    pub(crate) round: usize,
    #[serde(flatten)]
    pub(crate) done: Done,
    /// CPU of Envoy, nanoseconds.
    pub(crate) envoy_ns: u64,
    /// Of which its worker threads.
    pub(crate) workers_ns: u64,
    /// CPU of the sidecar, nanoseconds; `None` without one.
    pub(crate) sidecar_ns: Option<u64>,
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
    let guest = if arms.iter().any(Arm::has_guest) { build_guest()? } else { PathBuf::new() };
    let pods = Pods::start(PODS)?;
    let mut measurements = Vec::new();
    let begun = Instant::now();
    for start in 0..extent.starts {
        let mut stacks = Vec::new();
        for arm in arms {
            stacks.push((arm, start_stack(arm, &pods, &guest).await.with_context(|| arm.name.clone())?));
        }
        for (number, workload) in workloads.iter().enumerate() {
            let warm_up = if number == 0 { extent.first_warm_up } else { extent.warm_up };
            for (arm, stack) in &stacks {
                load::run(*workload, stack.gateway, warm_up).await.with_context(|| arm.name.clone())?;
            }
            let (rounds, length) = match workload.pace {
                Pace::Closed { .. } => (extent.rounds, extent.round),
                Pace::Open { .. } => (1, extent.idle_round),
            };
            for round in 0..rounds {
                // Another one goes first each time, so that drifts of the machine favour nobody.
                let count = stacks.len().max(1);
                stacks.rotate_left(1 % count);
                for (arm, stack) in &mut stacks {
                    let measured = measure(arm, stack, *workload, start, round, length).await;
                    measurements.push(measured.with_context(|| format!("{}, {}", arm.name, workload.name))?);
                }
            }
            eprintln!(
                "start {} of {}, {}: done after {:.0} s",
                start + 1,
                extent.starts,
                workload.name,
                begun.elapsed().as_secs_f64()
            );
        }
        for (_, stack) in stacks {
            stack.stop().await;
        }
    }
    Ok(measurements)
}

async fn measure(
    arm: &Arm,
    stack: &mut Stack,
    workload: Workload,
    start: usize,
    round: usize,
    length: Duration,
) -> anyhow::Result<Measurement> {
    stack.check()?;
    let envoy = stack.envoy().context("Envoy is gone")?.id();
    let sidecar = stack.sidecar_process().map(|process| process.id());
    let sidecar_cpu = || sidecar.map(Cpu::of).transpose();
    let (envoy_before, sidecar_before) = (Cpu::of(envoy)?, sidecar_cpu()?);
    let done = load::run(workload, stack.gateway, length).await?;
    let spent = Cpu::of(envoy)?.since(&envoy_before);
    let sidecar_ns = sidecar_cpu()?.zip(sidecar_before).map(|(now, before)| now.since(&before).total());
    Ok(Measurement {
        arm: arm.name.clone(),
        workload: workload.name,
        start,
        round,
        done,
        envoy_ns: spent.total(),
        workers_ns: spent.of_threads(WORKER_THREADS),
        sidecar_ns,
    })
}

async fn start_stack(arm: &Arm, pods: &Pods, guest: &Path) -> anyhow::Result<Stack> {
    let addrs: Vec<String> = pods.addrs.iter().map(ToString::to_string).collect();
    let (patched, guest, list) = (arm.clone(), guest.display().to_string(), addrs.join(","));
    let builder =
        Stack::builder().pods_at(addrs).workers(WORKERS).patch(move |tree| patched.patch(tree, &guest, &list));
    if !arm.has_service() {
        return Ok(builder.without_sidecar().start().await?);
    }
    let mut stack = builder.start().await?;
    let deadline = Instant::now() + SNAPSHOT_TIMEOUT;
    let fresh = Stat::Endpoints.family().name;
    while stack.envoy_page().await?.sum(fresh, &[("state", "fresh")]) < PODS as f64 {
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
