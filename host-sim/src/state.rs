//! Everything that lives in the wasmtime store: the VMs of a host and what they share.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use wasmtime::{Func, ResourceLimiter};

use crate::clock::{Clock, Schedule};
use crate::codes::{Callback, Status};
use crate::faults::Faults;
use crate::headers::HeaderMap;
use crate::http_call::{Clusters, HttpOutcome};
use crate::settings::Settings;
use crate::shared_data::{Consumer, SharedData, SharedQueues};
use crate::stats::{StatIds, Stats};
use crate::stream::{LocalReply, Side, Stream};
use crate::trace::{Crossings, Direction, LogLine, Record, Trace, VmName};

/// Context 0 of every VM is the VM itself (proxy-wasm-cpp-host `vm_context_`).
pub(crate) const VM_CONTEXT: u32 = 0;

/// What a context id stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContextKind {
    Vm,
    Root,
    Stream(u64),
}

/// What a host call leaves to be done when the callback has returned, so that the guest is never re-entered
/// (proxy-wasm-cpp-host `WasmBase::addAfterVmCallAction`).
#[derive(Clone, Debug)]
pub(crate) enum Deferred {
    Continue { stream_id: u64, side: Side },
    LocalReply { stream_id: u64, reply: LocalReply },
    Reset { stream_id: u64 },
}

/// What the virtual clock can bring.
#[derive(Clone, Debug)]
pub(crate) enum Due {
    Tick { vm: usize, generation: u32 },
    HttpCall { vm: usize, generation: u32, token: u32, outcome: HttpOutcome },
}

/// The response that a `proxy_on_http_call_response` callback is about.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallResponse {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
}

/// What the root context of a VM was configured with.
#[derive(Clone, Debug)]
pub(crate) struct Plugin {
    pub(crate) name: String,
    pub(crate) root_id: String,
    pub(crate) configuration: Vec<u8>,
}

/// One VM: an instance of the module with its contexts.
#[derive(Debug)]
pub(crate) struct Vm {
    pub(crate) name: VmName,
    pub(crate) generation: u32,
    pub(crate) plugin: Plugin,
    pub(crate) exports: BTreeMap<Callback, Func>,
    pub(crate) contexts: BTreeMap<u32, ContextKind>,
    pub(crate) next_context: u32,
    pub(crate) root: u32,
    /// Why the VM is dead, if it is.
    pub(crate) failed: Option<String>,
    /// A local reply was sent during this callback: whatever it returns means pause
    /// (`WasmBase::stopNextIteration`).
    pub(crate) stop_iteration: bool,
    /// The plugin configuration can be read (`temp_plugin_` is set).
    pub(crate) configuring: bool,
    pub(crate) deferred: VecDeque<Deferred>,
    pub(crate) stat_ids: StatIds,
    pub(crate) tick_period: Duration,
    pub(crate) next_call: u32,
    pub(crate) pending_calls: BTreeSet<u32>,
    pub(crate) call_response: Option<CallResponse>,
    pub(crate) call_status: (Status, &'static str),
    pub(crate) random: u64,
    pub(crate) crossings: Crossings,
    pub(crate) loaded_at: Duration,
}

/// The callback that is running.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) vm: usize,
    pub(crate) context: u32,
    /// Set by `proxy_set_effective_context`; 0 is none.
    pub(crate) effective: u32,
    pub(crate) callback: Callback,
    pub(crate) stream_id: Option<u64>,
    pub(crate) allocating: bool,
}

/// Memory limit and peak use, by VM.
#[derive(Debug)]
pub(crate) struct MemoryLimit {
    pub(crate) bytes: usize,
    pub(crate) vm: usize,
    pub(crate) peak: BTreeMap<usize, usize>,
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let granted = desired <= self.bytes;
        if granted {
            let peak = self.peak.entry(self.vm).or_default();
            *peak = desired.max(*peak);
        }
        Ok(granted)
    }

    fn table_growing(&mut self, _: usize, _: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(true)
    }
}

/// The store's data.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) settings: Settings,
    pub(crate) vms: Vec<Vm>,
    pub(crate) streams: BTreeMap<u64, Stream>,
    pub(crate) next_stream_id: u64,
    pub(crate) frame: Option<Frame>,
    pub(crate) clock: Clock,
    pub(crate) schedule: Schedule<Due>,
    /// Posted to another thread's event loop: runs after the present event.
    pub(crate) posted: VecDeque<(Consumer, u32)>,
    pub(crate) shared_data: SharedData,
    pub(crate) queues: SharedQueues,
    pub(crate) stats: Stats,
    pub(crate) clusters: Clusters,
    pub(crate) trace: Trace,
    pub(crate) faults: Faults,
    pub(crate) limit: MemoryLimit,
}

