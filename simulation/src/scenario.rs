//! What `make simulate` runs: every load, the trace, and what can go wrong.

use std::sync::Arc;

use anyhow::Result;

use crate::calibration::Calibration;
use crate::contender::{Contender, ContenderSettings};
use crate::experiment::{Experiment, Purpose, Traffic};
use crate::gateway::SignalLoss;
use crate::workload::chats::{Bursts, ChatSettings};
use crate::workload::trace::{Scale, Trace};
use crate::world::Mishap;

/// Ours, as one worker and as 8 in each of 4 Envoys.
pub(crate) const OURS: &str = "ours";
pub(crate) const OURS_SPREAD: &str = "ours@4x8";
/// The real core as `LMetric`: its fallback, and no rival.
const OURS_LMETRIC: &str = "ours-lmetric";
/// Policies that others have.
const OTHERS: [&str; 6] = ["round-robin", "random", "least-request", "epp", "cache-aware", "lmetric"];
pub(crate) const ORACLE: &str = "oracle";

const SECOND: u64 = 1_000_000;

/// Whether that contender is one that ours has to beat.
pub(crate) fn is_rival(name: &str) -> bool {
    OTHERS.contains(&name)
}

/// Builds experiments with the same contenders.
struct Plan {
    /// Everybody, ours as many workers too.
    all: Vec<Contender>,
    /// Everybody, ours as one worker.
    few: Vec<Contender>,
    settings: ContenderSettings,
}

/// The standard experiments; `trace` is played at several rates.
pub(crate) fn standard(trace: Trace, settings: &ContenderSettings, is_quick: bool) -> Result<Vec<Experiment>> {
    let plan = Plan {
        all: contenders(&[&OTHERS[..], &[ORACLE, OURS_LMETRIC, OURS, OURS_SPREAD]].concat(), settings)?,
        few: contenders(&[&OTHERS[..], &[ORACLE, OURS]].concat(), settings)?,
        settings: settings.clone(),
    };
    let mut experiments = plan.loads();
    experiments.extend(plan.traces(trace, is_quick));
    experiments.extend(plan.priors());
    experiments.extend(plan.slow_pods());
    experiments.extend(plan.figures()?);
    if is_quick {
        for experiment in &mut experiments {
            experiment.shorten();
        }
    }
    Ok(experiments)
}

fn contenders(names: &[&str], settings: &ContenderSettings) -> Result<Vec<Contender>> {
    names.iter().map(|name| Contender::named(name, settings)).collect()
}

/// The loads that were run on real pods, and one below them.
const LIGHT: ChatSettings = ChatSettings::measured(3.0, 8, 30);
const MODERATE: ChatSettings = ChatSettings::measured(8.0, 16, 60);
const OVERLOAD: ChatSettings = ChatSettings::measured(16.0, 16, 60);
const IDLE: ChatSettings = ChatSettings { rate: 0.5, seconds: 60.0, ..LIGHT };
/// Long shared prompts, many turns and long answers.
const AGENTS: ChatSettings =
    ChatSettings { prompt_tokens: 3_000.0, output_tokens: (1, 300), turns: 6, ..ChatSettings::measured(10.0, 40, 300) };
const LIGHT_NAME: &str = "light, 3/s";
const MODERATE_NAME: &str = "moderate, 8/s";

/// Requests of the trace each second: from a load that four A100 carry easily to one that they do not.
const TRACE_RATES: [f64; 3] = [1.5, 4.0, 8.0];

impl Plan {
    fn chats(&self, name: &str, purpose: Purpose, chats: ChatSettings) -> Experiment {
        Experiment {
            name: name.to_owned(),
            purpose,
            traffic: Traffic::Chats(chats),
            pods: 4,
            calibration: Calibration::INFERENCE_SIM,
            slowness: 1.0,
            mishaps: Vec::new(),
            counted: 0..u64::MAX,
            contenders: self.few.clone(),
        }
    }

    fn loads(&self) -> Vec<Experiment> {
        let loads = [
            ("idle, 0.5 conversations/s", IDLE),
            (LIGHT_NAME, LIGHT),
            (MODERATE_NAME, MODERATE),
            ("overload, 16/s", OVERLOAD),
        ];
        let load = |(name, load)| Experiment { contenders: self.all.clone(), ..self.chats(name, Purpose::Load, load) };
        loads.into_iter().map(load).collect()
    }

