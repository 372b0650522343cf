//! What workers tell one another: each posts what it has in flight, the holder of the lease adds the posts up on one board.
//!
//! The board holds one sum for each endpoint of a membership. It says which post of each worker it contains, so that a worker can subtract
//! its own. A worker's virtual machine may be replaced after a crash, and nothing tells the others: a post counts only while it is
//! renewed, and so does the board.

mod queues;

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use hashbrown::HashMap;
use prost::Message;
use snapshot::Membership;

use crate::accounts::RunningLabels;
use crate::admission::{Admitted, Table, text_of};
use crate::pool::Suspicion;
use crate::shared_data::{SharedData, update};
use crate::time::Timestamp;

pub use queues::{BandPost, FlowPost, WaitingPost};

/// A post, and the board, is renewed at least this often.
pub const RENEW_AFTER_MICROS: u64 = 500_000;
/// A post or a board that was not renewed for this long counts no more: six renewals missed.
pub const EXPIRE_AFTER_MICROS: u64 = 3_000_000;
/// While requests wait in several workers, whoever posts, gathers or reads does so this often, in milliseconds: a slot that one worker leaves to another
/// stands empty for two of these times in the mean.
pub const CONTENDED_TICK_MILLIS: u32 = 10;

/// Keys in the shared data of all virtual machines of one `vm_id`.
pub mod key {
    use alloc::string::String;

    /// [`super::Version`] of what follows; small, read on every tick.
    pub const VERSION: &str = "inpick.version";
    /// The newest membership, as [`snapshot::Membership`] encodes it.
    pub const MEMBERSHIP: &str = "inpick.membership";
    /// The newest loads, as [`snapshot::Loads`] encodes them.
    pub const LOADS: &str = "inpick.loads";
    /// The [`super::Board`].
    pub const BOARD: &str = "inpick.board";
    /// The [`super::Roster`].
    pub const ROSTER: &str = "inpick.roster";
    /// The table of labels that were admitted, see [`crate::admission`].
    pub const ADMISSION: &str = "inpick.admission";
    /// The gauges with labels that were ever set, see [`crate::gauges`].
    pub const SERIES: &str = "inpick.series";

    /// Where a worker says which prompts it sent where, see [`crate::prefix_news`].
    #[must_use]
    pub fn prefixes(worker: u64) -> String {
        alloc::format!("inpick.prefixes.{worker:016x}")
    }

    /// Where a worker keeps what it explained, see [`crate::recent_picks`].
    #[must_use]
    pub fn picks(worker: u64) -> String {
        alloc::format!("inpick.picks.{worker:016x}")
    }

    /// Where a worker posts.
    #[must_use]
    pub fn post(worker: u64) -> String {
        alloc::format!("inpick.post.{worker:016x}")
    }
}

/// Says whether anything behind the other keys has changed. Counts grow whoever holds the lease.
#[derive(Clone, Copy, Eq, Message, PartialEq)]
pub struct Version {
    /// Counts installed memberships; 0: none yet.
    #[prost(uint64, tag = "1")]
    pub membership: u64,
    /// Counts installed loads; 0: none yet.
    #[prost(uint64, tag = "2")]
    pub loads: u64,
    /// When the sidecar last said that the loads are still true, in microseconds of the host's monotonic clock.
    #[prost(uint64, tag = "3")]
    pub confirmed_at_micros: u64,
    /// When the loads came, on the same clock.
    #[prost(uint64, tag = "4")]
    pub loads_received_at_micros: u64,
    /// Counts changes of the board.
    #[prost(uint64, tag = "5")]
    pub board: u64,
    /// When the board was last renewed, on the same clock.
    #[prost(uint64, tag = "6")]
    pub board_renewed_at_micros: u64,
    /// Until when somebody watches the sidecar's live page, on the same clock; 0: nobody does.
    #[prost(uint64, tag = "7")]
    pub watched_until_micros: u64,
}

impl Version {
    /// The version that is stored.
    pub fn read(shared: &mut impl SharedData) -> Self {
        let stored = shared.get(key::VERSION);
        stored.and_then(|(bytes, _)| Self::decode(bytes.as_slice()).ok()).unwrap_or_default()
    }

