//! Why a request went where it went: what one pick was made of, and what came of it, for those who ask for it one by one.

mod fields;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde::Serialize;

use crate::pool::{EndpointId, Pool};
use crate::record::{End, ExchangeRecord, Pick};
use crate::scheduling::{Entry, Rating};
use fields::Fields;

/// Most bytes of a model's name that are told: a label's value has as many.
const MAX_NAME_BYTES: usize = 128;

/// What one pick was made of and what came of it, apart from the pool that it was made of.
///
/// Its JSON leaves out what is not known. Times are milliseconds with three decimals.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Explanation {
    /// `x-request-id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The pool that was picked from.
    pub pool: String,
    /// OpenTelemetry's `gen_ai.operation.name`; `None`: a request that is routed by load alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<&'static str>,
    /// The model as the client wrote it, cut at 128 bytes; empty: none.
    pub model: String,
    /// The model as it was sent upstream, cut at 128 bytes.
    pub target_model: String,
    /// What decided the pick, as `inpick_picks_total` has it, or `no_endpoint`; `None`: nothing was picked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The endpoint that was picked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub picked: Option<String>,
    /// The ranked list, best first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ranked: Vec<RankedEndpoint>,
    /// Endpoints that were tried and failed, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<FailedEndpoint>,
    /// How often an endpoint was tried, as far as that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// The address of the endpoint that answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub served: Option<String>,
    /// Why that one answered: the pick's reason, `retry` or `fallback`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub served_reason: Option<&'static str>,
    /// The status of the endpoint's answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// How it failed, as the label `error_code` has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'static str>,
    /// From the request's headers to the first content of a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<f64>,
    /// From the request's headers to the end; `None`: it is not over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<f64>,
    /// Tokens of the prompt, those from the cache included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    /// Tokens of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    /// Tokens of the prompt that the endpoint had in its cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u64>,
    /// Tokens of the answer that were reasoning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<u64>,
}

/// An endpoint of the ranked list, and what it was rated by. Without a scorer that predicts, what it would predict is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RankedEndpoint {
    /// Its address.
    pub endpoint: String,
    /// The sum of its scores times their weights; `None`: it stands above all scores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// By how much the request and others would be later there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_ms: Option<f64>,
    /// The time to the first token that was expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_ttft_ms: Option<f64>,
    /// The wait for a slot in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<f64>,
    /// Tokens of the prompt that it should have in its cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u32>,
    /// Tokens of the prompt that it has to compute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uncached_tokens: Option<u32>,
    /// Tokens of earlier requests that it has yet to compute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ahead_tokens: Option<u32>,
    /// Requests in its batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<u32>,
    /// Requests of this proxy that it had in flight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u32>,
    /// Age of its figures; left out: it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal_age_ms: Option<u32>,
}

/// An endpoint that was tried and failed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FailedEndpoint {
    /// Its address.
    pub endpoint: String,
    /// How it failed, as `inpick_endpoint_failures_total` has it.
    pub reason: &'static str,
}

