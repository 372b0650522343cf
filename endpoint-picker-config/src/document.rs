//! From bytes to a document.

use endpoint_picker::ConfigError;
use serde_json::{Map, Value};

use crate::yaml;

/// Reads one document of JSON or, where the bytes are no JSON, of YAML. Blank bytes are an empty object. A member without a value is left out.
///
/// # Errors
///
/// [`ConfigError`] when the bytes are neither.
pub fn read(bytes: &[u8]) -> Result<Value, ConfigError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Object(Map::new()));
    }
    let mut document = match serde_json::from_slice(bytes) {
        Ok(document) => document,
        Err(error) => read_yaml(bytes, &error)?,
    };
    if document.is_null() {
        return Ok(Value::Object(Map::new()));
    }
    drop_nulls(&mut document);
    Ok(document)
}

fn read_yaml(bytes: &[u8], json_error: &serde_json::Error) -> Result<Value, ConfigError> {
    let Ok(text) = str::from_utf8(bytes) else {
        return Err(ConfigError(vec![format!("not JSON: {json_error}; nor YAML: not UTF-8")]));
    };
    yaml::read(text).map_err(|error| ConfigError(vec![format!("not JSON: {json_error}; nor YAML: {error}")]))
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
