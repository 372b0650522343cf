//! How a host is put together.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::Error;
use crate::host::Host;
use crate::http_call::{Clusters, HttpCall, HttpOutcome};
use crate::module::CompiledModule;
use crate::settings::{FailurePolicy, Settings};
use crate::vm::Core;

enum Source {
    File(PathBuf),
    Bytes(Vec<u8>),
    Compiled(CompiledModule),
}

type Script = Box<dyn FnMut(&HttpCall) -> HttpOutcome + Send>;

/// Collects what a [`Host`] needs; see [`Host::builder`]. Defaults are Envoy's.
#[derive(Default)]
#[must_use]
pub struct HostBuilder {
    source: Option<Source>,
    settings: Settings,
    scripts: Vec<(String, Script)>,
}

impl std::fmt::Debug for HostBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Host {
    /// Starts to put a host together.
    pub fn builder() -> HostBuilder {
        HostBuilder::default()
    }
}

impl HostBuilder {
    /// The module's file.
    pub fn module(mut self, path: impl Into<PathBuf>) -> Self {
        self.source = Some(Source::File(path.into()));
        self
    }

    /// The module's bytes.
    pub fn module_bytes(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.source = Some(Source::Bytes(bytes.into()));
        self
    }

    /// A module that is compiled already: the quick way to build many hosts.
    pub fn compiled(mut self, module: &CompiledModule) -> Self {
        self.source = Some(Source::Compiled(module.clone()));
        self
    }

    /// `vm_config.vm_id`: the namespace of shared data and queues.
    pub fn vm_id(mut self, vm_id: impl Into<String>) -> Self {
        self.settings.vm_id = vm_id.into();
        self
    }

    /// `vm_config.configuration`, given to `proxy_on_vm_start` of every VM.
    pub fn vm_configuration(mut self, configuration: impl Into<Vec<u8>>) -> Self {
        self.settings.vm_configuration = configuration.into();
        self
    }

    /// The plugin's `configuration`, given to `proxy_on_configure` of every worker.
    pub fn plugin_configuration(mut self, configuration: impl Into<Vec<u8>>) -> Self {
        self.settings.plugin_configuration = configuration.into();
        self
    }

    /// The plugin's `name` (property `plugin_name`, and in Envoy's own stats about the VM).
    pub fn plugin_name(mut self, name: impl Into<String>) -> Self {
        self.settings.plugin_name = name.into();
        self
    }

    /// The plugin's `root_id`.
    pub fn root_id(mut self, root_id: impl Into<String>) -> Self {
        self.settings.root_id = root_id.into();
        self
    }

    /// How many worker VMs there are; 1 unless given.
    pub const fn workers(mut self, workers: usize) -> Self {
        self.settings.workers = workers;
        self
    }

    /// Adds a singleton service (`envoy.bootstrap.wasm` with `singleton: true`) with this configuration. It
    /// is started before the workers.
    pub fn service(mut self, configuration: impl Into<Vec<u8>>) -> Self {
        self.settings.service_configuration = Some(configuration.into());
        self
    }

    /// The service's `root_id`, if it is not the plugin's.
    pub fn service_root_id(mut self, root_id: impl Into<String>) -> Self {
        self.settings.service_root_id = Some(root_id.into());
        self
    }

    /// Runs a throw-away VM through start and configuration first, as Envoy does; off unless asked for,
    /// because its effects on stats, shared data and scripted upstreams stay.
    pub const fn canary(mut self) -> Self {
        self.settings.canary = true;
        self
    }

    /// `failure_policy`
    pub const fn failure_policy(mut self, policy: FailurePolicy) -> Self {
        self.settings.failure_policy = policy;
        self
    }

    /// `reload_config.backoff.base_interval`, without Envoy's jitter.
    pub const fn reload_backoff(mut self, backoff: Duration) -> Self {
        self.settings.reload_backoff = backoff;
        self
    }

    /// `allow_on_headers_stop_iteration`: with it a pause from a headers callback still lets body callbacks
    /// come. Off by default, as in Envoy.
    pub const fn allow_on_headers_stop_iteration(mut self, allow: bool) -> Self {
        self.settings.allow_on_headers_stop_iteration = allow;
        self
    }

    /// Bytes of request body that may be buffered before 413. In Envoy this is the larger one of the route's
    /// `request_body_buffer_limit` and the listener's `per_connection_buffer_limit_bytes`: the former alone cannot go below
    /// the latter, whose default is 1 MiB.
    pub const fn request_buffer_limit(mut self, bytes: usize) -> Self {
        self.settings.request_buffer_limit = bytes;
        self
    }

    /// Bytes of response body that may be buffered before 500 (the listener's `per_connection_buffer_limit_bytes`).
    pub const fn response_buffer_limit(mut self, bytes: usize) -> Self {
        self.settings.response_buffer_limit = bytes;
        self
    }

    /// Bytes of linear memory a VM may have; growth above fails in the guest.
    pub const fn memory_limit(mut self, bytes: usize) -> Self {
        self.settings.memory_limit = bytes;
        self
    }

    /// Fuel a callback may use (about one per instruction); above it the VM traps.
    pub const fn fuel_limit(mut self, fuel: u64) -> Self {
        self.settings.fuel_limit = fuel;
        self
    }

    /// An environment variable (`environment_variables.key_values`).
    pub fn environment_variable(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.environment.push((name.into(), value.into()));
        self
    }

    /// Seed of the guests' randomness; each VM has its own sequence.
    pub const fn seed(mut self, seed: u64) -> Self {
        self.settings.seed = seed;
        self
    }

    /// The wall clock at the start, in time since the Unix epoch.
    pub const fn wall_clock(mut self, since_epoch: Duration) -> Self {
        self.settings.wall_start = since_epoch;
        self
    }

    /// What `proxy_get_log_level` returns: 0 (trace, the default) to 5.
    pub const fn log_level(mut self, level: u32) -> Self {
        self.settings.log_level = level;
        self
    }

    /// Whether the trace keeps records; on by default. Crossings are counted either way.
    pub const fn record_trace(mut self, record: bool) -> Self {
        self.settings.record_trace = record;
        self
    }

    /// An upstream cluster for `proxy_http_call` that plays these outcomes and then repeats the last.
    pub fn cluster(mut self, name: impl Into<String>, outcomes: impl IntoIterator<Item = HttpOutcome>) -> Self {
        let script = Clusters::playing(outcomes.into_iter().collect());
        self.scripts.push((name.into(), script));
        self
    }

    /// An upstream cluster whose responses a function makes. The function must not use the host.
    pub fn cluster_script(
        mut self,
        name: impl Into<String>,
        script: impl FnMut(&HttpCall) -> HttpOutcome + Send + 'static,
    ) -> Self {
        self.scripts.push((name.into(), Box::new(script)));
        self
    }

    /// Compiles the module if need be and starts every VM.
    ///
    /// # Errors
    /// [`Error::NoModule`], what [`CompiledModule`] returns, [`Error::Start`], [`Error::Refused`].
    pub fn build(self) -> Result<Host, Error> {
        let compiled = match self.source {
            None => return Err(Error::NoModule),
            Some(Source::File(path)) => CompiledModule::from_file(path)?,
            Some(Source::Bytes(bytes)) => CompiledModule::from_bytes(&bytes)?,
            Some(Source::Compiled(module)) => module,
        };
        let mut core = Core::new(compiled, self.settings);
        for (name, script) in self.scripts {
            core.state_mut().clusters.script(name, script);
        }
        core.start()?;
        Ok(Host::of(core))
    }
}
