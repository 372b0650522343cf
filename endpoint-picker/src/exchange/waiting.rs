//! What a request's time in flow control leaves in its record.

use alloc::boxed::Box;
use alloc::string::{String, ToString};

use crate::flow_control::QueueOutcome;
use crate::head::RequestHead;
use crate::picker::EndpointPicker;
use crate::record::{End, ExchangeRecord};
use crate::reply::ErrorCode;
use crate::time::Timestamp;

use super::states::Parked;

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
    let Parked { ready, ticket, .. } = parked;
    picker.unpark(ticket, false, now);
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
