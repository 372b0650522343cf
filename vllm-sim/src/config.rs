//! Settings of a pod, as command-line flags and as a value.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::engine::{CostModel, EngineConfig, Latency};
use crate::fault::FaultSpec;

/// The model that llm-d and the gateway project use in their examples.
const MODEL: &str = "meta-llama/Llama-3.1-8B-Instruct";
/// vLLM's port.
const PORT: u16 = 8000;
/// As large as prompts in tests need, and small enough for a quick KV budget.
const MAX_MODEL_LEN: u32 = 8192;
/// vLLM's default for a mid-size GPU.
const MAX_NUM_SEQS: usize = 256;
/// vLLM's default token budget for online serving.
const MAX_NUM_BATCHED_TOKENS: u32 = 8192;
/// vLLM's default block on GPUs.
pub(crate) const BLOCK_SIZE: u32 = 16;
/// 131,072 tokens: sixteen full contexts.
const NUM_GPU_BLOCKS: usize = 8192;
/// OpenAI's default for completions.
const DEFAULT_OUTPUT_TOKENS: u32 = 16;
/// One decoding step of an 8B model on a data-centre GPU takes about this long.
const STEP_MS: f64 = 8.0;
/// About 15,000 prompt tokens a second.
const PREFILL_US: f64 = 65.0;
/// Growth of a step with each further sequence.
const DECODE_US: f64 = 100.0;
/// Steps vary by this share.
const JITTER: f64 = 0.05;
/// Where sequences are timed apart: fixed part of the time to the first token, time of each further one, and their growth under load.
const PREFILL_OVERHEAD_MS: f64 = 20.0;
const INTER_TOKEN_LATENCY_MS: f64 = 10.0;
const TIME_FACTOR_UNDER_LOAD: f64 = 1.0;
/// Embedding width of the recorded server.
const EMBEDDING_SIZE: usize = 64;

/// vLLM's VLLM_HTTP_TIMEOUT_KEEP_ALIVE.
const KEEP_ALIVE_SECONDS: f64 = 5.0;

/// Which kind of model the pod serves.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Runner {
    /// Completions, chat, responses and messages; pooling paths answer 404, as in vLLM.
    Generate,
    /// Embeddings, pooling, score and rerank; generating paths answer 404, as in vLLM.
    Pooling,
    /// All paths. Real vLLM cannot do this.
    Any,
}

/// What takes time in the engine.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum TimingModel {
    /// Steps of the whole batch, as in vLLM: --step-ms, --prefill-us, --decode-us.
    Steps,
    /// Each sequence, as in llm-d-inference-sim: --prefill-overhead-ms, --prefill-us, --inter-token-latency-ms, all times
    /// --time-factor-under-load. Answers take no KV blocks.
    Apart,
}

/// Generation of metric names on `/metrics`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum MetricsDialect {
    /// vLLM 0.12 and later.
    Current,
    /// Before: `vllm:gpu_cache_usage_perc` and `vllm:gpu_prefix_cache_*`, and none of the later families.
    Legacy,
}

