//! A response on its way through an exchange.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::head::ResponseHead;
use crate::picker::EndpointPicker;
use crate::record::{BodyOutcome, End, ResponseOutcome};
use crate::time::Timestamp;
use crate::usage_refusals::Answer;

use super::attempts::{flags, local_reply, served, unserved};
use super::inbound::{self, Inbound};
use super::states::{Answering, AskedUsage, Sent, State, UsageQuestion};
use super::stream_info::StreamInfo;
use super::waiting;
use super::{Exchange, UsageAnswer};

impl Exchange {
    /// The response's headers came: the endpoint's, or those of an answer that Envoy made itself. Gives what is to be changed in them.
    pub fn on_response_headers(
        &mut self,
        picker: &mut EndpointPicker,
        head: &ResponseHead,
        info: &mut impl StreamInfo,
        end: bool,
    ) -> Inbound {
        match self.take() {
            State::Sent(sent) => {
                if let Some(flags) = local_reply(head.status, info) {
                    let now = info.now();
                    let mut sent = unserved(picker, sent, flags, info, now);
                    sent.close(None);
                    let end = End::Failed(flags.local_error(head.status));
                    sent.record.end = end;
                    let mut changes = Inbound::default();
                    self.explain(picker, &sent.record, &mut changes);
                    self.settle(picker, Some(sent.charge), sent.record, end, now);
                    return changes;
                }
                let sent = served(picker, sent, head, info);
                if let (200..300, Some(UsageQuestion { is_trusted: false, .. })) = (head.status, sent.asks_usage) {
                    self.usage_answer = Some(UsageAnswer {
                        model: sent.record.target_model.clone(),
                        answer: Answer::Accepts,
                        at: info.now(),
                    });
                }
                let answering = Answering::begin(sent, head);
                let takes_out = matches!(answering.asked, AskedUsage::Hidden(_));
                let mut changes = inbound::changes(picker, &answering.sent, head.has_load, takes_out);
                self.explain(picker, &answering.sent.record, &mut changes);
                self.state = State::Answering(Box::new(answering));
                if end {
                    self.end(picker, End::Complete, info.now());
                }
                return changes;
            }
            // Envoy gave up on the request while its body was still coming.
            State::Reading(reading) => {
                let mut record = reading.request.record;
                let is_too_large = head.status == 413;
                record.request.outcome =
                    Some(if is_too_large { BodyOutcome::TooLarge } else { BodyOutcome::Incomplete });
                let code = flags(info).local_error(head.status);
                self.settle(picker, None, record, End::Failed(code), info.now());
            }
            // Envoy gave up on the request before it was sent.
            State::Ready(ready) => {
                let code = flags(info).local_error(head.status);
                self.settle(picker, None, ready.request.record, End::Failed(code), info.now());
            }
            // Or while it waited.
            State::Parked(parked) => {
                let code = flags(info).local_error(head.status);
                let now = info.now();
                let record = waiting::leave(picker, *parked, End::Failed(code), now);
                self.settle(picker, None, record, End::Failed(code), now);
            }
            other @ (State::New | State::Answering(_) | State::Done) => self.state = other,
        }
        Inbound::default()
    }

    /// Whether the response's body is to be given to [`Self::on_response_body`]; else its size is all that matters.
    #[must_use]
    pub fn reads_response(&self) -> bool {
        let State::Answering(answering) = &self.state else { return false };
        answering.unread.is_none() || matches!(answering.asked, AskedUsage::Refused(_))
    }

    /// Whether something of the response that came was not passed on yet: then [`Self::on_response_body`] is to be called with its end, be that
    /// without a byte.
    #[must_use]
    pub fn holds_response(&self) -> bool {
        let State::Answering(answering) = &self.state else { return false };
        matches!(&answering.asked, AskedUsage::Hidden(remover) if remover.holds())
    }

    /// Gives what was not passed on. Nothing is taken out of the rest: the host does not hand it out, or does not let it be changed.
    pub fn release_response(&mut self) -> Vec<u8> {
        let State::Answering(answering) = &mut self.state else { return Vec::new() };
        match core::mem::replace(&mut answering.asked, AskedUsage::None) {
            AskedUsage::Hidden(remover) => remover.release(),
            AskedUsage::None | AskedUsage::Refused(_) => Vec::new(),
        }
    }

    /// More of the response's body came, in any number of slices. Gives what the client is to get in their place; `None`: them.
    pub fn on_response_body<'a>(
        &mut self,
        picker: &mut EndpointPicker,
        slices: impl IntoIterator<Item = &'a [u8]>,
        info: &mut impl StreamInfo,
        end: bool,
    ) -> Option<Vec<u8>> {
        let State::Answering(answering) = &mut self.state else { return None };
        let mut has_content = false;
        let (mut passed, mut is_changed) = (Vec::new(), false);
        for slice in slices {
            match &mut answering.asked {
                AskedUsage::None => {}
                AskedUsage::Hidden(remover) => is_changed |= remover.feed(slice, &mut passed),
                AskedUsage::Refused(reader) => reader.feed(slice),
            }
            if answering.unread.is_some() {
                answering.unread_bytes = answering.unread_bytes.saturating_add(slice.len() as u64);
            } else {
                let progress = answering.reader.feed(slice);
                has_content |= progress.content_events > 0;
                answering.is_terminated |= progress.terminal;
            }
        }
        if let Some(made) = answering.newly_made() {
            self.made = Some(made);
        }
        if has_content && answering.streamed {
            let now = info.now();
            let Sent { record, charge, .. } = &mut answering.sent;
            let before = record.times.last_content.replace(now);
            if let (Some(before), Some(intervals)) = (before, &mut record.intervals) {
                intervals.add(now.micros_since(before));
            }
            if record.times.first_content.is_none() {
                record.times.first_content = Some(now);
                record.intervals = picker.config().stats.llm_d.then(Box::default);
                picker.first_token_came(charge, record, now);
            }
        }
        if end {
            if let AskedUsage::Hidden(remover) = &mut answering.asked {
                is_changed |= remover.finish(&mut passed);
            }
            self.end(picker, End::Complete, info.now());
        }
        is_changed.then_some(passed)
    }

    /// `size` more bytes of the response came unread: they do not matter, or (`is_lost`) the host did not hand them out.
    pub fn on_response_size(
        &mut self,
        picker: &mut EndpointPicker,
        size: u64,
        is_lost: bool,
        info: &mut impl StreamInfo,
        end: bool,
    ) {
        let State::Answering(answering) = &mut self.state else { return };
        answering.unread_bytes = answering.unread_bytes.saturating_add(size);
        if is_lost {
            answering.unread.get_or_insert(ResponseOutcome::Unreadable);
            answering.asked = AskedUsage::None;
        }
        if end {
            self.end(picker, End::Complete, info.now());
        }
    }

    /// The response ended with trailers.
    pub fn on_response_trailers(&mut self, picker: &mut EndpointPicker, now: Timestamp) {
        if matches!(self.state, State::Answering(_)) {
            self.end(picker, End::Complete, now);
        }
    }
}
