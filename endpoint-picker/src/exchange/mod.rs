//! One request and its response, from the first header to the end, whatever that end is.
//!
//! The host calls in this order: [`Exchange::on_request_headers`]; while told to [`Directive::Wait`],
//! [`Exchange::on_request_body`] and perhaps [`Exchange::on_request_trailers`]; when told to [`Directive::Pick`],
//! [`Exchange::pick`]; then the response's callbacks; and last, always, [`Exchange::on_log`].
//!
//! A request may be sent before its body is whole. Then what is still to come of the body passes as it comes, and so does what the host
//! holds of it: given to [`Exchange::on_request_body`] while [`Exchange::reads_request`], else to [`Exchange::on_request_size`]; both
//! tell to [`Directive::Continue`], and may come between the response's callbacks.
//!
//! Any of them may be missing, since
//! either side may leave at any point, and the host may refuse what it is told ([`Exchange::on_refused`]). An exchange settles
//! exactly once, in [`EndpointPicker::settle`], with its [`ExchangeRecord`]; calls after that do nothing.

mod answer;
mod attempts;
mod body;
mod directive;
mod early;
mod entry;
mod inbound;
mod queue;
mod settling;
mod states;
mod stream_info;
mod upload;
mod waiting;

use alloc::boxed::Box;
use alloc::string::String;
use core::net::SocketAddr;

pub use directive::{Directive, Outbound, Refused};
pub use inbound::Inbound;
pub use stream_info::StreamInfo;

use crate::config::scan_options;
use crate::explanation::Explanation;
use crate::flow_control::QueueOutcome;
use crate::head::{EXPLANATION_HEADER, RequestHead, Route};
use crate::openai::{PromptDigest, RequestError, RequestScanner, ResponseId, USAGE_MEMBER};
use crate::picker::EndpointPicker;
use crate::record::{BodyOutcome, End, ExchangeRecord, Pick, RequestId};
use crate::reply::{ErrorCode, LocalReply};
use crate::rewrite::Splice;
use crate::routing::Choice;
use crate::scheduling::{Decision, Failure, PickRequest};
use crate::session;
use crate::shared_data::SharedData;
use crate::time::Timestamp;
use crate::usage_refusals::{self, Answer, Standing};
use attempts::{flags, unserved};
use states::{Reading, Ready, Request, Sent, State, UsageQuestion};
use upload::Upload;

/// The state machine of one exchange.
#[derive(Debug, Default)]
pub struct Exchange {
    state: State,
    /// What is left of the request must not reach an endpoint.
    is_sealed: bool,
    /// The response that came under this id, and who made it, to be noted.
    made: Option<(ResponseId, SocketAddr)>,
    /// The client may know why its request goes where it goes.
    explains: bool,
    /// What a server answered when it was asked to report usage, to be noted.
    usage_answer: Option<UsageAnswer>,
    /// What it was, once it is settled and somebody wants to know.
    explanation: Option<Box<Explanation>>,
}

/// What a server of a model answered when it was asked to report usage.
#[derive(Debug)]
struct UsageAnswer {
    model: String,
    answer: Answer,
    at: Timestamp,
}

impl Exchange {
    /// The request's headers came; `end`: and nothing more will. A destination that the client sent itself is already removed, or
    /// [`Self::on_refused`] is called in the place of this.
    pub fn on_request_headers(
        &mut self,
        picker: &mut EndpointPicker,
        head: &RequestHead<'_>,
        end: bool,
        now: Timestamp,
    ) -> Directive {
        if !matches!(self.state, State::New) {
            return Directive::Continue;
        }
        let route = head.route();
        if route == Route::Untouched {
            self.state = State::Done;
            return Directive::Continue;
        }
        if let (Some(told), Some(secret)) = (head.explain, &picker.config().rules.explain) {
            self.explains = secret.is(told);
        }
        let mut record = Box::new(ExchangeRecord::begin(now));
        record.request_id = head.request_id.and_then(RequestId::new);
        record.priority =
            head.objective.and_then(|name| core::str::from_utf8(name).ok()).map_or(0, |name| picker.priority(name));
        let request = Request {
            record,
            deadline: head.timeout_ms.map(|millis| now.plus_micros(millis.saturating_mul(1_000))),
            ttl_micros: head.ttl_micros,
            accepts_encoded: head.accepts_encoded,
            content_length: head.content_length,
            subset: entry::subset(picker, head, route),
            asked: ResponseId::from_path(head.path),
            maker: None,
            asks_load: head.asks_load,
            session: head.session.and_then(|token| session::find(picker.pool(), token)),
            fairness_id: picker.config().flow_control.and_then(|_| waiting::fairness_id(head)),
            is_tunnel: head.tunnel,
            usage_edit: None,
            asks_usage: None,
        };
        self.begin(picker, request, route, head, end, now)
    }

