//! What a request would take at each candidate, and what it would cost: itself, and those who wait there.

use alloc::vec::Vec;

use snapshot::Load;

use super::candidate::{AdapterState, Candidate};
use super::rendezvous;
use super::request::PickRequest;
use crate::learning::{Forecast, Guess, Learner, Rates};
use crate::pool::{Endpoint, Pool};
use crate::time::Timestamp;

/// Tokens of a KV block where the page does not say.
const BLOCK_TOKENS: u32 = 16;
/// From this use of its KV cache on an engine is likely to preempt requests and compute their prompts again.
const KV_PRESSURE: f64 = 0.8;
/// The part of a slot's time that a request is expected to lose where the KV cache is full.
const PREEMPTION_COST: f64 = 0.5;
/// The part of a slot's time that a batch costs its requests when it is full: a step takes longer the more requests it has.
const BATCH_COST: f64 = 0.04;
/// The part of a prompt's time by which it delays each request of the batch: a step that computes a prompt lasts longer for all of them.
const BATCH_DELAY: f64 = 0.2;
/// A batch of this size counts as full where the engine's slots are unknown.
const TYPICAL_SLOTS: f64 = 64.0;
/// Microseconds in which an engine loads an adapter: a hundred megabytes from the host's memory, or from a disk's cache.
const ADAPTER_LOAD_MICROS: f64 = 300_000.0;
/// The part of that by which an adapter that is in use nowhere costs more at any endpoint but the one where all gateways would load it.
const STRANGER_PART: f64 = 0.5;
/// The part of a slot's time until an engine that holds as many adapters as it can has room for another.
const ADAPTER_WAIT: f64 = 0.5;
/// Costs within this part of the best one, or this time, are equal: what is learned is not more exact. Where answers vary, it is less.
const EQUAL_PART: f64 = 0.03;
const EQUAL_NOISE: f64 = 0.25;
const MAX_EQUAL_PART: f64 = 0.15;
const EQUAL_MICROS: f64 = 3_000.0;

/// What a request would take at a candidate, and its cost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outlook {
    pub(super) forecast: Forecast,
    /// Microseconds by which it and others would be later.
    pub(super) cost: f64,
    /// Microseconds of the wait for a slot.
    pub(super) wait: f64,
    /// Tokens to compute times requests, as LMetric has it.
    pub(super) product: f64,
}

/// What all candidates have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ground<'a> {
    pub(super) pool: &'a Pool,
    pub(super) learner: &'a Learner,
    pub(super) now: Timestamp,
    /// Loads younger than this count; microseconds.
    pub(super) max_age_micros: u64,
    /// Bytes of prompt that make one token of the model.
    pub(super) bytes_per_token: f64,
}

/// Places among the candidates.
#[derive(Clone, Copy, Debug, Default)]
struct Places {
    family: Option<usize>,
    conversation: Option<usize>,
}

/// How busy an endpoint is.
#[derive(Clone, Copy, Debug, Default)]
struct Business {
    /// Requests that it has, in its batch and waiting.
    requests: u32,
    ahead_tokens: u64,
    slots: Option<u32>,
}

