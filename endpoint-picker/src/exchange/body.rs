//! A request's body on its way through an exchange: read while it is held, and perhaps while it passes.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use crate::config::MissingModel;
use crate::openai::{Model, Notation, RequestError, RequestFacts};
use crate::picker::EndpointPicker;
use crate::record::BodyOutcome;
use crate::reply::LocalReply;
use crate::rewrite::Splice;
use crate::time::Timestamp;

use super::directive::Directive;
use super::states::{Reading, Ready, Request, Sent, State};
use super::stream_info::StreamInfo;
use super::upload::{self, Upload};
use super::{Exchange, early};

impl Exchange {
    /// All that is still to come of the request's body is in the host's hands: to pass it on before it is read saves nothing. To be called
    /// before [`Self::on_request_body`] where that is given the end of a body in several calls.
    pub fn on_request_held(&mut self, picker: &EndpointPicker) {
        if let State::Reading(reading) = &mut self.state
            && picker.config().rules.early_pick.is_some_and(|early| early.reads_rest)
        {
            reading.next_look = None;
        }
    }

    /// While told to wait: the offset in the request's body at which the next look at whether it can go on is due. To fetch more before that
    /// look may be a waste.
    #[must_use]
    pub fn next_look(&self) -> Option<u64> {
        match &self.state {
            State::Reading(reading) => reading.next_look,
            _ => None,
        }
    }

    /// Whether what is still to come of a request that was passed on is to be given to [`Self::on_request_body`]; else its size is all
    /// that matters.
    #[must_use]
    pub fn reads_request(&self) -> bool {
        let upload = match &self.state {
            State::Ready(Ready { upload, .. }) | State::Sent(Sent { upload, .. }) => upload,
            State::Answering(answering) => &answering.sent.upload,
            State::New | State::Reading(_) | State::Parked(_) | State::Done => return false,
        };
        upload.as_ref().is_some_and(|upload| upload.is_read())
    }

    /// More of the request's body came, in any number of slices.
    pub fn on_request_body<'a>(
        &mut self,
        picker: &mut EndpointPicker,
        slices: impl IntoIterator<Item = &'a [u8]>,
        end: bool,
        info: &mut impl StreamInfo,
    ) -> Directive {
        if end {
            self.on_request_held(picker);
        }
        for slice in slices {
            let fed = match &mut self.state {
                State::Reading(reading) if reading.next_look.is_none() => reading.scanner.feed(slice),
                State::Reading(_) => self.feed(picker, slice),
                State::Ready(Ready { upload: Some(upload), .. }) => upload.feed(slice),
                State::Sent(Sent { upload: Some(upload), .. }) => {
                    // The server refuses it, and it is counted at its end.
                    let _ = upload.feed(slice);
                    Ok(())
                }
                State::Answering(answering) => {
                    if let Some(upload) = &mut answering.sent.upload {
                        let _ = upload.feed(slice);
                    }
                    Ok(())
                }
                State::Parked(_) => return Directive::Hold,
                State::New | State::Ready(_) | State::Sent(_) | State::Done => return Directive::Continue,
            };
            if let Err(error) = fed {
                return match self.take() {
                    State::Reading(reading) => self.refuse_body(picker, reading.request.record, &error, info.now()),
                    State::Ready(ready) => self.refuse_body(picker, ready.request.record, &error, info.now()),
                    _ => Directive::Continue,
                };
            }
        }
        if end {
            return self.on_request_trailers(picker, info);
        }
        match self.state {
            State::Reading(_) => Directive::Wait,
            State::Ready(Ready { upload: Some(_), .. }) => Directive::Pick,
            State::Parked(_) => Directive::Hold,
            State::New | State::Ready(_) | State::Sent(_) | State::Answering(_) | State::Done => Directive::Continue,
        }
    }

    /// `size` more bytes came of the body of a request that was passed on, which nobody was shown.
    pub fn on_request_size(&mut self, picker: &mut EndpointPicker, size: u64, end: bool, info: &mut impl StreamInfo) {
        let upload = match &mut self.state {
            State::Ready(Ready { upload, .. }) | State::Sent(Sent { upload, .. }) => upload,
            State::Answering(answering) => &mut answering.sent.upload,
            State::New | State::Reading(_) | State::Parked(_) | State::Done => return,
        };
        if let Some(upload) = upload {
            upload.pass(size);
            if end {
                self.on_request_trailers(picker, info);
            }
        }
    }

    /// The request's body is complete.
    pub fn on_request_trailers(&mut self, picker: &mut EndpointPicker, info: &mut impl StreamInfo) -> Directive {
        match self.take() {
            State::Reading(reading) => {
                let Reading { request, scanner, .. } = *reading;
                match scanner.finish() {
                    Ok(facts) => self.read(picker, request, facts, info),
                    Err(error) => self.refuse_body(picker, request.record, &error, info.now()),
                }
            }
            State::Ready(Ready { mut request, splice, mut prompt, upload: Some(mut upload) }) => {
                if let Some(whole) = upload.note_end(&mut request.record, &prompt) {
                    prompt = whole;
                }
                self.ready(request, splice, prompt, Some(upload))
            }
            State::Sent(mut sent) => {
                if sent.is_coming() {
                    ended(picker, &mut sent, false, info.now());
                }
                self.state = State::Sent(sent);
                Directive::Continue
            }
            State::Answering(mut answering) => {
                if answering.sent.is_coming() {
                    let has_answer = answering.status >= 300 || answering.sent.record.times.first_content.is_some();
                    ended(picker, &mut answering.sent, has_answer, info.now());
                }
                self.state = State::Answering(answering);
                Directive::Continue
            }
            parked @ State::Parked(_) => {
                self.state = parked;
                Directive::Hold
            }
            other @ (State::New | State::Ready(_) | State::Done) => {
                self.state = other;
                Directive::Continue
            }
        }
    }

    /// Reads more of a body that is held, and sees whether the request can go on.
    fn feed(&mut self, picker: &mut EndpointPicker, slice: &[u8]) -> Result<(), RequestError> {
        let mut rest = slice;
        while let State::Reading(reading) = &mut self.state {
            let Reading { request, scanner, next_look } = reading.as_mut();
            let room = next_look.map_or(u64::MAX, |look| look.saturating_sub(scanner.offset()));
            let split = usize::try_from(room).ok().and_then(|room| rest.split_at_checked(room));
            let Some((piece, behind)) = split.filter(|_| next_look.is_some()) else { return scanner.feed(rest) };
            scanner.feed(piece)?;
            rest = behind;
            *next_look = next_look.map(|look| look.saturating_mul(2));
            if early::is_settled(picker, request, scanner) {
                self.go_on(picker);
            }
        }
        match &mut self.state {
            State::Ready(Ready { upload: Some(upload), .. }) => upload.feed(rest),
            _ => Ok(()),
        }
    }

    /// Makes a request ready whose body is still coming.
    fn go_on(&mut self, picker: &mut EndpointPicker) {
        let State::Reading(reading) = self.take() else { return };
        let Reading { mut request, scanner, .. } = *reading;
        let mut facts = scanner.so_far(early::assumed_model(picker));
        let reads_rest = picker.config().rules.early_pick.is_some_and(|early| early.reads_rest);
        // What is yet to come may ask for usage, or say that the client wants none: only who reads it knows.
        facts.usage_edit = facts.usage_edit.filter(|_| reads_rest && picker.config().rules.ask_for_usage);
        let upload = Box::new(Upload::begin(scanner, &facts, reads_rest));
        if let Some(length) = request.content_length {
            facts.prompt_bytes = upload.prompt_bytes(length);
        }
        let prompt = core::mem::take(&mut facts.prompt);
        let splice = name_model(picker, &mut request, facts);
        if request.record.target_model.is_empty() {
            request.record.target_model = String::from(early::assumed_model(picker));
        }
        self.ready(request, splice, prompt, Some(upload));
    }

    /// The body is read to its end.
    fn read(
        &mut self,
        picker: &mut EndpointPicker,
        mut request: Request,
        mut facts: RequestFacts,
        info: &mut impl StreamInfo,
    ) -> Directive {
        let prompt = core::mem::take(&mut facts.prompt);
        request.record.request.bytes = facts.body_bytes;
        let is_refused = facts.model == Model::Missing && picker.config().missing_model == MissingModel::Reject;
        let splice = name_model(picker, &mut request, facts);
        if is_refused {
            request.record.request.outcome = Some(BodyOutcome::MissingModel);
            let reply = LocalReply::missing_model(request.record.api);
            return self.refuse(picker, request.record, reply, info.now());
        }
        request.record.request.outcome = Some(BodyOutcome::Parsed);
        self.ready(request, splice, prompt, None)
    }
}

