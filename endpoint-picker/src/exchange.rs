//! One request and its response, from the first header to the end, whatever that end is.
//!
//! The host calls in this order: [`Exchange::on_request_headers`]; while told to [`Directive::Wait`],
//! [`Exchange::on_request_body`] and perhaps [`Exchange::on_request_trailers`]; when told to [`Directive::Pick`],
//! [`Exchange::pick`]; then the response's callbacks; and last, always, [`Exchange::on_log`]. Any of them may be missing, since
//! either side may leave at any point. Every account is settled exactly once, in `settle`, when the exchange reaches its
//! [`End`]; calls after that do nothing.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;

use catalogue::Stat;

use crate::config::{MissingModel, NoEndpoint, scan_options};
use crate::head::{RequestHead, ResponseHead, Route};
use crate::ledger::{Measure, ModelId};
use crate::openai::{Api, Model, Notation, RequestError, RequestFacts, RequestScanner, ResponseFacts, ResponseReader};
use crate::picker::EndpointPicker;
use crate::reply::{ErrorCode, LocalReply};
use crate::rewrite::{Rule, Splice};
use crate::scheduling::{Decision, Ranked, Reason};
use crate::time::Timestamp;

/// A server that reports more tokens of one request than this is not believed: no context is that long, and a sum that wraps
/// round would take every other server's tokens of the model with it.
const MAX_TOKENS: u64 = u32::MAX as u64;

/// What the host shall do with the request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Directive {
    /// Pass it on as it is.
    Continue,
    /// Hold it: more of it is needed.
    Wait,
    /// Hold it and call [`Exchange::pick`].
    Pick,
    /// Change it like this and pass it on.
    Send(Outbound),
    /// Answer it.
    Reply(LocalReply),
}

/// How a request is changed on its way out.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Outbound {
    /// Ranked endpoints, `ip:port,ip:port`; `None`: there must be no destination header.
    pub destination: Option<String>,
    /// The client sent a destination header of its own, which must not survive.
    pub client_destination: bool,
    /// Replaces the model in the body.
    pub splice: Option<Splice>,
    /// The request declares its length, which a splice changes.
    pub has_content_length: bool,
}

/// What the host knows of a stream and hands out when asked: each question costs a call.
pub trait StreamInfo {
    /// The current time. Asked for only where it is recorded.
    fn now(&mut self) -> Timestamp;
    /// Address of the endpoint that answered, or that was tried last.
    fn upstream_address(&mut self) -> Option<SocketAddr>;
    /// How often an endpoint was tried.
    fn attempts(&mut self) -> Option<u64>;
    /// Envoy's details of the response code: `via_upstream`, or why Envoy answered itself.
    fn code_details(&mut self) -> Option<Vec<u8>>;
    /// Envoy's response flags, bit by bit as its access log names them.
    fn response_flags(&mut self) -> Option<u64>;
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// The response reached its last byte.
    Complete,
    /// It was refused or broke off.
    Failed(ErrorCode),
}

/// The state machine of one exchange.
#[derive(Debug, Default)]
pub struct Exchange {
    state: State,
}

#[derive(Debug, Default)]
enum State {
    /// No callback yet.
    #[default]
    New,
    /// The body is being read.
    Reading(Box<Reading>),
    /// Everything needed for a pick is known.
    Ready(Ready),
    /// Passed on; no answer yet.
    Sent(Sent),
    /// The answer is coming.
    Answering(Box<Answering>),
    /// Settled, or none of the picker's business.
    Done,
}

#[derive(Debug)]
struct Reading {
    head: Arrival,
    scanner: RequestScanner,
}

/// What is kept of the request's headers.
#[derive(Clone, Debug)]
struct Arrival {
    started: Timestamp,
    api: Option<Api>,
    priority: i64,
    client_destination: bool,
    has_content_length: bool,
}

#[derive(Debug)]
struct Ready {
    head: Arrival,
    model: Option<ModelId>,
    splice: Option<Splice>,
}

#[derive(Debug)]
struct Sent {
    started: Timestamp,
    api: Option<Api>,
    model: Option<ModelId>,
    picked: Option<(Ranked, Reason)>,
    /// Whose in-flight count holds this request.
    charged: Option<SocketAddr>,
}

