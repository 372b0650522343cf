//! The chats that were run on real pods, for a program that runs them on pods again and compares.

use std::time::Duration;

use anyhow::Result;

use crate::calibration::Calibration;
use crate::contender::{Contender, ContenderSettings};
use crate::experiment::{Experiment, Purpose, Traffic, run_all};
use crate::gateway::SignalLoss;
use crate::prompt::Tokenizer;
use crate::score::Score;
use crate::workload::Workload as _;
use crate::workload::chats::{ChatSettings, Chats};

/// Bytes of a token of the simulated model servers in `vllm-sim`.
const TOKENIZER: Tokenizer = Tokenizer { bytes_per_token: 4.0 };
const PODS: usize = 4;

/// A load of chats: four turns below shared system prompts of some 800 tokens, whose popularity falls as Zipf's law says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MeasuredLoad {
    /// In a word.
    pub name: &'static str,
    /// Conversations that begin each second.
    pub rate: f64,
    /// Different system prompts.
    pub prompts: usize,
    /// Tokens of an answer at most; the length is drawn evenly from 1 on.
    pub most_output_tokens: u32,
    /// The most that a good policy's P90 of the time to the first token may be, as a part of round robin's.
    pub limit: f64,
}

/// One conversation, before it is had.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversation {
    /// When it begins, from the start.
    pub begins: Duration,
    /// Its turns in their order.
    pub turns: Vec<Turn>,
}

/// One request of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// How long after the answer before it is sent; none for the first.
    pub pause: Duration,
    /// Body of a streamed chat completion for the model `m` that reports usage. It limits the answer to the tokens that it shall have.
    pub body: String,
}

/// What the simulation says of a policy; means over its seeds.
#[derive(Clone, Debug, PartialEq)]
pub struct Simulated {
    /// Time to the first token in milliseconds: P50, P90, P99.
    pub first_token: [f64; 3],
    /// The same P90 of each seed.
    pub p90_by_seed: Vec<f64>,
    /// Cached part of the prompt tokens, 0 to 1.
    pub hits: f64,
}

impl MeasuredLoad {
    /// Pods are idle most of the time.
    pub const LIGHT: Self = Self { name: "light", rate: 3.0, prompts: 8, most_output_tokens: 30, limit: 0.35 };
    /// Half of the slots are taken.
    pub const MODERATE: Self = Self { name: "moderate", rate: 8.0, prompts: 16, most_output_tokens: 60, limit: 0.5 };
    /// More comes than can be done.
    pub const QUEUEING: Self = Self { name: "queueing", rate: 16.0, prompts: 16, most_output_tokens: 60, limit: 0.95 };

    fn settings(&self, seconds: f64, slowness: f64) -> ChatSettings {
        let measured = ChatSettings::measured(self.rate / slowness, self.prompts, self.most_output_tokens);
        ChatSettings { seconds: seconds * slowness, think_seconds: measured.think_seconds * slowness, ..measured }
    }

    /// The conversations of a seed that begin within `seconds`, with all times `slowness` times as long.
    #[must_use]
    pub fn conversations(&self, seed: u64, seconds: f64, slowness: f64) -> Vec<Conversation> {
        let chats = Chats::new(self.settings(seconds, slowness), seed, TOKENIZER);
        let conversation = |(begins, first)| {
            let mut turns = Vec::new();
            let mut next = Some((0, first));
            while let Some((pause, ticket)) = next {
                let mut chat = chats.chat(ticket);
                chat.max_tokens = Some(chat.output_tokens);
                turns.push(Turn { pause: Duration::from_micros(pause), body: chat.body() });
                next = chats.follow_up(ticket);
            }
            Conversation { begins: Duration::from_micros(begins), turns }
        };
        chats.arrivals().into_iter().map(conversation).collect()
    }

    /// What the simulation makes of such chats: of each policy with its configuration of the filter, with the seeds from 1 to `seeds`, the
    /// real core with that many workers.
    ///
    /// # Errors
    /// There is no such policy, or a configuration is not valid.
    pub fn simulate(&self, policies: &[(&str, &str)], workers: usize, seeds: u64) -> Result<Vec<Simulated>> {
        let contender = |&(name, config): &(&str, &str)| {
            let loss = SignalLoss::default();
            Contender::named(name, &ContenderSettings { config: config.to_owned(), replicas: 1, workers, loss })
        };
        let experiment = Experiment {
            name: self.name.to_owned(),
            purpose: Purpose::Figure,
            traffic: Traffic::Chats(self.settings(20.0, 1.0)),
            pods: PODS,
            calibration: Calibration::INFERENCE_SIM,
            slowness: 1.0,
            mishaps: Vec::new(),
            counted: 0..u64::MAX,
            contenders: policies.iter().map(contender).collect::<Result<_>>()?,
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let results = run_all(&[experiment], seeds, threads);
        let of = |scores: &Vec<Score>| {
            let mean = Score::mean(scores);
            let p90_by_seed = scores.iter().map(|score| score.first_token[1]).collect();
            Simulated { first_token: mean.first_token, p90_by_seed, hits: mean.hits }
        };
        Ok(results.iter().flat_map(|comparison| &comparison.scores).map(of).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_grows_turn_by_turn_and_slowness_stretches_its_pauses() {
        let conversations = MeasuredLoad::LIGHT.conversations(1, 5.0, 1.0);
        assert!((5..30).contains(&conversations.len()), "{}", conversations.len());
        for conversation in &conversations {
            assert_eq!(conversation.turns.len(), 4);
            assert!(conversation.turns.is_sorted_by(|one, next| one.body.len() < next.body.len()));
            assert!(conversation.turns[0].pause.is_zero() && !conversation.turns[1].pause.is_zero());
        }
        let slow = MeasuredLoad::LIGHT.conversations(1, 5.0, 2.0);
        assert_eq!(slow.len(), conversations.len());
        let (pause, slow) = (conversations[2].turns[1].pause, slow[2].turns[1].pause);
        assert!((slow.as_secs_f64() / pause.as_secs_f64() - 2.0).abs() < 0.001);
    }

    #[test]
    fn simulated_policies_come_in_their_order() {
        let policies = [("round-robin", "{}"), ("ours", "{}")];
        let simulated = MeasuredLoad::LIGHT.simulate(&policies, 2, 2).unwrap();
        let [plain, ours] = &simulated[..] else { panic!("{simulated:?}") };
        assert_eq!(ours.p90_by_seed.len(), 2);
        assert!(ours.hits > plain.hits && ours.first_token[1] < plain.first_token[1], "{ours:?} {plain:?}");
        assert!(MeasuredLoad::LIGHT.simulate(&[("none", "{}")], 1, 1).is_err());
        assert!(MeasuredLoad::LIGHT.simulate(&[("ours", "{")], 1, 1).is_err());
    }
}
