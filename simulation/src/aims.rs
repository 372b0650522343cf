//! The aims: each a figure with its limit, met or not.

use std::fmt::Write as _;

use crate::experiment::{Comparison, Purpose};
use crate::scenario::{ORACLE, OURS, OURS_SPREAD, is_rival};
use crate::score::Score;

/// One aim and what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Aim {
    /// What it is about.
    what: String,
    /// The figure, and the most it may be.
    figure: f64,
    limit: f64,
    /// In words: what the limit comes from.
    reason: String,
    /// The same figure of the policy that knows everything, where it has one.
    oracle: Option<f64>,
}

/// P50 may be this much above the endpoint picker's, hits this much below.
const P50_MARGIN: f64 = 1.05;
const HITS_MARGIN: f64 = 0.03;
/// Many workers may be this much worse than one.
const SPREAD_MARGIN: f64 = 1.05;
/// One slow pod may cost this much.
const SLOW_POD_MARGIN: f64 = 1.1;
/// Figures are compared as they are printed: a tenth of a millisecond.
const RESOLUTION: f64 = 0.05;

impl Aim {
    pub(crate) fn is_met(&self) -> bool {
        self.figure <= self.limit + RESOLUTION
    }
}

/// Every aim of these results.
pub(crate) fn aims(results: &[Comparison]) -> Vec<Aim> {
    results.iter().flat_map(|result| of(result, results)).collect()
}

fn of(result: &Comparison, all: &[Comparison]) -> Vec<Aim> {
    let mut aims = Vec::new();
    let Some(ours) = result.scores_of(OURS) else { return aims };
    let name = &result.experiment.name;
    match &result.experiment.purpose {
        Purpose::Load | Purpose::Prior => {
            let oracle = result.scores_of(ORACLE);
            for (what, merge) in [("mean", Score::mean as fn(&[Score]) -> Score), ("worst", Score::worst)] {
                let rivals = result.experiment.contenders.iter().zip(&result.scores);
                let rivals = rivals.filter(|(contender, _)| is_rival(&contender.name));
                let best = rivals
                    .map(|(contender, scores)| (merge(scores).first_token[1], contender.name.as_str()))
                    .min_by(|left, right| left.0.total_cmp(&right.0));
                if let Some((limit, rival)) = best {
                    let figure = merge(ours).first_token[1];
                    let reason = format!("best of the others: {rival}");
                    let oracle = oracle.map(|oracle| merge(oracle).first_token[1]);
                    aims.push(Aim { what: format!("{name}: {what} TTFT P90"), figure, limit, reason, oracle });
                }
                let Some(epp) = result.scores_of("epp") else { continue };
                let (figure, limit) = (merge(ours).first_token[0], merge(epp).first_token[0]);
                let reason = format!("EPP's {limit:.1} + 5 %");
                let median = oracle.map(|oracle| merge(oracle).first_token[0]);
                let name_of_median = format!("{name}: {what} TTFT P50");
                aims.push(Aim { what: name_of_median, figure, limit: limit * P50_MARGIN, reason, oracle: median });
                // As the part that missed, so that less is better as everywhere; in percent.
                let (figure, limit) = (1.0 - merge(ours).hits, 1.0 - merge(epp).hits + HITS_MARGIN);
                let reason = format!("EPP's hits of {:.3} − {HITS_MARGIN}", merge(epp).hits);
                let what = format!("{name}: {what} misses, %");
                let misses = oracle.map(|oracle| 100.0 - merge(oracle).hits * 100.0);
                aims.push(Aim { what, figure: figure * 100.0, limit: limit * 100.0, reason, oracle: misses });
            }
            if let Some(spread) = result.scores_of(OURS_SPREAD) {
                let one = Score::mean(ours).first_token[1];
                aims.push(Aim {
                    what: format!("{name}: TTFT P90 of 4 Envoys with 8 workers"),
                    figure: Score::mean(spread).first_token[1],
                    limit: one * SPREAD_MARGIN,
                    reason: format!("one worker's {one:.1} + 5 %"),
                    oracle: None,
                });
            }
        }
        Purpose::SlowPod { healthy } => {
            let healthy = all.iter().find(|other| other.experiment.name == *healthy);
            if let Some(healthy) = healthy.and_then(|healthy| healthy.scores_of(OURS)) {
                let before = Score::mean(healthy).first_token[1];
                aims.push(Aim {
                    what: format!("{name}: TTFT P90"),
                    figure: Score::mean(ours).first_token[1],
                    limit: before * SLOW_POD_MARGIN,
                    reason: format!("{before:.1} with all pods well + 10 %"),
                    oracle: result.scores_of(ORACLE).map(|oracle| Score::mean(oracle).first_token[1]),
                });
            }
        }
        Purpose::Figure => {}
    }
    aims
}

