//! Which endpoints were tried for a request, and which of them failed it.

use alloc::vec::Vec;
use core::net::SocketAddr;

use crate::ending::{Flags, is_endpoint_trouble};
use crate::head::ResponseHead;
use crate::picker::EndpointPicker;
use crate::pool::EndpointId;
use crate::record::{ExchangeRecord, Pick, Served};
use crate::scheduling::{Failure, Reason};
use crate::time::Timestamp;

use super::states::Sent;
use super::stream_info::StreamInfo;

/// An endpoint answered: it holds the request, and those that were tried before it have failed.
pub(super) fn served(picker: &mut EndpointPicker, sent: Sent, head: &ResponseHead, info: &mut impl StreamInfo) -> Sent {
    let Some(address) = info.upstream_address() else { return sent };
    let Sent { mut record, mut charge, tail, asks_load, session, upload, asks_usage, is_tunnel } = sent;
    let endpoint = picker.find(address);
    // The first of several different entries can only have been tried once; of the rest the host knows more.
    let (reason, attempts) = match record.pick {
        Pick::Ranked(ranked, reason) if endpoint == Some(ranked.first()) => match ranked.is_repeated() {
            false => (reason, 1),
            true => match asked_attempts(info) {
                attempts @ 2.. if reason != Reason::Pinned => (Reason::Retry, attempts),
                attempts => (reason, attempts),
            },
        },
        Pick::Ranked(..) => (Reason::Retry, asked_attempts(info)),
        Pick::None | Pick::NoEndpoint => (Reason::Fallback, asked_attempts(info)),
    };
    record.attempts = attempts;
    if matches!(reason, Reason::Retry | Reason::Fallback) {
        let failed = tried_before(picker, &record, address, info);
        blame(picker, &mut record, &failed, charge.sent_at(), info.now());
    }
    if charge.endpoint() != endpoint {
        charge = picker.transfer(charge, endpoint, &record, tail, info.now());
    }
    record.served = Some(Served { address, endpoint, reason });
    if (is_endpoint_trouble(head.status) || head.is_busy())
        && let Some(endpoint) = endpoint
    {
        // Not only at the end: a body may follow slowly, and other requests are picked meanwhile.
        let now = info.now();
        let failure = if head.is_busy() {
            Failure::Busy { seconds: head.retry_after.unwrap_or(0) }
        } else {
            Failure::ServerError
        };
        picker.observe_failed(&mut record, endpoint, failure, charge.sent_at(), now);
    }
    if let (Some(report), Some(endpoint)) = (&head.load, endpoint)
        && picker.config().rules.orca
    {
        picker.report_load(endpoint, report, info.now());
    }
    Sent { record, charge, tail, asks_load, session, upload, asks_usage, is_tunnel }
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
    let Sent { mut record, charge, tail, asks_load, session, upload, asks_usage, is_tunnel } = sent;
    if (flags.blames_endpoint() || info.attempts().is_some_and(|attempts| attempts > 1))
        && let Some(last) = info.upstream_address()
    {
        record.attempts = asked_attempts(info);
        let mut failed = tried_before(picker, &record, last, info);
        if flags.blames_endpoint() {
            failed.extend(picker.find(last));
        }
        blame(picker, &mut record, &failed, charge.sent_at(), now);
    }
    Sent { record, charge, tail, asks_load, session, upload, asks_usage, is_tunnel }
}

/// How often an endpoint was tried, where one was.
fn asked_attempts(info: &mut impl StreamInfo) -> u32 {
    info.attempts().and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or(1)
}

/// The endpoints that were tried before `last`, each once.
fn tried_before(
    picker: &mut EndpointPicker,
    record: &ExchangeRecord,
    last: SocketAddr,
    info: &mut impl StreamInfo,
) -> Vec<EndpointId> {
    let tried = info.tried();
    if tried.is_none() && record.ranked().is_none() {
        return Vec::new();
    }
    let attempts = info.attempts();
    // Envoy 1.40 names the last attempt's endpoint only.
    let is_complete = |tried: &Vec<SocketAddr>| attempts.is_none_or(|attempts| tried.len() as u64 >= attempts);
    let Some(tried) = tried.filter(is_complete) else { return ranked_before(picker, record, last, attempts) };
    let before = tried.iter().rposition(|&address| address == last).unwrap_or(tried.len());
    let before = tried.iter().take(before).filter(|&&address| address != last);
    each_once(before.filter_map(|&at| picker.find(at)))
}

/// The entries of the ranked list before `last`, if the number of attempts says that each of them was tried. Where Envoy skipped some (they
/// are not in its cluster), such a host knows not which: there are none then.
fn ranked_before(
    picker: &mut EndpointPicker,
    record: &ExchangeRecord,
    last: SocketAddr,
    attempts: Option<u64>,
) -> Vec<EndpointId> {
    let Some(ranked) = record.ranked() else { return Vec::new() };
    let last = picker.find(last);
    let listed: Vec<EndpointId> = ranked.iter().collect();
    let is_last = |&id: &EndpointId| Some(id) == last;
    let place = match attempts.map(|attempts| usize::try_from(attempts).unwrap_or(usize::MAX)) {
        None => listed.iter().position(is_last).unwrap_or(listed.len()),
        Some(attempts) => {
            // A list that begins anew has it several times: it answered to the last attempt.
            let reached = listed.iter().take(attempts).rposition(is_last);
            let place = reached.or_else(|| listed.iter().position(is_last)).unwrap_or(listed.len());
            if attempts <= place {
                return Vec::new();
            }
            place
        }
    };
    each_once(listed.iter().take(place).filter(|id| !is_last(id)).copied())
}

fn each_once(tried: impl Iterator<Item = EndpointId>) -> Vec<EndpointId> {
    let mut endpoints = Vec::new();
    for endpoint in tried {
        if !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    endpoints
}

fn blame(
    picker: &mut EndpointPicker,
    record: &mut ExchangeRecord,
    failed: &[EndpointId],
    sent_at: Timestamp,
    now: Timestamp,
) {
    for &endpoint in failed {
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
