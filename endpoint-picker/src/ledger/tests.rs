use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;

use catalogue::{Bounds, Kind};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;

/// A host's stats with a budget of definitions and additions.
struct Host {
    names: Vec<String>,
    values: BTreeMap<String, u64>,
    time: usize,
    /// A family that the host refuses.
    refused: Option<String>,
}

impl Host {
    fn with_time(time: usize) -> Self {
        Self { names: Vec::new(), values: BTreeMap::new(), time, refused: None }
    }

    fn value(&self, name: &str) -> u64 {
        self.values.get(name).copied().unwrap_or_else(|| panic!("{name} is not in {:?}", self.values))
    }
}

impl StatSink for Host {
    fn define(&mut self, _: SinkKind, family: &str, suffix: &str, labels: &[(Label, &str)]) -> Option<u32> {
        let name = catalogue::stat_name(family, suffix, labels);
        if self.refused == Some(family.to_string()) {
            return None;
        }
        assert!(!self.names.contains(&name), "{name} defined twice");
        self.names.push(name.to_string());
        self.values.insert(name.to_string(), 0);
        Some(u32::try_from(self.names.len() - 1).unwrap())
    }

    fn add(&mut self, id: u32, delta: u64) {
        *self.values.get_mut(&self.names[id as usize]).unwrap() += delta;
    }

    fn set(&mut self, id: u32, value: u64) {
        self.values.insert(self.names[id as usize].clone(), value);
    }

    fn has_time(&mut self) -> bool {
        self.time = self.time.saturating_sub(1);
        self.time > 0
    }
}

const INPUT: Stat = Stat::ObjectiveInputTokens;
const DURATION: Stat = Stat::ObjectiveRequestDurationSeconds;

fn ledger(model: bool) -> Ledger {
    Ledger::new(StatsConfig { model, ..StatsConfig::default() })
}

fn settle(ledger: &mut Ledger, host: &mut Host) {
    host.time = usize::MAX;
    ledger.define(host);
    ledger.begin_flush();
    assert!(ledger.flush(host));
}

#[test]
fn a_histogram_becomes_cumulative_counters_with_exact_sums() {
    let (mut ledger, mut host) = (ledger(false), Host::with_time(0));
    let id = ledger.labelled(INPUT, &["m", "t"]).unwrap();
    for tokens in [1, 8, 9, 32_778, 32_779, 2_000_000] {
        ledger.sample(id, tokens);
    }
    settle(&mut ledger, &mut host);
    let bucket = |le: &str| {
        host.value(&format!("le={le};model_name=m;target_model_name=t;inference_objective_input_tokens_bucket"))
    };
    assert_eq!(["1", "8", "16", "16384", "32778", "65536", "+Inf"].map(bucket), [1, 2, 3, 3, 4, 5, 6]);
    assert_eq!(host.value("model_name=m;target_model_name=t;inference_objective_input_tokens_sum"), 2_065_575);
    assert_eq!(host.value("model_name=m;target_model_name=t;inference_objective_input_tokens_count"), 6);
}

#[test]
fn seconds_are_carried_so_that_the_sum_never_drifts() {
    let (mut ledger, mut host) = (ledger(false), Host::with_time(0));
    let id = ledger.labelled(DURATION, &["m", "m"]).unwrap();
    for _ in 0..10 {
        ledger.sample(id, 350_000);
        settle(&mut ledger, &mut host);
    }
    let labels = "model_name=m;target_model_name=m;inference_objective_request_duration_seconds";
    assert_eq!(host.value(&format!("{labels}_sum")), 3);
    assert_eq!(host.value(&format!("{labels}_sum_microseconds")), 3_500_000);
    assert_eq!(host.value(&format!("le=0.2;{labels}_bucket")), 0);
    assert_eq!(host.value(&format!("le=0.4;{labels}_bucket")), 10);
}

#[test]
fn a_sum_of_ratios_has_an_exact_twin_as_one_of_seconds_has() {
    let (mut ledger, mut host) = (ledger(false), Host::with_time(0));
    let ratio = ledger.labelled(Stat::TtftRatio, &["p"]).unwrap();
    let hits = ledger.labelled(Stat::PrefixIndexerHitRatio, &[]).unwrap();
    for _ in 0..3 {
        ledger.sample(ratio, 1_100_001);
        ledger.sample(hits, 0);
        settle(&mut ledger, &mut host);
    }
    assert_eq!(host.value("pool=p;inpick_ttft_ratio_sum"), 3);
    assert_eq!(host.value("pool=p;inpick_ttft_ratio_sum_millionths"), 3_300_003);
    assert_eq!(host.value("inference_extension_prefix_indexer_hit_ratio_sum_millionths"), 0);
    assert_eq!(host.value("inference_extension_prefix_indexer_hit_ratio_count"), 3);
    assert!(host.names.iter().all(|name| !name.ends_with("ratio_sum_microseconds")));
}