#[derive(Debug)]
struct Answering {
    sent: Sent,
    status: u16,
    streamed: bool,
    reader: ResponseReader,
    /// Bytes that the reader was not shown.
    unread: u64,
    first_content: Option<Timestamp>,
    last_content: Option<Timestamp>,
}

impl Exchange {
    /// The request's headers came; `end`: and nothing more will.
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
        let arrival = Arrival {
            started: now,
            api: None,
            priority: head
                .objective
                .and_then(|name| core::str::from_utf8(name).ok())
                .and_then(|name| picker.config.objectives.get(name).copied())
                .unwrap_or(0),
            client_destination: head.has_destination,
            has_content_length: head.has_content_length,
        };
        match head.route() {
            Route::Untouched => {
                self.state = State::Done;
                if head.has_destination {
                    Directive::Send(Outbound { client_destination: true, ..Outbound::default() })
                } else {
                    Directive::Continue
                }
            }
            Route::Inference(_) if end => self.refuse_body(picker, &RequestError::Empty),
            Route::Inference(api) if !head.encoded => {
                let scanner = match RequestScanner::for_content_type(api, head.content_type, scan_options(false)) {
                    Ok(scanner) => scanner,
                    Err(error) => return self.refuse_body(picker, &error),
                };
                self.state = State::Reading(Box::new(Reading { head: Arrival { api: Some(api), ..arrival }, scanner }));
                Directive::Wait
            }
            Route::Inference(_) => {
                count_body(picker, "unparsed");
                self.ready(arrival, None, None)
            }
            Route::LoadOnly => self.ready(arrival, None, None),
        }
    }

    /// More of the request's body came.
    pub fn on_request_body(&mut self, picker: &mut EndpointPicker, chunk: &[u8], end: bool) -> Directive {
        let State::Reading(reading) = &mut self.state else { return Directive::Continue };
        if let Err(error) = reading.scanner.feed(chunk) {
            return self.refuse_body(picker, &error);
        }
        if !end {
            return Directive::Wait;
        }
        self.on_request_trailers(picker)
    }

    /// The request's body is complete.
    pub fn on_request_trailers(&mut self, picker: &mut EndpointPicker) -> Directive {
        match core::mem::take(&mut self.state) {
            State::Reading(reading) => {
                let Reading { head, scanner } = *reading;
                match scanner.finish() {
                    Ok(facts) => self.read(picker, head, facts),
                    Err(error) => self.refuse_body(picker, &error),
                }
            }
            other => {
                self.state = other;
                Directive::Continue
            }
        }
    }

    /// Picks an endpoint for a request that is ready for it.
    pub fn pick(&mut self, picker: &mut EndpointPicker, now: Timestamp) -> Directive {
        let Ready { head, model, splice } = match core::mem::replace(&mut self.state, State::Done) {
            State::Ready(ready) => ready,
            other => {
                self.state = other;
                return Directive::Continue;
            }
        };
        let picked = match picker.pick(model, now) {
            Decision::Picked(ranked, reason) => Some((ranked, reason)),
            Decision::NoEndpoint if picker.config.no_endpoint == NoEndpoint::FailClosed => {
                let reply = LocalReply::no_endpoint(&picker.config.pool);
                picker.count_error(model, reply.error_code);
                return Directive::Reply(reply);
            }
            Decision::NoEndpoint => None,
        };
        let charged = picked.map(|(ranked, _)| ranked.first().address);
        picker.sent(charged, model);
        let destination = picked.map(|(ranked, _)| {
            let mut list = String::new();
            for place in ranked.iter() {
                if !list.is_empty() {
                    list.push(',');
                }
                if let Some(endpoint) = picker.pool.endpoints().get(place.index) {
                    list.push_str(&endpoint.address);
                }
            }
            list
        });
        self.state = State::Sent(Sent { started: head.started, api: head.api, model, picked, charged });
        Directive::Send(Outbound {
            destination,
            client_destination: head.client_destination,
            splice,
            has_content_length: head.has_content_length,
        })
    }

    /// The response's headers came: the endpoint's, or those of an answer that Envoy made itself.
    pub fn on_response_headers(
        &mut self,
        picker: &mut EndpointPicker,
        head: &ResponseHead,
        info: &mut impl StreamInfo,
        end: bool,
    ) {
        match core::mem::replace(&mut self.state, State::Done) {
            State::Sent(sent) => {
                let own_answer = if head.status >= 400 { local_reply_cause(info) } else { None };
                if let Some(code) = own_answer {
                    let tried = usize::try_from(info.attempts().unwrap_or(1)).unwrap_or(1);
                    let now = info.now();
                    blame(picker, sent.picked, tried, now);
                    settle(picker, sent, Some(code), now, None);
                    return;
                }
                let sent = served(picker, sent, info);
                let readable = !head.encoded && head.status < 400;
                let reader = match sent.api {
                    Some(api) if readable && head.event_stream => ResponseReader::sse(Some(api)),
                    Some(api) if readable && head.json => ResponseReader::json(Some(api)),
                    _ => ResponseReader::opaque(),
                };
                self.state = State::Answering(Box::new(Answering {
                    sent,
                    status: head.status,
                    streamed: head.event_stream,
                    reader,
                    unread: 0,
                    first_content: None,
                    last_content: None,
                }));
                if end {
                    self.end(picker, End::Complete, info.now());
                }
            }
            // Envoy gave up on the request while its body was still coming.
            State::Reading(_) => {
                if head.status == 413 {
                    count_body(picker, "too_large");
                    picker.count_error(None, ErrorCode::BadRequest);
                } else {
                    count_body(picker, "incomplete");
                    picker.count_error(None, ErrorCode::Timeout);
                }
            }
            // Envoy gave up on the request before it was sent.
            State::Ready(ready) => picker.count_error(ready.model, cause(info.response_flags())),
            other @ (State::New | State::Answering(_) | State::Done) => self.state = other,
        }
    }

    /// `size` more bytes of the response came; `read` fetches them and is called only if they matter.
    pub fn on_response_body(
        &mut self,
        picker: &mut EndpointPicker,
        size: usize,
        read: impl FnOnce() -> Vec<u8>,
        info: &mut impl StreamInfo,
        end: bool,
    ) {
        let State::Answering(answering) = &mut self.state else { return };
        if size > 0 {
            if matches!(answering.reader, ResponseReader::Opaque(_)) {
                answering.unread += size as u64;
            } else {
                let progress = answering.reader.feed(&read());
                if progress.content_events > 0 && answering.streamed {
                    let now = info.now();
                    answering.first_content.get_or_insert(now);
                    answering.last_content = Some(now);
                }
            }
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

    /// The stream is over. Whatever was not settled before is settled here.
    pub fn on_log(&mut self, picker: &mut EndpointPicker, info: &mut impl StreamInfo) {
        if matches!(self.state, State::Reading(_) | State::Ready(_) | State::Sent(_) | State::Answering(_)) {
            let code = cause(info.response_flags());
            self.end(picker, End::Failed(code), info.now());
        }
    }

    /// True once nothing is left to settle.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        matches!(self.state, State::New | State::Done)
    }

    /// The one place where an exchange in flight comes to its end.
    fn end(&mut self, picker: &mut EndpointPicker, end: End, now: Timestamp) {
        let failure = match end {
            End::Complete => None,
            End::Failed(code) => Some(code),
        };
        match core::mem::replace(&mut self.state, State::Done) {
            State::New | State::Done => {}
            State::Reading(_) => {
                count_body(picker, "incomplete");
                picker.count_error(None, failure.unwrap_or(ErrorCode::Cancelled));
            }
            State::Ready(ready) => picker.count_error(ready.model, failure.unwrap_or(ErrorCode::Internal)),
            State::Sent(sent) => settle(picker, sent, failure, now, None),
            State::Answering(answering) => {
                let Answering { sent, status, streamed, reader, unread, first_content, last_content } = *answering;
                let mut facts = reader.finish();
                facts.bytes += unread;
                let failure =
                    failure.or((status >= 400 || facts.error.is_some()).then_some(ErrorCode::ModelServerError));
                let answer = Answer { facts, complete: end == End::Complete, streamed, first_content, last_content };
                settle(picker, sent, failure, now, Some(answer));
            }
        }
    }

    fn ready(&mut self, head: Arrival, model: Option<ModelId>, splice: Option<Splice>) -> Directive {
        self.state = State::Ready(Ready { head, model, splice });
        Directive::Pick
    }

    fn refuse_body(&mut self, picker: &mut EndpointPicker, error: &RequestError) -> Directive {
        let outcome = match error {
            RequestError::Empty => "empty",
            RequestError::Malformed { .. }
            | RequestError::NotUtf8 { .. }
            | RequestError::TooDeep { .. }
            | RequestError::MalformedForm { .. } => "malformed",
            RequestError::NotAForm
            | RequestError::NoBoundary
            | RequestError::NotAnObject
            | RequestError::ModelNotAString
            | RequestError::ModelEmpty
            | RequestError::ModelTooLong
            | RequestError::ModelRepeated => "invalid",
        };
        count_body(picker, outcome);
        self.refuse(picker, LocalReply::bad_request(error))
    }

    fn refuse(&mut self, picker: &mut EndpointPicker, reply: LocalReply) -> Directive {
        self.state = State::Done;
        picker.count_error(None, reply.error_code);
        Directive::Reply(reply)
    }

    /// The body is read: name the model, rewrite it, count the request.
    fn read(&mut self, picker: &mut EndpointPicker, head: Arrival, facts: RequestFacts) -> Directive {
        let (model, ranges, notation) = match facts.model {
            Model::Named { name, value_ranges, notation } => (name, value_ranges, notation),
            Model::Missing if picker.config.missing_model == MissingModel::Reject => {
                count_body(picker, "missing_model");
                return self.refuse(picker, LocalReply::missing_model());
            }
            Model::Missing => (String::new(), Vec::new(), Notation::Json),
        };
        picker.count_parsed_body();
        let splice = rewrite(picker, &model, ranges, notation);
        let target = splice.as_ref().map_or(model.as_str(), |splice| splice.model.as_str());
        let id = picker.ledger.model(&model, target);
        picker.ledger.count_request(id, head.priority);
        picker.ledger.record(id, Measure::RequestSize, facts.body_bytes);
        self.ready(head, Some(id), splice)
    }
}

