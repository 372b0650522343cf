//! A configuration of the module, as Envoy keeps it: its metrics, and whether it lives.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::abi::metrics_result;
use crate::hooks::Hooks;
use crate::metrics::{MetricFamily, MetricKind};

/// Handles are numbers that nothing is behind: a module that looks into one is caught by the machine, and one that was taken back is
/// known as such.
pub(crate) fn new_handle() -> usize {
    const FIRST: usize = 0x1000;
    const STEP: usize = 0x10;
    static NEXT: AtomicUsize = AtomicUsize::new(FIRST);
    NEXT.fetch_add(STEP, Ordering::Relaxed)
}

pub(crate) fn pointer(handle: usize) -> *mut c_void {
    std::ptr::without_provenance_mut(handle)
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ConfigKind {
    HttpFilter,
    Bootstrap,
}

/// One configuration. Dropping the last reference, wherever that is, calls the module's `config_destroy`.
#[derive(Debug)]
pub(crate) struct ConfigState {
    pub(crate) handle: usize,
    pub(crate) kind: ConfigKind,
    hooks: Hooks,
    /// The module's configuration; null until `config_new` has returned one.
    module: AtomicPtr<c_void>,
    frozen: AtomicBool,
    families: Mutex<Vec<MetricFamily>>,
}

impl ConfigState {
    pub(crate) fn new(kind: ConfigKind, hooks: Hooks) -> Self {
        Self {
            handle: new_handle(),
            kind,
            hooks,
            module: AtomicPtr::default(),
            frozen: AtomicBool::new(false),
            families: Mutex::default(),
        }
    }

    pub(crate) fn module(&self) -> *const c_void {
        self.module.load(Ordering::Acquire)
    }

    /// `config_new` has returned.
    pub(crate) fn freeze(&self, module: *const c_void) {
        self.module.store(module.cast_mut(), Ordering::Release);
        self.frozen.store(true, Ordering::Release);
    }

    /// The id of a new metric, or the result that says why there is none.
    pub(crate) fn define(&self, family: MetricFamily) -> Result<usize, i32> {
        if self.frozen.load(Ordering::Acquire) {
            return Err(metrics_result::FROZEN);
        }
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        families.push(family);
        Ok(families.len())
    }

    /// The metric with this id, if it is of this kind and has so many labels.
    pub(crate) fn family(&self, id: usize, kind: MetricKind, labels: usize) -> Result<MetricFamily, i32> {
        let families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let found = id.checked_sub(1).and_then(|index| families.get(index)).filter(|family| family.kind == kind);
        let family = found.ok_or(metrics_result::NOT_FOUND)?;
        if family.labels.len() == labels { Ok(family.clone()) } else { Err(metrics_result::INVALID_LABELS) }
    }
}

impl Drop for ConfigState {
    fn drop(&mut self) {
        let module = self.module();
        if module.is_null() {
            return;
        }
        match self.kind {
            ConfigKind::HttpFilter => self.hooks.filter_config_destroy(module),
            ConfigKind::Bootstrap => self.hooks.bootstrap_config_destroy(module),
        }
    }
}