impl Ground<'_> {
    /// Fills `outlooks`, one for each candidate. `counts` is working memory.
    pub(super) fn look(
        &self,
        request: &PickRequest<'_>,
        candidates: &[Candidate],
        outlooks: &mut Vec<Outlook>,
        counts: &mut Vec<u32>,
    ) {
        let typical = self.typical(candidates, counts);
        let prompt_tokens = self.tokens(request.prompt_bytes as f64);
        let places = self.places(request, candidates);
        outlooks.clear();
        for (place, candidate) in candidates.iter().enumerate() {
            let outlook = self.pool.endpoint(candidate.id).map_or_else(Outlook::default, |endpoint| {
                let mut business = self.business(endpoint, &typical);
                let ahead = request.ahead.get(candidate.id.slot() as usize).copied().unwrap_or(0);
                business.requests = business.requests.saturating_add(ahead);
                let tokens = |bytes| self.cached_tokens(bytes, prompt_tokens, endpoint.load());
                let known_tokens = tokens(candidate.matched_bytes);
                let mut guess = Guess { known_tokens, ..Guess::default() };
                if let Some(prompt) = request.prompt {
                    guess.family_tokens = if places.family == Some(place) { tokens(prompt.family_end) } else { 0 };
                    guess.conversation_tokens = (places.conversation == Some(place)).then(|| tokens(prompt.end()));
                }
                let rates = self.learner.rates(candidate.id);
                let mut outlook = self.outlook(endpoint, &business, &rates, prompt_tokens, guess);
                outlook.cost += adapter_cost(candidate, &rates);
                outlook.forecast.matched_bytes = candidate.matched_bytes;
                outlook
            });
            outlooks.push(outlook);
        }
        self.settle_equals(request, candidates, outlooks);
    }

    fn outlook(
        &self,
        endpoint: &Endpoint,
        business: &Business,
        rates: &Rates,
        prompt_tokens: u32,
        guess: Guess,
    ) -> Outlook {
        let cached_tokens = self.expected_tokens(&guess);
        let slots = business.slots.map(|slots| slots.max(1));
        let running = slots.map_or(business.requests, |slots| business.requests.min(slots));
        let waiting = business.requests - running;
        let is_full = slots.is_some_and(|slots| business.requests >= slots);
        // The slots that must become free before this request has one, at the pace at which they do.
        let slot_wait_milli = match slots {
            Some(slots) if is_full => whole((f64::from(business.requests - slots) + 1.0) * 1_000.0 / f64::from(slots)),
            _ => 0,
        };
        // Prompts of requests that wait are computed in the time of the slots that they wait for.
        let in_batch = if waiting > 0 { f64::from(running) / f64::from(business.requests) } else { 1.0 };
        let ahead_tokens = business.ahead_tokens as f64 * in_batch;
        let uncached_tokens = prompt_tokens - cached_tokens;
        let mut forecast = Forecast {
            uncached_tokens,
            cached_tokens,
            matched_bytes: 0,
            guess,
            ahead_tokens: whole(ahead_tokens),
            running,
            slot_wait_milli,
            ttft_micros: 0,
        };
        let overdue = endpoint.prefill().overdue_micros(self.now) as f64;
        let wait = rates.slot_wait_micros(&forecast);
        let ttft = wait + rates.compute_micros(&forecast) + overdue;
        forecast.ttft_micros = whole(ttft);
        let prefill = rates.uncached * f64::from(uncached_tokens) + rates.cached * f64::from(cached_tokens);
        let delay = prefill * (f64::from(waiting) + BATCH_DELAY * f64::from(running));
        let batch = rates.slot * BATCH_COST * (f64::from(running) / slots.map_or(TYPICAL_SLOTS, f64::from)).min(1.0);
        let pressure = rates.slot * PREEMPTION_COST * kv_pressure(endpoint.load(), uncached_tokens);
        Outlook {
            forecast,
            cost: ttft + delay + batch + pressure,
            wait,
            product: (f64::from(uncached_tokens) + business.ahead_tokens as f64 + 1.0)
                * f64::from(business.requests.saturating_add(1)),
        }
    }

    /// A forecast of a prompt that was not known to its end, as of one of `prompt_bytes`.
    pub(super) fn corrected(
        &self,
        endpoint: &Endpoint,
        rates: &Rates,
        forecast: &Forecast,
        prompt_bytes: u64,
    ) -> Forecast {
        let prompt_tokens = self.tokens(prompt_bytes as f64);
        let guess = Guess {
            known_tokens: self.cached_tokens(forecast.matched_bytes, prompt_tokens, endpoint.load()),
            family_tokens: forecast.guess.family_tokens.min(prompt_tokens),
            conversation_tokens: forecast.guess.conversation_tokens.map(|tokens| tokens.min(prompt_tokens)),
        };
        let cached_tokens = self.expected_tokens(&guess).min(prompt_tokens);
        let corrected = Forecast { uncached_tokens: prompt_tokens - cached_tokens, cached_tokens, guess, ..*forecast };
        let ttft_micros = whole(rates.slot_wait_micros(&corrected) + rates.compute_micros(&corrected));
        Forecast { ttft_micros, ..corrected }
    }

    /// Where the prompt is new to all that cost the same, its family decides, so that all gateways begin it at one endpoint.
    fn settle_equals(&self, request: &PickRequest<'_>, candidates: &[Candidate], outlooks: &mut [Outlook]) {
        let best = outlooks.iter().map(|outlook| outlook.cost).fold(f64::INFINITY, f64::min);
        let (family, family_end, own) = request.prompt.map_or((0, 0, 0), |prompt| {
            let own = if prompt.conversation == 0 { prompt.tail() } else { prompt.conversation };
            (prompt.family, prompt.family_end, own)
        });
        let part = (self.learner.noise() * EQUAL_NOISE).clamp(EQUAL_PART, MAX_EQUAL_PART);
        let equal = best + (best * part).max(EQUAL_MICROS);
        for (outlook, candidate) in outlooks.iter_mut().zip(candidates).filter(|(outlook, _)| outlook.cost <= equal) {
            outlook.cost = best;
            if family != 0
                && let Some(endpoint) = self.pool.endpoint(candidate.id)
            {
                // Those that have the family share its conversations among them.
                let key = if candidate.matched_bytes >= family_end { own } else { family };
                let weight = rendezvous::weight(key, endpoint.identity().address) as f64 / u64::MAX as f64;
                outlook.cost = best + (1.0 - weight) * EQUAL_MICROS / 1_000.0;
            }
        }
    }

    /// What an endpoint should have, the guess by its chance.
    fn expected_tokens(&self, guess: &Guess) -> u32 {
        let known = f64::from(guess.known_tokens);
        let family = (f64::from(guess.family_tokens) - known).max(0.0);
        let base = known + family * self.learner.family_chance();
        let all = guess.conversation_tokens.map_or(base, |all| f64::from(all).max(base));
        whole(base + (all - base) * self.learner.conversation_part())
    }

    /// Where all gateways would send the prompt's family, and its conversation: to one of those that have the family.
    fn places(&self, request: &PickRequest<'_>, candidates: &[Candidate]) -> Places {
        let Some(prompt) = request.prompt.filter(|prompt| prompt.family != 0) else { return Places::default() };
        let family = self.home(prompt.family, candidates.iter().enumerate());
        let conversation = if prompt.conversation == 0 {
            None
        } else {
            let has_family = |&(place, candidate): &(usize, &Candidate)| {
                candidate.matched_bytes >= prompt.family_end || family == Some(place)
            };
            self.home(prompt.conversation, candidates.iter().enumerate().filter(has_family))
        };
        Places { family, conversation }
    }

    /// The place of the candidate to which rendezvous gives a key.
    fn home<'c>(&self, key: u64, eligible: impl Iterator<Item = (usize, &'c Candidate)>) -> Option<usize> {
        let weights = eligible.filter_map(|(place, candidate)| {
            let address = self.pool.endpoint(candidate.id)?.identity().address;
            Some((place, rendezvous::weight(key, address)))
        });
        weights.max_by_key(|(_, weight)| *weight).map(|(place, _)| place)
    }

    /// Whole KV blocks of the part that matches; the last token is always computed.
    fn cached_tokens(&self, matched_bytes: u32, prompt_tokens: u32, load: &Load) -> u32 {
        // Most endpoints have nothing of a prompt, and divisions are what a pick from a thousand of them spends its time on.
        if matched_bytes == 0 {
            return 0;
        }
        let block = load.block_size.unwrap_or(BLOCK_TOKENS).max(1);
        let matched = self.tokens(f64::from(matched_bytes)).min(prompt_tokens.saturating_sub(1));
        matched - matched % block
    }

    fn tokens(&self, bytes: f64) -> u32 {
        whole(bytes / self.bytes_per_token)
    }

    fn business(&self, endpoint: &Endpoint, typical: &Typical) -> Business {
        let requests = self.requests(endpoint);
        let foreign_tokens = if requests.is_some() { self.foreign_tokens(endpoint) } else { 0 };
        Business {
            requests: requests.unwrap_or_else(|| typical.requests(endpoint.in_flight().total())),
            ahead_tokens: endpoint.prefill().total_tokens(self.now).saturating_add(foreign_tokens),
            slots: endpoint.slots().or(typical.slots.map(|slots| slots.max(endpoint.load().running.unwrap_or(0)))),
        }
    }

    /// Tokens that waiting requests of other gateways have yet to be computed, about: their prompts are like those of this one.
    fn foreign_tokens(&self, endpoint: &Endpoint) -> u64 {
        let waiting = endpoint.load().waiting.unwrap_or(0);
        if waiting == 0 {
            return 0;
        }
        u64::from(whole(f64::from(waiting) * self.learner.foreign_share() * self.learner.mean_uncached_tokens()))
    }

    /// Requests of an endpoint, while its page is fresh.
    fn requests(&self, endpoint: &Endpoint) -> Option<u32> {
        if self.pool.has_fresh_load(endpoint, self.now, self.max_age_micros) { endpoint.requests() } else { None }
    }

    /// What an endpoint with a fresh page has in the middle.
    fn typical(&self, candidates: &[Candidate], counts: &mut Vec<u32>) -> Typical {
        let endpoints = || candidates.iter().filter_map(|candidate| self.pool.endpoint(candidate.id));
        let mut slots = None;
        counts.clear();
        for endpoint in endpoints() {
            slots = slots.max(endpoint.slots());
            counts.extend(self.requests(endpoint));
        }
        // Where every page is fresh nobody asks.
        if counts.len() == candidates.len() || counts.is_empty() {
            return Typical { requests: None, slots };
        }
        let requests = middle(counts);
        counts.clear();
        let fresh = endpoints().filter(|endpoint| self.requests(endpoint).is_some());
        counts.extend(fresh.map(|endpoint| endpoint.in_flight().total()));
        Typical { requests: Some((requests, middle(counts))), slots }
    }
}