    fn begin(
        &mut self,
        picker: &mut EndpointPicker,
        mut request: Request,
        route: Route,
        head: &RequestHead<'_>,
        end: bool,
        now: Timestamp,
    ) -> Directive {
        let Route::Inference(api) = route else { return self.ready(request, None, PromptDigest::default(), None) };
        request.record.api = Some(api);
        if end {
            return self.refuse_body(picker, request.record, &RequestError::Empty, now);
        }
        if head.encoded {
            request.record.request.outcome = Some(BodyOutcome::Unparsed);
            return self.ready(request, None, PromptDigest::default(), None);
        }
        let scanner = match RequestScanner::for_content_type(
            api,
            head.content_type,
            scan_options(picker.config().profile.needs_prefixes()),
        ) {
            Ok(scanner) => scanner,
            Err(error) => return self.refuse_body(picker, request.record, &error, now),
        };
        let next_look = early::first_look(picker, &request);
        self.state = State::Reading(Box::new(Reading { request, scanner, next_look }));
        Directive::Wait
    }

    /// Looks up who made the response that a request asks for, which only that endpoint can serve. To be called before [`Self::pick`];
    /// it asks the host only when a request asks for a response.
    pub fn find_maker(&mut self, picker: &EndpointPicker, shared: &mut impl SharedData) {
        let State::Ready(Ready { request, .. }) = &mut self.state else { return };
        let makers = picker.config().rules.response_makers;
        let maker = request.asked.and_then(|id| makers.find(shared, id));
        // Outside its subset a request must not go, even to be answered.
        let maker = maker.filter(|&address| request.subset.as_ref().is_none_or(|subset| subset.admits(address)));
        request.maker = maker.and_then(|address| picker.pool().find(address));
    }

    /// Asks the server to report usage where the client did not, unless servers of the model refused that. To be called before
    /// [`Self::pick`]; it asks the host only about a stream that would not report it.
    pub fn ask_for_usage(&mut self, picker: &EndpointPicker, shared: &mut impl SharedData) {
        let State::Ready(Ready { request, splice, .. }) = &mut self.state else { return };
        let Some(edit) = request.usage_edit.take() else { return };
        if !picker.config().rules.ask_for_usage {
            return;
        }
        // The time of its headers will do: what counts here lasts for minutes.
        let standing = usage_refusals::standing(shared, &request.record.target_model, request.record.times.started);
        if standing != Standing::Closed {
            splice.get_or_insert_default().add(&edit);
            let (is_all_ours, is_trusted) = (edit.text == USAGE_MEMBER, standing == Standing::Trusted);
            request.asks_usage = Some(UsageQuestion { is_all_ours, is_trusted });
        }
    }

    /// Notes what a server answered when it was asked to report usage. To be called after each of the response's callbacks and after
    /// [`Self::on_log`].
    pub fn note_usage_answer(&mut self, shared: &mut impl SharedData) {
        if let Some(UsageAnswer { model, answer, at }) = self.usage_answer.take() {
            usage_refusals::note(shared, &model, answer, at);
        }
    }

    /// Notes who made the response that came, if it came with an id. To be called after the callback that brought a part of it and before
    /// the client sees that part.
    pub fn note_maker(&mut self, picker: &EndpointPicker, shared: &mut impl SharedData) {
        if let Some((id, maker)) = self.made.take() {
            picker.config().rules.response_makers.note(shared, id, maker);
        }
    }

    /// Picks an endpoint for a request that is ready for it.
    pub fn pick(&mut self, picker: &mut EndpointPicker, now: Timestamp) -> Directive {
        if !matches!(self.state, State::Ready(_)) {
            return Directive::Continue;
        }
        let State::Ready(ready) = self.take() else { return Directive::Continue };
        if let Some(reply) = entry::refusal(picker, &ready.request.record, now) {
            return self.refuse(picker, ready.request.record, reply, now);
        }
        self.queue(picker, ready, now)
    }

