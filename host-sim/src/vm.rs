//! Starting VMs and calling into them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use wasmtime::{Func, Store, Val};

use crate::codes::{Callback, Status};
use crate::error::Error;
use crate::http_call::{HttpOutcome, OutcomeKind};
use crate::module::CompiledModule;
use crate::settings::Settings;
use crate::state::{CallResponse, ContextKind, Deferred, Due, Frame, Plugin, State, VM_CONTEXT, Vm};
use crate::stats::StatIds;
use crate::stream::StreamEnd;
use crate::trace::{Crossings, Direction, VmName};

/// The first id after the VM's own context (proxy-wasm-cpp-host `next_context_id_`).
const FIRST_CONTEXT: u32 = 1;

/// What a callback returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallbackReturn {
    Value(u32),
    /// The guest does not export this callback.
    Absent,
    /// The VM is dead, before the call or by it.
    Failed,
}

/// A host with all its VMs in one store.
pub(crate) struct Core {
    pub(crate) store: Store<State>,
    compiled: CompiledModule,
}

impl Core {
    pub(crate) fn new(compiled: CompiledModule, settings: Settings) -> Self {
        let mut store = Store::new(compiled.engine(), State::new(settings));
        store.limiter(|state| &mut state.limit);
        Self { store, compiled }
    }

    pub(crate) fn state(&self) -> &State {
        self.store.data()
    }

    pub(crate) fn state_mut(&mut self) -> &mut State {
        self.store.data_mut()
    }

    /// Starts the canary, the service and the workers, in Envoy's order: the main thread's VMs first.
    pub(crate) fn start(&mut self) -> Result<(), Error> {
        let settings = self.state().settings.clone();
        let plugin = Plugin {
            name: settings.plugin_name.clone(),
            root_id: settings.root_id.clone(),
            configuration: settings.plugin_configuration.clone(),
        };
        if settings.canary {
            let canary = self.add_vm(VmName::Canary, plugin.clone())?;
            self.retire(canary);
        }
        if let Some(configuration) = settings.service_configuration {
            let service = Plugin {
                root_id: settings.service_root_id.unwrap_or_else(|| plugin.root_id.clone()),
                configuration,
                ..plugin.clone()
            };
            self.add_vm(VmName::Service, service)?;
        }
        for worker in 0..settings.workers {
            self.add_vm(VmName::Worker(worker), plugin.clone())?;
        }
        self.settle();
        Ok(())
    }

    fn add_vm(&mut self, name: VmName, plugin: Plugin) -> Result<usize, Error> {
        let state = self.state_mut();
        let index = state.vms.len();
        let loaded_at = state.clock.monotonic();
        let seed = state.settings.seed.wrapping_add(u64::try_from(index).unwrap_or(0));
        state.vms.push(Vm {
            name,
            generation: 0,
            plugin,
            exports: BTreeMap::new(),
            contexts: BTreeMap::from([(VM_CONTEXT, ContextKind::Vm)]),
            next_context: FIRST_CONTEXT,
            root: 0,
            failed: None,
            stop_iteration: false,
            configuring: false,
            deferred: VecDeque::new(),
            stat_ids: StatIds::default(),
            tick_period: Duration::ZERO,
            next_call: 1,
            pending_calls: BTreeSet::new(),
            call_response: None,
            call_status: (Status::Ok, ""),
            random: seed,
            crossings: Crossings::default(),
            loaded_at,
        });
        self.load(index)?;
        Ok(index)
    }

    /// Throws a VM away, as Envoy does with the canary: timers off, calls cancelled.
    fn retire(&mut self, index: usize) {
        let state = self.state_mut();
        state.schedule.disarm(|due| belongs_to(due, index));
        if let Some(vm) = state.vm_mut(index) {
            vm.failed = Some("it was only a canary".to_owned());
        }
    }

