//! What a module may call about its configurations and its bootstrap extension.
#![expect(unsafe_code, reason = "exported under the names that the module is linked against")]

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::abi::{AbiBuffer, AbiHeader, callout_init, metrics_result};
use crate::config_state::{ConfigKind, ConfigState, new_handle, pointer};
use crate::http_callbacks::{header_list, text, violation};
use crate::memory::{answer, given_array};
use crate::metrics::{MetricFamily, MetricKind};
use crate::process::{BootstrapState, Callout, ModuleTimer};
use crate::refusals::CallbackName;
use crate::role::{Role, ThreadKind, callback, main_callback, stream_callback};

/// A configuration that lives, of this kind; another is noted.
fn config(role: &Role, name: CallbackName, handle: *mut c_void, kind: ConfigKind) -> Option<Arc<ConfigState>> {
    let found = role.process.config(handle).filter(|config| config.kind == kind);
    if found.is_none() {
        role.process.violation(format!("{} for a configuration that is not there: {handle:?}", name.name()));
    }
    found
}

fn texts(name: CallbackName, values: *const AbiBuffer, count: usize) -> Vec<String> {
    match given_array(values, count) {
        Some(values) => values.into_iter().map(|value| text(name, value)).collect(),
        None => {
            violation(format!("{} was given {count} values at {values:?}", name.name()));
            Vec::new()
        }
    }
}

struct Definition {
    name: AbiBuffer,
    labels: *const AbiBuffer,
    count: usize,
    id: *mut usize,
}

fn define(
    callback_name: CallbackName,
    handle: *mut c_void,
    of: ConfigKind,
    kind: MetricKind,
    wanted: Definition,
) -> i32 {
    let family = MetricFamily {
        kind,
        name: text(callback_name, wanted.name),
        labels: texts(callback_name, wanted.labels, wanted.count),
    };
    main_callback(callback_name, metrics_result::FROZEN, |role| {
        let Some(config) = config(role, callback_name, handle, of) else { return metrics_result::NOT_FOUND };
        match config.define(family) {
            Ok(id) => {
                answer(wanted.id, id);
                metrics_result::OK
            }
            Err(result) => result,
        }
    })
}

struct Update {
    kind: MetricKind,
    id: usize,
    values: Vec<String>,
    value: u64,
}

impl Update {
    fn apply(self, role: &Role, config: &ConfigState) -> i32 {
        let family = match config.family(self.id, self.kind, self.values.len()) {
            Ok(family) => family,
            Err(result) => return result,
        };
        role.process.metrics().change(&family, self.values, |old| match self.kind {
            MetricKind::Counter => old.saturating_add(self.value),
            MetricKind::Gauge => self.value,
        });
        metrics_result::OK
    }
}

fn update_of_config(name: CallbackName, handle: *mut c_void, of: ConfigKind, update: Update) -> i32 {
    callback(name, metrics_result::NOT_FOUND, |role| {
        config(role, name, handle, of).map_or(metrics_result::NOT_FOUND, |config| update.apply(role, &config))
    })
}

fn update_of_stream(name: CallbackName, filter: *mut c_void, update: Update) -> i32 {
    let config = stream_callback(name, filter, None, |stream| Some(Arc::clone(&stream.config)));
    let Some(config) = config else { return metrics_result::NOT_FOUND };
    crate::role::look(|role| update.apply(role, &config)).unwrap_or(metrics_result::NOT_FOUND)
}

macro_rules! metric_definitions {
    ($($symbol:ident = $name:ident, $of:ident, $kind:ident;)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $symbol(
            config: *mut c_void, name: AbiBuffer, labels: *const AbiBuffer, count: usize, id: *mut usize,
        ) -> i32 {
            define(CallbackName::$name, config, ConfigKind::$of, MetricKind::$kind, Definition { name, labels, count, id })
        }
    )*};
}

macro_rules! config_metric_updates {
    ($($symbol:ident = $name:ident, $of:ident, $kind:ident;)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $symbol(
            config: *mut c_void, id: usize, values: *const AbiBuffer, count: usize, value: u64,
        ) -> i32 {
            let values = texts(CallbackName::$name, values, count);
            let update = Update { kind: MetricKind::$kind, id, values, value };
            update_of_config(CallbackName::$name, config, ConfigKind::$of, update)
        }
    )*};
}

macro_rules! stream_metric_updates {
    ($($symbol:ident = $name:ident, $kind:ident;)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $symbol(
            filter: *mut c_void, id: usize, values: *const AbiBuffer, count: usize, value: u64,
        ) -> i32 {
            let values = texts(CallbackName::$name, values, count);
            update_of_stream(CallbackName::$name, filter, Update { kind: MetricKind::$kind, id, values, value })
        }
    )*};
}

metric_definitions! {
    envoy_dynamic_module_callback_http_filter_config_define_counter = FilterDefineCounter, HttpFilter, Counter;
    envoy_dynamic_module_callback_http_filter_config_define_gauge = FilterDefineGauge, HttpFilter, Gauge;
    envoy_dynamic_module_callback_bootstrap_extension_config_define_counter = DefineCounter, Bootstrap, Counter;
    envoy_dynamic_module_callback_bootstrap_extension_config_define_gauge = DefineGauge, Bootstrap, Gauge;
}