#[test]
fn one_accumulator_feeds_every_spelling() {
    let (mut ledger, mut host) = (ledger(true), Host::with_time(0));
    let (short, long) = (Bounds::OUTPUT_TOKENS, Bounds::GEN_AI_TOKENS);
    let mut accumulator = Accumulator::new(Arc::new(Limits::of([short, long].into_iter())));
    for (stat, labels) in [
        (Stat::ObjectiveOutputTokens, &["m", "m"][..]),
        (Stat::ModelOutputTokens, &["m", "m"]),
        (Stat::GenAiClientTokenUsage, &["chat", "vllm", "m", "m", "output"]),
    ] {
        let Kind::Histogram(bounds) = stat.family().kind else { panic!("{stat:?}") };
        accumulator.give_samples(ledger.labelled(stat, labels).unwrap(), bounds);
    }
    accumulator.give_sum(ledger.labelled(Stat::GenAiOutputTokensTotal, &["chat", "vllm", "m", "m"]).unwrap());
    accumulator.give_number(ledger.labelled(Stat::ModelRequestTotal, &["m", "m"]).unwrap());
    for round in 1..=2 {
        for tokens in [4, 5, 65, 8_192, 8_193] {
            accumulator.record(tokens);
        }
        ledger.absorb(&mut accumulator);
        settle(&mut ledger, &mut host);
        let value = |name: &str| host.value(name) / round;
        for family in ["inference_objective_output_tokens", "inference_model_output_tokens"] {
            let bucket = |le: &str| format!("le={le};model_name=m;target_model_name=m;{family}_bucket");
            let counts = ["1", "8", "64", "128", "8192", "+Inf"].map(|le| value(&bucket(le)));
            assert_eq!(counts, [0, 2, 2, 3, 4, 5]);
            assert_eq!(value(&format!("model_name=m;target_model_name=m;{family}_sum")), 16_459);
        }
        let labels =
            "gen_ai_operation_name=chat;gen_ai_provider_name=vllm;gen_ai_request_model=m;gen_ai_response_model=m;";
        let bucket = |le: &str| format!("le={le};{labels}gen_ai_token_type=output;gen_ai_client_token_usage_bucket");
        assert_eq!(["1", "4", "16", "64", "4096", "16384"].map(|le| value(&bucket(le))), [0, 1, 2, 2, 3, 5]);
        assert_eq!(value(&format!("{labels}gen_ai_client_inference_usage_output_tokens_total")), 16_459);
        assert_eq!(value("model_name=m;target_model_name=m;inference_model_request_total"), 5);
    }
}

#[test]
fn definitions_are_spread_and_nothing_counted_meanwhile_is_lost() {
    let (mut ledger, mut host) = (ledger(false), Host::with_time(0));
    let id = ledger.labelled(INPUT, &["m", "m"]).unwrap();
    ledger.sample(id, 5);
    let mut rounds = 0;
    while ledger.undefined() > 0 {
        host.time = 6;
        ledger.define(&mut host);
        ledger.begin_flush();
        ledger.flush(&mut host);
        ledger.sample(id, 5);
        rounds += 1;
    }
    assert!(rounds > 3, "{rounds}");
    settle(&mut ledger, &mut host);
    assert_eq!(host.value("model_name=m;target_model_name=m;inference_objective_input_tokens_count"), rounds + 1);
}

#[test]
fn totals_are_defined_before_histograms_that_came_earlier() {
    let (mut ledger, mut host) = (ledger(false), Host::with_time(3));
    ledger.labelled(INPUT, &["m", "m"]).unwrap();
    ledger.count(Stat::ObjectiveRequestTotal, &["m", "m", "0"]);
    ledger.define(&mut host);
    assert_eq!(host.names[0], "model_name=m;target_model_name=m;priority=0;inference_objective_request_total");
}

#[test]
fn a_flush_that_runs_out_of_time_goes_on_where_it_stopped() {
    let (mut ledger, mut host) = (ledger(false), Host::with_time(usize::MAX));
    for outcome in ["a", "b", "c", "d"] {
        ledger.count(Stat::RequestBodiesTotal, &[outcome]);
    }
    ledger.define(&mut host);
    ledger.begin_flush();
    host.time = 3;
    assert!(!ledger.flush(&mut host));
    host.time = usize::MAX;
    assert!(ledger.flush(&mut host));
    for outcome in ["a", "b", "c", "d"] {
        assert_eq!(host.value(&format!("outcome={outcome};inpick_request_bodies_total")), 1);
    }
}

#[test]
fn a_switched_off_family_is_never_defined() {
    let config = StatsConfig { objective: false, ..StatsConfig::default() };
    let (mut ledger, mut host) = (Ledger::new(config), Host::with_time(0));
    assert_eq!(ledger.labelled(DURATION, &["m", "m"]), None);
    ledger.count(Stat::ObjectiveRequestTotal, &["m", "m", "0"]);
    settle(&mut ledger, &mut host);
    assert!(host.names.is_empty());
}

#[test]
fn a_gauge_is_set_to_its_last_value() {
    let (mut ledger, mut host) = (ledger(false), Host::with_time(0));
    ledger.set(Stat::SnapshotGeneration, &[], 4);
    ledger.set(Stat::SnapshotGeneration, &[], 0);
    settle(&mut ledger, &mut host);
    assert_eq!(host.value("inpick_snapshot_generation"), 0);
}

#[test]
fn a_refused_stat_is_asked_for_once_and_left_out() {
    let (mut ledger, mut host) = (ledger(true), Host::with_time(0));
    host.refused = Some("inference_objective_input_tokens".to_string());
    let ids = [INPUT, Stat::ModelInputTokens].map(|stat| ledger.labelled(stat, &["m", "m"]).unwrap());
    for round in 1..=2 {
        for id in ids {
            ledger.sample(id, 5);
        }
        settle(&mut ledger, &mut host);
        assert_eq!(host.value("model_name=m;target_model_name=m;inference_model_input_tokens_count"), round);
    }
    assert_eq!(ledger.undefined(), 0);
}
