//! Flow control: while every endpoint that could serve a request is full, the request waits here, where it can still be placed well.
//!
//! A machine without I/O. A request that cannot be sent is given to [`FlowControl::park`]; whenever something ended, came or became due, the
//! host asks [`crate::EndpointPicker::poll_wake`] who is to go on, and lets that exchange do so. Bands of higher priority go first, flows of
//! a band share it, and of a flow a request goes that has its home where there is room: the endpoint that it would have been sent to, had
//! it and those before it not waited, because its prompt is in the cache there. Who has its home elsewhere goes there only where that is
//! sooner than to wait for its home.

mod bands;
mod outcome;
mod pace;
mod settings;

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Debug;

pub use bands::Ticket;
pub use outcome::{FlowSize, QueueOutcome, Queued};
pub use settings::{
    DEFAULT_BAND_BYTES, DEFAULT_BAND_REQUESTS, DEFAULT_KV_CACHE_USAGE, DEFAULT_MAX_BYTES, DEFAULT_MAX_OVERTAKEN_MS,
    DEFAULT_MAX_REQUESTS, DEFAULT_QUEUE_DEPTH, DEFAULT_TTL_MS, Dispatch, Fairness, FlowSettings, Ordering,
};

use crate::accounts::Burden;
use crate::openai::PromptDigest;
use crate::pool::{EndpointId, Pool};
use crate::routing::{Choice, Routing};
use crate::scheduling::{Decision, Peers, PickRequest, Profile, Room, Subset};
use crate::time::Timestamp;
use bands::{Arrival, Bands, Flow, Rank, Waiting};
use pace::Pace;

/// Of the requests of a flow that have no home so many are tried.
const TRIED: usize = 16;
/// Microseconds after which it is another worker's turn where nothing else changes.
const TURN_MICROS: u64 = 1_000_000;
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
    /// For so long it wants to wait at most; microseconds.
    pub(crate) ttl_micros: Option<u64>,
    pub(crate) pinned: Option<EndpointId>,
    pub(crate) session: Option<EndpointId>,
    pub(crate) subset: Option<Subset>,
    /// Somebody may want to know why it went where it went.
    pub(crate) is_explained: bool,
}

impl Held {
    /// What is asked of the scheduler; room at the endpoint is not.
    pub(crate) fn request(&self) -> PickRequest<'_> {
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
            room: None,
            ahead: &[],
            is_explained: self.is_explained,
        }
    }

    /// The same, and room is; why it would go there is of no interest yet.
    fn request_for(&self, room: Room) -> PickRequest<'_> {
        PickRequest { room: Some(room), is_explained: false, ..self.request() }
    }
}

/// A request that flow control is asked about.
#[derive(Debug)]
pub(crate) struct Newcomer<'a> {
    /// Its flow.
    pub(crate) fairness_id: &'a str,
    /// What is known of it that tells where it could go.
    pub(crate) held: Held,
    /// Bytes of its body.
    pub(crate) bytes: u64,
    /// What it burdens an endpoint with to which it is sent at once.
    pub(crate) burden: Burden,
    /// When it came.
    pub(crate) now: Timestamp,
}

/// Has the thread of a request that waits look after it.
pub trait Wake: Debug + Send + Sync {
    /// The request is to go on, by [`Exchange::resume`](crate::Exchange::resume). Called by any thread, at most once.
    fn wake(&self);
}

/// What becomes of a request that came.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "it is taken apart where it comes from; a box would be an allocation a request"
)]
pub(crate) enum Admission {
    /// It is sent at once, to the endpoints that were chosen; `None`: none were looked for.
    Clear(Held, Option<Choice>),
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
    peers: Peers,
    /// When the turn last changed without a word from the others.
    turned_at: Timestamp,
    /// Who was told to go on last, and when, until it does.
    woken: Option<(Ticket, Timestamp)>,
    /// Microseconds until who was told to go on is forgotten.
    patience_micros: u64,
    /// Working memory: how many are before a request at each endpoint, by slot, and which endpoints have room.
    ahead: Vec<u32>,
    open: Vec<EndpointId>,
    /// Who waits though no endpoint may take it, the next one last, as of [`Pool::takers_version`].
    stranded: Vec<Ticket>,
    takers_version: u64,
}