config_metric_updates! {
    envoy_dynamic_module_callback_http_filter_config_increment_counter = FilterConfigIncrementCounter, HttpFilter, Counter;
    envoy_dynamic_module_callback_http_filter_config_set_gauge = FilterConfigSetGauge, HttpFilter, Gauge;
    envoy_dynamic_module_callback_bootstrap_extension_config_increment_counter = IncrementCounter, Bootstrap, Counter;
    envoy_dynamic_module_callback_bootstrap_extension_config_set_gauge = SetGauge, Bootstrap, Gauge;
}

stream_metric_updates! {
    envoy_dynamic_module_callback_http_filter_increment_counter = FilterIncrementCounter, Counter;
    envoy_dynamic_module_callback_http_filter_set_gauge = FilterSetGauge, Gauge;
}

/// A callback of the main thread about the bootstrap extension.
fn of_bootstrap<R: Clone>(
    name: CallbackName,
    handle: *mut c_void,
    refused: R,
    answer: impl FnOnce(&mut BootstrapState) -> R,
) -> R {
    main_callback(name, refused.clone(), |role| match config(role, name, handle, ConfigKind::Bootstrap) {
        Some(_) => answer(&mut role.process.bootstrap()),
        None => refused,
    })
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_bootstrap_extension_config_signal_init_complete(config: *mut c_void) {
    of_bootstrap(CallbackName::SignalInitComplete, config, (), |bootstrap| bootstrap.init_completions += 1);
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_bootstrap_extension_timer_new(config: *mut c_void) -> *mut c_void {
    let handle = of_bootstrap(CallbackName::TimerNew, config, None, |bootstrap| {
        let handle = new_handle();
        bootstrap.timers.insert(handle, ModuleTimer { due: None, is_deleted: false });
        Some(handle)
    });
    handle.map_or(std::ptr::null_mut(), pointer)
}

fn of_timer(name: CallbackName, timer: *mut c_void, change: impl FnOnce(&mut ModuleTimer)) {
    main_callback(name, (), |role| {
        let mut bootstrap = role.process.bootstrap();
        match bootstrap.timers.get_mut(&timer.addr()) {
            Some(timer) if !timer.is_deleted => change(timer),
            _ => {
                drop(bootstrap);
                role.process.violation(format!("{} for a timer that is not there: {timer:?}", name.name()));
            }
        }
    });
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_bootstrap_extension_timer_enable(timer: *mut c_void, milliseconds: u64) {
    let due = Instant::now() + Duration::from_millis(milliseconds);
    of_timer(CallbackName::TimerEnable, timer, |timer| timer.due = Some(due));
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_bootstrap_extension_timer_delete(timer: *mut c_void) {
    of_timer(CallbackName::TimerDelete, timer, |timer| *timer = ModuleTimer { due: None, is_deleted: true });
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_bootstrap_extension_http_callout(
    config: *mut c_void,
    id: *mut u64,
    cluster: AbiBuffer,
    headers: *const AbiHeader,
    count: usize,
    body: AbiBuffer,
    timeout_milliseconds: u64,
) -> i32 {
    const NAME: CallbackName = CallbackName::HttpCallout;
    let callout = Callout {
        cluster: text(NAME, cluster),
        headers: header_list(NAME, headers, count),
        body: text(NAME, body).into_bytes(),
        timeout: Duration::from_millis(timeout_milliseconds),
    };
    of_bootstrap(NAME, config, callout_init::CANNOT_CREATE, |bootstrap| {
        let has = |name: &str| callout.headers.values(name).next().is_some();
        if !has(":method") || !has(":path") || !(has("host") || has(":authority")) {
            return callout_init::MISSING_HEADERS;
        }
        if !bootstrap.clusters.contains(&callout.cluster) {
            return callout_init::CLUSTER_NOT_FOUND;
        }
        bootstrap.next_callout += 1;
        answer(id, bootstrap.next_callout);
        bootstrap.callouts.push((bootstrap.next_callout, callout));
        callout_init::OK
    })
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_bootstrap_extension_register_admin_handler(
    config: *mut c_void,
    prefix: AbiBuffer,
    help: AbiBuffer,
    _removable: bool,
    _mutates: bool,
) -> bool {
    const NAME: CallbackName = CallbackName::RegisterAdminHandler;
    let (prefix, help) = (text(NAME, prefix), text(NAME, help));
    of_bootstrap(NAME, config, false, |bootstrap| {
        let is_new = bootstrap.admin_handlers.iter().all(|(known, _)| *known != prefix);
        if is_new {
            bootstrap.admin_handlers.push((prefix, help));
        }
        is_new
    })
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_bootstrap_extension_admin_set_response(
    config: *mut c_void,
    body: AbiBuffer,
) {
    const NAME: CallbackName = CallbackName::AdminSetResponse;
    let body = text(NAME, body).into_bytes();
    of_bootstrap(NAME, config, (), |bootstrap| bootstrap.admin_response = Some(body));
}

/// What a module calls when it has shut down. `context` is of no use: one process lives at a time, and only its main thread may call.
pub(crate) extern "C" fn shutdown_done(_context: *mut c_void) {
    let is_main = crate::role::look(|role| {
        role.process.shutdown_completions.fetch_add(1, Ordering::SeqCst);
        role.kind == ThreadKind::Main
    });
    if is_main != Some(true) {
        crate::role::stray("a shutdown was completed by another thread than the main thread".to_owned());
    }
}
