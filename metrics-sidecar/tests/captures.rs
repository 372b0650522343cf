//! Real pages of vLLM, with the answers read off them by hand, and a second parser to argue with.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test should stop at what it did not expect")]

use metrics_sidecar::counters::Counters;
use metrics_sidecar::dialect::EngineKind;
use metrics_sidecar::signals::{Lora, Signals};
use prometheus_parse::{Scrape, Value};
use proptest::prelude::*;

const LOAD: &str = include_str!("fixtures/vllm-0.32-load.txt");
const LOAD_LORA_SWAP: &str = include_str!("fixtures/vllm-0.32-load-lora-swap.txt");
const IDLE: &str = include_str!("fixtures/vllm-0.32-idle.txt");
const PRESSURE: &str = include_str!("fixtures/vllm-0.32-kv-pressure.txt");
const EMBEDDINGS: &str = include_str!("fixtures/vllm-0.32-embeddings.txt");

fn read(page: &str) -> Signals {
    Signals::read(page.as_bytes()).unwrap()
}

fn lora(max: u32, names: &[&str]) -> Option<Lora> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    Some(Lora { max: Some(max), running: names.clone(), waiting: names })
}

#[test]
fn a_busy_engine_with_two_adapters() {
    assert_eq!(
        read(LOAD),
        Signals {
            engine: Some(EngineKind::Vllm),
            waiting: Some(16),
            running: Some(16),
            kv_cache_usage: Some(0.000_976_592_303_231_882_4),
            block_size: Some(128),
            num_gpu_blocks: Some(32768),
            lora: lora(2, &["lora-a", "lora-b"]),
            started_at_ms: Some(1_795_319_976_960),
            sleeping: Some(false),
            counters: Counters {
                values: [Some(10026.0), Some(830.0), Some(9833.0), None, Some(26265.0)],
                count_steps: true
            },
        }
    );
}

#[test]
fn the_newest_of_four_adapter_series_counts() {
    assert_eq!(read(LOAD_LORA_SWAP).lora, lora(2, &["lora-b", "lora-a"]));
}

#[test]
fn an_idle_engine_says_zero_and_names_no_adapters() {
    let signals = read(IDLE);
    assert_eq!((signals.waiting, signals.running, signals.kv_cache_usage), (Some(0), Some(0), Some(0.0)));
    assert_eq!(signals.lora, None, "before the first request vLLM prints no lora_requests_info");
}

#[test]
fn an_engine_under_memory_pressure() {
    let signals = read(PRESSURE);
    assert_eq!((signals.waiting, signals.running), (Some(26), Some(6)));
    assert_eq!(signals.kv_cache_usage, Some(0.936_507_936_507_936_5));
    assert_eq!((signals.block_size, signals.num_gpu_blocks), (Some(32), Some(64)));
    assert_eq!(signals.lora, lora(1, &["lora-a"]));
}

#[test]
fn an_embedding_engine() {
    let signals = read(EMBEDDINGS);
    assert_eq!((signals.waiting, signals.running, signals.sleeping), (Some(0), Some(0), Some(false)));
    assert_eq!(signals.missing().count(), 0);
}

/// The same answers by way of a full parse into a map. That parser knows no colons in names, and no `}` within labels.
fn naive(page: &str) -> (Option<u32>, Option<u32>, Option<f64>) {
    let scrape = Scrape::parse(page.lines().map(|line| Ok(line.replace("vllm:", "vllm_")))).unwrap();
    let values = |name: &str| -> Vec<f64> {
        let samples = scrape.samples.iter().filter(|sample| sample.metric == name);
        samples
            .filter_map(|sample| match sample.value {
                Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => Some(value),
                _ => None,
            })
            .collect()
    };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the pages hold small counts")]
    let sum = |name: &str| Some(values(name)).filter(|all| !all.is_empty()).map(|all| all.iter().sum::<f64>() as u32);
    let usage = [values("vllm_kv_cache_usage_perc"), values("vllm_gpu_cache_usage_perc")]
        .into_iter()
        .find(|all| !all.is_empty());
    #[allow(clippy::cast_precision_loss, reason = "the pages hold few engines")]
    let usage = usage.map(|all| all.iter().sum::<f64>() / all.len() as f64);
    (sum("vllm_num_requests_waiting"), sum("vllm_num_requests_running"), usage)
}

#[test]
fn every_capture_reads_the_same_by_a_full_parse() {
    for page in [LOAD, LOAD_LORA_SWAP, IDLE, PRESSURE, EMBEDDINGS] {
        let signals = read(page);
        assert_eq!((signals.waiting, signals.running, signals.kv_cache_usage), naive(page));
    }
}

fn family() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "vllm:num_requests_waiting",
        "vllm:num_requests_running",
        "vllm:kv_cache_usage_perc",
        "vllm:gpu_cache_usage_perc",
        "vllm:num_requests_waiting_by_reason",
        "vllm:prompt_tokens_total",
        "process_open_fds",
    ])
}

proptest! {
    #[test]
    fn any_mix_of_families_reads_the_same_by_a_full_parse(
        lines in prop::collection::vec((family(), 0_u8..4, "[a-zA-Z0-9/.:{,= -]{0,12}", 0_u32..1000), 0..40),
    ) {
        let mut page = String::from("# HELP x y\n");
        let mut series = std::collections::HashSet::new();
        for (name, engine, model, value) in &lines {
            // A page holds each series once.
            if !series.insert((name, engine, model)) {
                continue;
            }
            let value = if name.ends_with("_perc") { f64::from(*value) / 1000.0 } else { f64::from(*value) };
            page.push_str(&format!("{name}{{engine=\"{engine}\",model_name=\"{model}\"}} {value:?}\n"));
        }
        let signals = read(&page);
        let (waiting, running, usage) = naive(&page);
        prop_assert_eq!((signals.waiting, signals.running), (waiting, running));
        match (signals.kv_cache_usage, usage) {
            (Some(ours), Some(theirs)) => prop_assert!((ours - theirs).abs() < 1e-9),
            (ours, theirs) => prop_assert_eq!(ours, theirs),
        }
    }
}
