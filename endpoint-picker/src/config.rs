//! The plugin's configuration: parsed once into checked values, every bad field named in one go.

mod fields;
mod flow_control;
mod rules;
mod scheduling;

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde_json::{Map, Value};

use crate::flow_control::FlowSettings;
use crate::head::{
    DESTINATION_HEADER, EXPLAIN_HEADER, FAIRNESS_HEADER, FAIRNESS_HEADER_LLM_D, OBJECTIVE_HEADER,
    OBJECTIVE_HEADER_LLM_D, REQUEST_HEADERS, REQUEST_ID_HEADER, RESPONSE_HEADERS, RETRY_AFTER_HEADER, SELECTION_HEADER,
    SUBSET_HEADER, TIMEOUT_HEADER, TTL_HEADER,
};
use crate::load_report::{BINARY_REPORT_HEADER, FORMAT_HEADER, REPORT_HEADER};
use crate::openai::request::{MAX_MODEL_BYTES, MAX_PREFIX_BLOCKS, PREFIX_BLOCK_BYTES};
use crate::rewrite::{Rule, Target};
use crate::rules::{Rules, SubsetHint};
use crate::scheduling::Profile;

pub use self::scheduling::{DEFAULT_MAX_EXCLUDED_PERCENT, DEFAULT_MAX_SNAPSHOT_AGE_MS};
pub use fields::Fields;

/// Distinct model names that get series of their own; later ones share the name `other`. Names come from clients and Envoy never
/// frees a stat.
pub const DEFAULT_MAX_MODELS: usize = 1_000;
/// Distinct endpoints, and pods, that get series of their own; later ones share the name `other`. Pods come and go, and Envoy never
/// frees a stat: room for a pool of a hundred pods that is replaced twenty times.
pub const DEFAULT_MAX_ENDPOINTS: usize = 2_000;
/// Distinct fairness ids that get series of their own; later ones share the name `other`.
pub const DEFAULT_MAX_FAIRNESS_IDS: usize = 1_000;
/// Who makes the model servers, unless the configuration says otherwise.
pub const DEFAULT_GEN_AI_PROVIDER: &str = "vllm";
/// The cluster of the metrics sidecar in the bootstraps.
pub const DEFAULT_SIDECAR_CLUSTER: &str = "inpick-sidecar";
/// Statistics reach Envoy this often. A second is far below any scrape interval and costs nothing to speak of.
pub const DEFAULT_FLUSH_INTERVAL_MS: u64 = 1_000;
/// The singleton service asks the sidecar this often: as often as the sidecar asks the pods.
pub const DEFAULT_SNAPSHOT_INTERVAL_MS: u64 = 50;
/// The sidecar holds its answer back this long while nothing changes: an idle pool then costs Envoy four requests a second, and a
/// confirmation still comes eight times before [`DEFAULT_MAX_SNAPSHOT_AGE_MS`].
pub const DEFAULT_SNAPSHOT_WAIT_MS: u64 = 200;
/// A sidecar on the same machine that needs longer than this is as good as dead.
pub const DEFAULT_SNAPSHOT_TIMEOUT_MS: u64 = 1_000;

/// What a plugin instance is configured to be.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "made once, when the instance is configured")]
pub enum Plugin {
    /// The HTTP filter.
    Filter(Config),
    /// The singleton service that fetches snapshots.
    SnapshotService(ServiceConfig),
}

/// Configuration of the HTTP filter.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Pool of the snapshot whose endpoints are picked from.
    pub pool: String,
    /// How to pick.
    pub profile: Profile,
    /// What to do when nothing can be picked; `None`: what the pool says, or else to fail open.
    pub no_endpoint: Option<NoEndpoint>,
    /// What to do with a body that names no model.
    pub missing_model: MissingModel,
    /// What holds for every request besides the pick itself.
    pub rules: Box<Rules>,
    /// Model rewrites.
    pub rewrites: Vec<Rule>,
    /// How requests wait while the pool is full; `None`: they do not.
    pub flow_control: Option<FlowSettings>,
    /// Priorities by objective name; an unknown objective has priority 0.
    pub objectives: BTreeMap<String, i64>,
    /// Which families are published, and their bounds.
    pub stats: StatsConfig,
    /// `gen_ai_provider_name`, who makes the model servers.
    pub gen_ai_provider: String,
    /// Where snapshots come from while no singleton service fetches them.
    pub sidecar: ServiceConfig,
}