/// What came back, for the statistics.
struct Answer {
    facts: ResponseFacts,
    complete: bool,
    streamed: bool,
    first_content: Option<Timestamp>,
    last_content: Option<Timestamp>,
}

fn count_body(picker: &mut EndpointPicker, outcome: &str) {
    picker.ledger.count(Stat::RequestBodiesTotal, &[outcome]);
}

/// Applies the rule for `model`, if there is one and the body names the model.
fn rewrite(
    picker: &mut EndpointPicker,
    model: &str,
    ranges: Vec<core::ops::Range<usize>>,
    notation: Notation,
) -> Option<Splice> {
    if ranges.is_empty() {
        return None;
    }
    let rule = Rule::find(&picker.config.rewrites, model)?;
    let target = rule.draw(&mut picker.rng)?;
    picker.ledger.count(Stat::ModelRewriteDecisionsTotal, &[&rule.name, model, &target.model]);
    (target.model != model).then(|| Splice { ranges, model: target.model.clone(), notation })
}

/// An endpoint answered: blame those that were tried before it, and move the request to it.
fn served(picker: &mut EndpointPicker, mut sent: Sent, info: &mut impl StreamInfo) -> Sent {
    let Some(by) = info.upstream_address() else { return sent };
    if sent.picked.map(|(ranked, _)| ranked.first().address) != Some(by) {
        let tried_before = sent.picked.map_or(0, |(ranked, _)| {
            ranked.iter().position(|place| place.address == by).unwrap_or_else(|| ranked.iter().count())
        });
        blame(picker, sent.picked, tried_before, info.now());
        sent.charged = picker.moved(sent.charged, by);
    }
    picker.pool.record_success(by);
    let reason = match sent.picked {
        Some((ranked, reason)) if ranked.first().address == by => reason,
        Some(_) => Reason::Retry,
        None => Reason::Fallback,
    };
    picker.count_pick(by, reason);
    sent
}

