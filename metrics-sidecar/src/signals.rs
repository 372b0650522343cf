//! From an engine's metrics page to the few signals that routing needs. Pure: bytes in, values out.
//!
//! One walk over the lines, one look at each line's first bytes; only lines of wanted families are parsed, so a page of 74 KB
//! costs microseconds. The order of families does not matter. Which families are wanted, and what they say, is in [`crate::dialect`].

use std::borrow::Cow;

use crate::counters::Counters;
use crate::dialect::{COUNTERS, EngineKind, Role, engine_of};
use crate::exposition::{LabelPair, LineError, Sample, split_name};
pub use crate::lora::{Lora, MAX_ADAPTER_BYTES, MAX_ADAPTERS};
use crate::series::{EngineKey, Series};

/// When the process started, as Prometheus clients of every language name it; in seconds since the Unix epoch.
const STARTED: &[u8] = b"process_start_time_seconds";

/// What a page says. `None`: the page does not carry the signal, or carries it as NaN or infinity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Signals {
    /// Whose page it is: the one that was asked for, else the one of whose signals it carries most.
    pub engine: Option<EngineKind>,
    /// Requests in the engine's queue, summed over its data-parallel engines.
    pub waiting: Option<u32>,
    /// Requests in the engine's batch, summed over its data-parallel engines.
    pub running: Option<u32>,
    /// Used part of the KV cache, 0 to 1, averaged over its data-parallel engines.
    pub kv_cache_usage: Option<f64>,
    /// Tokens in a KV block.
    pub block_size: Option<u32>,
    /// KV blocks, summed over its data-parallel engines, each of which has some of its own.
    pub num_gpu_blocks: Option<u32>,
    /// What the newest LoRA series says.
    pub lora: Option<Lora>,
    /// When the process started, in milliseconds since the Unix epoch.
    pub started_at_ms: Option<u64>,
    /// Whether the engine sleeps: true when it says so and no engine on the page is awake.
    pub sleeping: Option<bool>,
    /// What it has done since it started.
    pub counters: Counters,
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

impl Signals {
    /// Reads a page of any engine.
    ///
    /// # Errors
    ///
    /// See [`PageError`]. Lines of families that are not wanted are not looked at, so they may say anything.
    pub fn read(page: &[u8]) -> Result<Self, PageError> {
        Self::read_as(page, None)
    }

    /// Reads a page of this engine; what is on it of others is not looked at.
    ///
    /// # Errors
    ///
    /// See [`PageError`].
    pub fn read_as(page: &[u8], engine: Option<EngineKind>) -> Result<Self, PageError> {
        let page = unquoted(page);
        let first = page.trim_ascii_start();
        let may_begin = |first: &u8| matches!(first, b'#' | b'_' | b':' | b'{') || first.is_ascii_alphabetic();
        if !first.first().is_none_or(may_begin) || (first.starts_with(b"{") && !is_quoted_sample(first)) {
            return Err(PageError::NotMetrics);
        }
        let mut reader = Reader { only: engine, ..Reader::default() };
        let mut start = 0;
        // The last line need not have an end.
        for (index, end) in memchr::memchr_iter(b'\n', &page).chain([page.len()]).enumerate() {
            let line = page.get(start..end).unwrap_or_default();
            start = end + 1;
            let read = match engine_of(line) {
                Some((engine, rest)) if engine.may_want(rest) => reader.line_of(engine, rest),
                Some(_) => continue,
                None if may_be_other(line) => reader.other_line(line),
                None => continue,
            };
            read.map_err(|error| PageError::Line { line: index + 1, error })?;
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
            ("progress", !self.counters.count_steps),
        ]
        .into_iter()
        .filter_map(|(name, missing)| missing.then_some(name))
    }
}

/// The page in a JSON string, as some builds of llama.cpp send it (<https://github.com/ggml-org/llama.cpp/issues/17384>); any other
/// page as it is.
fn unquoted(page: &[u8]) -> Cow<'_, [u8]> {
    let text = page.trim_ascii_start().starts_with(b"\"").then(|| serde_json::from_slice::<String>(page).ok());
    text.flatten().map_or(Cow::Borrowed(page), |text| Cow::Owned(text.into_bytes()))
}

