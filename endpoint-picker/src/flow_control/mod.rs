//! Flow control: while every endpoint that could serve a request is full, the request waits here, where it can still be placed well.
//!
//! A machine without I/O. A request that cannot be sent is given to [`FlowControl::park`]; whenever something ended, came or became due, the
//! host asks [`crate::EndpointPicker::poll_wake`] who is to go on, and lets that exchange do so. Bands of higher priority go first, flows of
//! a band share it, and of a flow the request goes that takes the least time where there is room, because its prompt is in the cache there.

mod bands;
mod outcome;
mod pace;
mod settings;

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt::Debug;

pub use bands::Ticket;
pub use outcome::{FlowSize, QueueOutcome, Queued};
pub use settings::{
    DEFAULT_BAND_BYTES, DEFAULT_BAND_REQUESTS, DEFAULT_KV_CACHE_USAGE, DEFAULT_MAX_BYTES, DEFAULT_MAX_OVERTAKEN_MS,
    DEFAULT_MAX_REQUESTS, DEFAULT_QUEUE_DEPTH, DEFAULT_TTL_MS, Dispatch, Fairness, FlowSettings, Ordering,
};

use crate::openai::PromptDigest;
use crate::pool::{EndpointId, Pool};
use crate::routing::Routing;
use crate::scheduling::{PickRequest, Profile, Room, Subset};
use crate::time::Timestamp;
use bands::{Arrival, Bands};
use pace::Pace;

/// Of so many requests of a flow the one that takes the least is looked for: each costs a pick.
const LOOKED_AT: usize = 16;
/// A thread that was told to have its request go on does so within this time, or was stopped by the system: then others go on before.
const THREADS_PATIENCE_MICROS: u64 = 5_000;

/// What is needed of a request that waits to tell where it could go.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    pub(crate) target_model: String,
    pub(crate) prompt: PromptDigest,
    pub(crate) prompt_bytes: u64,
    pub(crate) max_tokens: Option<u64>,
    pub(crate) priority: i64,
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) pinned: Option<EndpointId>,
    pub(crate) session: Option<EndpointId>,
    pub(crate) subset: Option<Subset>,
}

impl Held {
    /// Where it may go: to an endpoint with room.
    pub(crate) fn request(&self, room: Room) -> PickRequest<'_> {
        PickRequest {
            target_model: &self.target_model,
            prompt: Some(&self.prompt),
            prompt_bytes: self.prompt_bytes,
            max_tokens: self.max_tokens,
            priority: self.priority,
            deadline: self.deadline,
            pinned: self.pinned,
            session: self.session,
            subset: self.subset.as_ref(),
            room: Some(room),
            is_explained: false,
        }
    }
}

/// Has the thread of a request that waits look after it.
pub trait Wake: Debug + Send + Sync {
    /// The request is to go on, by [`Exchange::resume`](crate::Exchange::resume). Called by any thread, at most once.
    fn wake(&self);
}

/// What becomes of a request that came.
#[derive(Debug)]
pub(crate) enum Admission {
    /// It is sent at once.
    Clear(Held),
    /// It waits; the ticket finds it again.
    Parked(Ticket, Arc<Held>),
    /// As many as may wait do; its client may come again after so many seconds.
    Full(u32),
}

/// A request that is to go on.
#[derive(Debug)]
pub(crate) struct Woken {
    pub(crate) ticket: Ticket,
    /// By whom its thread is told; `None`: its thread is the one that asked, or has not said yet how it is told.
    pub(crate) wake: Option<Arc<dyn Wake>>,
}

/// A request in the queue.
#[derive(Debug)]
struct Entry {
    held: Arc<Held>,
    wake: Option<Arc<dyn Wake>>,
}

/// Who waits, and by which rules.
#[derive(Debug)]
pub struct FlowControl {
    settings: FlowSettings,
    bands: Bands<Entry>,
    pace: Pace,
    /// Workers with requests that wait, and which of them this one is.
    peers: (u32, u32),
    /// Who was told to go on last, and when, until it does.
    woken: Option<(Ticket, Timestamp)>,
    /// Microseconds until who was told to go on is forgotten.
    patience_micros: u64,
}

impl FlowControl {
    /// Of one thread, which has a request go on as soon as it is told to. Nobody waits yet.
    #[must_use]
    pub fn new(settings: FlowSettings) -> Self {
        let bands = Bands::default();
        Self { settings, bands, pace: Pace::default(), peers: (1, 0), woken: None, patience_micros: 0 }
    }

    /// Of all threads of a process, each of which is told by its requests' [`Wake`].
    #[must_use]
    pub fn of_threads(settings: FlowSettings) -> Self {
        Self { patience_micros: THREADS_PATIENCE_MICROS, ..Self::new(settings) }
    }

    /// The rules.
    #[must_use]
    pub const fn settings(&self) -> &FlowSettings {
        &self.settings
    }

    /// Requests that wait.
    #[must_use]
    pub const fn requests(&self) -> u64 {
        self.bands.requests()
    }