/// Takes over what a body says, and rewrites its model.
fn name_model(picker: &mut EndpointPicker, request: &mut Request, facts: RequestFacts) -> Option<Splice> {
    let record = &mut request.record;
    record.request.prompt_bytes = facts.prompt_bytes;
    record.request.max_tokens = facts.max_tokens;
    record.request.stream = facts.stream;
    record.request.continues = facts.previous_response.is_some();
    request.asked = facts.previous_response;
    request.usage_edit = facts.usage_edit;
    let (model, value_ranges, notation) = match facts.model {
        Model::Named { name, value_ranges, notation } => (name, value_ranges, notation),
        Model::Missing => (String::new(), Vec::new(), Notation::Json),
    };
    let mut splice = None;
    if !value_ranges.is_empty()
        && let Some((rule, target)) = picker.rewrite(&model)
    {
        record.rewrite_rule = Some(rule.into());
        record.target_model.clone_from(&target.model);
        splice = (target.model != model).then(|| Splice::rename(value_ranges, &target.model, notation));
    } else {
        record.target_model.clone_from(&model);
    }
    record.model = model;
    splice
}

/// The last of a request came; `has_answer`: after what answers it.
fn ended(picker: &mut EndpointPicker, sent: &mut Sent, has_answer: bool, now: Timestamp) {
    let Sent { record, charge, tail, upload: Some(upload), .. } = sent else { return };
    let started = upload.take_started();
    let Some(prompt) = upload.note_end(record, &started) else { return };
    // An answer that did not wait for all of the prompt is none to it.
    if has_answer {
        return;
    }
    let mut sent_marks = started.marks.len();
    if prompt.marks.get(..sent_marks) != Some(&started.marks) {
        // Tools or a salt behind the prompt, or another model than assumed: what begins so is found by either.
        sent_marks = 0;
        picker.note_prompt(charge, &upload::unread(&started, record.request.prompt_bytes));
    }
    *tail = prompt.tail();
    picker.became_whole(charge, record, &prompt, sent_marks, now);
}
