//! The tasks behind the live page: one keeps the history and tells whoever watches what is new each second, one reads Envoy's page for them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::MissedTickBehavior;

use super::document::{Document, past};
use super::figures::{Figures, Readings, Source};
use super::history::History;
use crate::audience::Pick;
use crate::config::Admin;
use crate::scrape::{Buffers, Client, GetError};
use crate::shared::{Shared, admin_client, lock, wall_ms};

/// Time between events: as often as Envoy's figures change.
const TICK: Duration = Duration::from_secs(1);
/// How long Envoy may take to print its page.
const FIGURES_TIMEOUT: Duration = Duration::from_secs(3);
/// Figures older than this are shown no more.
const FIGURES_LAST: Duration = Duration::from_secs(5);
/// Largest page of figures in bytes: ten thousand endpoints with every family.
const MAX_FIGURES_BYTES: usize = 16 * 1024 * 1024;
/// Browsers that may watch at once; each further one is told to come later.
const MAX_VIEWERS: usize = 32;
/// Events that a slow browser may lag behind before it has to begin anew.
const LAG: usize = 16;

/// An event of the page.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) name: &'static str,
    /// JSON in one line.
    pub(crate) data: Arc<str>,
}

/// What the tasks and those who watch share.
#[derive(Clone, Debug)]
pub(crate) struct Stage(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    scene: Mutex<Scene>,
    told: Mutex<Told>,
    events: broadcast::Sender<Event>,
    viewers: AtomicUsize,
    /// Somebody came while nobody watched.
    came: Arc<Notify>,
    /// Counts the times that Envoy's page was read or could not be.
    readings: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Scene {
    history: History,
    readings: Readings,
    envoy_problem: Option<String>,
}

/// What everybody who watches was told last.
#[derive(Debug, Default)]
struct Told {
    roster: Value,
    /// The number of the last pick.
    pick: u64,
}

/// A place among those who watch.
#[derive(Debug)]
pub(crate) struct Viewer {
    stage: Stage,
    events: broadcast::Receiver<Event>,
    /// What is told first.
    first: std::vec::IntoIter<Event>,
}

impl Stage {
    /// Starts the tasks.
    pub(crate) fn start(shared: Arc<Shared>) -> Self {
        let failures = shared.failures.clone();
        let (events, came, readings) = (broadcast::Sender::new(LAG), Arc::default(), watch::Sender::new(0));
        let inner = Inner {
            shared,
            scene: Mutex::default(),
            told: Mutex::default(),
            events,
            viewers: AtomicUsize::new(0),
            came,
            readings,
        };
        let stage = Self(Arc::new(inner));
        drop(failures.spawn("the live page", tell(Arc::downgrade(&stage.0))));
        drop(failures.spawn("the reader of figures", read_figures(Arc::downgrade(&stage.0))));
        stage
    }

    /// Everything that is known now, with Envoy's figures if these can be had at once, and the recent picks.
    pub(crate) async fn document(&self) -> String {
        let inner = &*self.0;
        let mut readings = inner.readings.subscribe();
        let is_first = !inner.is_watched();
        inner.watch();
        if is_first {
            readings.borrow_and_update();
            let _ = tokio::time::timeout(FIGURES_TIMEOUT, readings.changed()).await;
        }
        let document = inner.with_document(|document, _| serde_json::to_string(document).unwrap_or_default());
        let picks = inner.picks_after(0).0;
        // The document is an object with members.
        format!("{},\"picks\":{picks}}}\n", document.strip_suffix('}').unwrap_or(&document))
    }

    /// Takes a place; `None`: there are too many.
    pub(crate) fn join(&self) -> Option<Viewer> {
        let inner = &*self.0;
        let free = |viewers| (viewers < MAX_VIEWERS).then_some(viewers + 1);
        inner.viewers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok()?;
        // What is told from now on comes after what is told first.
        let events = inner.events.subscribe();
        inner.watch();
        let (roster, past, loads) = inner.with_document(|document, past| (document.roster(), past(), document.loads()));
        let first = vec![
            Event::of("roster", &roster),
            Event::of("past", &past),
            Event::of("loads", &loads),
            Event { name: "picks", data: inner.picks_after(0).0.into() },
        ];
        Some(Viewer { stage: self.clone(), events, first: first.into_iter() })
    }
}

impl Viewer {
    /// The next event; `None`: too many were missed, or the sidecar stops.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.first.next() {
            return Some(event);
        }
        let event = self.events.recv().await.ok()?;
        self.stage.0.watch();
        Some(event)
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.stage.0.viewers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Event {
    fn of(name: &'static str, data: &Value) -> Self {
        Self { name, data: data.to_string().into() }
    }
}

impl Inner {
    fn is_watched(&self) -> bool {
        lock(&self.shared.audience).is_there(self.shared.now())
    }

    fn watch(&self) {
        lock(&self.shared.audience).watch(self.shared.now());
        self.came.notify_one();
    }

    /// A JSON list of the picks after that number, and the last number.
    fn picks_after(&self, number: u64) -> (String, u64) {
        let audience = lock(&self.shared.audience);
        let told =
            |Pick { number, at_ms, text }: &Pick| format!("{{\"number\":{number},\"at_ms\":{at_ms},\"pick\":{text}}}");
        let picks: Vec<String> = audience.picks_after(number).map(told).collect();
        let last = audience.picks_after(number).last().map_or(number, |pick| pick.number);
        (format!("[{}]", picks.join(",")), last)
    }

    /// Shows the present state to `look`, and how to come by the past.
    fn with_document<T>(&self, look: impl FnOnce(&Document<'_>, &dyn Fn() -> Value) -> T) -> T {
        let now = self.shared.now();
        // A copy, so that polls do not wait while it is written down.
        let fleet = self.shared.fleet().clone();
        let scene = lock(&self.scene);
        let problem = scene.envoy_problem.as_deref();
        let document = Document::new(&fleet, &scene.readings, problem, now, wall_ms());
        look(&document, &|| past(&fleet, &scene.history))
    }

    /// Takes what came of a read of Envoy's page.
    fn take_figures(&self, read: Result<Figures, GetError>) {
        let now = self.shared.now();
        let mut scene = lock(&self.scene);
        match read {
            Ok(figures) => {
                scene.envoy_problem = None;
                scene.readings.take(now, figures);
            }
            Err(error) => {
                scene.envoy_problem = Some(format!("Envoy's page cannot be read: {error}"));
                if scene.readings.newest_at().is_some_and(|at| now.saturating_sub(at) > FIGURES_LAST) {
                    scene.readings.clear();
                }
            }
        }
        drop(scene);
        self.readings.send_modify(|count| *count += 1);
    }

    /// Tells what is new.
    fn tell(&self) {
        let mut told = lock(&self.told);
        let mut events = Vec::new();
        self.with_document(|document, past| {
            let roster = document.roster();
            if told.roster != roster {
                events.extend([Event::of("roster", &roster), Event::of("past", &past())]);
                told.roster = roster;
            }
            events.push(Event::of("loads", &document.loads()));
        });
        let (picks, last) = self.picks_after(told.pick);
        if last > told.pick {
            events.push(Event { name: "picks", data: picks.into() });
            told.pick = last;
        }
        drop(told);
        for event in events {
            // Nobody may be there any more.
            let _ = self.events.send(event);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The reader ends.
        self.came.notify_one();
    }
}

async fn tell(inner: Weak<Inner>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        let now = inner.shared.now();
        {
            let fleet = inner.shared.fleet();
            lock(&inner.scene).history.sample(&fleet, now);
        }
        if inner.events.receiver_count() > 0 {
            inner.tell();
        }
    }
}

/// Reads Envoy's page each second while somebody watches.
async fn read_figures(inner: Weak<Inner>) {
    let Some(shared) = inner.upgrade().map(|inner| Arc::clone(&inner.shared)) else { return };
    let mut reader = FiguresReader::new(&shared.config.envoy_admin);
    drop(shared);
    loop {
        let Some(inner) = inner.upgrade() else { return };
        if !inner.is_watched() {
            lock(&inner.scene).readings.clear();
            let came = Arc::clone(&inner.came);
            drop(inner);
            came.notified().await;
            continue;
        }
        let read = reader.read(&inner.shared.buffers).await;
        inner.take_figures(read);
        drop(inner);
        tokio::time::sleep(TICK).await;
    }
}

/// Reads figures where they were found last.
struct FiguresReader {
    page: Client,
    names: Client,
    source: Source,
}

impl FiguresReader {
    fn new(admin: &Admin) -> Self {
        let client = |source: Source| admin_client(admin, &source.path(), MAX_FIGURES_BYTES);
        Self { page: client(Source::Page), names: client(Source::Names), source: Source::Page }
    }

    async fn read(&mut self, buffers: &Buffers) -> Result<Figures, GetError> {
        if self.source == Source::Page {
            if let Some(figures) = self.page.get(buffers, FIGURES_TIMEOUT, Figures::of_page).await? {
                return Ok(figures);
            }
            self.source = Source::Names;
        }
        let figures = self.names.get(buffers, FIGURES_TIMEOUT, Figures::of_names).await?;
        if figures.is_empty() {
            // Another Envoy may be there by now, whose page has the labels.
            self.source = Source::Page;
        }
        Ok(figures)
    }
}
