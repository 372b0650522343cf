//! What is known of a pool's endpoints: who they are, their load by the newest snapshot, their health by their answers, and what
//! this proxy has in flight to each.
//!
//! An endpoint keeps its slot, and so its [`EndpointId`], while it is a member or has requests in flight. Installing loads touches
//! no other memory than the endpoints' own.

mod batch;
mod endpoint;
mod health;
mod in_flight;
mod prefill;
mod rejections;
mod ring;
mod served;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;

use hashbrown::HashMap;
use snapshot::{AdapterUse, Loads, Membership, State};

use batch::Batch;
pub use endpoint::{Endpoint, EndpointId};
pub use health::{
    EJECT_AFTER_FAILURES, EJECTION_MICROS, FORGIVEN_AFTER_MICROS, Health, LEARNT_MICROS, MAX_EJECTION_MICROS,
    SUSPECT_MICROS, Standing, Suspicion, TRIAL_MICROS,
};
pub use in_flight::InFlight;
pub use prefill::{Prefill, PrefillQueue};
pub use served::{AskedAdapter, Offer, Offered, ServedModels};

use crate::load_report::LoadReport;
use crate::policies::Policies;
use crate::time::Timestamp;

/// The endpoints of one pool.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    slots: Vec<Slot>,
    /// Slots that hold nobody.
    free: Vec<u32>,
    /// The members, in the order of the membership.
    members: Vec<EndpointId>,
    /// Every endpoint that is a member, and those that left and whose address nobody else has now.
    by_address: HashMap<SocketAddr, EndpointId>,
    membership: Option<Version>,
    /// Where the pool's loads begin in [`Loads::endpoints`].
    first_load: usize,
    confirmed_at: Option<Timestamp>,
    /// Grows whenever other endpoints than before may be sent requests.
    takers_version: u64,
    /// Requests by which this worker has fewer in flight than when it was last told of the others, over the endpoints where it has fewer.
    freed: u32,
    /// Places that this worker frees are left to others that wait.
    is_wanted: bool,
    served: ServedModels,
    policies: Arc<Policies>,
    /// Adapters in use, sorted by the place of the member, which is their `endpoint`.
    adapter_uses: Vec<AdapterUse>,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    epoch: u32,
    endpoint: Option<Endpoint>,
}

/// Which membership a pool was installed from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Version {
    /// The sidecar's start.
    pub epoch: u64,
    /// Its count of changes since.
    pub version: u64,
}

/// An endpoint's state to the picker.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Availability {
    /// Its load is fresh.
    Fresh,
    /// Its load is old or was never seen.
    Stale,
    /// The engine sleeps.
    Sleeping,
    /// Health checks or the operator say no, or it has left the pool.
    Unready,
}

/// Loads that do not belong to the membership in use.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("loads of another membership")]
pub struct OtherMembership;

impl Pool {
    /// Replaces the members by those of the pool of that name; a membership without it empties the pool. Endpoints that stay keep
    /// their id, load, health and what is in flight. Another pod at a known address is another endpoint.
    pub fn install_membership(&mut self, membership: &Membership, name: &str) {
        let (identities, first) =
            membership.pool(name).map_or((&[][..], 0), |(pool, first)| (pool.endpoints.as_slice(), first));
        for id in core::mem::take(&mut self.members) {
            if let Some(endpoint) = self.endpoint_mut(id) {
                endpoint.set_member(false);
            }
        }
        for (place, identity) in (0..).zip(identities) {
            let known = self
                .by_address
                .get(&identity.address)
                .copied()
                .filter(|&id| self.endpoint(id).is_some_and(|endpoint| endpoint.is(identity)));
            let id = match known {
                Some(id) => {
                    if let Some(endpoint) = self.endpoint_mut(id) {
                        endpoint.rename(identity);
                        endpoint.set_member(true);
                    }
                    id
                }
                None => self.occupy(Endpoint::new(identity.clone())),
            };
            if let Some(endpoint) = self.endpoint_mut(id) {
                endpoint.set_place(place);
            }
            self.members.push(id);
            self.by_address.insert(identity.address, id);
        }
        self.served = membership.pool(name).map(|(pool, _)| ServedModels::of(pool)).unwrap_or_default();
        self.policies = Arc::new(membership.pool(name).map(|(pool, _)| Policies::of(pool)).unwrap_or_default());
        // They are told in the places and names of the old membership.
        self.adapter_uses.clear();
        self.first_load = first;
        self.membership = Some(Version { epoch: membership.epoch, version: membership.version });
        self.takers_version += 1;
        self.release_idle();
    }

