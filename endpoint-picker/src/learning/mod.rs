//! What endpoints need for a request, learned from their answers.
//!
//! The time to the first token is taken to be `fixed + uncached·a + cached·b + ahead·c + running·d`, plus the wait for a slot where an
//! engine runs as many requests as it can. The coefficients are those with the least relative error over the last hundred answers or so:
//! an endpoint's own, which count more the more there are, and those of the whole pool, which are what a new endpoint begins with. Samples
//! fade with samples and not with time, so nothing drifts while no request comes. On top of them a gain for each endpoint
//! follows what it does now: it moves a few percent with each answer, whatever that answer's error, so one answer cannot move it far and
//! a lasting change is followed within a dozen.

mod regression;

use alloc::vec::Vec;

use hashbrown::HashMap;

use crate::openai::Usage;
use crate::pool::EndpointId;
use regression::Sums;

/// What a coefficient stands for, see [`Forecast`].
const FEATURES: usize = 5;
/// Tokens are counted in thousands and requests in tens, so that sums are of one order.
const TOKENS: f64 = 1_000.0;
const REQUESTS: f64 = 10.0;
/// A sample keeps this part with each later one of its endpoint: half of what is known is of the last 70.
const KEPT: f64 = 0.99;
/// The same of the pool's.
const KEPT_BY_POOL: f64 = 0.998;
/// What the pool says counts as so many samples of an endpoint's own.
const POOL_SAMPLES: f64 = 10.0;
/// A prior counts as so many samples that are wrong by their whole value.
const PRIOR_SAMPLES: f64 = 0.5;
/// An answer counts as at most so many times later or earlier than expected.
const MAX_RATIO: f64 = 4.0;
/// Answers nearer to the expected than this part move no gain.
const GAIN_DEAD_ZONE: f64 = 0.1;
/// How far one answer moves a gain, and how much further each one after it in the same direction.
const GAIN_STEP: f64 = 0.04;
const MAX_GAIN_STREAK: u8 = 10;
const MAX_GAIN: f64 = 32.0;
/// After so many answers of each other endpoint, an endpoint that was not asked counts half as itself and half as the pool.
const HALF_WEIGHT_ANSWERS: f64 = 25.0;
/// Weight of a new sample in the means of slots' times and of bytes a token.
const MEAN_WEIGHT: f64 = 0.05;
/// How far one answer moves what is believed of a cache.
const LOST_HIT: f64 = 0.97;
const KEPT_HIT: f64 = 1.004;
const MIN_CACHE_PART: f64 = 0.02;
/// What is believed of other gateways' prompts before any answer tells. A gateway that stands alone finds out soon that there are none.
const FAMILY_CHANCE: f64 = 0.8;
const CONVERSATION_PART: f64 = 0.5;
/// Weight of one page in the share of the load that other gateways bring.
const SHARE_WEIGHT: f64 = 0.05;
/// Below this share there are no other gateways: requests that end while a page is made seem to be theirs.
const MIN_FOREIGN_SHARE: f64 = 0.15;
/// Fewer predicted tokens than this say nothing of a cache: templates and block limits move as many.
const MIN_JUDGED_TOKENS: u32 = 64;
/// Fewer tokens of prompt than this say nothing of bytes a token: the template's own are among them.
const MIN_PROMPT_TOKENS: u64 = 32;
/// English text under the vocabularies of current models has 3.5 to 4.5 bytes a token.
pub const DEFAULT_BYTES_PER_TOKEN: f64 = 4.0;
/// More bytes a token are none of text.
const MAX_BYTES_PER_TOKEN: f64 = 64.0;
/// Bytes a token are kept for so many models.
const MAX_MODELS: usize = 256;

/// What is believed before the first answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prior {
    /// Microseconds of a request that needs no prefill.
    pub fixed_micros: f64,
    /// Microseconds of prefill for a token.
    pub micros_per_token: f64,
    /// Microseconds for which a request holds its slot.
    pub slot_micros: f64,
}

