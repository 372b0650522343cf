//! The reading of pods' metrics pages: bounds for any bytes, agreement with `prometheus-parse` where a page is plain.
//!
//! Input: a byte that chooses the reading, then a page (even) or two lists of adapters parted by a zero byte (odd).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use metrics_sidecar::dialect::EngineKind;
use metrics_sidecar::endpoint::DiscoveredPod;
use metrics_sidecar::exposition::escape_into;
use metrics_sidecar::fleet::Fleet;
use metrics_sidecar::signals::{Lora, MAX_ADAPTER_BYTES, MAX_ADAPTERS, Signals};
use prometheus_parse::{Scrape, Value};
use snapshot::Snapshot;

/// How far above 1 a usage still counts as full, with room for another order of adding up.
const USAGE_ROUNDING: f64 = 1e-6;

/// Stands for a colon, which `prometheus-parse` does not know in names.
const COLON: &str = "_colon_";

/// Reads a page, or writes one with adapters and reads it.
pub fn check(data: &[u8]) {
    let [kind, data @ ..] = data else { return };
    if kind % 2 == 0 { check_page(data) } else { check_adapters(data) }
}

fn check_page(page: &[u8]) {
    let result = Signals::read(page);
    if let Some(lines) = plain_lines(page) {
        let signals = result.as_ref().expect("a plain page is read");
        compare(signals, &lines);
    }
    let Ok(signals) = result else { return };
    assert!(signals.kv_cache_usage.is_none_or(|usage| (0.0..=1.0).contains(&usage)), "{signals:?}");
    assert!(signals.missing().count() <= 5);
    let counters = signals.counters;
    assert!(counters.values.iter().flatten().all(|count| count.is_finite() && *count >= 0.0), "{signals:?}");
    assert!(!counters.fell_since(&counters));
    let lists = signals.lora.iter().flat_map(|lora| [&lora.running, &lora.waiting]);
    for adapters in lists {
        assert!(adapters.len() <= MAX_ADAPTERS);
        assert!(adapters.iter().all(|name| !name.is_empty() && name.len() <= MAX_ADAPTER_BYTES));
    }
    // What nobody wants changes nothing; but a page in quotes, as llama.cpp sends it, ends with them.
    if page.trim_ascii_start().starts_with(b"\"") {
        check_published(signals);
        return;
    }
    let more = [page, b"\n# HELP a b\nup{x=\"}\"} 1\nvllm:num_requests_waiting_by_reason 9\n"].concat();
    assert_eq!(Signals::read(&more).as_ref(), Ok(&signals));
    check_published(signals);
}

/// Whatever a pod's page says, the filter takes the snapshot that the sidecar makes of it.
fn check_published(signals: Signals) {
    let address = SocketAddr::from(([10, 0, 0, 1], 8000));
    let mut fleet = Fleet::new(1, Duration::from_secs(2), ["p".to_owned()]);
    fleet.discovered(0, vec![DiscoveredPod::new(address)], Duration::ZERO);
    fleet.scraped(0, address, Duration::ZERO, Duration::ZERO, signals.clone());
    let snapshot = fleet.snapshot(Duration::ZERO, 0, None);
    assert_eq!(Snapshot::decode(&snapshot.encode()).as_ref(), Ok(&snapshot));
    let load = &snapshot.loads.endpoints[0];
    assert_eq!((load.waiting, load.running), (signals.waiting, signals.running));
    let uses = signals.lora.iter().map(|lora| lora.running.len() + lora.waiting.len()).sum::<usize>();
    assert_eq!(snapshot.loads.adapters.len(), uses, "every adapter in use has a name");
}

fn check_adapters(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (running, waiting) = text.split_once('\0').unwrap_or((&text, ""));
    let mut page = String::from("vllm:lora_requests_info{running_lora_adapters=\"");
    escape_into(&mut page, running);
    page.push_str("\",max_lora=\"7\",waiting_lora_adapters=\"");
    escape_into(&mut page, waiting);
    page.push_str("\"} 1.75e9\n");
    let list = |names: &str| -> Vec<String> {
        let names = names.split(',').map(str::trim).filter(|name| !name.is_empty() && name.len() <= MAX_ADAPTER_BYTES);
        names.take(MAX_ADAPTERS).map(str::to_owned).collect()
    };
    let expected = Lora { max: Some(7), running: list(running), waiting: list(waiting) };
    let signals = Signals::read(page.as_bytes()).unwrap();
    assert_eq!(signals.lora, Some(expected));
    check_published(signals);
}

/// The sample lines of a page, if all are of the plain kind that both parsers read: ASCII, no escapes, no commas or braces in
/// label values, a decimal number.
fn plain_lines(page: &[u8]) -> Option<Vec<String>> {
    let text = std::str::from_utf8(page).ok().filter(|text| text.is_ascii() && text.ends_with('\n'))?;
    let lines = text.split_terminator('\n').filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| is_plain(line).then(|| line.replace(':', COLON))).collect()
}