    /// Replaces the members' load by what the sidecar captured and this host received at `received_at`.
    ///
    /// # Errors
    ///
    /// When the loads are those of another membership: then nothing changes.
    pub fn install_loads(&mut self, loads: &Loads, received_at: Timestamp) -> Result<(), OtherMembership> {
        let version = Version { epoch: loads.epoch, version: loads.membership_version };
        let end = self.first_load.saturating_add(self.members.len());
        let own = loads.endpoints.get(self.first_load..end);
        let (Some(own), true) = (own, self.membership == Some(version)) else { return Err(OtherMembership) };
        let mut is_changed = false;
        for (id, &load) in self.members.iter().zip(own) {
            if let Some(endpoint) = self.slots.get_mut(id.slot as usize).and_then(|slot| slot.endpoint.as_mut()) {
                let took = endpoint.takes_requests();
                endpoint.install(load, loads.epoch, loads.captured_at_ms, received_at);
                is_changed |= took != endpoint.takes_requests();
            }
        }
        self.takers_version += u64::from(is_changed);
        let (first, end) = (self.first_load, end);
        let uses = loads.adapters.iter().filter(|used| (first..end).contains(&(used.endpoint as usize)));
        self.adapter_uses.clear();
        self.adapter_uses.extend(uses.map(|used| AdapterUse {
            endpoint: used.endpoint - u32::try_from(first).unwrap_or(used.endpoint),
            ..*used
        }));
        self.adapter_uses.sort_unstable_by_key(|used| (used.endpoint, used.adapter, used.waiting));
        self.confirm(received_at);
        Ok(())
    }

    /// What the pool itself says of its requests.
    #[must_use]
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// What the members serve.
    #[must_use]
    pub const fn served(&self) -> &ServedModels {
        &self.served
    }

    /// The adapters in use at a member, by its place in the membership: sorted by adapter, the batch before the queue.
    #[must_use]
    pub fn adapter_uses(&self, place: u32) -> &[AdapterUse] {
        let first = self.adapter_uses.partition_point(|used| used.endpoint < place);
        let rest = self.adapter_uses.get(first..).unwrap_or_default();
        rest.get(..rest.partition_point(|used| used.endpoint == place)).unwrap_or_default()
    }

    /// The loads in use were still true at that moment.
    pub fn confirm(&mut self, at: Timestamp) {
        self.confirmed_at = self.confirmed_at.max(Some(at));
        for endpoint in self.slots.iter_mut().filter_map(|slot| slot.endpoint.as_mut()) {
            endpoint.confirm(at);
        }
    }

    /// Which membership is in use.
    #[must_use]
    pub const fn membership(&self) -> Option<Version> {
        self.membership
    }

    /// Another number whenever other endpoints than before may be sent requests: members came or left, woke, slept, became ready or unready, or serve other
    /// models.
    #[must_use]
    pub const fn takers_version(&self) -> u64 {
        self.takers_version
    }

    /// When the loads were last true; `None`: never.
    #[must_use]
    pub const fn confirmed_at(&self) -> Option<Timestamp> {
        self.confirmed_at
    }

    /// Requests by which this worker has fewer in flight than when it was last told of the others, over the endpoints where it has fewer.
    #[must_use]
    pub const fn freed(&self) -> u32 {
        self.freed
    }

    /// The members, in the order of the membership.
    #[must_use]
    pub fn members(&self) -> &[EndpointId] {
        &self.members
    }

    /// An endpoint that is known; `None` for an id whose endpoint has left and finished.
    #[must_use]
    pub fn endpoint(&self, id: EndpointId) -> Option<&Endpoint> {
        let slot = self.slots.get(id.slot as usize)?;
        slot.endpoint.as_ref().filter(|_| slot.epoch == id.epoch)
    }

    /// The endpoint at that address.
    #[must_use]
    pub fn find(&self, address: SocketAddr) -> Option<EndpointId> {
        self.by_address.get(&address).copied()
    }

    /// Every endpoint: members, and those that left and still have requests of this worker in flight.
    pub fn endpoints(&self) -> impl Iterator<Item = (EndpointId, &Endpoint)> {
        self.slots.iter().enumerate().filter_map(|(slot, held)| {
            let id = EndpointId { slot: u32::try_from(slot).ok()?, epoch: held.epoch };
            held.endpoint.as_ref().map(|endpoint| (id, endpoint))
        })
    }

    /// What an endpoint is to the picker now. Loads that were last confirmed more than `max_age_micros` ago vouch for nobody.
    #[must_use]
    pub fn availability(&self, endpoint: &Endpoint, now: Timestamp, max_age_micros: u64) -> Availability {
        let is_confirmed = self.confirmed_at.is_some_and(|at| now.micros_since(at) <= max_age_micros);
        match endpoint.load().state {
            _ if !endpoint.is_member() => Availability::Unready,
            State::Unready => Availability::Unready,
            State::Sleeping => Availability::Sleeping,
            State::Fresh if is_confirmed => Availability::Fresh,
            State::Fresh | State::Stale | State::Unknown | State::Frozen => Availability::Stale,
        }
    }

