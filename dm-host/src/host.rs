//! An Envoy that hosts one module: its main thread is the thread that built it, and its workers are threads of their own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use crate::abi::{AbiHeader, callout_result};
use crate::bootstrap_callbacks::shutdown_done;
use crate::config_state::{ConfigKind, ConfigState, new_handle, pointer};
use crate::headers::Headers;
use crate::memory::{Lending, Loans};
use crate::message::{HttpMessage, sliced};
use crate::metrics::MetricValues;
use crate::native_stream::{NativeStream, StreamSettings};
use crate::process::{Callout, LoggedLine, Process};
use crate::refusals::{CallbackName, Refusal};
use crate::role::{self, ThreadKind};
use crate::stream_state::{Finish, Metadata, MetadataValue};
use crate::worker::{WorkerLink, WorkerThread};
use crate::{HostError, filter_chain};

/// What a cluster makes of a callout.
#[derive(Clone, Debug)]
pub enum CalloutAnswer {
    /// A response, its body in slices of at most so many bytes.
    Response {
        /// The status.
        status: u16,
        /// Headers beside the status.
        headers: Headers,
        /// The body.
        body: Vec<u8>,
        /// Bytes of a slice at most.
        slice: usize,
    },
    /// The connection broke, or it took too long.
    Reset,
    /// Not yet: the cluster is asked again later.
    Later,
}

pub(crate) type Script = Box<dyn FnMut(&Callout) -> CalloutAnswer>;

/// The bootstrap extension, once the module has made one.
pub(crate) struct Extension {
    pub(crate) config: Arc<ConfigState>,
    pub(crate) handle: usize,
    pub(crate) module: *const std::ffi::c_void,
}

/// A running Envoy. Only one lives at a time: the module's statics are those of one process. Its methods are for the thread that
/// built it; streams, and [`ModuleHost::worker`], may be used by any.
pub struct ModuleHost {
    pub(crate) process: Arc<Process>,
    pub(crate) workers: Vec<WorkerThread>,
    pub(crate) filter: Option<Arc<ConfigState>>,
    pub(crate) extension: Option<Extension>,
    pub(crate) scripts: RefCell<BTreeMap<String, Script>>,
    pub(crate) settings: StreamSettings,
    pub(crate) patience: Duration,
    pub(crate) name: String,
    pub(crate) is_over: AtomicBool,
    pub(crate) alone: Option<MutexGuard<'static, ()>>,
    pub(crate) on_main: PhantomData<*const ()>,
}

impl std::fmt::Debug for ModuleHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModuleHost").field("workers", &self.workers.len()).finish_non_exhaustive()
    }
}

/// A worker of a [`ModuleHost`], to be used by any thread.
#[derive(Clone, Debug)]
pub struct StreamWorker {
    link: WorkerLink,
    filter: Arc<ConfigState>,
    settings: StreamSettings,
}

impl StreamWorker {
    /// A client's request, as far as it is given.
    #[must_use]
    pub fn request(&self, request: HttpMessage) -> NativeStream {
        self.request_with(request, Metadata::new())
    }

    /// The same, with metadata that an earlier filter has set, by namespace and key.
    #[must_use]
    pub fn request_with(
        &self,
        request: HttpMessage,
        metadata: BTreeMap<(String, String), MetadataValue>,
    ) -> NativeStream {
        NativeStream::start(&self.link, Arc::clone(&self.filter), self.settings.clone(), metadata, Some(request))
    }

    /// A stream that an earlier filter answered: its request never comes to this one, its response does.
    #[must_use]
    pub fn undecoded(&self) -> NativeStream {
        NativeStream::start(&self.link, Arc::clone(&self.filter), self.settings.clone(), Metadata::new(), None)
    }

    /// Streams of this worker whose `stream_complete` comes inside the callback that ends them.
    #[must_use]
    pub fn completing_inline(mut self) -> Self {
        self.settings.completes_inline = true;
        self
    }

    /// Runs this on the worker's thread: many steps for one way there and back.
    pub fn run<R: Send + 'static>(&self, work: impl FnOnce(&Self) -> R + Send + 'static) -> R {
        let own = self.clone();
        self.link.run(move || work(&own))
    }
}

impl ModuleHost {
    // ---- streams ----

    /// A worker by its index.
    ///
    /// # Panics
    /// There is no such worker.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test's mistake")]
    pub fn worker(&self, index: usize) -> StreamWorker {
        let worker = self.workers.get(index).expect("there is such a worker");
        let filter = self.filter.as_ref().expect("there is an HTTP filter");
        StreamWorker { link: worker.link.clone(), filter: Arc::clone(filter), settings: self.settings.clone() }
    }

    /// A request on the first worker.
    #[must_use]
    pub fn request(&self, request: HttpMessage) -> NativeStream {
        self.worker(0).request(request)
    }

    // ---- configurations ----

    /// The HTTP filter is configured anew; streams that run keep the old one, and the last of them destroys it on its worker.
    ///
    /// # Errors
    /// [`HostError::FilterRefused`]
    pub fn replace_filter(&mut self, configuration: &str) -> Result<(), HostError> {
        let new = new_filter(&self.process, &self.name, configuration)?;
        self.filter = Some(new);
        Ok(())
    }

