//! An instance of the filter between requests: it reads the news, posts what it has in flight, has labels admitted, carries statistics to
//! the host and stands in for the snapshot service.

use alloc::collections::VecDeque;
use alloc::string::ToString;
use alloc::vec::Vec;

use prost::Message;
use snapshot::{LoadsDecoder, Membership};

use crate::board::{
    Board, CONTENDED_TICK_MILLIS, Departed, EXPIRE_AFTER_MICROS, Lesson, Order, Post, RENEW_AFTER_MICROS, RunningModel,
    Suspect, Version, WaitingWorker, enroll, key,
};
use crate::flusher::Flusher;
use crate::holder::{Binding, Holder};
use crate::lease::Rank;
use crate::picker::EndpointPicker;
use crate::pool::{EndpointId, Standing};
use crate::prefix_news::Correspondent;
use crate::recent_picks::Narrator;
use crate::routing::Routing;
use crate::scheduling::Peers;
use crate::shared_data::{SetError, SharedData, update};
use crate::snapshot_service::SidecarResponse;
use crate::time::Timestamp;

/// While stats wait to be defined, ticks come this often: a new model's series are there within a second, for a tenth of one
/// worker's time at the worst.
pub const DEFINING_TICK_MILLIS: u32 = 10;
/// An instance that has served nothing yet (Envoy's main thread runs one that never will) looks up only this often.
pub const UNUSED_TICK_MILLIS: u32 = 500;
/// A worker looks for news this often: half the age that a sidecar's poll has on average when it arrives, for two host calls.
pub const SERVING_TICK_MILLIS: u32 = 50;
/// Microseconds of one tick that go into counting what other threads told. At one such tick in [`DEFINING_TICK_MILLIS`] some 50 000 requests a
/// second are kept up with.
const MAX_HEARING_MICROS: u64 = 1_000;
/// Posts that are remembered until a board contains them. The board contains the newest post of its moment, and a worker reads it on its
/// next tick, so a few are enough.
const MAX_REMEMBERED: usize = 8;

/// One instance of the filter between requests.
#[derive(Debug)]
pub struct Worker {
    id: u64,
    is_serving: bool,
    /// Other threads told more than was counted on the last tick.
    is_behind: bool,
    period_millis: u32,
    holder: Holder,
    flusher: Flusher,
    news: News,
    posted: Option<Posted>,
    is_enrolled: bool,
    prefixes: Correspondent,
    narrator: Narrator,
}

/// What was read of the others.
#[derive(Debug, Default)]
struct News {
    /// The stored version whose values are in use.
    seen: Version,
    /// The membership in use, and where the pool begins in it.
    order: Option<Order>,
    first: u32,
    loads: LoadsDecoder,
    /// The others' counts are in use.
    others: bool,
    /// Requests wait in several workers.
    is_contended: bool,
    /// [`Version::watched_until_micros`].
    watched_until_micros: u64,
}

/// What this worker last told the others.
#[derive(Debug)]
struct Posted {
    post: Post,
    /// [`crate::accounts::Accounts::revision`] of that moment.
    revision: u64,
    /// When what gauges read was last written down.
    noted_at: Option<Timestamp>,
    /// Own requests in flight by sequence, until a board contains a newer post.
    remembered: VecDeque<(u64, Vec<(u32, u32)>)>,
}

