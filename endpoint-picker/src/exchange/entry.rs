//! Which requests are sent at all, and to which endpoints alone.

use crate::head::{RequestHead, Route};
use crate::picker::EndpointPicker;
use crate::pool::Offered;
use crate::record::ExchangeRecord;
use crate::reply::LocalReply;
use crate::rules::{SubsetHint, UnknownModel};
use crate::scheduling::Subset;
use crate::time::Timestamp;

/// The endpoints that a request is confined to, if it is.
pub(super) fn subset(picker: &EndpointPicker, head: &RequestHead<'_>, route: Route) -> Option<Subset> {
    let (rules, pool) = (&picker.config().rules, picker.pool());
    if rules.conformance {
        return match (head.selection, route) {
            (Some(list), _) => Some(Subset::parse(list, pool).as_order()),
            // As the endpoint picker of the tests does: without a body nothing is scheduled, and without the header nobody is chosen.
            (None, Route::LoadOnly | Route::Untouched) => None,
            (None, Route::Inference(_)) => Some(Subset::default()),
        };
    }
    let hint = match rules.subset_hint {
        SubsetHint::Off => None,
        SubsetHint::Metadata => head.subset_metadata,
        SubsetHint::Header => head.subset_hint.as_deref(),
    };
    hint.map(|list| Subset::parse(list, pool))
}

/// Why a request is answered here instead of being sent.
pub(super) fn refusal(picker: &EndpointPicker, record: &ExchangeRecord, now: Timestamp) -> Option<LocalReply> {
    let (rules, pool) = (&picker.config().rules, picker.pool());
    if rules.unknown_model == UnknownModel::Reject
        && matches!(pool.served().offered(&record.target_model), Offered::ByNobody)
    {
        return Some(LocalReply::unknown_model(record.api, &record.model));
    }
    // Where requests can wait, those of negative priority do, behind all others.
    let limits = rules.shedding.filter(|_| record.priority < 0 && picker.config().flow_control.is_none())?;
    let level = picker.look(|routing| limits.level(routing.pool(), now)).unwrap_or_else(|| limits.level(pool, now));
    (level >= 1.0).then(|| LocalReply::saturated(record.api))
}

/// What a request is answered that no endpoint can take; `None`: it is left to the load balancer's fallback policy, which knows
/// neither a subset nor who serves what.
pub(super) fn nobody(picker: &EndpointPicker, record: &ExchangeRecord, subset: Option<&Subset>) -> Option<LocalReply> {
    let config = picker.config();
    if config.rules.conformance && subset.is_some() {
        return Some(LocalReply::none_selected(record.api));
    }
    let offered = picker.pool().served().offered(&record.target_model);
    let is_partial = matches!(offered, Offered::By(offer) if offer.is_partial());
    let is_refused = subset.is_some() || is_partial || picker.fails_closed();
    is_refused.then(|| LocalReply::no_endpoint(record.api, &config.pool))
}