    /// Changes the stored version; false: it could not be written.
    pub fn change(shared: &mut impl SharedData, change: impl Fn(&mut Self)) -> bool {
        let written = update(shared, key::VERSION, |held| {
            let mut version = held.and_then(|bytes| Self::decode(bytes).ok()).unwrap_or_default();
            change(&mut version);
            ((), Some(version.encode_to_vec()))
        });
        written.is_ok()
    }
}

/// Every worker that posted and has not expired.
#[derive(Clone, Eq, Message, PartialEq)]
pub struct Roster {
    /// Their ids.
    #[prost(fixed64, repeated, tag = "1")]
    pub workers: Vec<u64>,
}

/// Which membership counts are in the order of.
#[derive(Clone, Copy, Eq, Message, PartialEq)]
pub struct Order {
    /// The sidecar's start.
    #[prost(fixed64, tag = "1")]
    pub epoch: u64,
    /// Its count of changes since.
    #[prost(uint64, tag = "2")]
    pub version: u64,
}

impl Order {
    /// That of a membership.
    #[must_use]
    pub const fn of(membership: &Membership) -> Self {
        Self { epoch: membership.epoch, version: membership.version }
    }
}

/// What one worker has in flight.
#[derive(Clone, Eq, Message, PartialEq)]
pub struct Post {
    /// Random, drawn when the worker's instance started.
    #[prost(fixed64, tag = "1")]
    pub worker: u64,
    /// When it was written, in microseconds of the host's monotonic clock.
    #[prost(uint64, tag = "2")]
    pub written_at_micros: u64,
    /// Grows with every change of what follows.
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
    /// The membership whose endpoints are counted.
    #[prost(message, optional, tag = "4")]
    pub order: Option<Order>,
    /// Position of the pool's first endpoint in that membership.
    #[prost(uint32, tag = "5")]
    pub first: u32,
    /// Requests in flight to each endpoint of the pool.
    #[prost(uint32, repeated, tag = "6")]
    pub in_flight: Vec<u32>,
    /// Requests in flight to endpoints that have left the pool.
    #[prost(message, repeated, tag = "7")]
    pub departed: Vec<Departed>,
    /// Requests running by model; those without any are there only where a gauge shows them.
    #[prost(message, repeated, tag = "8")]
    pub running: Vec<RunningModel>,
    /// `inference_objective_running_requests` is published.
    #[prost(bool, tag = "9")]
    pub objective: bool,
    /// `inference_model_running_requests` is published.
    #[prost(bool, tag = "10")]
    pub model: bool,
    /// The pool whose endpoints these are.
    #[prost(string, tag = "11")]
    pub pool: String,
    /// Size of the worker's virtual machine: its linear memory in bytes.
    #[prost(uint64, tag = "12")]
    pub memory_bytes: u64,
    /// What the worker's own requests hold against endpoints of the pool.
    #[prost(message, repeated, tag = "13")]
    pub suspects: Vec<Suspect>,
    /// Tokens of prompts that each endpoint of the pool has yet to compute.
    #[prost(uint32, repeated, tag = "14")]
    pub prefill_tokens: Vec<u32>,
    /// Entries of the worker's prefix index.
    #[prost(uint64, tag = "15")]
    pub prefix_entries: u64,
    /// What the worker learned of endpoints that answered it.
    #[prost(message, repeated, tag = "16")]
    pub lessons: Vec<Lesson>,
    /// `llm_d_epp_request_running` is published.
    #[prost(bool, tag = "17")]
    pub llm_d: bool,
    /// What flow control holds; `None`: it is off.
    #[prost(message, optional, tag = "18")]
    pub flow: Option<FlowPost>,
    /// Places in the pool of the endpoints that the worker leaves out because their requests failed. Gauges show it; what the other workers
    /// go by are the suspects.
    #[prost(uint32, repeated, tag = "19")]
    pub ejected: Vec<u32>,
}