impl Worker {
    /// A worker with that random id. `build` are the commit and the reference that the module was built from. One that a new configuration brings is no
    /// start of a machine: a binding counts those.
    #[must_use]
    pub fn new(id: u64, picker: &EndpointPicker, build: [&'static str; 2]) -> Self {
        Self {
            id,
            is_serving: false,
            is_behind: false,
            period_millis: UNUSED_TICK_MILLIS,
            holder: Holder::new(id, picker.config().sidecar.clone(), build),
            flusher: Flusher::default(),
            news: News::default(),
            posted: None,
            is_enrolled: false,
            prefixes: Correspondent::default(),
            narrator: Narrator::default(),
        }
    }

    /// Milliseconds between ticks that it asked for last.
    #[must_use]
    pub const fn period_millis(&self) -> u32 {
        self.period_millis
    }

    /// Whether it holds the lease of the snapshot service.
    #[must_use]
    pub const fn is_holder(&self) -> bool {
        self.holder.is_held()
    }

    /// A request came. The first one ends the rest: what is known may be old, or nothing.
    pub fn request_came(&mut self, picker: &mut EndpointPicker, host: &mut impl Binding) {
        if !self.is_serving {
            self.is_serving = true;
            self.keep_pace(picker, host);
            let now = host.now();
            self.news.read(self.id, self.posted.as_mut(), picker, host, now);
        }
    }

    /// One tick.
    pub fn tick(&mut self, picker: &mut EndpointPicker, host: &mut impl Binding) {
        let now = host.now();
        picker.catch_up();
        self.is_behind = picker.hear();
        while self.is_behind && host.now().micros_since(now) < MAX_HEARING_MICROS {
            self.is_behind = picker.hear();
        }
        let rank = if self.is_serving { Rank::Serving } else { Rank::Unused };
        self.holder.tick(host, rank, now);
        self.news.read(self.id, self.posted.as_mut(), picker, host, now);
        picker.telemetry_mut().propose_waiting();
        admit(picker, host);
        self.post(picker, host, now);
        // Also while it serves nothing: its first request may be the next turn of what another worker served.
        self.prefixes.tick(self.id, self.news.order, self.news.first, picker, host, now);
        let is_watched = now.as_micros() < self.news.watched_until_micros;
        let explained = picker.recent_picks_mut().take();
        picker.set_watched(is_watched, now);
        self.narrator.tick(self.id, is_watched, explained, host);
        let interval_ms = picker.config().stats.flush_interval_ms;
        if self.flusher.is_due(interval_ms, now) {
            picker.telemetry_mut().derive();
        }
        self.flusher.tick(picker.telemetry_mut().ledger_mut(), host, interval_ms, now);
        self.keep_pace(picker, host);
    }

    /// The sidecar answered; `None`: it did not in time.
    pub fn handle_response(&mut self, host: &mut impl Binding, response: Option<SidecarResponse<'_>>) {
        let now = host.now();
        self.holder.handle_response(host, response, now);
    }

    /// The last chance to carry statistics to the host: the configuration was replaced or the server stops.
    pub fn finish(&mut self, picker: &mut EndpointPicker, host: &mut impl Binding) {
        picker.catch_up();
        while picker.hear() {}
        admit(picker, host);
        picker.settle_pending();
        self.flusher.finish(picker.telemetry_mut().derive(), host);
        self.holder.finish(host);
    }

    fn keep_pace(&mut self, picker: &mut EndpointPicker, host: &mut impl Binding) {
        let defining = self.is_serving && (self.is_behind || picker.telemetry_mut().ledger_mut().undefined() > 0);
        let rest = match (self.is_serving, defining) {
            (false, _) => UNUSED_TICK_MILLIS,
            (true, _) if self.news.is_contended => CONTENDED_TICK_MILLIS,
            (true, false) => SERVING_TICK_MILLIS,
            (true, true) => DEFINING_TICK_MILLIS,
        };
        let period = if self.holder.is_held() { rest.min(self.holder.period_millis()) } else { rest };
        if period != self.period_millis && host.set_tick_period(period) {
            self.period_millis = period;
        }
    }

    /// Posts what is in flight where that has changed or is due for renewal, and enrols where the roster does not list this worker.
    fn post(&mut self, picker: &EndpointPicker, host: &mut impl Binding, now: Timestamp) {
        if !self.is_serving {
            return;
        }
        let memory_bytes = host.memory_bytes();
        // Where another thread holds the routing, the next tick posts.
        let Some(revision) = picker.look(|routing| routing.accounts().revision()) else { return };
        let flow = picker.flow_post(now);
        let is_changed = self.posted.as_ref().is_none_or(|posted| {
            posted.revision != revision
                || posted.post.flow != flow
                || posted.post.memory_bytes != memory_bytes
                || posted.post.order != self.news.order
        });
        let is_due = self.posted.as_ref().is_none_or(|posted| {
            now.micros_since(Timestamp::from_micros(posted.post.written_at_micros)) >= RENEW_AFTER_MICROS
        });
        if !is_changed && !is_due {
            return;
        }
        // A worker that was paused for long has been dropped from the roster.
        if is_due {
            self.is_enrolled = false;
        }
        let mut posted = self.posted.take().unwrap_or_else(|| Posted::first(self.id, picker));
        picker.look(|routing| {
            if is_changed {
                posted.count(routing, &self.news, memory_bytes, now);
                posted.post.flow.clone_from(&flow);
                posted.revision = revision;
            }
            posted.note(routing, now);
        });
        posted.post.written_at_micros = now.as_micros();
        if host.set(&key::post(self.id), &posted.post.encode_to_vec(), 0).is_ok() {
            self.is_enrolled = self.is_enrolled || enroll(host, self.id);
        } else {
            posted.post.written_at_micros = 0;
        }
        self.posted = Some(posted);
    }
}

impl Posted {
    fn first(worker: u64, picker: &EndpointPicker) -> Self {
        let config = picker.config();
        let post = Post {
            worker,
            objective: config.stats.objective,
            model: config.stats.model,
            llm_d: config.stats.llm_d,
            pool: config.pool.clone(),
            ..Post::default()
        };
        Self { post, revision: 0, noted_at: None, remembered: VecDeque::new() }
    }