impl Default for Prior {
    /// A model of 8 billion parameters on a data-centre GPU: 10 000 tokens of prompt a second, an answer of two seconds.
    fn default() -> Self {
        Self { fixed_micros: 20_000.0, micros_per_token: 100.0, slot_micros: 2_000_000.0 }
    }
}

/// What a pick expected of a request at an endpoint.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Forecast {
    /// Tokens of the prompt that the endpoint has to compute.
    pub uncached_tokens: u32,
    /// Tokens that it should have in its cache.
    pub cached_tokens: u32,
    /// Bytes of prompt that it is known to have.
    pub matched_bytes: u32,
    /// What of them rests on a guess.
    pub guess: Guess,
    /// Tokens of earlier requests of this proxy that it has yet to compute.
    pub ahead_tokens: u32,
    /// Requests in its batch.
    pub running: u32,
    /// Wait for a slot, in thousandths of the time for which a request holds one.
    pub slot_wait_milli: u32,
    /// Time to the first token in microseconds, the wait included.
    pub ttft_micros: u32,
}

/// Tokens that an endpoint has if another gateway sent it what all gateways would send there, see [`Learner::family_chance`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Guess {
    /// Tokens that it is known to have.
    pub known_tokens: u32,
    /// Tokens that it has with the prompt's family; no more than those known: nothing is guessed of it.
    pub family_tokens: u32,
    /// Tokens that it has with all the prompt; `None`: it is not the endpoint that conversations of this key go to.
    pub conversation_tokens: Option<u32>,
}

impl Forecast {
    fn features(&self) -> [f64; FEATURES] {
        [
            1.0,
            f64::from(self.uncached_tokens) / TOKENS,
            f64::from(self.cached_tokens) / TOKENS,
            f64::from(self.ahead_tokens) / TOKENS,
            f64::from(self.running) / REQUESTS,
        ]
    }
}

/// What an endpoint needs, in microseconds, with its gain in them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// For a request that needs no prefill.
    pub fixed: f64,
    /// For a token that it has to compute.
    pub uncached: f64,
    /// For a token that it has.
    pub cached: f64,
    /// For a token of earlier requests that it has yet to compute.
    pub ahead: f64,
    /// For a request in its batch.
    pub running: f64,
    /// For which a request holds its slot.
    pub slot: f64,
}

impl Rates {
    /// Microseconds to the first token without the wait for a slot.
    #[must_use]
    pub fn compute_micros(&self, forecast: &Forecast) -> f64 {
        self.fixed
            + self.uncached * f64::from(forecast.uncached_tokens)
            + self.cached * f64::from(forecast.cached_tokens)
            + self.ahead * f64::from(forecast.ahead_tokens)
            + self.running * f64::from(forecast.running)
    }

    /// Microseconds of the wait for a slot.
    #[must_use]
    pub fn slot_wait_micros(&self, forecast: &Forecast) -> f64 {
        self.slot * f64::from(forecast.slot_wait_milli) / 1_000.0
    }
}

/// An answer that came to its end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answer {
    /// Microseconds from sending to its first token, where that was seen.
    pub first_token_micros: Option<u64>,
    /// Microseconds from sending to its end.
    pub total_micros: u64,
    /// What it reports.
    pub usage: Usage,
    /// Bytes of the prompt.
    pub prompt_bytes: u64,
    /// Hash of the model's name.
    pub model: u64,
}

/// What was learned of all endpoints of a pool.
#[derive(Clone, Debug)]
pub struct Learner {
    prior: Prior,
    sums: Sums<FEATURES>,
    coefficients: [f64; FEATURES],
    slot_micros: f64,
    /// Microseconds for a token of answer, of answers whose first token was seen.
    token_micros: Option<f64>,
    endpoints: Vec<Learned>,
    bytes_per_token: f64,
    models: HashMap<u64, f64>,
    family_chance: f64,
    conversation_part: f64,
    foreign_share: f64,
    has_peers: bool,
    uncached_tokens: f64,
    /// Answers that taught anything.
    answers: u64,
    noise: f64,
}

