//! Which context a callback is about: the plugin instances of a virtual machine and the streams under way.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

use catalogue::Stat;
use endpoint_picker::filter_time::{Phase, Sampler};

use crate::abi::Action;
use crate::host;
use crate::picker::SharedPicker;
use crate::plugin::Root;
use crate::stream::Stream;
use crate::waiting;

/// Streams that are over and whose memory is kept for the next ones, at most: what one worker has under way at a usual load.
const MAX_SPARE: usize = 64;

/// All contexts of one virtual machine. Callbacks about a context that it does not know change nothing.
pub(crate) struct Dispatcher {
    /// Few: those plugins that name the same `vm_id`.
    roots: Vec<(u32, Root)>,
    timed: Sampler,
    streams: HashMap<u32, Box<Stream>, BuildHasherDefault<ContextHasher>>,
    #[allow(clippy::vec_box, reason = "streams move between the map and the spare ones: a pointer, not a kilobyte")]
    spare: Vec<Box<Stream>>,
    /// A filter was configured: what comes after it in the same machine is another configuration, and no start.
    is_started: bool,
}

impl Dispatcher {
    pub(crate) const fn new() -> Self {
        let streams = HashMap::with_hasher(BuildHasherDefault::new());
        Self { roots: Vec::new(), timed: Sampler::new(), streams, spare: Vec::new(), is_started: false }
    }

    /// A context begins: a plugin instance (`parent` 0) or a stream of the instance `parent`.
    pub(crate) fn create(&mut self, context: u32, parent: u32) {
        if parent == 0 {
            self.roots.push((context, Root::default()));
        } else if let Some(picker) = self.root(parent).and_then(Root::stream_came) {
            let mut stream = self.stream_of(picker);
            stream.time(self.timed.begin());
            self.streams.insert(context, stream);
        }
    }

    /// Reads the configuration of a plugin instance, of so many bytes. False refuses it.
    pub(crate) fn configure(&mut self, context: u32, size: usize) -> bool {
        let Some(root) = self.root(context) else { return false };
        let is_configured = root.configure(size);
        let picker = root.picker();
        if !self.is_started
            && let Some(picker) = picker
            && let Ok(mut picker) = picker.try_borrow_mut()
        {
            self.is_started = true;
            picker.telemetry_mut().ledger_mut().count(Stat::VmStartsTotal, &[]);
        }
        is_configured
    }

    /// Runs what a plugin instance does between requests.
    pub(crate) fn tick(&mut self, context: u32) {
        let Some(root) = self.root(context) else { return };
        root.tick();
        if let Some(picker) = root.picker() {
            self.wake(&picker);
        }
    }

    /// Hands on the answer to a call of a plugin instance.
    pub(crate) fn call_answered(&mut self, context: u32, headers: usize, body_size: usize) {
        if let Some(root) = self.root(context) {
            root.call_answered(headers, body_size);
        }
    }

    /// Runs one callback of a stream. One that is not known, because its plugin is no filter, passes.
    pub(crate) fn stream(
        &mut self,
        context: u32,
        phase: Phase,
        callback: impl FnOnce(&mut Stream) -> Action,
    ) -> Action {
        let Some(stream) = self.streams.get_mut(&context) else { return Action::Continue };
        let began = stream.is_timed().then(host::now);
        let action = callback(stream);
        stream.tell();
        if let Some(number) = stream.parked() {
            waiting::add(stream.picker(), number, context);
        }
        if let Some(began) = began {
            stream.took(phase, host::now().micros_since(began));
        }
        action
    }

    /// A stream is over: settles it while what it was can still be logged.
    pub(crate) fn finish(&mut self, context: u32) {
        if let Some(stream) = self.streams.get_mut(&context) {
            stream.end();
            stream.tell();
        }
    }

    /// A context is over: settles a stream, whichever way it ended, and lets a plugin instance do what is left.
    pub(crate) fn end(&mut self, context: u32) {
        if let Some(mut stream) = self.streams.remove(&context) {
            stream.end();
            let picker = Rc::clone(stream.picker());
            if let Some(number) = stream.parked() {
                waiting::remove(&picker, number);
            }
            if self.spare.len() < MAX_SPARE {
                stream.clear();
                self.spare.push(stream);
            }
            // Not earlier: while the stream is logged, nobody can be answered.
            self.wake(&picker);
        } else if let Some(place) = self.roots.iter().position(|(id, _)| *id == context) {
            let (_, mut root) = self.roots.swap_remove(place);
            root.finish();
            // They hold on to its picker.
            self.spare.clear();
        }
    }

    /// Lets requests go on that waited and need not any more.
    fn wake(&mut self, picker: &SharedPicker) {
        loop {
            let Ok(mut borrowed) = picker.try_borrow_mut() else { return };
            if borrowed.flow_control().is_none_or(|flow_control| flow_control.requests() == 0) {
                return;
            }
            let before = host::now();
            let woken = borrowed.poll_wake(before);
            borrowed.record_dispatch_cycle(host::now().micros_since(before));
            let Some(number) = woken else { return };
            drop(borrowed);
            let Some(context) = waiting::remove(picker, number) else { continue };
            let Some(stream) = self.streams.get_mut(&context) else { continue };
            match host::turn_to(context) {
                Ok(()) => {
                    stream.resume();
                    stream.tell();
                }
                Err(refused) => log::warn!("a request that waited is not known any more: {refused:?}"),
            }
        }
    }

    fn root(&mut self, context: u32) -> Option<&mut Root> {
        self.roots.iter_mut().find(|(id, _)| *id == context).map(|(_, root)| root)
    }

    fn stream_of(&mut self, picker: SharedPicker) -> Box<Stream> {
        match self.spare.pop() {
            Some(mut stream) => {
                stream.begin(picker);
                stream
            }
            None => Box::new(Stream::new(picker)),
        }
    }
}

/// Contexts are numbered one after another by the host, so spreading the number over the word is all that a table needs.
#[derive(Default)]
struct ContextHasher(u64);

impl Hasher for ContextHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        /// 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming, volume 3, section 6.4).
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(SPREAD);
    }
}
