//! What all threads of the process share: the endpoint pickers of its filters, and the shared data.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use endpoint_picker::EndpointPicker;
use endpoint_picker::config::{Config, ServiceConfig};
use endpoint_picker::rules::Destination;

use crate::clock;
use crate::shared_memory::SharedMemory;

static PROCESS: LazyLock<Process> = LazyLock::new(Process::default);

/// What all threads of the process share.
#[derive(Debug, Default)]
pub(crate) struct Process {
    shared: SharedMemory,
    /// One for each different document that a filter is configured with.
    instances: Mutex<Vec<Arc<Instance>>>,
    /// Where the bootstrap extension says that snapshots come from.
    sidecar: Mutex<Option<ServiceConfig>>,
    has_main_thread: AtomicBool,
}

/// The filters that are configured with the same document, on all threads.
#[derive(Debug)]
pub(crate) struct Instance {
    document: Vec<u8>,
    destination: Destination,
    picker: Mutex<EndpointPicker>,
}

impl Instance {
    /// Works with the endpoint picker. Nothing that can call back may be done within.
    pub(crate) fn with_picker<T>(&self, then: impl FnOnce(&mut EndpointPicker) -> T) -> T {
        // After a panic: the picker's own steps are whole or not begun, but for counts.
        then(&mut lock(&self.picker))
    }

    /// How Envoy's load balancer is told whom to take.
    pub(crate) const fn destination(&self) -> Destination {
        self.destination
    }
}

/// The one of this process.
pub(crate) fn process() -> &'static Process {
    &PROCESS
}

impl Process {
    /// The shared data.
    pub(crate) fn shared(&self) -> &SharedMemory {
        &self.shared
    }

    /// The instance for a document, which is made from its configuration where there is none.
    pub(crate) fn instance(&self, document: &[u8], mut config: Config) -> Arc<Instance> {
        let mut instances = lock(&self.instances);
        if let Some(instance) = instances.iter().find(|instance| instance.document == document) {
            return Arc::clone(instance);
        }
        if let Some(sidecar) = &*lock(&self.sidecar) {
            config.sidecar.clone_from(sidecar);
        }
        let destination = config.rules.destination.unwrap_or(Destination::Metadata);
        let picker = Mutex::new(EndpointPicker::new(config, clock::random()));
        let instance = Arc::new(Instance { document: document.to_vec(), destination, picker });
        instances.push(Arc::clone(&instance));
        instance
    }

    /// The instances there are.
    pub(crate) fn instances(&self) -> Vec<Arc<Instance>> {
        lock(&self.instances).clone()
    }

    /// Forgets an instance that no filter uses any more.
    pub(crate) fn remove(&self, instance: &Arc<Instance>) {
        lock(&self.instances).retain(|held| !Arc::ptr_eq(held, instance));
    }

    /// The bootstrap extension is there; `sidecar`: and says where snapshots come from.
    pub(crate) fn begin_main_thread(&self, sidecar: Option<ServiceConfig>) {
        *lock(&self.sidecar) = sidecar;
        self.has_main_thread.store(true, Ordering::Release);
    }

    /// Whether the bootstrap extension is there.
    pub(crate) fn has_main_thread(&self) -> bool {
        self.has_main_thread.load(Ordering::Acquire)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
