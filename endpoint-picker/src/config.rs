//! The plugin's configuration: parsed once into checked values, every bad field named in one go.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde_json::{Map, Value};

use crate::affinity::ResponseMakers;
use crate::openai::request::{MAX_MODEL_BYTES, MAX_PREFIX_BLOCKS, PREFIX_BLOCK_BYTES};
use crate::rewrite::{Rule, Target};
use crate::rules::{DEFAULT_MAX_RESPONSE_IDS, DEFAULT_SATURATION, Rules, SubsetHint, UnknownModel};
use crate::scheduling::{MAX_RANKED, Picker, Profile, Saturation, Scorer};
use crate::session::{Carrier, Session};

/// Two seconds without a confirmed snapshot: forty missed polls of the sidecar at its default, so not a hiccup, and the age at
/// which other pickers stop trusting a pod's metrics.
pub const DEFAULT_MAX_SNAPSHOT_AGE_MS: u64 = 2_000;
/// The weight of queue and KV cache in the profile that pickers ship: both count the same.
pub const DEFAULT_WEIGHT: f64 = 2.0;
/// Requests in flight weigh half as much: they decide where the engines' own figures are equal or missing.
pub const DEFAULT_IN_FLIGHT_WEIGHT: f64 = 1.0;
/// Staleness and ejection leave out at most half of a pool: more at once has a cause outside the endpoints, and the rest could not
/// carry the load of all.
pub const DEFAULT_MAX_EXCLUDED_PERCENT: u8 = 50;
/// Distinct model names that get series of their own; later ones share the name `other`. Names come from clients and Envoy never
/// frees a stat.
pub const DEFAULT_MAX_MODELS: usize = 1_000;
/// Distinct endpoints, and pods, that get series of their own; later ones share the name `other`. Pods come and go, and Envoy never
/// frees a stat: room for a pool of a hundred pods that is replaced twenty times.
pub const DEFAULT_MAX_ENDPOINTS: usize = 2_000;
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
    /// What to do when nothing can be picked.
    pub no_endpoint: NoEndpoint,
    /// What to do with a body that names no model.
    pub missing_model: MissingModel,
    /// What holds for every request besides the pick itself.
    pub rules: Box<Rules>,
    /// Model rewrites.
    pub rewrites: Vec<Rule>,
    /// Priorities by objective name; an unknown objective has priority 0.
    pub objectives: BTreeMap<String, i64>,
    /// Which families are published, and their bounds.
    pub stats: StatsConfig,
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
    /// Distinct model names with series of their own, in the whole Envoy.
    pub max_models: usize,
    /// Distinct endpoints and pods with series of their own, in the whole Envoy.
    pub max_endpoints: usize,
    /// Milliseconds between flushes to Envoy.
    pub flush_interval_ms: u64,
}