/// What a worker learned of an endpoint, see [`crate::learning::Rates`].
#[derive(Clone, Copy, Eq, Message, PartialEq)]
pub struct Lesson {
    /// The endpoint's place in the pool.
    #[prost(uint32, tag = "1")]
    pub place: u32,
    /// Microseconds of a request that needs no prefill.
    #[prost(uint64, tag = "2")]
    pub fixed_micros: u64,
    /// Nanoseconds for an uncached token.
    #[prost(uint64, tag = "3")]
    pub token_nanos: u64,
    /// Microseconds for which a request holds its slot.
    #[prost(uint64, tag = "4")]
    pub slot_micros: u64,
    /// Slots; 0: not known.
    #[prost(uint32, tag = "5")]
    pub slots: u32,
    /// Answers that taught it, as far as they are not forgotten.
    #[prost(uint32, tag = "6")]
    pub answers: u32,
}

/// Requests in flight to an endpoint that has left.
#[derive(Clone, Eq, Message, PartialEq)]
pub struct Departed {
    /// Its pool.
    #[prost(string, tag = "1")]
    pub pool: String,
    /// Its address.
    #[prost(string, tag = "2")]
    pub address: String,
    /// How many.
    #[prost(uint32, tag = "3")]
    pub count: u32,
}

/// Requests running for a model.
#[derive(Clone, Copy, Eq, Message, PartialEq)]
pub struct RunningModel {
    /// The label: 0 is no name, 1 stands for all that have no label of their own, others are its place in the admission table plus 2.
    #[prost(uint32, tag = "1")]
    pub model: u32,
    /// How many.
    #[prost(uint32, tag = "2")]
    pub count: u32,
    /// The label of the model that was asked for upstream, written as that of the model.
    #[prost(uint32, tag = "3")]
    pub target: u32,
    /// Their priority.
    #[prost(sint64, tag = "4")]
    pub priority: i64,
    /// The label of their fairness id, written as that of the model; `None`: flow control is off.
    #[prost(uint32, optional, tag = "5")]
    pub fairness_id: Option<u32>,
}

impl RunningModel {
    /// So many of those.
    #[must_use]
    pub fn of(running: RunningLabels, count: u32) -> Self {
        let [model, target] = [running.model, running.target].map(Admitted::number);
        let fairness_id = running.fairness_id.map(Admitted::number);
        Self { model, count, target, priority: running.priority, fairness_id }
    }

    /// The values of the labels of model and target in that table.
    #[must_use]
    pub fn texts<'a>(&self, table: &'a Table) -> [&'a str; 2] {
        [self.model, self.target].map(|number| text_of(number, &table.models))
    }

    /// The value of the label of the fairness id in that table; `None`: flow control is off.
    #[must_use]
    pub fn fairness_text<'a>(&self, table: &'a Table) -> Option<&'a str> {
        self.fairness_id.map(|number| text_of(number, &table.fairness_ids))
    }
}

/// What a worker holds against an endpoint of its pool: see [`crate::pool::Suspicion`].
#[derive(Clone, Copy, Eq, Message, PartialEq)]
pub struct Suspect {
    /// Position of the endpoint: in a post within the pool, on the board within the membership.
    #[prost(uint32, tag = "1")]
    pub place: u32,
    /// When the newest request that failed was sent, in microseconds of the host's monotonic clock.
    #[prost(uint64, tag = "2")]
    pub bad_at_micros: u64,
    /// Until when it counts, on the same clock.
    #[prost(uint64, tag = "3")]
    pub until_micros: u64,
    /// The endpoint is ejected.
    #[prost(bool, tag = "4")]
    pub is_ejection: bool,
    /// The worker that met it, on the board.
    #[prost(fixed64, tag = "5")]
    pub worker: u64,
}

impl Suspect {
    /// What a worker holds against the endpoint at that place of its pool.
    #[must_use]
    pub fn of(place: usize, suspicion: Suspicion) -> Self {
        Self {
            place: u32::try_from(place).unwrap_or(u32::MAX),
            bad_at_micros: suspicion.bad_at.as_micros(),
            until_micros: suspicion.until.as_micros(),
            is_ejection: suspicion.is_ejection,
            worker: 0,
        }
    }

