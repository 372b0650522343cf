//! What all threads of one simulated Envoy share.

use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::config_state::ConfigState;
use crate::headers::Headers;
use crate::hooks::Hooks;
use crate::metrics::MetricValues;
use crate::refusals::Refusals;

/// A line that the module logged; levels are Envoy's: 0 trace to 6 off.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LoggedLine {
    /// The level.
    pub level: i32,
    /// The text.
    pub text: String,
}

/// A request that the bootstrap extension makes.
#[derive(Clone, Debug)]
pub struct Callout {
    /// To whom.
    pub cluster: String,
    /// Headers, pseudo headers among them.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
    /// How long it may take.
    pub timeout: Duration,
}

/// From this level on a line is shown at once: a module that logs its panics would else hide a test's.
const CRITICAL: i32 = 5;

#[derive(Debug)]
pub(crate) struct ModuleTimer {
    pub(crate) due: Option<Instant>,
    pub(crate) is_deleted: bool,
}

#[derive(Debug, Default)]
pub(crate) struct BootstrapState {
    pub(crate) timers: BTreeMap<usize, ModuleTimer>,
    pub(crate) clusters: Vec<String>,
    pub(crate) callouts: Vec<(u64, Callout)>,
    pub(crate) next_callout: u64,
    /// Prefixes and help texts.
    pub(crate) admin_handlers: Vec<(String, String)>,
    pub(crate) admin_response: Option<Vec<u8>>,
    pub(crate) init_completions: u32,
}

pub(crate) struct Process {
    pub(crate) hooks: Hooks,
    pub(crate) workers: u32,
    pub(crate) is_validation: bool,
    pub(crate) log_level: i32,
    pub(crate) refusals: Refusals,
    pub(crate) shutdown_completions: AtomicU32,
    metrics: Mutex<MetricValues>,
    violations: Mutex<Vec<String>>,
    log: Mutex<Vec<LoggedLine>>,
    configs: Mutex<HashMap<usize, Weak<ConfigState>>>,
    bootstrap: Mutex<BootstrapState>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    pub(crate) fn new(hooks: Hooks, workers: u32, is_validation: bool, log_level: i32) -> Self {
        Self {
            hooks,
            workers,
            is_validation,
            log_level,
            refusals: Refusals::default(),
            shutdown_completions: AtomicU32::new(0),
            metrics: Mutex::default(),
            violations: Mutex::default(),
            log: Mutex::default(),
            configs: Mutex::default(),
            bootstrap: Mutex::default(),
        }
    }

    pub(crate) fn metrics(&self) -> MutexGuard<'_, MetricValues> {
        locked(&self.metrics)
    }

    pub(crate) fn bootstrap(&self) -> MutexGuard<'_, BootstrapState> {
        locked(&self.bootstrap)
    }

    /// The module did what it must not.
    pub(crate) fn violation(&self, what: String) {
        locked(&self.violations).push(what);
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        locked(&self.violations).clone()
    }

    pub(crate) fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut *locked(&self.violations))
    }

    pub(crate) fn log(&self, level: i32, text: String) {
        if level >= CRITICAL {
            eprintln!("{text}");
        }
        locked(&self.log).push(LoggedLine { level, text });
    }

    pub(crate) fn logged(&self) -> Vec<LoggedLine> {
        locked(&self.log).clone()
    }

    pub(crate) fn keep(&self, config: &Arc<ConfigState>) {
        locked(&self.configs).insert(config.handle, Arc::downgrade(config));
    }

    /// The configuration behind a handle, if it lives.
    pub(crate) fn config(&self, handle: *mut c_void) -> Option<Arc<ConfigState>> {
        locked(&self.configs).get(&handle.addr()).and_then(Weak::upgrade)
    }
}
