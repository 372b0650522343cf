//! Who waits: bands by priority, in each the flows of those that share it, in each flow a lane for each endpoint at which requests would be
//! at home, in each lane its requests in order.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use super::outcome::FlowSize;
use super::settings::{Fairness, FlowSettings, Ordering};
use crate::pool::EndpointId;
use crate::time::Timestamp;

/// Where in its flow a request is: the moment that decides, then the number in which it came.
pub(super) type Rank = (Timestamp, u64);

/// Finds a request that waits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ticket {
    number: u64,
    priority: i64,
    flow: u64,
    home: Option<EndpointId>,
    rank: Rank,
    over_at: Timestamp,
}

impl Ticket {
    /// Another one for each request that ever waited.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.number
    }

    /// Where in its flow it is.
    pub(super) const fn rank(self) -> Rank {
        self.rank
    }

    /// Whether it has waited for as long as it may.
    pub(crate) fn is_over(self, now: Timestamp) -> bool {
        now >= self.over_at
    }
}

/// A request that waits, with what it needs to go on.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    pub(super) ticket: Ticket,
    pub(super) bytes: u64,
    pub(super) held: T,
}

/// What is known of a request that is to wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival<'a> {
    pub(super) fairness_id: &'a str,
    pub(super) priority: i64,
    pub(super) bytes: u64,
    /// When its client gives up.
    pub(super) deadline: Option<Timestamp>,
    /// When it has waited for as long as it may.
    pub(super) over_at: Timestamp,
    /// Where it would best be sent; `None`: anywhere is as good.
    pub(super) home: Option<EndpointId>,
    pub(super) now: Timestamp,
}

/// Requests of one flow that have the same home.
#[derive(Debug)]
pub(super) struct Lane<T> {
    pub(super) home: Option<EndpointId>,
    /// Never empty.
    pub(super) waiting: VecDeque<Waiting<T>>,
}

/// Requests that share a fairness id.
#[derive(Debug)]
pub(super) struct Flow<T> {
    /// Grows from flow to flow: a flow that comes again is another one.
    number: u64,
    fairness_id: Box<str>,
    lanes: Vec<Lane<T>>,
    requests: u64,
    bytes: u64,
    /// Since when its first request is the first.
    since: Timestamp,
}

impl<T> Flow<T> {
    pub(super) fn lanes(&self) -> &[Lane<T>] {
        &self.lanes
    }

    /// The first of all its requests.
    pub(super) fn first(&self) -> Option<&Waiting<T>> {
        let firsts = self.lanes.iter().filter_map(|lane| lane.waiting.front());
        firsts.min_by_key(|first| first.ticket.rank)
    }

    /// Since when that one is the first.
    pub(super) const fn since(&self) -> Timestamp {
        self.since
    }

    fn find(&self, ticket: Ticket) -> Option<&Waiting<T>> {
        let lane = self.lanes.iter().find(|lane| lane.home == ticket.home)?;
        let index = lane.waiting.binary_search_by_key(&ticket.rank, |waiting| waiting.ticket.rank).ok()?;
        lane.waiting.get(index)
    }

    fn add(&mut self, waiting: Waiting<T>, now: Timestamp) {
        let Ticket { home, rank, .. } = waiting.ticket;
        if self.first().is_none_or(|first| rank < first.ticket.rank) {
            self.since = now;
        }
        self.requests += 1;
        self.bytes += waiting.bytes;
        let at = self.lanes.iter().position(|lane| lane.home == home).unwrap_or_else(|| {
            self.lanes.push(Lane { home, waiting: VecDeque::new() });
            self.lanes.len() - 1
        });
        if let Some(lane) = self.lanes.get_mut(at) {
            let place = lane.waiting.partition_point(|other| other.ticket.rank < rank);
            lane.waiting.insert(place, waiting);
        }
    }

    fn remove(&mut self, ticket: Ticket, now: Timestamp) -> Option<Waiting<T>> {
        let at = self.lanes.iter().position(|lane| lane.home == ticket.home)?;
        let was_first = self.first().is_some_and(|first| first.ticket == ticket);
        let lane = self.lanes.get_mut(at)?;
        let index = lane.waiting.binary_search_by_key(&ticket.rank, |waiting| waiting.ticket.rank).ok()?;
        let waiting = lane.waiting.remove(index)?;
        if lane.waiting.is_empty() {
            self.lanes.swap_remove(at);
        }
        if was_first {
            self.since = now;
        }
        self.requests -= 1;
        self.bytes -= waiting.bytes;
        Some(waiting)
    }
}

