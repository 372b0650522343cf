//! From an engine's metrics page to the few signals that routing needs. Pure: bytes in, values out.
//!
//! One walk over the lines, one look at each line's first bytes; only lines of wanted families are parsed, so a page of 74 KB
//! costs microseconds. The order of families does not matter.
//!
//! Names: vLLM's own (`vllm:gpu_cache_usage_perc` is what engines up to 0.10 call `vllm:kv_cache_usage_perc`), and the
//! counterparts of SGLang and TensorRT-LLM.

use crate::exposition::{LineError, Sample, split_name};

/// Most adapter names kept of one list. An engine holds `max_loras` at once, which is a handful; this bounds a hostile page.
pub const MAX_ADAPTERS: usize = 256;

/// Longest adapter name in bytes; longer ones are dropped, since a cut name would match a wrong adapter.
pub const MAX_ADAPTER_BYTES: usize = 256;

/// How far above 1 a usage may be by rounding and still count as full.
const USAGE_ROUNDING: f64 = 1e-6;

/// What a page says. `None`: the page does not carry the signal, or carries it as NaN or infinity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Signals {
    /// Requests in the engine's queue, summed over its series.
    pub waiting: Option<u32>,
    /// Requests in the engine's batch, summed over its series.
    pub running: Option<u32>,
    /// Used part of the KV cache, 0 to 1, averaged over its series.
    pub kv_cache_usage: Option<f64>,
    /// Tokens in a KV block.
    pub block_size: Option<u32>,
    /// KV blocks of an engine.
    pub num_gpu_blocks: Option<u32>,
    /// What the newest LoRA series says.
    pub lora: Option<Lora>,
    /// When the process started, in milliseconds since the Unix epoch.
    pub started_at_ms: Option<u64>,
    /// Whether the engine sleeps: true when it says so and no engine on the page is awake.
    pub sleeping: Option<bool>,
}

/// The newest `lora_requests_info`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Lora {
    /// Adapters that fit at once.
    pub max: Option<u32>,
    /// Adapters with running requests, in the engine's order.
    pub running: Vec<String>,
    /// Adapters with waiting requests, in the engine's order.
    pub waiting: Vec<String>,
}

/// Why a page cannot be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PageError {
    /// Its first line is neither a comment nor a sample: a page of HTML, an error in JSON.
    #[error("not a metrics page")]
    NotMetrics,
    /// Its last line has no end, so something is missing.
    #[error("the page is cut short")]
    Truncated,
    /// A line of a wanted family cannot be read.
    #[error("line {line}: {error}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        error: LineError,
    },
}

#[derive(Clone, Copy)]
enum Family {
    Waiting,
    Running,
    Usage,
    /// The older name of [`Family::Usage`], which counts only without the newer.
    OldUsage,
    Lora,
    Sleep,
    Cache {
        block_size: &'static [u8],
        blocks: &'static [u8],
    },
    BlockSize,
    Blocks,
    Started,
}

impl Family {
    fn find(name: &[u8]) -> Option<Self> {
        const VLLM: Family = Family::Cache { block_size: b"block_size", blocks: b"num_gpu_blocks" };
        const SGLANG: Family = Family::Cache { block_size: b"page_size", blocks: b"num_pages" };
        Some(match name {
            b"vllm:num_requests_waiting" | b"sglang:num_queue_reqs" | b"trtllm_num_requests_waiting" => Self::Waiting,
            b"vllm:num_requests_running" | b"sglang:num_running_reqs" | b"trtllm_num_requests_running" => Self::Running,
            b"vllm:kv_cache_usage_perc" | b"sglang:token_usage" | b"trtllm_kv_cache_utilization" => Self::Usage,
            b"vllm:gpu_cache_usage_perc" => Self::OldUsage,
            b"vllm:lora_requests_info" => Self::Lora,
            b"vllm:engine_sleep_state" => Self::Sleep,
            b"vllm:cache_config_info" => VLLM,
            b"sglang:cache_config_info" => SGLANG,
            b"trtllm_kv_cache_tokens_per_block" => Self::BlockSize,
            b"trtllm_kv_cache_max_blocks" => Self::Blocks,
            b"process_start_time_seconds" => Self::Started,
            _ => return None,
        })
    }
}

