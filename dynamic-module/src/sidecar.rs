//! The sidecar inside Envoy: one for each different set of flags, on a thread of its own that never calls Envoy.

use std::sync::{Arc, Weak};

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

/// What was told of the sidecars in this process, for the pools of those who ask them.
#[derive(Debug, Default)]
pub(crate) struct Told(Vec<ToldRestarts>);

/// How many restarts of a sidecar were told for a pool: while one configuration takes another's place, a pool has two sidecars.
#[derive(Debug)]
struct ToldRestarts {
    sidecar: Weak<Sidecar>,
    pool: String,
    count: u64,
}

impl Told {
    /// Counts what has changed.
    pub(crate) fn count(&mut self, pool: &str, sidecar: &Arc<Sidecar>, ledger: &mut Ledger) {
        let Vitals { is_up, restarts } = sidecar.embedded.vitals();
        ledger.set(Stat::EmbeddedSidecarUp, &[pool], u64::from(is_up));
        let before = self.replace(pool, sidecar, restarts);
        ledger.add(Stat::EmbeddedSidecarRestartsTotal, &[pool], restarts.saturating_sub(before));
    }

    /// Takes down how many are told now; how many were before.
    fn replace(&mut self, pool: &str, sidecar: &Arc<Sidecar>, count: u64) -> u64 {
        let is_its = |told: &&mut ToldRestarts| told.sidecar.as_ptr() == Arc::as_ptr(sidecar) && told.pool == pool;
        if let Some(told) = self.0.iter_mut().find(is_its) {
            return std::mem::replace(&mut told.count, count);
        }
        // A new one comes with a new configuration, which is when others end.
        self.0.retain(|told| told.sidecar.strong_count() > 0);
        self.0.push(ToldRestarts { sidecar: Arc::downgrade(sidecar), pool: pool.to_owned(), count });
        0
    }
}
