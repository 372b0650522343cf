//! Scorers of affinity: what an endpoint already has of a request.

use crate::scheduling::candidate::AdapterState;

use super::sight::{Memory, Sight};

/// Bytes of text that the EPP takes for a token where it has no tokenizer.
pub const BYTES_PER_TOKEN: u32 = 4;

/// Parameters of `prefix-cache-scorer`, in bytes of the prompt's text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrefixCache {
    /// Bytes from the prompt's start that count; what lies behind them is neither matched nor missed. `None`: all.
    pub max_bytes: Option<u32>,
    /// Weight of the match's own length beside its share of the prompt, 0 to 1.
    pub match_length_weight: f64,
    /// Length at which a match counts as long; at least 1.
    pub match_length_scale_bytes: u32,
    /// Prompt text that an endpoint's cache is taken to hold where its page does not tell how many blocks it has.
    pub capacity_bytes: u64,
    /// Whether the size of an endpoint's cache is read from its page. False: it is `capacity_bytes`.
    pub reads_capacity: bool,
}

impl PrefixCache {
    /// The EPP's: 131 072 tokens count, only the share does, and a cache holds 31 250 blocks of 16 tokens.
    pub const DEFAULT: Self = Self {
        max_bytes: Some(131_072 * BYTES_PER_TOKEN),
        match_length_weight: 0.0,
        match_length_scale_bytes: 8_192 * BYTES_PER_TOKEN,
        capacity_bytes: 31_250 * 16 * BYTES_PER_TOKEN as u64,
        reads_capacity: true,
    };

    fn score(&self, matched: u32, total: u32) -> f64 {
        let cap = self.max_bytes.unwrap_or(u32::MAX);
        let (matched, total) = (f64::from(matched.min(cap)), f64::from(total.min(cap)));
        if total <= 0.0 {
            return 0.0;
        }
        let length = (matched / f64::from(self.match_length_scale_bytes)).min(1.0);
        self.match_length_weight * length * length + (1.0 - self.match_length_weight) * (matched / total)
    }
}

/// `prefix-cache-scorer`. A prompt that is too short to be known again scores 0 everywhere.
pub(super) fn rate_prefix(parameters: &PrefixCache, sight: &Sight<'_>, memory: &mut Memory) {
    let total = sight.request.prompt.map_or(0, |prompt| prompt.end());
    memory.set(sight.candidates.iter().map(|candidate| parameters.score(candidate.matched_bytes, total)));
}

/// `lora-affinity-scorer`. A request for no adapter scores 0 everywhere.
pub(super) fn rate_adapter(sight: &Sight<'_>, memory: &mut Memory) {
    memory.set(sight.candidates.iter().map(|candidate| match candidate.adapter {
        AdapterState::Running => 1.0,
        AdapterState::Waiting { has_room: true } | AdapterState::Absent { has_room: true } => 0.8,
        AdapterState::Waiting { has_room: false } => 0.6,
        AdapterState::NotAsked | AdapterState::Absent { has_room: false } => 0.0,
    }));
}

/// `session-affinity-scorer`. A request without a session scores 0 everywhere.
pub(super) fn rate_session(sight: &Sight<'_>, memory: &mut Memory) {
    let session = sight.request.session;
    memory.set(sight.candidates.iter().map(|candidate| if session == Some(candidate.id) { 1.0 } else { 0.0 }));
}