    /// A new instance of the module in place of a failed one, with nothing of the old one left.
    pub(crate) fn reload(&mut self, index: usize) -> Result<(), Error> {
        let state = self.state_mut();
        let now = state.clock.monotonic();
        state.schedule.disarm(|due| belongs_to(due, index));
        if let Some(vm) = state.vm_mut(index) {
            vm.generation += 1;
            vm.exports.clear();
            vm.contexts = BTreeMap::from([(VM_CONTEXT, ContextKind::Vm)]);
            vm.next_context = FIRST_CONTEXT;
            vm.failed = None;
            vm.deferred.clear();
            vm.stat_ids = StatIds::default();
            vm.tick_period = Duration::ZERO;
            vm.pending_calls.clear();
            vm.call_response = None;
            vm.loaded_at = now;
        }
        self.load(index)
    }

    /// Instantiates, runs `_initialize`, makes the root context, and configures (proxy-wasm-cpp-host
    /// `WasmBase::initialize`, `ContextBase::onStart`, `ContextBase::onConfigure`).
    fn load(&mut self, index: usize) -> Result<(), Error> {
        self.instantiate(index)?;
        let (root, vm_bytes, plugin_bytes) = {
            let state = self.state_mut();
            let vm_bytes = state.settings.vm_configuration.len();
            let Some(vm) = state.vm_mut(index) else { return Ok(()) };
            let root = vm.next_context;
            vm.next_context += 1;
            vm.root = root;
            vm.contexts.insert(root, ContextKind::Root);
            vm.configuring = true;
            (root, vm_bytes, vm.plugin.configuration.len())
        };
        let created = self.call(index, root, Callback::ContextCreate, &[root, VM_CONTEXT]);
        self.set_configuring(index, false);
        self.run_deferred(index);
        self.require(index, Callback::ContextCreate, created)?;
        let started = self.call(index, root, Callback::VmStart, &[root, word(vm_bytes)]);
        self.run_deferred(index);
        self.require(index, Callback::VmStart, started)?;
        self.set_configuring(index, true);
        let configured = self.call(index, root, Callback::Configure, &[root, word(plugin_bytes)]);
        self.set_configuring(index, false);
        self.run_deferred(index);
        self.require(index, Callback::Configure, configured)
    }

    fn set_configuring(&mut self, index: usize, configuring: bool) {
        if let Some(vm) = self.state_mut().vm_mut(index) {
            vm.configuring = configuring;
        }
    }

    fn instantiate(&mut self, index: usize) -> Result<(), Error> {
        let fuel = self.state().settings.fuel_limit;
        let vm = self.vm_label(index);
        let failed = |error: wasmtime::Error| Error::Start { vm: vm.clone(), message: format!("{error:#}") };
        self.store.set_fuel(fuel).map_err(failed)?;
        let state = self.state_mut();
        state.limit.vm = index;
        state.frame = Some(Frame {
            vm: index,
            context: VM_CONTEXT,
            effective: 0,
            callback: Callback::Initialize,
            stream_id: None,
            allocating: false,
        });
        let instance = self.compiled.linker().instantiate(&mut self.store, self.compiled.module());
        self.state_mut().frame = None;
        let instance = instance.map_err(failed)?;
        let mut exports = BTreeMap::new();
        for callback in Callback::ALL {
            if let Some(export) = instance.get_func(&mut self.store, callback.name()) {
                exports.insert(*callback, export);
            }
        }
        if let Some(start) = instance.get_func(&mut self.store, "_start") {
            exports.entry(Callback::Initialize).or_insert(start);
        }
        if let Some(vm) = self.state_mut().vm_mut(index) {
            vm.exports = exports;
        }
        match self.call(index, VM_CONTEXT, Callback::Initialize, &[]) {
            CallbackReturn::Failed => Err(Error::Start { vm, message: self.failure(index) }),
            CallbackReturn::Value(_) | CallbackReturn::Absent => Ok(()),
        }
    }