    /// Whether what an endpoint last said of its load was true at most `max_age_micros` ago: older figures do not count.
    #[must_use]
    pub fn has_fresh_load(&self, endpoint: &Endpoint, now: Timestamp, max_age_micros: u64) -> bool {
        endpoint.load_at(self.confirmed_at).is_some_and(|load_at| now.micros_since(load_at) <= max_age_micros)
    }

    /// A request goes to that endpoint now. True: it is the trial of an endpoint that was ejected. The counterpart is
    /// [`Self::request_finished`].
    pub(crate) fn request_sent(&mut self, id: EndpointId, now: Timestamp) -> bool {
        let Some(endpoint) = self.endpoint_mut(id) else { return false };
        let takes_back = endpoint.in_flight().own_since_told() < 0;
        endpoint.in_flight_mut().sent(now);
        let is_trial = endpoint.health_mut().sent(now);
        self.freed = self.freed.saturating_sub(u32::from(takes_back));
        is_trial
    }

    /// A request that was sent to that endpoint at `sent_at` no longer burdens it.
    pub(crate) fn request_finished(&mut self, id: EndpointId, sent_at: Timestamp, was_trial: bool, now: Timestamp) {
        let is_wanted = self.is_wanted;
        let Some(endpoint) = self.endpoint_mut(id) else { return };
        endpoint.in_flight_mut().finished(sent_at, is_wanted, now);
        if was_trial {
            endpoint.health_mut().trial_ended();
        }
        let (is_over, frees) =
            (!endpoint.is_member() && endpoint.in_flight().own() == 0, endpoint.in_flight().own_since_told() < 0);
        self.freed = self.freed.saturating_add(u32::from(frees));
        if is_over {
            self.release(id);
        }
    }

    /// An endpoint has a prompt to compute from now on. The counterpart is [`Self::prefill_ended`].
    pub(crate) fn prefill_began(&mut self, id: EndpointId, prefill: Prefill, now: Timestamp) {
        if let Some(endpoint) = self.endpoint_mut(id) {
            endpoint.prefill_mut().begin(prefill, now);
        }
    }

    /// An endpoint has computed a prompt, or nobody waits for it any more.
    pub(crate) fn prefill_ended(&mut self, id: EndpointId, prefill: Prefill, now: Timestamp) {
        if let Some(endpoint) = self.endpoint_mut(id) {
            endpoint.prefill_mut().end(prefill, now);
        }
    }

    /// A request sent at `sent_at` began to be served.
    pub(crate) fn request_answered(&mut self, id: EndpointId, sent_at: Timestamp, now: Timestamp) {
        if let Some(endpoint) = self.endpoint_mut(id) {
            endpoint.health_mut().answered(sent_at, now);
        }
    }

    /// A request sent at `sent_at` was served well.
    pub(crate) fn request_succeeded(&mut self, id: EndpointId, sent_at: Timestamp, now: Timestamp) {
        if let Some(endpoint) = self.endpoint_mut(id) {
            endpoint.rejections_mut().note(false);
            endpoint.health_mut().succeeded(sent_at, now);
        }
    }

    /// A request sent at `sent_at` failed through that endpoint's fault. True: the endpoint is ejected from now on.
    pub(crate) fn request_failed(&mut self, id: EndpointId, sent_at: Timestamp, now: Timestamp) -> bool {
        self.endpoint_mut(id).is_some_and(|endpoint| endpoint.health_mut().failed(sent_at, now))
    }

    /// A request sent at `sent_at` was rejected by that endpoint, which is a failure if the others do not reject as much. True: the endpoint is
    /// ejected from now on.
    pub(crate) fn request_rejected(&mut self, id: EndpointId, sent_at: Timestamp, now: Timestamp) -> bool {
        let Some(endpoint) = self.endpoint_mut(id) else { return false };
        endpoint.rejections_mut().note(true);
        let own = endpoint.rejections();
        let others = self.members.iter().filter(|&&other| other != id);
        let others = others.filter_map(|&other| self.endpoint(other)).map(Endpoint::rejections);
        own.is_to_blame(others) && self.request_failed(id, sent_at, now)
    }

