//! `inpick config`: the plugin's document, converted and checked.

use std::path::Path;

use endpoint_picker_config::{Conversion, is_endpoint_picker_config, read};
use serde_json::Value;

use crate::output::{print, tell};
use crate::plugin::read_plugin;
use crate::source::read_file;

/// Prints the endpoint picker's configuration as inpick's.
///
/// # Errors
///
/// All that is wrong with it.
pub(crate) fn convert(file: Option<&Path>) -> Result<(), Vec<String>> {
    let bytes = read_file(file).map_err(|error| vec![error])?;
    let document = read(&bytes).map_err(|error| error.0)?;
    if !is_endpoint_picker_config(&document) {
        return Err(vec!["kind: missing: this is no EndpointPickerConfig".to_owned()]);
    }
    let Conversion { document, notes } = endpoint_picker_config::convert(document).map_err(|error| error.0)?;
    tell_notes(&notes);
    print(&format!("{:#}\n", Value::Object(document)))
}

/// Says what is wrong with a configuration.
///
/// # Errors
///
/// All of that.
pub(crate) fn check(file: Option<&Path>) -> Result<(), Vec<String>> {
    let bytes = read_file(file).map_err(|error| vec![error])?;
    let reading = read_plugin(&bytes)?;
    tell_notes(&reading.notes);
    print("the configuration is valid\n")
}

fn tell_notes(notes: &[String]) {
    for note in notes {
        tell(format_args!("note: {note}"));
    }
}
