//! From an engine's metrics page to the few signals that routing needs. Pure: bytes in, values out.
//!
//! One walk over the lines, one look at each line's first bytes; only lines of wanted families are parsed, so a page of 74 KB
//! costs microseconds. The order of families does not matter.
//!
//! Names: vLLM's own (`vllm:gpu_cache_usage_perc` is what engines up to 0.10 call `vllm:kv_cache_usage_perc`), and the
//! counterparts of SGLang and TensorRT-LLM.

use crate::exposition::{LineError, Sample, split_name};
use crate::series::Series;

/// Most adapter names kept of one list. An engine holds `max_loras` at once, which is a handful; this bounds a hostile page.
pub const MAX_ADAPTERS: usize = 256;

/// Longest adapter name in bytes; longer ones are dropped, since a cut name would match a wrong adapter.
pub const MAX_ADAPTER_BYTES: usize = 256;

/// What a page says. `None`: the page does not carry the signal, or carries it as NaN or infinity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Signals {
    /// Requests in the engine's queue, summed over its data-parallel engines.
    pub waiting: Option<u32>,
    /// Requests in the engine's batch, summed over its data-parallel engines.
    pub running: Option<u32>,
    /// Used part of the KV cache, 0 to 1, averaged over its data-parallel engines.
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

#[derive(Default)]
struct Reader {
    waiting: Series,
    running: Series,
    usage: Series,
    old_usage: Series,
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
        let first = page.trim_ascii_start();
        let may_begin = |first: &u8| matches!(first, b'#' | b'_' | b':' | b'{') || first.is_ascii_alphabetic();
        if !first.first().is_none_or(may_begin) || (first.starts_with(b"{") && !is_quoted_sample(first)) {
            return Err(PageError::NotMetrics);
        }
        let mut reader = Reader::default();
        let mut start = 0;
        // The last line need not have an end.
        for (index, end) in memchr::memchr_iter(b'\n', page).chain([page.len()]).enumerate() {
            let line = page.get(start..end).unwrap_or_default();
            start = end + 1;
            if may_be_wanted(line) {
                reader.line(line).map_err(|error| PageError::Line { line: index + 1, error })?;
            }
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
    fn line(&mut self, line: &[u8]) -> Result<(), LineError> {
        let line = line.trim_ascii_start();
        let (family, sample) = if line.starts_with(b"{") {
            // Prometheus 3 lets a name stand in quotes among the labels. What is no such line belongs to no wanted family.
            let Ok(sample) = Sample::split(line) else { return Ok(()) };
            let Some(family) = sample.quoted_name().and_then(Family::find) else { return Ok(()) };
            (family, sample)
        } else {
            let (name, rest) = split_name(line);
            let Some(family) = Family::find(name) else { return Ok(()) };
            (family, Sample::split(rest)?)
        };
        let value = sample.value()?;
        match family {
            Family::Waiting => self.waiting.add(&sample, value)?,
            Family::Running => self.running.add(&sample, value)?,
            Family::Usage => self.usage.add(&sample, value)?,
            Family::OldUsage => self.old_usage.add(&sample, value)?,
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
        let usage = if self.usage.is_empty() { &self.old_usage } else { &self.usage };
        Signals {
            waiting: self.waiting.sum().and_then(whole),
            running: self.running.sum().and_then(whole),
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
            | [b'{' | b' ' | b'\t', ..]
    )
}

/// Whether a page begins with a sample whose name stands in quotes, rather than with JSON.
fn is_quoted_sample(page: &[u8]) -> bool {
    let line = page.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Sample::split(line).is_ok_and(|sample| sample.quoted_name().is_some() && sample.value().is_ok())
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
        assert_eq!(Signals::read(b"vllm:num_requests_waiting 1\nvllm:num_re").unwrap().waiting, Some(1));
        assert_eq!(Signals::read(b"<html>\n"), Err(PageError::NotMetrics));
        assert_eq!(Signals::read(b"{\"error\":1}\n"), Err(PageError::NotMetrics));
    }

    #[test]
    fn ranks_of_one_engine_are_not_added_up() {
        let mut page = String::new();
        for (cp, tp) in (0..2).flat_map(|cp| (0..4).map(move |tp| (cp, tp))) {
            let labels =
                format!("cp_rank=\"{cp}\",engine_type=\"unified\",model_name=\"m\",pp_rank=\"0\",tp_rank=\"{tp}\"");
            let usage = 0.1 + f64::from(tp) / 10.0;
            page.push_str(&format!("sglang:num_queue_reqs{{{labels}}} 3.0\nsglang:num_running_reqs{{{labels}}} {tp}\nsglang:token_usage{{{labels}}} {usage}\n"));
        }
        let one = read(&page);
        assert_eq!((one.waiting, one.running), (Some(3), Some(3)));
        assert!((one.kv_cache_usage.unwrap() - 0.4).abs() < 1e-9, "{one:?}");
        // Two engines of data parallelism, the labels of one in another order.
        let first = page.replace("model_name=\"m\"", "dp_rank=\"0\",model_name=\"m\"");
        let second = page.replace("} 3.0", "} 4.0").replace("{cp_rank", "{dp_rank=\"1\",cp_rank").replace("0.4", "0.8");
        let two = read(&format!("{first}{second}"));
        assert_eq!((two.waiting, two.running), (Some(7), Some(6)));
        assert!((two.kv_cache_usage.unwrap() - 0.6).abs() < 1e-9, "{two:?}");
        let engines = read(
            "vllm:num_requests_waiting{engine=\"0\",tp_rank=\"0\"} 3\nvllm:num_requests_waiting{tp_rank=\"1\",engine=\"0\"} 2\nvllm:num_requests_waiting{engine=\"1\"} 5\n",
        );
        assert_eq!(engines.waiting, Some(8));
    }

    #[test]
    fn a_page_is_read_as_prometheus_reads_it() {
        for page in [
            "vllm:num_requests_waiting 3",
            "vllm:num_requests_waiting 3\n# EOF",
            "vllm:num_requests_waiting 3\r\nup 1\r\n",
            "  vllm:num_requests_waiting\t{ } 3 1700000000000\n",
            "\n\nvllm:num_requests_waiting{a=\"}\\\"\\n\",} 3.0\n",
            "{\"vllm:num_requests_waiting\",engine=\"0\"} 3\n",
            "up 1\n{\"vllm:num_requests_waiting\"} 3\n{\"http.server.duration\"} 1\n",
            "{\"vllm:num_requests_waiting\",\"engine.id\"=\"0\"} 3\n",
            "vllm:num_requests_waiting{engine=\"0\"} 3 # {trace_id=\"x\"} 1\n",
        ] {
            assert_eq!(read(page).waiting, Some(3), "{page:?}");
        }
        assert_eq!(read("process_start_time_seconds 1.79531997696e+09\n").started_at_ms, Some(1_795_319_976_960));
        assert_eq!(Signals::read(b"{\n  \"detail\": \"Not Found\"\n}"), Err(PageError::NotMetrics));
        assert_eq!(Signals::read(b"{}"), Err(PageError::NotMetrics));
        assert_eq!(Signals::read(b""), Ok(Signals::default()));
    }
}