    fn count(&mut self, routing: &Routing, news: &News, memory_bytes: u64, now: Timestamp) {
        let pool = routing.pool();
        let post = &mut self.post;
        post.sequence += 1;
        if post.order != news.order {
            // Counts in the order of another membership cannot be subtracted from a board of this one.
            self.remembered.clear();
            self.noted_at = None;
        }
        post.memory_bytes = memory_bytes;
        post.order = news.order;
        post.first = news.first;
        post.in_flight.clear();
        post.prefill_tokens.clear();
        for endpoint in pool.members().iter().map(|&id| pool.endpoint(id)) {
            post.in_flight.push(endpoint.map_or(0, |endpoint| endpoint.in_flight().own()));
            let tokens = endpoint.map_or(0, |endpoint| endpoint.prefill().own_tokens(now));
            post.prefill_tokens.push(u32::try_from(tokens).unwrap_or(u32::MAX));
        }
        post.departed.clear();
        let departed = pool.endpoints().filter(|(_, endpoint)| !endpoint.is_member() && endpoint.in_flight().own() > 0);
        post.departed.extend(departed.map(|(_, endpoint)| Departed {
            pool: post.pool.clone(),
            address: endpoint.identity().address.to_string(),
            count: endpoint.in_flight().own(),
        }));
        post.prefix_entries = routing.prefix_index().len() as u64;
        post.running.clear();
        // Where a gauge of them is published, it shows 0 for what does not run any more.
        let is_told = |count: u32| count > 0 || post.llm_d;
        let ran = routing.accounts().ran().filter(|(_, count)| is_told(*count));
        post.running.extend(ran.map(|(running, count)| RunningModel::of(running, count)));
        post.suspects.clear();
        post.suspects.extend(pool.suspicions(now).map(|(place, suspicion)| Suspect::of(place, suspicion)));
        let mut counts = if self.remembered.len() >= MAX_REMEMBERED {
            self.remembered.pop_front().map(|(_, counts)| counts).unwrap_or_default()
        } else {
            Vec::new()
        };
        counts.clear();
        counts.extend(post.in_flight.iter().copied().zip(post.prefill_tokens.iter().copied()));
        self.remembered.push_back((post.sequence, counts));
    }

    /// Writes down what was learned and who is left out, unless that was done a moment ago: only gauges read it, once a second.
    fn note(&mut self, routing: &Routing, now: Timestamp) {
        if self.noted_at.is_some_and(|at| now.micros_since(at) < RENEW_AFTER_MICROS) {
            return;
        }
        self.noted_at = Some(now);
        let pool = routing.pool();
        let members = || (0_u32..).zip(pool.members());
        self.post.lessons.clear();
        self.post.lessons.extend(members().filter_map(|(place, &id)| lesson(routing, place, id)));
        let is_ejected = |id| pool.endpoint(id).is_some_and(|it| it.health().standing(now) == Standing::Ejected);
        self.post.ejected.clear();
        self.post.ejected.extend(members().filter(|(_, id)| is_ejected(**id)).map(|(place, _)| place));
    }