    /// A callback of the start that returned false or trapped refuses the configuration; one that the guest
    /// does not export, or that returns nothing, does not.
    fn require(&mut self, index: usize, callback: Callback, returned: CallbackReturn) -> Result<(), Error> {
        let refusal = match returned {
            CallbackReturn::Failed => self.failure(index),
            CallbackReturn::Value(0) if callback != Callback::ContextCreate => "it returned false".to_owned(),
            CallbackReturn::Value(_) | CallbackReturn::Absent => return Ok(()),
        };
        let last_words = self.state().trace.logs().last().map(|line| line.text.clone());
        if let Some(vm) = self.state_mut().vm_mut(index) {
            vm.failed.get_or_insert_with(|| refusal.clone());
        }
        Err(Error::Refused {
            vm: self.vm_label(index),
            callback: callback.name(),
            message: last_words.map_or(refusal.clone(), |words| format!("{refusal}; last log line: {words}")),
        })
    }

    fn vm_label(&self, index: usize) -> String {
        self.state().vm(index).map_or_else(String::new, |vm| vm.name.to_string())
    }

    fn failure(&self, index: usize) -> String {
        self.state().vm(index).and_then(|vm| vm.failed.clone()).unwrap_or_default()
    }

    /// Calls an export. What it deferred is left for [`Core::run_deferred`].
    pub(crate) fn call(&mut self, index: usize, context: u32, callback: Callback, args: &[u32]) -> CallbackReturn {
        let state = self.store.data_mut();
        let fuel_limit = state.settings.fuel_limit;
        let Some(vm) = state.vms.get(index).filter(|vm| vm.failed.is_none()) else {
            return CallbackReturn::Failed;
        };
        let Some(export) = vm.exports.get(&callback).copied() else {
            return CallbackReturn::Absent;
        };
        let stream_id = match vm.contexts.get(&context) {
            Some(ContextKind::Stream(stream_id)) => Some(*stream_id),
            Some(ContextKind::Vm | ContextKind::Root) | None => None,
        };
        let outer =
            state.frame.replace(Frame { vm: index, context, effective: 0, callback, stream_id, allocating: false });
        state.limit.vm = index;
        let record = state.crossed(
            Direction::HostToGuest,
            callback.name(),
            || args.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            None,
            false,
        );
        let called = self.call_export(export, args, fuel_limit);
        let left = self.store.get_fuel().unwrap_or(0);
        let state = self.store.data_mut();
        state.frame = outer;
        let used = fuel_limit.saturating_sub(left);
        state.spent(index, stream_id, callback, used);
        match called {
            Ok(value) => {
                let outcome = value.map_or_else(String::new, |value| shown_return(callback, value));
                state.trace.complete(record, callback.name(), &outcome, used);
                CallbackReturn::Value(value.unwrap_or(0))
            }
            Err(trap) => {
                let reason = format!("{trap:#}");
                state.trace.complete(record, callback.name(), &format!("trap: {reason}"), used);
                if let Some(vm) = state.vms.get_mut(index) {
                    vm.failed = Some(reason);
                }
                CallbackReturn::Failed
            }
        }
    }

    fn call_export(&mut self, export: Func, args: &[u32], fuel: u64) -> wasmtime::Result<Option<u32>> {
        self.store.set_fuel(fuel)?;
        let args: Vec<Val> = args.iter().map(|arg| Val::I32(arg.cast_signed())).collect();
        let mut returned = vec![Val::I32(0); export.ty(&self.store).results().len()];
        export.call(&mut self.store, &args, &mut returned)?;
        Ok(match returned.first() {
            Some(Val::I32(value)) => Some(value.cast_unsigned()),
            _ => None,
        })
    }

    /// Does what host calls of a finished callback have left to do
    /// (proxy-wasm-cpp-host `DeferAfterCallActions`).
    pub(crate) fn run_deferred(&mut self, index: usize) {
        if let Some(vm) = self.state_mut().vm_mut(index) {
            vm.stop_iteration = false;
        }
        while let Some(action) = self.state_mut().vm_mut(index).and_then(|vm| vm.deferred.pop_front()) {
            match action {
                Deferred::Continue { stream_id, side } => self.continue_side(stream_id, side),
                Deferred::LocalReply { stream_id, reply } => {
                    // Of several replies in one callback the first is sent (seen on Envoy 1.40.0: scenario
                    // `two_replies_in_one_callback`).
                    if let Some(vm) = self.state_mut().vm_mut(index) {
                        vm.deferred.retain(
                            |other| !matches!(other, Deferred::LocalReply { stream_id: of, .. } if *of == stream_id),
                        );
                    }
                    self.send_local_reply(stream_id, reply);
                }
                Deferred::Reset { stream_id } => self.finish(stream_id, StreamEnd::LocalReset),
            }
        }
    }

