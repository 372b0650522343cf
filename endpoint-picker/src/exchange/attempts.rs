//! Which endpoints were tried for a request, and which of them failed it.

use crate::ending::{Flags, is_endpoint_trouble};
use crate::head::ResponseHead;
use crate::picker::EndpointPicker;
use crate::pool::EndpointId;
use crate::record::{ExchangeRecord, Pick, Served};
use crate::scheduling::{Failure, Reason};
use crate::time::Timestamp;

use super::states::Sent;
use super::stream_info::StreamInfo;

/// What a model server answers whose queue is full.
const SERVICE_UNAVAILABLE: u16 = 503;

/// An endpoint answered: it holds the request, and those that were tried before it have failed.
pub(super) fn served(picker: &mut EndpointPicker, sent: Sent, head: &ResponseHead, info: &mut impl StreamInfo) -> Sent {
    let Some(address) = info.upstream_address() else { return sent };
    let Sent { mut record, mut charge, tail, asks_load, session, upload } = sent;
    let endpoint = picker.find(address);
    let reason = match record.pick {
        Pick::Ranked(ranked, reason) if endpoint == Some(ranked.first()) => reason,
        Pick::Ranked(..) => Reason::Retry,
        Pick::None | Pick::NoEndpoint => Reason::Fallback,
    };
    if reason == Reason::Retry {
        let now = info.now();
        blame_those_before(picker, &mut record, endpoint, charge.sent_at(), info.attempts(), now);
    }
    if charge.endpoint() != endpoint {
        charge = picker.transfer(charge, endpoint, &record, tail, info.now());
    }
    record.served = Some(Served { address, endpoint, reason });
    if is_endpoint_trouble(head.status)
        && let Some(endpoint) = endpoint
    {
        // Not only at the end: a body may follow slowly, and other requests are picked meanwhile.
        let now = info.now();
        let failure = match head.status {
            SERVICE_UNAVAILABLE => Failure::Busy { seconds: head.retry_after.unwrap_or(0) },
            _ => Failure::ServerError,
        };
        picker.observe_failed(&mut record, endpoint, failure, charge.sent_at(), now);
    }
    if let (Some(report), Some(endpoint)) = (&head.load, endpoint)
        && picker.config().rules.orca
    {
        picker.report_load(endpoint, report, info.now());
    }
    Sent { record, charge, tail, asks_load, session, upload }
}

/// Envoy answered in the endpoint's place, or nobody did. Blames the endpoint that was tried last, if its connection was the reason,
/// and those that were tried before it.
pub(super) fn unserved(
    picker: &mut EndpointPicker,
    sent: Sent,
    flags: Flags,
    info: &mut impl StreamInfo,
    now: Timestamp,
) -> Sent {
    let Sent { mut record, charge, tail, asks_load, session, upload } = sent;
    let attempts = info.attempts();
    if flags.blames_endpoint() || attempts.is_some_and(|attempts| attempts > 1) {
        let last = info.upstream_address().and_then(|address| picker.find(address));
        if let Some(last) = last {
            blame_those_before(picker, &mut record, Some(last), charge.sent_at(), attempts, now);
            if flags.blames_endpoint() {
                picker.observe_failed(&mut record, last, Failure::NoAnswer, charge.sent_at(), now);
            }
        }
    }
    Sent { record, charge, tail, asks_load, session, upload }
}

/// The entries of the ranked list before `last` have failed, if the number of attempts says that each of them was tried. Where Envoy
/// skipped some (they are not in its cluster), nobody knows which: none is blamed.
fn blame_those_before(
    picker: &mut EndpointPicker,
    record: &mut ExchangeRecord,
    last: Option<EndpointId>,
    sent_at: Timestamp,
    attempts: Option<u64>,
    now: Timestamp,
) {
    let Some(ranked) = record.ranked() else { return };
    let before = ranked.iter().take_while(|&id| Some(id) != last).count();
    if attempts.is_some_and(|attempts| attempts.saturating_sub(1) < before as u64) {
        return;
    }
    for endpoint in ranked.iter().take(before) {
        picker.observe_failed(record, endpoint, Failure::NoAnswer, sent_at, now);
    }
}

pub(super) fn flags(info: &mut impl StreamInfo) -> Flags {
    Flags(info.response_flags().unwrap_or(0))
}

/// The flags of an answer that Envoy made in the endpoint's place; `None` when the endpoint did answer.
pub(super) fn local_reply(status: u16, info: &mut impl StreamInfo) -> Option<Flags> {
    if status < 400 {
        return None;
    }
    let details = info.code_details()?;
    (!details.is_empty() && !details.starts_with(b"via_upstream")).then(|| flags(info))
}
