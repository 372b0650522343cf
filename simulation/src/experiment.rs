//! A workload, pods and contenders, run with several seeds on all processors.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use endpoint_picker::rng::Rng;

use crate::calibration::Calibration;
use crate::contender::Contender;
use crate::distribution::mean;
use crate::pod::Pod;
use crate::prompt::Tokenizer;
use crate::score::Score;
use crate::text::{seed_of, unit};
use crate::workload::Workload;
use crate::workload::chats::{ChatSettings, Chats};
use crate::world::{BEGIN_MICROS, Mishap, START_MICROS, World};

/// What clients send.
#[derive(Clone, Debug)]
pub(crate) enum Traffic {
    Chats(ChatSettings),
}

/// One row of a table, before it is run.
#[derive(Clone, Debug)]
pub(crate) struct Experiment {
    pub(crate) name: String,
    pub(crate) traffic: Traffic,
    pub(crate) pods: usize,
    pub(crate) calibration: Calibration,
    /// What happens to pods, in microseconds from the first arrival.
    pub(crate) mishaps: Vec<(u64, Mishap)>,
    /// Requests sent in this time from the first arrival count, in microseconds.
    pub(crate) counted: Range<u64>,
    pub(crate) contenders: Vec<Contender>,
}

/// What the contenders of an experiment came to.
#[derive(Clone, Debug)]
pub(crate) struct Result {
    pub(crate) experiment: Experiment,
    /// By contender, then by seed.
    pub(crate) scores: Vec<Vec<Score>>,
}

impl Experiment {
    fn tokenizer(seed: u64) -> Tokenizer {
        // Between 3.6 and 4.4 bytes a token: nobody in front of the engine knows.
        Tokenizer { bytes_per_token: 3.6 + 0.8 * unit(&mut Rng::new(seed_of(&[seed, 21]))) }
    }

    fn workload(&self, seed: u64, tokenizer: Tokenizer) -> Box<dyn Workload> {
        match &self.traffic {
            Traffic::Chats(settings) => Box::new(Chats::new(*settings, seed, tokenizer)),
        }
    }

    /// One contender's run with one seed.
    pub(crate) fn run(&self, contender: &Contender, seed: u64) -> Score {
        let tokenizer = Self::tokenizer(seed);
        let workload = self.workload(seed, tokenizer);
        let pods: Vec<Pod> = (0..self.pods).map(|pod| Pod::new(pod, self.calibration, START_MICROS)).collect();
        let lengths = workload.arrivals().into_iter().take(200);
        let mean_output = mean(lengths.map(|(_, ticket)| f64::from(workload.chat(ticket).output_tokens)));
        let gateway = contender.gateway(&self.calibration, &pods, &workload.models(), mean_output, seed);
        let record = World::new(workload.as_ref(), tokenizer, gateway, pods, &self.mishaps).run();
        let sent = BEGIN_MICROS.saturating_add(self.counted.start)..BEGIN_MICROS.saturating_add(self.counted.end);
        Score::of(&record, sent)
    }
}

/// Runs every experiment with seeds 1 to `seeds`, on so many threads.
pub(crate) fn run_all(experiments: &[Experiment], seeds: u64, threads: usize) -> Vec<Result> {
    let mut jobs = Vec::new();
    for (index, experiment) in experiments.iter().enumerate() {
        for contender in 0..experiment.contenders.len() {
            jobs.extend((1..=seeds).map(|seed| (index, contender, seed)));
        }
    }
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some(&(index, contender, seed)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let experiment = &experiments[index];
                    let score = experiment.run(&experiment.contenders[contender], seed);
                    let mut done = done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    done.push((index, contender, seed, score));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|&(index, contender, seed, _)| (index, contender, seed));
    let of = |index: usize, contender: usize| {
        done.iter().filter(move |entry| (entry.0, entry.1) == (index, contender)).map(|entry| entry.3).collect()
    };
    let result = |(index, experiment): (usize, &Experiment)| Result {
        experiment: experiment.clone(),
        scores: (0..experiment.contenders.len()).map(|contender| of(index, contender)).collect(),
    };
    experiments.iter().enumerate().map(result).collect()
}
