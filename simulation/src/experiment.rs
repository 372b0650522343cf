//! A workload, pods and contenders, run with several seeds on all processors.

use std::ops::Range;
use std::sync::Arc;

use crate::calibration::Calibration;
use crate::contender::Contender;
use crate::distribution::mean;
use crate::parallel::in_parallel;
use crate::pod::Pod;
use crate::prompt::Tokenizer;
use crate::score::Score;
use crate::workload::Workload;
use crate::workload::chats::{ChatSettings, Chats};
use crate::workload::trace::{Replay, Scale, Trace};
use crate::world::{BEGIN_MICROS, Mishap, START_MICROS, World};

/// What clients send.
#[derive(Clone, Debug)]
pub(crate) enum Traffic {
    Chats(ChatSettings),
    Trace(Arc<Trace>, Scale),
}

/// What an experiment is there to show.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Purpose {
    /// Ours beats the others, and many workers are as good as one.
    Load,
    /// Ours beats the others, once it has had time to learn.
    Prior,
    /// One slow pod costs little, against the experiment of that name.
    SlowPod { healthy: String },
    /// A figure without an aim.
    Figure,
}

/// One table, before it is run.
#[derive(Clone, Debug)]
pub(crate) struct Experiment {
    pub(crate) name: String,
    pub(crate) purpose: Purpose,
    pub(crate) traffic: Traffic,
    pub(crate) pods: usize,
    pub(crate) calibration: Calibration,
    /// All times of all pods are that many times as long.
    pub(crate) slowness: f64,
    /// What happens to pods, in microseconds from the first arrival.
    pub(crate) mishaps: Vec<(u64, Mishap)>,
    /// Requests sent in this time from the first arrival count, in microseconds.
    pub(crate) counted: Range<u64>,
    pub(crate) contenders: Vec<Contender>,
}

/// What the contenders of an experiment came to.
#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    pub(crate) experiment: Experiment,
    /// By contender, then by seed.
    pub(crate) scores: Vec<Vec<Score>>,
}

/// How much of the traffic is left where it is quick.
const QUICK_SECONDS: f64 = 3.0;
const QUICK_LINES: usize = 40;

impl Comparison {
    /// What the contender of that name came to, by seed.
    pub(crate) fn scores_of(&self, name: &str) -> Option<&[Score]> {
        let place = self.experiment.contenders.iter().position(|contender| contender.name == name)?;
        self.scores.get(place).map(Vec::as_slice)
    }
}

impl Experiment {
    fn workload(&self, seed: u64, tokenizer: Tokenizer) -> Box<dyn Workload> {
        match &self.traffic {
            Traffic::Chats(settings) => Box::new(Chats::new(*settings, seed, tokenizer)),
            Traffic::Trace(trace, scale) => Box::new(Replay::new(Arc::clone(trace), *scale, seed, tokenizer)),
        }
    }

    /// A few seconds are enough to see that it works.
    pub(crate) fn shorten(&mut self) {
        match &mut self.traffic {
            Traffic::Chats(settings) => settings.seconds = settings.seconds.min(QUICK_SECONDS),
            Traffic::Trace(trace, _) => *trace = Arc::new(trace.beginning(QUICK_LINES)),
        }
        self.counted = 0..u64::MAX;
    }

    /// One contender's run with one seed.
    pub(crate) fn run(&self, contender: &Contender, seed: u64) -> Score {
        let tokenizer = Tokenizer::of_seed(seed);
        let workload = self.workload(seed, tokenizer);
        let pod = |pod| {
            let mut pod = Pod::new(pod, self.calibration, START_MICROS);
            pod.engine_mut().slow_down(self.slowness);
            pod
        };
        let pods: Vec<Pod> = (0..self.pods).map(pod).collect();
        let lengths = workload.arrivals().into_iter().take(200);
        let mean_output = mean(lengths.map(|(_, ticket)| f64::from(workload.output_tokens(ticket))));
        let gateway = contender.gateway(&self.calibration, &pods, &workload.models(), mean_output, seed);
        let record = World::new(workload.as_ref(), tokenizer, gateway, pods, &self.mishaps).run();
        let sent = BEGIN_MICROS.saturating_add(self.counted.start)..BEGIN_MICROS.saturating_add(self.counted.end);
        Score::of(&record, sent)
    }
}

/// Runs every experiment with seeds 1 to `seeds`, on so many threads.
pub(crate) fn run_all(experiments: &[Experiment], seeds: u64, threads: usize) -> Vec<Comparison> {
    let mut jobs = Vec::new();
    for (index, experiment) in experiments.iter().enumerate() {
        for contender in 0..experiment.contenders.len() {
            jobs.extend((1..=seeds).map(|seed| (index, contender, seed)));
        }
    }
    let scores = in_parallel(&jobs, threads, |&(index, contender, seed)| {
        let experiment = &experiments[index];
        experiment.run(&experiment.contenders[contender], seed)
    });
    let of = |index: usize, contender: usize| {
        let own = jobs.iter().zip(&scores).filter(move |((of, by, _), _)| (*of, *by) == (index, contender));
        own.map(|(_, score)| *score).collect()
    };
    let result = |(index, experiment): (usize, &Experiment)| Comparison {
        experiment: experiment.clone(),
        scores: (0..experiment.contenders.len()).map(|contender| of(index, contender)).collect(),
    };
    experiments.iter().enumerate().map(result).collect()
}

#[cfg(test)]
mod tests;