/// What to do when nothing can be picked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NoEndpoint {
    /// Leave the choice to the cluster's fallback policy.
    FailOpen,
    /// Answer 503.
    FailClosed,
}

/// What to do with a body that names no model.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MissingModel {
    /// Answer 400, as the endpoint picker does.
    Reject,
    /// Let it pass: vLLM serves its base model then.
    Pass,
}

/// Which statistics are kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StatsConfig {
    /// `inference_objective_*`.
    pub objective: bool,
    /// `inference_model_*`, the older spelling.
    pub model: bool,
    /// `gen_ai_*`.
    pub gen_ai: bool,
    /// `llm_d_epp_*`, the newest spelling.
    pub llm_d: bool,
    /// `inference_extension_flow_control_*` and its newest spelling: flow control is on.
    pub flow_control: bool,
    /// Distinct model names with series of their own, in the whole Envoy.
    pub max_models: usize,
    /// Distinct endpoints and pods with series of their own, in the whole Envoy.
    pub max_endpoints: usize,
    /// Distinct fairness ids with series of their own, in the whole Envoy.
    pub max_fairness_ids: usize,
    /// Milliseconds between flushes to Envoy.
    pub flush_interval_ms: u64,
}

impl Default for StatsConfig {
    fn default() -> Self {
        Self {
            objective: true,
            model: false,
            gen_ai: true,
            llm_d: false,
            flow_control: false,
            max_models: DEFAULT_MAX_MODELS,
            max_endpoints: DEFAULT_MAX_ENDPOINTS,
            max_fairness_ids: DEFAULT_MAX_FAIRNESS_IDS,
            flush_interval_ms: DEFAULT_FLUSH_INTERVAL_MS,
        }
    }
}

/// Configuration of the singleton service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceConfig {
    /// Envoy cluster of the sidecar.
    pub cluster: String,
    /// Where the sidecar serves the snapshot.
    pub path: String,
    /// Milliseconds between requests.
    pub interval_ms: u64,
    /// Milliseconds for which the sidecar may hold its answer back while nothing changes; 0: it answers at once.
    pub wait_ms: u64,
    /// Milliseconds after which a request has failed; more than `wait_ms`.
    pub timeout_ms: u64,
    /// Flags of a sidecar that the binding runs itself, as the sidecar reads them; `cluster` is not asked then.
    pub embedded: Option<Map<String, Value>>,
}

/// Every bad field, in the order of the document.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("plugin configuration: {}", .0.join("; "))]
pub struct ConfigError(pub Vec<String>);

/// Scan limits that no setting changes yet.
#[must_use]
pub fn scan_options(prefix_hashes: bool) -> crate::openai::ScanOptions {
    crate::openai::ScanOptions {
        prefix_block_bytes: PREFIX_BLOCK_BYTES,
        max_prefix_blocks: if prefix_hashes { MAX_PREFIX_BLOCKS } else { 0 },
        max_model_bytes: MAX_MODEL_BYTES,
    }
}

impl Config {
    /// The request headers that these settings make something of, but for those that are removed (the client's own destination, and its
    /// secret), for a host that looks each up by its name. Those that matter at times only: [`EndpointPicker::more_request_headers`].
    ///
    /// [`EndpointPicker::more_request_headers`]: crate::EndpointPicker::more_request_headers
    pub fn request_headers(&self) -> impl Iterator<Item = &'static str> {
        REQUEST_HEADERS.iter().copied().filter(|&name| match name {
            DESTINATION_HEADER | EXPLAIN_HEADER => false,
            OBJECTIVE_HEADER | OBJECTIVE_HEADER_LLM_D | REQUEST_ID_HEADER => false,
            FAIRNESS_HEADER | FAIRNESS_HEADER_LLM_D | TIMEOUT_HEADER | TTL_HEADER => self.flow_control.is_some(),
            FORMAT_HEADER => self.rules.orca,
            SUBSET_HEADER => self.rules.subset_hint == SubsetHint::Header,
            SELECTION_HEADER => self.rules.conformance,
            _ => true,
        })
    }

    /// The same of a response's headers; of a server that is busy, [`RETRY_AFTER_HEADER`] matters too.
    pub fn response_headers(&self) -> impl Iterator<Item = &'static str> {
        let is_read = |name: &str| match name {
            RETRY_AFTER_HEADER => false,
            REPORT_HEADER | BINARY_REPORT_HEADER => self.rules.orca,
            _ => true,
        };
        RESPONSE_HEADERS.iter().copied().filter(move |name| is_read(name))
    }
}