    /// Sends a request where flow control chose, or where it is best; `refused`: what became of it there if nobody can take it and it is refused.
    fn send(
        &mut self,
        picker: &mut EndpointPicker,
        ready: Ready,
        choice: Option<Choice>,
        refused: QueueOutcome,
        now: Timestamp,
    ) -> Directive {
        let Ready { request, splice, prompt, mut upload } = ready;
        let Request {
            mut record,
            deadline,
            accepts_encoded,
            content_length,
            subset,
            maker,
            asks_load,
            session,
            asks_usage,
            is_tunnel,
            ..
        } = request;
        let is_whole = upload.as_ref().is_none_or(|upload| !upload.is_coming());
        let is_explained = self.explains || picker.explains_picks();
        let Choice { decision, charge, ratings } = choice.unwrap_or_else(|| {
            let asked = PickRequest {
                target_model: &record.target_model,
                prompt: Some(&prompt),
                prompt_bytes: record.request.prompt_bytes,
                max_tokens: record.request.max_tokens,
                priority: record.priority,
                deadline,
                pinned: maker,
                session,
                subset: subset.as_ref(),
                room: None,
                ahead: &[],
                is_explained,
            };
            picker.pick(&asked, &record, &prompt, is_whole, now)
        });
        record.ratings = ratings;
        let mut destination = None;
        match decision {
            Decision::Picked(ranked, reason) => {
                record.pick = Pick::Ranked(ranked, reason);
                // Longer only where addresses are of IPv6.
                let mut list = String::with_capacity(64);
                for endpoint in ranked.iter().filter_map(|id| picker.pool().endpoint(id)) {
                    if !list.is_empty() {
                        list.push(',');
                    }
                    list.push_str(endpoint.destination());
                }
                destination = Some(list);
            }
            Decision::NoEndpoint => {
                record.pick = Pick::NoEndpoint;
                if let Some(reply) = entry::nobody(picker, &record, subset.as_ref()) {
                    waiting::note(&mut record, refused);
                    return self.refuse(picker, record, reply, now);
                }
            }
        }
        record.times.sent = Some(now);
        let charge = charge.unwrap_or_else(|| picker.charge_to(None, &record, &prompt, is_whole, now));
        let ask_identity = accepts_encoded && record.api.is_some();
        // Engines report in the headers of whole answers: those of a stream are sent before anything is known.
        let ask_load = picker.config().rules.orca && record.api.is_some() && !record.request.stream && !asks_load;
        let content_length = splice.as_ref().zip(content_length).map(|(splice, length)| splice.length(length));
        let tail = prompt.tail();
        if let Some(upload) = &mut upload {
            upload.send(prompt);
        }
        self.state =
            State::Sent(Sent { record, charge, tail, asks_load: ask_load, session, upload, asks_usage, is_tunnel });
        Directive::Send(Outbound { destination, ask_identity, ask_load, splice, content_length })
    }

    /// The host refused what it was told, or what it was asked for.
    pub fn on_refused(&mut self, picker: &mut EndpointPicker, refused: Refused, now: Timestamp) -> Directive {
        match refused {
            Refused::Destination => Directive::Continue,
            Refused::Reply => {
                if self.is_sealed {
                    Directive::Hold
                } else {
                    Directive::Continue
                }
            }
            Refused::Strip | Refused::Splice => {
                self.is_sealed = true;
                self.fail_internally(picker, now)
            }
            Refused::Body => {
                let upload = match &mut self.state {
                    State::Sent(Sent { upload, .. }) => upload,
                    State::Answering(answering) => &mut answering.sent.upload,
                    State::New | State::Reading(_) | State::Ready(_) | State::Parked(_) | State::Done => {
                        return self.fail_internally(picker, now);
                    }
                };
                if let Some(upload) = upload {
                    upload.lose();
                }
                Directive::Continue
            }
        }
    }

    /// The stream is over. Whatever was not settled before is settled here.
    pub fn on_log(&mut self, picker: &mut EndpointPicker, info: &mut impl StreamInfo) {
        if self.is_settled() {
            return;
        }
        let flags = flags(info);
        let now = info.now();
        let end = match &self.state {
            State::Answering(answering) => answering.end_at(flags),
            _ => End::Failed(flags.error_code()),
        };
        if let State::Answering(answering) = &mut self.state
            && end != End::Complete
            && flags.blames_endpoint()
            && let Some(endpoint) = answering.sent.charge.endpoint()
        {
            let sent_at = answering.sent.charge.sent_at();
            picker.observe_failed(&mut answering.sent.record, endpoint, Failure::BrokenOff, sent_at, now);
        }
        if matches!(self.state, State::Sent(_))
            && let State::Sent(sent) = self.take()
        {
            self.state = State::Sent(unserved(picker, sent, flags, info, now));
        }
        self.end(picker, end, now);
    }

