//! Root contexts: one plugin instance in one virtual machine, configured to be the HTTP filter or the singleton snapshot service.

use std::cell::RefCell;
use std::rc::Rc;

use endpoint_picker::holder::{BUILD, Binding, Holder};
use endpoint_picker::lease::Rank;
use endpoint_picker::worker::{UNUSED_TICK_MILLIS, Worker};
use endpoint_picker::{EndpointPicker, Plugin};
use endpoint_picker_config::Reading;

use crate::abi::Buffer;
use crate::envoy::{Envoy, with_response};
use crate::filter_state;
use crate::host::{self, Returned};
use crate::picker::SharedPicker;
use crate::waiting;

/// A root context before and after it is configured.
#[derive(Default)]
pub(crate) enum Root {
    /// Not configured.
    #[default]
    New,
    /// The HTTP filter.
    Filter(Box<Filter>),
    /// The singleton service.
    Service(Box<Holder>),
}

/// One instance of the HTTP filter.
pub(crate) struct Filter {
    picker: SharedPicker,
    worker: RefCell<Worker>,
}

impl Filter {
    /// Runs one step of the worker; a step within another one cannot happen.
    fn step(&self, step: impl FnOnce(&mut Worker, &mut EndpointPicker)) {
        if let (Ok(mut worker), Ok(mut picker)) = (self.worker.try_borrow_mut(), self.picker.try_borrow_mut()) {
            step(&mut worker, &mut picker);
        }
    }
}

impl Root {
    /// Reads the configuration, of so many bytes. False refuses it.
    pub(crate) fn configure(&mut self, size: usize) -> bool {
        let configuration =
            if size == 0 { Ok(Returned::default()) } else { host::buffer(Buffer::PluginConfiguration, 0, size) };
        let plugin = match configuration.map(|bytes| endpoint_picker_config::parse_for_wasm(&bytes)) {
            Ok(Ok(Reading { plugin, notes })) => {
                for note in notes {
                    log::warn!("plugin configuration: {note}");
                }
                plugin
            }
            Ok(Err(error)) => {
                log::error!("{error}");
                return false;
            }
            Err(refused) => {
                log::error!("the configuration cannot be read: {refused:?}");
                return false;
            }
        };
        let period_millis;
        (*self, period_millis) = match plugin {
            Plugin::Filter(config) => {
                if config.rules.access_log
                    && let Err(refused) = filter_state::declare()
                {
                    log::warn!("the access log will show bytes: {refused:?}");
                }
                if config.flow_control.is_some() {
                    waiting::begin();
                }
                let picker = EndpointPicker::new(config, host::random());
                let worker = RefCell::new(Worker::new(host::random(), &picker, BUILD));
                let filter = Filter { picker: Rc::new(RefCell::new(picker)), worker };
                (Self::Filter(Box::new(filter)), UNUSED_TICK_MILLIS)
            }
            Plugin::SnapshotService(config) => {
                let holder = Holder::new(host::random(), config, BUILD);
                let period_millis = holder.period_millis();
                (Self::Service(Box::new(holder)), period_millis)
            }
        };
        Envoy.set_tick_period(period_millis)
    }

    /// Runs what is due between requests.
    pub(crate) fn tick(&mut self) {
        match self {
            Self::New => {}
            Self::Filter(filter) => filter.step(|worker, picker| worker.tick(picker, &mut Envoy)),
            Self::Service(holder) => {
                #[cfg(feature = "fault-injection")]
                crate::fault::trap_if_asked_for();
                let before = holder.period_millis();
                holder.tick(&mut Envoy, Rank::Singleton, host::now());
                let period_millis = holder.period_millis();
                if period_millis != before {
                    // A refusal is logged there; ticks then come as before.
                    Envoy.set_tick_period(period_millis);
                }
            }
        }
    }

    /// What streams are picked with; `None`: this is no filter.
    pub(crate) fn picker(&self) -> Option<SharedPicker> {
        match self {
            Self::Filter(filter) => Some(Rc::clone(&filter.picker)),
            Self::New | Self::Service(_) => None,
        }
    }

    /// A stream begins. Gives what it is to be picked with; `None`: the service is no filter, and in a filter chain by mistake it lets
    /// everything pass.
    pub(crate) fn stream_came(&mut self) -> Option<SharedPicker> {
        match self {
            Self::Filter(filter) => {
                filter.step(|worker, picker| worker.request_came(picker, &mut Envoy));
                Some(Rc::clone(&filter.picker))
            }
            Self::New | Self::Service(_) => None,
        }
    }

    /// The sidecar answered, or did not (no headers).
    pub(crate) fn call_answered(&mut self, headers: usize, body_size: usize) {
        with_response(headers, body_size, |response| match self {
            Self::New => {}
            Self::Filter(filter) => filter.step(|worker, _| worker.handle_response(&mut Envoy, response)),
            Self::Service(holder) => holder.handle_response(&mut Envoy, response, host::now()),
        });
    }

    /// The configuration was replaced, or the server stops.
    pub(crate) fn finish(&mut self) {
        match self {
            Self::New => {}
            Self::Filter(filter) => filter.step(|worker, picker| worker.finish(picker, &mut Envoy)),
            Self::Service(holder) => holder.finish(&mut Envoy),
        }
    }
}
