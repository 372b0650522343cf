//! The page of metrics.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::config::Config;
use crate::plan::{Listing, statuses};

/// Media type of the page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What was done about an adapter.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Operation {
    /// Loaded.
    Load,
    /// Unloaded.
    Unload,
}

impl Operation {
    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Unload => "unload",
        }
    }
}

/// What the page shows.
#[derive(Clone, Debug, Default)]
pub struct SyncerStatus {
    /// Each adapter that the file names, and whether the server lists it. While the server does not answer, none.
    pub adapters: BTreeMap<String, bool>,
    /// The file is there and nothing is wrong with it.
    pub is_config_valid: bool,
    /// The server answered last time.
    pub is_server_healthy: bool,
    /// Calls for adapters by operation and success.
    pub operations: BTreeMap<(Operation, bool), u64>,
}

impl SyncerStatus {
    /// Counts a call.
    pub fn count(&mut self, operation: Operation, is_success: bool) {
        *self.operations.entry((operation, is_success)).or_default() += 1;
    }

    /// Takes in what the server lists; `None`: it does not answer, and nothing is known to be loaded.
    pub fn take_listing(&mut self, config: &Config, listing: Option<&Listing>) {
        self.is_server_healthy = listing.is_some();
        self.adapters = statuses(config, listing.unwrap_or(&Listing::default()));
    }

    /// The page.
    #[must_use]
    pub fn page(&self) -> String {
        let mut page = String::new();
        let mut family = |name: &str, kind: &str, help: &str, samples: &mut dyn Iterator<Item = (String, u64)>| {
            _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in samples {
                _ = writeln!(page, "{name}{labels} {value}");
            }
        };
        family(
            "lora_syncer_adapter_status",
            "gauge",
            "Status of LoRA adapters (1=loaded, 0=not_loaded)",
            &mut self
                .adapters
                .iter()
                .map(|(id, loaded)| (format!("{{adapter_name=\"{}\"}}", escaped(id)), u64::from(*loaded))),
        );
        family(
            "lora_syncer_operations_total",
            "counter",
            "Calls for adapters by operation and outcome",
            &mut self.operations.iter().map(|((operation, is_success), count)| {
                let outcome = if *is_success { "success" } else { "failure" };
                (format!("{{operation=\"{}\",outcome=\"{outcome}\"}}", operation.as_str()), *count)
            }),
        );
        family(
            "lora_syncer_config_valid",
            "gauge",
            "1 if nothing is wrong with the file; otherwise what was read last stands",
            &mut std::iter::once((String::new(), u64::from(self.is_config_valid))),
        );
        family(
            "lora_syncer_server_healthy",
            "gauge",
            "1 if the model server answered last time",
            &mut std::iter::once((String::new(), u64::from(self.is_server_healthy))),
        );
        page
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_each_adapter() {
        let mut status = SyncerStatus { is_config_valid: true, is_server_healthy: true, ..SyncerStatus::default() };
        status.adapters = BTreeMap::from([("a".to_owned(), true), ("b\"\\\n".to_owned(), false)]);
        status.count(Operation::Load, true);
        status.count(Operation::Load, true);
        status.count(Operation::Unload, false);
        let page = status.page();
        for line in [
            "# TYPE lora_syncer_adapter_status gauge",
            "lora_syncer_adapter_status{adapter_name=\"a\"} 1",
            "lora_syncer_adapter_status{adapter_name=\"b\\\"\\\\\\n\"} 0",
            "lora_syncer_operations_total{operation=\"load\",outcome=\"success\"} 2",
            "lora_syncer_operations_total{operation=\"unload\",outcome=\"failure\"} 1",
            "lora_syncer_config_valid 1",
        ] {
            assert!(page.lines().any(|other| other == line), "{line} in {page}");
        }
        let config = Config::parse("vLLMLoRAConfig: {ensureExist: {models: [{id: a, source: a}]}}").unwrap();
        status.take_listing(&config, None);
        assert!(status.page().contains("lora_syncer_adapter_status{adapter_name=\"a\"} 0"));
    }
}
