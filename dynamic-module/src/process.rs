//! What all threads of the process share: the endpoint pickers of its filters, and the shared data.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use endpoint_picker::EndpointPicker;
use endpoint_picker::config::{Config, ServiceConfig};
use endpoint_picker::rules::Destination;
use shared_routing::SharedRouting;

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
    config: Config,
    request_headers: Vec<&'static str>,
    response_headers: Vec<&'static str>,
    routing: Arc<SharedRouting>,
    /// The main thread's, which keeps the statistics. No other thread takes this lock.
    keeper: Mutex<EndpointPicker>,
}

thread_local! {
    /// This thread's endpoint pickers; most processes have one instance.
    static PICKERS: RefCell<Vec<(Weak<Instance>, EndpointPicker)>> = const { RefCell::new(Vec::new()) };
}

impl Instance {
    fn new(document: &[u8], config: Config) -> Arc<Self> {
        let routing = SharedRouting::with_flow_control(clock::random(), config.flow_control);
        let keeper = Mutex::new(EndpointPicker::keeping(config.clone(), clock::random(), routing.clone()));
        Arc::new(Self {
            document: document.to_vec(),
            request_headers: config.request_headers().collect(),
            response_headers: config.response_headers().collect(),
            config,
            routing,
            keeper,
        })
    }

    /// Whether a client can be told why its request goes where it goes.
    pub(crate) fn explains(&self) -> bool {
        self.config.rules.explain.is_some()
    }

    /// The request headers to look up: each costs a call of Envoy.
    pub(crate) fn request_headers(&self) -> &[&'static str] {
        &self.request_headers
    }

    /// The same of a response.
    pub(crate) fn response_headers(&self) -> &[&'static str] {
        &self.response_headers
    }

    /// Works with this thread's endpoint picker. Nothing that can call back may be done within.
    pub(crate) fn with_picker<T>(self: &Arc<Self>, then: impl FnOnce(&mut EndpointPicker) -> T) -> T {
        PICKERS.with(|pickers| match pickers.try_borrow_mut() {
            Ok(mut pickers) => {
                let known = pickers.iter().position(|(instance, _)| Weak::as_ptr(instance) == Arc::as_ptr(self));
                let place = known.unwrap_or_else(|| {
                    pickers.retain(|(instance, _)| instance.strong_count() > 0);
                    pickers.push((Arc::downgrade(self), self.new_picker()));
                    pickers.len() - 1
                });
                match pickers.get_mut(place) {
                    Some((_, picker)) => then(picker),
                    None => then(&mut self.new_picker()),
                }
            }
            // Within another hook of this thread: the routing is shared, so any picker will do.
            Err(_) => then(&mut self.new_picker()),
        })
    }

    /// Whether requests may wait.
    pub(crate) const fn has_flow_control(&self) -> bool {
        self.config.flow_control.is_some()
    }

    /// Has the request go on that is next in flow control, on its own thread.
    pub(crate) fn wake_next(self: &Arc<Self>) {
        if self.has_flow_control() {
            self.with_picker(wake_next);
        }
    }

    fn new_picker(&self) -> EndpointPicker {
        let mut picker = EndpointPicker::serving(self.config.clone(), clock::random(), self.routing.clone());
        picker.catch_up();
        picker
    }

    /// Works with the main thread's endpoint picker, on the main thread.
    pub(crate) fn with_keeper<T>(&self, then: impl FnOnce(&mut EndpointPicker) -> T) -> T {
        then(&mut lock(&self.keeper))
    }

    /// The pool that its requests go to.
    pub(crate) fn pool(&self) -> &str {
        &self.config.pool
    }

    /// How Envoy's load balancer is told whom to take.
    pub(crate) fn destination(&self) -> Destination {
        self.config.rules.destination.unwrap_or(Destination::Metadata)
    }
}

/// Has the request go on that is next in flow control, on its own thread, and notes what the look for it took.
pub(crate) fn wake_next(picker: &mut EndpointPicker) {
    let before = clock::now();
    if picker.wake_next(before) {
        picker.record_dispatch_cycle(clock::now().micros_since(before));
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
        let instance = Instance::new(document, config);
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
