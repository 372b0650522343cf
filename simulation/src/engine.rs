//! One pod's engine in virtual time: continuous batching, first come first served, with KV blocks, a prefix cache and preemption.

use std::collections::VecDeque;

use crate::adapters::Adapters;
use crate::calibration::{Calibration, Timing};
use crate::kv_cache::{Allocation, KvCache};
use crate::prompt::{BLOCK_TOKENS, Prompt};

/// One engine.
#[derive(Debug)]
pub(crate) struct Engine {
    calibration: Calibration,
    /// All times are that many times as long.
    slowness: f64,
    kv: KvCache,
    adapters: Adapters,
    waiting: VecDeque<Sequence>,
    running: Vec<Running>,
    iteration: Option<Iteration>,
    /// Time that loading adapters adds to the next iteration.
    loading_micros: u64,
    started_at: u64,
    prefilled_tokens: u64,
    preemptions: u64,
}

/// A request in the queue.
#[derive(Debug)]
struct Sequence {
    id: usize,
    prompt: Prompt,
    /// Tokens of the answer that were sent before it was preempted.
    generated: u32,
    /// Tokens of the prompt that were cached when it ran first.
    cached: Option<u32>,
    /// Tokens of the prompt that were not cached when it came.
    uncached_at_first: u32,
}

/// A request in the batch.
#[derive(Debug)]
struct Running {
    sequence: Sequence,
    allocation: Allocation,
    /// Tokens that are to be computed before the next token comes out.
    unprefilled: u32,
    /// When its next token comes out, where each sequence runs for itself.
    due: u64,
}

/// An iteration under way.
#[derive(Clone, Copy, Debug)]
struct Iteration {
    ends_at: u64,
}

/// What an engine sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Output {
    /// The first token of the answer.
    First { id: usize, cached_tokens: u32 },
    /// The last one.
    Done { id: usize },
}

/// What an engine's metrics page says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Page {
    pub(crate) waiting: u32,
    pub(crate) running: u32,
    pub(crate) kv_usage: f64,
    pub(crate) started_at: u64,
}

impl Engine {
    pub(crate) fn new(calibration: Calibration, started_at: u64) -> Self {
        Self {
            slowness: 1.0,
            kv: KvCache::new(calibration.num_gpu_blocks),
            adapters: Adapters::new(calibration.max_lora, calibration.lora_load_micros),
            waiting: VecDeque::new(),
            running: Vec::new(),
            iteration: None,
            loading_micros: 0,
            started_at,
            prefilled_tokens: 0,
            preemptions: 0,
            calibration,
        }
    }

    /// Everything takes that many times as long from now on.
    pub(crate) const fn slow_down(&mut self, slowness: f64) {
        self.slowness = slowness;
    }

    pub(crate) const fn calibration(&self) -> &Calibration {
        &self.calibration
    }

    pub(crate) const fn slowness(&self) -> f64 {
        self.slowness
    }

    pub(crate) const fn prefilled_tokens(&self) -> u64 {
        self.prefilled_tokens
    }

    pub(crate) const fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// Tokens at the head of a prompt that it would not compute.
    pub(crate) fn cached_tokens(&self, prompt: &Prompt) -> u32 {
        (self.matched(prompt) * BLOCK_TOKENS) as u32
    }