    /// The host lost its hold of the exchange by a fault of its own: it is settled as such, wherever it stands.
    pub fn on_fault(&mut self, picker: &mut EndpointPicker, now: Timestamp) {
        self.is_sealed = true;
        let failed = End::Failed(ErrorCode::Internal);
        if matches!(self.state, State::New) {
            self.state = State::Done;
            self.settle(picker, None, Box::new(ExchangeRecord::begin(now)), failed, now);
        }
        self.end(picker, failed, now);
    }

    /// Whether the request may not pass, whatever still comes of it: the host refused what keeps an unchanged request from an endpoint.
    #[must_use]
    pub const fn is_sealed(&self) -> bool {
        self.is_sealed
    }

    /// What the exchange was, once, after the callback that settled it, where the access log asks for it. To be told to the host at once: it
    /// may write its log when the callback returns.
    pub fn take_explanation(&mut self) -> Option<Box<Explanation>> {
        self.explanation.take()
    }

    /// True once nothing is left to settle.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        matches!(self.state, State::New | State::Done)
    }

    const fn take(&mut self) -> State {
        core::mem::replace(&mut self.state, State::Done)
    }

    /// The one place where an exchange in flight comes to its end.
    fn end(&mut self, picker: &mut EndpointPicker, end: End, now: Timestamp) {
        match self.take() {
            State::New | State::Done => {}
            State::Reading(reading) => {
                let mut record = reading.request.record;
                record.request.outcome = Some(BodyOutcome::Incomplete);
                self.settle(picker, None, record, end, now);
            }
            State::Ready(ready) => self.settle(picker, None, ready.request.record, end, now),
            State::Parked(parked) => {
                let record = waiting::leave(picker, *parked, end, now);
                self.settle(picker, None, record, end, now);
            }
            State::Sent(mut sent) => {
                sent.close(None);
                self.settle(picker, Some(sent.charge), sent.record, end, now);
            }
            State::Answering(answering) => self.finish(picker, *answering, end, now),
        }
    }

    fn ready(
        &mut self,
        request: Request,
        splice: Option<Splice>,
        prompt: PromptDigest,
        upload: Option<Box<Upload>>,
    ) -> Directive {
        self.state = State::Ready(Ready { request, splice, prompt, upload });
        Directive::Pick
    }

    fn refuse_body(
        &mut self,
        picker: &mut EndpointPicker,
        mut record: Box<ExchangeRecord>,
        error: &RequestError,
        now: Timestamp,
    ) -> Directive {
        record.request.outcome = Some(upload::outcome(error));
        let reply = LocalReply::bad_request(record.api, error);
        self.refuse(picker, record, reply, now)
    }

    fn refuse(
        &mut self,
        picker: &mut EndpointPicker,
        mut record: Box<ExchangeRecord>,
        mut reply: LocalReply,
        now: Timestamp,
    ) -> Directive {
        self.state = State::Done;
        if self.explains {
            record.end = End::Failed(reply.error_code);
            reply.explanation = Some(explanation(picker, &record).to_json());
        }
        self.settle(picker, None, record, End::Failed(reply.error_code), now);
        Directive::Reply(reply)
    }

    /// Answers a request with 500 because of what the host refused, wherever the exchange stands.
    fn fail_internally(&mut self, picker: &mut EndpointPicker, now: Timestamp) -> Directive {
        let (charge, mut record) = match self.take() {
            State::New => (None, Box::new(ExchangeRecord::begin(now))),
            State::Reading(reading) => (None, reading.request.record),
            State::Ready(ready) => (None, ready.request.record),
            State::Parked(parked) => (None, waiting::leave(picker, *parked, End::Failed(ErrorCode::Internal), now)),
            State::Sent(mut sent) => {
                sent.close(None);
                (Some(sent.charge), sent.record)
            }
            other @ (State::Answering(_) | State::Done) => {
                self.state = other;
                return Directive::Continue;
            }
        };
        if record.api.is_some() && record.request.outcome.is_none() {
            record.request.outcome = Some(BodyOutcome::Unreadable);
        }
        let reply = LocalReply::internal(record.api);
        self.settle(picker, charge, record, End::Failed(reply.error_code), now);
        Directive::Reply(reply)
    }

    /// Tells a client that may know why its request went where it went, as far as that is known when the answer begins.
    fn explain(&self, picker: &EndpointPicker, record: &ExchangeRecord, changes: &mut Inbound) {
        if self.explains {
            changes.add.push((EXPLANATION_HEADER.into(), explanation(picker, record).to_json()));
        }
    }
}

fn explanation(picker: &EndpointPicker, record: &ExchangeRecord) -> Explanation {
    Explanation::of(record, picker.pool(), &picker.config().pool)
}
