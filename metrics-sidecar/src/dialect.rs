//! How each engine names its signals, in one table. Pure.
//!
//! Sources, looked up in November 2026:
//! - vLLM 0.6 to 0.33: recorded pages, `vllm/v1/metrics/loggers.py`, `vllm/engine/metrics.py` of the first generation;
//! - SGLang 0.5: `python/sglang/srt/observability/metrics_collector.py`, <https://docs.sglang.io/references/production_metrics.html>;
//! - trtllm-serve: `tensorrt_llm/metrics/collector.py`;
//! - Triton: <https://github.com/triton-inference-server/server/blob/main/docs/user_guide/metrics.md>, and with the TensorRT-LLM backend
//!   <https://github.com/triton-inference-server/tensorrtllm_backend#triton-metrics>;
//! - llama.cpp server: `server_task_result_metrics::to_metrics` in `tools/server/server-task.cpp`;
//! - TGI: <https://huggingface.co/docs/text-generation-inference/reference/metrics>.

use std::time::Duration;

/// Counters of a dialect that are followed.
pub const COUNTERS: usize = 5;

/// An engine that a metrics page can be of.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Engine {
    /// vLLM, and simulators of it.
    Vllm,
    /// SGLang.
    Sglang,
    /// TensorRT-LLM's own server.
    TrtllmServe,
    /// Triton with the TensorRT-LLM backend.
    TritonTensorrtLlm,
    /// Triton with other backends.
    Triton,
    /// The server of llama.cpp.
    LlamaCpp,
    /// Hugging Face's text-generation-inference.
    Tgi,
}

impl Engine {
    /// Every engine, in the order of the table.
    pub const ALL: [Self; 7] =
        [Self::Vllm, Self::Sglang, Self::TrtllmServe, Self::TritonTensorrtLlm, Self::Triton, Self::LlamaCpp, Self::Tgi];

    /// Its name in flags and labels; the first five are those of the reference endpoint picker.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.dialect().name
    }

    /// Where it serves its page, if that is not `/metrics`.
    #[must_use]
    pub const fn page_path(self) -> Option<&'static str> {
        self.dialect().page_path
    }

    /// How long all its counters may stand still while it has requests before it counts as frozen; `None`: they cannot tell.
    #[must_use]
    pub const fn frozen_after(self) -> Option<Duration> {
        self.dialect().frozen_after
    }

    const fn dialect(self) -> &'static Dialect {
        match self {
            Self::Vllm => &VLLM,
            Self::Sglang => &SGLANG,
            Self::TrtllmServe => &TRTLLM_SERVE,
            Self::TritonTensorrtLlm => &TRITON_TENSORRT_LLM,
            Self::Triton => &TRITON,
            Self::LlamaCpp => &LLAMA_CPP,
            Self::Tgi => &TGI,
        }
    }
}

impl std::str::FromStr for Engine {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|engine| engine.as_str() == text).ok_or(())
    }
}

/// What a family of metrics says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    /// Requests in the queue.
    Waiting,
    /// Requests in the batch.
    Running,
    /// Used part of the KV cache, 0 to 1.
    Usage,
    /// The older name of [`Role::Usage`], which counts only without the newer.
    OldUsage,
    /// Used blocks of the KV cache, from which a page without [`Role::Usage`] gets it.
    UsedBlocks,
    /// Tokens in a KV block.
    BlockSize,
    /// KV blocks.
    Blocks,
    /// Both, as values of these labels.
    Config { block_size: &'static [u8], blocks: &'static [u8] },
    /// Adapters in use, as vLLM lists them.
    Lora,
    /// Whether the engine sleeps, as vLLM says it.
    Sleep,
    /// A count that moves with every few tokens of any request, and that only a new process sets back.
    Steps(usize),
    /// A count that may stand still while requests run, and that only a new process sets back.
    Ends(usize),
    /// What the value of a label says.
    ByLabel(&'static [u8], &'static [(&'static [u8], Self)]),
}

struct Dialect {
    name: &'static str,
    prefix: &'static [u8],
    /// Names behind the prefix.
    families: &'static [(&'static [u8], Role)],
    page_path: Option<&'static str>,
    frozen_after: Option<Duration>,
}

/// For engines that count every step. A step is the longest time without a sign of life: a prefill in chunks moves no token counter of
/// vLLM until its last chunk, but it takes KV blocks with each, and that counts as a sign too. A chunk has 2048 to 16384 tokens, which
/// takes a slow GPU (some 4000 tokens a second) 4 s at most.
const STEPS_STAND_STILL: Duration = Duration::from_secs(5);