/// Values of one family's series, taken together.
#[derive(Default)]
struct Gathered {
    sum: f64,
    series: u32,
    /// One unusable value spoils the whole: half a sum would look like a shorter queue.
    spoilt: bool,
}

impl Gathered {
    fn add(&mut self, value: f64) {
        self.spoilt |= !value.is_finite() || value < 0.0;
        self.sum += value;
        self.series += 1;
    }

    fn sum(&self) -> Option<u32> {
        (self.series > 0 && !self.spoilt).then(|| whole(self.sum)).flatten()
    }

    fn ratio(&self) -> Option<f64> {
        let mean = self.sum / f64::from(self.series);
        (self.series > 0 && !self.spoilt && mean <= 1.0 + USAGE_ROUNDING).then(|| mean.min(1.0))
    }
}

#[derive(Default)]
struct Reader {
    waiting: Gathered,
    running: Gathered,
    usage: Gathered,
    old_usage: Gathered,
    awake: bool,
    asleep: bool,
    lora_changed: f64,
    signals: Signals,
}

impl Signals {
    /// Reads a page.
    ///
    /// # Errors
    ///
    /// See [`PageError`]. Lines of families that are not wanted are not looked at, so they may say anything.
    pub fn read(page: &[u8]) -> Result<Self, PageError> {
        if page
            .first()
            .is_some_and(|first| !matches!(first, b'#' | b'\n' | b'\r' | b'_' | b':') && !first.is_ascii_alphabetic())
        {
            return Err(PageError::NotMetrics);
        }
        let mut reader = Reader::default();
        let mut start = 0;
        for (index, end) in memchr::memchr_iter(b'\n', page).enumerate() {
            let line = page.get(start..end).unwrap_or_default();
            start = end + 1;
            if !may_be_wanted(line) {
                continue;
            }
            let (name, rest) = split_name(line);
            if let Some(family) = Family::find(name) {
                reader.line(family, rest).map_err(|error| PageError::Line { line: index + 1, error })?;
            }
        }
        if start < page.len() {
            return Err(PageError::Truncated);
        }
        Ok(reader.finish())
    }

    /// Names of the signals that routing wants and the page does not carry, as `missing_signals` spells them.
    pub fn missing(&self) -> impl Iterator<Item = &'static str> {
        [
            ("waiting", self.waiting.is_none()),
            ("running", self.running.is_none()),
            ("kv_cache_usage", self.kv_cache_usage.is_none()),
            ("cache_config", self.block_size.is_none() || self.num_gpu_blocks.is_none()),
        ]
        .into_iter()
        .filter_map(|(name, missing)| missing.then_some(name))
    }
}

impl Reader {
    fn line(&mut self, family: Family, rest: &[u8]) -> Result<(), LineError> {
        let sample = Sample::split(rest)?;
        let value = sample.value()?;
        match family {
            Family::Waiting => self.waiting.add(value),
            Family::Running => self.running.add(value),
            Family::Usage => self.usage.add(value),
            Family::OldUsage => self.old_usage.add(value),
            Family::BlockSize => self.signals.block_size = whole(value),
            Family::Started => self.signals.started_at_ms = self.signals.started_at_ms.or_else(|| millis(value)),
            Family::Blocks => self.signals.num_gpu_blocks = whole(value),
            Family::Sleep => {
                for label in sample.labels() {
                    let label = label?;
                    if label.name == b"sleep_state" {
                        let on = value == 1.0;
                        let awake = label.raw == b"awake";
                        self.awake |= awake && on;
                        self.asleep |= awake != on;
                    }
                }
            }
            Family::Cache { block_size, blocks } => {
                for label in sample.labels() {
                    let label = label?;
                    let number = || label.value().ok().and_then(|value| value.parse().ok());
                    if label.name == block_size {
                        self.signals.block_size = self.signals.block_size.or_else(number);
                    } else if label.name == blocks {
                        self.signals.num_gpu_blocks = self.signals.num_gpu_blocks.or_else(number);
                    }
                }
            }
            // The value is the time of the last change; old label sets stay on the page.
            Family::Lora if value.is_finite() && (self.signals.lora.is_none() || value >= self.lora_changed) => {
                let mut lora = Lora::default();
                for label in sample.labels() {
                    let label = label?;
                    match label.name {
                        b"max_lora" => lora.max = label.value()?.trim().parse().ok(),
                        b"running_lora_adapters" => lora.running = adapters(&label.value()?),
                        b"waiting_lora_adapters" => lora.waiting = adapters(&label.value()?),
                        _ => {}
                    }
                }
                self.lora_changed = value;
                self.signals.lora = Some(lora);
            }
            Family::Lora => {}
        }
        Ok(())
    }

