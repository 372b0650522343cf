//! A request's way through flow control.

use alloc::boxed::Box;
use alloc::string::{String, ToString};

use crate::flow_control::{Held, QueueOutcome, Queued};
use crate::head::RequestHead;
use crate::picker::EndpointPicker;
use crate::record::{End, ExchangeRecord};
use crate::reply::{ErrorCode, LocalReply};
use crate::scheduling::PickRequest;
use crate::time::Timestamp;

use super::Exchange;
use super::directive::Directive;
use super::states::{Parked, Ready, State};

/// A longer id is cut: it becomes a label's value.
const MAX_FAIRNESS_ID_BYTES: usize = 128;

/// The flow that a client names.
pub(super) fn fairness_id(head: &RequestHead<'_>) -> Option<String> {
    let id = String::from_utf8_lossy(head.fairness_id?);
    let mut end = id.len().min(MAX_FAIRNESS_ID_BYTES);
    while !id.is_char_boundary(end) {
        end -= 1;
    }
    id.get(..end).filter(|id| !id.is_empty()).map(ToString::to_string)
}

/// What flow control did with a request turned out to be that.
pub(super) fn note(record: &mut ExchangeRecord, outcome: QueueOutcome) {
    if let Some(queued) = &mut record.queued {
        queued.outcome = outcome;
    }
}

/// Takes a request that is over out of the queue.
pub(super) fn leave(picker: &mut EndpointPicker, parked: Parked, end: End, now: Timestamp) -> Box<ExchangeRecord> {
    let Parked { ready, ticket } = parked;
    if let Some(flow_control) = picker.flow_control_mut() {
        flow_control.take(ticket);
    }
    let mut record = ready.request.record;
    picker.note_waiting(&record, false);
    if let Some(queued) = &mut record.queued {
        queued.waited_micros = now.micros_since(queued.enqueued_at);
        queued.outcome = match end {
            End::Failed(ErrorCode::Cancelled) => QueueOutcome::EvictedContextCancelled,
            _ => QueueOutcome::EvictedOther,
        };
    }
    record
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
        let asked = PickRequest {
            target_model: &request.record.target_model,
            prompt: Some(prompt),
            prompt_bytes: request.record.request.prompt_bytes,
            max_tokens: request.record.request.max_tokens,
            priority,
            deadline: request.deadline,
            pinned: request.maker,
            session: request.session,
            subset: request.subset.as_ref(),
            room: None,
            is_explained: false,
        };
        if picker.may_send(&asked, now) != Some(false) {
            return self.send(picker, ready, None, now);
        }
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
        let Some(flow_control) = picker.flow_control_mut() else { return Directive::Continue };
        match flow_control.park(&fairness_id, bytes, held, now) {
            Ok(ticket) => {
                picker.note_waiting(&ready.request.record, true);
                self.state = State::Parked(Box::new(Parked { ready, ticket }));
                Directive::Park(ticket.number())
            }
            Err(_) => {
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
            ready.prompt = held.prompt;
            ready.request.subset = held.subset;
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
