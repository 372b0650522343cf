//! The engine: a continuous-batching scheduler over virtual time.
//!
//! It follows the scheduler of vLLM V1. Time passes in *steps*; a step first gives every running sequence its next tokens, then
//! admits waiting ones while slots, the token budget, KV blocks and LoRA slots last; out of blocks, the sequence that came last is
//! preempted and computed again later. Or, with [`CostModel::Apart`], each sequence is timed for itself, as `llm-d-inference-sim` does it.
//! Nothing here reads a clock or entropy: `now` is the time since the engine's start and every
//! call takes it, and jitter comes from the seed.

pub mod kv_cache;
pub mod stats;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use kv_cache::{BlockHash, Holding, KvCache};
use stats::{EngineStats, FinishReason};

/// Smallest distance between two entries of the adapter log; what seconds since 1970 in a float still tell apart.
const LOG_STEP: Duration = Duration::from_micros(1);

/// Names one request within its engine.
pub type SequenceId = u64;

/// Limits and speed of an engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Sequences that may run at once.
    pub max_num_seqs: usize,
    /// Tokens that a step may compute.
    pub max_num_batched_tokens: u32,
    /// Longest prompt and answer together, tokens.
    pub max_model_len: u32,
    /// Tokens a KV block.
    pub block_size: u32,
    /// KV blocks; one of them is vLLM's null block, which no sequence gets.
    pub num_gpu_blocks: usize,
    /// Whether prompts share blocks.
    pub prefix_caching: bool,
    /// Adapters that may run at once.
    pub max_loras: usize,
    /// How long steps take.
    pub latency: Latency,
}

/// How long work takes: what its cost model says, stretched by jitter and divided by `speed`.
#[derive(Clone, Debug)]
pub struct Latency {
    /// What is timed.
    pub cost: CostModel,
    /// Cost of a prompt token that is not cached.
    pub prefill_per_token: Duration,
    /// Largest random stretch, a share of the step; 0 is none.
    pub jitter: f64,
    /// Simulated seconds a second; 2 is twice as fast, 0 is instant.
    pub speed: f64,
}

/// What is timed: the steps of the whole batch, or each sequence.
#[derive(Clone, Debug)]
pub enum CostModel {
    /// A step takes `step + prefill_per_token * prompt tokens + decode_per_sequence * decoding sequences`, as in vLLM.
    Steps {
        /// Cost of any step.
        step: Duration,
        /// Cost of each sequence that decodes.
        decode_per_sequence: Duration,
    },
    /// The first token takes `prefill_overhead + prefill_per_token * prompt tokens`, each further one `inter_token`, times a factor that
    /// grows straight from 1 (one sequence runs) to `load_factor` (all slots do). Answers take no KV blocks. So does `llm-d-inference-sim`.
    Apart {
        /// Fixed part of the time to the first token.
        prefill_overhead: Duration,
        /// Time between two tokens of an answer.
        inter_token: Duration,
        /// How many times as long everything takes when all slots are taken.
        load_factor: f64,
    },
}

/// A prompt as the engine sees it.
#[derive(Clone, Debug, Default)]
pub struct Prompt {
    /// Length in tokens, at least 1.
    pub tokens: u32,
    /// Hashes of its full blocks, each covering everything before it.
    pub blocks: Vec<BlockHash>,
}

/// One request to the engine.
#[derive(Clone, Debug)]
pub struct GenerationRequest {
    /// What to compute.
    pub prompt: Prompt,
    /// Tokens to generate; 0 for pooling.
    pub output_tokens: u32,
    /// The `max_tokens` the client sent.
    pub max_tokens: Option<u32>,
    /// LoRA adapter, or the base model.
    pub adapter: Option<Arc<str>>,
    /// Why it will end when nobody aborts it.
    pub finish_reason: FinishReason,
    /// Whether every token is an event, or only the end.
    pub token_events: bool,
}

/// Something that happened inside the engine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// A token other than the last one.
    Token {
        /// Whose.
        id: SequenceId,
        /// Its place in the answer, from 0.
        index: u32,
    },
    /// The end of a request, with its last token.
    Finished {
        /// Whose.
        id: SequenceId,
        /// Tokens generated.
        generated: u32,
        /// Prompt tokens found in the prefix cache.
        cached_tokens: u32,
    },
}