/// What an endpoint with a fresh page has in the middle.
#[derive(Clone, Copy, Debug, Default)]
struct Typical {
    /// Requests, and those of this proxy among them.
    requests: Option<(u32, u32)>,
    /// The most slots of any.
    slots: Option<u32>,
}

impl Typical {
    /// Keeps the scale from an endpoint's first request in flight, where a ratio of small counts would say too much.
    const BASE: f64 = 2.0;

    /// Requests of an endpoint whose page says nothing, by what this proxy has in flight there.
    fn requests(&self, own: u32) -> u32 {
        let Some((requests, in_flight)) = self.requests else { return own };
        let ratio = (f64::from(own) + Self::BASE) / (f64::from(in_flight) + Self::BASE);
        whole(f64::from(requests) * ratio).max(own)
    }
}

/// The value in the middle; of an even number, the upper one.
fn middle(values: &mut [u32]) -> u32 {
    if values.is_empty() {
        return 0;
    }
    let middle = values.len() / 2;
    *values.select_nth_unstable(middle).1
}

/// What it takes until the engine can run the adapter that is asked for.
fn adapter_cost(candidate: &Candidate, rates: &Rates) -> f64 {
    let wait = rates.slot * ADAPTER_WAIT;
    match candidate.adapter {
        AdapterState::NotAsked | AdapterState::Running | AdapterState::Waiting { has_room: true } => 0.0,
        AdapterState::Waiting { has_room: false } => wait,
        AdapterState::Absent { has_room: true } if candidate.is_adapter_home => ADAPTER_LOAD_MICROS,
        AdapterState::Absent { has_room: true } => ADAPTER_LOAD_MICROS * (1.0 + STRANGER_PART),
        AdapterState::Absent { has_room: false } => ADAPTER_LOAD_MICROS + wait,
    }
}

/// How far the KV cache would be beyond [`KV_PRESSURE`] with these tokens, 0 to 1.
fn kv_pressure(load: &Load, tokens: u32) -> f64 {
    let Some(usage) = load.kv_cache_usage else { return 0.0 };
    let capacity = load.num_gpu_blocks.map_or(f64::INFINITY, |blocks| {
        f64::from(blocks.max(1)) * f64::from(load.block_size.unwrap_or(BLOCK_TOKENS).max(1))
    });
    let beyond = usage + f64::from(tokens) / capacity - KV_PRESSURE;
    if beyond > 0.0 { (beyond / (1.0 - KV_PRESSURE)).min(1.0) } else { 0.0 }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast from a float saturates")]
const fn whole(value: f64) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests;
