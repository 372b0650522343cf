//! How a host is put together.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicPtr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::HostError;
use crate::abi::VERSION;
use crate::config_state::{ConfigKind, ConfigState, new_handle, pointer};
use crate::hooks::Hooks;
use crate::host::{CalloutAnswer, Extension, MAIN, ModuleHost, Script, last_words, new_filter};
use crate::memory::{Lending, Loans, static_text};
use crate::native_stream::StreamSettings;
use crate::process::{Callout, Process};
use crate::role;
use crate::worker::WorkerThread;

/// Envoy's default for the buffers of a connection.
pub const DEFAULT_BUFFER_LIMIT: usize = 1 << 20;

/// A module that takes this long to initialize or to shut down will not do it.
const DEFAULT_PATIENCE: Duration = Duration::from_secs(5);

/// The module's statics are of one process, so one host lives at a time; tests wait for each other here.
static ALONE: Mutex<()> = Mutex::new(());

/// Collects what a [`ModuleHost`] needs; see [`ModuleHost::builder`].
#[must_use]
pub struct ModuleHostBuilder {
    hooks: Hooks,
    name: String,
    filter: Option<String>,
    bootstrap: Option<String>,
    scripts: BTreeMap<String, Script>,
    workers: u32,
    is_validation: bool,
    log_level: i32,
    settings: StreamSettings,
    patience: Duration,
}

impl std::fmt::Debug for ModuleHostBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModuleHostBuilder").field("filter", &self.filter).finish_non_exhaustive()
    }
}

impl ModuleHost {
    /// Starts to put a host of this module together.
    pub fn builder(hooks: Hooks) -> ModuleHostBuilder {
        ModuleHostBuilder {
            hooks,
            name: "test".to_owned(),
            filter: None,
            bootstrap: None,
            scripts: BTreeMap::new(),
            workers: 1,
            is_validation: false,
            log_level: 0,
            settings: StreamSettings {
                request_buffer_limit: DEFAULT_BUFFER_LIMIT,
                response_buffer_limit: DEFAULT_BUFFER_LIMIT,
                completes_inline: false,
            },
            patience: DEFAULT_PATIENCE,
        }
    }
}

impl ModuleHostBuilder {
    /// `filter_name` and `extension_name`.
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// An HTTP filter with this configuration.
    pub fn filter(mut self, configuration: &str) -> Self {
        self.filter = Some(configuration.to_owned());
        self
    }

    /// A bootstrap extension with this configuration.
    pub fn bootstrap(mut self, configuration: &str) -> Self {
        self.bootstrap = Some(configuration.to_owned());
        self
    }

    /// A cluster for callouts, whose answers a function makes.
    pub fn cluster(mut self, name: &str, script: impl FnMut(&Callout) -> CalloutAnswer + 'static) -> Self {
        self.scripts.insert(name.to_owned(), Box::new(script));
        self
    }

    /// How many workers there are; 1 unless given.
    pub const fn workers(mut self, workers: u32) -> Self {
        self.workers = workers;
        self
    }

    /// `--mode validate`
    pub const fn validating(mut self) -> Self {
        self.is_validation = true;
        self
    }

    /// The lowest level that is logged: 0 (trace, the default) to 6.
    pub const fn log_level(mut self, level: i32) -> Self {
        self.log_level = level;
        self
    }

    /// Bytes of a request that may be held before 413, unless the module sets another limit.
    pub const fn request_buffer_limit(mut self, bytes: usize) -> Self {
        self.settings.request_buffer_limit = bytes;
        self
    }

    /// Bytes of a response that may be held before 500.
    pub const fn response_buffer_limit(mut self, bytes: usize) -> Self {
        self.settings.response_buffer_limit = bytes;
        self
    }

    /// How long the module may take to initialize and to shut down; 5 s unless given.
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Loads the module and starts: the bootstrap extension, then the HTTP filter, then the workers.
    ///
    /// # Errors
    /// [`HostError`]
    pub fn build(self) -> Result<ModuleHost, HostError> {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        drop(role::take_strays());
        let process = Arc::new(Process::new(self.hooks, self.workers, self.is_validation, self.log_level));
        process.bootstrap().clusters = self.scripts.keys().cloned().collect();
        role::assume(Arc::clone(&process), MAIN, None);
        let mut host = ModuleHost {
            process,
            workers: Vec::new(),
            filter: None,
            extension: None,
            scripts: RefCell::new(self.scripts),
            settings: self.settings,
            patience: self.patience,
            name: self.name,
            is_over: AtomicBool::new(false),
            alone: Some(alone),
            on_main: PhantomData,
        };
        let started = start(&mut host, self.filter, self.bootstrap);
        // What the host says when it is dropped counts less than why it did not start.
        if let Err(error) = started {
            drop(host.shut_down());
            return Err(error);
        }
        Ok(host)
    }
}

fn start(host: &mut ModuleHost, filter: Option<String>, bootstrap: Option<String>) -> Result<(), HostError> {
    let process = Arc::clone(&host.process);
    let version = static_text(process.hooks.program_init());
    if version.as_deref() != Some(VERSION) {
        return Err(HostError::Version(version));
    }
    if let Some(configuration) = bootstrap {
        let config = Arc::new(ConfigState::new(ConfigKind::Bootstrap, process.hooks));
        process.keep(&config);
        let mut loans = Loans::default();
        let (name, text) = (
            loans.lend(host.name.as_bytes(), Lending::Hook, 1),
            loans.lend(configuration.as_bytes(), Lending::Hook, 1),
        );
        let module = process.hooks.bootstrap_config_new(pointer(config.handle), name, text);
        drop(loans);
        config.freeze(module);
        if module.is_null() {
            return Err(HostError::BootstrapRefused(last_words(&process)));
        }
        let handle = new_handle();
        let module = process.hooks.extension_new(module, pointer(handle));
        if module.is_null() {
            return Err(HostError::BootstrapRefused("there is no extension".to_owned()));
        }
        host.extension = Some(Extension { config, handle, module });
    }
    if let Some(configuration) = filter {
        host.filter = Some(new_filter(&process, &host.name, &configuration)?);
    }
    if process.is_validation {
        return Ok(());
    }
    if let Some(extension) = &host.extension {
        process.hooks.server_initialized(pointer(extension.handle), extension.module);
        if !host.run_until(host.patience, |host| host.init_completions() > 0) {
            return Err(HostError::NeverInitialized);
        }
        if host.init_completions() != 1 {
            return Err(HostError::InitializedAgain(host.init_completions()));
        }
    }
    for index in 0..process.workers {
        let worker = WorkerThread::start(&process, index)?;
        if let Some(extension) = &host.extension {
            let (hooks, handle) = (process.hooks, extension.handle);
            let module = AtomicPtr::new(extension.module.cast_mut());
            worker.link.run(move || hooks.worker_initialized(pointer(handle), module.into_inner()));
        }
        host.workers.push(worker);
    }
    Ok(())
}