/// For SGLang, whose scheduler writes its figures after every 40 steps of decoding, and without work only after 30 s: until then an
/// idle engine shows the requests that it last had.
const LOGS_STAND_STILL: Duration = Duration::from_secs(40);

const VLLM: Dialect = Dialect {
    name: "vllm",
    prefix: b"vllm:",
    families: &[
        (b"num_requests_waiting", Role::Waiting),
        (b"num_requests_running", Role::Running),
        (b"kv_cache_usage_perc", Role::Usage),
        // Up to 0.10.
        (b"gpu_cache_usage_perc", Role::OldUsage),
        (b"lora_requests_info", Role::Lora),
        (b"engine_sleep_state", Role::Sleep),
        (b"cache_config_info", Role::Config { block_size: b"block_size", blocks: b"num_gpu_blocks" }),
        (b"generation_tokens_total", Role::Steps(0)),
        (b"iteration_tokens_total_count", Role::Steps(1)),
        // llm-d-inference-sim counts its tokens at the end of a request, and its intervals between tokens at once.
        (b"inter_token_latency_seconds_count", Role::Steps(2)),
        (b"time_per_output_token_seconds_count", Role::Steps(3)),
        (b"prompt_tokens_total", Role::Ends(4)),
    ],
    page_path: None,
    frozen_after: Some(STEPS_STAND_STILL),
};

const SGLANG: Dialect = Dialect {
    name: "sglang",
    prefix: b"sglang:",
    families: &[
        (b"num_queue_reqs", Role::Waiting),
        (b"num_running_reqs", Role::Running),
        (b"token_usage", Role::Usage),
        // Up to 0.5.9 or so; gauges since.
        (b"cache_config_info", Role::Config { block_size: b"page_size", blocks: b"num_pages" }),
        (b"page_size", Role::BlockSize),
        (b"num_pages", Role::Blocks),
        (b"realtime_tokens_total", Role::Steps(0)),
        (b"inter_token_latency_seconds_count", Role::Steps(1)),
        (b"prompt_tokens_total", Role::Ends(2)),
        (b"generation_tokens_total", Role::Ends(3)),
    ],
    page_path: None,
    frozen_after: Some(LOGS_STAND_STILL),
};

/// Its figures come with each iteration and stay when there are no more, so an idle engine may go on to show requests: what stands
/// still says nothing. The same holds for the backend in Triton.
const TRTLLM_SERVE: Dialect = Dialect {
    name: "trtllm-serve",
    prefix: b"trtllm_",
    families: &[
        (b"num_requests_waiting", Role::Waiting),
        (b"num_requests_running", Role::Running),
        (b"kv_cache_utilization", Role::Usage),
        (b"kv_cache_tokens_per_block", Role::BlockSize),
        (b"kv_cache_max_blocks", Role::Blocks),
        (b"kv_cache_used_blocks", Role::UsedBlocks),
        (b"prompt_tokens_total", Role::Ends(0)),
        (b"generation_tokens_total", Role::Ends(1)),
        (b"request_success_total", Role::Ends(2)),
    ],
    page_path: Some("/prometheus/metrics"),
    frozen_after: None,
};

const TRITON_TENSORRT_LLM: Dialect = Dialect {
    name: "triton-tensorrt-llm",
    prefix: b"nv_trt_llm_",
    families: &[
        (
            b"request_metrics",
            Role::ByLabel(b"request_type", &[(b"waiting", Role::Waiting), (b"scheduled", Role::Running)]),
        ),
        (
            b"kv_cache_block_metrics",
            Role::ByLabel(
                b"kv_cache_block_type",
                &[
                    (b"fraction", Role::Usage),
                    (b"used", Role::UsedBlocks),
                    (b"tokens_per", Role::BlockSize),
                    (b"max", Role::Blocks),
                ],
            ),
        ),
        (b"general_metrics", Role::ByLabel(b"general_type", &[(b"iteration_counter", Role::Ends(0))])),
    ],
    page_path: None,
    frozen_after: None,
};

/// Requests in execution are on no page of Triton; `nv_inference_exec_count`, which the reference picker takes for them, counts all
/// batches ever executed.
const TRITON: Dialect = Dialect {
    name: "triton",
    prefix: b"nv_inference_",
    families: &[
        (b"pending_request_count", Role::Waiting),
        (b"request_success", Role::Ends(0)),
        (b"exec_count", Role::Ends(1)),
    ],
    page_path: None,
    frozen_after: None,
};

