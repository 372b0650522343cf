//! Who goes where, and who waits until somebody has room: routing and flow control, of one thread or of a whole process.

use crate::accounts::Burden;
use crate::flow_control::{Admission, FlowControl, FlowSettings, Held, Newcomer, Ticket, Woken};
use crate::routing::{Choice, Routing};
use crate::scheduling::{Decision, PickRequest, Profile};
use crate::time::Timestamp;

/// Routing, and the requests that wait for it.
#[derive(Debug)]
pub struct Director {
    pub(crate) routing: Routing,
    /// `None`: no request ever waits.
    pub(crate) flow_control: Option<FlowControl>,
}

impl Director {
    /// Of one thread.
    #[must_use]
    pub fn new(routing: Routing, settings: Option<FlowSettings>) -> Self {
        Self { routing, flow_control: settings.map(FlowControl::new) }
    }

    /// The only one of its process, whose requests wait on their own threads. The seed decides ties: draw it at random.
    #[must_use]
    pub fn only(seed: u64, settings: Option<FlowSettings>) -> Self {
        Self { routing: Routing::only(seed), flow_control: settings.map(FlowControl::of_threads) }
    }

    /// Who the endpoints are, and what is in flight to them.
    #[must_use]
    pub const fn routing(&self) -> &Routing {
        &self.routing
    }

    /// Requests that wait, and by which rules; `None`: none ever does.
    #[must_use]
    pub const fn flow_control(&self) -> Option<&FlowControl> {
        self.flow_control.as_ref()
    }

    /// Whether a request is sent at once, waits or is refused.
    pub(crate) fn admit(&mut self, profile: &Profile, newcomer: Newcomer<'_>) -> Admission {
        match &mut self.flow_control {
            None => Admission::Clear(newcomer.held, None),
            Some(flow_control) => flow_control.admit(&mut self.routing, profile, newcomer),
        }
    }

    /// Sends a request that waited, if it can be to where there is room. Nothing is chosen where nobody may take it.
    pub(crate) fn send_parked(
        &mut self,
        profile: &Profile,
        ticket: Ticket,
        held: &Held,
        burden: Burden,
        now: Timestamp,
    ) -> Choice {
        let room = self.flow_control.as_ref().map(FlowControl::room);
        let request = PickRequest { room, ..held.request() };
        let mut choice = self.routing.choose(profile, &request, burden, now);
        if room.is_some() && !matches!(choice.decision, Decision::Picked(..)) {
            // Another thread was quicker, or nobody may take it.
            choice = self.routing.choose(profile, &held.request(), burden, now);
        }
        if let Some(flow_control) = &mut self.flow_control {
            flow_control.remove(ticket, matches!(choice.decision, Decision::Picked(..)), now);
        }
        choice
    }

    /// Who is to go on now; see [`FlowControl::poll_wake`].
    pub(crate) fn poll_wake(&mut self, profile: &Profile, now: Timestamp) -> Option<Woken> {
        self.flow_control.as_mut()?.poll_wake(&mut self.routing, profile, now)
    }

    /// Whether any request waits.
    pub(crate) fn has_waiting(&self) -> bool {
        self.flow_control.as_ref().is_some_and(|flow_control| flow_control.requests() > 0)
    }
}
