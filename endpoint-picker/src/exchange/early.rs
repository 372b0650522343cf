//! When a request can go on before its body is whole.
//!
//! It can once nothing that is yet to come can change where it goes: what a body names last (a model that decides, the response that it
//! continues) holds it to its end, and so does a prompt that several endpoints share as far as it came, since the rest tells them apart.

use crate::config::MissingModel;
use crate::openai::{Api, RequestScanner};
use crate::picker::EndpointPicker;
use crate::rules::UnknownModel;

use super::states::Request;

/// After how many bytes of the body is looked for the first time whether the request can go on; `None`: it is held to its end.
pub(super) fn first_look(picker: &EndpointPicker, request: &Request) -> Option<u64> {
    // Who may have to wait is held anyway, and all of it is needed to place it well.
    if picker.config().flow_control.is_some() {
        return None;
    }
    let early = picker.config().rules.early_pick?;
    request.content_length.is_none_or(|length| length > early.bytes).then_some(early.bytes)
}

/// Whether the pick can depend on nothing that is yet to come of the body.
pub(super) fn is_settled(picker: &EndpointPicker, request: &Request, scanner: &RequestScanner) -> bool {
    let (rules, served) = (&picker.config().rules, picker.pool().served());
    if !scanner.has_model() && may_depend_on_model(picker) {
        return false;
    }
    let may_continue = request.record.api == Some(Api::Responses) && rules.response_makers.is_kept();
    if may_continue && !scanner.has_previous_response() {
        return false;
    }
    if served.has_mixed_limits() && (request.content_length.is_none() || !scanner.has_max_tokens()) {
        return false;
    }
    match scanner.tail(assumed_model(picker)) {
        Some(0) => false,
        // Holders of a prompt only get fewer towards its end, and one alone is told apart from all others.
        Some(tail) => picker.holders(tail) <= 1 || !scanner.hashes_more(),
        None => true,
    }
}

/// The model that a request is taken to be for that has not named one; empty: any.
pub(super) fn assumed_model(picker: &EndpointPicker) -> &str {
    picker.pool().served().sole().unwrap_or_default()
}

/// Whether it makes a difference which model a request is for.
fn may_depend_on_model(picker: &EndpointPicker) -> bool {
    let (config, served) = (picker.config(), picker.pool().served());
    let is_checked = config.rules.unknown_model == UnknownModel::Reject && served.is_listed();
    is_checked || config.missing_model == MissingModel::Reject || picker.has_rewrites() || served.has_several()
}