/// A simulated vLLM model server. Flags that vLLM has keep its names. Of a flag that is given twice, the last counts.
///
/// Prints `listening on http://HOST:PORT` when ready. Behaviour real vLLM lacks is under /sim: POST /sim/fault and DELETE /sim/fault,
/// POST /sim/load, GET /sim/state, GET /sim/last-request, GET /sim/last-request/body. A fault is JSON: {"kind":"reset","after_events":3},
/// {"kind":"status","status":503,"count":2,"target":"metrics"}, {"kind":"redirect","target":"metrics"}, {"kind":"freeze"}, {"kind":"refuse","duration_ms":500}.
#[derive(Clone, Debug, Parser)]
#[command(name = "vllm-sim", version, args_override_self = true)]
pub struct Config {
    /// Address to listen on.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = PORT)]
    pub port: u16,
    /// Model path; also its name unless --served-model-name is given.
    #[arg(long, default_value = MODEL)]
    pub model: String,
    /// Names the model is served under, comma-separated; the first one labels the metrics.
    #[arg(long, value_delimiter = ',')]
    pub served_model_name: Vec<String>,
    /// Value of the x-inference-pod response header; HOST:PORT when absent.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: Option<String>,
    /// Seed of ids, answers, jitter and fault probabilities.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Simulated seconds a second: 2 is twice as fast, 0 is instant.
    #[arg(long, default_value_t = 1.0)]
    pub speed: f64,
    /// Tokens answered when the request sets no limit; such answers end with "stop".
    #[arg(long, default_value_t = DEFAULT_OUTPUT_TOKENS)]
    pub default_output_tokens: u32,
    /// Longest prompt and answer, tokens; 8192 or what the KV cache holds when absent.
    #[arg(long)]
    pub max_model_len: Option<u32>,
    /// Sequences that run at once, each engine.
    #[arg(long, default_value_t = MAX_NUM_SEQS)]
    pub max_num_seqs: usize,
    /// Tokens computed in a step.
    #[arg(long, default_value_t = MAX_NUM_BATCHED_TOKENS)]
    pub max_num_batched_tokens: u32,
    /// Requests in flight, running ones included, above which new ones get 503.
    #[arg(long)]
    pub max_num_queued_reqs: Option<usize>,
    /// Tokens a KV block.
    #[arg(long, default_value_t = BLOCK_SIZE)]
    pub block_size: u32,
    /// KV blocks, each engine.
    #[arg(long, alias = "num-gpu-blocks-override", default_value_t = NUM_GPU_BLOCKS)]
    pub num_gpu_blocks: usize,
    /// Turns the prefix cache off.
    #[arg(long)]
    pub no_enable_prefix_caching: bool,
    /// Adapters that run at once; 0 turns LoRA off.
    #[arg(long, default_value_t = 0)]
    pub max_loras: usize,
    /// Adapters known from the start, comma-separated. Implies --max-loras 1 when that is 0.
    #[arg(long, value_delimiter = ',')]
    pub lora_modules: Vec<String>,
    /// Serves /v1/load_lora_adapter and /v1/unload_lora_adapter, as VLLM_ALLOW_RUNTIME_LORA_UPDATING does.
    #[arg(long)]
    pub allow_runtime_lora_updating: bool,
    /// What takes time.
    #[arg(long, value_enum, default_value_t = TimingModel::Steps)]
    pub timing_model: TimingModel,
    /// Timed apart: fixed part of the time to the first token, milliseconds.
    #[arg(long, default_value_t = PREFILL_OVERHEAD_MS)]
    pub prefill_overhead_ms: f64,
    /// Timed apart: time between two tokens of an answer, milliseconds.
    #[arg(long, default_value_t = INTER_TOKEN_LATENCY_MS)]
    pub inter_token_latency_ms: f64,
    /// Timed apart: how many times as long everything takes when all slots are taken, 1 or more.
    #[arg(long, default_value_t = TIME_FACTOR_UNDER_LOAD)]
    pub time_factor_under_load: f64,
    /// Fixed cost of a step, milliseconds.
    #[arg(long, default_value_t = STEP_MS)]
    pub step_ms: f64,
    /// Cost of a prompt token that is not cached, microseconds.
    #[arg(long, default_value_t = PREFILL_US)]
    pub prefill_us: f64,
    /// Cost of a decoding sequence in a step, microseconds.
    #[arg(long, default_value_t = DECODE_US)]
    pub decode_us: f64,
    /// Largest random stretch of a step, as a share of it.
    #[arg(long, default_value_t = JITTER)]
    pub jitter: f64,
    /// Data-parallel engines behind this server.
    #[arg(long, alias = "data-parallel-size", default_value_t = 1)]
    pub engines: usize,
    /// Which paths are served.
    #[arg(long, value_enum, default_value_t = Runner::Generate)]
    pub runner: Runner,
    /// Length of embeddings.
    #[arg(long, default_value_t = EMBEDDING_SIZE)]
    pub embedding_size: usize,
    /// Reports cached tokens in `usage.prompt_tokens_details`.
    #[arg(long)]
    pub enable_prompt_tokens_details: bool,
    /// Counts requests in flight for GET /load.
    #[arg(long)]
    pub enable_server_load_tracking: bool,
    /// Sends x-request-id with every response.
    #[arg(long)]
    pub enable_request_id_headers: bool,
    /// Leaves every vllm: series out of /metrics.
    #[arg(long)]
    pub disable_log_stats: bool,
    /// Names used on /metrics.
    #[arg(long, value_enum, default_value_t = MetricsDialect::Current)]
    pub metrics_dialect: MetricsDialect,
    /// Seconds that requests in flight get to finish after SIGTERM; 0 cuts them off.
    #[arg(long, default_value_t = 0)]
    pub shutdown_timeout: u64,
    /// Seconds after which an idle connection is closed, as uvicorn does.
    #[arg(long, default_value_t = KEEP_ALIVE_SECONDS)]
    pub timeout_keep_alive: f64,
    /// A fault from the start, as JSON or as `kind=reset,after_events=3`; may be repeated.
    #[arg(long = "fault", value_parser = FaultSpec::parse)]
    pub faults: Vec<FaultSpec>,
    /// Second port that serves only /sim, for when the first one refuses connections; 0 takes a free one.
    #[arg(long)]
    pub admin_port: Option<u16>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            model: MODEL.to_owned(),
            served_model_name: Vec::new(),
            pod_name: None,
            seed: 0,
            speed: 0.0,
            default_output_tokens: DEFAULT_OUTPUT_TOKENS,
            max_model_len: None,
            max_num_seqs: MAX_NUM_SEQS,
            max_num_batched_tokens: MAX_NUM_BATCHED_TOKENS,
            max_num_queued_reqs: None,
            block_size: BLOCK_SIZE,
            num_gpu_blocks: NUM_GPU_BLOCKS,
            no_enable_prefix_caching: false,
            max_loras: 0,
            lora_modules: Vec::new(),
            allow_runtime_lora_updating: false,
            timing_model: TimingModel::Steps,
            prefill_overhead_ms: PREFILL_OVERHEAD_MS,
            inter_token_latency_ms: INTER_TOKEN_LATENCY_MS,
            time_factor_under_load: TIME_FACTOR_UNDER_LOAD,
            step_ms: STEP_MS,
            prefill_us: PREFILL_US,
            decode_us: DECODE_US,
            jitter: JITTER,
            engines: 1,
            runner: Runner::Generate,
            embedding_size: EMBEDDING_SIZE,
            enable_prompt_tokens_details: false,
            enable_server_load_tracking: false,
            enable_request_id_headers: false,
            disable_log_stats: false,
            metrics_dialect: MetricsDialect::Current,
            shutdown_timeout: 0,
            timeout_keep_alive: KEEP_ALIVE_SECONDS,
            faults: Vec::new(),
            admin_port: None,
        }
    }
}