fn is_plain(line: &str) -> bool {
    let Some((series, value)) = line.rsplit_once(' ') else { return false };
    let is_name = |name: &str| {
        let mut bytes = name.bytes();
        !name.contains(COLON)
            && bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':'))
    };
    let is_value = |value: &str| {
        let digits = value.strip_prefix('-').unwrap_or(value);
        let (before, behind) = digits.split_once('.').unwrap_or((digits, "0"));
        let all_digits = |text: &str| (1..18).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        value == "NaN" || (all_digits(before) && all_digits(behind))
    };
    let Some((name, labels)) = series.split_once('{') else { return is_name(series) && is_value(value) };
    let Some(labels) = labels.strip_suffix('}') else { return false };
    let is_label = |label: &str| {
        label.split_once('=').is_some_and(|(name, value)| {
            let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            let is_tame = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/' | b'-');
            is_name(name) && !name.contains(':') && value.is_some_and(|value| value.bytes().all(is_tame))
        })
    };
    is_name(name) && is_value(value) && labels.split(',').all(is_label)
}

/// Names of the waiting requests, the running ones and the KV cache usage, newest first; `None`: labels tell them apart.
fn names(engine: EngineKind) -> Option<(&'static str, &'static str, &'static [&'static str])> {
    Some(match engine {
        EngineKind::Vllm => (
            "vllm_colon_num_requests_waiting",
            "vllm_colon_num_requests_running",
            &["vllm_colon_kv_cache_usage_perc", "vllm_colon_gpu_cache_usage_perc"],
        ),
        EngineKind::Sglang => {
            ("sglang_colon_num_queue_reqs", "sglang_colon_num_running_reqs", &["sglang_colon_token_usage"])
        }
        EngineKind::TrtllmServe => {
            ("trtllm_num_requests_waiting", "trtllm_num_requests_running", &["trtllm_kv_cache_utilization"])
        }
        EngineKind::LlamaCpp => (
            "llamacpp_colon_requests_deferred",
            "llamacpp_colon_requests_processing",
            &["llamacpp_colon_kv_cache_usage_ratio"],
        ),
        EngineKind::Tgi => ("tgi_queue_size", "tgi_batch_current_size", &[]),
        EngineKind::Triton => ("nv_inference_pending_request_count", "", &[]),
        EngineKind::TritonTensorrtLlm => return None,
    })
}

/// The same figures by way of a full parse into a map.
fn compare(signals: &Signals, lines: &[String]) {
    let Some(engine) = signals.engine else {
        assert_eq!((signals.waiting, signals.running, signals.kv_cache_usage), (None, None, None), "{lines:?}");
        return;
    };
    let Some((waiting, running, usages)) = names(engine) else { return };
    let scrape = Scrape::parse(lines.iter().map(|line| Ok(line.clone()))).unwrap();
    // One value for each engine: the largest of its ranks and processes; requests of a priority only where there is no total.
    let values = |name: &str| -> Option<Vec<f64>> {
        let mut engines: BTreeMap<(bool, Vec<(String, String)>), f64> = BTreeMap::new();
        for sample in scrape.samples.iter().filter(|sample| sample.metric == name) {
            let Value::Untyped(value) = sample.value else { panic!("{sample:?}") };
            if value.is_nan() || value < 0.0 {
                return None;
            }
            let has_priority = sample.labels.iter().any(|(name, value)| name == "priority" && !value.is_empty());
            let is_engine = |name: &str, value: &str| match name {
                "pid" => false,
                "priority" => !value.is_empty(),
                name => name == "dp_rank" || !name.ends_with("_rank"),
            };
            let labels = sample.labels.iter().filter(|(name, value)| is_engine(name, value));
            let mut engine: Vec<_> = labels.map(|(name, value)| (name.clone(), value.clone())).collect();
            engine.sort_unstable();
            let largest = engines.entry((has_priority, engine)).or_insert(value);
            *largest = largest.max(value);
        }
        let has_total = engines.keys().any(|(has_priority, _)| !has_priority);
        engines.retain(|(has_priority, _), _| !(*has_priority && has_total));
        Some(engines.into_values().collect())
    };
    let sum = |name: &str| -> Option<u32> {
        let values = values(name).filter(|values| !values.is_empty())?;
        let sum: f64 = values.iter().sum();
        (sum <= f64::from(u32::MAX)).then_some(sum as u32)
    };
    assert_eq!((signals.waiting, signals.running), (sum(waiting), sum(running)), "{lines:?}");
    let carried =
        usages.iter().map(|name| values(name)).find(|values| values.as_ref().is_none_or(|values| !values.is_empty()));
    let mean = carried.flatten().map(|values| values.iter().sum::<f64>() / values.len() as f64);
    // The usage of TensorRT-LLM can also be had from its blocks.
    match (signals.kv_cache_usage, mean.filter(|mean| *mean <= 1.0 + USAGE_ROUNDING)) {
        (None, mean) => assert!(mean.is_none_or(|mean| mean >= 1.0), "{lines:?}"),
        (Some(_), None) => assert_eq!(engine, EngineKind::TrtllmServe, "{lines:?}"),
        (Some(usage), Some(mean)) => assert!((usage - mean).abs() <= USAGE_ROUNDING, "{usage} {lines:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_pages_are_told_from_others() {
        assert!(plain_lines(b"# HELP x y\n\nvllm:a{b=\"c-1\",d=\"\"} 12.5\nup 1\n").is_some());
        for page in ["up 1", "up 1 2\n", "up{a=\"}\"} 1\n", "up 1e3\n", "up{a=b} 1\n", "1up 1\n", "\u{e9} 1\n", "up\n"]
        {
            assert!(plain_lines(page.as_bytes()).is_none(), "{page}");
        }
    }
}
