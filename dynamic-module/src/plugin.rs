//! Configurations: what a document makes of the HTTP filter and of the bootstrap extension.

use std::sync::Arc;

use endpoint_picker::Plugin;
use endpoint_picker::config::ServiceConfig;
use endpoint_picker_config::Reading;
use metrics_sidecar::settings;

use crate::envoy;
use crate::process::{Instance, process};

/// The instance that a filter's document asks for; `None`: it is no good, and the log says why.
pub(crate) fn configure_filter(document: &[u8]) -> Option<Arc<Instance>> {
    let config = match read(document)? {
        Plugin::Filter(config) => config,
        Plugin::SnapshotService(_) => {
            log::error!("plugin configuration: snapshot_service belongs to the bootstrap extension, not to the filter");
            return None;
        }
    };
    if !process().has_main_thread() && !envoy::is_validation_mode() {
        log::error!("the filter needs the bootstrap extension envoy.bootstrap.dynamic_modules of the same module");
        return None;
    }
    Some(process().instance(document, config))
}

/// Where the bootstrap extension's document says that snapshots come from, if it says so; `None`: the document is no good, and the log
/// says why.
pub(crate) fn configure_extension(document: &[u8]) -> Option<Option<ServiceConfig>> {
    if document.trim_ascii().is_empty() {
        return Some(None);
    }
    match read(document)? {
        Plugin::SnapshotService(config) => Some(Some(config)),
        Plugin::Filter(_) => {
            log::error!("plugin configuration: the bootstrap extension takes snapshot_service only, or nothing at all");
            None
        }
    }
}

fn read(document: &[u8]) -> Option<Plugin> {
    match endpoint_picker_config::parse_with(document, settings::errors_in) {
        Ok(Reading { plugin, notes }) => {
            for note in notes {
                log::warn!("plugin configuration: {note}");
            }
            Some(plugin)
        }
        Err(error) => {
            log::error!("{error}");
            None
        }
    }
}
