//! What a host is set up with.

use std::time::Duration;

use crate::clock::DEFAULT_WALL_START;

/// Envoy's default for `per_connection_buffer_limit_bytes`, which bounds a buffered body.
pub const DEFAULT_BUFFER_LIMIT: usize = 1024 * 1024;

/// Envoy's limit of a VM's memory (`--wasm_max_mem_pages=16384`, proxy-wasm-cpp-host `limits.h`).
pub const DEFAULT_MEMORY_LIMIT: usize = 1024 * 1024 * 1024;

/// Fuel of one callback before it is stopped: about as many instructions as a core executes in some
/// seconds, so that an endless loop ends a test instead of hanging it.
pub const DEFAULT_FUEL_LIMIT: u64 = 10_000_000_000;

/// Envoy's default for `reload_config.backoff.base_interval`.
pub const DEFAULT_RELOAD_BACKOFF: Duration = Duration::from_secs(1);

/// What happens to streams of a VM that has failed (Envoy `envoy.extensions.wasm.v3.FailurePolicy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailurePolicy {
    /// They get a local reply, 503, for good. Envoy's default.
    #[default]
    FailClosed,
    /// Those that begin after the failure go on without the filter; those that had begun get a local reply, 503.
    FailOpen,
    /// They get a local reply, 503, and the next new stream gets a new VM if the last one was loaded
    /// longer ago than the backoff.
    FailReload,
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) vm_id: String,
    pub(crate) vm_configuration: Vec<u8>,
    pub(crate) plugin_name: String,
    pub(crate) root_id: String,
    pub(crate) plugin_configuration: Vec<u8>,
    pub(crate) service_root_id: Option<String>,
    pub(crate) service_configuration: Option<Vec<u8>>,
    pub(crate) workers: usize,
    pub(crate) canary: bool,
    pub(crate) failure_policy: FailurePolicy,
    pub(crate) reload_backoff: Duration,
    pub(crate) allow_on_headers_stop_iteration: bool,
    pub(crate) request_buffer_limit: usize,
    pub(crate) response_buffer_limit: usize,
    pub(crate) memory_limit: usize,
    pub(crate) fuel_limit: u64,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) seed: u64,
    pub(crate) wall_start: Duration,
    pub(crate) log_level: u32,
    pub(crate) record_trace: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            vm_id: String::new(),
            vm_configuration: Vec::new(),
            plugin_name: "plugin".to_owned(),
            root_id: String::new(),
            plugin_configuration: Vec::new(),
            service_root_id: None,
            service_configuration: None,
            workers: 1,
            canary: false,
            failure_policy: FailurePolicy::default(),
            reload_backoff: DEFAULT_RELOAD_BACKOFF,
            allow_on_headers_stop_iteration: false,
            request_buffer_limit: DEFAULT_BUFFER_LIMIT,
            response_buffer_limit: DEFAULT_BUFFER_LIMIT,
            memory_limit: DEFAULT_MEMORY_LIMIT,
            fuel_limit: DEFAULT_FUEL_LIMIT,
            environment: Vec::new(),
            seed: 1,
            wall_start: DEFAULT_WALL_START,
            log_level: 0,
            record_trace: true,
        }
    }
}
