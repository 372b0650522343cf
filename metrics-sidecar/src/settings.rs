//! The sidecar's flags as members of a JSON object, for a configuration that is one document.

use clap::{Arg, ArgAction, CommandFactory as _, Parser as _};
use serde_json::{Map, Value};

use crate::config::Config;
use crate::flags::{FlagError, Flags};

/// The flag that has no place in one: the sidecar inside Envoy has one thread.
const THREADS: &str = "threads";

/// The sections of a plugin's document that may have the flags of a sidecar, under [`EMBEDDED`].
const SECTIONS: [&str; 2] = ["sidecar", "snapshot_service"];
const EMBEDDED: &str = "embedded";
/// The filter's pool where its document names none.
const DEFAULT_POOL: &str = "default";

/// What is wrong with the flags in a plugin's document, each error behind its place; nothing if it has none. Other faults of the document are
/// not looked for.
#[must_use]
pub fn errors_in(document: &Value) -> Vec<String> {
    let flags = |section: &'static str| Some((section, document.get(section)?.get(EMBEDDED)?.as_object()?));
    let wrong = SECTIONS.into_iter().filter_map(flags).filter_map(|(section, flags)| {
        let errors = read(flags).err()?;
        Some(errors.into_iter().map(move |error| format!("{section}.{EMBEDDED}.{error}")))
    });
    wrong.flatten().chain(missing_pool(document)).collect()
}

/// That a filter's own sidecar has another pool than the filter, which would leave each pick to Envoy. An extension's document does not say
/// which filters ask its sidecar. Names that cannot be read are told elsewhere.
fn missing_pool(document: &Value) -> Option<String> {
    let flags = document.get("sidecar")?.get(EMBEDDED)?;
    let own = document.get("pool").map_or(Some(DEFAULT_POOL), Value::as_str)?;
    let name = |text: &Value| Some(text.as_str()?.split_once('=')?.0.trim().to_owned());
    let names: Vec<String> = flags.get("pool")?.as_array()?.iter().map(name).collect::<Option<_>>()?;
    let is_missing = !names.is_empty() && names.iter().all(|name| name != own);
    is_missing.then(|| format!("sidecar.{EMBEDDED}.pool: none is named {own:?}, which is the filter's pool"))
}

/// Reads an object whose keys are flags without their dashes. A flag that may be given several times has a list; the others have a
/// text, or a number where the flag takes one. Defaults are the flags' own.
///
/// # Errors
///
/// All that is wrong at once, each beginning with its key.
pub fn read(members: &Map<String, Value>) -> Result<Config, Vec<String>> {
    let command = Flags::command();
    let flag = |key: &String| {
        let takes_values = |arg: &&Arg| matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
        command.get_arguments().filter(takes_values).find(|arg| arg.get_long() == Some(key) && key != THREADS)
    };
    let mut errors = Vec::new();
    let mut arguments = vec![command.get_name().to_owned()];
    for (key, value) in members {
        let Some(flag) = flag(key) else {
            errors.push(format!("{key}: unknown"));
            continue;
        };
        let texts = match (flag.get_action(), value) {
            (ArgAction::Append, Value::Array(items)) => items.iter().map(text).collect(),
            (ArgAction::Append, _) => None,
            // What may stand without a value is a yes or no.
            (_, Value::Bool(value)) if flag.get_num_args().is_some_and(|count| count.min_values() == 0) => {
                Some(vec![value.to_string()])
            }
            (_, value) => text(value).map(|text| vec![text]),
        };
        match texts {
            Some(texts) => arguments.extend(texts.into_iter().map(|text| format!("--{key}={text}"))),
            None if matches!(flag.get_action(), ArgAction::Append) => {
                errors.push(format!("{key}: must be a list of texts, not {value}"));
            }
            None => errors.push(format!("{key}: must be a text or a number, not {value}")),
        }
    }
    match Flags::try_parse_from(arguments) {
        Ok(flags) => match flags.parse_all() {
            Ok(config) if errors.is_empty() => return Ok(config),
            Ok(_) => {}
            // A list of pools that could not be read is not missing too.
            Err(wrong) => {
                let is_unread = errors.iter().any(|error| error.starts_with("pool: "));
                let told = |error: &&FlagError| **error != FlagError::NoPool || !is_unread;
                errors.extend(wrong.iter().filter(told).map(FlagError::of_member));
            }
        },
        Err(error) => errors.push(error.to_string()),
    }
    Err(errors)
}