/// Occupancy at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Occupancy {
    /// Sequences in the batch.
    pub running: usize,
    /// Requests in the queue, deferred ones among them.
    pub waiting: usize,
    /// Requests that a full set of LoRA slots holds back.
    pub deferred: usize,
    /// Share of the KV blocks in use, 0 to 1.
    pub kv_cache_usage: f64,
}

#[derive(Debug)]
struct Sequence {
    id: SequenceId,
    request: GenerationRequest,
    arrived: Duration,
    scheduled: Option<Duration>,
    first_token: Option<Duration>,
    last_token: Duration,
    /// Tokens whose keys and values are in the cache.
    computed: u32,
    /// Tokens that are being computed.
    batch: u32,
    /// When its next token comes, where sequences are timed apart.
    due: Duration,
    generated: u32,
    cached_tokens: u32,
    preemptions: u32,
    deferred: bool,
    holding: Holding,
}

impl Sequence {
    fn total(&self) -> u32 {
        self.request.prompt.tokens + self.generated
    }
}

/// A simulated vLLM engine.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    random: SmallRng,
    cache: KvCache,
    running: Vec<Sequence>,
    waiting: VecDeque<Sequence>,
    /// When the step under way ends, or the first token comes where sequences are timed apart.
    step_ends: Option<Duration>,
    /// Earliest start of the next step.
    ready_at: Duration,
    next_id: SequenceId,
    stats: EngineStats,
    /// Adapters with a request, in the order they came.
    adapters: Vec<(Arc<str>, usize)>,
    adapter_log: Vec<(String, Duration)>,
}

impl Engine {
    /// An idle engine.
    #[must_use]
    pub fn new(config: EngineConfig, seed: u64) -> Self {
        let cache = KvCache::new(config.num_gpu_blocks.saturating_sub(1), config.prefix_caching);
        let stats = EngineStats::new(config.max_model_len);
        Self {
            config,
            random: SmallRng::seed_from_u64(seed),
            cache,
            running: Vec::new(),
            waiting: VecDeque::new(),
            step_ends: None,
            ready_at: Duration::ZERO,
            next_id: 0,
            stats,
            adapters: Vec::new(),
            adapter_log: Vec::new(),
        }
    }

    /// Puts a request in the queue. It starts with the next step, so call [`Engine::advance`] afterwards.
    pub fn submit(&mut self, now: Duration, request: GenerationRequest) -> SequenceId {
        let id = self.next_id;
        self.next_id += 1;
        if let Some(adapter) = &request.adapter {
            match self.adapters.iter_mut().find(|(name, _)| name == adapter) {
                Some((_, requests)) => *requests += 1,
                None => self.adapters.push((adapter.clone(), 1)),
            }
        }
        if self.step_ends.is_none() {
            self.ready_at = self.ready_at.max(now);
        }
        self.waiting.push_back(Sequence {
            id,
            request,
            arrived: now,
            scheduled: None,
            first_token: None,
            last_token: now,
            computed: 0,
            batch: 0,
            due: now,
            generated: 0,
            cached_tokens: 0,
            preemptions: 0,
            deferred: false,
            holding: Holding::default(),
        });
        id
    }

    /// Drops a request wherever it is. Returns false when it is not here any more.
    pub fn abort(&mut self, now: Duration, id: SequenceId) -> bool {
        let running = self.running.iter().position(|sequence| sequence.id == id);
        let sequence = if let Some(place) = running {
            Some(self.running.remove(place))
        } else {
            let queued = self.waiting.iter().position(|sequence| sequence.id == id);
            queued.and_then(|place| self.waiting.remove(place))
        };
        let Some(mut sequence) = sequence else {
            return false;
        };
        self.cache.release(&mut sequence.holding);
        self.stats.finished_abort += 1;
        self.leave(&sequence);
        self.log_adapters(now);
        true
    }

    /// Lets time pass until `now`, running every step that ends by then, and appends what happened to `events`.
    pub fn advance(&mut self, now: Duration, events: &mut Vec<Event>) {
        if matches!(self.config.latency.cost, CostModel::Apart { .. }) {
            return self.advance_apart(now, events);
        }
        loop {
            match self.step_ends {
                Some(ends) if ends <= now => self.finish_step(ends, events),
                Some(_) => return,
                None => {
                    if self.ready_at > now || !self.start_step(self.ready_at) {
                        return;
                    }
                }
            }
        }
    }

    /// When [`Engine::advance`] is next worth calling; none while idle.
    #[must_use]
    pub fn next_event(&self) -> Option<Duration> {
        self.step_ends
    }