    /// The same, as the pool takes it.
    #[must_use]
    pub const fn suspicion(&self) -> Suspicion {
        Suspicion {
            bad_at: Timestamp::from_micros(self.bad_at_micros),
            until: Timestamp::from_micros(self.until_micros),
            is_ejection: self.is_ejection,
        }
    }
}

/// Which post of a worker a board contains.
#[derive(Clone, Copy, Eq, Message, PartialEq)]
pub struct Contained {
    /// The worker.
    #[prost(fixed64, tag = "1")]
    pub worker: u64,
    /// [`Post::sequence`].
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
}

/// What all living workers have in flight.
#[derive(Clone, Eq, Message, PartialEq)]
pub struct Board {
    /// The membership whose endpoints are counted.
    #[prost(message, optional, tag = "1")]
    pub order: Option<Order>,
    /// Requests in flight to each endpoint of the membership, over all pools.
    #[prost(uint32, repeated, tag = "2")]
    pub in_flight: Vec<u32>,
    /// Requests in flight to endpoints that have left.
    #[prost(message, repeated, tag = "3")]
    pub departed: Vec<Departed>,
    /// Which posts that is the sum of.
    #[prost(message, repeated, tag = "4")]
    pub contained: Vec<Contained>,
    /// What workers hold against endpoints.
    #[prost(message, repeated, tag = "5")]
    pub suspects: Vec<Suspect>,
    /// Tokens of prompts that each endpoint of the membership has yet to compute, over all pools.
    #[prost(uint32, repeated, tag = "6")]
    pub prefill_tokens: Vec<u32>,
    /// Workers that have requests waiting for an endpoint, by the highest priority of those: they share what is free, and what cannot be
    /// shared is the first ones'.
    #[prost(message, repeated, tag = "8")]
    pub waiting: Vec<WaitingWorker>,
    /// Requests that each endpoint of the membership runs at once, where a worker learned it, else 0; empty: nobody learned any.
    #[prost(uint32, repeated, tag = "9")]
    pub slots: Vec<u32>,
}

/// A worker that has requests waiting for an endpoint.
#[derive(Clone, Copy, Eq, Message, PartialEq)]
pub struct WaitingWorker {
    /// Which one.
    #[prost(fixed64, tag = "1")]
    pub worker: u64,
    /// The highest priority of a request that waits there.
    #[prost(sint64, tag = "2")]
    pub priority: i64,
    /// Requests of that priority that wait there.
    #[prost(uint32, tag = "3")]
    pub requests: u32,
    /// Requests that the worker has in flight to members of its pool.
    #[prost(uint32, tag = "4")]
    pub in_flight: u32,
    /// Position of its pool's first endpoint in the membership.
    #[prost(uint32, tag = "5")]
    pub first: u32,
}

/// Adds up what workers post; the holder of the lease has one.
#[derive(Debug, Default)]
pub struct Gatherer {
    posts: Vec<Held>,
    board: Board,
    /// The membership before the current one: workers learn of a change one by one.
    previous: Option<Membership>,
    renewed_at: Option<Timestamp>,
}

/// A post as it was last read.
#[derive(Debug)]
struct Held {
    /// The number of its value in shared data.
    cas: u32,
    post: Post,
}

impl Gatherer {
    /// The sums.
    #[must_use]
    pub const fn board(&self) -> &Board {
        &self.board
    }

    /// The posts of all living workers.
    pub fn posts(&self) -> impl Iterator<Item = &Post> {
        self.posts.iter().map(|held| &held.post)
    }

    /// Another membership replaces `old`.
    pub fn membership_replaced(&mut self, old: Membership) {
        self.previous = Some(old);
        self.board.order = None;
    }