#[derive(Default)]
struct Reader {
    /// The only engine that is looked at.
    only: Option<EngineKind>,
    engines: [Option<Box<Readings>>; EngineKind::ALL.len()],
    started_at_ms: Option<u64>,
}

/// What a page says in the words of one engine.
#[derive(Default)]
struct Readings {
    waiting: Series,
    running: Series,
    usage: Series,
    old_usage: Series,
    used_blocks: Series,
    block_size: Series,
    blocks: Series,
    counters: [Series; COUNTERS],
    count_steps: bool,
    awake: bool,
    asleep: bool,
    /// With the time of its last change.
    lora: Option<(f64, Lora)>,
}

impl Reader {
    /// A line that begins with the engine's prefix, which `rest` follows.
    fn line_of(&mut self, engine: EngineKind, rest: &[u8]) -> Result<(), LineError> {
        match engine.family(rest) {
            Some((role, rest)) if self.wants(engine) => self.sample(engine, role, &Sample::split(rest)?),
            _ => Ok(()),
        }
    }

    /// A line that begins with no engine's prefix.
    fn other_line(&mut self, line: &[u8]) -> Result<(), LineError> {
        let line = line.trim_ascii_start();
        if let Some((engine, rest)) = engine_of(line) {
            return self.line_of(engine, rest);
        }
        match line.first() {
            Some(b'p') => {
                let (name, rest) = split_name(line);
                if name == STARTED { self.started(&Sample::split(rest)?) } else { Ok(()) }
            }
            // Prometheus 3 lets a name stand in quotes among the labels. What is no such line belongs to no wanted family.
            Some(b'{') => match Sample::split(line) {
                Ok(sample) => self.quoted(&sample),
                Err(_) => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn quoted(&mut self, sample: &Sample<'_>) -> Result<(), LineError> {
        match sample.quoted_name() {
            Some(STARTED) => self.started(sample),
            Some(name) => match engine_of(name).and_then(|(engine, name)| Some((engine, engine.family(name)?))) {
                Some((engine, (role, b""))) if self.wants(engine) => self.sample(engine, role, sample),
                _ => Ok(()),
            },
            None => Ok(()),
        }
    }

    fn wants(&self, engine: EngineKind) -> bool {
        self.only.is_none_or(|only| only == engine)
    }

    fn started(&mut self, sample: &Sample<'_>) -> Result<(), LineError> {
        let started_at_ms = millis(sample.value()?);
        self.started_at_ms = self.started_at_ms.or(started_at_ms);
        Ok(())
    }

    fn sample(&mut self, engine: EngineKind, role: Role, sample: &Sample<'_>) -> Result<(), LineError> {
        let value = sample.value()?;
        match self.engines.get_mut(engine as usize) {
            Some(readings) => readings.get_or_insert_default().add(role, sample, value),
            None => Ok(()),
        }
    }

    fn finish(self) -> Signals {
        let read = EngineKind::ALL
            .into_iter()
            .zip(self.engines)
            .filter_map(|(engine, readings)| readings.map(|readings| readings.finish(engine)));
        // Of engines with equally many signals the first of the table.
        let mut signals = read.min_by_key(|signals| signals.missing().count()).unwrap_or_default();
        signals.engine = self.only.or(signals.engine);
        signals.started_at_ms = self.started_at_ms;
        signals
    }
}

impl Readings {
    fn add(&mut self, role: Role, sample: &Sample<'_>, value: f64) -> Result<(), LineError> {
        match role {
            Role::Waiting => self.waiting.add(sample, value),
            Role::Running => self.running.add(sample, value),
            Role::Usage => self.usage.add(sample, value),
            Role::OldUsage => self.old_usage.add(sample, value),
            Role::UsedBlocks => self.used_blocks.add(sample, value),
            Role::BlockSize => self.block_size.add(sample, value),
            Role::Blocks => self.blocks.add(sample, value),
            Role::Steps(slot) | Role::Ends(slot) => {
                self.count_steps |= matches!(role, Role::Steps(_));
                self.counters.get_mut(slot).map_or(Ok(()), |counter| counter.add(sample, value))
            }
            Role::ByLabel(name, roles) => {
                for label in sample.labels() {
                    let label = label?;
                    if label.name == name
                        && let Some((_, role)) = roles.iter().find(|(known, _)| *known == label.raw)
                    {
                        return self.add(*role, sample, value);
                    }
                }
                Ok(())
            }
            Role::Config { block_size, blocks } => {
                let mut engine = EngineKey::default();
                let (mut tokens, mut count) = (None, None);
                for label in sample.labels() {
                    let label = label?;
                    match label.name {
                        // Each other label is one more thing that is said of the engine.
                        b"engine" | b"dp_rank" => engine.add(&label),
                        name if name == block_size => tokens = Some(number(&label)),
                        name if name == blocks => count = Some(number(&label)),
                        _ => {}
                    }
                }
                for (series, said) in [(&mut self.block_size, tokens), (&mut self.blocks, count)] {
                    if let Some(said) = said {
                        series.add_said(engine, said);
                    }
                }
                Ok(())
            }
            Role::Sleep => {
                for label in sample.labels() {
                    let label = label?;
                    if label.name == b"sleep_state" {
                        let on = value == 1.0;
                        let awake = label.raw == b"awake";
                        self.awake |= awake && on;
                        self.asleep |= awake != on;
                    }
                }
                Ok(())
            }
            // The value is the time of the last change; old label sets stay on the page.
            Role::Lora => {
                if value.is_finite() && self.lora.as_ref().is_none_or(|(changed, _)| value >= *changed) {
                    self.lora = Some((value, Lora::read(sample)?));
                }
                Ok(())
            }
        }
    }

    fn finish(&self, engine: EngineKind) -> Signals {
        let usage = if self.usage.is_empty() { self.old_usage.ratio() } else { self.usage.ratio() };
        let of_blocks = || {
            let (used, blocks) = self.used_blocks.sum().zip(self.blocks.sum())?;
            Some(used / blocks).filter(|usage| (0.0..=1.0).contains(usage))
        };
        Signals {
            engine: Some(engine),
            waiting: self.waiting.sum().and_then(whole),
            running: self.running.sum().and_then(whole),
            kv_cache_usage: usage.or_else(of_blocks),
            block_size: self.block_size.largest().and_then(whole).filter(|tokens| *tokens > 0),
            num_gpu_blocks: self.blocks.sum().and_then(whole).filter(|blocks| *blocks > 0),
            lora: self.lora.as_ref().map(|(_, lora)| lora.clone()),
            started_at_ms: None,
            sleeping: (self.awake || self.asleep).then_some(!self.awake),
            counters: Counters { values: self.counters.each_ref().map(Series::sum), count_steps: self.count_steps },
        }
    }
}

/// Whether a line without an engine's prefix may be wanted: the start time, a name in quotes, a line that is indented.
const fn may_be_other(line: &[u8]) -> bool {
    matches!(line, [b'p', b'r', b'o', b'c', b'e', b's', b's', b'_', b's', ..] | [b'{' | b' ' | b'\t', ..])
}

/// Whether a page begins with a sample whose name stands in quotes, rather than with JSON.
fn is_quoted_sample(page: &[u8]) -> bool {
    let line = page.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Sample::split(line).is_ok_and(|sample| sample.quoted_name().is_some() && sample.value().is_ok())
}

/// The whole number that a label says; a label that says none is not a number.
fn number(label: &LabelPair<'_>) -> f64 {
    let number = label.value().ok().and_then(|value| value.parse::<u32>().ok());
    number.map_or(f64::NAN, f64::from)
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
        assert_eq!(
            signals.missing().collect::<Vec<_>>(),
            ["waiting", "running", "kv_cache_usage", "cache_config", "progress"]
        );
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