    /// What this worker had in flight in that post.
    fn remember(&mut self, sequence: u64) -> Option<&[(u32, u32)]> {
        while self.remembered.len() > 1 && self.remembered.front().is_some_and(|(oldest, _)| *oldest < sequence) {
            self.remembered.pop_front();
        }
        self.remembered.iter().find(|(other, _)| *other == sequence).map(|(_, counts)| counts.as_slice())
    }
}

impl News {
    fn read(
        &mut self,
        id: u64,
        posted: Option<&mut Posted>,
        picker: &mut EndpointPicker,
        shared: &mut impl SharedData,
        now: Timestamp,
    ) {
        let version = Version::read(shared);
        self.watched_until_micros = version.watched_until_micros;
        if version.membership != self.seen.membership {
            self.read_membership(picker, shared, version.membership);
        }
        // Before the loads: what the others have now is taken for what they had when the pages were made, which is as long ago.
        self.read_board(id, posted, picker, shared, &version, now);
        if version.loads != self.seen.loads {
            self.read_loads(picker, shared, &version);
        }
        // A confirmation is of the newest loads: those in use may be others.
        if version.loads > 0
            && version.loads == self.seen.loads
            && version.confirmed_at_micros != self.seen.confirmed_at_micros
        {
            picker.confirm(Timestamp::from_micros(version.confirmed_at_micros));
            self.seen.confirmed_at_micros = version.confirmed_at_micros;
        }
    }

    /// The holder stored only what it could decode; anything else is left until the next version.
    fn read_membership(&mut self, picker: &mut EndpointPicker, shared: &mut impl SharedData, version: u64) {
        let stored = shared.get(key::MEMBERSHIP);
        let Some(Ok(membership)) = stored.map(|(bytes, _)| Membership::decode(&bytes)) else { return };
        picker.install_membership(&membership);
        self.first = membership.pool(&picker.config().pool).map_or(0, |(_, first)| u32::try_from(first).unwrap_or(0));
        self.order = Some(Order::of(&membership));
        self.seen.membership = version;
        // The others' counts are in the order of the old membership.
        self.seen.board = 0;
    }

    fn read_loads(&mut self, picker: &mut EndpointPicker, shared: &mut impl SharedData, version: &Version) {
        let Some((bytes, _)) = shared.get(key::LOADS) else { return };
        let Ok(loads) = self.loads.decode(&bytes) else { return };
        match picker.install_loads(loads, Timestamp::from_micros(version.loads_received_at_micros)) {
            Ok(()) => self.seen.loads = version.loads,
            // Written between the reads of the two: the next tick reads both again.
            Err(_) => self.seen.membership = 0,
        }
    }

