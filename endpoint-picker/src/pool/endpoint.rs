//! One endpoint: who it is, how loaded, how healthy, and what this proxy has in flight to it.

use alloc::string::{String, ToString};

use snapshot::{EndpointIdentity, Load, State};

use super::rejections::Rejections;
use super::{Batch, Health, InFlight, PrefillQueue};
use crate::load_report::LoadReport;
use crate::time::Timestamp;

/// A page that was at most this old when its figures came is one that the sidecar reads regularly: while nothing changes, its
/// confirmations vouch for that page too. Five polls at the default interval.
const REGULAR_PAGE_MICROS: u64 = 250_000;

/// Names an endpoint for as long as it is known; another endpoint in the same slot has another epoch.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct EndpointId {
    pub(super) slot: u32,
    pub(super) epoch: u32,
}

impl EndpointId {
    /// Its place among all that are known; another endpoint has it after it has left.
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.slot
    }

    /// Tells apart those that have the same slot one after the other.
    #[must_use]
    pub const fn epoch(self) -> u32 {
        self.epoch
    }
}

/// One endpoint as the picker sees it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    identity: EndpointIdentity,
    /// The address as the load balancer spells it.
    destination: String,
    /// The name for labels.
    name: String,
    load: Load,
    page: Option<Page>,
    /// How many times its engine began anew while it was known.
    incarnation: u32,
    /// The sidecar, by its start, that the load is of: what it counts is its own.
    sidecar: Option<u64>,
    /// When the engine's process started, as the newest page that says so has it.
    started_at_ms: Option<u64>,
    /// What it said of its load since that page was made, and when.
    reported: Option<(Timestamp, LoadReport)>,
    health: Health,
    in_flight: InFlight,
    prefill: PrefillQueue,
    batch: Batch,
    rejections: Rejections,
    is_member: bool,
    place: u32,
}

/// The page that an endpoint's load was read from.
#[derive(Clone, Copy, Debug)]
struct Page {
    /// When it was made, on the sidecar's clock: tells one page from the next.
    stamp_ms: u64,
    /// The same on this host's clock.
    at: Timestamp,
    /// Its age when the load came.
    age_micros: u64,
}

impl Endpoint {
    pub(super) fn new(identity: EndpointIdentity) -> Self {
        Self {
            destination: identity.address.to_string(),
            name: identity.name(),
            identity,
            load: Load::default(),
            page: None,
            incarnation: 0,
            sidecar: None,
            started_at_ms: None,
            reported: None,
            health: Health::default(),
            in_flight: InFlight::default(),
            prefill: PrefillQueue::default(),
            batch: Batch::default(),
            rejections: Rejections::default(),
            is_member: true,
            place: 0,
        }
    }

    /// Who it is.
    #[must_use]
    pub const fn identity(&self) -> &EndpointIdentity {
        &self.identity
    }

    /// Its address as the load balancer spells it.
    #[must_use]
    pub fn destination(&self) -> &str {
        &self.destination
    }

    /// Its name for labels: the pod's, or the address where discovery knows no name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the sidecar last said of it.
    #[must_use]
    pub const fn load(&self) -> &Load {
        &self.load
    }

    /// Another number once its engine began anew, whose cache is empty then.
    #[must_use]
    pub const fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// What its answers say of it.
    #[must_use]
    pub const fn health(&self) -> &Health {
        &self.health
    }

    /// Requests of this proxy on their way to it or in it.
    #[must_use]
    pub const fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    /// Prompts of this proxy that it has yet to compute.
    #[must_use]
    pub const fn prefill(&self) -> &PrefillQueue {
        &self.prefill
    }

    /// How many requests its engine runs at once, where its pages told; they tell when requests wait.
    #[must_use]
    pub const fn slots(&self) -> Option<u32> {
        self.batch.slots
    }

    /// False: it has left the pool, and only requests in flight keep it here.
    #[must_use]
    pub const fn is_member(&self) -> bool {
        self.is_member
    }

    /// Whether requests may be sent to it at all: a member that, as far as is known, is ready and awake.
    #[must_use]
    pub const fn takes_requests(&self) -> bool {
        self.is_member && !matches!(self.load.state, State::Unready | State::Sleeping)
    }

    /// A member's place in the membership.
    #[must_use]
    pub const fn place(&self) -> u32 {
        self.place
    }

    /// When its load was true, given when the sidecar last confirmed all loads; `None`: it never was.
    #[must_use]
    pub fn load_at(&self, confirmed_at: Option<Timestamp>) -> Option<Timestamp> {
        let page = self.page?;
        let confirmed =
            confirmed_at.filter(|_| page.age_micros <= REGULAR_PAGE_MICROS && self.load.state == State::Fresh);
        let load_at = confirmed.map_or(page.at, |at| at.minus_micros(page.age_micros).max(page.at));
        // A report of the queue without the batch says nothing of what became of requests that were sent before it.
        let reported = self.reported.filter(|(_, report)| report.waiting.is_some() && report.running.is_some());
        Some(reported.map_or(load_at, |(at, _)| at.max(load_at)))
    }

