//! What an engine says of its load in the headers of an answer: an ORCA report, as Envoy and vLLM write it.
//!
//! `endpoint-load-metrics` holds `TEXT name=value, …`, `JSON {…}` or `BIN` and base64 of an `OrcaLoadReport`;
//! `endpoint-load-metrics-bin` only the base64.

use alloc::collections::BTreeMap;
use alloc::string::String;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde_json::Value;

/// The header that asks for a report: its value names the form.
pub const FORMAT_HEADER: &str = "endpoint-load-metrics-format";
/// The form that is asked for.
pub const FORMAT: &str = "TEXT";
/// The header of a report.
pub const REPORT_HEADER: &str = "endpoint-load-metrics";
/// The header of a report that is base64 alone.
pub const BINARY_REPORT_HEADER: &str = "endpoint-load-metrics-bin";

/// What an engine says of its load in an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoadReport {
    /// Requests in the queue.
    pub waiting: Option<u32>,
    /// Requests in the batch.
    pub running: Option<u32>,
    /// Used part of the KV cache, 0 to 1.
    pub kv_cache_usage: Option<f64>,
}

/// The part of `xds.data.orca.v3.OrcaLoadReport` that engines use for figures of their own.
#[derive(Clone, PartialEq, Message)]
struct OrcaLoadReport {
    #[prost(btree_map = "string, double", tag = "8")]
    named_metrics: BTreeMap<String, f64>,
}

impl LoadReport {
    /// Reads a report; `None` where it says nothing of the load.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let text = core::str::from_utf8(value).ok()?.trim();
        let (form, rest) = text.split_once(' ')?;
        let mut report = Self::default();
        match form {
            "TEXT" => {
                for (name, figure) in rest.split(',').filter_map(|entry| entry.split_once('=')) {
                    if let (Some(name), Ok(figure)) =
                        (name.trim().strip_prefix("named_metrics."), figure.trim().parse())
                    {
                        report.take(name, figure);
                    }
                }
            }
            "JSON" => {
                let json: Value = serde_json::from_str(rest).ok()?;
                for (name, figure) in json.get("named_metrics").and_then(Value::as_object)? {
                    if let Some(figure) = figure.as_f64() {
                        report.take(name, figure);
                    }
                }
            }
            "BIN" => return Self::parse_binary(rest.as_bytes()),
            _ => return None,
        }
        report.if_any()
    }

    /// Reads a report that is base64 of a protobuf message.
    #[must_use]
    pub fn parse_binary(value: &[u8]) -> Option<Self> {
        let message = OrcaLoadReport::decode(STANDARD.decode(value.trim_ascii()).ok()?.as_slice()).ok()?;
        let mut report = Self::default();
        message.named_metrics.iter().for_each(|(name, &figure)| report.take(name, figure));
        report.if_any()
    }

    /// Takes one figure by the name that an engine gives it, if it can be true.
    fn take(&mut self, name: &str, figure: f64) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked")]
        let count = || (0.0..=f64::from(u32::MAX)).contains(&figure).then_some(figure as u32);
        match name {
            "num_requests_waiting" => self.waiting = count(),
            "num_requests_running" => self.running = count(),
            // vLLM's name and TensorRT-LLM's.
            "kv_cache_usage_perc" | "kv_cache_utilization" => {
                self.kv_cache_usage = (0.0..=1.0).contains(&figure).then_some(figure);
            }
            _ => {}
        }
    }

    fn if_any(self) -> Option<Self> {
        (self != Self::default()).then_some(self)
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn every_form_says_the_same() {
        let named_metrics = [
            ("num_requests_waiting", 3.0),
            ("num_requests_running", 8.0),
            ("kv_cache_usage_perc", 0.25),
            ("other", 1.0),
        ];
        let named_metrics = named_metrics.map(|(name, figure)| (name.into(), figure)).into();
        let binary = STANDARD.encode(OrcaLoadReport { named_metrics }.encode_to_vec());
        let expected = Some(LoadReport { waiting: Some(3), running: Some(8), kv_cache_usage: Some(0.25) });
        for text in [
            "TEXT named_metrics.num_requests_waiting=3.0, named_metrics.num_requests_running=8.0, cpu_utilization=0.1, \
             named_metrics.kv_cache_usage_perc=0.25"
                .into(),
            r#"JSON {"cpu_utilization": 0.1, "named_metrics": {"num_requests_waiting": 3, "num_requests_running": 8.0,
                     "kv_cache_usage_perc": 0.25}}"#
                .into(),
            format!("BIN {binary}"),
        ] {
            assert_eq!(LoadReport::parse(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(LoadReport::parse_binary(binary.as_bytes()), expected);
        let recorded = "TEXT named_metrics.num_requests_waiting=0.0, named_metrics.kv_cache_usage_perc=0.0";
        let idle = LoadReport { waiting: Some(0), running: None, kv_cache_usage: Some(0.0) };
        assert_eq!(LoadReport::parse(recorded.as_bytes()), Some(idle));
    }

    #[test]
    fn what_cannot_be_true_or_read_is_no_report() {
        for text in [
            "",
            "TEXT",
            "TEXT nonsense",
            "JSON {",
            "JSON []",
            r#"JSON {"named_metrics": 5}"#,
            "BIN ???",
            "BIN AAAA",
            "XML <a/>",
            "TEXT named_metrics.kv_cache_usage_perc=1.5, named_metrics.num_requests_waiting=-1",
            "TEXT named_metrics.kv_cache_usage_perc=NaN, named_metrics.num_requests_waiting=inf",
        ] {
            assert_eq!(LoadReport::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(LoadReport::parse(b"\xff"), None);
    }
}