    fn finish(self) -> Signals {
        let usage = if self.usage.series > 0 { &self.usage } else { &self.old_usage };
        Signals {
            waiting: self.waiting.sum(),
            running: self.running.sum(),
            kv_cache_usage: usage.ratio(),
            sleeping: (self.awake || self.asleep).then_some(!self.awake),
            ..self.signals
        }
    }
}

/// Whether the line's first bytes are those of a wanted name. Nearly every line of a page is a bucket of some histogram, and this
/// is all that is done for it.
const fn may_be_wanted(line: &[u8]) -> bool {
    matches!(
        line,
        [b'v', b'l', b'l', b'm', b':', b'n' | b'k' | b'g' | b'l' | b'e' | b'c', ..]
            | [b's', b'g', b'l', b'a', b'n', b'g', b':', ..]
            | [b't', b'r', b't', b'l', b'l', b'm', b'_', ..]
            | [b'p', b'r', b'o', b'c', b'e', b's', b's', b'_', b's', ..]
    )
}

/// A count. Fractions are cut, since engines count whole requests; beyond `u32` there is no count.
fn whole(value: f64) -> Option<u32> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
    (0.0..=f64::from(u32::MAX)).contains(&value).then_some(value as u32)
}

/// Seconds as whole milliseconds.
fn millis(seconds: f64) -> Option<u64> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
    (seconds > 0.0 && seconds < 1e15).then_some((seconds * 1000.0).round() as u64)
}

