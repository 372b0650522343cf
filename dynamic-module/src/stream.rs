//! One HTTP stream: hooks in, one directive out, calls of Envoy as it says.
//!
//! Envoy can run another hook of the same stream while it answers the client, so nothing is borrowed or locked then.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;

use endpoint_picker::exchange::{Inbound, Outbound, Refused, StreamInfo};
use endpoint_picker::filter_time::{self, FilterTime, Sampler};
use endpoint_picker::head::{
    DESTINATION_HEADER, EXPLAIN_HEADER, EXPLANATION_HEADER, RETRY_AFTER_HEADER, RequestHead, ResponseHead,
};
use endpoint_picker::load_report;
use endpoint_picker::openai::Api;
use endpoint_picker::reply::LocalReply;
use endpoint_picker::rewrite::Splice;
use endpoint_picker::rules::{Destination, SubsetHint};
use endpoint_picker::session::{Carrier, Session};
use endpoint_picker::{Directive, EndpointPicker, Exchange, Timestamp};

use crate::clock;
use crate::envoy::{Attribute, Body, HttpStream, Map, Text};
use crate::parking::ParkedStream;
use crate::process::{Instance, process};

/// Where Envoy's load balancer and the endpoint picker protocol keep what concerns endpoints in metadata.
const METADATA: &str = "envoy.lb";
/// Where the protocol puts the only endpoints that may be picked.
const SUBSET_METADATA: &str = "envoy.lb.subset_hint";
const SUBSET_KEY: &str = "x-gateway-destination-endpoint-subset";

/// Where Envoy's access log and spans find what an exchange was.
const EXPLANATION_METADATA: &str = "inpick";

/// What Envoy does with what a hook was about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// It goes on.
    Go,
    /// It stays, and what belongs to it is kept.
    Stay,
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Stream {
    instance: Arc<Instance>,
    state: RefCell<State>,
    /// `None`: it is not timed.
    time: Cell<Option<FilterTime>>,
    /// While it waits in flow control.
    parked: RefCell<Option<Arc<ParkedStream>>>,
}

thread_local! {
    static TIMED: Cell<Sampler> = const { Cell::new(Sampler::new()) };
}

#[derive(Debug, Default)]
struct State {
    exchange: Exchange,
    phase: Phase,
}

/// What is done with the request's body.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Phase {
    /// It passes; the exchange may still be interested in it.
    #[default]
    Passing,
    /// It is held and read.
    Reading,
    /// It is held for good: the client was answered, or may not be let through.
    Held,
}

impl Stream {
    pub(crate) fn new(instance: Arc<Instance>) -> Self {
        instance.with_picker(EndpointPicker::catch_up);
        let mut timed = TIMED.get();
        let time = Cell::new(timed.begin());
        TIMED.set(timed);
        Self { instance, state: RefCell::default(), time, parked: RefCell::default() }
    }

    /// Runs a hook, and notes how long it takes where the stream is timed.
    pub(crate) fn timed<T>(&self, phase: filter_time::Phase, run: impl FnOnce() -> T) -> T {
        if self.time.get().is_none() {
            return run();
        }
        let began = clock::now();
        let result = run();
        // The stream may have come to its end meanwhile.
        if let Some(mut time) = self.time.get() {
            time.add(phase, clock::now().micros_since(began));
            self.time.set(Some(time));
        }
        result
    }

