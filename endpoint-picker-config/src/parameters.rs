//! Parameters of plugins: what of them is inpick's too, checked by the core under the names that the EPP's document has.

use endpoint_picker::config::Fields;
use endpoint_picker::scheduling::Scorer;
use endpoint_picker::{ConfigError, Plugin};
use serde_json::{Map, Value, json};

use crate::duration::millis;
use crate::plugin_types::ONE_PROFILE;

/// Parameters that name another plugin that supplies a scorer with figures. There is one supplier here.
const SUPPLIERS: [&str; 2] = ["prefixMatchInfoProducerName", "inFlightLoadProducerName"];
/// Parameters that no EPP ever read.
const NEVER_READ: [&str; 2] = ["prefixPluginType", "prefixPluginName"];
/// Where the EPP looks for a session's token.
const DEFAULT_SESSION_HEADER: &str = "x-session-token";

/// A plugin's parameters, without those that name other plugins.
#[derive(Debug, Default)]
pub(crate) struct Parameters {
    pub(crate) values: Map<String, Value>,
    /// The suppliers that it names, each with where it does.
    pub(crate) suppliers: Vec<(String, String)>,
    /// The header that carries a session's token, where it scores sessions.
    pub(crate) session_header: Option<String>,
}

impl Parameters {
    /// Takes apart what stands in the document.
    pub(crate) fn of(plugin_type: &str, mut fields: Fields, errors: &mut Vec<String>, notes: &mut Vec<String>) -> Self {
        let mut suppliers = Vec::new();
        for name in SUPPLIERS {
            let path = format!("{}{name}", fields.path);
            suppliers.extend(fields.text(name, errors).map(|supplier| (path, supplier)));
        }
        for name in NEVER_READ {
            if fields.values.remove(name).is_some() {
                notes.push(format!("{}{name}: has no effect: no endpoint picker reads it", fields.path));
            }
        }
        if plugin_type == Scorer::PredictedLatency.as_str() && !fields.values.is_empty() {
            fields.values.clear();
            notes.push(format!("{}: have no effect: what they set is learned here", fields.path.trim_end_matches('.')));
        }
        if fields.values.contains_key("requestTimeout") {
            notes.push(format!(
                "{}requestTimeout: has no effect: a request is in flight until its stream ends",
                fields.path
            ));
        }
        let session_header =
            (plugin_type == Scorer::SessionAffinity.as_str()).then(|| read_session_header(&mut fields, errors, notes));
        Self { values: fields.values, suppliers, session_header }
    }
}

/// The EPP's first way to keep sessions is the one here: the token that names the endpoint travels in a header of that name.
fn read_session_header(fields: &mut Fields, errors: &mut Vec<String>, notes: &mut Vec<String>) -> String {
    let path = fields.path.clone();
    if fields.choice("strategy", &[("encoded_endpoint_header", true), ("session_id", false)], errors) == Some(false) {
        errors.push(format!("{path}strategy: session_id is not supported: the token names the endpoint"));
    }
    if fields.values.remove("sessionIdConfig").is_some() {
        notes.push(format!("{path}sessionIdConfig: has no effect but with the strategy session_id"));
    }
    if fields.values.remove("profileName").is_some() {
        notes.push(format!("{path}profileName: has no effect: {ONE_PROFILE}"));
    }
    let mut carrier = fields.object("encodedEndpointHeaderConfig", errors).unwrap_or_default();
    let header = carrier.text("header", errors);
    carrier.finish(errors);
    header.unwrap_or_else(|| DEFAULT_SESSION_HEADER.to_owned())
}

/// Checks a scorer's parameters; `at` is the place of the plugin.
pub(crate) fn check_scorer(name: &str, parameters: &Map<String, Value>, at: &str, errors: &mut Vec<String>) {
    let scorer = json!({"name": name, "parameters": parameters});
    check(&json!({"scheduling": {"scorers": [scorer]}}), "scheduling.scorers[0]", at, errors);
}

/// Checks a picker's parameters; `at` is the place of the plugin.
pub(crate) fn check_picker(name: &str, parameters: &Map<String, Value>, at: &str, errors: &mut Vec<String>) {
    let picker = json!({"name": name, "parameters": parameters});
    check(&json!({"scheduling": {"picker": picker}}), "scheduling.picker", at, errors);
}

fn check(document: &Value, place: &str, at: &str, errors: &mut Vec<String>) {
    let Err(ConfigError(found)) = Plugin::read(document.clone()) else { return };
    errors.extend(found.into_iter().map(|error| match error.strip_prefix(place) {
        Some(rest) => format!("{at}{rest}"),
        None => error,
    }));
}

/// Thresholds of a saturation detector, as the filter's section `saturation`.
pub(crate) fn read_saturation(
    fields: &mut Fields,
    errors: &mut Vec<String>,
    notes: &mut Vec<String>,
) -> Map<String, Value> {
    let mut saturation = Map::new();
    if let Some(depth) = fields.integer("queueDepthThreshold", 1..=u64::MAX, errors) {
        // The probabilistic admitter's configuration switches the detector off by a depth that no queue has.
        saturation.insert("queue_depth".into(), depth.min(1_000_000).into());
    }
    if let Some(usage) = fields.number("kvCacheUtilThreshold", 0.01..=1.0, errors) {
        saturation.insert("kv_cache_usage".into(), usage.into());
    }
    let path = format!("{}metricsStalenessThreshold", fields.path);
    if let Some(text) = fields.text("metricsStalenessThreshold", errors) {
        match millis(&text).filter(|millis| (1..=3_600_000).contains(millis)) {
            Some(millis) => {
                saturation.insert("staleness_ms".into(), millis.into());
            }
            None => errors.push(format!("{path}: must be a duration from 1ms to 1h, not {text:?}")),
        }
    }
    if fields.number("headroom", 0.0..=f64::MAX, errors).is_some_and(|headroom| headroom > 0.0) {
        notes.push(format!(
            "{}headroom: has no effect: a full pool sheds, a full endpoint is not left out",
            fields.path
        ));
    }
    saturation
}