    /// Requests that are queued or running.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.running.len() + self.waiting.len()
    }

    /// The load now.
    #[must_use]
    pub fn load(&self) -> Occupancy {
        Occupancy {
            running: self.running.len(),
            waiting: self.waiting.len(),
            deferred: self.waiting.iter().filter(|one| one.deferred).count(),
            kv_cache_usage: self.cache.usage(),
        }
    }

    /// What has been counted so far.
    #[must_use]
    pub fn stats(&self) -> &EngineStats {
        &self.stats
    }

    /// Counts a step of one token that nobody asked for.
    pub(crate) fn pretend_step(&mut self) {
        self.stats.iteration_tokens.observe(1.0);
    }

    /// Every set of adapters that had requests, comma-separated, with the time it was last current. The empty set counts.
    #[must_use]
    pub fn adapter_log(&self) -> &[(String, Duration)] {
        &self.adapter_log
    }

    fn advance_apart(&mut self, now: Duration, events: &mut Vec<Event>) {
        loop {
            match self.running.iter().map(|sequence| sequence.due).min() {
                Some(due) if due <= now => {
                    self.emit_due(due, events);
                    self.begin_waiting(due);
                }
                _ if self.begin_waiting(now) => {}
                due => {
                    self.step_ends = due;
                    return;
                }
            }
        }
    }

    /// Begins those of the queue that have room. Returns whether there are any.
    fn begin_waiting(&mut self, at: Duration) -> bool {
        let before = self.running.len();
        let mut budget = u32::MAX;
        self.schedule_waiting(at, &mut budget);
        let CostModel::Apart { prefill_overhead, load_factor, .. } = self.config.latency.cost else { return false };
        for place in before..self.running.len() {
            let Some(tokens) = self.running.get(place).map(|sequence| sequence.batch) else { break };
            let plain = prefill_overhead + self.config.latency.prefill_per_token * tokens;
            let time = self.stretched(plain.mul_f64(self.factor(place + 1, load_factor)));
            if let Some(sequence) = self.running.get_mut(place) {
                sequence.due = at + time;
            }
        }
        self.running.len() > before
    }

    /// Every sequence whose token is due gets it.
    fn emit_due(&mut self, at: Duration, events: &mut Vec<Event>) {
        let CostModel::Apart { inter_token, load_factor, .. } = self.config.latency.cost else { return };
        let factor = self.factor(self.running.len(), load_factor);
        let mut finished = Vec::new();
        for mut sequence in std::mem::take(&mut self.running) {
            if sequence.due <= at {
                sequence.computed += std::mem::take(&mut sequence.batch);
                let tokens = Self::emit_token(&mut self.stats, &mut sequence, at, events);
                self.stats.iteration_tokens.observe(tokens as f64);
                if sequence.generated >= sequence.request.output_tokens {
                    finished.push(sequence);
                    continue;
                }
                sequence.due = at + self.stretched(inter_token.mul_f64(factor));
            }
            self.running.push(sequence);
        }
        self.finish(finished, at, events);
    }

    fn factor(&self, running: usize, load_factor: f64) -> f64 {
        let others = self.config.max_num_seqs.saturating_sub(1).max(1);
        1.0 + (load_factor - 1.0) * running.saturating_sub(1) as f64 / others as f64
    }

    fn start_step(&mut self, at: Duration) -> bool {
        let mut budget = self.config.max_num_batched_tokens;
        let preempted = self.schedule_running(&mut budget);
        if !preempted {
            self.schedule_waiting(at, &mut budget);
        }
        let mut prefill = 0;
        let mut decoding = 0;
        for sequence in &self.running {
            match sequence.batch {
                0 => {}
                1 if sequence.generated > 0 => decoding += 1,
                tokens => prefill += tokens,
            }
        }
        if prefill == 0 && decoding == 0 {
            return false;
        }
        self.step_ends = Some(at + self.step_time(prefill, decoding));
        true
    }

    fn schedule_running(&mut self, budget: &mut u32) -> bool {
        let mut preempted = false;
        let mut place = 0;
        while place < self.running.len() && *budget > 0 {
            let Some(sequence) = self.running.get_mut(place) else {
                break;
            };
            let tokens = (sequence.total() - sequence.computed).min(*budget);
            if Self::reserve(&mut self.cache, self.config.block_size, sequence, tokens) {
                *budget -= tokens;
                place += 1;
                continue;
            }
            let Some(mut victim) = self.running.pop() else {
                break;
            };
            preempted = true;
            self.cache.release(&mut victim.holding);
            victim.computed = 0;
            victim.batch = 0;
            victim.preemptions += 1;
            self.stats.preemptions += 1;
            self.waiting.push_front(victim);
        }
        preempted
    }

    fn schedule_waiting(&mut self, at: Duration, budget: &mut u32) {
        let mut skipped = VecDeque::new();
        while self.running.len() < self.config.max_num_seqs && *budget > 0 {
            let Some(mut sequence) = self.waiting.pop_front() else {
                break;
            };
            sequence.deferred = self.lacks_lora_slot(&sequence);
            if sequence.deferred {
                skipped.push_back(sequence);
                continue;
            }
            let hit = self.hold_prefix(&mut sequence);
            let tokens = (sequence.total() - hit).min(*budget);
            sequence.computed = hit;
            if !Self::reserve(&mut self.cache, self.config.block_size, &mut sequence, tokens) {
                self.cache.release(&mut sequence.holding);
                sequence.computed = 0;
                self.waiting.push_front(sequence);
                break;
            }
            *budget -= tokens;
            if sequence.scheduled.is_none() {
                sequence.scheduled = Some(at);
                sequence.cached_tokens = hit;
                self.stats.prefix_cache_queries += u64::from(sequence.request.prompt.tokens);
                self.stats.prefix_cache_hits += u64::from(hit);
            }
            self.running.push(sequence);
        }
        while let Some(sequence) = skipped.pop_back() {
            self.waiting.push_front(sequence);
        }
    }

    /// A hit never covers the whole prompt: its last token has to be computed to get the first output token.
    fn hold_prefix(&mut self, sequence: &mut Sequence) -> u32 {
        let prompt = &sequence.request.prompt;
        let most = (prompt.tokens.saturating_sub(1) / self.config.block_size) as usize;
        let findable = prompt.blocks.get(..most).unwrap_or(&prompt.blocks);
        sequence.holding = self.cache.hold_prefix(findable);
        sequence.holding.len() as u32 * self.config.block_size
    }

    fn reserve(cache: &mut KvCache, block_size: u32, sequence: &mut Sequence, tokens: u32) -> bool {
        let end = sequence.computed + tokens;
        let prompt = &sequence.request.prompt;
        let full = prompt.blocks.get(..(end / block_size) as usize).unwrap_or(&prompt.blocks);
        let blocks = end.div_ceil(block_size) as usize;
        let granted = cache.grow(&mut sequence.holding, blocks, full);
        if granted {
            sequence.batch = tokens;
        }
        granted
    }

    fn lacks_lora_slot(&self, sequence: &Sequence) -> bool {
        let Some(adapter) = &sequence.request.adapter else {
            return false;
        };
        let mut loaded: Vec<&Arc<str>> = Vec::new();
        for name in self.running.iter().filter_map(|one| one.request.adapter.as_ref()) {
            if !loaded.contains(&name) {
                loaded.push(name);
            }
        }
        !loaded.contains(&adapter) && loaded.len() >= self.config.max_loras
    }

    fn step_time(&mut self, prefill: u32, decoding: u32) -> Duration {
        let Latency { cost: CostModel::Steps { step, decode_per_sequence }, prefill_per_token, .. } =
            self.config.latency
        else {
            return Duration::ZERO;
        };
        self.stretched(step + prefill_per_token * prefill + decode_per_sequence * decoding)
    }

    fn stretched(&mut self, plain: Duration) -> Duration {
        let latency = &self.config.latency;
        if latency.speed <= 0.0 {
            return Duration::ZERO;
        }
        let stretch = 1.0 + latency.jitter.max(0.0) * self.random.random::<f64>();
        plain.mul_f64(stretch / latency.speed)
    }

    fn finish_step(&mut self, at: Duration, events: &mut Vec<Event>) {
        self.step_ends = None;
        self.ready_at = at;
        let mut iteration = 0_u64;
        let mut finished = Vec::new();
        for mut sequence in std::mem::take(&mut self.running) {
            let scheduled = sequence.batch > 0;
            sequence.computed += sequence.batch;
            sequence.batch = 0;
            if scheduled && sequence.computed >= sequence.total() {
                iteration += Self::emit_token(&mut self.stats, &mut sequence, at, events);
                if sequence.generated >= sequence.request.output_tokens {
                    finished.push(sequence);
                    continue;
                }
            }
            self.running.push(sequence);
        }
        if iteration > 0 {
            self.stats.iteration_tokens.observe(iteration as f64);
        }
        self.finish(finished, at, events);
    }

    fn finish(&mut self, finished: Vec<Sequence>, at: Duration, events: &mut Vec<Event>) {
        // The set that ran is logged before anyone leaves it, or a short request would never show.
        self.log_adapters(at);
        for mut sequence in finished {
            self.cache.release(&mut sequence.holding);
            self.record(&sequence, at);
            self.leave(&sequence);
            events.push(Event::Finished {
                id: sequence.id,
                generated: sequence.generated,
                cached_tokens: sequence.cached_tokens,
            });
        }
        self.log_adapters(at);
    }

    fn emit_token(stats: &mut EngineStats, sequence: &mut Sequence, at: Duration, events: &mut Vec<Event>) -> u64 {
        let mut tokens = 0;
        if sequence.first_token.is_none() {
            sequence.first_token = Some(at);
            tokens += u64::from(sequence.request.prompt.tokens);
            stats.prompt_tokens += u64::from(sequence.request.prompt.tokens);
            stats.prompt_tokens_cached += u64::from(sequence.cached_tokens);
            stats.time_to_first_token.observe((at - sequence.arrived).as_secs_f64());
        } else {
            stats.inter_token_latency.observe((at - sequence.last_token).as_secs_f64());
        }
        sequence.last_token = at;
        if sequence.request.output_tokens == 0 {
            return tokens;
        }
        if sequence.request.token_events && sequence.generated + 1 < sequence.request.output_tokens {
            events.push(Event::Token { id: sequence.id, index: sequence.generated });
        }
        sequence.generated += 1;
        stats.generation_tokens += 1;
        tokens + 1
    }

    fn record(&mut self, sequence: &Sequence, at: Duration) {
        let scheduled = sequence.scheduled.unwrap_or(at);
        let first = sequence.first_token.unwrap_or(at);
        let decode = (sequence.last_token - first).as_secs_f64();
        let later_tokens = f64::from(sequence.generated.saturating_sub(1).max(1));
        let stats = &mut self.stats;
        match sequence.request.finish_reason {
            FinishReason::Stop => stats.finished_stop += 1,
            FinishReason::Length => stats.finished_length += 1,
            FinishReason::Abort => stats.finished_abort += 1,
        }
        let prompt = f64::from(sequence.request.prompt.tokens);
        let generated = f64::from(sequence.generated);
        stats.request_prompt_tokens.observe(prompt);
        stats.request_generation_tokens.observe(generated);
        stats.request_max_num_generation_tokens.observe(generated);
        stats.request_params_n.observe(1.0);
        if let Some(max_tokens) = sequence.request.max_tokens {
            stats.request_params_max_tokens.observe(f64::from(max_tokens));
        }
        stats.request_time_per_output_token.observe(decode / later_tokens);
        stats.e2e_request_latency.observe((at - sequence.arrived).as_secs_f64());
        stats.request_queue_time.observe((scheduled - sequence.arrived).as_secs_f64());
        stats.request_inference_time.observe((sequence.last_token - scheduled).as_secs_f64());
        stats.request_prefill_time.observe((first - scheduled).as_secs_f64());
        stats.request_decode_time.observe(decode);
        stats.request_num_preemptions.observe(f64::from(sequence.preemptions));
        stats.request_prefill_kv_computed_tokens.observe(prompt - f64::from(sequence.cached_tokens));
    }

    fn leave(&mut self, sequence: &Sequence) {
        let Some(adapter) = &sequence.request.adapter else {
            return;
        };
        if let Some((_, requests)) = self.adapters.iter_mut().find(|(name, _)| name == adapter) {
            *requests -= 1;
        }
        self.adapters.retain(|(_, requests)| *requests > 0);
    }

    fn log_adapters(&mut self, at: Duration) {
        if self.config.max_loras == 0 {
            return;
        }
        let mut names = String::new();
        for (name, _) in &self.adapters {
            if !names.is_empty() {
                names.push(',');
            }
            names.push_str(name);
        }
        // Two sets within one instant stay apart: the newest has the largest time.
        let newest = self.adapter_log.iter().map(|(_, time)| *time).max();
        let at = newest.map_or(at, |newest| at.max(newest + LOG_STEP));
        match self.adapter_log.iter_mut().find(|(known, _)| *known == names) {
            Some((_, time)) => *time = at,
            None => self.adapter_log.push((names, at)),
        }
    }
}

#[cfg(test)]
mod tests;