impl State {
    pub(crate) fn new(settings: Settings) -> Self {
        let clock = Clock::starting_at(settings.wall_start);
        let trace = Trace::recording(settings.record_trace);
        let limit = MemoryLimit { bytes: settings.memory_limit, vm: 0, peak: BTreeMap::new() };
        Self {
            settings,
            vms: Vec::new(),
            streams: BTreeMap::new(),
            next_stream_id: 1,
            frame: None,
            clock,
            schedule: Schedule::default(),
            posted: VecDeque::new(),
            shared_data: SharedData::default(),
            queues: SharedQueues::default(),
            stats: Stats::default(),
            clusters: Clusters::default(),
            trace,
            faults: Faults::default(),
            limit,
        }
    }

    pub(crate) fn vm(&self, vm: usize) -> Option<&Vm> {
        self.vms.get(vm)
    }

    pub(crate) fn vm_mut(&mut self, vm: usize) -> Option<&mut Vm> {
        self.vms.get_mut(vm)
    }

    pub(crate) fn stream(&self, stream_id: u64) -> Option<&Stream> {
        self.streams.get(&stream_id)
    }

    pub(crate) fn stream_mut(&mut self, stream_id: u64) -> Option<&mut Stream> {
        self.streams.get_mut(&stream_id)
    }

    pub(crate) const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// `NAME=value` with a NUL at the end, as WASI wants them.
    pub(crate) fn environment(&self) -> Vec<Vec<u8>> {
        self.settings.environment.iter().map(|(name, value)| format!("{name}={value}\0").into_bytes()).collect()
    }

    /// Random bytes of the running VM (splitmix64, Steele, Lea and Flood 2014), the same in every run.
    pub(crate) fn random(&mut self, size: u32) -> Vec<u8> {
        let Some(vm) = self.frame.map(|frame| frame.vm).and_then(|vm| self.vms.get_mut(vm)) else {
            return Vec::new();
        };
        let mut bytes = Vec::new();
        let size = usize::try_from(size).unwrap_or(0);
        while bytes.len() < size {
            bytes.extend_from_slice(&splitmix64(&mut vm.random).to_le_bytes());
        }
        bytes.truncate(size);
        bytes
    }

    pub(crate) const fn set_allocating(&mut self, allocating: bool) {
        if let Some(frame) = &mut self.frame {
            frame.allocating = allocating;
        }
    }

    /// Counts a crossing for the VM and for the stream of the running callback, and records it.
    pub(crate) fn crossed(
        &mut self,
        direction: Direction,
        name: &'static str,
        args: impl FnOnce() -> String,
        status: Option<Status>,
        injected: bool,
    ) -> usize {
        let Some(frame) = self.frame else { return 0 };
        let Some(vm) = self.vms.get_mut(frame.vm) else { return 0 };
        vm.crossings.add(direction, name, frame.callback);
        if let Some(stream) = frame.stream_id.and_then(|stream_id| self.streams.get_mut(&stream_id)) {
            stream.crossings.add(direction, name, frame.callback);
        }
        let args = if self.trace.is_recording() { args() } else { String::new() };
        self.trace.push(Record {
            at: self.clock.monotonic(),
            vm: vm.name,
            context: frame.context,
            stream_id: frame.stream_id,
            direction,
            name,
            during: Some(frame.callback),
            args,
            outcome: String::new(),
            status,
            injected,
            fuel: None,
        })
    }

    /// Counts what a callback of a VM, and of a stream where it is about one, has used.
    pub(crate) fn spent(&mut self, vm: usize, stream_id: Option<u64>, during: Callback, instructions: u64) {
        if let Some(vm) = self.vms.get_mut(vm) {
            vm.crossings.spend(during, instructions);
        }
        if let Some(stream) = stream_id.and_then(|stream_id| self.streams.get_mut(&stream_id)) {
            stream.crossings.spend(during, instructions);
        }
    }

    /// Records something the host did by itself.
    pub(crate) fn note(&mut self, stream_id: Option<u64>, vm: usize, name: &'static str, args: String) {
        let Some(vm_name) = self.vm(vm).map(|vm| vm.name) else { return };
        let context = stream_id.and_then(|id| self.stream(id)).map_or(VM_CONTEXT, Stream::context);
        self.trace.push(Record {
            at: self.clock.monotonic(),
            vm: vm_name,
            context,
            stream_id,
            direction: Direction::Note,
            name,
            during: self.frame.map(|frame| frame.callback),
            args,
            outcome: String::new(),
            status: None,
            injected: false,
            fuel: None,
        });
    }

    pub(crate) fn log(&mut self, level: u32, text: &[u8]) {
        let Some(vm) = self.frame.and_then(|frame| self.vm(frame.vm)).map(|vm| vm.name) else {
            return;
        };
        self.trace.log(LogLine {
            at: self.clock.monotonic(),
            vm,
            level,
            text: String::from_utf8_lossy(text).into_owned(),
        });
    }
}

fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