    fn traces(&self, trace: Trace, is_quick: bool) -> Vec<Experiment> {
        let trace = Arc::new(trace);
        let rates = if is_quick { &TRACE_RATES[1..2] } else { &TRACE_RATES };
        let played = rates.iter().map(|&rate| {
            let scale = Scale { rate: rate / trace.rate(), length: if is_quick { 0.25 } else { 1.0 } };
            Experiment {
                traffic: Traffic::Trace(Arc::clone(&trace), scale),
                calibration: Calibration::A100,
                contenders: self.all.clone(),
                ..self.chats(&format!("trace, {rate} requests/s on a100"), Purpose::Load, MODERATE)
            }
        });
        let name = "agents, 10/s, 3 000-token prompts on h100";
        let agents = Experiment { calibration: Calibration::H100, ..self.chats(name, Purpose::Load, AGENTS) };
        played.chain([agents]).collect()
    }

    /// Engines whose times are 4 times and a quarter of the others', with as much less or more to do: whatever a policy believes at first, it is wrong
    /// by 4 times in one of them at least. What is sent from the 60th second on counts.
    fn priors(&self) -> Vec<Experiment> {
        let prior = |(name, slowness): (&str, f64)| {
            let load =
                ChatSettings { rate: MODERATE.rate / slowness, seconds: 90.0, think_seconds: slowness, ..MODERATE };
            Experiment { slowness, counted: 60 * SECOND..u64::MAX, ..self.chats(name, Purpose::Prior, load) }
        };
        [("engines 4 times as slow, after 60 s", 4.0), ("engines 4 times as fast, after 60 s", 0.25)].map(prior).into()
    }

    fn slow_pods(&self) -> Vec<Experiment> {
        let slow = |(healthy, load): (&str, ChatSettings)| {
            let purpose = Purpose::SlowPod { healthy: healthy.to_owned() };
            let mishaps = vec![(0, Mishap::Slow { pod: 1, slowness: 3.0 })];
            Experiment { mishaps, ..self.chats(&format!("{healthy}, one pod 3 times as slow"), purpose, load) }
        };
        [(LIGHT_NAME, LIGHT), (MODERATE_NAME, MODERATE)].map(slow).into()
    }

    fn figures(&self) -> Result<Vec<Experiment>> {
        let figure = |name: &str, load: ChatSettings| self.chats(name, Purpose::Figure, load);
        let bursts = Some(Bursts { every_seconds: 10.0, seconds: 1.0, factor: 10.0 });
        let restarts = (0..4).flat_map(|pod| restart(pod, 3 + 5 * pod as u64)).collect();
        let loss = SignalLoss { lost_polls: 0.5, delay_micros: 500_000 };
        let deaf = contenders(&[&OTHERS[..], &[OURS]].concat(), &ContenderSettings { loss, ..self.settings.clone() })?;
        Ok(vec![
            figure("bursts, 3/s and 30/s for 1 s in 10", ChatSettings { bursts, seconds: 40.0, ..LIGHT }),
            figure("12 adapters, 4 at once", ChatSettings { adapters: 12, rate: 5.0, ..MODERATE }),
            figure("one in ten with a 4 000-token document", ChatSettings { long_part: 0.1, rate: 4.0, ..MODERATE }),
            figure("moderate, half of the requests without a stream", ChatSettings { unary_part: 0.5, ..MODERATE }),
            Experiment {
                contenders: deaf,
                ..figure("moderate, half of the polls lost and pages 500 ms late", MODERATE)
            },
            Experiment {
                mishaps: vec![(8 * SECOND, Mishap::Slow { pod: 1, slowness: 3.0 })],
                ..figure("light, one pod 3 times as slow from 8 s on", LIGHT)
            },
            Experiment {
                mishaps: dies(2, 8, 16),
                ..figure("one pod dies at 8 s, returns at 16 s", ChatSettings { rate: 5.0, ..MODERATE })
            },
            Experiment {
                mishaps: restarts,
                ..figure("rolling restart", ChatSettings { rate: 4.0, seconds: 25.0, ..MODERATE })
            },
        ])
    }
}

/// A pod dies and comes back; discovery sees each two seconds later.
fn dies(pod: usize, at: u64, returns: u64) -> Vec<(u64, Mishap)> {
    vec![
        (at * SECOND, Mishap::Dies { pod }),
        ((at + 2) * SECOND, Mishap::Listed { pod, is_member: false }),
        (returns * SECOND, Mishap::Starts { pod }),
        ((returns + 2) * SECOND, Mishap::Listed { pod, is_member: true }),
    ]
}

/// A pod leaves the pool, ends what it has, and comes back empty.
fn restart(pod: usize, at: u64) -> Vec<(u64, Mishap)> {
    vec![
        (at * SECOND, Mishap::Listed { pod, is_member: false }),
        ((at + 2) * SECOND, Mishap::Dies { pod }),
        ((at + 4) * SECOND, Mishap::Starts { pod }),
        ((at + 4) * SECOND, Mishap::Listed { pod, is_member: true }),
    ]
}