    /// Drops the HTTP filter's configuration on a worker's thread, as happens when a listener is drained.
    pub fn drop_filter_on(&mut self, worker: usize) {
        if let (Some(filter), Some(worker)) = (self.filter.take(), self.workers.get(worker)) {
            worker.link.run(move || drop(filter));
        }
    }

    // ---- the main thread ----

    /// Fires every timer that is enabled, due or not, once, and answers the callouts that are under way.
    pub fn fire_timers(&self) {
        self.fire(|_| true);
        self.answer_callouts();
    }

    /// Fires timers when they are due, and answers callouts, for a while or until this says to stop; whether it did.
    pub fn run_until(&self, patience: Duration, mut is_done: impl FnMut(&Self) -> bool) -> bool {
        const PAUSE: Duration = Duration::from_millis(1);
        let end = Instant::now() + patience;
        loop {
            let now = Instant::now();
            self.fire(|due| due <= now);
            self.answer_callouts();
            if is_done(self) {
                return true;
            }
            if now >= end {
                return false;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Fires timers when they are due, and answers callouts, for a while.
    pub fn run_for(&self, duration: Duration) {
        self.run_until(duration, |_| false);
    }

    fn fire(&self, is_due: impl Fn(Instant) -> bool) {
        let Some(extension) = &self.extension else { return };
        let due: Vec<usize> = {
            let bootstrap = self.process.bootstrap();
            let timers = bootstrap.timers.iter();
            timers.filter(|(_, timer)| timer.due.is_some_and(&is_due)).map(|(handle, _)| *handle).collect()
        };
        for handle in due {
            // A timer that an earlier one of this round has deleted or put off does not fire.
            let still = self.process.bootstrap().timers.get_mut(&handle).and_then(|timer| timer.due.take());
            if still.is_some() {
                let config = extension.config.handle;
                self.process.hooks.timer_fired(pointer(config), extension.config.module(), pointer(handle));
            }
        }
    }

    /// Answers callouts, each by its cluster's script.
    fn answer_callouts(&self) {
        let pending = std::mem::take(&mut self.process.bootstrap().callouts);
        for (id, callout) in pending {
            let answer = self.scripted(&callout);
            match answer {
                CalloutAnswer::Later => self.process.bootstrap().callouts.push((id, callout)),
                CalloutAnswer::Reset => self.callout_done(id, callout_result::RESET, &Headers::default(), &[], 1),
                CalloutAnswer::Response { status, headers, body, slice } => {
                    let mut all: Headers = [(":status", status.to_string())].into_iter().collect();
                    for (name, value) in headers.pairs() {
                        all.add(name, value);
                    }
                    self.callout_done(id, callout_result::SUCCESS, &all, &body, slice.max(1));
                }
            }
        }
    }

    fn scripted(&self, callout: &Callout) -> CalloutAnswer {
        let mut scripts = self.scripts.borrow_mut();
        scripts.get_mut(&callout.cluster).map_or(CalloutAnswer::Reset, |script| script(callout))
    }

    fn callout_done(&self, id: u64, result: i32, headers: &Headers, body: &[u8], slice: usize) {
        let Some(extension) = &self.extension else { return };
        let mut loans = Loans::default();
        let headers: Vec<AbiHeader> = loans.lend_headers(headers.pairs(), 1);
        let slices: Vec<_> = sliced(body, slice).iter().map(|slice| loans.lend(slice, Lending::Hook, 1)).collect();
        self.process.hooks.callout_done(
            pointer(extension.config.handle),
            extension.config.module(),
            id,
            result,
            if headers.is_empty() { std::ptr::null() } else { headers.as_ptr() },
            headers.len(),
            if slices.is_empty() { std::ptr::null() } else { slices.as_ptr() },
            slices.len(),
        );
    }

    /// A request to Envoy's admin page that a handler of the module takes; `None`: none does.
    #[must_use]
    pub fn admin(&self, method: &str, path: &str) -> Option<(u32, Vec<u8>)> {
        let extension = self.extension.as_ref()?;
        if !self.process.bootstrap().admin_handlers.iter().any(|(prefix, _)| path.starts_with(prefix)) {
            return None;
        }
        self.process.bootstrap().admin_response = None;
        let mut loans = Loans::default();
        let (method, path) =
            (loans.lend(method.as_bytes(), Lending::Hook, 1), loans.lend(path.as_bytes(), Lending::Hook, 1));
        let body = loans.lend(b"", Lending::Hook, 1);
        let (config, hooks) = (&extension.config, &self.process.hooks);
        let status = hooks.admin_request(pointer(config.handle), config.module(), method, path, body);
        Some((status, self.process.bootstrap().admin_response.take().unwrap_or_default()))
    }

    /// Calls every hook of the bootstrap extension that follows only from something that the module may ask for.
    pub fn call_unasked(&self) {
        const EVENT: u64 = 7;
        let Some(extension) = &self.extension else { return };
        let (hooks, config, module) =
            (&self.process.hooks, pointer(extension.config.handle), extension.config.module());
        let mut loans = Loans::default();
        let mut name = || loans.lend(b"name", Lending::Hook, 1);
        hooks.config_scheduled(config, module, EVENT);
        hooks.file_changed(config, module, name(), 1);
        hooks.cluster_added(config, module, name());
        hooks.cluster_removed(config, module, name());
        hooks.listener_added(config, module, name());
        hooks.listener_removed(config, module, name());
        hooks.timer_fired(config, module, pointer(new_handle()));
        hooks.callout_done(config, module, EVENT, callout_result::RESET, std::ptr::null(), 0, std::ptr::null(), 0);
    }

    // ---- what is to go wrong ----

    /// Lets a callback refuse.
    pub fn refuse(&self, refusal: Refusal) {
        self.process.refusals.add(refusal);
    }

    /// No callback refuses any more.
    pub fn clear_refusals(&self) {
        self.process.refusals.clear();
    }

    // ---- what came of it ----

    /// The metrics as they are now.
    #[must_use]
    pub fn metrics(&self) -> MetricValues {
        self.process.metrics().clone()
    }

    /// How often the module made a call.
    #[must_use]
    pub fn calls(&self, callback: CallbackName) -> u64 {
        self.process.refusals.calls(callback)
    }

    /// What the module has logged.
    #[must_use]
    pub fn log(&self) -> Vec<LoggedLine> {
        self.process.logged()
    }

    /// How often the module has said that Envoy may begin to serve.
    #[must_use]
    pub fn init_completions(&self) -> u32 {
        self.process.bootstrap().init_completions
    }

    /// What the module did that it must not do, so far.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.process.violations()
    }

    /// The violations so far, for a test that means to make them: they are no failure of [`ModuleHost::shut_down`] then.
    #[must_use]
    pub fn take_violations(&self) -> Vec<String> {
        let mut all = self.process.take_violations();
        all.extend(role::take_strays());
        all
    }

    // ---- the end ----

    /// Ends as Envoy does: the shutdown hook, whose completion is waited for; then workers end with all their streams; then the
    /// extension and the configurations are destroyed.
    ///
    /// # Errors
    /// [`HostError::Shutdown`] unless it was completed once; [`HostError::Violations`].
    pub fn shut_down(mut self) -> Result<(), HostError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), HostError> {
        if self.is_over.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let completions = |host: &Self| host.process.shutdown_completions.load(Ordering::SeqCst);
        if let Some(extension) = &self.extension {
            let (hooks, handle) = (&self.process.hooks, extension.handle);
            hooks.drain_started(pointer(handle), extension.module);
            hooks.shutdown(pointer(handle), extension.module, shutdown_done, pointer(handle));
            self.run_until(self.patience, |host| completions(host) > 0);
        }
        for worker in self.workers.drain(..) {
            worker.link.run(|| {
                for id in role::stream_ids() {
                    filter_chain::finish(id, Finish::ClientReset);
                    role::remove_stream(id);
                }
            });
            worker.end();
        }
        let mut result = Ok(());
        if let Some(extension) = self.extension.take() {
            self.process.hooks.extension_destroy(extension.module);
            drop(extension.config);
            let times = completions(self);
            if times != 1 {
                result = Err(HostError::Shutdown(times));
            }
        }
        drop(self.filter.take());
        let alive: Vec<usize> = {
            let bootstrap = self.process.bootstrap();
            bootstrap.timers.iter().filter(|(_, timer)| !timer.is_deleted).map(|(handle, _)| *handle).collect()
        };
        if !alive.is_empty() {
            self.process.violation(format!("{} timers were never deleted", alive.len()));
        }
        let violations = self.take_violations();
        role::resign();
        self.alone = None;
        if violations.is_empty() { result } else { Err(HostError::Violations(violations)) }
    }
}

impl Drop for ModuleHost {
    #[expect(clippy::panic, reason = "a test that does not look must not pass")]
    fn drop(&mut self) {
        let result = self.end();
        if let (Err(error), false) = (result, std::thread::panicking()) {
            panic!("{error}");
        }
    }
}

/// Calls `config_new` of the HTTP filter.
pub(crate) fn new_filter(
    process: &Arc<Process>,
    name: &str,
    configuration: &str,
) -> Result<Arc<ConfigState>, HostError> {
    let config = Arc::new(ConfigState::new(ConfigKind::HttpFilter, process.hooks));
    process.keep(&config);
    let mut loans = Loans::default();
    let (name, text) =
        (loans.lend(name.as_bytes(), Lending::Hook, 1), loans.lend(configuration.as_bytes(), Lending::Hook, 1));
    let module = process.hooks.filter_config_new(pointer(config.handle), name, text);
    config.freeze(module);
    if module.is_null() { Err(HostError::FilterRefused(last_words(process))) } else { Ok(config) }
}

/// What the module logged: Envoy itself says only that a configuration was refused.
pub(crate) fn last_words(process: &Process) -> String {
    process.logged().into_iter().map(|line| line.text).collect::<Vec<_>>().join("\n")
}

pub(crate) const MAIN: ThreadKind = ThreadKind::Main;