#[derive(Debug)]
struct Band<T> {
    priority: i64,
    flows: Vec<Flow<T>>,
    /// The flow whose turn it is.
    turn: usize,
    requests: u64,
    bytes: u64,
    /// How many have each endpoint for their home, by slot.
    at_home: Vec<u32>,
}

/// Everybody who waits. Flows and bands without anybody are not kept.
#[derive(Debug)]
pub(super) struct Bands<T> {
    /// The highest priority first.
    bands: Vec<Band<T>>,
    next: u64,
    requests: u64,
    bytes: u64,
    /// Everybody in the order in which they will have waited for as long as they may.
    ends: BTreeMap<(Timestamp, u64), Ticket>,
}

impl<T> Default for Bands<T> {
    fn default() -> Self {
        Self { bands: Vec::new(), next: 0, requests: 0, bytes: 0, ends: BTreeMap::new() }
    }
}

impl<T> Bands<T> {
    pub(super) const fn requests(&self) -> u64 {
        self.requests
    }

    /// Whether somebody of that priority or a higher one waits.
    pub(super) fn has(&self, priority: i64) -> bool {
        self.bands.first().is_some_and(|band| band.priority >= priority)
    }

    /// Whether another request may wait.
    pub(super) fn has_room(&self, settings: &FlowSettings, arrival: &Arrival<'_>) -> bool {
        let band = self.bands.iter().find(|band| band.priority == arrival.priority);
        let (requests, bytes) = band.map_or((0, 0), |band| (band.requests, band.bytes));
        self.requests < settings.max_requests
            && self.bytes.saturating_add(arrival.bytes) <= settings.max_bytes
            && requests < settings.band_requests
            && bytes.saturating_add(arrival.bytes) <= settings.band_bytes
    }

    /// Adds a request.
    pub(super) fn add(&mut self, ordering: Ordering, arrival: &Arrival<'_>, held: T) -> Ticket {
        let Arrival { fairness_id, priority, bytes, deadline, over_at, home, now } = *arrival;
        self.next += 1;
        let number = self.next;
        let key = match ordering {
            Ordering::FirstCome => now,
            Ordering::EarliestDeadline => deadline.unwrap_or(Timestamp::MAX),
        };
        let place = self.bands.partition_point(|band| band.priority > priority);
        if self.bands.get(place).is_none_or(|band| band.priority != priority) {
            let band = Band { priority, flows: Vec::new(), turn: 0, requests: 0, bytes: 0, at_home: Vec::new() };
            self.bands.insert(place, band);
        }
        let mut ticket = Ticket { number, priority, flow: number, home, rank: (key, number), over_at };
        if let Some(band) = self.bands.get_mut(place) {
            band.requests += 1;
            band.bytes += bytes;
            if let Some(home) = home {
                let slot = home.slot() as usize;
                if band.at_home.len() <= slot {
                    band.at_home.resize(slot + 1, 0);
                }
                if let Some(count) = band.at_home.get_mut(slot) {
                    *count += 1;
                }
            }
            let at = band.flows.iter().position(|flow| *flow.fairness_id == *fairness_id).unwrap_or_else(|| {
                band.flows.push(Flow {
                    number,
                    fairness_id: fairness_id.into(),
                    lanes: Vec::new(),
                    requests: 0,
                    bytes: 0,
                    since: now,
                });
                band.flows.len() - 1
            });
            if let Some(flow) = band.flows.get_mut(at) {
                ticket.flow = flow.number;
                flow.add(Waiting { ticket, bytes, held }, now);
            }
        }
        self.requests += 1;
        self.bytes += bytes;
        self.ends.insert((over_at, number), ticket);
        ticket
    }

    /// Takes a request out.
    pub(super) fn remove(&mut self, ticket: Ticket, now: Timestamp) -> Option<Waiting<T>> {
        let place = self.bands.iter().position(|band| band.priority == ticket.priority)?;
        let band = self.bands.get_mut(place)?;
        let at = band.flows.iter().position(|flow| flow.number == ticket.flow)?;
        let flow = band.flows.get_mut(at)?;
        let waiting = flow.remove(ticket, now)?;
        let is_empty = flow.lanes.is_empty();
        band.requests -= 1;
        band.bytes -= waiting.bytes;
        if let Some(count) = ticket.home.and_then(|home| band.at_home.get_mut(home.slot() as usize)) {
            *count -= 1;
        }
        if is_empty {
            band.flows.remove(at);
            // Those behind move up: the turn stays with whom it was.
            band.turn -= usize::from(at < band.turn);
        }
        if band.flows.is_empty() {
            self.bands.remove(place);
        }
        self.requests -= 1;
        self.bytes -= waiting.bytes;
        self.ends.remove(&(ticket.over_at, ticket.number));
        Some(waiting)
    }

