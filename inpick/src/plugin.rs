//! A plugin's document, as Envoy's plugins read it.

use endpoint_picker_config::{Reading, parse, read};
use metrics_sidecar::settings;

/// Reads a document with the flags of the sidecar in it, if it has any.
///
/// # Errors
///
/// All that is wrong.
pub(crate) fn read_plugin(bytes: &[u8]) -> Result<Reading, Vec<String>> {
    let wrong = read(bytes).map_or_else(|_| Vec::new(), |document| settings::errors_in(&document));
    match parse(bytes) {
        Ok(reading) if wrong.is_empty() => Ok(reading),
        Ok(_) => Err(wrong),
        Err(error) => Err(error.0.into_iter().chain(wrong).collect()),
    }
}