    /// Reads the posts of all workers, drops those that have expired, and stores the board where it changed or is due for renewal. True:
    /// the sums or the posts changed.
    pub fn tick(&mut self, shared: &mut impl SharedData, membership: &Membership, now: Timestamp) -> bool {
        let changed = self.read(shared, now) || self.board.order != Some(Order::of(membership));
        if changed {
            self.sum(membership);
        }
        let is_due = self.renewed_at.is_none_or(|at| now.micros_since(at) >= RENEW_AFTER_MICROS);
        if changed || is_due {
            let stored =
                !changed && self.renewed_at.is_some() || shared.set(key::BOARD, &self.board.encode_to_vec(), 0).is_ok();
            let written = stored
                && Version::change(shared, |version| {
                    version.board += u64::from(changed);
                    version.board_renewed_at_micros = now.as_micros();
                });
            // What could not be written is written on the next tick.
            self.renewed_at = written.then_some(now);
            if !written {
                self.board.order = None;
            }
        }
        changed
    }

    /// True when a post came, changed or went.
    fn read(&mut self, shared: &mut impl SharedData, now: Timestamp) -> bool {
        let roster = shared.get(key::ROSTER);
        let (bytes, cas) = roster.unwrap_or_default();
        let roster = Roster::decode(bytes.as_slice()).unwrap_or_default();
        let before = self.posts.len();
        self.posts.retain(|held| roster.workers.contains(&held.post.worker));
        let mut changed = self.posts.len() != before;
        let mut gone = Vec::new();
        for &worker in &roster.workers {
            let position = self.posts.iter().position(|held| held.post.worker == worker);
            let read = shared.get(&key::post(worker));
            let known = position.and_then(|position| self.posts.get_mut(position));
            if let Some((bytes, cas)) = read
                && known.as_ref().is_none_or(|held| held.cas != cas)
                && let Some(post) = Post::decode(bytes.as_slice()).ok().filter(|post| post.worker == worker)
            {
                match known {
                    Some(held) => {
                        changed |= held.post.sequence != post.sequence;
                        *held = Held { cas, post };
                    }
                    None => {
                        changed = true;
                        self.posts.push(Held { cas, post });
                    }
                }
            }
            let is_alive = self.posts.iter().any(|held| held.post.worker == worker && held.post.is_alive(now));
            if !is_alive {
                gone.push(worker);
            }
        }
        if !gone.is_empty() {
            changed = true;
            self.posts.retain(|held| !gone.contains(&held.post.worker));
            let alive = Roster { workers: roster.workers.iter().copied().filter(|id| !gone.contains(id)).collect() };
            // A worker that enrolled meanwhile wins; the next tick tries again.
            if shared.set(key::ROSTER, &alive.encode_to_vec(), cas).is_ok() {
                for worker in gone {
                    let _ = shared.set(&key::post(worker), b"", 0);
                    let _ = shared.set(&key::prefixes(worker), b"", 0);
                    let _ = shared.set(&key::picks(worker), b"", 0);
                }
            }
        }
        changed
    }

    fn sum(&mut self, membership: &Membership) {
        let order = Order::of(membership);
        let board = &mut self.board;
        board.order = Some(order);
        board.in_flight.clear();
        board.in_flight.resize(membership.endpoint_count(), 0);
        board.prefill_tokens.clear();
        board.prefill_tokens.resize(membership.endpoint_count(), 0);
        board.departed.clear();
        board.contained.clear();
        board.suspects.clear();
        board.waiting.clear();
        board.slots.clear();
        for Held { post, .. } in &self.posts {
            board.waiting.extend(WaitingWorker::of(post));
            board.contained.push(Contained { worker: post.worker, sequence: post.sequence });
            if post.order == Some(order) {
                add(&mut board.in_flight, post.first, &post.in_flight);
                add(&mut board.prefill_tokens, post.first, &post.prefill_tokens);
                board.add_slots(post, membership.endpoint_count());
                let place = |suspect: &Suspect| suspect.place.saturating_add(post.first);
                let suspects = post.suspects.iter();
                board.suspects.extend(suspects.map(|it| Suspect { place: place(it), worker: post.worker, ..*it }));
            } else if let Some(previous) = self.previous.as_ref().filter(|old| post.order == Some(Order::of(old))) {
                board.add_moved(post, previous, membership);
            }
            for departed in &post.departed {
                board.add_departed(departed.clone());
            }
        }
        board.waiting.sort_unstable_by_key(|waiting| (core::cmp::Reverse(waiting.priority), waiting.worker));
    }
}