    /// Adapters that requests in the batch, and in the queue (true), ask for; each once.
    pub(crate) fn adapters_in_use(&self) -> Vec<(u16, bool)> {
        let running = self.running.iter().filter_map(|running| Some((running.sequence.prompt.adapter?, false)));
        let waiting = self.waiting.iter().filter_map(|sequence| Some((sequence.prompt.adapter?, true)));
        let mut all: Vec<(u16, bool)> = running.chain(waiting).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Whether an adapter is in memory.
    pub(crate) fn has_adapter(&self, adapter: u16) -> bool {
        self.adapters.has(adapter)
    }

    /// Tokens that are still to be computed; for a request in the queue those that were not cached when it came.
    pub(crate) fn unprefilled_tokens(&self) -> u64 {
        let queued = self.waiting.iter().map(|sequence| sequence.uncached_at_first);
        let running = self.running.iter().map(|running| running.unprefilled);
        queued.chain(running).map(u64::from).sum()
    }

    pub(crate) fn page(&self) -> Page {
        Page {
            waiting: self.waiting.len() as u32,
            running: self.running.len() as u32,
            kv_usage: self.kv.usage(),
            started_at: self.started_at,
        }
    }

    /// A request came.
    pub(crate) fn submit(&mut self, id: usize, prompt: Prompt, now: u64) {
        let uncached_at_first = prompt.tokens - self.cached_tokens(&prompt);
        self.waiting.push_back(Sequence { id, prompt, generated: 0, cached: None, uncached_at_first });
        match self.calibration.timing {
            Timing::Apart { .. } => self.admit_apart(now),
            Timing::Together { .. } if self.iteration.is_none() => self.begin_iteration(now),
            Timing::Together { .. } => {}
        }
    }

    /// Everything under way is lost.
    pub(crate) fn abort(&mut self) -> Vec<usize> {
        let running = self.running.drain(..).map(|running| running.sequence.id);
        let lost = running.chain(self.waiting.drain(..).map(|sequence| sequence.id)).collect();
        self.kv = KvCache::new(self.calibration.num_gpu_blocks);
        self.iteration = None;
        lost
    }

    /// When it has something to do next.
    pub(crate) fn next_due(&self) -> Option<u64> {
        match self.calibration.timing {
            Timing::Apart { .. } => self.running.iter().map(|running| running.due).min(),
            Timing::Together { .. } => self.iteration.map(|iteration| iteration.ends_at),
        }
    }

    /// Does what is due; what came of it goes to `outputs`.
    pub(crate) fn step(&mut self, now: u64, outputs: &mut Vec<Output>) {
        match self.calibration.timing {
            Timing::Apart { .. } => self.step_apart(now, outputs),
            Timing::Together { .. } => {
                if self.iteration.is_some_and(|iteration| iteration.ends_at <= now) {
                    self.end_iteration(outputs);
                    self.begin_iteration(now);
                }
            }
        }
    }

    // Each sequence for itself.

    fn step_apart(&mut self, now: u64, outputs: &mut Vec<Output>) {
        while let Some(index) = self.running.iter().position(|running| running.due <= now) {
            self.running[index].unprefilled = 0;
            if let Some(index) = self.make_room_to_grow(index) {
                let due = now + self.output_token_micros();
                let running = &mut self.running[index];
                running.due = due;
                Self::emit(running, outputs);
                self.retire(index);
            }
            self.admit_apart(now);
        }
    }

    fn admit_apart(&mut self, now: u64) {
        while let Some((running, load_micros)) = self.admit_next() {
            let Timing::Apart { first_micros, uncached_token_micros, .. } = self.calibration.timing else { return };
            let uncached = f64::from(running.unprefilled);
            self.running.push(running);
            let micros = (first_micros + uncached * uncached_token_micros) * self.load_factor() * self.slowness;
            if let Some(running) = self.running.last_mut() {
                running.due = now + load_micros + micros as u64;
                // The blocks of a prompt count as cached from its start.
                let Running { sequence, allocation, .. } = running;
                let full = sequence.prompt.full_blocks();
                self.kv.publish(allocation, full, full.len());
            }
        }
    }

    fn load_factor(&self) -> f64 {
        let Timing::Apart { max_factor, .. } = self.calibration.timing else { return 1.0 };
        let slots = self.calibration.max_num_seqs;
        if slots <= 1 {
            return 1.0;
        }
        1.0 + (max_factor - 1.0) * self.running.len().saturating_sub(1) as f64 / (slots - 1) as f64
    }

    fn output_token_micros(&self) -> u64 {
        let Timing::Apart { output_token_micros, .. } = self.calibration.timing else { return 0 };
        (output_token_micros * self.load_factor() * self.slowness) as u64
    }

    // All together.

    fn begin_iteration(&mut self, now: u64) {
        let Timing::Together { iteration_micros, prefill_token_micros, decode_sequence_micros, token_budget } =
            self.calibration.timing
        else {
            return;
        };
        let mut budget = token_budget;
        let mut index = 0;
        let mut decoding = 0_u32;
        while index < self.running.len() {
            if self.running[index].unprefilled == 0 {
                let Some(place) = self.make_room_to_grow(index) else { continue };
                index = place;
                decoding += 1;
                budget = budget.saturating_sub(1);
            }
            index += 1;
        }
        let mut prefilled = 0;
        for running in &mut self.running {
            let chunk = running.unprefilled.min(budget - prefilled);
            prefilled += chunk;
            Self::plan(running, chunk);
        }
        while prefilled < budget
            && let Some((mut running, load_micros)) = self.admit_next()
        {
            self.loading_micros += load_micros;
            let chunk = running.unprefilled.min(budget - prefilled);
            prefilled += chunk;
            Self::plan(&mut running, chunk);
            self.running.push(running);
        }
        if self.running.is_empty() {
            self.iteration = None;
            return;
        }
        let micros = iteration_micros
            + f64::from(prefilled) * prefill_token_micros
            + f64::from(decoding) * decode_sequence_micros;
        let loading = std::mem::take(&mut self.loading_micros);
        self.iteration = Some(Iteration { ends_at: now + loading + (micros * self.slowness) as u64 });
    }

    /// In an iteration `due` counts the prompt's tokens in it.
    const fn plan(running: &mut Running, chunk: u32) {
        running.due = chunk as u64;
    }

    fn end_iteration(&mut self, outputs: &mut Vec<Output>) {
        let keeps_output = self.calibration.keeps_output;
        for running in &mut self.running {
            let chunk = std::mem::take(&mut running.due) as u32;
            running.unprefilled -= chunk;
            if running.unprefilled == 0 {
                Self::emit(running, outputs);
            }
            let Running { sequence, allocation, unprefilled, .. } = running;
            let kept = if keeps_output { sequence.generated } else { 0 };
            let computed = (sequence.prompt.tokens + kept).saturating_sub(*unprefilled);
            self.kv.publish(allocation, &sequence.prompt.blocks, computed as usize / BLOCK_TOKENS);
        }
        let mut index = self.running.len();
        while index > 0 {
            index -= 1;
            self.retire(index);
        }
    }

    // Both.

    /// Takes the first request of the queue that fits; an adapter without room is passed over.
    fn admit_next(&mut self) -> Option<(Running, u64)> {
        if self.running.len() >= self.calibration.max_num_seqs {
            return None;
        }
        let mut place = 0;
        let load_micros = loop {
            let sequence = self.waiting.get(place)?;
            let Some(adapter) = sequence.prompt.adapter else { break 0 };
            let in_use = |other: u16| self.running.iter().any(|running| running.sequence.prompt.adapter == Some(other));
            match self.adapters.take(adapter, in_use) {
                Some(micros) => break micros,
                None => place += 1,
            }
        };
        let sequence = self.waiting.get(place)?;
        let matched = self.matched(&sequence.prompt);
        let length = sequence.prompt.tokens + if self.calibration.keeps_output { sequence.generated } else { 0 };
        let total = (length as usize).div_ceil(BLOCK_TOKENS);
        // A prompt larger than the cache runs alone and takes what there is.
        let total = total.min(self.calibration.num_gpu_blocks).max(matched);
        let allocation = self.kv.allocate(&sequence.prompt.blocks, matched, total)?;
        let mut sequence = self.waiting.remove(place)?;
        let cached = (matched * BLOCK_TOKENS) as u32;
        sequence.cached.get_or_insert(cached);
        let unprefilled = length - cached;
        self.prefilled_tokens += u64::from(unprefilled);
        Some((Running { sequence, allocation, unprefilled, due: 0 }, load_micros))
    }

    /// Leading blocks of a prompt that are cached, but for its last token, which is always computed.
    fn matched(&self, prompt: &Prompt) -> usize {
        let most = (prompt.tokens as usize - 1) / BLOCK_TOKENS;
        let blocks = prompt.full_blocks();
        self.kv.matched(&blocks[..blocks.len().min(most)])
    }

    /// Gets a running sequence the block that its next token needs; the newest are preempted for that. Its place afterwards; `None`: it was
    /// preempted itself.
    fn make_room_to_grow(&mut self, index: usize) -> Option<usize> {
        let running = &self.running[index];
        let length = running.sequence.prompt.tokens + running.sequence.generated;
        if !self.calibration.keeps_output || !(length as usize).is_multiple_of(BLOCK_TOKENS) {
            return Some(index);
        }
        loop {
            let Running { allocation, .. } = &mut self.running[index];
            if self.kv.grow(allocation) {
                return Some(index);
            }
            if self.running.len() == 1 {
                // Nobody else is left to make room: it overwrites, as an engine with a sliding window would.
                return Some(index);
            }
            let victim = self.running.len() - 1;
            let Running { sequence, allocation, .. } = self.running.remove(victim);
            self.kv.release(allocation);
            self.waiting.push_front(sequence);
            self.preemptions += 1;
            if victim == index {
                return None;
            }
        }
    }

    fn emit(running: &mut Running, outputs: &mut Vec<Output>) {
        let Sequence { id, prompt, generated, cached, .. } = &mut running.sequence;
        *generated += 1;
        if *generated == 1 {
            outputs.push(Output::First { id: *id, cached_tokens: cached.unwrap_or(0) });
        }
        if *generated >= prompt.output_tokens {
            outputs.push(Output::Done { id: *id });
        }
    }

    fn retire(&mut self, index: usize) {
        if self.running[index].sequence.generated >= self.running[index].sequence.prompt.output_tokens {
            let Running { allocation, .. } = self.running.remove(index);
            self.kv.release(allocation);
        }
    }
}

#[cfg(test)]
mod tests;