    pub(crate) fn request_headers(&self, envoy: &mut HttpStream<'_>, end: bool) -> Verdict {
        let (hint, token) = self.instance.with_picker(|picker| {
            let rules = &picker.config().rules;
            let hint = (rules.subset_hint == SubsetHint::Metadata).then(|| envoy.metadata(SUBSET_METADATA, SUBSET_KEY));
            let token = rules.session.as_ref().and_then(|session| session_token(session, envoy));
            (hint.flatten(), token)
        });
        let has_destination = envoy.values(Map::Request, DESTINATION_HEADER).next().is_some();
        if has_destination && !envoy.remove_header(Map::Request, DESTINATION_HEADER) {
            log::warn!("a client's own destination cannot be removed");
            return self.step(envoy, |exchange, picker, _| exchange.on_refused(picker, Refused::Strip, clock::now()));
        }
        let secret = self.secret(envoy);
        // The secret is for this filter alone.
        if secret.is_some() && !envoy.remove_header(Map::Request, EXPLAIN_HEADER) {
            log::warn!("a client's secret cannot be removed");
            return self.step(envoy, |exchange, picker, _| exchange.on_refused(picker, Refused::Strip, clock::now()));
        }
        self.step(envoy, |exchange, picker, envoy| {
            let names = self.instance.request_headers().iter().copied().chain(picker.more_request_headers());
            let mut head = RequestHead::read(envoy.pairs(Map::Request, names));
            head.has_destination = has_destination;
            head.subset_metadata = hint.as_deref();
            head.session = token.as_deref();
            head.explain = secret.as_deref();
            exchange.on_request_headers(picker, &head, end, clock::now())
        })
    }

    pub(crate) fn request_body(&self, envoy: &mut HttpStream<'_>, end: bool) -> Verdict {
        match self.phase() {
            Phase::Passing => {
                self.pass_body(envoy, end);
                Verdict::Go
            }
            Phase::Held => Verdict::Stay,
            Phase::Reading => self.step(envoy, |exchange, picker, envoy| match envoy.body(Body::Received) {
                Some(slices) => exchange.on_request_body(picker, slices, end, &mut Info(envoy)),
                None => {
                    log::warn!("a request body cannot be read");
                    exchange.on_refused(picker, Refused::Body, clock::now())
                }
            }),
        }
    }

    /// A piece of the body of a request that was passed on already.
    fn pass_body(&self, envoy: &HttpStream<'_>, end: bool) {
        self.observe(envoy, |exchange, picker, envoy| {
            let info = &mut Info(envoy);
            if exchange.reads_request() {
                if let Some(slices) = envoy.body(Body::Received) {
                    exchange.on_request_body(picker, slices, end, info);
                    return;
                }
                log::warn!("a request body cannot be read");
                exchange.on_refused(picker, Refused::Body, clock::now());
            }
            exchange.on_request_size(picker, envoy.body_size(Body::Received) as u64, end, info);
        });
    }

    pub(crate) fn request_trailers(&self, envoy: &mut HttpStream<'_>) -> Verdict {
        match self.phase() {
            Phase::Passing => {
                self.observe(envoy, |exchange, picker, envoy| {
                    exchange.on_request_size(picker, 0, true, &mut Info(envoy));
                });
                Verdict::Go
            }
            Phase::Held => Verdict::Stay,
            Phase::Reading => {
                self.step(envoy, |exchange, picker, envoy| exchange.on_request_trailers(picker, &mut Info(envoy)))
            }
        }
    }

    pub(crate) fn response_headers(&self, envoy: &mut HttpStream<'_>, end: bool) {
        let inbound = self.observe(envoy, |exchange, picker, envoy| {
            let names = self.instance.response_headers().iter().copied();
            let mut head = ResponseHead::read(envoy.pairs(Map::Response, names));
            if head.is_busy() {
                head.read_more(envoy.pairs(Map::Response, [RETRY_AFTER_HEADER]));
            }
            exchange.on_response_headers(picker, &head, &mut Info(envoy), end)
        });
        if let Some(inbound) = inbound {
            receive(envoy, &inbound);
        }
    }

    pub(crate) fn response_body(&self, envoy: &mut HttpStream<'_>, end: bool) {
        let body = Body::ReceivedResponse;
        let instead = self.observe(envoy, |exchange, picker, envoy| {
            let info = &mut Info(envoy);
            if !exchange.reads_response() {
                exchange.on_response_size(picker, envoy.body_size(body) as u64, false, info, end);
                return None;
            }
            let Some(slices) = envoy.body(body) else {
                log::warn!("a response body cannot be read");
                exchange.release_response();
                exchange.on_response_size(picker, envoy.body_size(body) as u64, true, info, end);
                return None;
            };
            let instead = exchange.on_response_body(picker, slices, info, end);
            exchange.note_maker(picker, &mut process().shared());
            instead
        });
        if let Some(bytes) = instead.flatten()
            && !(envoy.drain(body) && (bytes.is_empty() || envoy.append(body, &bytes)))
        {
            log::warn!("a response body cannot be changed");
            self.observe(envoy, |exchange, _, _| exchange.release_response());
        }
    }