impl Plugin {
    /// Reads a configuration: a JSON object, or nothing at all for the filter with its defaults.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with every field that is unknown, of the wrong type or out of range.
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        if json.iter().all(u8::is_ascii_whitespace) {
            return Self::read(Value::Object(Map::new()));
        }
        let document = serde_json::from_slice(json);
        Self::read(document.map_err(|error| ConfigError(alloc::vec![format!("not JSON: {error}")]))?)
    }

    /// The same of a document that is read already.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] as for [`Self::parse`].
    pub fn read(document: Value) -> Result<Self, ConfigError> {
        let mut errors = Vec::new();
        let mut root = Fields::of(document, "", &mut errors);
        let plugin = match root.object("snapshot_service", &mut errors) {
            Some(service) => {
                if !service.values.contains_key("cluster") && !service.values.contains_key("embedded") {
                    errors.push("snapshot_service.cluster: missing".to_owned());
                }
                Self::SnapshotService(ServiceConfig::read(service, &mut errors))
            }
            None => Self::Filter(Config::read(&mut root, &mut errors)),
        };
        root.finish(&mut errors);
        if errors.is_empty() { Ok(plugin) } else { Err(ConfigError(errors)) }
    }
}

/// What a document asks for that only the native module can do, as mistakes for a binding that cannot.
#[must_use]
pub fn native_settings_in(document: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    if document.get("destination").and_then(Value::as_str) == Some("metadata") {
        errors.push("destination: only the native module writes metadata; here it is \"header\"".to_owned());
    }
    for section in ["sidecar", "snapshot_service"] {
        if document.get(section).is_some_and(|section| section.get("embedded").is_some_and(Value::is_object)) {
            errors.push(format!(
                "{section}.embedded: only the native module runs the sidecar in Envoy; here it is a process of its own, which {section}.cluster names"
            ));
        }
    }
    errors
}

impl ServiceConfig {
    fn read(mut fields: Fields, errors: &mut Vec<String>) -> Self {
        let wait_ms = fields.integer("wait_ms", 0..=10_000, errors).unwrap_or(DEFAULT_SNAPSHOT_WAIT_MS);
        let timeout_ms = fields.integer("timeout_ms", 1..=60_000, errors).unwrap_or(DEFAULT_SNAPSHOT_TIMEOUT_MS);
        if timeout_ms <= wait_ms {
            errors.push(format!("{}timeout_ms: must be more than wait_ms, which is {wait_ms}", fields.path));
        }
        let config = Self {
            cluster: fields.text("cluster", errors).unwrap_or_else(|| DEFAULT_SIDECAR_CLUSTER.to_owned()),
            path: fields.text("path", errors).unwrap_or_else(|| "/snapshot".to_owned()),
            interval_ms: fields.integer("interval_ms", 1..=60_000, errors).unwrap_or(DEFAULT_SNAPSHOT_INTERVAL_MS),
            wait_ms,
            timeout_ms,
            embedded: fields.object("embedded", errors).map(|embedded| embedded.values),
        };
        fields.finish(errors);
        config
    }
}