    /// A request that waits.
    pub(super) fn get(&self, ticket: Ticket) -> Option<&Waiting<T>> {
        let band = self.bands.iter().find(|band| band.priority == ticket.priority)?;
        band.flows.iter().find(|flow| flow.number == ticket.flow)?.find(ticket)
    }

    /// The same, to be changed.
    pub(super) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut Waiting<T>> {
        let band = self.bands.iter_mut().find(|band| band.priority == ticket.priority)?;
        let flow = band.flows.iter_mut().find(|flow| flow.number == ticket.flow)?;
        let lane = flow.lanes.iter_mut().find(|lane| lane.home == ticket.home)?;
        let index = lane.waiting.binary_search_by_key(&ticket.rank, |waiting| waiting.ticket.rank).ok()?;
        lane.waiting.get_mut(index)
    }

    /// Whose time is over first.
    pub(super) fn next_over(&self) -> Option<Ticket> {
        self.ends.first_key_value().map(|(_, &ticket)| ticket)
    }

    /// How many would go before a request of that priority and flow at each endpoint that is their home, by slot. Of its own band those of its
    /// own flow do, and in turn with each of them one of each other flow.
    pub(super) fn count_ahead(&self, priority: i64, fairness_id: &str, ahead: &mut Vec<u32>) {
        ahead.clear();
        for band in self.bands.iter().take_while(|band| band.priority >= priority) {
            if ahead.len() < band.at_home.len() {
                ahead.resize(band.at_home.len(), 0);
            }
            if band.priority > priority {
                for (count, waiting) in ahead.iter_mut().zip(&band.at_home) {
                    *count += waiting;
                }
                continue;
            }
            let own = band.flows.iter().find(|flow| *flow.fairness_id == *fairness_id);
            for lane in own.map_or(&[][..], Flow::lanes) {
                let Some(slot) = lane.home.map(|home| home.slot() as usize) else { continue };
                let in_turn = lane.waiting.len().saturating_mul(band.flows.len());
                let all = band.at_home.get(slot).copied().unwrap_or(0);
                if let Some(count) = ahead.get_mut(slot) {
                    *count += u32::try_from(in_turn).unwrap_or(u32::MAX).min(all);
                }
            }
        }
    }

    /// How many of that priority or a higher one have that endpoint for their home.
    pub(super) fn at_home(&self, priority: i64, home: EndpointId) -> u32 {
        let bands = self.bands.iter().take_while(|band| band.priority >= priority);
        bands.filter_map(|band| band.at_home.get(home.slot() as usize)).sum()
    }

    /// Everybody who waits, the highest priority first.
    pub(super) fn everybody(&self) -> impl Iterator<Item = &Waiting<T>> {
        let lanes = self.bands.iter().flat_map(|band| &band.flows).flat_map(Flow::lanes);
        lanes.flat_map(|lane| &lane.waiting)
    }

    /// Bands from the highest priority on, in each its flows from the one whose turn it is.
    pub(super) fn bands(&self, fairness: Fairness) -> impl Iterator<Item = Vec<&Flow<T>>> {
        self.bands.iter().map(move |band| {
            let turn = band.turn.min(band.flows.len());
            let (before, from) = band.flows.split_at_checked(turn).unwrap_or((&[], &[]));
            let mut flows: Vec<_> = from.iter().chain(before).collect();
            if fairness == Fairness::BestHead {
                flows.sort_by_key(|flow| flow.first().map(|first| first.ticket.rank));
            }
            flows
        })
    }

    /// A request is sent: the next turn is that of the flow behind its own.
    pub(super) fn pass_turn(&mut self, ticket: Ticket) {
        let Some(band) = self.bands.iter_mut().find(|band| band.priority == ticket.priority) else { return };
        if let Some(at) = band.flows.iter().position(|flow| flow.number == ticket.flow) {
            band.turn = if at + 1 < band.flows.len() { at + 1 } else { 0 };
        }
    }

    /// How many wait in each flow.
    pub(super) fn sizes(&self) -> impl Iterator<Item = FlowSize<'_>> {
        self.bands.iter().flat_map(|band| {
            band.flows.iter().map(|flow| FlowSize {
                fairness_id: &flow.fairness_id,
                priority: band.priority,
                requests: flow.requests,
                bytes: flow.bytes,
            })
        })
    }
}
