//! Policies compared on the real Envoy: the same chats through each gateway, each with fresh pods, side by side where the machine
//! can carry it, so that what else runs on it hits all of them.
//!
//! The pods are timed as those were with which the simulation is compared: 8 slots, 1024 blocks of 16 tokens, 20 ms and 200 us a
//! prompt token that is not cached, 10 ms a token out, twice that when all slots are taken.

mod clients;
mod gateway;
mod table;

use std::collections::VecDeque;

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use simulation::MeasuredLoad;
use tokio::task::JoinSet;

use crate::cpu;
use gateway::Gateway;
use table::{Outcome, Row};

/// Part of the processors' time above which they, not the pods, set the pace.
const BUSY_LIMIT: f64 = 0.85;
/// Seeds of the simulation.
const SIMULATED_SEEDS: u64 = 8;

/// How policies are compared.
#[derive(Args, Debug)]
pub(crate) struct RoutingFlags {
    /// Which loads
    #[arg(long, value_enum, value_delimiter = ',', default_value = "light,moderate,queueing")]
    loads: Vec<LoadFlag>,
    /// Which gateways
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "round-robin,least-request,ours,lmetric,epp-profile"
    )]
    gateways: Vec<Gateway>,
    /// Seconds for which conversations begin
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// All times are that many times as long, rates accordingly lower: for a machine that cannot carry the rates
    #[arg(long, default_value_t = 1.0)]
    slowness: f64,
    /// Seeds of the chats; each is a round of its own, and the rounds' answers count together
    #[arg(long, value_delimiter = ',', default_value = "1")]
    seeds: Vec<u64>,
    /// Worker threads of each Envoy
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Gateways measured at the same time; 0: as many as the load allows on two processors
    #[arg(long, default_value_t = 0)]
    beside: usize,
    /// Fail when a limit is missed
    #[arg(long)]
    enforce: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum LoadFlag {
    /// 3 conversations a second
    Light,
    /// 8 a second
    Moderate,
    /// 16 a second, more than the pods can do
    Queueing,
}

impl LoadFlag {
    const fn load(self) -> MeasuredLoad {
        match self {
            Self::Light => MeasuredLoad::LIGHT,
            Self::Moderate => MeasuredLoad::MODERATE,
            Self::Queueing => MeasuredLoad::QUEUEING,
        }
    }

    /// Gateways that two processors can carry at once with their pods.
    const fn beside(self) -> usize {
        match self {
            Self::Light => 5,
            Self::Moderate => 3,
            Self::Queueing => 2,
        }
    }
}

/// Runs and prints all of it.
///
/// # Errors
/// A gateway does not start, a request is not answered, or, where that is asked for, a limit is missed.
pub(crate) async fn compare(flags: &RoutingFlags) -> anyhow::Result<()> {
    ensure!(flags.slowness > 0.0 && flags.seconds > 0.0, "times are above 0");
    let mut missed = 0;
    let mut failed = 0;
    for &flag in &flags.loads {
        let load = flag.load();
        let beside = if flags.beside == 0 { flag.beside() } else { flags.beside }.min(flags.gateways.len());
        let mut rows: Vec<Row> = flags.gateways.iter().map(|&gateway| Row::new(gateway)).collect();
        let mut busiest = 0.0_f64;
        for &seed in &flags.seeds {
            let busy = round(flags, load, beside, seed, &mut rows).await.with_context(|| load.name)?;
            busiest = busiest.max(busy);
        }
        let policies: Vec<_> = rows.iter().map(|row| row.gateway.simulated()).collect();
        let simulated = load.simulate(&policies, flags.workers, SIMULATED_SEEDS)?;
        for (row, simulated) in rows.iter_mut().zip(simulated) {
            row.simulated = Some(simulated);
        }
        println!("{}", table::markdown(&load, flags.slowness, &rows));
        println!("The processors were busy for {:.0} % of the time, {beside} gateways at once.", busiest * 100.0);
        if busiest > BUSY_LIMIT {
            println!("So they, not the pods, may have set the pace: --slowness 2 makes all times twice as long.");
        }
        for verdict in table::verdicts(&load, &rows) {
            println!("{verdict}");
            missed += usize::from(!verdict.is_met);
        }
        println!();
        failed += rows.iter().map(Row::failed).sum::<usize>();
    }
    ensure!(failed == 0, "{failed} requests were not answered as they should be");
    ensure!(!flags.enforce || missed == 0, "{missed} limits were missed");
    Ok(())
}

/// One seed through every gateway, `beside` at a time. Returns the part of the processors' time that was spent, at its highest.
async fn round(
    flags: &RoutingFlags,
    load: MeasuredLoad,
    beside: usize,
    seed: u64,
    rows: &mut [Row],
) -> anyhow::Result<f64> {
    let conversations = load.conversations(seed, flags.seconds, flags.slowness);
    let mut left: VecDeque<&mut Row> = rows.iter_mut().collect();
    let mut busiest = 0.0_f64;
    while !left.is_empty() {
        let batch: Vec<&mut Row> = left.drain(..beside.min(left.len())).collect();
        let mut stacks = Vec::new();
        for row in &batch {
            let gateway = row.gateway;
            stacks.push(gateway.start(flags.slowness, flags.workers).await.with_context(|| gateway.to_string())?);
        }
        let before = cpu::machine()?;
        let mut running = JoinSet::new();
        for (place, stack) in stacks.iter().enumerate() {
            let (url, conversations) = (stack.url("/v1/chat/completions"), conversations.clone());
            running.spawn(async move { (place, clients::have(&url, conversations).await) });
        }
        let mut outcomes: Vec<Vec<Outcome>> = batch.iter().map(|_| Vec::new()).collect();
        while let Some(done) = running.join_next().await {
            let (place, seen) = done.context("a client failed")?;
            if let Some(outcomes) = outcomes.get_mut(place) {
                *outcomes = seen;
            }
        }
        busiest = busiest.max(cpu::machine()?.busy_since(&before));
        for ((row, seen), mut stack) in batch.into_iter().zip(outcomes).zip(stacks) {
            stack.check().with_context(|| row.gateway.to_string())?;
            eprintln!("{}, {}, seed {seed}: {} answers", load.name, row.gateway, seen.len());
            row.outcomes.extend(seen);
            stack.stop().await;
        }
    }
    Ok(busiest)
}
