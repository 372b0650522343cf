//! Flow control on and off below, at and above what the pods can do: a high band, and a flood beside a trickle in the low one.

mod report;
mod score;

use std::ops::Range;

use anyhow::Result;

use crate::calibration::Calibration;
use crate::contender::{Contender, ContenderSettings};
use crate::parallel::in_parallel;
use crate::pod::Pod;
use crate::prompt::Tokenizer;
use crate::workload::Workload as _;
use crate::workload::tenants::{Tenant, TenantSettings, Tenants};
use crate::world::{BEGIN_MICROS, Record, START_MICROS, World};

pub(crate) use report::table;
pub(crate) use score::Score;

/// The name of the experiment.
pub(crate) const NAME: &str = "flow control";
/// Requests each second that the pods complete while some always wait; without flow control, mean of 8 seeds.
pub(crate) const CAPACITY: f64 = 46.0;
/// The loads, as multiples of that.
const LOADS: [f64; 4] = [0.8, 1.0, 1.3, 2.0];
const PODS: usize = 4;
/// The first token has come in time within these microseconds: in the high band, and in the low one.
pub(crate) const IN_TIME: [u64; 2] = [500_000, 5_000_000];
/// The objective of the high band, and its priority.
const HIGH: &str = "interactive";
const HIGH_PRIORITY: i64 = 10;
const TENANTS: &[Tenant] = &[
    Tenant { name: "app-a", objective: Some(HIGH), share: 0.15, prompts: 4 },
    Tenant { name: "app-b", objective: Some(HIGH), share: 0.1, prompts: 4 },
    Tenant { name: "flood", objective: None, share: 0.65, prompts: 6 },
    Tenant { name: "trickle", objective: None, share: 0.1, prompts: 2 },
];

/// For how long conversations begin.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Length {
    /// A minute. What is sent from the tenth second on counts: queues have had time to grow by then.
    Whole,
    /// A few seconds, to see that it works.
    Quick,
}

impl Length {
    const fn seconds(self) -> f64 {
        match self {
            Self::Whole => 60.0,
            Self::Quick => 3.0,
        }
    }

    /// In microseconds from the first arrival on.
    const fn counted(self) -> Range<u64> {
        match self {
            Self::Whole => 10_000_000..60_000_000,
            Self::Quick => 0..3_000_000,
        }
    }
}

/// What one load came to, contender by contender.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// As a multiple of the capacity.
    pub(crate) load: f64,
    pub(crate) contender: String,
    /// By seed.
    pub(crate) scores: Vec<Score>,
}

/// Runs every load with flow control off and on, with seeds 1 to `seeds`.
///
/// # Errors
///
/// When the configuration of `ours` cannot be read.
pub(crate) fn run(settings: &ContenderSettings, seeds: u64, length: Length, threads: usize) -> Result<Vec<Row>> {
    let contenders = contenders(settings)?;
    let mut jobs = Vec::new();
    for load in LOADS {
        for contender in &contenders {
            jobs.extend((1..=seeds).map(|seed| (load, contender, seed)));
        }
    }
    let scores = in_parallel(&jobs, threads, |&(load, contender, seed)| run_one(contender, load, seed, length));
    let mut rows: Vec<Row> = Vec::new();
    for ((load, contender, _), score) in jobs.iter().zip(scores) {
        match rows.last_mut().filter(|row| row.load == *load && row.contender == contender.name) {
            Some(row) => row.scores.push(score),
            None => rows.push(Row { load: *load, contender: contender.name.clone(), scores: vec![score] }),
        }
    }
    Ok(rows)
}

/// Without flow control, and with it, as one worker and as many.
fn contenders(settings: &ContenderSettings) -> Result<Vec<Contender>> {
    let objectives = format!(r#""objectives":{{"{HIGH}":{HIGH_PRIORITY}}}"#);
    let named = |name: &str, policy: &str, switch: &str| -> Result<Contender> {
        let config = format!("{{{objectives}{switch}}}");
        let mut contender = Contender::named(policy, &ContenderSettings { config, ..settings.clone() })?;
        name.clone_into(&mut contender.name);
        Ok(contender)
    };
    let in_order = r#","flow_control":{"dispatch":"first"}"#;
    let on = r#","flow_control":{}"#;
    Ok(vec![
        named("off", "ours@1x1", "")?,
        named("on", "ours@1x1", on)?,
        named("on, first come first served", "ours@1x1", in_order)?,
        named("off, 8 workers", "ours@1x8", "")?,
        named("on, 8 workers", "ours@1x8", on)?,
    ])
}

fn run_one(contender: &Contender, load: f64, seed: u64, length: Length) -> Score {
    let counted = length.counted();
    let sent = BEGIN_MICROS + counted.start..BEGIN_MICROS + counted.end;
    Score::of(&record(contender, load, seed, length), TENANTS, IN_TIME, sent)
}

fn record(contender: &Contender, load: f64, seed: u64, length: Length) -> Record {
    let tokenizer = Tokenizer::of_seed(seed);
    let settings = TenantSettings { tenants: TENANTS, rate: CAPACITY * load, seconds: length.seconds() };
    let workload = Tenants::new(settings, seed, tokenizer);
    let calibration = Calibration::INFERENCE_SIM;
    let pods: Vec<Pod> = (0..PODS).map(|pod| Pod::new(pod, calibration, START_MICROS)).collect();
    let gateway = contender.gateway(&calibration, &pods, &workload.models(), 30.0, seed);
    World::new(&workload, tokenizer, gateway, pods, &[]).run()
}

#[cfg(test)]
mod tests;
