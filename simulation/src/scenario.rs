//! What `make simulate` runs: every load, the trace, and what can go wrong.

use std::sync::Arc;

use anyhow::Result;

use crate::calibration::Calibration;
use crate::contender::{Contender, ContenderSettings};
use crate::experiment::{Experiment, Purpose, Traffic};
use crate::workload::chats::{Bursts, ChatSettings};
use crate::workload::trace::{Scale, Trace};
use crate::world::Mishap;

/// Ours, as one worker and as 8 in each of 4 Envoys.
pub(crate) const OURS: &str = "ours";
pub(crate) const OURS_SPREAD: &str = "ours@4x8";
/// Policies that others have.
const OTHERS: [&str; 6] = ["round-robin", "random", "least-request", "epp", "cache-aware", "lmetric"];
const ORACLE: &str = "oracle";

const SECOND: u64 = 1_000_000;

/// Whether that contender is one that ours has to beat.
pub(crate) fn is_rival(name: &str) -> bool {
    OTHERS.contains(&name)
}

/// The standard experiments; `trace` is played at several rates.
pub(crate) fn standard(trace: Trace, settings: &ContenderSettings, is_quick: bool) -> Result<Vec<Experiment>> {
    let contenders = |names: &[&str]| -> Result<Vec<Contender>> {
        names.iter().map(|name| Contender::named(name, settings)).collect()
    };
    let all = contenders(&[&OTHERS[..], &[ORACLE, OURS, OURS_SPREAD]].concat())?;
    let few = contenders(&[&OTHERS[..], &[ORACLE, OURS]].concat())?;
    let chats = |name: &str, purpose: Purpose, chats: ChatSettings| Experiment {
        name: name.to_owned(),
        purpose,
        traffic: Traffic::Chats(chats),
        pods: 4,
        calibration: Calibration::INFERENCE_SIM,
        slowness: 1.0,
        mishaps: Vec::new(),
        counted: 0..u64::MAX,
        contenders: all.clone(),
    };
    let (light, moderate, over) =
        (ChatSettings::measured(3.0, 8, 30), ChatSettings::measured(8.0, 16, 60), ChatSettings::measured(16.0, 16, 60));
    let idle = ChatSettings { rate: 0.5, seconds: 60.0, ..light };
    let names @ [_, light_name, moderate_name, _] =
        ["idle, 0.5 conversations/s", "light, 3/s", "moderate, 8/s", "overload, 16/s"];
    let mut experiments: Vec<Experiment> = names
        .into_iter()
        .zip([idle, light, moderate, over])
        .map(|(name, load)| chats(name, Purpose::Load, load))
        .collect();
    let trace = Arc::new(trace);
    let rates: &[f64] = if is_quick { &[3.0] } else { &[1.5, 3.0, 5.0] };
    for &rate in rates {
        let scale = Scale { rate: rate / trace.rate(), length: if is_quick { 0.25 } else { 1.0 } };
        experiments.push(Experiment {
            name: format!("trace, {rate} requests/s on a100"),
            traffic: Traffic::Trace(Arc::clone(&trace), scale),
            calibration: Calibration::A100,
            contenders: few.clone(),
            ..chats("", Purpose::Load, moderate)
        });
    }
    let agents = ChatSettings {
        prompt_tokens: 3_000.0,
        output_tokens: (1, 300),
        turns: 6,
        ..ChatSettings::measured(10.0, 40, 300)
    };
    experiments.push(Experiment {
        calibration: Calibration::H100,
        contenders: few.clone(),
        ..chats("agents, 10/s, 3 000-token prompts on h100", Purpose::Load, agents)
    });
    for (name, slowness) in [("prior 4 times too fast", 4.0), ("prior 4 times too slow", 0.25)] {
        let rate = moderate.rate / slowness;
        let load = ChatSettings { rate, seconds: 90.0, think_seconds: slowness, ..moderate };
        experiments.push(Experiment {
            slowness,
            counted: 60 * SECOND..u64::MAX,
            contenders: few.clone(),
            ..chats(name, Purpose::Prior, load)
        });
    }
    for (healthy, load) in [(light_name, light), (moderate_name, moderate)] {
        experiments.push(Experiment {
            mishaps: vec![(0, Mishap::Slow { pod: 1, slowness: 3.0 })],
            contenders: few.clone(),
            ..chats(
                &format!("{healthy}, one pod 3 times as slow"),
                Purpose::SlowPod { healthy: healthy.to_owned() },
                load,
            )
        });
    }
    let figure = |name: &str, load: ChatSettings, mishaps: Vec<(u64, Mishap)>| Experiment {
        mishaps,
        contenders: few.clone(),
        ..chats(name, Purpose::Figure, load)
    };
    let bursts = Some(Bursts { every_seconds: 10.0, seconds: 1.0, factor: 10.0 });
    experiments.push(figure(
        "bursts, 3/s and 30/s for 1 s in 10",
        ChatSettings { bursts, seconds: 40.0, ..light },
        vec![],
    ));
    experiments.push(figure("12 adapters, 4 at once", ChatSettings { adapters: 12, rate: 5.0, ..moderate }, vec![]));
    experiments.push(figure(
        "one in ten with a 4 000-token document",
        ChatSettings { long_part: 0.1, rate: 4.0, ..moderate },
        vec![],
    ));
    experiments.push(figure(
        "one pod dies at 8 s, returns at 16 s",
        ChatSettings { rate: 5.0, ..moderate },
        dies(2, 8, 16),
    ));
    let restarts: Vec<(u64, Mishap)> = (0..4).flat_map(|pod| restart(pod, 3 + 5 * pod as u64)).collect();
    experiments.push(figure("rolling restart", ChatSettings { rate: 4.0, seconds: 25.0, ..moderate }, restarts));
    if is_quick {
        for experiment in &mut experiments {
            experiment.shorten();
        }
    }
    Ok(experiments)
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