/// The first `tried` entries of the ranked list did not answer.
fn blame(picker: &mut EndpointPicker, picked: Option<(Ranked, Reason)>, tried: usize, now: Timestamp) {
    if let Some((ranked, _)) = picked {
        for place in ranked.iter().take(tried) {
            picker.failed(place.address, now);
        }
    }
}

/// Takes a request off every account and records what it was.
fn settle(picker: &mut EndpointPicker, sent: Sent, failure: Option<ErrorCode>, now: Timestamp, answer: Option<Answer>) {
    picker.finished(sent.charged, sent.model);
    if let Some(code) = failure {
        picker.count_error(sent.model, code);
    }
    let (Some(model), Some(answer)) = (sent.model, answer.filter(|answer| answer.complete)) else { return };
    let duration = now.micros_since(sent.started);
    let ledger = &mut picker.ledger;
    ledger.record(model, Measure::RequestDuration, duration);
    ledger.record(model, Measure::ResponseSize, answer.facts.bytes);
    let usage = answer.facts.usage.unwrap_or_default();
    // A count of 0 says that there was nothing of the kind (no output of an embedding), not that a sample of 0 was taken.
    let prompt = usage.prompt_tokens.filter(|tokens| (1..=MAX_TOKENS).contains(tokens));
    let generated = usage.completion_tokens.filter(|tokens| (1..=MAX_TOKENS).contains(tokens));
    if let Some(tokens) = prompt {
        ledger.record(model, Measure::InputTokens, tokens);
    }
    if let Some(tokens) = usage.cached_tokens.filter(|&tokens| tokens <= MAX_TOKENS) {
        ledger.record(model, Measure::CachedTokens, tokens);
    }
    if let Some(tokens) = generated {
        ledger.record(model, Measure::OutputTokens, tokens);
        ledger.record(model, Measure::NormalizedTimePerOutputToken, duration / tokens);
    }
    if answer.streamed
        && let (Some(first), Some(last)) = (answer.first_content, answer.last_content)
    {
        ledger.record(model, Measure::TimeToFirstToken, first.micros_since(sent.started));
        if let Some(tokens) = generated.filter(|&tokens| tokens > 1) {
            ledger.record(model, Measure::TimePerOutputToken, last.micros_since(first) / (tokens - 1));
        }
    }
}

