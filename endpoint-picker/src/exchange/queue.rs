//! A request's way through flow control.

use alloc::boxed::Box;
use alloc::sync::Arc;

use crate::flow_control::{Admission, Held, QueueOutcome, Queued, Wake};
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
        let Ready { request, prompt, upload, .. } = &mut ready;
        // What asks for no model takes no engine's time.
        if picker.config().flow_control.is_none() || request.record.api.is_none() {
            return self.send(picker, ready, None, QueueOutcome::RejectedNoEndpoints, now);
        }
        let is_explained = self.explains || picker.explains_picks();
        let is_whole = upload.as_ref().is_none_or(|upload| !upload.is_coming());
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
            ttl_micros: request.ttl_micros,
            pinned: request.maker,
            session: request.session,
            subset: request.subset.take(),
            is_explained,
        };
        match picker.admit(&fairness_id, &request.record, is_whole, held, now) {
            Admission::Clear(held, choice) => {
                give_back(&mut ready, held);
                self.send(picker, ready, choice, QueueOutcome::RejectedNoEndpoints, now)
            }
            Admission::Parked(ticket, held) => {
                picker.note_waiting(&ready.request.record, true);
                self.state = State::Parked(Box::new(Parked { ready, ticket, held }));
                Directive::Park(ticket.number())
            }
            Admission::Full(seconds) => {
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

    /// Where threads share a queue: how this request's thread is told that it is to go on. False: it is to go on now.
    pub fn set_wake(&mut self, picker: &mut EndpointPicker, wake: Arc<dyn Wake>) -> bool {
        match &self.state {
            State::Parked(parked) => picker.set_wake(parked.ticket, wake),
            _ => true,
        }
    }

    /// A request that waited goes on: [`EndpointPicker::poll_wake`] gave its number, or its [`Wake`] was called. It is refused if it waited for too long;
    /// one that nobody may take any more goes by `no_endpoint`.
    pub fn resume(&mut self, picker: &mut EndpointPicker, now: Timestamp) -> Directive {
        if !self.is_parked() {
            return Directive::Continue;
        }
        let State::Parked(parked) = self.take() else { return Directive::Continue };
        let Parked { mut ready, ticket, held } = *parked;
        if let Some(queued) = &mut ready.request.record.queued {
            queued.waited_micros = now.micros_since(queued.enqueued_at);
        }
        picker.note_waiting(&ready.request.record, false);
        if ticket.is_over(now) && picker.has_taker(&held) {
            picker.unpark(ticket, false, now);
            let mut record = ready.request.record;
            note(&mut record, QueueOutcome::EvictedTTL);
            let reply = LocalReply::waited_too_long(record.api);
            return self.refuse(picker, record, reply, now);
        }
        let is_whole = ready.upload.as_ref().is_none_or(|upload| !upload.is_coming());
        let choice = picker.send_parked(ticket, &held, &ready.request.record, is_whole, now);
        give_back(&mut ready, Arc::unwrap_or_clone(held));
        self.send(picker, ready, choice, QueueOutcome::EvictedNoEndpoints, now)
    }
}