    /// Moves the clock, firing what falls due on the way, in order.
    pub(crate) fn advance_to(&mut self, then: Duration) {
        while let Some((at, due)) = self.state_mut().schedule.pop_until(then) {
            self.state_mut().clock.advance_to(at);
            match due {
                Due::Tick { vm, generation } => self.tick(vm, generation),
                Due::HttpCall { vm, generation, token, outcome } => {
                    self.deliver_response(vm, generation, token, outcome);
                }
            }
            self.settle();
        }
        self.state_mut().clock.advance_to(then);
    }

    /// One tick; the timer is armed again only after the handler, so a period is the time between the end of
    /// one tick and the next (Envoy `Wasm::tickHandler`).
    fn tick(&mut self, index: usize, generation: u32) {
        let Some(vm) = self.state().vm(index).filter(|vm| vm.generation == generation) else {
            return;
        };
        let root = vm.root;
        self.call(index, root, Callback::Tick, &[root]);
        self.run_deferred(index);
        let state = self.state_mut();
        let now = state.clock.monotonic();
        let Some(vm) = state.vms.get(index) else { return };
        let period = vm.tick_period;
        state.schedule.disarm(|due| matches!(due, Due::Tick { vm, .. } if *vm == index));
        if !period.is_zero() && vm.failed.is_none() {
            state.schedule.arm(now.saturating_add(period), Due::Tick { vm: index, generation });
        }
    }

    fn deliver_response(&mut self, index: usize, generation: u32, token: u32, outcome: HttpOutcome) {
        let Some(vm) = self.state_mut().vm_mut(index) else { return };
        if vm.generation != generation || !vm.pending_calls.remove(&token) {
            return;
        }
        let root = vm.root;
        let counts = match outcome.kind {
            OutcomeKind::Response { headers, body, trailers } => {
                let counts = [word(headers.len()), word(body.len()), word(trailers.len())];
                vm.call_response = Some(CallResponse { headers, body, trailers });
                vm.call_status = (Status::Ok, "");
                counts
            }
            OutcomeKind::Failure | OutcomeKind::Silence | OutcomeKind::Refused => {
                vm.call_status = (Status::BrokenConnection, "reset");
                [0, 0, 0]
            }
        };
        let [headers, body, trailers] = counts;
        self.call(index, root, Callback::HttpCallResponse, &[root, token, headers, body, trailers]);
        if let Some(vm) = self.state_mut().vm_mut(index) {
            vm.call_response = None;
            vm.call_status = (vm.call_status.0, "");
        }
        self.run_deferred(index);
    }

    /// Wakes the consumers of queues, as their threads' event loops would after the present event.
    pub(crate) fn settle(&mut self) {
        while let Some((consumer, token)) = self.state_mut().posted.pop_front() {
            let known = self.state().vm(consumer.vm).is_some_and(|vm| vm.contexts.contains_key(&consumer.context));
            if known {
                self.call(consumer.vm, consumer.context, Callback::QueueReady, &[consumer.context, token]);
                self.run_deferred(consumer.vm);
            }
        }
    }
}

fn belongs_to(due: &Due, index: usize) -> bool {
    match due {
        Due::Tick { vm, .. } | Due::HttpCall { vm, .. } => *vm == index,
    }
}

pub(crate) fn word(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn shown_return(callback: Callback, value: u32) -> String {
    let paused = match callback {
        Callback::RequestHeaders
        | Callback::RequestBody
        | Callback::RequestTrailers
        | Callback::ResponseHeaders
        | Callback::ResponseBody
        | Callback::ResponseTrailers => value,
        _ => return value.to_string(),
    };
    match paused {
        0 => "Continue".to_owned(),
        1 => "Pause".to_owned(),
        other => format!("action {other}"),
    }
}