impl Default for StatsConfig {
    fn default() -> Self {
        Self {
            objective: true,
            model: false,
            max_models: DEFAULT_MAX_MODELS,
            max_endpoints: DEFAULT_MAX_ENDPOINTS,
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

impl Plugin {
    /// Reads a configuration: a JSON object, or nothing at all for the filter with its defaults.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with every field that is unknown, of the wrong type or out of range.
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        let value: Value = if json.iter().all(u8::is_ascii_whitespace) {
            Value::Object(Map::new())
        } else {
            serde_json::from_slice(json).map_err(|error| ConfigError(alloc::vec![format!("not JSON: {error}")]))?
        };
        let mut errors = Vec::new();
        let mut root = Fields::of(value, "", &mut errors);
        let plugin = match root.object("snapshot_service", &mut errors) {
            Some(service) => {
                if !service.values.contains_key("cluster") {
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
        };
        fields.finish(errors);
        config
    }
}

impl Config {
    fn read(root: &mut Fields, errors: &mut Vec<String>) -> Self {
        let pool = root.text("pool", errors).unwrap_or_else(|| "default".to_owned());
        let mut scheduling = root.object("scheduling", errors).unwrap_or_default();
        let scorers = scheduling
            .list("scorers", errors)
            .map(|items| items.into_iter().filter_map(|item| read_scorer(item, errors)).collect());
        let profile = Profile {
            scorers: scorers.unwrap_or_else(|| {
                alloc::vec![
                    (Scorer::Queue, DEFAULT_WEIGHT),
                    (Scorer::KvCacheUtilization, DEFAULT_WEIGHT),
                    (Scorer::ActiveRequests, DEFAULT_IN_FLIGHT_WEIGHT),
                ]
            }),
            picker: scheduling
                .choice("picker", &[("max-score-picker", Picker::MaxScore), ("random-picker", Picker::Random)], errors)
                .unwrap_or(Picker::MaxScore),
            ranked: scheduling
                .integer("ranked", 1..=MAX_RANKED as u64, errors)
                .and_then(|ranked| usize::try_from(ranked).ok())
                .unwrap_or(MAX_RANKED),
            max_snapshot_age_micros: scheduling
                .integer("max_snapshot_age_ms", 1..=3_600_000, errors)
                .unwrap_or(DEFAULT_MAX_SNAPSHOT_AGE_MS)
                * 1_000,
            max_excluded_percent: scheduling
                .integer("max_excluded_percent", 0..=100, errors)
                .and_then(|percent| u8::try_from(percent).ok())
                .unwrap_or(DEFAULT_MAX_EXCLUDED_PERCENT),
        };
        scheduling.finish(errors);
        let no_endpoint = root
            .choice(
                "no_endpoint",
                &[("fail_open", NoEndpoint::FailOpen), ("fail_closed", NoEndpoint::FailClosed)],
                errors,
            )
            .unwrap_or(NoEndpoint::FailOpen);
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
            max_models: metrics
                .integer("max_models", 1..=100_000, errors)
                .and_then(|count| usize::try_from(count).ok())
                .unwrap_or(defaults.max_models),
            max_endpoints: metrics
                .integer("max_endpoints", 1..=100_000, errors)
                .and_then(|count| usize::try_from(count).ok())
                .unwrap_or(defaults.max_endpoints),
            flush_interval_ms: metrics
                .integer("flush_interval_ms", 10..=60_000, errors)
                .unwrap_or(defaults.flush_interval_ms),
        };
        metrics.finish(errors);
        let sidecar = ServiceConfig::read(root.object("sidecar", errors).unwrap_or_default(), errors);
        let rules = Box::new(read_rules(root, sidecar.wait_ms, errors));
        Self { pool, profile, no_endpoint, missing_model, rules, rewrites, objectives, stats, sidecar }
    }
}

/// `wait_ms`: for so long the sidecar's word stands while nothing changes, so figures are not old before that.
fn read_rules(root: &mut Fields, wait_ms: u64, errors: &mut Vec<String>) -> Rules {
    let (queue_depth, kv_cache_usage, staleness_ms) = DEFAULT_SATURATION;
    let mut saturation = root.object("saturation", errors).unwrap_or_default();
    let is_shedding = saturation.boolean("shed", errors).unwrap_or(true);
    let limits = Saturation {
        queue_depth: saturation
            .integer("queue_depth", 1..=1_000_000, errors)
            .and_then(|depth| u32::try_from(depth).ok())
            .unwrap_or(queue_depth),
        kv_cache_usage: saturation.number("kv_cache_usage", 0.01..=1.0, errors).unwrap_or(kv_cache_usage),
        staleness_micros: (saturation.integer("staleness_ms", 1..=3_600_000, errors).unwrap_or(staleness_ms) + wait_ms)
            * 1_000,
    };
    saturation.finish(errors);
    let max_ids = root.integer("max_response_ids", 0..=16_777_216, errors).unwrap_or(DEFAULT_MAX_RESPONSE_IDS);
    let unknown_models = [("reject", UnknownModel::Reject), ("pass", UnknownModel::Pass)];
    let hints = [("off", SubsetHint::Off), ("metadata", SubsetHint::Metadata), ("header", SubsetHint::Header)];
    Rules {
        unknown_model: root.choice("unknown_model", &unknown_models, errors).unwrap_or(UnknownModel::Reject),
        response_makers: ResponseMakers::new(max_ids),
        shedding: is_shedding.then_some(limits),
        subset_hint: root.choice("subset_hint", &hints, errors).unwrap_or(SubsetHint::Off),
        conformance: root.boolean("conformance", errors).unwrap_or(false),
        orca: root.boolean("orca", errors).unwrap_or(false),
        session: root.object("session", errors).and_then(|fields| read_session(fields, errors)),
    }
}

fn read_session(mut fields: Fields, errors: &mut Vec<String>) -> Option<Session> {
    let carrier = match (fields.text("header", errors), fields.text("cookie", errors)) {
        (Some(name), None) => Some(Carrier::Header(name.to_ascii_lowercase())),
        (None, Some(name)) => Some(Carrier::Cookie(name)),
        _ => {
            errors.push(format!("{}header, {}cookie: exactly one of them must be given", fields.path, fields.path));
            None
        }
    };
    let is_token =
        |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
    if let Some(Carrier::Header(name) | Carrier::Cookie(name)) = &carrier
        && !is_token(name)
    {
        errors.push(format!("{}: {name:?} is no name of a header or a cookie", fields.path.trim_end_matches('.')));
    }
    let ttl_seconds = fields.integer("ttl_s", 1..=31_536_000, errors);
    if ttl_seconds.is_some() && !matches!(carrier, Some(Carrier::Cookie(_))) {
        errors.push(format!("{}ttl_s: only a cookie has one", fields.path));
    }
    fields.finish(errors);
    Some(Session { carrier: carrier?, ttl_seconds })
}

fn read_scorer((path, value): (String, Value), errors: &mut Vec<String>) -> Option<(Scorer, f64)> {
    let mut fields = Fields::of(value, &path, errors);
    let choices = Scorer::ALL.map(|scorer| (scorer.as_str(), scorer));
    let scorer = fields.choice("name", &choices, errors);
    if scorer.is_none() && !errors.iter().any(|error| error.starts_with(&path)) {
        errors.push(format!("{path}.name: missing"));
    }
    let weight = fields.number("weight", 0.0..=1e6, errors).unwrap_or(1.0);
    fields.finish(errors);
    Some((scorer?, weight))
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

/// The members of one JSON object, taken out one by one; what is left at the end is unknown.
#[derive(Default)]
struct Fields {
    path: String,
    values: Map<String, Value>,
}

impl Fields {
    fn of(value: Value, path: &str, errors: &mut Vec<String>) -> Self {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
        match value {
            Value::Object(values) => Self { path: prefix, values },
            other => {
                errors.push(format!(
                    "{}: must be an object, not {other}",
                    if path.is_empty() { "the document" } else { path }
                ));
                Self { path: prefix, values: Map::new() }
            }
        }
    }

    fn take<T>(
        &mut self,
        name: &str,
        wanted: &str,
        errors: &mut Vec<String>,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.values.remove(name)?;
        let read = read(&value);
        if read.is_none() {
            errors.push(format!("{}{name}: must be {wanted}, not {value}", self.path));
        }
        read
    }

    fn text(&mut self, name: &str, errors: &mut Vec<String>) -> Option<String> {
        self.take(name, "a text that is not empty", errors, |value| {
            value.as_str().filter(|text| !text.is_empty()).map(ToOwned::to_owned)
        })
    }

    fn required_text(&mut self, name: &str, errors: &mut Vec<String>) -> String {
        if !self.values.contains_key(name) {
            errors.push(format!("{}{name}: missing", self.path));
        }
        self.text(name, errors).unwrap_or_default()
    }

    fn boolean(&mut self, name: &str, errors: &mut Vec<String>) -> Option<bool> {
        self.take(name, "true or false", errors, Value::as_bool)
    }

    /// Integers may be written as `2.0`: Envoy turns a protobuf Struct into such JSON.
    fn integer(&mut self, name: &str, range: core::ops::RangeInclusive<u64>, errors: &mut Vec<String>) -> Option<u64> {
        let wanted = format!("an integer from {} to {}", range.start(), range.end());
        self.take(name, &wanted, errors, |value| {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "whole, positive and below 2^53: checked"
            )]
            let whole = |number: f64| ((0.0..9e15).contains(&number) && number % 1.0 == 0.0).then_some(number as u64);
            value.as_u64().or_else(|| value.as_f64().and_then(whole)).filter(|integer| range.contains(integer))
        })
    }

    fn number(&mut self, name: &str, range: core::ops::RangeInclusive<f64>, errors: &mut Vec<String>) -> Option<f64> {
        let wanted = format!("a number from {} to {}", range.start(), range.end());
        self.take(name, &wanted, errors, |value| value.as_f64().filter(|number| range.contains(number)))
    }

    fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)], errors: &mut Vec<String>) -> Option<T> {
        let wanted = format!("one of {}", choices.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", "));
        self.take(name, &wanted, errors, |value| {
            choices.iter().find(|(word, _)| value.as_str() == Some(word)).map(|&(_, choice)| choice)
        })
    }

    fn object(&mut self, name: &str, errors: &mut Vec<String>) -> Option<Self> {
        let value = self.values.remove(name)?;
        Some(Self::of(value, &format!("{}{name}", self.path), errors))
    }

    fn list(&mut self, name: &str, errors: &mut Vec<String>) -> Option<Vec<(String, Value)>> {
        let path = format!("{}{name}", self.path);
        let items = self.take(name, "a list", errors, |value| value.as_array().cloned())?;
        Some(items.into_iter().enumerate().map(|(index, item)| (format!("{path}[{index}]"), item)).collect())
    }

    fn finish(self, errors: &mut Vec<String>) {
        errors.extend(self.values.keys().map(|name| format!("{}{name}: unknown", self.path)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let scorers = [(Scorer::Queue, 2.0), (Scorer::KvCacheUtilization, 2.0), (Scorer::ActiveRequests, 1.0)];
        assert_eq!(config.profile.scorers, scorers);
        assert_eq!(config.sidecar.cluster, DEFAULT_SIDECAR_CLUSTER);
        assert_eq!(config.stats, StatsConfig::default());
        let rules = Rules {
            unknown_model: UnknownModel::Reject,
            response_makers: ResponseMakers::new(65_536),
            shedding: Some(Saturation { queue_depth: 5, kv_cache_usage: 0.8, staleness_micros: 400_000 }),
            subset_hint: SubsetHint::Off,
            conformance: false,
            orca: false,
            session: None,
        };
        assert_eq!(*config.rules, rules);
        assert_eq!(filter(r#"{"saturation": {"shed": false}}"#).rules.shedding, None);
        let session = filter(r#"{"session": {"header": "X-Session-Token"}}"#).rules.session.unwrap();
        assert_eq!(session, Session { carrier: Carrier::Header("x-session-token".into()), ttl_seconds: None });
    }

    #[test]
    fn every_setting_is_read() {
        let config = filter(
            r#"{"pool": "llama", "no_endpoint": "fail_closed", "missing_model": "pass", "objectives": {"batch": -1},
                "scheduling": {"scorers": [{"name": "running-requests-size-scorer", "weight": 0.5}], "picker": "random-picker",
                               "ranked": 2.0, "max_snapshot_age_ms": 500, "max_excluded_percent": 20},
                "sidecar": {"cluster": "s", "wait_ms": 50},
                "unknown_model": "pass", "max_response_ids": 100, "subset_hint": "header", "conformance": true, "orca": true,
                "saturation": {"queue_depth": 3, "kv_cache_usage": 0.7, "staleness_ms": 150},
                "session": {"cookie": "pod", "ttl_s": 60},
                "model_rewrites": [{"name": "r", "model": "a", "targets": [{"model": "b", "weight": 3}, {"model": "c"}]}],
                "metrics": {"objective": false, "model": true, "max_models": 5, "max_endpoints": 6, "flush_interval_ms": 100}}"#,
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
            conformance: true,
            orca: true,
            session: Some(Session { carrier: Carrier::Cookie("pod".into()), ttl_seconds: Some(60) }),
        };
        assert_eq!(*config.rules, rules);
        assert_eq!((config.no_endpoint, config.missing_model), (NoEndpoint::FailClosed, MissingModel::Pass));
        assert_eq!(config.rewrites[0].targets[0], Target { model: "b".into(), weight: 3 });
        assert_eq!(config.objectives["batch"], -1);
        let stats =
            StatsConfig { objective: false, model: true, max_models: 5, max_endpoints: 6, flush_interval_ms: 100 };
        assert_eq!(config.stats, stats);
    }

    #[test]
    fn every_bad_field_is_named_in_one_go() {
        let error = Plugin::parse(
            br#"{"pool": 7, "typo": 1, "no_endpoint": "maybe", "objectives": {"x": "high"},
                 "scheduling": {"ranked": 9, "scorers": [{"name": "queue-scorer", "weight": -1}, {"nam": "x"}]},
                 "model_rewrites": [{"name": "r", "targets": []}, 3],
                 "unknown_model": "maybe", "saturation": {"queue_depth": 0, "kv_cache_usage": 2}, "subset_hint": 1, "orca": 1,
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
            }))
        );
        assert!(Plugin::parse(br#"{"snapshot_service": {}}"#).is_err());
        assert!(
            Plugin::parse(br#"{"snapshot_service": {"cluster": "s", "wait_ms": 900, "timeout_ms": 900}}"#).is_err()
        );
        assert!(Plugin::parse(br#"{"snapshot_service": {"cluster": "s"}, "pool": "p"}"#).is_err());
    }

    #[test]
    fn what_is_not_json_is_refused() {
        assert!(Plugin::parse(b"pool: default").is_err());
        assert!(Plugin::parse(b"[]").is_err());
    }
}
