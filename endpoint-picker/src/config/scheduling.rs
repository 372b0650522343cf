//! The section `scheduling`: scorers and the picker under the endpoint picker's names, with its parameters.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde_json::Value;

use super::fields::Fields;
use crate::scheduling::{
    ActiveRequests, BYTES_PER_TOKEN, LoadAware, MAX_RANKED, NoHitLru, Picker, PrefixCache, Profile, Scorer,
};

/// Two seconds without a confirmed snapshot: forty missed polls of the sidecar at its default, so not a hiccup, and the age at
/// which other pickers stop trusting a pod's metrics.
pub const DEFAULT_MAX_SNAPSHOT_AGE_MS: u64 = 2_000;
/// Staleness and ejection leave out at most half of a pool: more at once has a cause outside the endpoints, and the rest could not
/// carry the load of all.
pub const DEFAULT_MAX_EXCLUDED_PERCENT: u8 = 50;
/// The EPP's block: 16 tokens, which vLLM's blocks have by default.
const DEFAULT_BLOCK_BYTES: u64 = 16 * BYTES_PER_TOKEN as u64;
/// The EPP's bound in blocks, which holds only where its bound in tokens is switched off.
const DEFAULT_MAX_BLOCKS: u64 = 2_048;

/// Reads the section.
pub(super) fn read(mut section: Fields, errors: &mut Vec<String>) -> Profile {
    let scorers = section
        .list("scorers", errors)
        .map(|items| items.into_iter().filter_map(|item| read_scorer(item, errors)).collect());
    let ranked = read_ranked(&mut section, "ranked", errors);
    let (picker, most) = read_picker(&mut section, ranked.is_some(), errors);
    let profile = Profile {
        scorers: scorers.unwrap_or_else(|| alloc::vec![(Scorer::PredictedLatency, 1.0)]),
        picker,
        ranked: ranked.or(most).unwrap_or(MAX_RANKED),
        max_snapshot_age_micros: section
            .integer("max_snapshot_age_ms", 1..=3_600_000, errors)
            .unwrap_or(DEFAULT_MAX_SNAPSHOT_AGE_MS)
            * 1_000,
        max_excluded_percent: section
            .integer("max_excluded_percent", 0..=100, errors)
            .and_then(|percent| u8::try_from(percent).ok())
            .unwrap_or(DEFAULT_MAX_EXCLUDED_PERCENT),
    };
    section.finish(errors);
    profile
}

fn read_ranked(fields: &mut Fields, name: &str, errors: &mut Vec<String>) -> Option<usize> {
    fields.integer(name, 1..=MAX_RANKED as u64, errors).and_then(|ranked| usize::try_from(ranked).ok())
}

fn read_scorer((path, value): (String, Value), errors: &mut Vec<String>) -> Option<(Scorer, f64)> {
    let mut fields = Fields::of(value, &path, errors);
    let choices = Scorer::ALL.map(|scorer| (scorer.as_str(), scorer));
    let scorer = fields.required_choice("name", &choices, errors);
    let weight = fields.number("weight", 0.0..=1e6, errors).unwrap_or(1.0);
    let parameters = fields.object("parameters", errors).unwrap_or_default();
    fields.finish(errors);
    Some((read_parameters(scorer?, parameters, errors), weight))
}

fn read_parameters(scorer: Scorer, mut fields: Fields, errors: &mut Vec<String>) -> Scorer {
    let scorer = match scorer {
        Scorer::PrefixCache(defaults) => Scorer::PrefixCache(read_prefix_cache(&defaults, &mut fields, errors)),
        Scorer::NoHitLru(defaults) => Scorer::NoHitLru(NoHitLru {
            lru_size: read_count(&mut fields, "lruSize", 1, errors).unwrap_or(defaults.lru_size),
        }),
        Scorer::ActiveRequests(defaults) => {
            // The EPP forgets a request after this time, or ignores it too. Here a request is in flight until its stream ends.
            fields.text("requestTimeout", errors);
            Scorer::ActiveRequests(ActiveRequests {
                idle_threshold: read_count(&mut fields, "idleThreshold", 0, errors).unwrap_or(defaults.idle_threshold),
                max_busy_score: fields.number("maxBusyScore", 0.0..=1.0, errors).unwrap_or(defaults.max_busy_score),
            })
        }
        Scorer::LoadAware(defaults) => Scorer::LoadAware(LoadAware {
            threshold: read_count(&mut fields, "threshold", 1, errors).unwrap_or(defaults.threshold),
        }),
        Scorer::PredictedLatency
        | Scorer::LMetric
        | Scorer::Queue
        | Scorer::KvCacheUtilization
        | Scorer::RunningRequests
        | Scorer::LoraAffinity
        | Scorer::SessionAffinity => scorer,
    };
    fields.finish(errors);
    scorer
}