impl Explanation {
    /// What a record tells, be it over or not. `pool` knows the endpoints by now, under that name.
    #[must_use]
    pub fn of(record: &ExchangeRecord, pool: &Pool, pool_name: &str) -> Self {
        let (reason, entries) = match &record.pick {
            Pick::None => (None, None),
            Pick::NoEndpoint => (Some("no_endpoint"), None),
            Pick::Ranked(ranked, reason) => (Some(reason.as_str()), Some(ranked.entries())),
        };
        let ratings = record.ratings.as_deref().into_iter().flatten().map(Some).chain(core::iter::repeat(None));
        let rated = entries.into_iter().flatten().zip(ratings);
        let ranked: Vec<_> = rated.map(|(entry, rating)| RankedEndpoint::of(&entry, rating, pool)).collect();
        let failed = record
            .failed
            .iter()
            .flatten()
            .map(|&(id, failure)| FailedEndpoint { endpoint: address(pool, id), reason: failure.as_str() });
        let usage = record.response.map(|response| response.usage).unwrap_or_default();
        let times = &record.times;
        let is_over = times.ended > times.started;
        Self {
            request_id: record.request_id.map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned()),
            pool: pool_name.to_string(),
            operation: record.api.map(crate::openai::Api::operation),
            model: name(&record.model),
            target_model: name(&record.target_model),
            reason,
            picked: ranked.first().map(|first| first.endpoint.clone()),
            ranked,
            failed: failed.collect(),
            attempts: (record.attempts > 0).then_some(record.attempts),
            served: record.served.map(|served| served.address.to_string()),
            served_reason: record.served.map(|served| served.reason.as_str()),
            status: record.response.map(|response| response.status),
            error: match record.end {
                End::Failed(code) => Some(code.as_str()),
                End::Complete => None,
            },
            ttft_ms: times.first_content.map(|at| millis(at.micros_since(times.started))),
            duration_ms: is_over.then(|| millis(times.ended.micros_since(times.started))),
            input_tokens: usage.prompt_tokens,
            output_tokens: usage.completion_tokens,
            cached_tokens: usage.cached_tokens,
            reasoning_tokens: usage.reasoning_tokens,
        }
    }

    /// Adds it as compact JSON in ASCII, which fits into a header's value and a log's line.
    pub fn write_json(&self, text: &mut String) {
        // Strings and finite numbers always serialise.
        let json = serde_json::to_string(self).unwrap_or_default();
        text.reserve(json.len());
        for character in json.chars() {
            if character.is_ascii() && character != '\x7f' {
                text.push(character);
            } else {
                // Beyond ASCII there are strings only, and this is how JSON escapes what is in them.
                character.encode_utf16(&mut [0; 2]).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
            }
        }
    }

    /// The same as [`Self::write_json`], by itself.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = String::new();
        self.write_json(&mut text);
        text
    }

    /// The same fields as a serialised `google.protobuf.Struct`, which Envoy keeps as metadata or filter state.
    #[must_use]
    pub fn to_struct(&self) -> Vec<u8> {
        let mut fields = Fields::default();
        fields.text("request_id", self.request_id.as_deref());
        fields.text("pool", Some(&self.pool));
        fields.text("operation", self.operation);
        fields.text("model", Some(&self.model));
        fields.text("target_model", Some(&self.target_model));
        fields.text("reason", self.reason);
        fields.text("picked", self.picked.as_deref());
        fields.list("ranked", self.ranked.iter().map(|entry| |fields: &mut Fields| entry.write(fields)));
        let failed = self.failed.iter().map(|entry| {
            |fields: &mut Fields| {
                fields.text("endpoint", Some(&entry.endpoint));
                fields.text("reason", Some(entry.reason));
            }
        });
        fields.list("failed", failed);
        fields.number("attempts", self.attempts.map(f64::from));
        fields.text("served", self.served.as_deref());
        fields.text("served_reason", self.served_reason);
        fields.number("status", self.status.map(f64::from));
        fields.text("error", self.error);
        fields.number("ttft_ms", self.ttft_ms);
        fields.number("duration_ms", self.duration_ms);
        for (name, count) in [
            ("input_tokens", self.input_tokens),
            ("output_tokens", self.output_tokens),
            ("cached_tokens", self.cached_tokens),
            ("reasoning_tokens", self.reasoning_tokens),
        ] {
            fields.number(name, count.map(|count| count as f64));
        }
        fields.into_bytes()
    }
}

impl RankedEndpoint {
    fn of(entry: &Entry, rating: Option<&Rating>, pool: &Pool) -> Self {
        let endpoint = address(pool, entry.id);
        let Some(rating) = rating else { return Self { endpoint, ..Self::default() } };
        let forecast = &entry.forecast;
        let predicted = |value| rating.cost_micros.map(|_| value);
        Self {
            endpoint,
            score: (rating.score_millionths != i64::MAX).then(|| rating.score_millionths as f64 / 1e6),
            cost_ms: rating.cost_micros.map(|cost| millis(cost.into())),
            predicted_ttft_ms: rating.cost_micros.map(|_| millis(forecast.ttft_micros.into())),
            wait_ms: rating.cost_micros.map(|_| millis(rating.wait_micros.into())),
            cached_tokens: predicted(forecast.cached_tokens),
            uncached_tokens: predicted(forecast.uncached_tokens),
            ahead_tokens: predicted(forecast.ahead_tokens),
            running: predicted(forecast.running),
            in_flight: Some(rating.in_flight),
            signal_age_ms: rating.signal_age_ms,
        }
    }

