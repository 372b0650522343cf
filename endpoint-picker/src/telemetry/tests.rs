use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use std::collections::BTreeMap;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::config::Plugin;
use crate::flow_control::{QueueOutcome, Queued};
use crate::ledger::{SinkKind, StatSink};
use crate::openai::{Api, Usage};
use crate::reply::ErrorCode;
use crate::time::Timestamp;

/// Envoy's stats by name.
#[derive(Default)]
struct Stats {
    names: Vec<String>,
    values: BTreeMap<String, u64>,
}

impl StatSink for Stats {
    fn define(&mut self, _: SinkKind, family: &str, suffix: &str, labels: &[(Label, &str)]) -> Option<u32> {
        let name = catalogue::stat_name(family, suffix, labels);
        assert!(!self.values.contains_key(&name), "{name} defined twice");
        self.values.insert(name.clone(), 0);
        self.names.push(name);
        u32::try_from(self.names.len() - 1).ok()
    }

    fn add(&mut self, id: u32, delta: u64) {
        *self.values.get_mut(&self.names[id as usize]).unwrap() += delta;
    }

    fn set(&mut self, id: u32, value: u64) {
        self.values.insert(self.names[id as usize].clone(), value);
    }

    fn has_time(&mut self) -> bool {
        true
    }
}

impl Stats {
    fn carry(&mut self, telemetry: &mut Telemetry) {
        let ledger = telemetry.derive();
        ledger.define(self);
        ledger.begin_flush();
        assert!(ledger.flush(self));
    }

    /// The sum over all series of a stat whose labels contain these.
    fn sum(&self, stat: &str, labels: &[(&str, &str)]) -> u64 {
        let of_stat = |name: &&String| name.rsplit(';').next() == Some(stat);
        let has =
            |name: &str| labels.iter().all(|(label, value)| format!(";{name}").contains(&format!(";{label}={value};")));
        self.values.iter().filter(|(name, _)| of_stat(name) && has(name)).map(|(_, value)| value).sum()
    }
}

fn telemetry(json: &str) -> Telemetry {
    let Ok(Plugin::Filter(config)) = Plugin::parse(json.as_bytes()) else { panic!("{json}") };
    let mut telemetry = Telemetry::new(&config);
    telemetry.propose_models(["m", "t"].into_iter());
    admit(&mut telemetry);
    telemetry
}

/// What a tick does with what was proposed.
fn admit(telemetry: &mut Telemetry) {
    let admission = telemetry.admission_mut();
    let known = crate::admission::Table {
        models: ["m", "t", "r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9"].map(String::from).to_vec(),
        ..crate::admission::Table::default()
    };
    admission.learn(&prost::Message::encode_to_vec(&known));
}

fn served(api: Api, target: &str, response: &str, streamed: bool, priority: i64) -> Box<ExchangeRecord> {
    let mut record = Box::new(ExchangeRecord::begin(Timestamp::from_micros(1_000)));
    record.api = Some(api);
    record.priority = priority;
    record.model = "m".into();
    record.target_model = target.into();
    record.response_model = Some(response.into());
    record.request.bytes = 100;
    record.times.sent = Some(Timestamp::from_micros(2_000));
    record.times.ended = Timestamp::from_micros(301_000);
    let usage = Usage {
        prompt_tokens: Some(50),
        completion_tokens: Some(20),
        cached_tokens: Some(16),
        reasoning_tokens: Some(5),
        total_tokens: None,
    };
    if streamed {
        record.times.first_content = Some(Timestamp::from_micros(51_000));
        record.times.last_content = Some(Timestamp::from_micros(241_000));
    }
    let outcome = ResponseOutcome::Parsed;
    record.response = Some(ResponseSummary { status: 200, bytes: 300, streamed, outcome, usage, complete: true });
    record
}

