//! A host: some VMs of one module, the proxy around them, and a clock that stands still.

use std::time::Duration;

use crate::codes::Callback;
use crate::error::Error;
use crate::faults::Fault;
use crate::http_call::{Clusters, HttpCall, HttpOutcome};
use crate::http_stream::HttpStream;
use crate::message::Request;
use crate::shared_core::SharedCore;
use crate::stats::Stats;
use crate::trace::{Crossings, LogLine, Record, VmName};
use crate::vm::Core;

/// Bytes of a page of linear memory.
const PAGE_BYTES: usize = 64 * 1024;

/// A proxy-wasm host for one module, with virtual time. Nothing happens unless a method is called.
pub struct Host {
    core: SharedCore,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("vms", &self.vms()).finish_non_exhaustive()
    }
}

impl Host {
    pub(crate) fn of(core: Core) -> Self {
        Self { core: SharedCore::new(core) }
    }

    /// Sends a request: headers, body chunks and trailers go through the filter as far as it lets them.
    ///
    /// # Errors
    /// [`Error::NoSuchWorker`] when the request names a worker that is not there.
    pub fn request(&self, request: Request) -> Result<HttpStream, Error> {
        HttpStream::start(&self.core, request)
    }

    /// Moves both clocks forward, firing ticks, HTTP call responses and timeouts on the way in the order in
    /// which they fall due.
    pub fn advance(&self, step: Duration) {
        let mut core = self.core.lock();
        let then = core.state().clock.monotonic().saturating_add(step);
        core.advance_to(then);
    }

    /// Moves the clocks to the next event and fires everything due then; `None` when nothing is armed.
    pub fn advance_to_next(&self) -> Option<Duration> {
        let mut core = self.core.lock();
        let due = core.state().schedule.next_due()?;
        let step = due.saturating_sub(core.state().clock.monotonic());
        core.advance_to(due);
        Some(step)
    }

    /// Monotonic virtual time since the host was built.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.core.lock().state().clock.monotonic()
    }

    /// Virtual wall clock, since the Unix epoch.
    #[must_use]
    pub fn wall_clock(&self) -> Duration {
        self.core.lock().state().clock.wall()
    }

    /// Lets the wall clock jump, forward or back; the monotonic clock does not move.
    pub fn set_wall_clock(&self, since_epoch: Duration) {
        self.core.lock().state_mut().clock.set_wall(since_epoch);
    }

    /// Adds or replaces an upstream cluster for `proxy_http_call` that plays these outcomes and then repeats
    /// the last.
    pub fn cluster(&self, name: impl Into<String>, outcomes: impl IntoIterator<Item = HttpOutcome>) {
        let script = Clusters::playing(outcomes.into_iter().collect());
        self.core.lock().state_mut().clusters.script(name.into(), script);
    }

    /// Adds or replaces an upstream cluster whose responses a function makes. The function must not use the host.
    pub fn cluster_script(
        &self,
        name: impl Into<String>,
        script: impl FnMut(&HttpCall) -> HttpOutcome + Send + 'static,
    ) {
        self.core.lock().state_mut().clusters.script(name.into(), Box::new(script));
    }

    /// Every `proxy_http_call` so far that reached a cluster.
    #[must_use]
    pub fn http_calls(&self) -> Vec<HttpCall> {
        self.core.lock().state().clusters.calls().to_vec()
    }

    /// Lets a host call return a status of the test's choice.
    pub fn inject(&self, fault: Fault) {
        self.core.lock().state_mut().faults.add(fault);
    }

    /// Takes all faults back.
    pub fn clear_faults(&self) {
        self.core.lock().state_mut().faults.clear();
    }

    /// All stats now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.core.lock().state().stats.clone()
    }

    /// The value of a shared-data key, as a VM of this host would read it.
    #[must_use]
    pub fn shared_data(&self, key: impl AsRef<[u8]>) -> Option<Vec<u8>> {
        let core = self.core.lock();
        let state = core.state();
        let found = state.shared_data.get(&state.settings.vm_id, key.as_ref());
        found.map(|(value, _)| value.to_vec())
    }

    /// Writes a shared-data key as another VM would, whatever its compare-and-swap number.
    pub fn set_shared_data(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let mut core = self.core.lock();
        let state = core.state_mut();
        // The number 0 writes unconditionally, so this cannot mismatch.
        let _ = state.shared_data.set(&state.settings.vm_id, key.as_ref(), value.as_ref(), 0);
    }

    /// Every record of the trace so far.
    #[must_use]
    pub fn trace(&self) -> Vec<Record> {
        self.core.lock().state().trace.records().to_vec()
    }

    /// Every log line of the guests so far.
    #[must_use]
    pub fn logs(&self) -> Vec<LogLine> {
        self.core.lock().state().trace.logs().to_vec()
    }

    /// Forgets trace records, log lines and worst fuel so far; counts of crossings stay.
    pub fn clear_trace(&self) {
        self.core.lock().state_mut().trace.clear();
    }

    /// The most fuel that one such callback has used since the start or since [`Host::clear_trace`]; `None`
    /// when there was none.
    #[must_use]
    pub fn worst_fuel(&self, callback: Callback) -> Option<u64> {
        self.core.lock().state().trace.worst_fuel(callback.name())
    }

    /// Crossings of one VM since it was first started, root context and streams together.
    #[must_use]
    pub fn crossings(&self, vm: VmName) -> Crossings {
        let core = self.core.lock();
        let found = core.state().vms.iter().find(|known| known.name == vm);
        found.map(|vm| vm.crossings.clone()).unwrap_or_default()
    }

    /// The most pages of 64 KiB that the memory of this VM has had.
    #[must_use]
    pub fn peak_memory_pages(&self, vm: VmName) -> usize {
        let core = self.core.lock();
        let index = core.state().vms.iter().position(|known| known.name == vm);
        let bytes = index.and_then(|index| core.state().limit.peak.get(&index));
        bytes.map_or(0, |bytes| bytes / PAGE_BYTES)
    }

    /// Why a VM is dead; `None` when it lives (or is not there).
    #[must_use]
    pub fn failure(&self, vm: VmName) -> Option<String> {
        let core = self.core.lock();
        let found = core.state().vms.iter().find(|known| known.name == vm)?;
        found.failed.clone()
    }

    /// How often a VM was reloaded.
    #[must_use]
    pub fn reloads(&self, vm: VmName) -> u32 {
        let core = self.core.lock();
        let found = core.state().vms.iter().find(|known| known.name == vm);
        found.map_or(0, |vm| vm.generation)
    }

    /// The VMs, in the order in which they were started.
    #[must_use]
    pub fn vms(&self) -> Vec<VmName> {
        self.core.lock().state().vms.iter().map(|vm| vm.name).collect()
    }
}