impl FlowControl {
    /// Of one thread, which has a request go on as soon as it is told to. Nobody waits yet.
    #[must_use]
    pub fn new(settings: FlowSettings) -> Self {
        Self {
            settings,
            bands: Bands::default(),
            pace: Pace::default(),
            peers: Peers::default(),
            turned_at: Timestamp::default(),
            woken: None,
            patience_micros: 0,
            ahead: Vec::new(),
            open: Vec::new(),
            stranded: Vec::new(),
            takers_version: 0,
        }
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

    /// How full the pool is, to be shown: 1 is one whose endpoints have no room, in the mean, and so is one without endpoints. Who takes no requests, and
    /// whose page is stale or missing, counts as full. Requests need not wait where it is 1: [`Room::is_at`] decides.
    #[must_use]
    pub fn saturation(&self, pool: &Pool, profile: &Profile, now: Timestamp) -> f64 {
        let room = self.room();
        let (mut sum, mut count) = (0.0, 0_u32);
        for endpoint in pool.members().iter().filter_map(|&id| pool.endpoint(id)) {
            sum += room.fullness(pool, endpoint, now, profile.max_snapshot_age_micros);
            count += 1;
        }
        if count == 0 { 1.0 } else { sum / f64::from(count) }
    }

    /// With whom this worker shares what is free.
    pub const fn set_peers(&mut self, peers: Peers) {
        self.peers = peers;
    }

    /// What counts as room for one more request.
    #[must_use]
    pub const fn room(&self) -> Room {
        let FlowSettings { queue_depth, kv_cache_usage, .. } = self.settings;
        Room { queue_depth, kv_cache_usage, peers: self.peers }
    }

    /// Sends a request, has it wait, or refuses it. One pick tells whether it may go, and where it goes then. What nobody may take does not wait.
    pub(crate) fn admit(&mut self, routing: &mut Routing, profile: &Profile, newcomer: Newcomer<'_>) -> Admission {
        let Newcomer { fairness_id, held, burden, now, .. } = &newcomer;
        let (room, now) = (self.room(), *now);
        let request = held.request();
        let may_go = !self.bands.has(held.priority) && routing.may_send(profile, &held.request_for(room), now);
        if may_go || !routing.has_taker(&request) {
            let choice = routing.choose(profile, &request, *burden, now);
            return Admission::Clear(newcomer.held, Some(choice));
        }
        let mut home = held.pinned;
        if self.settings.dispatch == Dispatch::LeastCost && profile.needs_outlooks() {
            self.bands.count_ahead(held.priority, fairness_id, &mut self.ahead);
            let request = PickRequest { ahead: &self.ahead, ..request };
            let decision = routing.pick(profile, &request, now);
            if let Decision::Picked(ranked, _) = &decision {
                let first = ranked.first();
                if self.bands.at_home(held.priority, first) == 0 && routing.is_open(first, &room, profile, now) {
                    let choice = routing.take(decision, &request, *burden, now);
                    return Admission::Clear(newcomer.held, Some(choice));
                }
                // Where nobody has its prompt, it is at home anywhere.
                if ranked.forecast(first).is_some_and(|forecast| forecast.cached_tokens > 0) {
                    home = Some(first);
                }
            }
        }
        self.park(newcomer, home)
    }

    /// Has a request wait, if there is room; `home`: where it would best be sent.
    fn park(&mut self, newcomer: Newcomer<'_>, home: Option<EndpointId>) -> Admission {
        let Newcomer { fairness_id, held, bytes, now, .. } = newcomer;
        let arrival = Arrival {
            fairness_id,
            priority: held.priority,
            bytes,
            deadline: held.deadline,
            over_at: now.plus_micros(self.settings.ttl_micros.min(held.ttl_micros.unwrap_or(u64::MAX))),
            home,
            now,
        };
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
        self.bands.remove(ticket, now);
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

    /// Who is to go on now: who has waited for too long, whom nobody may take any more, or whom an endpoint with room is given. One goes on after the other, so that the next one
    /// sees what the one before took. The same one is not named twice: who does not go on is forgotten.
    pub(crate) fn poll_wake(&mut self, routing: &mut Routing, profile: &Profile, now: Timestamp) -> Option<Woken> {
        if let Some((ticket, at)) = self.woken {
            if now.micros_since(at) < self.patience_micros {
                return None;
            }
            self.woken = None;
            self.bands.remove(ticket, now);
        }
        let next = self.bands.next_over()?;
        if now.micros_since(self.turned_at) >= TURN_MICROS {
            self.turned_at = now;
            self.peers.turn = self.peers.turn.wrapping_add(1);
        }
        let ticket = if next.is_over(now) {
            next
        } else {
            self.next_stranded(routing).or_else(|| self.choose(routing, profile, now))?
        };
        self.woken = Some((ticket, now));
        let wake = self.bands.get(ticket).and_then(|waiting| waiting.held.wake.clone());
        Some(Woken { ticket, wake })
    }

    /// Whom nobody may take any more. All are looked at only when other endpoints than before take requests.
    fn next_stranded(&mut self, routing: &Routing) -> Option<Ticket> {
        let is_stranded = |waiting: &Waiting<Entry>| !routing.has_taker(&waiting.held.held.request());
        let version = routing.pool().takers_version();
        if self.takers_version != version {
            self.takers_version = version;
            self.stranded.clear();
            let stranded = self.bands.everybody().filter(|waiting| is_stranded(waiting));
            self.stranded.extend(stranded.map(|waiting| waiting.ticket));
            self.stranded.reverse();
        }
        while let Some(ticket) = self.stranded.pop() {
            if self.bands.get(ticket).is_some() {
                return Some(ticket);
            }
        }
        None
    }

    /// Whom an endpoint with room is given.
    fn choose(&mut self, routing: &mut Routing, profile: &Profile, now: Timestamp) -> Option<Ticket> {
        let room = self.room();
        routing.list_open(&room, profile, now, &mut self.open);
        if self.open.is_empty() && !routing.has_room(&room, profile, now) {
            return None;
        }
        let mut search = Search { routing, profile, room, open: &self.open, settings: &self.settings, now };
        let next = self.bands.bands(self.settings.fairness).flatten().find_map(|flow| search.of_flow(flow))?;
        self.bands.pass_turn(next);
        Some(next)
    }
}

/// A look for who is next where there is room.
struct Search<'a> {
    routing: &'a mut Routing,
    profile: &'a Profile,
    room: Room,
    /// Endpoints with room that are in good standing.
    open: &'a [EndpointId],
    settings: &'a FlowSettings,
    now: Timestamp,
}

impl Search<'_> {
    /// Who of a flow goes.
    fn of_flow(&mut self, flow: &Flow<Entry>) -> Option<Ticket> {
        if self.now.micros_since(flow.since()) >= self.settings.max_overtaken_micros
            && let Some(first) = flow.first().filter(|first| self.may_go(first))
        {
            return Some(first.ticket);
        }
        let mut best: Option<(Rank, Ticket)> = None;
        for lane in flow.lanes() {
            let Some((at, number)) = lane.waiting.front().map(|first| first.ticket.rank()) else { continue };
            let is_at_home = lane.home.is_some_and(|home| self.open.contains(&home));
            // Who takes the least here goes before others who came a little earlier.
            let first = (if is_at_home { at } else { at.plus_micros(self.settings.max_overtaken_micros) }, number);
            if best.is_some_and(|(earlier, _)| earlier < first) {
                continue;
            }
            let next = match lane.home {
                Some(_) if is_at_home => lane.waiting.front(),
                Some(home) if self.routing.is_well(home, self.profile, self.now) => None,
                _ => lane.waiting.iter().take(TRIED).find(|waiting| self.may_go(waiting)),
            };
            best = next.map(|next| (first, next.ticket)).or(best);
        }
        if let Some((_, ticket)) = best {
            return Some(ticket);
        }
        let mut firsts = flow.lanes().iter().filter_map(|lane| Some((lane.home?, lane.waiting.front()?)));
        firsts.find(|(home, first)| self.is_sooner_elsewhere(first, *home)).map(|(_, first)| first.ticket)
    }

    /// Whether an endpoint with room may take a request.
    fn may_go(&mut self, waiting: &Waiting<Entry>) -> bool {
        let request = waiting.held.held.request_for(self.room);
        (!self.open.is_empty() && self.routing.takes_any(&request)) || self.cost(waiting).is_some()
    }

    /// Whether a request costs less where there is room than at its home, which has none.
    fn is_sooner_elsewhere(&mut self, waiting: &Waiting<Entry>, home: EndpointId) -> bool {
        if self.open.is_empty() {
            return false;
        }
        let Some(here) = self.cost(waiting) else { return false };
        here < self.routing.cost_at(self.profile, &waiting.held.held.request_for(self.room), home, self.now)
    }

    /// What a request costs where it would go now; `None`: nobody with room may take it.
    fn cost(&mut self, waiting: &Waiting<Entry>) -> Option<f64> {
        self.routing.least_cost(self.profile, &waiting.held.held.request_for(self.room), self.now)
    }
}

#[cfg(test)]
mod tests;