fn read_count(fields: &mut Fields, name: &str, least: u32, errors: &mut Vec<String>) -> Option<u32> {
    fields.integer(name, u64::from(least)..=10_000_000, errors).and_then(|count| u32::try_from(count).ok())
}

/// The EPP counts in blocks of tokens or of characters, the index here in bytes of text.
fn read_prefix_cache(defaults: &PrefixCache, fields: &mut Fields, errors: &mut Vec<String>) -> PrefixCache {
    let mut count = |name: &str, errors: &mut Vec<String>| read_count(fields, name, 0, errors).map(u64::from);
    let tokens = count("blockSizeTokens", errors).filter(|&tokens| tokens > 0);
    let characters = count("blockSize", errors);
    // The name that it had before v1.2.
    let older_characters = count("hashBlockSize", errors);
    let characters = characters.or(older_characters).filter(|&characters| characters > 0);
    let block_bytes =
        tokens.map(|tokens| tokens * u64::from(BYTES_PER_TOKEN)).or(characters).unwrap_or(DEFAULT_BLOCK_BYTES);
    let max_tokens = count("maxPrefixTokensToMatch", errors);
    let max_blocks = count("maxPrefixBlocksToMatch", errors);
    let max_bytes = match (max_tokens, max_blocks) {
        (Some(0), Some(0)) => None,
        (Some(0), blocks) => Some(blocks.unwrap_or(DEFAULT_MAX_BLOCKS) * block_bytes),
        (None, Some(blocks)) if blocks > 0 => Some(blocks * block_bytes),
        (None, _) => defaults.max_bytes.map(u64::from),
        (Some(tokens), _) => Some(tokens * u64::from(BYTES_PER_TOKEN)),
    };
    let capacity = count("lruCapacityPerServer", errors).filter(|&blocks| blocks > 0);
    let match_length_scale = read_count(fields, "matchLengthScaleTokens", 1, errors);
    PrefixCache {
        max_bytes: max_bytes.map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX)),
        match_length_weight: fields
            .number("matchLengthWeight", 0.0..=1.0, errors)
            .unwrap_or(defaults.match_length_weight),
        match_length_scale_bytes: match_length_scale
            .map_or(defaults.match_length_scale_bytes, |tokens| tokens.saturating_mul(BYTES_PER_TOKEN)),
        capacity_bytes: capacity.map_or(defaults.capacity_bytes, |blocks| blocks * block_bytes),
        reads_capacity: fields.boolean("autoTune", errors).unwrap_or(defaults.reads_capacity),
    }
}

/// The picker, by its name or as an object with its name and parameters, and the most endpoints that it may rank if it says so. The EPP ranks
/// one by default and leaves nothing for a retry to try; here that number is [`MAX_RANKED`], and a higher one is cut to it.
fn read_picker(section: &mut Fields, has_ranked: bool, errors: &mut Vec<String>) -> (Picker, Option<usize>) {
    let choices = Picker::ALL.map(|picker| (picker.as_str(), picker));
    if !section.values.get("picker").is_some_and(Value::is_object) {
        return (section.choice("picker", &choices, errors).unwrap_or(Picker::MaxScore), None);
    }
    let mut fields = section.object("picker", errors).unwrap_or_default();
    let picker = fields.required_choice("name", &choices, errors).unwrap_or(Picker::MaxScore);
    let mut parameters = fields.object("parameters", errors).unwrap_or_default();
    let most = read_count(&mut parameters, "maxNumOfEndpoints", 1, errors);
    if most.is_some() && has_ranked {
        errors.push(format!("{}maxNumOfEndpoints: {}ranked says the same", parameters.path, section.path));
    }
    parameters.finish(errors);
    fields.finish(errors);
    (picker, most.and_then(|most| usize::try_from(most).ok()).map(|most| most.min(MAX_RANKED)))
}