impl Config {
    fn read(root: &mut Fields, errors: &mut Vec<String>) -> Self {
        let pool = root.text("pool", errors).unwrap_or_else(|| "default".to_owned());
        let profile = scheduling::read(root.object("scheduling", errors).unwrap_or_default(), errors);
        let no_endpoint = root.choice(
            "no_endpoint",
            &[("fail_open", NoEndpoint::FailOpen), ("fail_closed", NoEndpoint::FailClosed)],
            errors,
        );
        let missing_model = root
            .choice("missing_model", &[("reject", MissingModel::Reject), ("pass", MissingModel::Pass)], errors)
            .unwrap_or(MissingModel::Reject);
        let rewrites = root
            .list("model_rewrites", errors)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|item| read_rule(item, errors))
            .collect();
        let mut objectives = BTreeMap::new();
        if let Some(fields) = root.object("objectives", errors) {
            for (name, value) in fields.values {
                match value.as_i64() {
                    Some(priority) => {
                        objectives.insert(name, priority);
                    }
                    None => errors.push(format!("{}{name}: a priority must be an integer, not {value}", fields.path)),
                }
            }
        }
        let defaults = StatsConfig::default();
        let mut metrics = root.object("metrics", errors).unwrap_or_default();
        let stats = StatsConfig {
            objective: metrics.boolean("objective", errors).unwrap_or(defaults.objective),
            model: metrics.boolean("model", errors).unwrap_or(defaults.model),
            gen_ai: metrics.boolean("gen_ai", errors).unwrap_or(defaults.gen_ai),
            llm_d: metrics.boolean("llm_d", errors).unwrap_or(defaults.llm_d),
            flow_control: defaults.flow_control,
            max_models: metrics
                .integer("max_models", 1..=100_000, errors)
                .and_then(|count| usize::try_from(count).ok())
                .unwrap_or(defaults.max_models),
            max_endpoints: metrics
                .integer("max_endpoints", 1..=100_000, errors)
                .and_then(|count| usize::try_from(count).ok())
                .unwrap_or(defaults.max_endpoints),
            max_fairness_ids: metrics
                .integer("max_fairness_ids", 1..=100_000, errors)
                .and_then(|count| usize::try_from(count).ok())
                .unwrap_or(defaults.max_fairness_ids),
            flush_interval_ms: metrics
                .integer("flush_interval_ms", 10..=60_000, errors)
                .unwrap_or(defaults.flush_interval_ms),
        };
        let gen_ai_provider = metrics.text("gen_ai_provider", errors);
        metrics.finish(errors);
        let mut sidecar = ServiceConfig::read(root.object("sidecar", errors).unwrap_or_default(), errors);
        if stats.llm_d
            && let Some(flags) = &mut sidecar.embedded
        {
            // The sidecar publishes the pool's gauges of that spelling.
            flags.entry("llm-d").or_insert_with(|| "on".into());
        }
        let rules = Box::new(rules::read(root, sidecar.wait_ms, errors));
        let gen_ai_provider = gen_ai_provider.unwrap_or_else(|| DEFAULT_GEN_AI_PROVIDER.to_owned());
        let flow_control = flow_control::read(root, errors);
        let stats = StatsConfig { flow_control: flow_control.is_some(), ..stats };
        Self {
            pool,
            profile,
            no_endpoint,
            missing_model,
            rules,
            rewrites,
            flow_control,
            objectives,
            stats,
            gen_ai_provider,
            sidecar,
        }
    }
}

