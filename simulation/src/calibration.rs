//! What an engine is and how long its work takes.

/// One kind of engine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calibration {
    pub(crate) name: &'static str,
    /// Sequences that run at once.
    pub(crate) max_num_seqs: usize,
    pub(crate) num_gpu_blocks: usize,
    /// The answer takes blocks too, and the next turn finds it in the cache.
    pub(crate) keeps_output: bool,
    pub(crate) timing: Timing,
    /// Adapters in the batch at once.
    pub(crate) max_lora: usize,
    pub(crate) lora_load_micros: u64,
}

/// How long work takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Timing {
    /// Each sequence for itself: a fixed time and one for each uncached token, then one for each further token of the answer; all of them
    /// times a factor that grows straight from 1 (one sequence runs) to `max_factor` (all slots do).
    Apart { first_micros: f64, uncached_token_micros: f64, output_token_micros: f64, max_factor: f64 },
    /// All together, iteration by iteration, prompts in chunks: each takes a fixed time, one for each prompt token in it, and one for
    /// each sequence that decodes.
    Together { iteration_micros: f64, prefill_token_micros: f64, decode_sequence_micros: f64, token_budget: u32 },
}

impl Calibration {
    /// `llm-d-inference-sim` with 8 slots, 1 024 blocks, 20 ms and 200 us an uncached token, 10 ms a token out, and a load factor of 2.
    pub(crate) const INFERENCE_SIM: Self = Self {
        name: "inference-sim",
        max_num_seqs: 8,
        num_gpu_blocks: 1_024,
        keeps_output: false,
        timing: Timing::Apart {
            first_micros: 20_000.0,
            uncached_token_micros: 200.0,
            output_token_micros: 10_000.0,
            max_factor: 2.0,
        },
        max_lora: 4,
        lora_load_micros: 200_000,
    };

    /// Llama 3.1 8B on one A100 (80 GB) under vLLM 0.8.4: the step times (16 442 us + 47.8 us an uncached prompt token + 18.2 us a decoded
    /// one) and the number of blocks that `inference-sim` was trained to:
    /// <https://github.com/inference-sim/inference-sim/blob/main/defaults.yaml>, entries `meta-llama/llama-3.1-8b-instruct`, tensor
    /// parallelism 1. The regression has no term for the length of contexts. Sequences and tokens in a batch are vLLM's defaults for a
    /// server: 256, and 2 048 (<https://docs.vllm.ai/en/v0.8.4/performance/optimization.html>).
    pub(crate) const A100: Self = Self {
        name: "a100",
        max_num_seqs: 256,
        num_gpu_blocks: 29_205,
        keeps_output: true,
        timing: Timing::Together {
            iteration_micros: 16_441.5,
            prefill_token_micros: 47.84,
            decode_sequence_micros: 18.21,
            token_budget: 2_048,
        },
        max_lora: 4,
        lora_load_micros: 200_000,
    };

    /// The same on one H100: 5 753 us + 17.3 us + 6.0 us.
    pub(crate) const H100: Self = Self {
        name: "h100",
        timing: Timing::Together {
            iteration_micros: 5_752.7,
            prefill_token_micros: 17.25,
            decode_sequence_micros: 6.0,
            token_budget: 2_048,
        },
        ..Self::A100
    };

    /// The names that [`Self::named`] knows.
    pub(crate) const NAMES: [&'static str; 3] = ["inference-sim", "a100", "h100"];

    /// The calibration of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::INFERENCE_SIM, Self::A100, Self::H100].into_iter().find(|calibration| calibration.name == name)
    }
}
