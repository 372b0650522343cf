//! Callbacks that are told to refuse, and how often each was called.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

macro_rules! callbacks {
    ($($variant:ident = $name:literal,)*) => {
        /// A callback that the module may call, without its prefix `envoy_dynamic_module_callback_`.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[expect(missing_docs, reason = "the names are the ABI's")]
        pub enum CallbackName {
            $($variant,)*
        }

        impl CallbackName {
            /// All of them.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// Its name without the prefix.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

callbacks! {
    Log = "log_v2",
    LogEnabled = "log_enabled",
    IsValidationMode = "is_validation_mode",
    Concurrency = "get_concurrency",
    GetHeader = "http_get_header",
    SetHeader = "http_set_header",
    AddHeader = "http_add_header",
    SendResponse = "http_send_response",
    BodySize = "http_get_body_size",
    BodyChunksSize = "http_get_body_chunks_size",
    BodyChunks = "http_get_body_chunks",
    AppendBody = "http_append_body",
    DrainBody = "http_drain_body",
    ReceivedBufferedRequestBody = "http_received_buffered_request_body",
    ReceivedBufferedResponseBody = "http_received_buffered_response_body",
    SetBufferLimit = "http_set_buffer_limit",
    SetMetadataString = "http_set_dynamic_metadata_string",
    SetMetadataStruct = "http_set_dynamic_metadata_struct",
    GetMetadataString = "http_get_metadata_string",
    MetadataListSize = "http_get_metadata_list_size",
    MetadataListString = "http_get_metadata_list_string",
    AttributeString = "http_filter_get_attribute_string",
    AttributeInt = "http_filter_get_attribute_int",
    AttemptedHostsSize = "http_get_upstream_hosts_attempted_size",
    AttemptedHosts = "http_get_upstream_hosts_attempted",
    WorkerIndex = "http_filter_get_worker_index",
    ContinueDecoding = "http_filter_continue_decoding",
    SchedulerNew = "http_filter_scheduler_new",
    SchedulerCommit = "http_filter_scheduler_commit",
    SchedulerDelete = "http_filter_scheduler_delete",
    FilterDefineCounter = "http_filter_config_define_counter",
    FilterDefineGauge = "http_filter_config_define_gauge",
    FilterConfigIncrementCounter = "http_filter_config_increment_counter",
    FilterConfigSetGauge = "http_filter_config_set_gauge",
    FilterIncrementCounter = "http_filter_increment_counter",
    FilterSetGauge = "http_filter_set_gauge",
    SignalInitComplete = "bootstrap_extension_config_signal_init_complete",
    TimerNew = "bootstrap_extension_timer_new",
    TimerEnable = "bootstrap_extension_timer_enable",
    TimerDelete = "bootstrap_extension_timer_delete",
    HttpCallout = "bootstrap_extension_http_callout",
    RegisterAdminHandler = "bootstrap_extension_register_admin_handler",
    AdminSetResponse = "bootstrap_extension_admin_set_response",
    DefineCounter = "bootstrap_extension_config_define_counter",
    DefineGauge = "bootstrap_extension_config_define_gauge",
    IncrementCounter = "bootstrap_extension_config_increment_counter",
    SetGauge = "bootstrap_extension_config_set_gauge",
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Times {
    /// The call with this number from now on, counted from 0.
    Nth(u64),
    Always,
}

/// A callback that answers as Envoy does when it cannot: `false`, 0, null, a result other than 0, nothing done. By default the next
/// call does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub struct Refusal {
    callback: CallbackName,
    times: Times,
    seen: u64,
}

impl Refusal {
    /// The next call.
    pub const fn of(callback: CallbackName) -> Self {
        Self { callback, times: Times::Nth(0), seen: 0 }
    }

    /// Every call from now on.
    pub const fn always(mut self) -> Self {
        self.times = Times::Always;
        self
    }

    /// The call with this number from now on, counted from 0.
    pub const fn nth(mut self, number: u64) -> Self {
        self.times = Times::Nth(number);
        self
    }
}

/// Those in force. What is not used costs a call one relaxed load: a lock would order what threads do, and hide races of the module.
#[derive(Debug)]
pub(crate) struct Refusals {
    any: AtomicBool,
    list: Mutex<Vec<Refusal>>,
    calls: [AtomicU64; CallbackName::ALL.len()],
}

impl Default for Refusals {
    fn default() -> Self {
        Self {
            any: AtomicBool::new(false),
            list: Mutex::default(),
            calls: [const { AtomicU64::new(0) }; CallbackName::ALL.len()],
        }
    }
}

impl Refusals {
    pub(crate) fn add(&self, refusal: Refusal) {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).push(refusal);
        self.any.store(true, Ordering::Relaxed);
    }

    pub(crate) fn clear(&self) {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.any.store(false, Ordering::Relaxed);
    }

    pub(crate) fn calls(&self, callback: CallbackName) -> u64 {
        self.calls.get(callback as usize).map_or(0, |calls| calls.load(Ordering::Relaxed))
    }

    /// Counts a call; whether it is to be refused.
    pub(crate) fn strike(&self, callback: CallbackName) -> bool {
        if let Some(calls) = self.calls.get(callback as usize) {
            calls.fetch_add(1, Ordering::Relaxed);
        }
        if !self.any.load(Ordering::Relaxed) {
            return false;
        }
        let mut is_refused = false;
        self.list.lock().unwrap_or_else(PoisonError::into_inner).retain_mut(|refusal| {
            if refusal.callback != callback {
                return true;
            }
            let number = refusal.seen;
            refusal.seen += 1;
            let strikes = refusal.times == Times::Always || refusal.times == Times::Nth(number);
            is_refused |= strikes;
            !strikes || refusal.times == Times::Always
        });
        is_refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_strikes_its_own_call_only() {
        let refusals = Refusals::default();
        refusals.add(Refusal::of(CallbackName::GetHeader).nth(1));
        let struck: Vec<bool> = (0..3).map(|_| refusals.strike(CallbackName::GetHeader)).collect();
        assert_eq!(struck, [false, true, false]);
        refusals.add(Refusal::of(CallbackName::Log).always());
        assert!(!refusals.strike(CallbackName::GetHeader));
        assert!(refusals.strike(CallbackName::Log) && refusals.strike(CallbackName::Log));
        refusals.clear();
        assert!(!refusals.strike(CallbackName::Log));
        assert_eq!(refusals.calls(CallbackName::Log), 3);
    }

    #[test]
    fn no_name_is_there_twice() {
        let names: std::collections::BTreeSet<&str> =
            CallbackName::ALL.iter().map(|callback| callback.name()).collect();
        assert_eq!(names.len(), CallbackName::ALL.len());
    }
}
