//! What one engine has counted: the figures behind its `vllm:` series.

use crate::histogram::Histogram;

const ITERATION_TOKENS: &[f64] =
    &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];
const PARAM_N: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];
const FIRST_TOKEN_SECONDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];
const TOKEN_SECONDS: &[f64] =
    &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0];
const REQUEST_SECONDS: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
];
const PREEMPTIONS: &[f64] = &[1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0];

/// Why a request ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FinishReason {
    /// The model would have ended by itself.
    Stop,
    /// `max_tokens` reached.
    Length,
    /// The client left or the server gave up.
    Abort,
}

/// Counters and histograms of one engine since its start. Times in seconds.
#[derive(Clone, Debug)]
pub struct EngineStats {
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_cache_queries: u64,
    /// Prompt tokens found in the prefix cache.
    pub prefix_cache_hits: u64,
    /// Running sequences thrown back into the queue for want of KV blocks.
    pub preemptions: u64,
    /// Prompt tokens of requests whose prefill is complete.
    pub prompt_tokens: u64,
    /// Of those, the ones taken from the prefix cache.
    pub prompt_tokens_cached: u64,
    /// Tokens generated.
    pub generation_tokens: u64,
    /// Requests finished by `stop`.
    pub finished_stop: u64,
    /// Requests finished by `length`.
    pub finished_length: u64,
    /// Requests aborted.
    pub finished_abort: u64,
    /// Prompt tokens a finished request.
    pub request_prompt_tokens: Histogram,
    /// Generated tokens a finished request.
    pub request_generation_tokens: Histogram,
    /// Tokens an engine step.
    pub iteration_tokens: Histogram,
    /// Most tokens that a sequence of the request generated.
    pub request_max_num_generation_tokens: Histogram,
    /// The request parameter `n`.
    pub request_params_n: Histogram,
    /// The request parameter `max_tokens`.
    pub request_params_max_tokens: Histogram,
    /// Arrival to first token.
    pub time_to_first_token: Histogram,
    /// Token to token.
    pub inter_token_latency: Histogram,
    /// Mean time a token after the first, a request.
    pub request_time_per_output_token: Histogram,
    /// Arrival to end.
    pub e2e_request_latency: Histogram,
    /// Arrival to first scheduling.
    pub request_queue_time: Histogram,
    /// First scheduling to last token.
    pub request_inference_time: Histogram,
    /// First scheduling to first token.
    pub request_prefill_time: Histogram,
    /// First token to last token.
    pub request_decode_time: Histogram,
    /// Preemptions a request.
    pub request_num_preemptions: Histogram,
    /// Prompt tokens computed, that is not cached, a request.
    pub request_prefill_kv_computed_tokens: Histogram,
}

impl EngineStats {
    /// All zero. Token histograms reach up to `max_model_len`.
    #[must_use]
    pub fn new(max_model_len: u32) -> Self {
        let tokens = token_bounds(max_model_len);
        Self {
            prefix_cache_queries: 0,
            prefix_cache_hits: 0,
            preemptions: 0,
            prompt_tokens: 0,
            prompt_tokens_cached: 0,
            generation_tokens: 0,
            finished_stop: 0,
            finished_length: 0,
            finished_abort: 0,
            request_prompt_tokens: Histogram::new(&tokens),
            request_generation_tokens: Histogram::new(&tokens),
            iteration_tokens: Histogram::new(ITERATION_TOKENS),
            request_max_num_generation_tokens: Histogram::new(&tokens),
            request_params_n: Histogram::new(PARAM_N),
            request_params_max_tokens: Histogram::new(&tokens),
            time_to_first_token: Histogram::new(FIRST_TOKEN_SECONDS),
            inter_token_latency: Histogram::new(TOKEN_SECONDS),
            request_time_per_output_token: Histogram::new(TOKEN_SECONDS),
            e2e_request_latency: Histogram::new(REQUEST_SECONDS),
            request_queue_time: Histogram::new(REQUEST_SECONDS),
            request_inference_time: Histogram::new(REQUEST_SECONDS),
            request_prefill_time: Histogram::new(REQUEST_SECONDS),
            request_decode_time: Histogram::new(REQUEST_SECONDS),
            request_num_preemptions: Histogram::new(PREEMPTIONS),
            request_prefill_kv_computed_tokens: Histogram::new(&tokens),
        }
    }
}

/// vLLM's ladder 1, 2, 5, 10, 20, 50, ... as far as `max_model_len`.
fn token_bounds(max_model_len: u32) -> Vec<f64> {
    let mut bounds = Vec::new();
    let mut decade = 1_u64;
    while decade <= u64::from(max_model_len) {
        for step in [1, 2, 5] {
            if decade * step <= u64::from(max_model_len) {
                bounds.push((decade * step) as f64);
            }
        }
        decade *= 10;
    }
    bounds
}
