//! Envoy between requests, as the core's machines want it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use catalogue::{Label, stat_name};
use endpoint_picker::Timestamp;
use endpoint_picker::flusher::HostStats;
use endpoint_picker::holder::Binding;
use endpoint_picker::ledger::SinkKind;
use endpoint_picker::shared_data::{SetError, SharedData};
use endpoint_picker::snapshot_service::{News, SidecarRequest, SidecarResponse, WATCHED_HEADER};

use crate::abi::{self, Buffer, Map};
use crate::host::{self, Returned};

/// A refused write was logged.
static WRITE_REFUSED: AtomicBool = AtomicBool::new(false);

/// Envoy, for the length of one callback.
pub(crate) struct Envoy;

impl SharedData for Envoy {
    fn get(&mut self, key: &str) -> Option<(Vec<u8>, u32)> {
        host::shared_data(key)
    }

    fn set(&mut self, key: &str, value: &[u8], cas: u32) -> Result<(), SetError> {
        host::set_shared_data(key, value, cas).map_err(|refused| match refused {
            abi::CAS_MISMATCH => SetError::Changed,
            refused => {
                // Once, or a host that always refuses would fill the log.
                if !WRITE_REFUSED.swap(true, Ordering::Relaxed) {
                    log::warn!("{key} cannot be written: {refused:?}");
                }
                SetError::Refused
            }
        })
    }
}

impl HostStats for Envoy {
    fn define_stat(&mut self, kind: SinkKind, family: &str, suffix: &str, labels: &[(Label, &str)]) -> Option<u32> {
        let name = stat_name(family, suffix, labels);
        let kind = match kind {
            SinkKind::Counter => 0,
            SinkKind::Gauge => 1,
        };
        host::define_metric(kind, &name).inspect_err(|refused| log::warn!("stat {name} refused: {refused:?}")).ok()
    }

    fn add_to_stat(&mut self, id: u32, delta: u64) {
        // An unknown id is the only reason to refuse, and ids come from `define_stat`.
        let _ = host::increment_metric(id, i64::try_from(delta).unwrap_or(i64::MAX));
    }

    fn set_stat(&mut self, id: u32, value: u64) {
        let _ = host::record_metric(id, value);
    }

    fn now(&mut self) -> Timestamp {
        host::now()
    }
}

impl Binding for Envoy {
    fn set_tick_period(&mut self, millis: u32) -> bool {
        host::set_tick_period(millis).inspect_err(|refused| log::error!("no ticks: {refused:?}")).is_ok()
    }

    fn memory_bytes(&mut self) -> u64 {
        host::memory_bytes()
    }

    fn call(&mut self, request: &SidecarRequest) -> Result<(), String> {
        let headers: Vec<_> = request.headers().collect();
        host::call(&request.cluster, &headers, &request.body, Duration::from_millis(request.timeout_ms))
            .map_err(|refused| format!("{refused:?}"))
    }

    fn log(&mut self, news: &News) {
        match news {
            News::Recovered => log::info!("the sidecar answers again"),
            News::Failed(reason) => log::warn!("no snapshot: {reason}"),
        }
    }
}

/// Hands on what the sidecar answered. Without headers the host says that it did not answer.
pub(crate) fn with_response<T>(
    headers: usize,
    body_size: usize,
    then: impl FnOnce(Option<SidecarResponse<'_>>) -> T,
) -> T {
    let pairs = if headers == 0 { None } else { host::headers(Map::CallResponse).ok() };
    let status = pairs.as_ref().and_then(|pairs| pairs.iter().find(|(name, _)| *name == b":status"));
    let Some((_, status)) = status else { return then(None) };
    let body =
        if body_size == 0 { Ok(Returned::default()) } else { host::buffer(Buffer::CallResponseBody, 0, body_size) };
    let is_watched =
        pairs.as_ref().is_some_and(|pairs| pairs.iter().any(|(name, _)| name == WATCHED_HEADER.as_bytes()));
    then(Some(SidecarResponse { status, body: &body.unwrap_or_default(), is_watched }))
}
