//! The EPP's section `flowControl`, as the filter's section `flow_control`.

use endpoint_picker::config::Fields;
use serde_json::{Map, Value};

use crate::duration::millis;
use crate::quantity::whole;

/// Requests and bytes that wait at most where the EPP has no limit but those of its bands: the most that the filter takes.
const NO_LIMIT: [(&str, &str, u64); 2] =
    [("maxRequests", "max_requests", 1_000_000), ("maxBytes", "max_bytes", 1 << 40)];
/// The same of each priority; 0 and nothing are the EPP's defaults, which are the filter's.
const BAND_LIMITS: [(&str, &str); 2] = [("maxRequests", "max_band_requests"), ("maxBytes", "max_band_bytes")];
/// An EPP's request without a limit of its time waits for as long as its client does: a day is more.
const FOR_EVER_MILLIS: u64 = 86_400_000;
/// Types of the EPP's policies, each with the filter's word for it.
type Words = [(&'static str, &'static str); 2];
/// Which flow of a priority is next, by the types of the EPP's policies; the first is its default.
const FAIRNESS: Words =
    [("global-strict-fairness-policy", "best_head"), ("round-robin-fairness-policy", "round_robin")];
/// Who of a flow is next.
const ORDERING: Words = [("fcfs-ordering-policy", "first_come"), ("edf-ordering-policy", "earliest_deadline")];
/// How the EPP refers to them, and the filter's names of them.
const POLICIES: [(&str, &str, Words); 2] =
    [("fairnessPolicyRef", "fairness", FAIRNESS), ("orderingPolicyRef", "ordering", ORDERING)];
const SHARED: &str = "all priorities share the limits and policies of defaultPriorityBand";

/// What is read beside the section itself.
pub(crate) struct Surroundings<'a> {
    /// The type of a plugin, declared or the EPP's own, by the name that refers to it.
    pub(crate) plugin_type: &'a dyn Fn(&str) -> Option<String>,
    /// Thresholds of the detector in use, as the filter's section `saturation`.
    pub(crate) saturation: &'a Map<String, Value>,
}

/// Reads the section; `fields` is empty where there is none.
pub(crate) fn read(
    mut fields: Fields,
    surroundings: &Surroundings<'_>,
    errors: &mut Vec<String>,
    notes: &mut Vec<String>,
) -> Map<String, Value> {
    let mut made = Map::new();
    for (name, ours, none) in NO_LIMIT {
        let limit = quantity(&mut fields, name, errors).unwrap_or(0);
        made.insert(ours.into(), if limit == 0 { none } else { limit.min(none) }.into());
    }
    if let Some(ttl) = ttl(&mut fields, errors) {
        made.insert("ttl_ms".into(), ttl.into());
    }
    if fields.values.remove("noEndpointRequestTTL").is_some() {
        notes.push(format!(
            "{}noEndpointRequestTTL: has no effect: a request that no endpoint can take is answered at once",
            fields.path
        ));
    }
    let default = fields.object("defaultPriorityBand", errors).unwrap_or_default();
    for (name, ours, known) in POLICIES {
        if let Some((_, first)) = known.first().filter(|_| !default.values.contains_key(name)) {
            made.insert(ours.into(), (*first).into());
        }
    }
    made.extend(band(default, surroundings, errors));
    let negative = fields.object("defaultNegativePriorityBand", errors);
    let bands = fields.list("priorityBands", errors).unwrap_or_default();
    let bands = bands.into_iter().map(|(path, band)| Fields::of(band, &path, errors)).collect::<Vec<_>>();
    for mut fields in negative.into_iter().chain(bands) {
        let path = fields.path.clone();
        fields.values.remove("priorityName");
        if band(fields, surroundings, errors).iter().any(|(name, value)| made.get(name) != Some(value)) {
            errors.push(format!("{}: is not supported: {SHARED}", path.trim_end_matches('.')));
        }
    }
    let path = format!("{}usageLimitPolicyPluginRef", fields.path);
    if let Some(name) = fields.text("usageLimitPolicyPluginRef", errors) {
        match (surroundings.plugin_type)(&name).as_deref() {
            Some("static-usage-limit-policy") => {
                notes.push(format!(
                    "{path}: has no effect: requests wait while all endpoints are full, of whatever priority"
                ));
            }
            Some(other) => errors.push(format!("{path}: {other} is not supported: one limit holds for all priorities")),
            None => errors.push(format!("{path}: no plugin is called {name}")),
        }
    }
    let path = format!("{}enableEviction", fields.path);
    if fields.boolean("enableEviction", errors) == Some(true) {
        errors.push(format!("{path}: is not supported: a request that was sent is never called back"));
    }
    fields.finish(errors);
    for name in ["queue_depth", "kv_cache_usage"] {
        if let Some(threshold) = surroundings.saturation.get(name) {
            made.insert(name.into(), threshold.clone());
        }
    }
    made
}

/// What a band says of itself: limits, times and policies that it names.
fn band(mut fields: Fields, surroundings: &Surroundings<'_>, errors: &mut Vec<String>) -> Map<String, Value> {
    let mut made = Map::new();
    for (name, ours) in BAND_LIMITS {
        if let Some(limit) = quantity(&mut fields, name, errors).filter(|limit| *limit > 0) {
            made.insert(ours.into(), limit.into());
        }
    }
    if let Some(ttl) = ttl(&mut fields, errors) {
        made.insert("ttl_ms".into(), ttl.into());
    }
    for (name, ours, known) in POLICIES {
        if let Some(policy) = policy(&mut fields, name, &known, surroundings, errors) {
            made.insert(ours.into(), policy.into());
        }
    }
    fields.values.remove("priority");
    fields.finish(errors);
    made
}

/// A quantity, written as a number or a text.
fn quantity(fields: &mut Fields, name: &str, errors: &mut Vec<String>) -> Option<u64> {
    let value = fields.values.remove(name)?;
    let read = match &value {
        Value::Null => return None,
        Value::String(text) => whole(text),
        number => whole(&number.to_string()),
    };
    if read.is_none() {
        errors.push(format!("{}{name}: must be a quantity such as 100, 1k or 1Gi, not {value}", fields.path));
    }
    read
}

/// Milliseconds that a request waits at most; 0 is no limit there.
fn ttl(fields: &mut Fields, errors: &mut Vec<String>) -> Option<u64> {
    let path = format!("{}defaultRequestTTL", fields.path);
    let text = fields.text("defaultRequestTTL", errors)?;
    match millis(&text) {
        Some(0) => Some(FOR_EVER_MILLIS),
        Some(millis) => Some(millis.min(FOR_EVER_MILLIS)),
        None => {
            errors.push(format!("{path}: must be a duration such as 30s, not {text:?}"));
            None
        }
    }
}

/// The filter's word for a policy that is named.
fn policy(
    fields: &mut Fields,
    name: &str,
    known: &[(&str, &'static str)],
    surroundings: &Surroundings<'_>,
    errors: &mut Vec<String>,
) -> Option<&'static str> {
    let path = format!("{}{name}", fields.path);
    let named = fields.text(name, errors).filter(|named| !named.is_empty())?;
    let Some(plugin_type) = (surroundings.plugin_type)(&named) else {
        errors.push(format!("{path}: no plugin is called {named}"));
        return None;
    };
    let ours = known.iter().find(|(theirs, _)| *theirs == plugin_type).map(|(_, ours)| *ours);
    if ours.is_none() {
        let types = known.iter().map(|(theirs, _)| *theirs).collect::<Vec<_>>().join(" and ");
        errors.push(format!("{path}: {plugin_type} is not supported: there are {types}"));
    }
    ours
}