    /// A request sent at `sent_at` was turned away by that endpoint, which is full and wants to be asked again after `seconds`, where it
    /// says so (0: it does not).
    pub(crate) fn request_turned_away(&mut self, id: EndpointId, seconds: u32, sent_at: Timestamp, now: Timestamp) {
        if let Some(endpoint) = self.endpoint_mut(id) {
            endpoint.health_mut().turned_away(u64::from(seconds) * 1_000_000, sent_at, now);
        }
    }

    /// Takes over what that endpoint said of its load in an answer that came `at`.
    pub(crate) fn report_load(&mut self, id: EndpointId, report: &LoadReport, at: Timestamp) {
        if let Some(endpoint) = self.endpoint_mut(id) {
            endpoint.report(*report, at);
        }
    }

    /// Takes over what the other workers have in flight to the members, in the order of the membership: requests, and tokens of prompts
    /// that are yet to be computed. A member beyond the list has nothing.
    pub fn set_others_in_flight(&mut self, counts: impl IntoIterator<Item = (u32, u32)>) {
        let mut counts = counts.into_iter();
        self.freed = 0;
        for id in &self.members {
            let (requests, tokens) = counts.next().unwrap_or_default();
            if let Some(endpoint) = self.slots.get_mut(id.slot as usize).and_then(|slot| slot.endpoint.as_mut()) {
                endpoint.in_flight_mut().set_others(requests);
                endpoint.prefill_mut().set_others(u64::from(tokens));
            }
        }
    }

    /// Says whether others wait to whom this worker leaves the places that it frees.
    pub(crate) fn set_wanted(&mut self, is_wanted: bool) {
        if self.is_wanted && !is_wanted {
            for endpoint in self.slots.iter_mut().filter_map(|slot| slot.endpoint.as_mut()) {
                endpoint.in_flight_mut().forget_vacancy();
            }
        }
        self.is_wanted = is_wanted;
    }

    /// Takes over how many requests the members run at once, as other workers learned it, in the order of the membership; 0: they did not. What a member's
    /// own pages told here stands.
    pub(crate) fn learn_slots(&mut self, slots: impl IntoIterator<Item = u32>) {
        for (id, slots) in self.members.iter().zip(slots).filter(|(_, slots)| *slots > 0) {
            if let Some(endpoint) = self.slots.get_mut(id.slot as usize).and_then(|slot| slot.endpoint.as_mut()) {
                endpoint.learn_slots(slots);
            }
        }
    }

    /// Forgets what is in flight and what was observed: it was another's.
    pub(crate) fn forget_requests(&mut self) {
        self.freed = 0;
        for endpoint in self.slots.iter_mut().filter_map(|slot| slot.endpoint.as_mut()) {
            endpoint.forget_requests();
        }
    }

    /// What this worker holds against members, by their place in the membership, for the other workers.
    pub fn suspicions(&self, now: Timestamp) -> impl Iterator<Item = (usize, Suspicion)> {
        self.members
            .iter()
            .enumerate()
            .filter_map(move |(place, &id)| Some((place, self.endpoint(id)?.health().suspicion(now)?)))
    }

    /// Takes over what another worker holds against a member.
    pub fn learn_suspicion(&mut self, place: usize, suspicion: Suspicion, now: Timestamp) {
        let id = self.members.get(place).copied();
        if let Some(endpoint) = id.and_then(|id| self.endpoint_mut(id)) {
            endpoint.health_mut().learn(suspicion, now);
        }
    }

    fn endpoint_mut(&mut self, id: EndpointId) -> Option<&mut Endpoint> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        slot.endpoint.as_mut().filter(|_| slot.epoch == id.epoch)
    }

    fn occupy(&mut self, endpoint: Endpoint) -> EndpointId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let mut epoch = 0;
        if let Some(held) = self.slots.get_mut(slot as usize) {
            held.epoch = held.epoch.wrapping_add(1);
            held.endpoint = Some(endpoint);
            epoch = held.epoch;
        }
        EndpointId { slot, epoch }
    }

    fn release(&mut self, id: EndpointId) {
        let Some(slot) = self.slots.get_mut(id.slot as usize).filter(|slot| slot.epoch == id.epoch) else { return };
        if let Some(endpoint) = slot.endpoint.take() {
            let address = endpoint.identity().address;
            if self.by_address.get(&address) == Some(&id) {
                self.by_address.remove(&address);
            }
            self.free.push(id.slot);
        }
    }

    /// Lets go of those that have left and have nothing in flight.
    fn release_idle(&mut self) {
        let idle: Vec<EndpointId> = self
            .endpoints()
            .filter(|(_, endpoint)| !endpoint.is_member() && endpoint.in_flight().own() == 0)
            .map(|(id, _)| id)
            .collect();
        for id in idle {
            self.release(id);
        }
    }
}

#[cfg(test)]
mod tests;
