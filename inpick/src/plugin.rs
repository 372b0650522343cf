//! A plugin's document, as Envoy's native plugins read it.

use endpoint_picker_config::{Reading, parse_with};
use metrics_sidecar::settings;

/// Reads a document with the flags of the sidecar in it, if it has any.
///
/// # Errors
///
/// All that is wrong.
pub(crate) fn read_plugin(bytes: &[u8]) -> Result<Reading, Vec<String>> {
    parse_with(bytes, settings::errors_in).map_err(|error| error.0)
}
