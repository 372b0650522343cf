//! The picker's part in flow control: requests that wait in a queue of its own, or in the one of the process.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{EndpointPicker, burden, run};
use crate::board::{BandPost, FlowPost};
use crate::director::Director;
use crate::flow_control::{Admission, FlowControl, Held, Newcomer, Ticket, Wake};
use crate::record::ExchangeRecord;
use crate::routing::Choice;
use crate::scheduling::Peers;
use crate::shared_state::Note;
use crate::telemetry::WaitingNote;
use crate::time::Timestamp;

impl EndpointPicker {
    /// Records how long one look for a request to send took: [`Self::poll_wake`], once.
    pub fn record_dispatch_cycle(&mut self, micros: u64) {
        match &self.shared {
            None => self.telemetry.record_dispatch_cycle(micros),
            Some(shared) => shared.state.tell(Note::Dispatched(micros)),
        }
    }

    /// A request began or ceased to wait in flow control.
    pub(crate) fn note_waiting(&mut self, record: &ExchangeRecord, began: bool) {
        let Some(note) = WaitingNote::of(record, began) else { return };
        match &self.shared {
            None => self.telemetry.note_waiting(note),
            Some(shared) => shared.state.tell(Note::Waiting(note)),
        }
    }

    /// What flow control holds, for the gauges; `None`: it is off.
    pub(crate) fn flow_post(&self, now: Timestamp) -> Option<FlowPost> {
        let settings = self.config.flow_control.as_ref()?;
        let profile = &self.config.profile;
        let saturation = |Director { routing, flow_control }: &Director| {
            Some(flow_control.as_ref()?.saturation(routing.pool(), profile, now))
        };
        // Where another thread holds the routing, this one's own knowledge is near enough.
        let saturation = self.look_at_all(saturation).unwrap_or_else(|| saturation(&self.director))?;
        let waiting: Vec<_> = self.telemetry.waiting().collect();
        let mut bands: Vec<_> = self.config.objectives.values().copied().chain([0]).collect();
        bands.extend(waiting.iter().map(|waiting| waiting.priority));
        bands.sort_unstable();
        bands.dedup();
        let band =
            |priority| BandPost { priority, max_requests: settings.band_requests, max_bytes: settings.band_bytes };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast from a float saturates")]
        Some(FlowPost {
            saturation_permille: (saturation * 1_000.0 + 0.5) as u64,
            waiting,
            bands: bands.into_iter().map(band).collect(),
            max_requests: settings.max_requests,
            max_bytes: settings.max_bytes,
        })
    }

    /// Requests that wait here, and by which rules; `None`: none ever does. Where threads share a queue, its requests are not these.
    #[must_use]
    pub const fn flow_control(&self) -> Option<&FlowControl> {
        self.director.flow_control()
    }

    /// The workers that have requests waiting, and this one among them: they share what is free.
    pub fn set_peers(&mut self, peers: Peers) {
        if let Some(flow_control) = &mut self.director.flow_control {
            flow_control.set_peers(peers);
            self.director.routing.set_wanted(peers.before > 0);
        }
    }

    /// The number of the request that is to go on now, by [`Exchange::resume`](crate::Exchange::resume); to be asked again until there is none.
    /// To be asked whenever a request ended and on each tick, where the queue is this picker's own.
    pub fn poll_wake(&mut self, now: Timestamp) -> Option<u64> {
        let woken = self.director.poll_wake(&self.config.profile, now)?;
        Some(woken.ticket.number())
    }

    /// Where threads share a queue: has the request go on that is next, on its own thread. To be called whenever a request ended or went on, and on
    /// the keeper's ticks. False: nobody waits, or another thread holds the routing and the next look finds who does.
    pub fn wake_next(&mut self, now: Timestamp) -> bool {
        if self.config.flow_control.is_none() {
            return false;
        }
        let Some(shared) = &self.shared else { return false };
        let profile = &self.config.profile;
        let (looked, _) = run(&*shared.state, |director: &mut Director| {
            director.has_waiting().then(|| director.poll_wake(profile, now))
        });
        // Not while the routing is held.
        let looked = looked.flatten();
        if let Some(wake) = looked.as_ref().and_then(|woken| woken.as_ref()?.wake.as_ref()) {
            wake.wake();
        }
        looked.is_some()
    }

    /// How the thread of a request that waits is told. False: it is to go on at once.
    pub(crate) fn set_wake(&mut self, ticket: Ticket, wake: Arc<dyn Wake>) -> bool {
        let set = move |director: &mut Director| {
            let is_set = director.flow_control.as_mut().is_some_and(|queue| queue.set_wake(ticket, Arc::clone(&wake)));
            (is_set, wake)
        };
        let Some(shared) = &self.shared else { return set(&mut self.director).0 };
        let (result, set) = run(&*shared.state, set);
        if let Some(set) = set {
            shared.state.leave(Box::new(move |director| {
                if let (false, wake) = set(director) {
                    wake.wake();
                }
            }));
        }
        result.is_none_or(|(is_set, _)| is_set)
    }

    /// Whether a request is sent at once, waits or is refused; its flow's name and its size are in the record.
    pub(crate) fn admit(
        &mut self,
        fairness_id: &str,
        record: &ExchangeRecord,
        is_whole: bool,
        held: Held,
        now: Timestamp,
    ) -> Admission {
        let (profile, burden) = (&self.config.profile, burden(&self.telemetry, record, is_whole));
        let newcomer = Newcomer { fairness_id, held, bytes: record.request.bytes, burden, now };
        let Some(shared) = &self.shared else { return self.director.admit(profile, newcomer) };
        let mut newcomer = Some(newcomer);
        let (admission, _) = run(&*shared.state, |director: &mut Director| {
            newcomer.take().map(|newcomer| director.admit(profile, newcomer))
        });
        if let Some(admission) = admission.flatten() {
            // A list may name who joined a moment ago.
            self.catch_up();
            return admission;
        }
        // Where another thread holds the routing, the request is picked for by this thread's own knowledge, and may as well be sent.
        Admission::Clear(newcomer.map(|newcomer| newcomer.held).unwrap_or_default(), None)
    }

    /// Sends a request that waited. `None`: another thread holds the routing, and nothing was chosen.
    pub(crate) fn send_parked(
        &mut self,
        ticket: Ticket,
        held: &Held,
        record: &ExchangeRecord,
        is_whole: bool,
        now: Timestamp,
    ) -> Option<Choice> {
        let (profile, burden) = (&self.config.profile, burden(&self.telemetry, record, is_whole));
        let send = |director: &mut Director| director.send_parked(profile, ticket, held, burden, now);
        let Some(shared) = &self.shared else { return Some(send(&mut self.director)) };
        let (choice, _) = run(&*shared.state, send);
        if choice.is_some() {
            self.catch_up();
        } else {
            self.unpark(ticket, true, now);
        }
        choice
    }

    /// Whether any endpoint may take a request that waits; true where another thread holds the routing.
    pub(crate) fn has_taker(&self, held: &Held) -> bool {
        self.look(|routing| routing.has_taker(&held.request())).unwrap_or(true)
    }

    /// A request waits no more; `is_sent`: an endpoint is given it.
    pub(crate) fn unpark(&mut self, ticket: Ticket, is_sent: bool, now: Timestamp) {
        self.direct(move |director| {
            if let Some(flow_control) = &mut director.flow_control {
                flow_control.remove(ticket, is_sent, now);
            }
        });
    }
}