    pub(crate) fn response_trailers(&self, envoy: &HttpStream<'_>) {
        self.observe(envoy, |exchange, picker, _| exchange.on_response_trailers(picker, clock::now()));
    }

    pub(crate) fn stream_complete(&self, envoy: &HttpStream<'_>) {
        self.observe(envoy, |exchange, picker, envoy| exchange.on_log(picker, &mut Info(envoy)));
        self.unpark();
        self.instance.wake_next();
        if let Some(time) = self.time.take() {
            self.instance.with_picker(|picker| picker.record_filter_time(time));
        }
    }

    /// A request that waited in flow control under that number is to go on.
    pub(crate) fn resume(&self, envoy: &mut HttpStream<'_>, number: u64) {
        if self.parked.borrow().as_ref().is_none_or(|parked| parked.number() != number) {
            return;
        }
        self.unpark();
        let verdict = self.step(envoy, |exchange, picker, _| exchange.resume(picker, clock::now()));
        // What the access log is told must be there before the request goes on, which may end it.
        self.tell(envoy);
        if verdict == Verdict::Go {
            envoy.continue_request();
        }
        self.instance.wake_next();
    }

    /// It does not wait any more, for whoever would wake it.
    fn unpark(&self) {
        if let Some(parked) = self.parked.take() {
            parked.close();
        }
    }

    /// Has the request wait in flow control under that number. What is to be done instead, if it cannot or need not wait any more.
    fn park(&self, envoy: &HttpStream<'_>, number: u64) -> Option<Directive> {
        let parked = envoy.scheduler().map(|scheduler| Arc::new(ParkedStream::new(number, scheduler)));
        if parked.is_none() {
            log::warn!("a request cannot wait");
        }
        self.parked.replace(parked.clone());
        let waits = parked.is_some_and(|parked| {
            self.with_exchange(|exchange, picker| exchange.set_wake(picker, parked)).unwrap_or(true)
        });
        if waits {
            return None;
        }
        self.unpark();
        Some(self.decide(|exchange, picker| exchange.resume(picker, clock::now())))
    }

    /// What a client sends to be told why its request goes where it goes, where that is configured.
    fn secret(&self, envoy: &HttpStream<'_>) -> Option<Vec<u8>> {
        if !self.instance.explains() {
            return None;
        }
        envoy.values(Map::Request, EXPLAIN_HEADER).last().map(<[u8]>::to_vec)
    }

    /// Tells Envoy's access log and spans what the exchange was, once it is settled.
    pub(crate) fn tell(&self, envoy: &mut HttpStream<'_>) {
        let explanation = self.state.try_borrow_mut().ok().and_then(|mut state| state.exchange.take_explanation());
        if let Some(explanation) = explanation {
            envoy.set_metadata_struct(EXPLANATION_METADATA, &explanation.to_struct());
        }
    }

    /// A hook panicked: the exchange is settled as a fault of ours, and what is left of the request goes nowhere.
    pub(crate) fn abandon(&self) {
        self.instance.with_picker(|picker| {
            if let Ok(mut state) = self.state.try_borrow_mut() {
                state.phase = Phase::Held;
                state.exchange.on_fault(picker, clock::now());
            }
        });
    }

    fn phase(&self) -> Phase {
        self.state.try_borrow().map_or(Phase::Held, |state| state.phase)
    }

    fn set_phase(&self, phase: Phase) {
        if let Ok(mut state) = self.state.try_borrow_mut() {
            state.phase = phase;
        }
    }

