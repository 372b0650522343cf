//! The end of an exchange: what its answer was worth, and one record.

use alloc::boxed::Box;

use crate::accounts::Charge;
use crate::ending::{AnswerKind, judge};
use crate::openai::Usage;
use crate::picker::EndpointPicker;
use crate::record::{BodyOutcome, End, ExchangeRecord, ResponseOutcome, ResponseSummary};
use crate::scheduling::{Failure, Observation};
use crate::time::Timestamp;
use crate::usage_refusals::Answer;

use super::states::{Answering, AskedUsage, Sent};
use super::{Exchange, UsageAnswer};

/// A server that reports more tokens of one request than this is not believed: no context is that long, and a sum that wraps
/// round would take every other server's tokens of the model with it.
const MAX_TOKENS: u64 = u32::MAX as u64;

impl Exchange {
    /// An answer is over: judges it, tells the scheduler, and settles.
    pub(super) fn finish(&mut self, picker: &mut EndpointPicker, answering: Answering, end: End, now: Timestamp) {
        let Answering { mut sent, status, streamed, reader, unread, unread_bytes, is_foreign, asked, .. } = answering;
        let complete = end == End::Complete;
        let facts = reader.finish();
        sent.close(facts.model.as_deref());
        let Sent { mut record, charge, asks_usage, .. } = sent;
        if let (AskedUsage::Refused(reader), Some(question)) = (asked, asks_usage)
            && let Some(answer) = usage_answer(status, reader.names_usage(), question.is_all_ours, complete)
        {
            self.usage_answer = Some(UsageAnswer { model: record.target_model.clone(), answer, at: now });
        }
        let outcome = unread.unwrap_or(if complete { ResponseOutcome::Parsed } else { ResponseOutcome::Truncated });
        let bytes = facts.bytes.saturating_add(unread_bytes);
        let is_empty = bytes == 0 && !matches!(status, 204 | 205 | 300..);
        let kind = match record.api {
            None => AnswerKind::Other,
            Some(api) if api.answers_in_json() && (is_foreign || is_empty) => AnswerKind::Foreign,
            Some(_) => AnswerKind::Own,
        };
        let verdict = judge(status, &facts, outcome, kind);
        let usage = believable(facts.usage.unwrap_or_default());
        record.response = Some(ResponseSummary { status, bytes, streamed, outcome: verdict.outcome, usage, complete });
        record.response_model = facts.model;
        let end = match (end, verdict.error) {
            (End::Complete, Some(code)) => End::Failed(code),
            (end, _) => end,
        };
        if let Some(endpoint) = charge.endpoint() {
            let sent_at = charge.sent_at();
            match (verdict.failure, verdict.error) {
                // Those were observed with the headers.
                (Some(Failure::ServerError | Failure::Busy { .. }), _) => {}
                (Some(failure), _) if complete => picker.observe_failed(&mut record, endpoint, failure, sent_at, now),
                (None, None) if complete => picker.answer_ended(&charge, &record, usage, now),
                _ => picker.observe(endpoint, &Observation::Abandoned, sent_at, now),
            }
        }
        self.settle(picker, Some(charge), record, end, now);
    }

    /// The end, whichever it is.
    pub(super) fn settle(
        &mut self,
        picker: &mut EndpointPicker,
        charge: Option<Charge>,
        mut record: Box<ExchangeRecord>,
        end: End,
        now: Timestamp,
    ) {
        if record.api.is_some() {
            // Of a request that went on before it was whole, nothing else was noted.
            record.request.outcome.get_or_insert(BodyOutcome::Incomplete);
        }
        record.times.ended = now;
        record.end = end;
        if picker.config().rules.access_log {
            self.explanation = Some(Box::new(super::explanation(picker, &record)));
        }
        picker.settle(charge, record, now);
    }
}

/// What a refusal tells of asking for usage; `is_all_ours`: its client wrote nothing of that itself.
fn usage_answer(status: u16, is_named: bool, is_all_ours: bool, is_whole: bool) -> Option<Answer> {
    match status {
        400 | 422 if is_named && is_all_ours => Some(Answer::Refuses),
        400 | 422 => (is_named || is_whole).then_some(Answer::Doubts),
        // A server may fail for much else, so only one that says why counts, and not for ever.
        _ => is_named.then_some(Answer::Doubts),
    }
}

/// Token counts without those that no context could hold.
fn believable(usage: Usage) -> Usage {
    let believed = |tokens: Option<u64>| tokens.filter(|&tokens| tokens <= MAX_TOKENS);
    Usage {
        prompt_tokens: believed(usage.prompt_tokens),
        completion_tokens: believed(usage.completion_tokens),
        total_tokens: believed(usage.total_tokens),
        cached_tokens: believed(usage.cached_tokens),
        reasoning_tokens: believed(usage.reasoning_tokens),
    }
}