fn read_rule((path, value): (String, Value), errors: &mut Vec<String>) -> Option<Rule> {
    let mut fields = Fields::of(value, &path, errors);
    let name = fields.required_text("name", errors);
    let model = fields.text("model", errors);
    let mut targets = Vec::new();
    for (path, value) in fields.list("targets", errors).unwrap_or_default() {
        let mut target = Fields::of(value, &path, errors);
        targets.push(Target {
            model: target.required_text("model", errors),
            weight: target
                .integer("weight", 0..=1_000_000, errors)
                .and_then(|weight| u32::try_from(weight).ok())
                .unwrap_or(1),
        });
        target.finish(errors);
    }
    fields.finish(errors);
    if targets.is_empty() {
        errors.push(format!("{path}.targets: at least one target is needed"));
        return None;
    }
    Some(Rule { name, model, targets })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::affinity::ResponseMakers;
    use crate::rules::{Destination, EarlyPick, Secret, ServedEndpoint, SubsetHint, UnknownModel};
    use crate::scheduling::{ActiveRequests, LoadAware, NoHitLru, Picker, PrefixCache, Saturation, Scorer};
    use crate::session::{Carrier, Session};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn filter(json: &str) -> Config {
        match Plugin::parse(json.as_bytes()) {
            Ok(Plugin::Filter(config)) => config,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_at_all_is_the_filter_with_its_defaults() {
        let config = filter("");
        assert_eq!(config, filter("{}"));
        assert_eq!(config.pool, "default");
        assert_eq!(config.profile.scorers, [(Scorer::PredictedLatency, 1.0)]);
        assert_eq!(config.sidecar.cluster, DEFAULT_SIDECAR_CLUSTER);
        assert_eq!(config.stats, StatsConfig::default());
        let rules = Rules {
            unknown_model: UnknownModel::Reject,
            response_makers: ResponseMakers::new(65_536),
            shedding: Some(Saturation { queue_depth: 5, kv_cache_usage: 0.8, staleness_micros: 400_000 }),
            subset_hint: SubsetHint::Off,
            served_endpoint: ServedEndpoint::Property,
            conformance: false,
            orca: false,
            early_pick: Some(EarlyPick { bytes: 32_768, reads_rest: true }),
            session: None,
            destination: None,
            ask_for_usage: true,
            access_log: false,
            explain: None,
        };
        assert_eq!(*config.rules, rules);
        assert_eq!(filter(r#"{"saturation": {"shed": false}}"#).rules.shedding, None);
        for never in ["0", "null"] {
            assert_eq!(filter(&format!(r#"{{"early_pick_bytes": {never}}}"#)).rules.early_pick, None);
        }
        let session = filter(r#"{"session": {"header": "X-Session-Token"}}"#).rules.session.unwrap();
        assert_eq!(session, Session { carrier: Carrier::Header("x-session-token".into()), ttl_seconds: None });
    }

    #[test]
    fn only_headers_that_matter_are_looked_up() {
        let plain = filter("");
        assert!(plain.request_headers().eq([
            ":method",
            ":path",
            "content-encoding",
            "content-length",
            "content-type",
            "accept-encoding",
            "upgrade",
        ]));
        assert!(plain.response_headers().eq([":status", "content-type", "content-encoding"]));
        let all = filter(
            r#"{"objectives": {"a": 1}, "orca": true, "subset_hint": "header", "conformance": true, "flow_control": {}}"#,
        );
        // Objectives matter while there are priorities, wherever they are from; an id while somebody is told of it.
        let rare = [DESTINATION_HEADER, EXPLAIN_HEADER, OBJECTIVE_HEADER, OBJECTIVE_HEADER_LLM_D, REQUEST_ID_HEADER];
        assert!(all.request_headers().eq(REQUEST_HEADERS.iter().copied().filter(|name| !rare.contains(name))));
        assert!(all.response_headers().eq(RESPONSE_HEADERS.iter().copied().filter(|&name| name != RETRY_AFTER_HEADER)));
    }

    #[test]
    fn every_setting_is_read() {
        let config = filter(
            r#"{"pool": "llama", "no_endpoint": "fail_closed", "missing_model": "pass", "objectives": {"batch": -1},
                "scheduling": {"scorers": [{"name": "running-requests-size-scorer", "weight": 0.5}], "picker": "random-picker",
                               "ranked": 2.0, "max_snapshot_age_ms": 500, "max_excluded_percent": 20},
                "sidecar": {"cluster": "s", "wait_ms": 50},
                "unknown_model": "pass", "max_response_ids": 100, "subset_hint": "header", "conformance": true, "orca": true, "served_endpoint": "header",
                "early_pick_bytes": 4096.0, "early_pick_rest": "pass", "destination": "header",
                "ask_for_usage": false, "access_log": true, "explain": {"secret": "a-secret-of-the-operator"},
                "saturation": {"queue_depth": 3, "kv_cache_usage": 0.7, "staleness_ms": 150},
                "session": {"cookie": "pod", "ttl_s": 60},
                "model_rewrites": [{"name": "r", "model": "a", "targets": [{"model": "b", "weight": 3}, {"model": "c"}]}],
                "metrics": {"objective": false, "model": true, "gen_ai": false, "gen_ai_provider": "sglang", "llm_d": true, "max_models": 5, "max_endpoints": 6, "max_fairness_ids": 7, "flush_interval_ms": 100}}"#,
        );
        assert_eq!(config.pool, "llama");
        assert_eq!(config.profile.scorers, [(Scorer::RunningRequests, 0.5)]);
        assert_eq!((config.profile.picker, config.profile.ranked), (Picker::Random, 2));
        assert_eq!((config.profile.max_snapshot_age_micros, config.profile.max_excluded_percent), (500_000, 20));
        assert_eq!((config.sidecar.cluster.as_str(), config.sidecar.wait_ms), ("s", 50));
        let rules = Rules {
            unknown_model: UnknownModel::Pass,
            response_makers: ResponseMakers::new(100),
            shedding: Some(Saturation { queue_depth: 3, kv_cache_usage: 0.7, staleness_micros: 200_000 }),
            subset_hint: SubsetHint::Header,
            served_endpoint: ServedEndpoint::Header,
            conformance: true,
            orca: true,
            early_pick: Some(EarlyPick { bytes: 4_096, reads_rest: false }),
            session: Some(Session { carrier: Carrier::Cookie("pod".into()), ttl_seconds: Some(60) }),
            destination: Some(Destination::Header),
            ask_for_usage: false,
            access_log: true,
            explain: Secret::new("a-secret-of-the-operator".into()),
        };
        assert_eq!(*config.rules, rules);
        assert_eq!((config.no_endpoint, config.missing_model), (Some(NoEndpoint::FailClosed), MissingModel::Pass));
        assert_eq!(config.rewrites[0].targets[0], Target { model: "b".into(), weight: 3 });
        assert_eq!(config.objectives["batch"], -1);
        let stats = StatsConfig {
            objective: false,
            model: true,
            gen_ai: false,
            llm_d: true,
            flow_control: false,
            max_models: 5,
            max_endpoints: 6,
            max_fairness_ids: 7,
            flush_interval_ms: 100,
        };
        assert_eq!((config.stats, config.gen_ai_provider.as_str()), (stats, "sglang"));
    }

    fn scorers(json: &str) -> Vec<(Scorer, f64)> {
        filter(&format!(r#"{{"scheduling": {{"scorers": [{json}]}}}}"#)).profile.scorers
    }

    #[test]
    fn a_scorer_without_parameters_has_those_of_the_endpoint_picker() {
        for scorer in Scorer::ALL {
            let name = scorer.as_str();
            assert_eq!(scorers(&format!(r#"{{"name": "{name}"}}"#)), [(scorer, 1.0)]);
            assert_eq!(scorers(&format!(r#"{{"name": "{name}", "weight": 3, "parameters": {{}}}}"#)), [(scorer, 3.0)]);
        }
    }

    #[test]
    fn parameters_have_the_endpoint_pickers_names() {
        assert_eq!(
            scorers(
                r#"{"name": "no-hit-lru-scorer", "parameters": {"lruSize": 2048}},
                   {"name": "load-aware-scorer", "parameters": {"threshold": 10}},
                   {"name": "active-request-scorer",
                    "parameters": {"requestTimeout": "2m", "idleThreshold": 2, "maxBusyScore": 0.5}}"#
            ),
            [
                (Scorer::NoHitLru(NoHitLru { lru_size: 2_048 }), 1.0),
                (Scorer::LoadAware(LoadAware { threshold: 10 }), 1.0),
                (Scorer::ActiveRequests(ActiveRequests { idle_threshold: 2, max_busy_score: 0.5 }), 1.0),
            ]
        );
    }

    fn prefix_cache(parameters: &str) -> PrefixCache {
        let scorers = scorers(&format!(r#"{{"name": "prefix-cache-scorer", "parameters": {parameters}}}"#));
        let [(Scorer::PrefixCache(parameters), _)] = scorers[..] else { panic!("{scorers:?}") };
        parameters
    }

    #[test]
    fn blocks_and_tokens_of_prefixes_are_bytes_here() {
        let characters =
            prefix_cache(r#"{"blockSize": 100, "maxPrefixBlocksToMatch": 256, "lruCapacityPerServer": 1000}"#);
        assert_eq!((characters.max_bytes, characters.capacity_bytes), (Some(25_600), 100_000));
        assert_eq!(prefix_cache(r#"{"hashBlockSize": 5, "maxPrefixBlocksToMatch": 256}"#).max_bytes, Some(1_280));
        let tokens = prefix_cache(r#"{"blockSizeTokens": 5, "blockSize": 100, "maxPrefixBlocksToMatch": 256}"#);
        assert_eq!(tokens.max_bytes, Some(5 * 4 * 256));
        let by_tokens =
            prefix_cache(r#"{"maxPrefixBlocksToMatch": 1, "maxPrefixTokensToMatch": 16384, "autoTune": false}"#);
        assert_eq!((by_tokens.max_bytes, by_tokens.reads_capacity), (Some(65_536), false));
        assert_eq!(prefix_cache(r#"{"maxPrefixTokensToMatch": 0}"#).max_bytes, Some(2_048 * 64));
        assert_eq!(prefix_cache(r#"{"maxPrefixBlocksToMatch": 0}"#).max_bytes, PrefixCache::DEFAULT.max_bytes);
        assert_eq!(prefix_cache(r#"{"maxPrefixBlocksToMatch": 0, "maxPrefixTokensToMatch": 0}"#).max_bytes, None);
        assert_eq!(prefix_cache(r#"{"maxPrefixTokensToMatch": 10000000, "blockSize": 0}"#).max_bytes, Some(40_000_000));
        let length = prefix_cache(r#"{"matchLengthWeight": 0.25, "matchLengthScaleTokens": 1000}"#);
        assert_eq!((length.match_length_weight, length.match_length_scale_bytes), (0.25, 4_000));
    }

    fn picker(json: &str) -> (Picker, usize) {
        let profile = filter(&format!(r#"{{"scheduling": {{"picker": {json}}}}}"#)).profile;
        (profile.picker, profile.ranked)
    }

    #[test]
    fn a_picker_is_a_name_or_an_object() {
        for chosen in Picker::ALL {
            assert_eq!(picker(&format!(r#""{}""#, chosen.as_str())), (chosen, 3));
            assert_eq!(picker(&format!(r#"{{"name": "{}"}}"#, chosen.as_str())), (chosen, 3));
        }
        let with_most =
            |most| picker(&format!(r#"{{"name": "random-picker", "parameters": {{"maxNumOfEndpoints": {most}}}}}"#));
        assert_eq!([1, 2, 3, 50].map(with_most).map(|(_, ranked)| ranked), [1, 2, 3, 3]);
    }

    #[test]
    fn every_bad_parameter_is_named_in_one_go() {
        let error = Plugin::parse(
            br#"{"scheduling": {
                "scorers": [
                    {"name": "no-hit-lru-scorer", "parameters": {"lruSize": 0}},
                    {"name": "queue-scorer", "parameters": {"depth": 1}},
                    {"name": "prefix-cache-scorer", "parameters": {"autoTune": 1, "matchLengthWeight": 1.5, "mode": "x"}},
                    {"name": "active-request-scorer", "parameters": {"idleThreshold": -1, "maxBusyScore": 2, "requestTimeout": 5}},
                    {"name": "load-aware-scorer", "parameters": []},
                    {"name": "best-scorer", "parameters": {"any": 1}}
                ],
                "ranked": 2,
                "picker": {"name": "first-picker", "parameters": {"maxNumOfEndpoints": 2, "seed": 1}, "weight": 1}
            }}"#,
        )
        .unwrap_err();
        for field in [
            "scorers[0].parameters.lruSize: must be",
            "scorers[1].parameters.depth: unknown",
            "scorers[2].parameters.autoTune: must be",
            "scorers[2].parameters.matchLengthWeight: must be",
            "scorers[2].parameters.mode: unknown",
            "scorers[3].parameters.idleThreshold: must be",
            "scorers[3].parameters.maxBusyScore: must be",
            "scorers[3].parameters.requestTimeout: must be",
            "scorers[4].parameters: must be an object",
            "scorers[5].name: must be one of",
            "picker.name: must be one of",
            "picker.parameters.maxNumOfEndpoints: scheduling.ranked says the same",
            "picker.parameters.seed: unknown",
            "picker.weight: unknown",
        ] {
            let named = error.0.iter().filter(|message| message.starts_with(&format!("scheduling.{field}"))).count();
            assert_eq!(named, 1, "{field} in {error}");
        }
        assert_eq!(error.0.len(), 14, "{error}");
    }

    #[test]
    fn every_bad_field_is_named_in_one_go() {
        let error = Plugin::parse(
            br#"{"pool": 7, "typo": 1, "no_endpoint": "maybe", "objectives": {"x": "high"},
                 "scheduling": {"ranked": 9, "scorers": [{"name": "queue-scorer", "weight": -1}, {"nam": "x"}]},
                 "model_rewrites": [{"name": "r", "targets": []}, 3],
                 "unknown_model": "maybe", "saturation": {"queue_depth": 0, "kv_cache_usage": 2}, "subset_hint": 1, "served_endpoint": "pod", "orca": 1,
                 "session": {"header": "a b", "ttl_s": 5, "x": 1}}"#,
        )
        .unwrap_err();
        for field in [
            "pool:",
            "typo: unknown",
            "no_endpoint: must be one of fail_open, fail_closed",
            "objectives.x:",
            "scheduling.ranked:",
            "scheduling.scorers[0].weight:",
            "scheduling.scorers[1].name: missing",
            "scheduling.scorers[1].nam: unknown",
            "model_rewrites[0].targets: at least one",
            "model_rewrites[1]: must be an object",
            "unknown_model: must be one of reject, pass",
            "saturation.queue_depth:",
            "saturation.kv_cache_usage:",
            "subset_hint: must be one of off, metadata, header",
            "served_endpoint: must be one of property, header",
            "orca: must be true or false",
            "session: \"a b\" is no name",
            "session.ttl_s: only a cookie",
            "session.x: unknown",
        ] {
            assert!(error.0.iter().any(|message| message.starts_with(field)), "{field} is not in {error}");
        }
    }

    #[test]
    fn the_service_needs_its_cluster() {
        assert_eq!(
            Plugin::parse(br#"{"snapshot_service": {"cluster": "s"}}"#),
            Ok(Plugin::SnapshotService(ServiceConfig {
                cluster: "s".into(),
                path: "/snapshot".into(),
                interval_ms: DEFAULT_SNAPSHOT_INTERVAL_MS,
                wait_ms: DEFAULT_SNAPSHOT_WAIT_MS,
                timeout_ms: DEFAULT_SNAPSHOT_TIMEOUT_MS,
                embedded: None,
            }))
        );
        assert!(Plugin::parse(br#"{"snapshot_service": {}}"#).is_err());
        assert!(
            Plugin::parse(br#"{"snapshot_service": {"cluster": "s", "wait_ms": 900, "timeout_ms": 900}}"#).is_err()
        );
        assert!(Plugin::parse(br#"{"snapshot_service": {"cluster": "s"}, "pool": "p"}"#).is_err());
    }

    #[test]
    fn what_only_the_native_module_can_do_is_kept_as_it_is_and_refused_elsewhere() {
        let document = r#"{"sidecar": {"embedded": {"pool": ["a=envoy:b"], "x": 1}, "interval_ms": 20}}"#;
        let config = filter(document);
        let embedded = config.sidecar.embedded.clone().unwrap();
        assert_eq!(embedded.keys().collect::<Vec<_>>(), ["pool", "x"]);
        let refused = |document: &str| native_settings_in(&serde_json::from_str(document).unwrap());
        for (document, settings) in [
            (document, &["sidecar.embedded: only the native module"][..]),
            (r#"{"snapshot_service": {"embedded": {}}}"#, &["snapshot_service.embedded: "]),
            ("{}", &[]),
            (r#"{"destination": "header", "sidecar": {"embedded": true}}"#, &[]),
            (
                r#"{"destination": "metadata", "sidecar": {"embedded": {}}}"#,
                &["destination: only the native", "sidecar.embedded: "],
            ),
        ] {
            let refused = refused(document);
            assert_eq!(refused.len(), settings.len(), "{document}: {refused:?}");
            assert!(refused.iter().zip(settings).all(|(refused, setting)| refused.starts_with(setting)), "{refused:?}");
        }
        let error = Plugin::parse(br#"{"sidecar": {"embedded": true}}"#).unwrap_err();
        assert_eq!(error.0, ["sidecar.embedded: must be an object, not true"]);
    }

    #[test]
    fn what_is_not_json_is_refused() {
        assert!(Plugin::parse(b"pool: default").is_err());
        assert!(Plugin::parse(b"[]").is_err());
    }
}
