//! The sidecar inside Envoy: one for each different set of flags, on a thread of its own that never calls Envoy.

use std::collections::HashMap;
use std::sync::Arc;

use catalogue::Stat;
use endpoint_picker::ledger::Ledger;
use endpoint_picker::snapshot_service::SidecarRequest;
use metrics_sidecar::{Embedded, Fetched, Vitals, settings};
use serde_json::{Map, Value};

/// A sidecar that members of the main thread share.
#[derive(Debug)]
pub(crate) struct Sidecar {
    flags: Map<String, Value>,
    embedded: Embedded,
}

impl Sidecar {
    /// Starts one; `None`: it cannot be, and the log says why.
    pub(crate) fn start(flags: Map<String, Value>) -> Option<Arc<Self>> {
        let config = match settings::read(&flags) {
            Ok(config) => config,
            // A filter with such a document was refused; files that it names may be gone since.
            Err(errors) => {
                log::error!("the sidecar cannot start: {}", errors.join("; "));
                return None;
            }
        };
        match Embedded::start(config) {
            Ok(embedded) => Some(Arc::new(Self { flags, embedded })),
            Err(error) => {
                log::error!("the sidecar cannot start: {error}");
                None
            }
        }
    }

    /// Whether it was started with these flags.
    pub(crate) fn has(&self, flags: &Map<String, Value>) -> bool {
        self.flags == *flags
    }

    /// Its answer; `None`: it does not run.
    pub(crate) fn fetch(&self, request: &SidecarRequest) -> Option<Answer> {
        let fetched = self.embedded.fetch(&request.path, request.if_none_match.as_deref(), &request.body)?;
        let Fetched { status, body, is_watched } = fetched;
        Some(Answer { status: status.to_string(), body: body.into(), is_watched })
    }
}

/// What a sidecar answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: String,
    pub(crate) body: Vec<u8>,
    pub(crate) is_watched: bool,
}

/// What is told of the sidecars in this process, by the pools of those who ask them.
#[derive(Debug, Default)]
pub(crate) struct Told {
    restarts: HashMap<String, u64>,
}

impl Told {
    /// Counts what has changed.
    pub(crate) fn count(&mut self, pool: &str, sidecar: &Sidecar, ledger: &mut Ledger) {
        let Vitals { is_up, restarts } = sidecar.embedded.vitals();
        ledger.set(Stat::EmbeddedSidecarUp, &[pool], u64::from(is_up));
        let told = match self.restarts.get_mut(pool) {
            Some(told) => told,
            None => self.restarts.entry(pool.to_owned()).or_default(),
        };
        ledger.add(Stat::EmbeddedSidecarRestartsTotal, &[pool], restarts.saturating_sub(*told));
        *told = restarts;
    }
}
