//! The settings of what is done with requests beside scoring endpoints for them.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde_json::Value;

use super::Fields;
use crate::affinity::ResponseMakers;
use crate::rules::{
    DEFAULT_EARLY_PICK_BYTES, DEFAULT_MAX_RESPONSE_IDS, DEFAULT_SATURATION, Destination, EarlyPick, Rules, Secret,
    ServedEndpoint, SubsetHint, UnknownModel,
};
use crate::scheduling::Saturation;
use crate::session::{Carrier, Session};

/// `wait_ms`: for so long the sidecar's word stands while nothing changes, so figures are not old before that.
pub(super) fn read(root: &mut Fields, wait_ms: u64, errors: &mut Vec<String>) -> Rules {
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
    let served = [("property", ServedEndpoint::Property), ("header", ServedEndpoint::Header)];
    let destinations = [("metadata", Destination::Metadata), ("header", Destination::Header)];
    Rules {
        unknown_model: root.choice("unknown_model", &unknown_models, errors).unwrap_or(UnknownModel::Reject),
        response_makers: ResponseMakers::new(max_ids),
        shedding: is_shedding.then_some(limits),
        subset_hint: root.choice("subset_hint", &hints, errors).unwrap_or(SubsetHint::Off),
        served_endpoint: root.choice("served_endpoint", &served, errors).unwrap_or(ServedEndpoint::Property),
        conformance: root.boolean("conformance", errors).unwrap_or(false),
        early_pick: read_early_pick(root, errors),
        orca: root.boolean("orca", errors).unwrap_or(false),
        session: root.object("session", errors).and_then(|fields| read_session(fields, errors)),
        destination: root.choice("destination", &destinations, errors),
        ask_for_usage: root.boolean("ask_for_usage", errors).unwrap_or(true),
        access_log: root.boolean("access_log", errors).unwrap_or(false),
        explain: root.object("explain", errors).and_then(|fields| read_secret(fields, errors)),
    }
}

fn read_early_pick(root: &mut Fields, errors: &mut Vec<String>) -> Option<EarlyPick> {
    if root.values.get("early_pick_bytes").is_some_and(Value::is_null) {
        root.values.insert("early_pick_bytes".into(), Value::from(0));
    }
    let bytes = root.integer("early_pick_bytes", 0..=1_073_741_824, errors).unwrap_or(DEFAULT_EARLY_PICK_BYTES);
    let reads_rest = root.choice("early_pick_rest", &[("read", true), ("pass", false)], errors).unwrap_or(true);
    (bytes > 0).then_some(EarlyPick { bytes, reads_rest })
}

fn read_secret(mut fields: Fields, errors: &mut Vec<String>) -> Option<Secret> {
    let secret = fields.text("secret", errors).and_then(Secret::new);
    if secret.is_none() {
        errors.push(format!(
            "{}secret: at least {} visible ASCII characters are needed",
            fields.path,
            Secret::MIN_BYTES
        ));
    }
    fields.finish(errors);
    secret
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
