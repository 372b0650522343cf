//! Reads configurations: inpick's own as JSON or YAML, and the `EndpointPickerConfig` of the endpoint pickers (EPP) of the Gateway API
//! Inference Extension, v1.0 to v1.5, and of llm-d.
//!
//! The EPP's document is turned into inpick's. What is the same there and here keeps its meaning, its parameters and its defaults. What
//! the EPP needs and inpick does in another way is left out with a note. What inpick cannot do is an error: all of them are
//! named at once, each by its place in the document, so that no setting is lost unseen.

mod conversion;
mod document;
mod duration;
mod flow_control;
mod parameters;
mod plugin_types;
mod quantity;
mod yaml;

pub use conversion::{Conversion, convert, is_endpoint_picker_config};
pub use document::read;
use endpoint_picker::config::native_settings_in;
use endpoint_picker::{ConfigError, Plugin};
use serde_json::Value;

/// A configuration that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// What the plugin is to be.
    pub plugin: Plugin,
    /// What of the EPP's document has no effect here, or another one, each by its place.
    pub notes: Vec<String>,
}

/// Reads a plugin's configuration: nothing at all, inpick's own document or the EPP's, either as JSON or YAML.
///
/// # Errors
///
/// [`ConfigError`] with every mistake, and with everything of the EPP's document that inpick cannot do.
pub fn parse(bytes: &[u8]) -> Result<Reading, ConfigError> {
    parse_with(bytes, |_| Vec::new())
}

/// As [`parse`], for the wasm filter: what only the native module can do is a mistake too.
///
/// # Errors
///
/// As those of [`parse`].
pub fn parse_for_wasm(bytes: &[u8]) -> Result<Reading, ConfigError> {
    parse_with(bytes, native_settings_in)
}

/// As [`parse`], where `more` finds further mistakes in the document as it stands.
///
/// # Errors
///
/// Those of [`parse`] in front of these.
pub fn parse_with(bytes: &[u8], more: impl Fn(&Value) -> Vec<String>) -> Result<Reading, ConfigError> {
    let document = read(bytes)?;
    let further = more(&document);
    match plugin(document) {
        Ok(reading) if further.is_empty() => Ok(reading),
        Ok(_) => Err(ConfigError(further)),
        Err(ConfigError(errors)) => Err(ConfigError(errors.into_iter().chain(further).collect())),
    }
}

fn plugin(document: Value) -> Result<Reading, ConfigError> {
    if !is_endpoint_picker_config(&document) {
        return Ok(Reading { plugin: Plugin::read(document)?, notes: Vec::new() });
    }
    let Conversion { document, notes } = convert(document)?;
    Ok(Reading { plugin: Plugin::read(Value::Object(document))?, notes })
}
