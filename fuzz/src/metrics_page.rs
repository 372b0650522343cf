//! The reading of pods' metrics pages: bounds for any bytes, agreement with `prometheus-parse` where a page is plain.
//!
//! Input: a byte that chooses the reading, then a page (even) or two lists of adapters parted by a zero byte (odd).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

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
    assert!(signals.missing().count() <= 4);
    let lists = signals.lora.iter().flat_map(|lora| [&lora.running, &lora.waiting]);
    for adapters in lists {
        assert!(adapters.len() <= MAX_ADAPTERS);
        assert!(adapters.iter().all(|name| !name.is_empty() && name.len() <= MAX_ADAPTER_BYTES));
    }
    // What nobody wants changes nothing.
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

/// The same figures by way of a full parse into a map.
fn compare(signals: &Signals, lines: &[String]) {
    let scrape = Scrape::parse(lines.iter().map(|line| Ok(line.clone()))).unwrap();
    // One value for each engine: the largest of its ranks.
    let values = |names: &[&str]| -> Vec<f64> {
        let mut engines: BTreeMap<Vec<(String, String)>, f64> = BTreeMap::new();
        for sample in scrape.samples.iter().filter(|sample| names.contains(&sample.metric.as_str())) {
            let Value::Untyped(value) = sample.value else { panic!("{sample:?}") };
            let is_engine = |name: &str| name == "dp_rank" || !name.ends_with("_rank");
            let labels = sample.labels.iter().filter(|(name, _)| is_engine(name));
            let mut engine: Vec<_> = labels.map(|(name, value)| (name.clone(), value.clone())).collect();
            engine.sort_unstable();
            let largest = engines.entry(engine).or_insert(value);
            *largest = if value.is_nan() { value } else { largest.max(value) };
        }
        engines.into_values().collect()
    };
    let sum = |names: &[&str]| -> Option<u32> {
        let values = values(names);
        let sum: f64 = values.iter().sum();
        let is_count = !values.is_empty() && values.iter().all(|value| *value >= 0.0) && sum <= f64::from(u32::MAX);
        is_count.then_some(sum as u32)
    };
    let waiting = ["vllm_colon_num_requests_waiting", "sglang_colon_num_queue_reqs", "trtllm_num_requests_waiting"];
    let running = ["vllm_colon_num_requests_running", "sglang_colon_num_running_reqs", "trtllm_num_requests_running"];
    assert_eq!((signals.waiting, signals.running), (sum(&waiting), sum(&running)), "{lines:?}");
    let newer = values(&["vllm_colon_kv_cache_usage_perc", "sglang_colon_token_usage", "trtllm_kv_cache_utilization"]);
    let usages = if newer.is_empty() { values(&["vllm_colon_gpu_cache_usage_perc"]) } else { newer };
    let mean = usages.iter().sum::<f64>() / usages.len() as f64;
    let is_ratio = !usages.is_empty() && usages.iter().all(|usage| *usage >= 0.0);
    match signals.kv_cache_usage {
        Some(usage) => assert!(is_ratio && (usage - mean).abs() <= USAGE_ROUNDING, "{usage} {lines:?}"),
        None => assert!(!is_ratio || mean >= 1.0, "{lines:?}"),
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