const LLAMA_CPP: Dialect = Dialect {
    name: "llama-cpp",
    prefix: b"llamacpp:",
    families: &[
        (b"requests_deferred", Role::Waiting),
        (b"requests_processing", Role::Running),
        // Builds since 2025 have no such gauge.
        (b"kv_cache_usage_ratio", Role::Usage),
        // The tokens are counted when a request ends.
        (b"n_decode_total", Role::Steps(0)),
        (b"prompt_tokens_total", Role::Ends(1)),
        (b"tokens_predicted_total", Role::Ends(2)),
    ],
    page_path: None,
    frozen_after: Some(STEPS_STAND_STILL),
};

const TGI: Dialect = Dialect {
    name: "tgi",
    prefix: b"tgi_",
    families: &[
        (b"queue_size", Role::Waiting),
        (b"batch_current_size", Role::Running),
        (b"batch_inference_count", Role::Steps(0)),
        (b"request_count", Role::Ends(1)),
    ],
    page_path: None,
    frozen_after: Some(STEPS_STAND_STILL),
};

/// The engine whose prefix a line begins with, and what follows it.
pub(crate) fn engine_of(line: &[u8]) -> Option<(Engine, &[u8])> {
    // Nearly every line of a page is a bucket of some histogram; the first byte settles whose.
    let candidates: &[Engine] = match line.first()? {
        b'v' => &[Engine::Vllm],
        b's' => &[Engine::Sglang],
        b't' => &[Engine::TrtllmServe, Engine::Tgi],
        b'n' => &[Engine::TritonTensorrtLlm, Engine::Triton],
        b'l' => &[Engine::LlamaCpp],
        _ => return None,
    };
    candidates.iter().find_map(|engine| Some((*engine, line.strip_prefix(engine.dialect().prefix)?)))
}

impl Engine {
    /// Whether a line may be of a wanted family, by two letters of what follows the prefix. No line is looked at more closely without.
    pub(crate) fn may_want(self, rest: &[u8]) -> bool {
        match (INITIALS.get(self as usize), rest) {
            (Some((first, third)), [one, _, three, ..]) => first & letter(*one) != 0 && third & letter(*three) != 0,
            _ => false,
        }
    }

    /// What the family of this name says; the prefix is left out.
    pub(crate) fn role(self, name: &[u8]) -> Option<Role> {
        self.dialect().families.iter().find(|(known, _)| *known == name).map(|(_, role)| *role)
    }
}

/// For each engine, which letters its families have in the first and in the third place.
const INITIALS: [(u64, u64); Engine::ALL.len()] = [
    initials(VLLM.families),
    initials(SGLANG.families),
    initials(TRTLLM_SERVE.families),
    initials(TRITON_TENSORRT_LLM.families),
    initials(TRITON.families),
    initials(LLAMA_CPP.families),
    initials(TGI.families),
];

const fn initials(mut families: &[(&[u8], Role)]) -> (u64, u64) {
    let (mut first, mut third) = (0, 0);
    while let [(name, _), rest @ ..] = families {
        if let [one, _, three, ..] = name {
            first |= letter(*one);
            third |= letter(*three);
        }
        families = rest;
    }
    (first, third)
}

/// A bit for a letter. Others share the bits of letters, which costs a second look and nothing else.
const fn letter(byte: u8) -> u64 {
    1 << (byte & 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_every_family_is_found_in_it() {
        for (index, engine) in Engine::ALL.into_iter().enumerate() {
            assert_eq!((engine as usize, engine.as_str().parse()), (index, Ok(engine)));
            let dialect = engine.dialect();
            let mut slots = [false; COUNTERS];
            let mut take = |role: Role| {
                if let Role::Steps(slot) | Role::Ends(slot) = role {
                    assert!(!std::mem::replace(&mut slots[slot], true), "{slot} of {engine:?} is taken twice");
                }
            };
            for (name, role) in dialect.families {
                let line = [dialect.prefix, name].concat();
                assert_eq!(engine_of(&line), Some((engine, *name)));
                assert!(engine.may_want(name) && engine.role(name).is_some());
                match role {
                    Role::ByLabel(_, roles) => roles.iter().for_each(|(_, role)| take(*role)),
                    role => take(*role),
                }
            }
        }
        assert_eq!("vLLM".parse::<Engine>(), Err(()));
    }

    #[test]
    fn an_engine_can_be_frozen_only_if_it_counts_steps() {
        for engine in Engine::ALL {
            let counts_steps = engine.dialect().families.iter().any(|(_, role)| matches!(role, Role::Steps(_)));
            assert_eq!(engine.frozen_after().is_some(), counts_steps, "{engine:?}");
        }
    }
}