    fn write(&self, fields: &mut Fields) {
        fields.text("endpoint", Some(&self.endpoint));
        fields.number("score", self.score);
        fields.number("cost_ms", self.cost_ms);
        fields.number("predicted_ttft_ms", self.predicted_ttft_ms);
        fields.number("wait_ms", self.wait_ms);
        for (name, count) in [
            ("cached_tokens", self.cached_tokens),
            ("uncached_tokens", self.uncached_tokens),
            ("ahead_tokens", self.ahead_tokens),
            ("running", self.running),
            ("in_flight", self.in_flight),
            ("signal_age_ms", self.signal_age_ms),
        ] {
            fields.number(name, count.map(f64::from));
        }
    }
}

/// The address of an endpoint; empty: it has left.
fn address(pool: &Pool, id: EndpointId) -> String {
    pool.endpoint(id).map(|endpoint| endpoint.destination().to_string()).unwrap_or_default()
}

fn millis(micros: u64) -> f64 {
    micros as f64 / 1_000.0
}

fn name(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_NAME_BYTES);
    text.get(..end).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use core::net::SocketAddr;
    use std::vec;

    use prost::Message as _;
    use prost_types::value::Kind;
    use prost_types::{ListValue, Struct};
    use serde_json::{Map, Value};
    use snapshot::{EndpointIdentity, Membership, PoolMembers};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::learning::Forecast;
    use crate::openai::{Api, Usage};
    use crate::record::{RequestId, ResponseSummary, Served};
    use crate::reply::ErrorCode;
    use crate::scheduling::{Failure, Ranked, Rating, Reason};
    use crate::time::Timestamp;

    fn pool() -> (Pool, EndpointId) {
        let address: SocketAddr = "10.0.0.1:8000".parse().unwrap();
        let endpoints = vec![EndpointIdentity::unnamed(address)];
        let pools = vec![PoolMembers { name: "p".into(), endpoints, ..PoolMembers::default() }];
        let mut pool = Pool::default();
        pool.install_membership(&Membership { epoch: 1, version: 1, pools }, "p");
        let id = pool.find(address).unwrap();
        (pool, id)
    }

    fn record(id: EndpointId) -> ExchangeRecord {
        let at = |millis: u64| Timestamp::from_micros(1_000_000 + millis * 1_000);
        let mut record = ExchangeRecord::begin(at(0));
        record.request_id = RequestId::new(b"r-1");
        record.api = Some(Api::ChatCompletions);
        record.model = "mé".into();
        record.target_model = "t".into();
        let mut ranked = Ranked::from(id);
        ranked.set_forecast(
            id,
            Forecast { ttft_micros: 20_500, cached_tokens: 16, uncached_tokens: 4, ..Forecast::default() },
        );
        let rating = Rating {
            score_millionths: 970_000,
            cost_micros: Some(23_100),
            wait_micros: 1_000,
            in_flight: 2,
            signal_age_ms: Some(48),
        };
        record.ratings = Some(std::boxed::Box::new([rating, Rating::default(), Rating::default()]));
        record.pick = Pick::Ranked(ranked, Reason::BestScore);
        record
    }

    #[test]
    fn a_pick_is_told_before_its_end() {
        let (pool, id) = pool();
        let json = Explanation::of(&record(id), &pool, "p").to_json();
        assert_eq!(
            json,
            "{\"request_id\":\"r-1\",\"pool\":\"p\",\"operation\":\"chat\",\"model\":\"m\\u00e9\",\
             \"target_model\":\"t\",\"reason\":\"best_score\",\"picked\":\"10.0.0.1:8000\",\"ranked\":[\
             {\"endpoint\":\"10.0.0.1:8000\",\"score\":0.97,\"cost_ms\":23.1,\"predicted_ttft_ms\":20.5,\"wait_ms\":1.0,\
             \"cached_tokens\":16,\"uncached_tokens\":4,\"ahead_tokens\":0,\"running\":0,\"in_flight\":2,\
             \"signal_age_ms\":48}]}"
        );
    }

    #[test]
    fn what_came_of_it_is_told_at_its_end() {
        let (pool, id) = pool();
        let mut record = record(id);
        record.failed[0] = Some((id, Failure::NoAnswer));
        record.attempts = 2;
        record.served =
            Some(Served { address: "10.0.0.9:1".parse().unwrap(), endpoint: None, reason: Reason::Fallback });
        let usage = Usage { prompt_tokens: Some(20), completion_tokens: Some(3), ..Usage::default() };
        record.response = Some(ResponseSummary { status: 200, usage, ..ResponseSummary::default() });
        record.times.first_content = Some(record.times.started.plus_micros(12_345));
        record.times.ended = record.times.started.plus_micros(50_000);
        record.end = End::Failed(ErrorCode::UpstreamReset);
        let explanation = Explanation::of(&record, &pool, "p");
        let json: Value = serde_json::from_str(&explanation.to_json()).unwrap();
        assert_eq!(json["failed"], serde_json::json!([{"endpoint": "10.0.0.1:8000", "reason": "no_answer"}]));
        assert_eq!(
            (&json["served"], &json["served_reason"], &json["attempts"]),
            (&"10.0.0.9:1".into(), &"fallback".into(), &2.into())
        );
        assert_eq!((&json["status"], &json["error"]), (&200.into(), &"UpstreamReset".into()));
        assert_eq!((json["ttft_ms"].as_f64(), json["duration_ms"].as_f64()), (Some(12.345), Some(50.0)));
        assert_eq!((&json["input_tokens"], &json["output_tokens"]), (&20.into(), &3.into()));
        assert_eq!(json.get("cached_tokens"), None);
    }

    fn structure(fields: &Map<String, Value>) -> Struct {
        Struct { fields: fields.iter().map(|(name, value)| (name.clone(), field(value))).collect() }
    }

    fn field(value: &Value) -> prost_types::Value {
        let kind = match value {
            Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap()),
            Value::String(text) => Kind::StringValue(text.clone()),
            Value::Array(values) => Kind::ListValue(ListValue { values: values.iter().map(field).collect() }),
            Value::Object(fields) => Kind::StructValue(structure(fields)),
            other => panic!("{other}"),
        };
        prost_types::Value { kind: Some(kind) }
    }

    #[test]
    fn envoys_form_says_the_same_as_the_json() {
        let (pool, id) = pool();
        let whole = {
            let mut record = record(id);
            record.failed[0] = Some((id, Failure::Busy { seconds: 1 }));
            record.failed[1] = Some((id, Failure::NoAnswer));
            record.attempts = 3;
            record.target_model = "x".repeat(300);
            record.served =
                Some(Served { address: "10.0.0.1:8000".parse().unwrap(), endpoint: None, reason: Reason::Retry });
            let all = Some(1 << 40);
            let usage = Usage {
                prompt_tokens: all,
                completion_tokens: all,
                total_tokens: all,
                cached_tokens: all,
                reasoning_tokens: all,
            };
            record.response = Some(ResponseSummary { status: 500, usage, ..ResponseSummary::default() });
            record.times.first_content = Some(record.times.started.plus_micros(1));
            record.times.ended = record.times.started.plus_micros(2);
            record.end = End::Failed(ErrorCode::Timeout);
            record
        };
        let empty = ExchangeRecord::begin(Timestamp::from_micros(1));
        for record in [record(id), whole, empty] {
            let explanation = Explanation::of(&record, &pool, "p");
            let decoded = Struct::decode(explanation.to_struct().as_slice()).unwrap();
            let json: Value = serde_json::from_str(&explanation.to_json()).unwrap();
            assert_eq!(decoded, structure(json.as_object().unwrap()));
        }
    }

    #[test]
    fn a_pick_that_nobody_wanted_explained_names_its_endpoints() {
        let (pool, id) = pool();
        let mut record = record(id);
        record.ratings = None;
        let explanation = Explanation::of(&record, &pool, "p");
        let endpoint = RankedEndpoint { endpoint: "10.0.0.1:8000".into(), ..RankedEndpoint::default() };
        assert_eq!(explanation.ranked, [endpoint]);
    }

    #[test]
    fn a_header_can_carry_whatever_a_client_names() {
        let (pool, id) = pool();
        let mut record = record(id);
        record.model = "\u{7f}\n\"\\😀é\u{0}".into();
        record.target_model = "é".repeat(100);
        let json = Explanation::of(&record, &pool, "p").to_json();
        assert!(json.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{json}");
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["model"], record.model);
        assert_eq!(json["target_model"], "é".repeat(MAX_NAME_BYTES / 2));
    }

    #[test]
    fn an_endpoint_above_all_scores_has_none() {
        let (pool, id) = pool();
        let mut record = record(id);
        record.ratings.as_mut().unwrap()[0] = Rating { score_millionths: i64::MAX, ..Rating::default() };
        let explanation = Explanation::of(&record, &pool, "p");
        assert_eq!(explanation.ranked[0].score, None);
        assert_eq!(
            explanation.ranked[0].predicted_ttft_ms, None,
            "a profile without predictions does not pretend to one"
        );
    }
}