impl WaitingWorker {
    /// What a worker's post says of those that wait there; `None`: nobody does.
    fn of(post: &Post) -> Option<Self> {
        let waiting = || post.flow.iter().flat_map(|flow| &flow.waiting).filter(|waiting| waiting.requests > 0);
        let priority = waiting().map(|waiting| waiting.priority).max()?;
        let sum = |counts: &mut dyn Iterator<Item = u32>| counts.fold(0, u32::saturating_add);
        let mut urgent = waiting().filter(|waiting| waiting.priority == priority).map(|waiting| waiting.requests);
        Some(Self {
            worker: post.worker,
            priority,
            requests: sum(&mut urgent),
            in_flight: sum(&mut post.in_flight.iter().copied()),
            first: post.first,
        })
    }
}

impl Board {
    /// Adds a post in the order of an older membership, endpoint by endpoint.
    fn add_moved(&mut self, post: &Post, from: &Membership, to: &Membership) {
        let Some((old, _)) = from.pool(&post.pool) else { return };
        let now = to.pool(&post.pool);
        let places: HashMap<_, usize> = now
            .map(|(pool, first)| pool.endpoints.iter().enumerate().map(move |(index, is)| (is.address, first + index)))
            .into_iter()
            .flatten()
            .collect();
        for (identity, &count) in old.endpoints.iter().zip(&post.in_flight).filter(|(_, count)| **count > 0) {
            match places.get(&identity.address).and_then(|&place| self.in_flight.get_mut(place)) {
                Some(sum) => *sum = sum.saturating_add(count),
                None => {
                    let (pool, address) = (post.pool.clone(), identity.address.to_string());
                    self.add_departed(Departed { pool, address, count });
                }
            }
        }
    }

    /// Notes the slots that a worker learned.
    fn add_slots(&mut self, post: &Post, endpoints: usize) {
        for lesson in post.lessons.iter().filter(|lesson| lesson.slots > 0) {
            self.slots.resize(endpoints, 0);
            if let Some(slots) = self.slots.get_mut(post.first.saturating_add(lesson.place) as usize) {
                *slots = lesson.slots.max(*slots);
            }
        }
    }

    fn add_departed(&mut self, departed: Departed) {
        let same =
            self.departed.iter_mut().find(|known| known.pool == departed.pool && known.address == departed.address);
        match same {
            Some(known) => known.count = known.count.saturating_add(departed.count),
            None => self.departed.push(departed),
        }
    }

    /// Whether requests wait in several workers, which then have to tell one another quickly who takes what is free.
    #[must_use]
    pub const fn is_contended(&self) -> bool {
        self.waiting.len() > 1
    }

    /// Which post of that worker is contained; `None`: none is.
    #[must_use]
    pub fn contained(&self, worker: u64) -> Option<u64> {
        self.contained.iter().find(|contained| contained.worker == worker).map(|contained| contained.sequence)
    }
}

impl Post {
    /// Whether its worker is still there.
    #[must_use]
    pub const fn is_alive(&self, now: Timestamp) -> bool {
        now.micros_since(Timestamp::from_micros(self.written_at_micros)) < EXPIRE_AFTER_MICROS
    }
}

/// Adds what a post counts to the sums from the place `first` on.
fn add(sums: &mut [u32], first: u32, counts: &[u32]) {
    for (sum, &count) in sums.iter_mut().skip(first as usize).zip(counts) {
        *sum = sum.saturating_add(count);
    }
}

/// Puts a worker on the roster. False: it could not be written; the next tick tries again.
pub fn enroll(shared: &mut impl SharedData, worker: u64) -> bool {
    let enrolled = update(shared, key::ROSTER, |held| {
        let mut roster = held.and_then(|bytes| Roster::decode(bytes).ok()).unwrap_or_default();
        let is_new = !roster.workers.contains(&worker);
        if is_new {
            roster.workers.push(worker);
        }
        ((), is_new.then(|| roster.encode_to_vec()))
    });
    enrolled.is_ok()
}

#[cfg(test)]
mod tests;