/// What was learned of one endpoint.
#[derive(Clone, Copy, Debug)]
struct Learned {
    epoch: u32,
    sums: Sums<FEATURES>,
    /// `None`: it answered nothing yet.
    coefficients: Option<[f64; FEATURES]>,
    gain: Gain,
    /// The same for the wait for a slot.
    wait_gain: Gain,
    slot_micros: Option<f64>,
    /// The part of its cache that holds what it should, 0 to 1.
    cache_part: f64,
    /// Answers of all when it last answered.
    answered_at: u64,
}

/// Follows a ratio by small steps.
#[derive(Clone, Copy, Debug)]
struct Gain {
    value: f64,
    /// Answers in a row on one side of it.
    streak: u8,
    is_rising: bool,
}

impl Gain {
    const ONE: Self = Self { value: 1.0, streak: 0, is_rising: false };

    /// Takes in how many times the ungained time an answer took. Answers are old news, and many come of one state of the gain: each is
    /// compared with what the gain is now, so that none of them pushes it beyond what they say.
    fn follow(&mut self, ratio: f64) {
        let error = ratio / self.value;
        let is_rising = error > 1.0;
        if (error - 1.0).abs() <= GAIN_DEAD_ZONE {
            self.streak = 0;
            return;
        }
        self.streak = if is_rising == self.is_rising { (self.streak + 1).min(MAX_GAIN_STREAK) } else { 0 };
        self.is_rising = is_rising;
        let step = 1.0 + GAIN_STEP * f64::from(1 + self.streak);
        let value = if is_rising { (self.value * step).min(ratio) } else { (self.value / step).max(ratio) };
        self.value = value.clamp(1.0 / MAX_GAIN, MAX_GAIN);
    }
}

impl Learned {
    const fn new(epoch: u32) -> Self {
        Self {
            epoch,
            sums: Sums::EMPTY,
            coefficients: None,
            gain: Gain::ONE,
            wait_gain: Gain::ONE,
            slot_micros: None,
            cache_part: 1.0,
            answered_at: 0,
        }
    }
}

impl Default for Learner {
    fn default() -> Self {
        Self::new(Prior::default())
    }
}

impl Learner {
    /// Nothing but a prior.
    #[must_use]
    pub fn new(prior: Prior) -> Self {
        Self {
            prior,
            sums: Sums::default(),
            coefficients: believed(prior),
            slot_micros: prior.slot_micros,
            token_micros: None,
            endpoints: Vec::new(),
            bytes_per_token: DEFAULT_BYTES_PER_TOKEN,
            models: HashMap::new(),
            family_chance: FAMILY_CHANCE,
            conversation_part: CONVERSATION_PART,
            foreign_share: 0.0,
            has_peers: false,
            uncached_tokens: 0.0,
            answers: 0,
            noise: 0.0,
        }
    }

    /// How likely an endpoint has a family's prompt of which this gateway does not know, because rendezvous gives the family to it and other
    /// gateways have sent it there, 0 to 1.
    #[must_use]
    pub fn family_chance(&self) -> f64 {
        if self.has_foreign() { self.family_chance } else { 0.0 }
    }

    /// How much of the rest of a prompt an endpoint has for the same reason, 0 to 1.
    #[must_use]
    pub fn conversation_part(&self) -> f64 {
        if self.has_foreign() { self.conversation_part } else { 0.0 }
    }

    /// Others send requests to the same endpoints: other gateways, or workers of this one, whose prompts are known a little later.
    #[must_use]
    pub fn has_foreign(&self) -> bool {
        self.has_peers || self.foreign_share >= MIN_FOREIGN_SHARE
    }

    /// The part of the endpoints' load that other gateways bring, 0 to 1.
    #[must_use]
    pub fn foreign_share(&self) -> f64 {
        if self.foreign_share >= MIN_FOREIGN_SHARE { self.foreign_share } else { 0.0 }
    }

    /// Tokens of a prompt that its endpoint has to compute, in the mean.
    #[must_use]
    pub const fn mean_uncached_tokens(&self) -> f64 {
        self.uncached_tokens
    }

    /// Other workers have requests in flight.
    pub const fn peers_seen(&mut self) {
        self.has_peers = true;
    }