    /// Runs one step of the response's way out, if the exchange still has an interest in it, and notes what its server thinks of being asked for usage.
    fn observe<T>(
        &self,
        envoy: &HttpStream<'_>,
        step: impl FnOnce(&mut Exchange, &mut EndpointPicker, &HttpStream<'_>) -> T,
    ) -> Option<T> {
        let mut state = self.state.try_borrow_mut().ok()?;
        if state.exchange.is_settled() {
            return None;
        }
        let done = self.instance.with_picker(|picker| step(&mut state.exchange, picker, envoy));
        state.exchange.note_usage_answer(&mut process().shared());
        Some(done)
    }

    /// Runs one step of the request's way in and carries out what it directs.
    fn step(
        &self,
        envoy: &mut HttpStream<'_>,
        step: impl FnOnce(&mut Exchange, &mut EndpointPicker, &HttpStream<'_>) -> Directive,
    ) -> Verdict {
        let mut directive = self.decide(|exchange, picker| {
            let directive = step(exchange, picker, envoy);
            if directive != Directive::Pick {
                return directive;
            }
            exchange.find_maker(picker, &mut process().shared());
            exchange.ask_for_usage(picker, &mut process().shared());
            let before = clock::now();
            let directive = exchange.pick(picker, before);
            let after = clock::now();
            picker.record_pick_duration(after.micros_since(before));
            exchange.note_parked(after);
            directive
        });
        loop {
            let (phase, verdict) = match directive {
                Directive::Continue => (Phase::Passing, Verdict::Go),
                Directive::Wait => (Phase::Reading, Verdict::Stay),
                Directive::Pick | Directive::Hold => (Phase::Held, Verdict::Stay),
                Directive::Park(number) => match self.park(envoy, number) {
                    None => (Phase::Held, Verdict::Stay),
                    Some(instead) => {
                        directive = instead;
                        continue;
                    }
                },
                Directive::Send(outbound) => match self.send(envoy, &outbound) {
                    Ok(()) => (Phase::Passing, Verdict::Go),
                    Err(instead) => {
                        directive = instead;
                        continue;
                    }
                },
                Directive::Reply(reply) => {
                    // Before the answer, in which other hooks of this stream can run.
                    self.set_phase(Phase::Held);
                    // And so can the log be written.
                    self.tell(envoy);
                    answer(envoy, &reply);
                    return Verdict::Stay;
                }
            };
            self.set_phase(phase);
            return verdict;
        }
    }

    fn decide(&self, decide: impl FnOnce(&mut Exchange, &mut EndpointPicker) -> Directive) -> Directive {
        // A hook within another one comes only while an answer is sent; then nothing is left to decide.
        self.with_exchange(decide).unwrap_or(Directive::Hold)
    }

    /// Works with the exchange; `None`: a hook outside of this one does.
    fn with_exchange<T>(&self, then: impl FnOnce(&mut Exchange, &mut EndpointPicker) -> T) -> Option<T> {
        let mut state = self.state.try_borrow_mut().ok()?;
        Some(self.instance.with_picker(|picker| then(&mut state.exchange, picker)))
    }

    /// Changes a request as directed. What Envoy refuses is told to the exchange, whose directive counts instead unless it lets the request
    /// go on.
    fn send(&self, envoy: &mut HttpStream<'_>, outbound: &Outbound) -> Result<(), Directive> {
        let check = |is_done: bool, what: Refused| {
            if is_done {
                return Ok(());
            }
            log::warn!("a request cannot be changed ({what:?})");
            match self.decide(|exchange, picker| exchange.on_refused(picker, what, clock::now())) {
                Directive::Continue => Ok(()),
                instead => Err(instead),
            }
        };
        if let Some(destination) = &outbound.destination {
            match self.instance.destination() {
                Destination::Metadata => envoy.set_metadata(METADATA, DESTINATION_HEADER, destination),
                Destination::Header => {
                    let set = envoy.set_header(Map::Request, DESTINATION_HEADER, destination.as_bytes());
                    check(set, Refused::Destination)?;
                }
            }
        }
        if outbound.ask_identity {
            // Without it the response may come encoded, which is counted.
            let _ = envoy.set_header(Map::Request, "accept-encoding", b"identity");
        }
        if outbound.ask_load {
            // Without it there is no report.
            let _ = envoy.set_header(Map::Request, load_report::FORMAT_HEADER, load_report::FORMAT.as_bytes());
        }
        if let Some(splice) = &outbound.splice {
            check(replace_body(envoy, splice, outbound.content_length), Refused::Splice)?;
        }
        Ok(())
    }
}

/// Puts the spliced body in the place of the one that Envoy holds; false: Envoy refused something.
fn replace_body(envoy: &mut HttpStream<'_>, splice: &Splice, content_length: Option<u64>) -> bool {
    let received = Body::Received;
    // With trailers, the last hook brings nothing of the body.
    let at = if envoy.body_size(received) > 0 { received } else { Body::Buffered };
    let held_back = if at != received || envoy.received_is_buffered() { None } else { Some(Body::Buffered) };
    let spliced = {
        let mut slices = Vec::new();
        for body in held_back.into_iter().chain([at]) {
            let Some(more) = envoy.body(body) else { return false };
            slices.extend(more);
        }
        splice.apply_to(&slices)
    };
    if let Some(body) = held_back
        && !envoy.drain(body)
    {
        return false;
    }
    let replaced = envoy.drain(at) && envoy.append(at, &spliced);
    let declare = |length: u64| envoy.set_header(Map::Request, "content-length", length.to_string().as_bytes());
    replaced && content_length.is_none_or(declare)
}

/// Answers the client.
fn answer(envoy: &mut HttpStream<'_>, reply: &LocalReply) {
    let details = format!("inpick_{}", reply.error_code.as_str());
    let seconds = reply.retry_after.map(|seconds| seconds.to_string());
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(seconds.as_deref().map(|seconds| ("retry-after", seconds)));
    headers.extend(reply.explanation.as_deref().map(|explanation| (EXPLANATION_HEADER, explanation)));
    envoy.send_response(reply.status, &headers, &reply.body, &details);
}

/// Answers the client that a fault of ours kept its request from being served.
pub(crate) fn answer_fault(envoy: &mut HttpStream<'_>) {
    let api = envoy.values(Map::Request, ":path").next().and_then(Api::from_path);
    answer(envoy, &LocalReply::internal(api));
}

/// Changes the headers of a response as directed.
fn receive(envoy: &mut HttpStream<'_>, inbound: &Inbound) {
    let removed = inbound.remove.iter().all(|name| envoy.remove_header(Map::Response, name));
    let added = inbound.add.iter().all(|(name, value)| envoy.add_header(Map::Response, name, value.as_bytes()));
    if !(removed && added) {
        // The client gets what the server sent.
        log::warn!("a response cannot be changed");
    }
}

/// The token of the client's session.
fn session_token(session: &Session, envoy: &HttpStream<'_>) -> Option<Vec<u8>> {
    let name = match &session.carrier {
        Carrier::Header(name) => name,
        Carrier::Cookie(_) => "cookie",
    };
    let pairs = envoy.values(Map::Request, name).map(|value| (name.as_bytes(), value));
    session.token(pairs).map(<[u8]>::to_vec)
}

/// What Envoy knows of the stream that the current hook is about.
struct Info<'a, 'hook>(&'a HttpStream<'hook>);

impl StreamInfo for Info<'_, '_> {
    fn now(&mut self) -> Timestamp {
        clock::now()
    }

    fn upstream_address(&mut self) -> Option<SocketAddr> {
        address(self.0.text(Text::UpstreamAddress)?)
    }

    fn attempts(&mut self) -> Option<u64> {
        self.0.integer(Attribute::Attempts)
    }

    fn tried(&mut self) -> Option<Vec<SocketAddr>> {
        Some(self.0.hosts_attempted().into_iter().filter_map(address).collect())
    }

    fn code_details(&mut self) -> Option<Vec<u8>> {
        self.0.text(Text::CodeDetails).map(<[u8]>::to_vec)
    }

    fn response_flags(&mut self) -> Option<u64> {
        self.0.integer(Attribute::ResponseFlags)
    }
}

fn address(text: &[u8]) -> Option<SocketAddr> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Its thread may end now.
        self.unpark();
    }
}
