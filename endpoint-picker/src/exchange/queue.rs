//! A request's way through flow control.

use alloc::boxed::Box;

use crate::flow_control::{Held, QueueOutcome, Queued};
use crate::picker::EndpointPicker;
use crate::reply::LocalReply;
use crate::time::Timestamp;

use super::Exchange;
use super::directive::Directive;
use super::states::{Parked, Ready, State};
use super::waiting::note;

/// Gives a request back what flow control needed of it.
fn give_back(ready: &mut Ready, held: Held) {
    ready.prompt = held.prompt;
    ready.request.subset = held.subset;
}

impl Exchange {
    /// Sends a request, or has it wait where all that could serve it are full.
    pub(super) fn queue(&mut self, picker: &mut EndpointPicker, mut ready: Ready, now: Timestamp) -> Directive {
        let Ready { request, prompt, .. } = &mut ready;
        // What asks for no model takes no engine's time.
        if picker.flow_control().is_none() || request.record.api.is_none() {
            return self.send(picker, ready, None, now);
        }
        let fairness_id = request.fairness_id.take().unwrap_or_else(|| request.record.model.clone());
        let bytes = request.record.request.bytes;
        let priority = request.record.priority;
        let outcome = QueueOutcome::Dispatched;
        request.record.queued = Some(Queued {
            fairness_id: fairness_id.clone(),
            priority,
            enqueued_at: now,
            enqueue_micros: 0,
            waited_micros: 0,
            bytes,
            outcome,
        });
        let held = Held {
            target_model: request.record.target_model.clone(),
            prompt: core::mem::take(prompt),
            prompt_bytes: request.record.request.prompt_bytes,
            max_tokens: request.record.request.max_tokens,
            priority,
            deadline: request.deadline,
            pinned: request.maker,
            session: request.session,
            subset: request.subset.take(),
        };
        if picker.may_send(&held, now) {
            give_back(&mut ready, held);
            return self.send(picker, ready, None, now);
        }
        let Some(flow_control) = picker.flow_control_mut() else { return Directive::Continue };
        match flow_control.park(&fairness_id, bytes, held, now) {
            Some(ticket) => {
                picker.note_waiting(&ready.request.record, true);
                self.state = State::Parked(Box::new(Parked { ready, ticket }));
                Directive::Park(ticket.number())
            }
            None => {
                let seconds = flow_control.retry_after(now);
                let mut record = ready.request.record;
                note(&mut record, QueueOutcome::RejectedCapacity);
                let reply = LocalReply::queue_full(record.api, seconds);
                self.refuse(picker, record, reply, now)
            }
        }
    }

    /// The host is done with having it wait, which took it from when it asked for a pick until now.
    pub fn note_parked(&mut self, now: Timestamp) {
        if let State::Parked(parked) = &mut self.state
            && let Some(queued) = &mut parked.ready.request.record.queued
        {
            queued.enqueue_micros = now.micros_since(queued.enqueued_at);
        }
    }

    /// Whether it waits in flow control.
    #[must_use]
    pub const fn is_parked(&self) -> bool {
        matches!(self.state, State::Parked(_))
    }

    /// A request that waited goes on: [`EndpointPicker::poll_wake`] gave its number.
    pub fn resume(&mut self, picker: &mut EndpointPicker, now: Timestamp) -> Directive {
        if !self.is_parked() {
            return Directive::Continue;
        }
        let State::Parked(parked) = self.take() else { return Directive::Continue };
        let Parked { mut ready, ticket } = *parked;
        let came = ready.request.record.queued.as_ref().map_or(now, |queued| queued.enqueued_at);
        let (held, is_expired, room) = match picker.flow_control_mut() {
            Some(flow_control) => (flow_control.take(ticket), flow_control.is_expired(came, now), flow_control.room()),
            None => return Directive::Continue,
        };
        picker.note_waiting(&ready.request.record, false);
        if let Some(queued) = &mut ready.request.record.queued {
            queued.waited_micros = now.micros_since(queued.enqueued_at);
        }
        if let Some(held) = held {
            give_back(&mut ready, held);
        }
        if is_expired {
            let mut record = ready.request.record;
            let outcome = match picker.pool().members() {
                [] => QueueOutcome::EvictedNoEndpoints,
                _ => QueueOutcome::EvictedTTL,
            };
            note(&mut record, outcome);
            let reply = LocalReply::waited_too_long(record.api);
            return self.refuse(picker, record, reply, now);
        }
        if let Some(flow_control) = picker.flow_control_mut() {
            flow_control.dispatched(now);
        }
        self.send(picker, ready, Some(room), now)
    }
}