/// What would follow the flag. Envoy writes whole numbers of a protobuf Struct as `2.0`.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => {
            let text = number.to_string();
            Some(text.strip_suffix(".0").map_or_else(|| text.clone(), str::to_owned))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn parse(document: Value) -> Result<Config, Vec<String>> {
        let Value::Object(members) = document else { unreachable!("an object") };
        read(&members)
    }

    #[test]
    fn members_are_what_the_flags_are() {
        let config = parse(json!({
            "pool": ["a=envoy:pool-a", "b=static:10.0.0.1:8000"],
            "pool-option": ["b=metrics-port=9000", "a=engine=sglang"],
            "listen": "0.0.0.0:9091", "poll-interval": "100ms", "max-page-bytes": 1000, "max-envoy-page-bytes": 2000.0,
        }))
        .unwrap();
        let flags = Flags::try_parse_from([
            "metrics-sidecar",
            "--pool=a=envoy:pool-a",
            "--pool=b=static:10.0.0.1:8000",
            "--pool-option=b=metrics-port=9000",
            "--pool-option=a=engine=sglang",
            "--listen=0.0.0.0:9091",
            "--poll-interval=100ms",
            "--max-page-bytes=1000",
            "--max-envoy-page-bytes=2000",
        ]);
        assert_eq!(Ok(&config), flags.unwrap().parse_all().as_ref());
        assert_eq!(config.poll_interval, Duration::from_millis(100));
    }

    #[test]
    fn every_flag_has_a_member_but_threads() {
        for flag in Flags::command().get_arguments().filter_map(Arg::get_long) {
            let errors = read(&Map::from_iter([(flag.to_owned(), Value::Null)])).unwrap_err();
            let is_known = !errors.contains(&format!("{flag}: unknown"));
            assert_eq!(is_known, flag != THREADS && flag != "help" && flag != "version", "{flag}: {errors:?}");
        }
    }

    #[test]
    fn a_filters_own_sidecar_must_have_its_pool() {
        let told = "sidecar.embedded.pool: none is named \"default\", which is the filter's pool";
        let with = |document: Value| errors_in(&document);
        let other = json!({"embedded": {"pool": ["other=envoy:a", "third=envoy:b"]}});
        assert_eq!(with(json!({"pool": "default", "sidecar": other})), [told]);
        assert_eq!(with(json!({"sidecar": other})), [told]);
        assert_eq!(with(json!({"pool": "third", "sidecar": other})), [""; 0]);
        assert_eq!(with(json!({"sidecar": {"embedded": {"pool": [" default =envoy:a"]}}})), [""; 0]);
        // It is told beside what else is wrong.
        let wrong = json!({"embedded": {"pool": ["other=nothing:a"], "staleness": "soon"}});
        assert_eq!(with(json!({"sidecar": wrong})).len(), 3);
        // Where a name is not known it is not known to be missing.
        assert_eq!(with(json!({"snapshot_service": other})), [""; 0]);
        assert_eq!(with(json!({"pool": 7, "sidecar": other})), [""; 0]);
        for pools in [json!([]), json!(["other"]), json!([7])] {
            let errors = with(json!({"sidecar": {"embedded": {"pool": pools}}}));
            assert!(!errors.is_empty() && !errors.iter().any(|error| error == told), "{errors:?}");
        }
    }

    /// No flag's value is refused before the others are read.
    #[test]
    fn a_wrong_value_of_any_flag_hides_no_other() {
        let told = |members: Value| parse(members).err().unwrap_or_default();
        for flag in Flags::command().get_arguments() {
            let name = flag.get_long().unwrap_or_default();
            if [THREADS, "help", "version"].contains(&name) {
                continue;
            }
            let others = [("staleness", json!("soon")), ("listen", json!("here"))];
            let others: Map<String, Value> = others
                .into_iter()
                .filter(|(other, _)| *other != name)
                .map(|(key, value)| (key.to_owned(), value))
                .collect();
            for wrong in ["maybe", "", "-1", "on off"] {
                let mut members = others.clone();
                let value = if matches!(flag.get_action(), ArgAction::Append) { json!([wrong]) } else { json!(wrong) };
                members.insert(name.to_owned(), value);
                let errors = told(Value::Object(members));
                for other in others.keys() {
                    assert!(errors.iter().any(|error| error.starts_with(other)), "{name}={wrong}: {errors:?}");
                }
                let is_theirs = |error: &String| error.contains("--help") || error.starts_with("error");
                assert!(!errors.iter().any(is_theirs), "{name}={wrong}: {errors:?}");
            }
        }
        let errors = told(json!({"pool": ["a=envoy:a"], "llm-d": "maybe", "staleness": "soon"}));
        let expected = [
            "staleness \"soon\": expected a number above zero with ms, s or m, such as 50ms",
            "llm-d \"maybe\": expected on or off",
        ];
        assert_eq!(errors, expected);
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once_by_its_key() {
        let errors = parse(json!({
            "pool": ["nothing", "a=envoy:", "b=envoy:c"], "pool-option": "b=engine=vllm", "listen": 9090, "poll-interval": 50,
            "staleness": true, "threads": 2, "pol": [], "request-timeout": "1s",
        }))
        .unwrap_err();
        let expected = [
            "pool-option: must be a list of texts, not \"b=engine=vllm\"",
            "staleness: must be a text or a number, not true",
            "threads: unknown",
            "pol: unknown",
            "pool \"nothing\": expected NAME=SOURCE",
            "pool a: envoy: wants the name of a cluster",
            "listen \"9090\": expected IP:PORT",
            "poll-interval \"50\": expected a number above zero with ms, s or m, such as 50ms",
        ];
        let sorted = |mut errors: Vec<String>| {
            errors.sort();
            errors
        };
        assert_eq!(sorted(errors), sorted(expected.map(str::to_owned).to_vec()));
        assert_eq!(parse(json!({})).unwrap_err(), ["pool is missing: expected NAME=SOURCE, once for each pool"]);
        assert_eq!(parse(json!({"pool": []})).unwrap_err().len(), 1);
        assert_eq!(parse(json!({"pool": 3})).unwrap_err(), ["pool: must be a list of texts, not 3"]);
    }
}