#[test]
fn one_record_is_told_by_every_spelling() {
    let mut telemetry = telemetry(r#"{"metrics": {"model": true, "llm_d": true}}"#);
    let (mut stats, pool) = (Stats::default(), Pool::default());
    for round in 1..=2 {
        // What no label tells apart shares the series of the families without it.
        for (streamed, priority) in [(false, 0), (true, 0), (true, 7)] {
            telemetry.record(&pool, served(Api::ChatCompletions, "t", "t", streamed, priority));
        }
        stats.carry(&mut telemetry);
        for (spelling, total) in [("inference_objective", 3), ("inference_model", 3)] {
            assert_eq!(stats.sum(&format!("{spelling}_request_total"), &[]), round * total);
            assert_eq!(stats.sum(&format!("{spelling}_request_duration_seconds_count"), &[]), round * 3);
            assert_eq!(stats.sum(&format!("{spelling}_input_tokens_sum"), &[("model_name", "m")]), round * 150);
        }
        let genai = [("gen_ai_operation_name", "chat"), ("gen_ai_request_model", "m"), ("gen_ai_response_model", "t")];
        let usage = "gen_ai_client_inference_usage";
        for (kind, tokens) in [("input", 150), ("output", 60), ("cache_read_input", 48), ("reasoning_output", 15)] {
            assert_eq!(stats.sum(&format!("{usage}_{kind}_tokens_total"), &genai), round * tokens, "{kind}");
        }
        let of = |family: &str, le: &str| stats.sum(&format!("{family}_bucket"), &[("le", le)]);
        let duration = "gen_ai_client_operation_duration_seconds";
        assert_eq!(["0.16", "0.32"].map(|le| of(duration, le)), [0, round * 3]);
        assert_eq!(["0.2", "0.4"].map(|le| of("llm_d_epp_request_duration_seconds", le)), [0, round * 3]);
        assert_eq!(stats.sum("llm_d_epp_request_total", &[("priority", "7"), ("fairness_id", "default-flow")]), round);
        assert_eq!(stats.sum("llm_d_epp_request_ttft_seconds_count", &[("streaming", "false")]), round);
        assert_eq!(stats.sum("llm_d_epp_request_ttft_seconds_count", &[("streaming", "true")]), round * 2);
        assert_eq!(["0.04", "0.06"].map(|le| of("gen_ai_server_time_to_first_token_seconds", le)), [0, round * 2]);
        let tpot = "gen_ai_server_time_per_output_token_seconds_sum_microseconds";
        assert_eq!(stats.sum(tpot, &[]), round * 2 * 10_000);
        assert_eq!(
            stats.sum("normalized_time_per_output_token_seconds_count", &[("target_model_name", "t")]),
            round * 3
        );
    }
}

#[test]
fn a_failure_has_a_duration_of_its_type_alone() {
    let mut telemetry = telemetry("");
    let (mut stats, pool) = (Stats::default(), Pool::default());
    // An answer of 500, a client that left before any, and a refusal.
    for (code, status, is_sent) in [
        (ErrorCode::ModelServerError, Some(500), true),
        (ErrorCode::Cancelled, None, true),
        (ErrorCode::BadRequest, None, false),
    ] {
        let mut record = served(Api::Completions, "m", "m", false, 0);
        record.end = End::Failed(code);
        record.response_model = None;
        record.times.sent = record.times.sent.filter(|_| is_sent);
        let usage = Usage::default();
        record.response =
            record.response.zip(status).map(|(response, status)| ResponseSummary { status, usage, ..response });
        telemetry.record(&pool, record);
    }
    stats.carry(&mut telemetry);
    for (kind, code) in [("500", "ModelServerError"), ("cancelled", "Cancelled"), ("invalid_request", "BadRequest")] {
        let labels =
            [("error_type", kind), ("gen_ai_operation_name", "text_completion"), ("gen_ai_response_model", "")];
        assert_eq!(stats.sum("gen_ai_client_operation_duration_seconds_count", &labels), 1, "{kind}");
        assert_eq!(stats.sum("inference_objective_request_error_total", &[("error_code", code)]), 1, "{code}");
    }
    assert_eq!(stats.sum("gen_ai_server_request_duration_seconds_count", &[]), 2);
    assert_eq!(stats.sum("inference_objective_request_total", &[]), 3);
    assert_eq!(stats.sum("inference_objective_request_duration_seconds_count", &[]), 1);
}

#[test]
fn a_server_that_makes_names_up_takes_few_labels() {
    let mut telemetry = telemetry("");
    let (mut stats, pool) = (Stats::default(), Pool::default());
    for number in 0..10 {
        telemetry.record(&pool, served(Api::ChatCompletions, "m", &format!("r{number}"), false, 0));
    }
    stats.carry(&mut telemetry);
    let total = "gen_ai_client_inference_usage_output_tokens_total";
    assert_eq!(stats.sum(total, &[("gen_ai_response_model", "r7")]), 20);
    assert_eq!(stats.sum(total, &[("gen_ai_response_model", "other")]), 40);
    assert_eq!(stats.sum("inpick_label_overflows_total", &[("label", "gen_ai_response_model")]), 2);
}

#[test]
fn what_never_had_a_sample_is_not_defined() {
    let mut telemetry = telemetry(r#"{"metrics": {"llm_d": true}}"#);
    let mut stats = Stats::default();
    stats.carry(&mut telemetry);
    assert!(stats.names.is_empty(), "{:?}", stats.names);
    let mut record = served(Api::Embeddings, "m", "m", false, 0);
    if let Some(response) = &mut record.response {
        response.usage = Usage { prompt_tokens: Some(3), ..Usage::default() };
    }
    telemetry.record(&Pool::default(), record);
    stats.carry(&mut telemetry);
    for absent in [
        "output_tokens",
        "ttft_seconds_sum{streaming=true",
        "cached_tokens",
        "reasoning",
        "per_output_token",
        "token_type=output",
    ] {
        assert!(!stats.names.iter().any(|name| name.contains(absent)), "{absent}");
    }
}

fn queued(fairness_id: &str, outcome: QueueOutcome, priority: i64) -> Box<ExchangeRecord> {
    let mut record = served(Api::ChatCompletions, "t", "t", false, priority);
    let fairness_id = fairness_id.into();
    record.queued = Some(Queued {
        fairness_id,
        priority,
        enqueued_at: Timestamp::from_micros(1_500),
        enqueue_micros: 3,
        waited_micros: 1_200_000,
        outcome,
        bytes: 100,
    });
    if outcome != QueueOutcome::Dispatched {
        record.response = None;
        record.end = End::Failed(ErrorCode::ResourceExhausted);
    }
    record
}

/// Flow control is on, and these fairness ids have labels.
fn flow_telemetry(metrics: &str, ids: &[&str]) -> Telemetry {
    let Ok(Plugin::Filter(mut config)) = Plugin::parse(metrics.as_bytes()) else { panic!("{metrics}") };
    config.stats.flow_control = true;
    let mut telemetry = Telemetry::new(&config);
    let known = crate::admission::Table {
        models: ["m", "t"].map(String::from).to_vec(),
        fairness_ids: ids.iter().map(|id| String::from(*id)).collect(),
        ..crate::admission::Table::default()
    };
    telemetry.admission_mut().learn(&prost::Message::encode_to_vec(&known));
    telemetry
}

const FLOW: &str = "inference_extension_flow_control_";

#[test]
fn time_in_flow_control_is_told_by_flow_and_outcome_in_both_spellings() {
    let mut telemetry = flow_telemetry(r#"{"metrics": {"llm_d": true}}"#, &["a", "b"]);
    let (mut stats, pool) = (Stats::default(), Pool::default());
    for outcome in QueueOutcome::ALL {
        telemetry.record(&pool, queued("a", outcome, 5));
    }
    telemetry.record(&pool, queued("b", QueueOutcome::Dispatched, 0));
    telemetry.record_dispatch_cycle(150);
    stats.carry(&mut telemetry);
    let waits = format!("{FLOW}request_queue_duration_seconds");
    for outcome in QueueOutcome::ALL {
        let labels = [("fairness_id", "a"), ("priority", "5"), ("outcome", outcome.label())];
        assert_eq!(stats.sum(&format!("{waits}_count"), &labels), 1, "{outcome:?}");
        assert_eq!(stats.sum(&format!("{FLOW}request_enqueue_duration_seconds_count"), &labels), 1, "{outcome:?}");
        let newest = [&labels[..], &[("inference_pool", "default"), ("model_name", "m"), ("target_model_name", "t")]];
        let newest = newest.concat();
        assert_eq!(stats.sum("llm_d_epp_flow_control_request_queue_duration_seconds_count", &newest), 1, "{outcome:?}");
        let bands = [("priority", "5"), ("outcome", outcome.label()), ("inference_pool", "default")];
        assert_eq!(stats.sum("llm_d_epp_flow_control_requests_total", &bands), 1, "{outcome:?}");
    }
    let buckets = ["1", "2.5"].map(|le| stats.sum(&format!("{waits}_bucket"), &[("le", le)]));
    assert_eq!((buckets, stats.sum(&format!("{waits}_sum_microseconds"), &[])), ([0, 9], 9 * 1_200_000));
    let cycles = |le| stats.sum(&format!("{FLOW}dispatch_cycle_duration_seconds_bucket"), &[("le", le)]);
    assert_eq!(["0.0001", "0.0002"].map(cycles), [0, 1]);
    // Requests are told apart by flow in the spelling that has the label.
    let requests = |id| stats.sum("llm_d_epp_request_total", &[("fairness_id", id)]);
    assert_eq!(["a", "b", "default-flow"].map(requests), [8, 1, 0]);
    assert_eq!(stats.sum("inference_objective_request_total", &[]), 9);
}

#[test]
fn flow_control_that_is_off_defines_nothing() {
    let mut telemetry = telemetry(r#"{"metrics": {"llm_d": true, "model": true}}"#);
    let (mut stats, pool) = (Stats::default(), Pool::default());
    telemetry.record(&pool, served(Api::ChatCompletions, "t", "t", true, 0));
    telemetry.record_dispatch_cycle(1);
    stats.carry(&mut telemetry);
    assert_eq!(stats.names.iter().find(|name| name.contains("flow_control")), None);
    assert!(!stats.names.is_empty());
}

#[test]
fn a_fairness_id_takes_a_place_once_it_is_served_or_waits_and_beyond_the_bound_is_other() {
    let mut telemetry = flow_telemetry(r#"{"metrics": {"max_fairness_ids": 2}}"#, &[]);
    let (mut stats, pool) = (Stats::default(), Pool::default());
    let mut stored = None;
    let mut admit = |telemetry: &mut Telemetry| {
        let admission = telemetry.admission_mut();
        if let Some(grown) = admission.merge(stored.as_deref()) {
            admission.learn(&grown);
            stored = Some(grown);
        }
        telemetry.settle_pending(&Pool::default());
    };
    // Refused at the door: a client can make such names up.
    telemetry.record(&pool, queued("made-up", QueueOutcome::RejectedCapacity, 0));
    let waits = queued("waits", QueueOutcome::EvictedTTL, 0);
    telemetry.note_waiting(WaitingNote::of(&waits, true).unwrap());
    telemetry.propose_waiting();
    telemetry.record(&pool, queued("served", QueueOutcome::Dispatched, 0));
    admit(&mut telemetry);
    telemetry.note_waiting(WaitingNote::of(&waits, false).unwrap());
    telemetry.record(&pool, waits);
    assert_eq!(telemetry.waiting().count(), 0);
    telemetry.record(&pool, queued("late", QueueOutcome::Dispatched, 0));
    telemetry.record(&pool, queued("later", QueueOutcome::RejectedCapacity, 0));
    admit(&mut telemetry);
    stats.carry(&mut telemetry);
    let count = |id| stats.sum(&format!("{FLOW}request_queue_duration_seconds_count"), &[("fairness_id", id)]);
    assert_eq!(["waits", "served", "other", "made-up", "late"].map(count), [1, 1, 3, 0, 0]);
    assert_eq!(stats.sum("inpick_label_overflows_total", &[("label", "fairness_id")]), 1);
}

#[test]
fn what_waits_is_counted_by_flow_and_model_until_it_ceases_to() {
    let mut telemetry = flow_telemetry("{}", &["a"]);
    let note = |id: &str, model: &str, bytes, began| {
        let mut record = queued(id, QueueOutcome::Dispatched, 5);
        record.model = model.into();
        record.queued.as_mut().unwrap().bytes = bytes;
        WaitingNote::of(&record, began).unwrap()
    };
    for (id, model, bytes) in [("a", "m", 10), ("a", "m", 20), ("a", "unknown", 1), ("b", "m", 2)] {
        telemetry.note_waiting(note(id, model, bytes, true));
    }
    let table = crate::admission::Table {
        models: ["m", "t"].map(String::from).to_vec(),
        fairness_ids: ["a"].map(String::from).to_vec(),
        ..crate::admission::Table::default()
    };
    let shown = |telemetry: &Telemetry| {
        let waiting = telemetry.waiting();
        let texts = |post: &WaitingPost| post.texts(&table).map(String::from).join(" ");
        waiting.map(|post| (texts(&post), post.priority, post.requests, post.bytes)).collect::<Vec<_>>()
    };
    let expected = [("a m t", 2, 30), ("a other t", 1, 1), ("other m t", 1, 2)];
    let expected = expected.map(|(labels, requests, bytes)| (String::from(labels), 5, requests, bytes));
    assert_eq!(shown(&telemetry), expected);
    telemetry.note_waiting(note("a", "m", 10, false));
    telemetry.note_waiting(note("b", "m", 2, false));
    // What never began cannot end.
    telemetry.note_waiting(note("c", "m", 2, false));
    assert_eq!(shown(&telemetry), [(String::from("a m t"), 5, 1, 20), expected[1].clone()]);
}