    fn read_board(
        &mut self,
        id: u64,
        posted: Option<&mut Posted>,
        picker: &mut EndpointPicker,
        shared: &mut impl SharedData,
        version: &Version,
        now: Timestamp,
    ) {
        let renewed_at = Timestamp::from_micros(version.board_renewed_at_micros);
        if now.micros_since(renewed_at) >= EXPIRE_AFTER_MICROS {
            if core::mem::take(&mut self.others) {
                picker.set_others_in_flight([]);
                picker.set_peers(Peers::default());
            }
            self.is_contended = false;
            self.seen.board = 0;
            return;
        }
        if version.board == self.seen.board {
            return;
        }
        let Some(Ok(board)) = shared.get(key::BOARD).map(|(bytes, _)| Board::decode(bytes.as_slice())) else { return };
        // A board of another membership is of no use; one of the own membership comes within a tick or two.
        if board.order.is_none() || board.order != self.order {
            return;
        }
        let own = match (board.contained(id), posted) {
            (None, _) => &[][..],
            // The post was in the order of another membership.
            (Some(_), Some(posted)) if posted.post.order != self.order => return,
            (Some(sequence), Some(posted)) => match posted.remember(sequence) {
                Some(counts) => counts,
                None => return,
            },
            (Some(_), None) => return,
        };
        let tokens = board.prefill_tokens.iter().copied().chain(core::iter::repeat(0));
        let sums = board.in_flight.iter().copied().zip(tokens).skip(self.first as usize);
        let own = own.iter().copied().chain(core::iter::repeat((0, 0)));
        let others = sums.zip(own).map(|(sum, own)| (sum.0.saturating_sub(own.0), sum.1.saturating_sub(own.1)));
        picker.set_others_in_flight(others);
        picker.learn_slots(board.slots.iter().copied().skip(self.first as usize));
        picker.set_peers(peers(&board.waiting, id, self.first, version.board));
        let end = self.first.saturating_add(u32::try_from(picker.pool().members().len()).unwrap_or(u32::MAX));
        for suspect in board.suspects.iter().filter(|suspect| suspect.worker != id && suspect.place < end) {
            if let Some(place) = suspect.place.checked_sub(self.first) {
                picker.learn_suspicion(place as usize, suspect.suspicion(), now);
            }
        }
        self.others = true;
        self.is_contended = board.is_contended();
        self.seen.board = version.board;
    }
}

/// With whom a worker shares what is free: those that have requests waiting for the pool that begins at the place `first`. Who has nobody waiting yet
/// comes last.
fn peers(waiting: &[WaitingWorker], id: u64, first: u32, board: u64) -> Peers {
    let of_pool = || waiting.iter().filter(|waiting| waiting.first == first);
    let rank_of = |waiting: &WaitingWorker| (core::cmp::Reverse(waiting.priority), has_plenty(waiting, of_pool()));
    let own = of_pool().find(|waiting| waiting.worker == id).map(rank_of);
    let is_before = |waiting: &WaitingWorker| waiting.worker != id && own.is_none_or(|own| rank_of(waiting) < own);
    let count = |counts: &dyn Fn(&WaitingWorker) -> bool| {
        u32::try_from(of_pool().filter(|waiting| counts(waiting)).count()).unwrap_or(u32::MAX)
    };
    let is_equal = |waiting: &WaitingWorker| Some(rank_of(waiting)) == own;
    let rank = count(&|waiting| is_equal(waiting) && waiting.worker < id);
    Peers {
        workers: count(&|waiting| waiting.worker != id).saturating_add(1),
        before: count(&is_before),
        equals: count(&is_equal).max(1),
        #[allow(clippy::cast_possible_truncation, reason = "it goes round")]
        turn: rank.wrapping_add(board as u32),
        wanted: of_pool().filter(|waiting| is_before(waiting)).fold(0, |sum, it| sum.saturating_add(it.requests)),
    }
}

/// Whether a worker has clearly more in flight than those whose requests are as urgent have in the mean: by an eighth, which is what comes and
/// goes between two looks, and by half a request at least, so that of two workers the one that has a pool's only slot has more.
fn has_plenty<'a>(own: &WaitingWorker, all: impl Iterator<Item = &'a WaitingWorker>) -> bool {
    let alike = all.filter(|other| other.priority == own.priority);
    let (workers, sum) = alike.fold((0_i64, 0_i64), |(workers, sum), it| (workers + 1, sum + i64::from(it.in_flight)));
    let beyond = i64::from(own.in_flight) * workers - sum;
    2 * beyond >= workers && 8 * beyond > sum
}

/// What was learned of a member that answered.
fn lesson(routing: &Routing, place: u32, id: EndpointId) -> Option<Lesson> {
    let answers = routing.learner().answers(id);
    if answers < 1.0 {
        return None;
    }
    let rates = routing.learner().rates(id);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast from a float saturates")]
    let whole = |value: f64| value as u64;
    Some(Lesson {
        place,
        fixed_micros: whole(rates.fixed),
        token_nanos: whole(rates.uncached * 1_000.0),
        slot_micros: whole(rates.slot),
        slots: routing.pool().endpoint(id)?.slots().unwrap_or(0),
        answers: u32::try_from(whole(answers)).unwrap_or(u32::MAX),
    })
}

/// Merges this worker's copy of the table of labels with the stored one, and counts what waited for that.
fn admit(picker: &mut EndpointPicker, shared: &mut impl SharedData) {
    let admission = picker.telemetry_mut().admission_mut();
    if !admission.has_proposals() {
        return;
    }
    let written = update(shared, key::ADMISSION, |held| {
        let grown = admission.merge(held);
        (grown.clone(), grown)
    });
    match written {
        Ok(Some(grown)) => admission.learn(&grown),
        // The stored table needs no change, or others were faster several times.
        Ok(None) | Err(SetError::Changed) => {}
        Err(SetError::Refused) => admission.give_up(),
    }
    // Where others were faster, the next tick tries again.
    if !admission.has_proposals() {
        if picker.is_sharing()
            && let Some((table, _)) = shared.get(key::ADMISSION)
        {
            picker.publish_labels(&table);
        }
        picker.settle_pending();
    }
}

#[cfg(test)]
mod tests;