fn adapters(list: &str) -> Vec<String> {
    list.split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty() && name.len() <= MAX_ADAPTER_BYTES)
        .take(MAX_ADAPTERS)
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(page: &str) -> Signals {
        Signals::read(page.as_bytes()).unwrap()
    }

    #[test]
    fn engines_of_one_page_are_summed_and_their_usage_averaged() {
        let signals = read(concat!(
            "vllm:num_requests_waiting{engine=\"0\"} 3.0\nvllm:num_requests_waiting{engine=\"1\"} 4.0\n",
            "vllm:num_requests_running{engine=\"0\"} 1\nvllm:num_requests_running{engine=\"1\"} 2e0\n",
            "vllm:kv_cache_usage_perc{engine=\"0\"} 0.2\nvllm:kv_cache_usage_perc{engine=\"1\"} 0.4\n",
        ));
        assert_eq!((signals.waiting, signals.running), (Some(7), Some(3)));
        assert!((signals.kv_cache_usage.unwrap() - 0.3).abs() < 1e-12);
    }

    #[test]
    fn the_newer_usage_name_wins_in_either_order() {
        let (new, old) = ("vllm:kv_cache_usage_perc 0.25\n", "vllm:gpu_cache_usage_perc 0.75\n");
        assert_eq!(read(&format!("{new}{old}")).kv_cache_usage, Some(0.25));
        assert_eq!(read(&format!("{old}{new}")).kv_cache_usage, Some(0.25));
        assert_eq!(read(old).kv_cache_usage, Some(0.75));
    }

    #[test]
    fn what_the_page_lacks_is_absent_and_never_zero() {
        let signals = read("# HELP up u\nup 1\n");
        assert_eq!(signals, Signals::default());
        assert_eq!(signals.missing().collect::<Vec<_>>(), ["waiting", "running", "kv_cache_usage", "cache_config"]);
        assert_eq!(read(""), Signals::default());
    }

    #[test]
    fn values_that_are_no_counts_make_the_signal_absent() {
        for bad in ["NaN", "+Inf", "-Inf", "-1", "5e9"] {
            let page = format!(
                "vllm:num_requests_waiting{{engine=\"0\"}} 2\nvllm:num_requests_waiting{{engine=\"1\"}} {bad}\n"
            );
            assert_eq!(read(&page).waiting, None, "{bad}");
        }
        for bad in ["NaN", "37.5", "-0.5"] {
            assert_eq!(read(&format!("vllm:kv_cache_usage_perc {bad}\n")).kv_cache_usage, None, "{bad}");
        }
        assert_eq!(read("vllm:kv_cache_usage_perc 1.0000000002\n").kv_cache_usage, Some(1.0));
    }

    #[test]
    fn the_lora_series_that_changed_last_wins() {
        let signals = read(concat!(
            "vllm:lora_requests_info{max_lora=\"2\",running_lora_adapters=\" a ,,b\",waiting_lora_adapters=\"c\"} 1.7e+09\n",
            "vllm:lora_requests_info{max_lora=\"2\",running_lora_adapters=\"\",waiting_lora_adapters=\"\"} 1.6e+09\n",
        ));
        let lora = signals.lora.unwrap();
        assert_eq!((lora.max, lora.running, lora.waiting), (Some(2), vec!["a".into(), "b".into()], vec!["c".into()]));
    }

    #[test]
    fn adapter_lists_are_bounded() {
        let names = (0..1000).map(|index| index.to_string()).collect::<Vec<_>>().join(",");
        let long = "x".repeat(MAX_ADAPTER_BYTES + 1);
        let page = format!("vllm:lora_requests_info{{running_lora_adapters=\"{long},{names}\"}} 1\n");
        let lora = read(&page).lora.unwrap();
        assert_eq!(lora.running.len(), MAX_ADAPTERS);
        assert_eq!(lora.running[0], "0");
    }

    #[test]
    fn an_engine_sleeps_when_no_engine_of_the_page_is_awake() {
        let state = |engine: u8, awake: u8| {
            format!(
                "vllm:engine_sleep_state{{engine=\"{engine}\",sleep_state=\"awake\"}} {awake}.0\nvllm:engine_sleep_state{{engine=\"{engine}\",sleep_state=\"discard_all\"}} {}.0\n",
                1 - awake
            )
        };
        assert_eq!(read(&state(0, 1)).sleeping, Some(false));
        assert_eq!(read(&state(0, 0)).sleeping, Some(true));
        assert_eq!(read(&format!("{}{}", state(0, 0), state(1, 1))).sleeping, Some(false));
        assert_eq!(read("vllm:engine_sleep_state{sleep_state=\"discard_all\"} 1.0\n").sleeping, Some(true));
    }

    #[test]
    fn near_names_are_not_taken_for_wanted_ones() {
        let signals = read(concat!(
            "vllm:num_requests_waiting_by_reason{reason=\"capacity\"} 9\n",
            "vllm:cache_config_info{_block_size_resolved=\"True\",mamba_block_size=\"7\",block_size=\"16\",num_gpu_blocks=\"None\"} 1\n",
        ));
        assert_eq!((signals.waiting, signals.block_size, signals.num_gpu_blocks), (None, Some(16), None));
    }

    #[test]
    fn other_engines_are_read_by_their_own_names() {
        let sglang = read(
            "sglang:num_queue_reqs 2\nsglang:num_running_reqs 3\nsglang:token_usage 0.5\nsglang:cache_config_info{page_size=\"64\",num_pages=\"10\"} 1\n",
        );
        assert_eq!((sglang.waiting, sglang.running, sglang.kv_cache_usage), (Some(2), Some(3), Some(0.5)));
        assert_eq!((sglang.block_size, sglang.num_gpu_blocks), (Some(64), Some(10)));
        let tensorrt =
            read("trtllm_num_requests_waiting 1\ntrtllm_kv_cache_tokens_per_block 32\ntrtllm_kv_cache_max_blocks 9\n");
        assert_eq!((tensorrt.waiting, tensorrt.block_size, tensorrt.num_gpu_blocks), (Some(1), Some(32), Some(9)));
    }

    #[test]
    fn a_broken_wanted_line_refuses_the_page() {
        assert_eq!(
            Signals::read(b"up 1\nvllm:num_requests_waiting{engine=\"0\" 3\n"),
            Err(PageError::Line { line: 2, error: LineError::Labels })
        );
        assert_eq!(
            Signals::read(b"vllm:num_requests_waiting many\n"),
            Err(PageError::Line { line: 1, error: LineError::Value })
        );
        assert_eq!(Signals::read(b"vllm:num_requests_waiting 1\nvllm:num_re"), Err(PageError::Truncated));
        assert_eq!(Signals::read(b"<html>\n"), Err(PageError::NotMetrics));
        assert_eq!(Signals::read(b"{\"error\":1}\n"), Err(PageError::NotMetrics));
    }
}