/// Why Envoy answered in the endpoint's place; `None` when the endpoint did answer.
fn local_reply_cause(info: &mut impl StreamInfo) -> Option<ErrorCode> {
    let details = info.code_details()?;
    if details.is_empty() || details.starts_with(b"via_upstream") {
        return None;
    }
    Some(cause(info.response_flags()))
}

/// Bits of Envoy's response flags, in the order of its `CoreResponseFlag`.
mod flag {
    pub(super) const NO_HEALTHY_UPSTREAM: u64 = 1 << 1;
    pub(super) const UPSTREAM_REQUEST_TIMEOUT: u64 = 1 << 2;
    pub(super) const UPSTREAM_OVERFLOW: u64 = 1 << 7;
    pub(super) const NO_ROUTE: u64 = 1 << 8;
    pub(super) const DOWNSTREAM_CONNECTION_TERMINATION: u64 = 1 << 14;
    pub(super) const STREAM_IDLE_TIMEOUT: u64 = 1 << 16;
    pub(super) const DOWNSTREAM_PROTOCOL_ERROR: u64 = 1 << 18;
    pub(super) const MAX_STREAM_DURATION: u64 = 1 << 19;
    pub(super) const DURATION_TIMEOUT: u64 = 1 << 22;
    pub(super) const NO_CLUSTER: u64 = 1 << 24;
    pub(super) const DOWNSTREAM_REMOTE_RESET: u64 = 1 << 28;
}

fn cause(flags: Option<u64>) -> ErrorCode {
    // A stream that was dropped without a flag was dropped by this side of the proxy: the client is not there any more.
    let flags = flags.unwrap_or(0);
    let any = |bits: u64| flags & bits != 0;
    if any(flag::UPSTREAM_REQUEST_TIMEOUT
        | flag::STREAM_IDLE_TIMEOUT
        | flag::MAX_STREAM_DURATION
        | flag::DURATION_TIMEOUT)
    {
        ErrorCode::Timeout
    } else if any(flag::DOWNSTREAM_CONNECTION_TERMINATION
        | flag::DOWNSTREAM_REMOTE_RESET
        | flag::DOWNSTREAM_PROTOCOL_ERROR)
        || flags == 0
    {
        ErrorCode::Cancelled
    } else if any(flag::NO_HEALTHY_UPSTREAM | flag::NO_ROUTE | flag::NO_CLUSTER) {
        ErrorCode::ServiceUnavailable
    } else if any(flag::UPSTREAM_OVERFLOW) {
        ErrorCode::ResourceExhausted
    } else {
        ErrorCode::UpstreamReset
    }
}
