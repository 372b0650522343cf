//! Policies that compare costs and know everything: the engines' caches, queues and, the oracle, their times.

use endpoint_picker::rng::Rng;

use super::{Candidate, Offer, Policy, cheapest};
use crate::calibration::Timing;
use crate::engine::Engine;

/// `LMetric` (OSDI 2026, arXiv 2603.15202): the least product of the tokens to be prefilled there, this request's among them, and the batch
/// size.
#[derive(Debug, Default)]
pub(crate) struct Lmetric;

impl Policy for Lmetric {
    fn pick(&mut self, offer: &Offer<'_>, candidates: &[Candidate<'_>], rng: &mut Rng) -> usize {
        cheapest(candidates, rng, |candidate| {
            let engine = candidate.engine;
            let uncached = offer.prompt.tokens - engine.cached_tokens(offer.prompt);
            let page = engine.page();
            let batch = page.waiting + page.running + 1;
            (engine.unprefilled_tokens() as f64 + f64::from(uncached)) * f64::from(batch)
        })
    }
}

/// The predicted time to the first token with the engines' own coefficients, the own prefill weighted by 1 + the requests waiting there: what a
/// policy that learns its coefficients should come close to.
#[derive(Debug)]
pub(crate) struct Oracle {
    /// Mean length of an answer.
    mean_output_tokens: f64,
}

impl Oracle {
    pub(crate) const fn new(mean_output_tokens: f64) -> Self {
        Self { mean_output_tokens }
    }

    /// Microseconds until a slot and blocks are free, and those that the prefill of `uncached` tokens takes.
    fn times(&self, engine: &Engine, uncached: f64) -> (f64, f64) {
        let page = engine.page();
        let calibration = engine.calibration();
        let slots = calibration.max_num_seqs as f64;
        let (waiting, running) = (f64::from(page.waiting), f64::from(page.running));
        let (prefill, output_token, queue) = match calibration.timing {
            Timing::Apart { first_micros, uncached_token_micros, output_token_micros, max_factor } => {
                let factor = 1.0 + (max_factor - 1.0) * running.min(slots - 1.0) / (slots - 1.0).max(1.0);
                let prefill = (first_micros + uncached * uncached_token_micros) * factor;
                (prefill, output_token_micros * max_factor, 0.0)
            }
            Timing::Together { iteration_micros, prefill_token_micros, decode_sequence_micros, token_budget } => {
                let iteration = iteration_micros + running * decode_sequence_micros;
                let budget = (f64::from(token_budget) - running).max(1.0);
                let time = |tokens: f64| tokens * prefill_token_micros + (tokens / budget).ceil() * iteration;
                (time(uncached), iteration, time(engine.unprefilled_tokens() as f64))
            }
        };
        let hold = self.mean_output_tokens * output_token + prefill;
        let ahead = (waiting + 1.0 - (slots - running)).max(0.0);
        // Where blocks and not slots are short, those that wait have to wait for a sequence to end.
        let ahead = if waiting > 0.0 { ahead.max(1.0) } else { ahead };
        let lanes = if waiting > 0.0 { running.max(1.0) } else { slots };
        let slowness = engine.slowness();
        ((queue + ahead * hold / lanes) * slowness, prefill * slowness)
    }
}

impl Policy for Oracle {
    fn pick(&mut self, offer: &Offer<'_>, candidates: &[Candidate<'_>], rng: &mut Rng) -> usize {
        cheapest(candidates, rng, |candidate| {
            let uncached = offer.prompt.tokens - candidate.engine.cached_tokens(offer.prompt);
            let (wait, prefill) = self.times(candidate.engine, f64::from(uncached));
            let is_loaded = offer.prompt.adapter.is_none_or(|adapter| candidate.engine.has_adapter(adapter));
            let loading = if is_loaded { 0.0 } else { candidate.engine.calibration().lora_load_micros as f64 };
            wait + (prefill + loading) * (1.0 + f64::from(candidate.engine.page().waiting))
        })
    }
}
