//! The bootstrap extension's configuration in Envoy, for the length of one hook on the main thread: stats, a timer, calls of clusters.
#![allow(unsafe_code, reason = "calls Envoy")]

use std::ffi::c_void;
use std::marker::PhantomData;

use crate::abi::{self, Buffer, Header};

/// The ABI's word for success.
const OK: i32 = 0;

/// Envoy answered with this code instead of success.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Refused(pub(crate) i32);

/// A stat, labelled or not.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct MetricId(usize);

/// What a stat is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum MetricKind {
    /// Only grows.
    Counter,
    /// Is set.
    Gauge,
}

/// A call of a cluster that is under way.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Callout(pub(crate) u64);

/// A timer of the main thread.
#[derive(Debug)]
pub(crate) struct Timer(*mut c_void);

// SAFETY: the pointer is used by hooks of the main thread only; whoever drops it elsewhere does not touch it.
unsafe impl Send for Timer {}

/// The extension's configuration in Envoy, for the length of one hook.
pub(crate) struct ExtensionConfig<'hook> {
    raw: *mut c_void,
    hook: PhantomData<&'hook mut c_void>,
}

impl ExtensionConfig<'_> {
    /// # Safety
    ///
    /// `raw` must be the configuration that Envoy gave the extension, which must still exist; the current hook must run on the main
    /// thread, and the result must not outlive it.
    pub(crate) const unsafe fn new(raw: *mut c_void) -> Self {
        Self { raw, hook: PhantomData }
    }

    /// Lets Envoy begin to serve.
    pub(crate) fn signal_init_complete(&mut self) {
        // SAFETY: `raw` is the extension's configuration.
        unsafe { abi::envoy_dynamic_module_callback_bootstrap_extension_config_signal_init_complete(self.raw) }
    }

    /// Defines a stat with the names of its labels. Only possible while the configuration is made.
    pub(crate) fn define(&mut self, kind: MetricKind, name: &str, labels: &[&str]) -> Result<MetricId, Refused> {
        let labels: Vec<Buffer> = labels.iter().map(|label| Buffer::of(label.as_bytes())).collect();
        let (name, mut id) = (Buffer::of(name.as_bytes()), 0);
        let define = match kind {
            MetricKind::Counter => abi::envoy_dynamic_module_callback_bootstrap_extension_config_define_counter,
            MetricKind::Gauge => abi::envoy_dynamic_module_callback_bootstrap_extension_config_define_gauge,
        };
        // SAFETY: `raw` is the extension's configuration; Envoy copies texts and body, and writes the id during the call.
        check(unsafe { define(self.raw, name, labels.as_ptr(), labels.len(), &raw mut id) })?;
        Ok(MetricId(id))
    }

    /// Adds to a counter. `values` are those of its labels, in their order.
    pub(crate) fn add<'a>(
        &mut self,
        id: MetricId,
        values: impl Iterator<Item = &'a str>,
        delta: u64,
    ) -> Result<(), Refused> {
        let values: Vec<Buffer> = values.map(|value| Buffer::of(value.as_bytes())).collect();
        // SAFETY: `raw` is the extension's configuration; Envoy reads the values during the call.
        check(unsafe {
            abi::envoy_dynamic_module_callback_bootstrap_extension_config_increment_counter(
                self.raw,
                id.0,
                values.as_ptr(),
                values.len(),
                delta,
            )
        })
    }

    /// Sets a gauge. `values` are those of its labels, in their order.
    pub(crate) fn set<'a>(
        &mut self,
        id: MetricId,
        values: impl Iterator<Item = &'a str>,
        value: u64,
    ) -> Result<(), Refused> {
        let values: Vec<Buffer> = values.map(|value| Buffer::of(value.as_bytes())).collect();
        // SAFETY: `raw` is the extension's configuration; Envoy reads the values during the call.
        check(unsafe {
            abi::envoy_dynamic_module_callback_bootstrap_extension_config_set_gauge(
                self.raw,
                id.0,
                values.as_ptr(),
                values.len(),
                value,
            )
        })
    }

    /// A timer that is not running.
    pub(crate) fn timer(&mut self) -> Timer {
        // SAFETY: `raw` is the extension's configuration.
        Timer(unsafe { abi::envoy_dynamic_module_callback_bootstrap_extension_timer_new(self.raw) })
    }

    /// Lets a timer fire once, after so many milliseconds.
    pub(crate) fn enable(&mut self, timer: &Timer, millis: u64) {
        // SAFETY: the timer was made by `timer` and is not deleted: `delete` takes it.
        unsafe { abi::envoy_dynamic_module_callback_bootstrap_extension_timer_enable(timer.0, millis) }
    }

    /// Ends a timer.
    pub(crate) fn delete(&mut self, timer: Timer) {
        // SAFETY: the timer was made by `timer`, and nobody has it any more.
        unsafe { abi::envoy_dynamic_module_callback_bootstrap_extension_timer_delete(timer.0) }
    }

    /// Sends a request without a body to a cluster; the answer comes to a hook.
    pub(crate) fn call(
        &mut self,
        cluster: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        millis: u64,
    ) -> Result<Callout, Refused> {
        let headers: Vec<Header> =
            headers.iter().map(|(name, value)| Header::of(name.as_bytes(), value.as_bytes())).collect();
        let (cluster, mut id) = (Buffer::of(cluster.as_bytes()), 0);
        // SAFETY: `raw` is the extension's configuration; Envoy copies the texts and writes the id during the call.
        check(unsafe {
            abi::envoy_dynamic_module_callback_bootstrap_extension_http_callout(
                self.raw,
                &raw mut id,
                cluster,
                headers.as_ptr(),
                headers.len(),
                if body.is_empty() { Buffer::NULL } else { Buffer::of(body) },
                millis,
            )
        })?;
        Ok(Callout(id))
    }
}

const fn check(code: i32) -> Result<(), Refused> {
    if code == OK { Ok(()) } else { Err(Refused(code)) }
}