    /// An engine's page came: so many requests, of which this proxy had `own` in flight.
    pub fn page_read(&mut self, requests: u32, own: u32) {
        if requests > 0 {
            let foreign = f64::from(requests.saturating_sub(own)) / f64::from(requests);
            self.foreign_share += SHARE_WEIGHT * (foreign - self.foreign_share);
        }
    }

    /// True: no answer has taught anything yet.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.sums.count() <= 0.0
    }

    /// What an endpoint needs.
    #[must_use]
    pub fn rates(&self, id: EndpointId) -> Rates {
        let own = self.learned(id);
        let weight = own.map_or(0.0, |own| self.weight(own));
        let mut coefficients = self.coefficients;
        if let Some(own) = own.and_then(|own| own.coefficients) {
            for (pool, own) in coefficients.iter_mut().zip(own) {
                *pool += weight * (own - *pool);
            }
        }
        let gain = own.map_or(1.0, |own| 1.0 + weight * (own.gain.value - 1.0));
        let wait_gain = own.map_or(1.0, |own| 1.0 + weight * (own.wait_gain.value - 1.0));
        let [fixed, uncached, cached, ahead, running] = coefficients;
        let per_token = gain * (1.0 / TOKENS);
        Rates {
            fixed: fixed * gain,
            uncached: uncached * per_token,
            cached: cached * per_token,
            ahead: ahead * per_token,
            running: running * (gain * (1.0 / REQUESTS)),
            slot: own.and_then(|own| own.slot_micros).unwrap_or(self.slot_micros) * wait_gain,
        }
    }

    /// How much an endpoint's own counts beside the pool's, 0 to 1. It falls while others answer and this one is not asked: who looked slow once is
    /// asked again after a while, and nothing changes while nobody is asked.
    fn weight(&self, own: &Learned) -> f64 {
        let endpoints = self.endpoints.len() as u64;
        // Each has a turn before anybody has been left out.
        let missed = self.answers.saturating_sub(own.answered_at).saturating_sub(endpoints);
        if missed == 0 {
            return 1.0;
        }
        1.0 / (1.0 + missed as f64 / (endpoints as f64 * HALF_WEIGHT_ANSWERS))
    }

    /// How far answers are from what was expected, as a part of that, in the mean.
    #[must_use]
    pub const fn noise(&self) -> f64 {
        self.noise
    }

    /// Answers of an endpoint that are not forgotten.
    #[must_use]
    pub fn answers(&self, id: EndpointId) -> f64 {
        self.learned(id).map_or(0.0, |own| own.sums.count())
    }

    /// The part of an endpoint's cache that holds what it should, 0 to 1: less where answers reported less than was predicted.
    #[must_use]
    pub fn cache_part(&self, id: EndpointId) -> f64 {
        self.learned(id).map_or(1.0, |own| own.cache_part)
    }

    /// Bytes of prompt that make one token of a model.
    #[must_use]
    pub fn bytes_per_token(&self, model: u64) -> f64 {
        self.models.get(&model).copied().unwrap_or(self.bytes_per_token)
    }

    /// The same over all models.
    #[must_use]
    pub const fn mean_bytes_per_token(&self) -> f64 {
        self.bytes_per_token
    }

    /// The first token of a stream came so many microseconds after the request was sent.
    pub fn first_token_came(&mut self, id: EndpointId, forecast: &Forecast, after_micros: u64) {
        self.learn(id, forecast, after_micros as f64);
    }

    /// An answer came to its end.
    pub fn answer_ended(&mut self, id: EndpointId, forecast: &Forecast, answer: &Answer) {
        let total = answer.total_micros as f64;
        let generated = answer.usage.completion_tokens.map_or(0.0, |tokens| tokens as f64);
        let waited = match answer.first_token_micros {
            Some(first) => {
                let first = first as f64;
                if generated > 1.0 {
                    let each = (total - first).max(0.0) / (generated - 1.0);
                    let mean = self.token_micros.get_or_insert(each);
                    *mean += MEAN_WEIGHT * (each.min(*mean * MAX_RATIO) - *mean);
                }
                (first - self.rates(id).compute_micros(forecast)).max(0.0)
            }
            None => {
                if let Some(first) = self.first_token_of_whole(id, forecast, total, generated) {
                    self.learn(id, forecast, first);
                }
                self.rates(id).slot_wait_micros(forecast).min(total * 0.9)
            }
        };
        self.slot_held(id, total - waited);
        self.cache_judged(id, forecast, &answer.usage);
        self.bytes_counted(answer);
    }

    /// When the first token of an answer that came as a whole was made: its end less what its tokens took. Where no stream told how long a token
    /// takes, the time that an answer takes beyond the expected is spread over its tokens.
    fn first_token_of_whole(&mut self, id: EndpointId, forecast: &Forecast, total: f64, generated: f64) -> Option<f64> {
        if generated <= 1.0 {
            return Some(total);
        }
        let rates = self.rates(id);
        let expected = rates.compute_micros(forecast) + rates.slot_wait_micros(forecast);
        let each = (total - expected).max(0.0) / (generated - 1.0);
        let mean = *self.token_micros.get_or_insert(each);
        let rest = total - mean * (generated - 1.0);
        if rest < expected / MAX_RATIO {
            // Its tokens were faster than is believed.
            self.token_micros = Some(mean + MEAN_WEIGHT * (each - mean));
        }
        // An answer that is nearly all tokens says little of its first one.
        (rest > total * 0.2).then_some(rest)
    }

    fn learn(&mut self, id: EndpointId, forecast: &Forecast, first_token_micros: f64) {
        self.uncached_tokens += MEAN_WEIGHT * (f64::from(forecast.uncached_tokens) - self.uncached_tokens);
        let rates = self.rates(id);
        let expected = rates.compute_micros(forecast).max(1.0);
        let waited = rates.slot_wait_micros(forecast);
        self.answers += 1;
        let answers = self.answers;
        let weight = self.learned(id).map_or(1.0, |own| self.weight(own));
        if waited <= expected {
            let error = ((first_token_micros - waited) / expected - 1.0).abs().min(1.0);
            self.noise += MEAN_WEIGHT * (error - self.noise);
        }
        let Some(own) = self.learned_mut(id) else { return };
        own.answered_at = answers;
        if waited > 0.0 {
            own.wait_gain.follow((first_token_micros - expected).max(0.0) / waited * own.wait_gain.value);
        }
        let computed = (first_token_micros - waited).max(expected / MAX_RATIO);
        let ratio = computed / expected;
        // How much of the answer's time is the wait, and so beside the point.
        let share = expected / (expected + waited);
        if waited <= expected {
            // What the gain would have to be; the gain that was forgotten counts again where the answer is nearer to it.
            let shown = 1.0 + weight * (own.gain.value - 1.0);
            let wanted = ratio * shown;
            if (wanted - shown).abs() < (wanted - own.gain.value).abs() {
                own.gain.value = shown;
            }
            own.gain.follow(wanted);
        }
        let x = forecast.features();
        let y = expected * ratio.clamp(1.0 / MAX_RATIO, MAX_RATIO);
        let weight = share * share / (expected * expected);
        // What says little makes little of what is known fade.
        let fading = share * share;
        own.sums.add(&x, y, weight, 1.0 - (1.0 - KEPT) * fading);
        let due = own.sums.is_due().then_some(own.sums);
        self.sums.add(&x, y, weight, 1.0 - (1.0 - KEPT_BY_POOL) * fading);
        if self.sums.is_due() {
            let mut sums = self.sums;
            add_belief(&mut sums, &believed(self.prior));
            if let Some(solved) = sums.solve() {
                self.coefficients = solved;
            }
        }
        let Some(mut sums) = due else { return };
        sums.add_about(&self.sums, &self.coefficients, POOL_SAMPLES);
        add_belief(&mut sums, &self.coefficients);
        let solved = sums.solve();
        if let (Some(own), Some(solved)) = (self.learned_mut(id), solved) {
            own.coefficients = Some(solved);
        }
    }

    fn slot_held(&mut self, id: EndpointId, micros: f64) {
        let pool = self.slot_micros;
        let Some(own) = self.learned_mut(id) else { return };
        let mean = own.slot_micros.get_or_insert(pool);
        *mean += MEAN_WEIGHT * (micros.clamp(*mean / MAX_RATIO, *mean * MAX_RATIO) - *mean);
        self.slot_micros += MEAN_WEIGHT * (micros.clamp(pool / MAX_RATIO, pool * MAX_RATIO) - pool);
    }

    fn cache_judged(&mut self, id: EndpointId, forecast: &Forecast, usage: &Usage) {
        let Some(reported) = usage.cached_tokens.map(|tokens| tokens as f64) else { return };
        self.guess_judged(&forecast.guess, reported);
        let known = forecast.guess.known_tokens;
        if known < MIN_JUDGED_TOKENS {
            return;
        }
        let part = reported / f64::from(known);
        let Some(own) = self.learned_mut(id) else { return };
        if part < 0.7 {
            own.cache_part = (own.cache_part * LOST_HIT).max(MIN_CACHE_PART);
        } else if part > 0.9 {
            own.cache_part = (own.cache_part * KEPT_HIT).min(1.0);
        }
    }

    fn guess_judged(&mut self, guess: &Guess, reported: f64) {
        let base = guess.known_tokens.max(guess.family_tokens);
        if guess.family_tokens >= guess.known_tokens.saturating_add(MIN_JUDGED_TOKENS) {
            let part = (reported - f64::from(guess.known_tokens)) / f64::from(guess.family_tokens - guess.known_tokens);
            self.family_chance += MEAN_WEIGHT * (part.clamp(0.0, 1.0) - self.family_chance);
        }
        if let Some(all) = guess.conversation_tokens.filter(|&all| all >= base.saturating_add(MIN_JUDGED_TOKENS)) {
            let part = (reported - f64::from(base)) / f64::from(all - base);
            self.conversation_part += MEAN_WEIGHT * (part.clamp(0.0, 1.0) - self.conversation_part);
        }
    }

    fn bytes_counted(&mut self, answer: &Answer) {
        let Some(tokens) = answer.usage.prompt_tokens.filter(|&tokens| tokens >= MIN_PROMPT_TOKENS) else { return };
        // No vocabulary has tokens of less than a byte: the others are of what the request does not carry, such as an image behind an address.
        if answer.prompt_bytes < tokens {
            return;
        }
        let bytes = (answer.prompt_bytes as f64 / tokens as f64).min(MAX_BYTES_PER_TOKEN);
        self.bytes_per_token += MEAN_WEIGHT * (bytes - self.bytes_per_token);
        if let Some(known) = self.models.get_mut(&answer.model) {
            *known += MEAN_WEIGHT * (bytes - *known);
        } else if self.models.len() < MAX_MODELS {
            self.models.insert(answer.model, bytes);
        }
    }

    fn learned(&self, id: EndpointId) -> Option<&Learned> {
        self.endpoints.get(id.slot() as usize).filter(|own| own.epoch == id.epoch())
    }

    fn learned_mut(&mut self, id: EndpointId) -> Option<&mut Learned> {
        if self.endpoints.len() <= id.slot() as usize {
            self.endpoints.resize(id.slot() as usize + 1, Learned::new(0));
        }
        let own = self.endpoints.get_mut(id.slot() as usize)?;
        if own.epoch != id.epoch() {
            *own = Learned::new(id.epoch());
        }
        Some(own)
    }
}

/// A prior's coefficients. A cached token costs a hundredth, one that is ahead half of one to compute, and a request in the batch a tenth of the
/// fixed time.
fn believed(prior: Prior) -> [f64; FEATURES] {
    let token = prior.micros_per_token * TOKENS;
    [prior.fixed_micros, token, token / 100.0, token / 2.0, prior.fixed_micros / 10.0 * REQUESTS]
}

/// Adds that each coefficient is believed to be wrong by about its whole value.
fn add_belief(sums: &mut Sums<FEATURES>, about: &[f64; FEATURES]) {
    let weights = about.map(|value| {
        let value = value.max(1.0);
        PRIOR_SAMPLES / (value * value)
    });
    sums.add_belief(about, &weights);
}

#[cfg(test)]
mod tests;