/// The aims as a table, the unmet ones marked.
pub(crate) fn table(aims: &[Aim]) -> String {
    let met = aims.iter().filter(|aim| aim.is_met()).count();
    let mut text = format!(
        "### Aims: {met} of {} met\n\n| aim | figure | limit | | limit from | oracle |\n|---|---|---|---|---|---|\n",
        aims.len()
    );
    for aim in aims {
        let verdict = if aim.is_met() { "met" } else { "**not met**" };
        let Aim { what, figure, limit, reason, oracle } = aim;
        let oracle = oracle.map(|oracle| format!("{oracle:.1}")).unwrap_or_default();
        let _ = writeln!(text, "| {what} | {figure:.1} | {limit:.1} | {verdict} | {reason} | {oracle} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::Calibration;
    use crate::contender::{Contender, ContenderSettings};
    use crate::experiment::{Experiment, Traffic};
    use crate::gateway::SignalLoss;
    use crate::workload::chats::ChatSettings;

    /// One seed a contender, with these TTFT P50 and P90 and hits.
    fn result(name: &str, purpose: Purpose, rows: &[(&str, f64, f64, f64)]) -> Comparison {
        let settings = ContenderSettings { config: "{}".into(), replicas: 1, workers: 1, loss: SignalLoss::default() };
        Comparison {
            experiment: Experiment {
                name: name.into(),
                purpose,
                traffic: Traffic::Chats(ChatSettings::measured(1.0, 1, 1)),
                pods: 1,
                calibration: Calibration::INFERENCE_SIM,
                slowness: 1.0,
                mishaps: Vec::new(),
                counted: 0..1,
                contenders: rows.iter().map(|row| Contender::named(row.0, &settings).unwrap()).collect(),
            },
            scores: rows
                .iter()
                .map(|&(_, p50, p90, hits)| vec![Score { first_token: [p50, p90, p90], hits, ..Score::default() }])
                .collect(),
        }
    }

    fn unmet(results: &[Comparison]) -> Vec<String> {
        aims(results).into_iter().filter(|aim| !aim.is_met()).map(|aim| aim.what).collect()
    }

    #[test]
    fn ours_has_to_beat_every_rival_but_not_the_oracle() {
        let rows = [("epp", 40.0, 60.0, 0.9), ("lmetric", 50.0, 55.0, 0.8), ("oracle", 1.0, 1.0, 1.0)];
        let with = |ours: (&'static str, f64, f64, f64)| {
            unmet(&[result("load", Purpose::Load, &[&rows[..], &[ours]].concat())])
        };
        assert_eq!(with(("ours", 42.0, 55.0, 0.87)), [""; 0]);
        assert_eq!(with(("ours", 42.0, 56.0, 0.87)), ["load: mean TTFT P90", "load: worst TTFT P90"]);
        assert_eq!(with(("ours", 43.0, 55.0, 0.87)), ["load: mean TTFT P50", "load: worst TTFT P50"]);
        assert_eq!(with(("ours", 42.0, 55.0, 0.86)), ["load: mean misses, %", "load: worst misses, %"]);
    }

    #[test]
    fn many_workers_and_a_slow_pod_are_compared_with_ours() {
        let healthy = result("well", Purpose::Load, &[("ours", 40.0, 50.0, 0.9), ("ours@4x8", 40.0, 53.0, 0.9)]);
        let slow = |p90| result("slow", Purpose::SlowPod { healthy: "well".into() }, &[("ours", 40.0, p90, 0.9)]);
        assert_eq!(unmet(&[healthy.clone(), slow(54.0)]), ["well: TTFT P90 of 4 Envoys with 8 workers"]);
        assert_eq!(unmet(&[healthy, slow(56.0)]).len(), 2);
        assert!(table(&aims(&[slow(1.0)])).contains("0 of 0"));
    }
}