/// A setting that cannot work.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A number that must be positive is zero or not a number.
    #[error("--{0} must be greater than zero")]
    NotPositive(&'static str),
    /// A number that must not be negative is.
    #[error("--{0} must be zero or more")]
    Negative(&'static str),
    /// A factor of growth is below 1.
    #[error("--{0} must be 1 or more")]
    BelowOne(&'static str),
    /// A full context does not fit the KV cache; vLLM refuses to start then, too.
    #[error("--max-model-len {max_model_len} needs more than the {capacity} tokens of the KV cache")]
    ContextTooLong {
        /// The length asked for, tokens.
        max_model_len: u32,
        /// What sequences can use, tokens.
        capacity: u64,
    },
}

impl Config {
    /// Address to bind.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }

    /// Names of the base model, never empty.
    #[must_use]
    pub fn base_names(&self) -> Vec<String> {
        if self.served_model_name.is_empty() { vec![self.model.clone()] } else { self.served_model_name.clone() }
    }

    /// Adapters that run at once.
    #[must_use]
    pub fn lora_slots(&self) -> usize {
        let known = !self.lora_modules.is_empty() || self.allow_runtime_lora_updating;
        self.max_loras.max(usize::from(known))
    }

    /// Longest prompt and answer, tokens.
    #[must_use]
    pub fn context(&self) -> u32 {
        let capacity = u32::try_from(self.kv_tokens()).unwrap_or(u32::MAX);
        self.max_model_len.unwrap_or(MAX_MODEL_LEN.min(capacity))
    }

    /// Settings of one engine.
    ///
    /// # Errors
    /// A number out of range, or a context that the KV cache cannot hold.
    pub fn engine(&self) -> Result<EngineConfig, ConfigError> {
        let positive = [
            ("max-num-seqs", self.max_num_seqs),
            ("max-num-batched-tokens", self.max_num_batched_tokens as usize),
            ("block-size", self.block_size as usize),
            ("num-gpu-blocks", self.num_gpu_blocks.saturating_sub(1)),
            ("engines", self.engines),
            ("max-model-len", self.context() as usize),
            ("default-output-tokens", self.default_output_tokens as usize),
        ];
        for (name, value) in positive {
            if value == 0 {
                return Err(ConfigError::NotPositive(name));
            }
        }
        let times = [
            ("step-ms", self.step_ms),
            ("prefill-us", self.prefill_us),
            ("decode-us", self.decode_us),
            ("jitter", self.jitter),
            ("speed", self.speed),
            ("timeout-keep-alive", self.timeout_keep_alive),
            ("prefill-overhead-ms", self.prefill_overhead_ms),
            ("inter-token-latency-ms", self.inter_token_latency_ms),
            ("time-factor-under-load", self.time_factor_under_load),
        ];
        for (name, value) in times {
            if !value.is_finite() || value < 0.0 {
                return Err(ConfigError::Negative(name));
            }
        }
        if self.time_factor_under_load < 1.0 {
            return Err(ConfigError::BelowOne("time-factor-under-load"));
        }
        if u64::from(self.context()) > self.kv_tokens() {
            return Err(ConfigError::ContextTooLong { max_model_len: self.context(), capacity: self.kv_tokens() });
        }
        Ok(EngineConfig {
            max_num_seqs: self.max_num_seqs,
            max_num_batched_tokens: self.max_num_batched_tokens,
            max_model_len: self.context(),
            block_size: self.block_size,
            num_gpu_blocks: self.num_gpu_blocks,
            prefix_caching: !self.no_enable_prefix_caching,
            max_loras: self.lora_slots(),
            latency: Latency {
                cost: self.cost(),
                prefill_per_token: Duration::from_secs_f64(self.prefill_us / 1e6),
                jitter: self.jitter,
                speed: self.speed,
            },
        })
    }

    fn cost(&self) -> CostModel {
        let millis = |millis: f64| Duration::from_secs_f64(millis / 1e3);
        match self.timing_model {
            TimingModel::Steps => {
                CostModel::Steps { step: millis(self.step_ms), decode_per_sequence: millis(self.decode_us / 1e3) }
            }
            TimingModel::Apart => CostModel::Apart {
                prefill_overhead: millis(self.prefill_overhead_ms),
                inter_token: millis(self.inter_token_latency_ms),
                load_factor: self.time_factor_under_load,
            },
        }
    }

    fn kv_tokens(&self) -> u64 {
        self.num_gpu_blocks.saturating_sub(1) as u64 * u64::from(self.block_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_value_have_the_same_defaults_but_port_and_speed() {
        let flags = Config::parse_from(["vllm-sim", "--port", "0", "--speed", "0"]);
        let mut value = Config::default();
        value.pod_name.clone_from(&flags.pod_name);
        assert_eq!(format!("{flags:?}"), format!("{value:?}"));
    }

    #[test]
    fn context_shrinks_to_a_small_kv_cache() {
        let config = Config { num_gpu_blocks: 9, block_size: 16, ..Config::default() };
        assert_eq!(config.context(), 128);
        assert!(config.engine().is_ok());
    }

    #[test]
    fn growth_under_load_is_growth() {
        let config = Config { time_factor_under_load: 0.9, ..Config::default() };
        assert_eq!(config.engine().unwrap_err().to_string(), "--time-factor-under-load must be 1 or more");
    }

    #[test]
    fn context_beyond_the_kv_cache_is_refused() {
        let config = Config { num_gpu_blocks: 9, block_size: 16, max_model_len: Some(129), ..Config::default() };
        assert!(matches!(config.engine(), Err(ConfigError::ContextTooLong { capacity: 128, .. })));
    }
}
