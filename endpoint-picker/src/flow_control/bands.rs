//! Who waits: bands by priority, in each the flows of those that share it, in each flow its requests in order.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::outcome::FlowSize;
use super::settings::{Fairness, FlowSettings, Ordering};
use crate::time::Timestamp;

/// Where in its flow a request is: the moment that decides, then the number in which it came.
type Rank = (Timestamp, u64);

/// Finds a request that waits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ticket {
    number: u64,
    priority: i64,
    flow: u64,
    rank: Rank,
}

impl Ticket {
    /// Another one for each request that ever waited.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.number
    }
}

/// A request that waits, with what it needs to go on.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    pub(super) ticket: Ticket,
    pub(super) bytes: u64,
    pub(super) came: Timestamp,
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
    pub(super) now: Timestamp,
}

#[derive(Debug)]
struct Flow<T> {
    /// Grows from flow to flow: a flow that comes again is another one.
    number: u64,
    fairness_id: Box<str>,
    waiting: VecDeque<Waiting<T>>,
    bytes: u64,
}

#[derive(Debug)]
struct Band<T> {
    priority: i64,
    flows: Vec<Flow<T>>,
    /// The flow whose turn it is.
    turn: usize,
    requests: u64,
    bytes: u64,
}

/// Everybody who waits. Flows and bands without anybody are not kept.
#[derive(Debug)]
pub(super) struct Bands<T> {
    /// The highest priority first.
    bands: Vec<Band<T>>,
    next: u64,
    requests: u64,
    bytes: u64,
    /// Everybody in the order in which they came, who left among them.
    ages: VecDeque<Ticket>,
}

impl<T> Default for Bands<T> {
    fn default() -> Self {
        Self { bands: Vec::new(), next: 0, requests: 0, bytes: 0, ages: VecDeque::new() }
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
        let Arrival { fairness_id, priority, bytes, deadline, now } = *arrival;
        self.next += 1;
        let number = self.next;
        let key = match ordering {
            Ordering::FirstCome => Timestamp::default(),
            Ordering::EarliestDeadline => deadline.unwrap_or(Timestamp::MAX),
        };
        let place = self.bands.partition_point(|band| band.priority > priority);
        if self.bands.get(place).is_none_or(|band| band.priority != priority) {
            self.bands.insert(place, Band { priority, flows: Vec::new(), turn: 0, requests: 0, bytes: 0 });
        }
        let mut ticket = Ticket { number, priority, flow: number, rank: (key, number) };
        if let Some(band) = self.bands.get_mut(place) {
            band.requests += 1;
            band.bytes += bytes;
            if !band.flows.iter().any(|flow| *flow.fairness_id == *fairness_id) {
                let flow = Flow { number, fairness_id: fairness_id.into(), waiting: VecDeque::new(), bytes: 0 };
                band.flows.push(flow);
            }
            if let Some(flow) = band.flows.iter_mut().find(|flow| *flow.fairness_id == *fairness_id) {
                ticket.flow = flow.number;
                flow.bytes += bytes;
                let place = flow.waiting.partition_point(|other| other.ticket.rank < ticket.rank);
                flow.waiting.insert(place, Waiting { ticket, bytes, came: now, held });
            }
        }
        self.requests += 1;
        self.bytes += bytes;
        self.ages.push_back(ticket);
        ticket
    }

    /// Takes a request out.
    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Waiting<T>> {
        let place = self.bands.iter().position(|band| band.priority == ticket.priority)?;
        let band = self.bands.get_mut(place)?;
        let at = band.flows.iter().position(|flow| flow.number == ticket.flow)?;
        let flow = band.flows.get_mut(at)?;
        let index = flow.waiting.binary_search_by_key(&ticket.rank, |waiting| waiting.ticket.rank).ok()?;
        let waiting = flow.waiting.remove(index)?;
        flow.bytes -= waiting.bytes;
        band.requests -= 1;
        band.bytes -= waiting.bytes;
        if flow.waiting.is_empty() {
            band.flows.remove(at);
            // Those behind move up: the turn stays with whom it was.
            band.turn -= usize::from(at < band.turn);
        }
        if band.flows.is_empty() {
            self.bands.remove(place);
        }
        self.requests -= 1;
        self.bytes -= waiting.bytes;
        Some(waiting)
    }

    /// A request that waits.
    pub(super) fn get(&self, ticket: Ticket) -> Option<&Waiting<T>> {
        let band = self.bands.iter().find(|band| band.priority == ticket.priority)?;
        let flow = band.flows.iter().find(|flow| flow.number == ticket.flow)?;
        let index = flow.waiting.binary_search_by_key(&ticket.rank, |waiting| waiting.ticket.rank).ok()?;
        flow.waiting.get(index)
    }

    /// The same, to be changed.
    pub(super) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut Waiting<T>> {
        let band = self.bands.iter_mut().find(|band| band.priority == ticket.priority)?;
        let flow = band.flows.iter_mut().find(|flow| flow.number == ticket.flow)?;
        let index = flow.waiting.binary_search_by_key(&ticket.rank, |waiting| waiting.ticket.rank).ok()?;
        flow.waiting.get_mut(index)
    }

    /// Who has waited longest of all.
    pub(super) fn oldest(&mut self) -> Option<&Waiting<T>> {
        while let Some(&ticket) = self.ages.front() {
            if self.get(ticket).is_some() {
                return self.get(ticket);
            }
            self.ages.pop_front();
        }
        None
    }

    /// Bands from the highest priority on, in each its flows from the one whose turn it is, in each its requests from the first on.
    pub(super) fn bands(&self, fairness: Fairness) -> impl Iterator<Item = Vec<&VecDeque<Waiting<T>>>> {
        self.bands.iter().map(move |band| {
            let turn = band.turn.min(band.flows.len());
            let (before, from) = band.flows.split_at_checked(turn).unwrap_or((&[], &[]));
            let mut flows: Vec<_> = from.iter().chain(before).map(|flow| &flow.waiting).collect();
            if fairness == Fairness::BestHead {
                flows.sort_by_key(|waiting| waiting.front().map(|first| first.ticket.rank));
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
                requests: flow.waiting.len() as u64,
                bytes: flow.bytes,
            })
        })
    }
}