    /// Requests of this proxy that the engine's figures cannot contain: those sent since they were true, or those in flight beyond
    /// all that the engine reports. The second grows on an engine that froze, whose page goes on saying what it last said.
    #[must_use]
    pub fn unseen(&self, confirmed_at: Option<Timestamp>) -> u32 {
        let Some(load_at) = self.load_at(confirmed_at) else { return self.in_flight.total() };
        let since = self.in_flight.sent_since(load_at);
        match (self.load.waiting, self.load.running) {
            (Some(waiting), Some(running)) => {
                since.max(self.in_flight.total().saturating_sub(waiting.saturating_add(running)))
            }
            _ => since,
        }
    }

    /// Requests that the engine has: those of other gateways by its page, and those of this proxy by its own count. `None`: the page does
    /// not tell.
    #[must_use]
    pub fn requests(&self) -> Option<u32> {
        let on_page = self.load.waiting?.saturating_add(self.load.running?);
        Some(on_page.saturating_sub(self.in_flight.at_page()).saturating_add(self.in_flight.total()))
    }

    /// Forgets what is in flight and what was observed: it was another's.
    pub(super) fn forget_requests(&mut self) {
        self.health = Health::default();
        self.in_flight = InFlight::default();
        self.prefill = PrefillQueue::default();
        self.batch = Batch::default();
        self.rejections = Rejections::default();
    }

    /// The loads were still true at that moment.
    pub(super) fn confirm(&mut self, at: Timestamp) {
        if let Some(load_at) = self.load_at(Some(at)) {
            self.batch.confirm(&self.load, load_at);
        }
    }

    /// Another worker learned how many requests its engine runs at once.
    pub(super) fn learn_slots(&mut self, slots: u32) {
        self.batch.slots.get_or_insert(slots);
    }

    pub(super) const fn health_mut(&mut self) -> &mut Health {
        &mut self.health
    }

    pub(super) const fn rejections(&self) -> Rejections {
        self.rejections
    }

    pub(super) const fn rejections_mut(&mut self) -> &mut Rejections {
        &mut self.rejections
    }

    pub(super) const fn prefill_mut(&mut self) -> &mut PrefillQueue {
        &mut self.prefill
    }

    pub(super) const fn in_flight_mut(&mut self) -> &mut InFlight {
        &mut self.in_flight
    }

    /// Whether `identity` is this endpoint: the same address, and the same pod as far as both are known.
    pub(super) fn is(&self, identity: &EndpointIdentity) -> bool {
        let (known, new) = (&self.identity, identity);
        known.address == new.address
            && (known.pod.is_empty()
                || new.pod.is_empty()
                || (known.pod == new.pod && known.namespace == new.namespace))
    }

    pub(super) fn rename(&mut self, identity: &EndpointIdentity) {
        if self.identity != *identity {
            self.name = identity.name();
            self.identity.clone_from(identity);
        }
    }

    pub(super) const fn set_member(&mut self, is_member: bool) {
        self.is_member = is_member;
    }

    /// Takes over what it said of its load in an answer that came `at`: newer than any page that is known, until the next one that was made
    /// after that.
    pub(super) fn report(&mut self, report: LoadReport, at: Timestamp) {
        if self.page.is_some() {
            self.reported = Some((at, report));
            self.apply(report);
        }
    }

    fn apply(&mut self, report: LoadReport) {
        let LoadReport { waiting, running, kv_cache_usage } = report;
        self.load.waiting = waiting.or(self.load.waiting);
        self.load.running = running.or(self.load.running);
        self.load.kv_cache_usage = kv_cache_usage.or(self.load.kv_cache_usage);
    }

    pub(super) const fn set_place(&mut self, place: u32) {
        self.place = place;
    }

    /// Takes over what the sidecar that started at `sidecar` captured at `captured_at_ms` of its clock and this host received at `received_at`.
    pub(super) fn install(&mut self, load: Load, sidecar: u64, captured_at_ms: u64, received_at: Timestamp) {
        let came_back = self.load.state != State::Fresh && load.state == State::Fresh;
        let counted = self.sidecar == Some(sidecar) && self.load.incarnation != load.incarnation;
        let started = load.started_at_ms.zip(self.started_at_ms).is_some_and(|(now, before)| now != before);
        let restarted = counted || started;
        self.incarnation = self.incarnation.wrapping_add(u32::from(restarted));
        self.sidecar = Some(sidecar);
        self.started_at_ms = load.started_at_ms.or(self.started_at_ms);
        self.load = load;
        let Some(age_ms) = load.age_ms else { return };
        let age_micros = age_ms.saturating_mul(1_000);
        let page = Page {
            stamp_ms: captured_at_ms.saturating_sub(age_ms),
            at: received_at.minus_micros(age_micros),
            age_micros,
        };
        // Ages are rounded, so the same page may seem to be a millisecond younger. One that seems to be older is of a clock that was set back, or of
        // another sidecar.
        match &mut self.page {
            Some(known) if page.stamp_ms.abs_diff(known.stamp_ms) <= 1 => known.age_micros = age_micros,
            _ => {
                self.page = Some(page);
                self.batch.read(&load, page.at);
                self.in_flight.page_installed(page.at);
            }
        }
        self.reported = self.reported.filter(|(at, _)| *at > page.at && !restarted);
        if let Some((_, report)) = self.reported {
            self.apply(report);
        }
        if load.state == State::Fresh && (came_back || restarted) {
            self.health.returned(page.at);
        }
    }
}
