//! Root contexts: one plugin instance in one virtual machine, configured to be the HTTP filter or the snapshot service.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use endpoint_picker::board::{Board, Post, RENEW_AFTER_MICROS, Roster, Version, key};
use endpoint_picker::{EndpointPicker, Plugin, Timestamp};
use prost::Message;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;
use snapshot::Snapshot;

use crate::host::{self, Buffer};
use crate::service::SnapshotService;
use crate::sink::Flusher;
use crate::stream::Stream;

/// While stats wait to be defined, ticks come this often: a new model's series are there within a second, for a tenth of one
/// worker's time at the worst.
const BUSY_TICK_MILLIS: u32 = 10;

/// A machine that has served nothing yet (Envoy's main thread runs one that never will) looks up only this often.
const UNUSED_TICK_MILLIS: u32 = 500;

/// A worker looks for news this often: half the age that a sidecar's poll has on average when it arrives, for two host calls.
const TICK_MILLIS: u32 = 50;

/// A picker that the root context and its streams share. One machine has one thread; borrows last for one callback.
pub(crate) type SharedPicker = Rc<RefCell<EndpointPicker>>;

/// A root context before and after it is configured.
#[derive(Default)]
pub(crate) enum Root {
    /// Not configured.
    #[default]
    New,
    /// The HTTP filter.
    Filter(Worker),
    /// The singleton service.
    Service(Box<SnapshotService>),
}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        let configuration = if size == 0 { Ok(Vec::new()) } else { host::buffer(Buffer::PluginConfiguration, 0, size) };
        let plugin = match configuration.map(|bytes| Plugin::parse(&bytes)) {
            Ok(Ok(plugin)) => plugin,
            Ok(Err(error)) => {
                log::error!("{error}");
                return false;
            }
            Err(refused) => {
                log::error!("the configuration cannot be read: {refused:?}");
                return false;
            }
        };
        let period = match &plugin {
            Plugin::Filter(_) => UNUSED_TICK_MILLIS,
            Plugin::SnapshotService(config) => u32::try_from(config.interval_ms).unwrap_or(TICK_MILLIS),
        };
        if let Err(refused) = host::set_tick_period(period) {
            log::error!("no ticks: {refused:?}");
            return false;
        }
        *self = match plugin {
            Plugin::Filter(config) => Self::Filter(Worker::new(EndpointPicker::new(config, host::random()))),
            Plugin::SnapshotService(config) => Self::Service(Box::new(SnapshotService::new(config))),
        };
        true
    }

    fn on_tick(&mut self) {
        match self {
            Self::New => {}
            Self::Filter(worker) => worker.tick(host::now()),
            Self::Service(service) => service.tick(host::now()),
        }
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        match self {
            Self::Filter(worker) => Some(Box::new(worker.stream())),
            // The service is no filter; in a filter chain by mistake, it lets everything pass.
            Self::New | Self::Service(_) => Some(Box::new(Idle)),
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

impl Context for Root {
    fn on_http_call_response(&mut self, _: u32, headers: usize, body_size: usize, _: usize) {
        if let Self::Service(service) = self {
            service.on_response(headers, body_size, host::now());
        }
    }

    fn on_done(&mut self) -> bool {
        if let Self::Filter(worker) = self {
            worker.flush_all();
        }
        true
    }
}

/// A stream that nobody looks at.
struct Idle;

impl Context for Idle {}
impl HttpContext for Idle {}

/// One worker of the HTTP filter.
pub(crate) struct Worker {
    picker: SharedPicker,
    seen: Cell<Version>,
    posted: Option<Post>,
    enrolled: bool,
    flusher: Flusher,
    pace: Cell<Pace>,
}

/// How often a worker ticks.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Pace {
    /// It has served nothing yet.
    Unused,
    /// It serves.
    Serving,
    /// It serves, and stats wait to be defined.
    Defining,
}

impl Pace {
    const fn millis(self) -> u32 {
        match self {
            Self::Unused => UNUSED_TICK_MILLIS,
            Self::Serving => TICK_MILLIS,
            Self::Defining => BUSY_TICK_MILLIS,
        }
    }
}

impl Worker {
    fn new(mut picker: EndpointPicker) -> Self {
        picker.ledger_mut().count(catalogue::Stat::VmStartsTotal, &[]);
        Self {
            picker: Rc::new(RefCell::new(picker)),
            seen: Cell::new(Version::default()),
            posted: None,
            enrolled: false,
            flusher: Flusher::default(),
            pace: Cell::new(Pace::Unused),
        }
    }

    /// Reads the news, posts this worker's own, and carries statistics to Envoy.
    fn tick(&mut self, now: Timestamp) {
        let picker = Rc::clone(&self.picker);
        let Ok(mut picker) = picker.try_borrow_mut() else { return };
        self.read_news(&mut picker);
        self.post(&picker, now);
        let interval_ms = picker.config().stats.flush_interval_ms;
        self.flusher.tick(picker.ledger_mut(), interval_ms, now);
        if self.pace.get() != Pace::Unused {
            self.keep_pace(if picker.ledger_mut().undefined() > 0 { Pace::Defining } else { Pace::Serving });
        }
    }

    fn stream(&self) -> Stream {
        if self.pace.get() == Pace::Unused {
            self.keep_pace(Pace::Serving);
            // It rested until now: what it knows may be old, or nothing.
            if let Ok(mut picker) = self.picker.try_borrow_mut() {
                self.read_news(&mut picker);
            }
        }
        Stream::new(Rc::clone(&self.picker))
    }

    fn keep_pace(&self, pace: Pace) {
        if pace != self.pace.get() && host::set_tick_period(pace.millis()).is_ok() {
            self.pace.set(pace);
        }
    }

    fn read_news(&self, picker: &mut EndpointPicker) {
        let Some((bytes, _)) = host::shared_data(key::VERSION) else { return };
        let Ok(version) = Version::decode(bytes.as_slice()) else { return };
        let seen = self.seen.get();
        if version == seen {
            return;
        }
        if version.snapshot != seen.snapshot {
            let snapshot = host::shared_data(key::SNAPSHOT).map(|(bytes, _)| Snapshot::decode(&bytes));
            // The service stored only what it could decode; anything else is left until the next version.
            let Some(Ok(snapshot)) = snapshot else { return };
            picker.install(&snapshot);
        }
        if version.board != seen.board
            && let Some(Ok(board)) = host::shared_data(key::BOARD).map(|(bytes, _)| Board::decode(bytes.as_slice()))
        {
            picker.take_board(&board);
        }
        if version.snapshot > 0 {
            picker.confirm(Timestamp::from_micros(version.confirmed_at_micros));
        }
        self.seen.set(version);
    }

    fn post(&mut self, picker: &EndpointPicker, now: Timestamp) {
        if self.pace.get() == Pace::Unused {
            return;
        }
        let post = picker.post(host::memory_bytes(), now);
        let unchanged = self.posted.as_ref().is_some_and(|posted| {
            posted.says_the_same(&post)
                && now.micros_since(Timestamp::from_micros(posted.written_at_micros)) < RENEW_AFTER_MICROS
        });
        if unchanged {
            return;
        }
        if host::set_shared_data(&key::post(post.worker), &post.encode_to_vec(), 0).is_ok() {
            self.enrolled = self.enrolled || enroll(post.worker);
            self.posted = Some(post);
        }
    }

    /// The last chance to carry statistics to Envoy: the configuration was replaced or the server stops.
    fn flush_all(&mut self) {
        if let Ok(mut picker) = self.picker.try_borrow_mut() {
            let now = host::now();
            // Time is no concern any more, so as many slices as it takes.
            for _ in 0..1_000 {
                self.flusher.tick(picker.ledger_mut(), 0, now);
                if picker.ledger_mut().undefined() == 0 {
                    break;
                }
            }
        }
    }
}

/// Adds a worker to the roster. False: others were faster for several tries; the next tick tries again.
fn enroll(worker: u64) -> bool {
    const TRIES: usize = 8;
    for _ in 0..TRIES {
        let (mut roster, cas) = match host::shared_data(key::ROSTER) {
            Some((bytes, cas)) => (Roster::decode(bytes.as_slice()).unwrap_or_default(), cas),
            None => (Roster::default(), 0),
        };
        if roster.workers.contains(&worker) {
            return true;
        }
        roster.workers.push(worker);
        match host::set_shared_data(key::ROSTER, &roster.encode_to_vec(), cas) {
            Ok(()) => return true,
            Err(host::CAS_MISMATCH) => {}
            Err(refused) => {
                log::warn!("the roster cannot be written: {refused:?}");
                return false;
            }
        }
    }
    false
}