    /// How many wait in each flow where somebody does.
    pub fn sizes(&self) -> impl Iterator<Item = FlowSize<'_>> {
        self.bands.sizes()
    }

    /// How full the pool is: 1 is one whose endpoints have no room, in the mean, and so is one without endpoints.
    #[must_use]
    pub fn saturation(&self, pool: &Pool) -> f64 {
        let room = self.room();
        let (mut sum, mut count) = (0.0, 0_u32);
        for endpoint in pool.members().iter().filter_map(|&id| pool.endpoint(id)) {
            sum += room.fullness(endpoint);
            count += 1;
        }
        if count == 0 { 1.0 } else { sum / f64::from(count) }
    }

    /// `workers` have requests that wait, and this one, if it has some, is the one of that number among them.
    pub fn set_peers(&mut self, workers: u32, rank: u32) {
        self.peers = (workers.max(1), rank);
    }

    /// What counts as room for one more request.
    #[must_use]
    pub const fn room(&self) -> Room {
        let (workers, rank) = self.peers;
        Room { queue_depth: self.settings.queue_depth, kv_cache_usage: self.settings.kv_cache_usage, workers, rank }
    }

    /// Whether a request of that priority would overtake nobody.
    pub(crate) fn is_clear(&self, priority: i64) -> bool {
        !self.bands.has(priority)
    }

    /// Takes in a request, if there is room.
    pub(crate) fn park(&mut self, fairness_id: &str, bytes: u64, held: Held, now: Timestamp) -> Admission {
        let arrival = Arrival { fairness_id, priority: held.priority, bytes, deadline: held.deadline, now };
        if !self.bands.has_room(&self.settings, &arrival) {
            return Admission::Full(self.pace.retry_after(self.bands.requests(), now));
        }
        let held = Arc::new(held);
        let entry = Entry { held: Arc::clone(&held), wake: None };
        Admission::Parked(self.bands.add(self.settings.ordering, &arrival, entry), held)
    }

    /// How the thread of a request that waits is told. False: the request is to go on at once.
    pub(crate) fn set_wake(&mut self, ticket: Ticket, wake: Arc<dyn Wake>) -> bool {
        if self.woken.is_some_and(|(woken, _)| woken == ticket) {
            return false;
        }
        self.bands.get_mut(ticket).map(|waiting| waiting.held.wake = Some(wake)).is_some()
    }

    /// A request waits no more; `is_sent`: an endpoint is given it.
    pub(crate) fn remove(&mut self, ticket: Ticket, is_sent: bool, now: Timestamp) {
        self.bands.remove(ticket);
        if self.woken.is_some_and(|(woken, _)| woken == ticket) {
            self.woken = None;
        }
        if is_sent {
            self.pace.dispatched(now);
        }
        if self.bands.requests() == 0 {
            self.pace.emptied();
        }
    }

    /// Who is to go on now: who has waited for too long, or whom an endpoint with room is given. One goes on after the other, so that the next one
    /// sees what the one before took. The same one is not named twice: who does not go on is forgotten.
    pub(crate) fn poll_wake(&mut self, routing: &mut Routing, profile: &Profile, now: Timestamp) -> Option<Woken> {
        if let Some((ticket, at)) = self.woken {
            if now.micros_since(at) < self.patience_micros {
                return None;
            }
            self.woken = None;
            self.bands.remove(ticket);
        }
        let (oldest, came) = self.bands.oldest().map(|waiting| (waiting.ticket, waiting.came))?;
        let is_over = self.settings.is_over(now.micros_since(came));
        let ticket = if is_over { oldest } else { self.choose(routing, profile, now)? };
        self.woken = Some((ticket, now));
        let wake = self.bands.get(ticket).and_then(|waiting| waiting.held.wake.clone());
        Some(Woken { ticket, wake })
    }

    /// Whom an endpoint with room is given.
    fn choose(&mut self, routing: &mut Routing, profile: &Profile, now: Timestamp) -> Option<Ticket> {
        let next = self.best(routing, profile, now)?;
        self.bands.pass_turn(next);
        Some(next)
    }

    /// Who is next where there is room.
    fn best(&self, routing: &mut Routing, profile: &Profile, now: Timestamp) -> Option<Ticket> {
        let room = self.room();
        if !routing.has_room(&room) {
            return None;
        }
        for flows in self.bands.bands(self.settings.fairness) {
            for flow in flows {
                let is_overdue = |came: Timestamp| now.micros_since(came) >= self.settings.max_overtaken_micros;
                let in_order = self.settings.dispatch == Dispatch::First
                    || flow.front().is_some_and(|first| is_overdue(first.came));
                let mut best = None;
                for waiting in flow.iter().take(LOOKED_AT) {
                    let Some(micros) = routing.predicted_micros(profile, &waiting.held.held.request(room), now) else {
                        continue;
                    };
                    if in_order {
                        return Some(waiting.ticket);
                    }
                    if best.is_none_or(|(least, _)| micros < least) {
                        best = Some((micros, waiting.ticket));
                    }
                }
                if let Some((_, ticket)) = best {
                    return Some(ticket);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
