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
pub enum EngineKind {
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

impl EngineKind {
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

impl std::str::FromStr for EngineKind {
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
    /// Names behind the prefix that [`engine_of`] knows.
    families: &'static [Family],
    page_path: Option<&'static str>,
    frozen_after: Option<Duration>,
}

struct Family {
    mark: u64,
    name: &'static [u8],
    role: Role,
}

impl Family {
    const fn new(name: &'static [u8], role: Role) -> Self {
        Self { mark: mark(name), name, role }
    }
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
    families: &[
        Family::new(b"num_requests_waiting", Role::Waiting),
        Family::new(b"num_requests_running", Role::Running),
        Family::new(b"kv_cache_usage_perc", Role::Usage),
        // Up to 0.10.
        Family::new(b"gpu_cache_usage_perc", Role::OldUsage),
        Family::new(b"lora_requests_info", Role::Lora),
        Family::new(b"engine_sleep_state", Role::Sleep),
        Family::new(b"cache_config_info", Role::Config { block_size: b"block_size", blocks: b"num_gpu_blocks" }),
        Family::new(b"generation_tokens_total", Role::Steps(0)),
        Family::new(b"iteration_tokens_total_count", Role::Steps(1)),
        // llm-d-inference-sim counts its tokens at the end of a request, and its intervals between tokens at once.
        Family::new(b"inter_token_latency_seconds_count", Role::Steps(2)),
        Family::new(b"time_per_output_token_seconds_count", Role::Steps(3)),
        Family::new(b"prompt_tokens_total", Role::Ends(4)),
    ],
    page_path: None,
    frozen_after: Some(STEPS_STAND_STILL),
};

const SGLANG: Dialect = Dialect {
    name: "sglang",
    families: &[
        Family::new(b"num_queue_reqs", Role::Waiting),
        Family::new(b"num_running_reqs", Role::Running),
        Family::new(b"token_usage", Role::Usage),
        // Up to 0.5.9 or so; gauges since.
        Family::new(b"cache_config_info", Role::Config { block_size: b"page_size", blocks: b"num_pages" }),
        Family::new(b"page_size", Role::BlockSize),
        Family::new(b"num_pages", Role::Blocks),
        Family::new(b"realtime_tokens_total", Role::Steps(0)),
        Family::new(b"inter_token_latency_seconds_count", Role::Steps(1)),
        Family::new(b"prompt_tokens_total", Role::Ends(2)),
        Family::new(b"generation_tokens_total", Role::Ends(3)),
    ],
    page_path: None,
    frozen_after: Some(LOGS_STAND_STILL),
};

/// Its figures come with each iteration and stay when there are no more, so an idle engine may go on to show requests: what stands
/// still says nothing. The same holds for the backend in Triton.
const TRTLLM_SERVE: Dialect = Dialect {
    name: "trtllm-serve",
    families: &[
        Family::new(b"num_requests_waiting", Role::Waiting),
        Family::new(b"num_requests_running", Role::Running),
        Family::new(b"kv_cache_utilization", Role::Usage),
        Family::new(b"kv_cache_tokens_per_block", Role::BlockSize),
        Family::new(b"kv_cache_max_blocks", Role::Blocks),
        Family::new(b"kv_cache_used_blocks", Role::UsedBlocks),
        Family::new(b"prompt_tokens_total", Role::Ends(0)),
        Family::new(b"generation_tokens_total", Role::Ends(1)),
        Family::new(b"request_success_total", Role::Ends(2)),
    ],
    page_path: Some("/prometheus/metrics"),
    frozen_after: None,
};

const TRITON_TENSORRT_LLM: Dialect = Dialect {
    name: "triton-tensorrt-llm",
    families: &[
        Family::new(
            b"request_metrics",
            Role::ByLabel(b"request_type", &[(b"waiting", Role::Waiting), (b"scheduled", Role::Running)]),
        ),
        Family::new(
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
        Family::new(b"general_metrics", Role::ByLabel(b"general_type", &[(b"iteration_counter", Role::Ends(0))])),
    ],
    page_path: None,
    frozen_after: None,
};

/// Requests in execution are on no page of Triton; `nv_inference_exec_count`, which the reference picker takes for them, counts all
/// batches ever executed.
const TRITON: Dialect = Dialect {
    name: "triton",
    families: &[
        Family::new(b"pending_request_count", Role::Waiting),
        Family::new(b"request_success", Role::Ends(0)),
        Family::new(b"exec_count", Role::Ends(1)),
    ],
    page_path: None,
    frozen_after: None,
};

const LLAMA_CPP: Dialect = Dialect {
    name: "llama-cpp",
    families: &[
        Family::new(b"requests_deferred", Role::Waiting),
        Family::new(b"requests_processing", Role::Running),
        // Builds since 2025 have no such gauge.
        Family::new(b"kv_cache_usage_ratio", Role::Usage),
        // The tokens are counted when a request ends.
        Family::new(b"n_decode_total", Role::Steps(0)),
        Family::new(b"prompt_tokens_total", Role::Ends(1)),
        Family::new(b"tokens_predicted_total", Role::Ends(2)),
    ],
    page_path: None,
    frozen_after: Some(STEPS_STAND_STILL),
};

const TGI: Dialect = Dialect {
    name: "tgi",
    families: &[
        Family::new(b"queue_size", Role::Waiting),
        Family::new(b"batch_current_size", Role::Running),
        Family::new(b"batch_inference_count", Role::Steps(0)),
        Family::new(b"request_count", Role::Ends(1)),
    ],
    page_path: None,
    frozen_after: Some(STEPS_STAND_STILL),
};

/// The engine whose prefix a line begins with, and what follows it.
#[inline]
pub(crate) fn engine_of(line: &[u8]) -> Option<(EngineKind, &[u8])> {
    const fn number(start: &[u8; 4]) -> u32 {
        u32::from_le_bytes(*start)
    }
    const VLLM: u32 = number(b"vllm");
    const SGLANG: u32 = number(b"sgla");
    const TRTLLM_SERVE: u32 = number(b"trtl");
    const TRITON_TENSORRT_LLM: u32 = number(b"nv_t");
    const TRITON: u32 = number(b"nv_i");
    const LLAMA_CPP: u32 = number(b"llam");
    const TGI: u32 = number(b"tgi_");
    // A number is compared at once; this is done for every line.
    let (start, rest) = line.split_first_chunk()?;
    let (engine, prefix): (EngineKind, &[u8]) = match number(start) {
        VLLM => {
            return rest.split_first().filter(|(colon, _)| **colon == b':').map(|(_, rest)| (EngineKind::Vllm, rest));
        }
        SGLANG => (EngineKind::Sglang, b"ng:"),
        TRTLLM_SERVE => (EngineKind::TrtllmServe, b"lm_"),
        TRITON_TENSORRT_LLM => (EngineKind::TritonTensorrtLlm, b"rt_llm_"),
        TRITON => (EngineKind::Triton, b"nference_"),
        LLAMA_CPP => (EngineKind::LlamaCpp, b"acpp:"),
        TGI => (EngineKind::Tgi, b""),
        _ => return None,
    };
    Some((engine, rest.strip_prefix(prefix)?))
}

impl EngineKind {
    /// Whether a line may be of a wanted family, by three letters of what follows the prefix. Nearly every line of a page is a bucket
    /// of some histogram, and this is all that is done for it.
    #[inline]
    pub(crate) fn may_want(self, rest: &[u8]) -> bool {
        MARKS.get(self as usize).is_some_and(|marks| marks & mark(rest) != 0)
    }

    /// What the family that a line is of says, and what follows its name; the prefix is left out.
    pub(crate) fn family(self, rest: &[u8]) -> Option<(Role, &[u8])> {
        let mark = mark(rest);
        let mut alike = self.dialect().families.iter().filter(|family| family.mark == mark);
        alike.find_map(|family| {
            let rest = rest.strip_prefix(family.name)?;
            matches!(rest, [] | [b'{' | b' ' | b'\t', ..]).then_some((family.role, rest))
        })
    }
}

/// For each engine, the marks of its families.
const MARKS: [u64; EngineKind::ALL.len()] = [
    marks(VLLM.families),
    marks(SGLANG.families),
    marks(TRTLLM_SERVE.families),
    marks(TRITON_TENSORRT_LLM.families),
    marks(TRITON.families),
    marks(LLAMA_CPP.families),
    marks(TGI.families),
];

const fn marks(mut families: &[Family]) -> u64 {
    let mut marks = 0;
    while let [family, rest @ ..] = families {
        marks |= family.mark;
        families = rest;
    }
    marks
}

/// One of 64 bits by three letters of a name, which tell nearly all names of a page apart.
#[inline]
const fn mark(name: &[u8]) -> u64 {
    match name {
        [first, _, third, _, _, sixth, ..] => {
            1 << (first.wrapping_mul(5).wrapping_add(third.wrapping_mul(3)).wrapping_add(*sixth) & 63)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_every_family_is_found_in_it() {
        for (index, engine) in EngineKind::ALL.into_iter().enumerate() {
            assert_eq!((engine as usize, engine.as_str().parse()), (index, Ok(engine)));
            let dialect = engine.dialect();
            let mut slots = [false; COUNTERS];
            let mut take = |role: Role| {
                if let Role::Steps(slot) | Role::Ends(slot) = role {
                    assert!(!std::mem::replace(&mut slots[slot], true), "{slot} of {engine:?} is taken twice");
                }
            };
            for Family { name, role, .. } in dialect.families {
                for rest in ["", "{x=\"1\"} 1", " 1", "\t1"] {
                    let line = [*name, rest.as_bytes()].concat();
                    assert!(engine.may_want(&line));
                    assert!(engine.family(&line).is_some_and(|(_, found)| found == rest.as_bytes()));
                }
                assert!(engine.family(&[*name, b"_bucket{"].concat()).is_none());
                match role {
                    Role::ByLabel(_, roles) => roles.iter().for_each(|(_, role)| take(*role)),
                    role => take(*role),
                }
            }
        }
        assert_eq!("vLLM".parse::<EngineKind>(), Err(()));
        assert!(
            !EngineKind::Vllm.may_want(b"request_queue_time_seconds_bucket{"),
            "most lines are left at their first letters"
        );
    }

    #[test]
    fn an_engine_can_be_frozen_only_if_it_counts_steps() {
        for engine in EngineKind::ALL {
            let counts_steps = engine.dialect().families.iter().any(|family| matches!(family.role, Role::Steps(_)));
            assert_eq!(engine.frozen_after().is_some(), counts_steps, "{engine:?}");
        }
    }
}
