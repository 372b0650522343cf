//! One HTTP stream: callbacks in, one directive out, host calls as it says.

use std::net::SocketAddr;
use std::rc::Rc;

use endpoint_picker::exchange::{Inbound, Outbound, Refused, StreamInfo};
use endpoint_picker::filter_time::{FilterTime, Phase};
use endpoint_picker::head::{
    DESTINATION_HEADER, EXPLAIN_HEADER, EXPLANATION_HEADER, RequestHead, ResponseHead, SERVED_HEADER,
};
use endpoint_picker::load_report;
use endpoint_picker::reply::LocalReply;
use endpoint_picker::rules::{ServedEndpoint, SubsetHint};
use endpoint_picker::slab::{Due, Slabs};
use endpoint_picker::{Directive, EndpointPicker, Exchange, Timestamp};

use crate::abi::{self, Action, Buffer, Map};
use crate::envoy::Envoy;
use crate::filter_state;
use crate::host::{self, Returned};
use crate::picker::SharedPicker;

/// Where the endpoint picker protocol puts the only endpoints that may be picked.
const SUBSET_HINT: &str = "metadata\0filter_metadata\0envoy.lb.subset_hint\0x-gateway-destination-endpoint-subset";

pub(crate) struct Stream {
    picker: SharedPicker,
    exchange: Exchange,
    slabs: Slabs,
    /// The number by which flow control knows it while it waits.
    parked: Option<u64>,
    /// `None`: it is not timed.
    time: Option<FilterTime>,
}

impl Stream {
    pub(crate) fn new(picker: SharedPicker) -> Self {
        Self { picker, exchange: Exchange::default(), slabs: Slabs::default(), parked: None, time: None }
    }

    /// Begins another stream in the memory of one that is over.
    pub(crate) fn begin(&mut self, picker: SharedPicker) {
        self.picker = picker;
    }

    /// Whether, and where, the time that its callbacks take is noted.
    pub(crate) const fn time(&mut self, time: Option<FilterTime>) {
        self.time = time;
    }

    pub(crate) const fn is_timed(&self) -> bool {
        self.time.is_some()
    }

    /// A callback took so many microseconds.
    pub(crate) fn took(&mut self, phase: Phase, micros: u64) {
        if let Some(time) = &mut self.time {
            time.add(phase, micros);
        }
    }

    /// What it is picked with.
    pub(crate) const fn picker(&self) -> &SharedPicker {
        &self.picker
    }

    /// The number by which flow control knows it while it waits.
    pub(crate) const fn parked(&self) -> Option<u64> {
        self.parked
    }

    /// It need not wait any more. The host was turned to it.
    pub(crate) fn resume(&mut self) {
        self.parked = None;
        if self.step(|exchange, picker| exchange.resume(picker, host::now())) == Action::Continue
            && let Err(refused) = host::continue_request()
        {
            log::warn!("a request that waited cannot go on: {refused:?}");
        }
    }

    /// Forgets the stream, which is over.
    pub(crate) fn clear(&mut self) {
        self.exchange = Exchange::default();
        self.slabs = Slabs::default();
        self.parked = None;
    }

    /// Fetches the request's body as far as the host holds it, and shows it to the exchange slab by slab; `end`: it ends there. Once the
    /// exchange has decided, the rest of what is held is shown or counted before the request is changed and passed on.
    fn read_body(&mut self, buffered: usize, end: bool) -> Action {
        let picker = Rc::clone(&self.picker);
        let Ok(mut picker) = picker.try_borrow_mut() else { return Action::Continue };
        if end {
            self.exchange.on_request_held(&picker);
        }
        loop {
            let slab = self.slabs.next(buffered);
            let bytes = match slab.map(|slab| host::buffer(Buffer::RequestBody, slab.start, slab.length)) {
                None => None,
                Some(Ok(bytes)) => Some(bytes),
                Some(Err(refused)) => {
                    log::warn!("a request body cannot be read: {refused:?}");
                    let directive = self.exchange.on_refused(&mut picker, Refused::Body, host::now());
                    return self.carry_out(&mut picker, directive);
                }
            };
            let bytes = bytes.as_deref().unwrap_or_default();
            let is_short = slab.is_none_or(|slab| self.slabs.fetched(slab, bytes.len()));
            let is_last = is_short || self.slabs.next(buffered).is_none();
            let is_end = end && is_last;
            let directive = self.exchange.on_request_body(&mut picker, [bytes], is_end, &mut EnvoyStream::default());
            let directive = self.pick(&mut picker, directive);
            if is_last {
                return self.carry_out(&mut picker, directive);
            }
            if directive != Directive::Wait {
                let mut slabs = std::mem::take(&mut self.slabs);
                self.pass(&mut picker, &mut slabs, buffered, end);
                return self.carry_out(&mut picker, directive);
            }
            self.slabs.set_look(self.exchange.next_look());
        }
    }

    /// A piece of a body that nobody holds.
    fn pass_body(&mut self, size: usize, end: bool) {
        if self.exchange.is_settled() {
            return;
        }
        let picker = Rc::clone(&self.picker);
        if let Ok(mut picker) = picker.try_borrow_mut() {
            self.pass(&mut picker, &mut Slabs::default(), size, end);
        }
    }

    /// Shows what passes of a request that goes on to the exchange, or how much it is.
    fn pass(&mut self, picker: &mut EndpointPicker, slabs: &mut Slabs, size: usize, end: bool) {
        let mut is_over = false;
        while !is_over
            && (self.exchange.reads_request() || size == usize::MAX)
            && let Some(slab) = slabs.next(size)
        {
            match host::buffer(Buffer::RequestBody, slab.start, slab.length) {
                Ok(bytes) => {
                    is_over = slabs.fetched(slab, bytes.len());
                    self.exchange.on_request_body(picker, [&*bytes], false, &mut EnvoyStream::default());
                }
                Err(refused) => {
                    log::warn!("a request body cannot be read: {refused:?}");
                    self.exchange.on_refused(picker, Refused::Body, host::now());
                    is_over = true;
                }
            }
        }
        let unseen = if size == usize::MAX { 0 } else { slabs.unread(size) as u64 };
        self.exchange.on_request_size(picker, unseen, end, &mut EnvoyStream::default());
    }

    /// The subset hint of the proxy's metadata, where it is to be taken from there; empty: there is one that names nobody.
    fn subset_hint(&self) -> Option<Vec<u8>> {
        let is_wanted =
            self.picker.try_borrow().is_ok_and(|picker| picker.config().rules.subset_hint == SubsetHint::Metadata);
        if is_wanted { host::property(SUBSET_HINT).map(host::texts) } else { None }
    }

    /// Runs one step of the request's way in and carries out what it directs.
    fn step(&mut self, step: impl FnOnce(&mut Exchange, &mut EndpointPicker) -> Directive) -> Action {
        let picker = Rc::clone(&self.picker);
        let Ok(mut picker) = picker.try_borrow_mut() else { return Action::Continue };
        let directive = step(&mut self.exchange, &mut picker);
        let directive = self.pick(&mut picker, directive);
        self.carry_out(&mut picker, directive)
    }

    /// Picks, where that is directed.
    fn pick(&mut self, picker: &mut EndpointPicker, directive: Directive) -> Directive {
        if directive != Directive::Pick {
            return directive;
        }
        self.exchange.find_maker(picker, &mut Envoy);
        self.exchange.ask_for_usage(picker, &mut Envoy);
        let before = host::now();
        let directive = self.exchange.pick(picker, before);
        let after = host::now();
        picker.record_pick_duration(after.micros_since(before));
        self.exchange.note_parked(after);
        directive
    }

    /// Does what is directed, and what instead if the host refuses.
    fn carry_out(&mut self, picker: &mut EndpointPicker, mut directive: Directive) -> Action {
        let waits = directive == Directive::Wait;
        self.slabs.set_wanted(waits);
        if waits {
            self.slabs.set_look(self.exchange.next_look());
        }
        loop {
            let refused = match directive {
                Directive::Continue => return Action::Continue,
                Directive::Wait | Directive::Pick | Directive::Hold => return Action::Pause,
                Directive::Park(number) => {
                    self.parked = Some(number);
                    return Action::Pause;
                }
                Directive::Send(outbound) => {
                    match send(&outbound, |refused| self.exchange.on_refused(picker, refused, host::now())) {
                        Ok(()) => return Action::Continue,
                        Err(instead) => {
                            directive = instead;
                            continue;
                        }
                    }
                }
                Directive::Reply(reply) => match answer(&reply) {
                    Ok(()) => return Action::Pause,
                    Err(refused) => refused,
                },
            };
            directive = self.exchange.on_refused(picker, refused, host::now());
        }
    }
}

impl Stream {
    pub(crate) fn on_http_request_headers(&mut self, _: usize, end: bool) -> Action {
        let pairs = host::headers(Map::Request);
        #[cfg(feature = "fault-injection")]
        if let Ok(pairs) = &pairs {
            crate::fault::inject(pairs);
        }
        let hint = self.subset_hint();
        let mut head = match &pairs {
            Ok(pairs) => RequestHead::read(pairs.iter()),
            Err(refused) => {
                log::warn!("request headers cannot be read: {refused:?}");
                // Whatever they are, a choice of the client's must not be among them.
                RequestHead { has_destination: true, ..RequestHead::default() }
            }
        };
        head.subset_metadata = hint.as_deref();
        if let (Ok(pairs), Ok(picker)) = (&pairs, self.picker.try_borrow())
            && let Some(session) = &picker.config().rules.session
        {
            head.session = session.token(pairs.iter());
        }
        if head.has_destination
            && let Err(refused) = host::remove_header(Map::Request, DESTINATION_HEADER)
        {
            log::warn!("a client's own destination cannot be removed: {refused:?}");
            return self.step(|exchange, picker| exchange.on_refused(picker, Refused::Strip, host::now()));
        }
        // The secret is for this filter alone.
        if head.explain.is_some()
            && self.picker.try_borrow().is_ok_and(|picker| picker.config().rules.explain.is_some())
            && let Err(refused) = host::remove_header(Map::Request, EXPLAIN_HEADER)
        {
            log::warn!("a client's secret cannot be removed: {refused:?}");
            return self.step(|exchange, picker| exchange.on_refused(picker, Refused::Strip, host::now()));
        }
        self.step(|exchange, picker| exchange.on_request_headers(picker, &head, end, host::now()))
    }

    pub(crate) fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        match self.slabs.due(size, end) {
            Due::Pass if self.exchange.is_sealed() => Action::Pause,
            Due::Pass => {
                // Each piece is passed on at once: Envoy 1.40 sends some of it twice when a body is held again that went on before.
                self.pass_body(size, end);
                Action::Continue
            }
            Due::Wait => Action::Pause,
            Due::Fetch => self.read_body(size, end),
        }
    }

    pub(crate) fn on_http_request_trailers(&mut self, _: usize) -> Action {
        if self.exchange.is_sealed() {
            return Action::Pause;
        }
        if !self.slabs.is_wanted() {
            self.pass_body(0, true);
            return Action::Continue;
        }
        // What came since the last slab is still in the buffer; how much that is, the host says by giving less than asked for.
        self.read_body(usize::MAX, true)
    }

    pub(crate) fn on_http_response_headers(&mut self, _: usize, end: bool) -> Action {
        let Ok(mut picker) = self.picker.try_borrow_mut() else { return Action::Continue };
        let is_told = picker.config().rules.served_endpoint == ServedEndpoint::Header;
        let mut has_served = is_told;
        if !self.exchange.is_settled()
            && let Ok(pairs) = host::headers(Map::Response)
        {
            let mut served = None;
            let pairs = pairs.iter().inspect(|(name, value)| {
                if *name == SERVED_HEADER.as_bytes() {
                    served = Some(*value);
                }
            });
            let head = ResponseHead::read(pairs);
            has_served = served.is_some();
            let mut info = EnvoyStream { served: served.filter(|_| is_told) };
            receive(&self.exchange.on_response_headers(&mut picker, &head, &mut info, end));
        }
        if has_served && let Err(refused) = host::remove_header(Map::Response, SERVED_HEADER) {
            log::warn!("who served cannot be removed: {refused:?}");
        }
        Action::Continue
    }

    pub(crate) fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        if self.exchange.is_settled() {
            return Action::Continue;
        }
        let Ok(mut picker) = self.picker.try_borrow_mut() else { return Action::Continue };
        let (exchange, info) = (&mut self.exchange, &mut EnvoyStream::default());
        if !exchange.reads_response() || size == 0 && !exchange.holds_response() {
            exchange.on_response_size(&mut picker, size as u64, false, info, end);
            return Action::Continue;
        }
        let bytes = if size == 0 { Ok(Returned::default()) } else { host::buffer(Buffer::ResponseBody, 0, size) };
        match bytes {
            Ok(bytes) => {
                let instead = exchange.on_response_body(&mut picker, [&*bytes], info, end);
                exchange.note_maker(&picker, &mut Envoy);
                if let Some(bytes) = instead
                    && let Err(refused) = host::replace_beginning(Buffer::ResponseBody, size, &bytes)
                {
                    // The client gets what the server sent.
                    log::warn!("a response body cannot be changed: {refused:?}");
                    exchange.release_response();
                }
            }
            Err(refused) => {
                log::warn!("a response body cannot be read: {refused:?}");
                let held = exchange.release_response();
                if !held.is_empty() {
                    let _ = host::replace_beginning(Buffer::ResponseBody, 0, &held);
                }
                exchange.on_response_size(&mut picker, size as u64, true, info, end);
            }
        }
        Action::Continue
    }

    pub(crate) fn on_http_response_trailers(&mut self, _: usize) -> Action {
        if let Ok(mut picker) = self.picker.try_borrow_mut() {
            self.exchange.on_response_trailers(&mut picker, host::now());
        }
        Action::Continue
    }

    /// Tells the other workers what the callback taught, and Envoy's access log and spans what the exchange was, once it is settled.
    pub(crate) fn tell(&mut self) {
        self.exchange.note_usage_answer(&mut Envoy);
        if let Some(explanation) = self.exchange.take_explanation() {
            filter_state::tell(&explanation);
        }
    }

    /// The stream is over.
    pub(crate) fn end(&mut self) {
        let (time, is_settled) = (self.time.take(), self.exchange.is_settled());
        if is_settled && time.is_none() {
            return;
        }
        if let Ok(mut picker) = self.picker.try_borrow_mut() {
            if !is_settled {
                self.exchange.on_log(&mut picker, &mut EnvoyStream::default());
            }
            if let Some(time) = time {
                picker.record_filter_time(time);
            }
        }
    }
}

/// Changes a request as directed. A refusal is told to `refused`, whose directive counts instead unless it lets the request go on.
fn send(outbound: &Outbound, mut refused: impl FnMut(Refused) -> Directive) -> Result<(), Directive> {
    let mut check = |result: Result<(), abi::Refused>, what: Refused| match result {
        Ok(()) => Ok(()),
        Err(status) => {
            log::warn!("a request cannot be changed ({what:?}): {status:?}");
            match refused(what) {
                Directive::Continue => Ok(()),
                instead => Err(instead),
            }
        }
    };
    if let Some(destination) = &outbound.destination {
        let set = host::set_header(Map::Request, DESTINATION_HEADER, destination.as_bytes());
        check(set, Refused::Destination)?;
    }
    if outbound.ask_identity {
        // Without it the response may come encoded, which is counted.
        let _ = host::set_header(Map::Request, "accept-encoding", b"identity");
    }
    if outbound.ask_load {
        // Without it there is no report.
        let _ = host::set_header(Map::Request, load_report::FORMAT_HEADER, load_report::FORMAT.as_bytes());
    }
    if let Some(splice) = &outbound.splice {
        // What lies behind the last change stays where it is.
        let spliced = host::buffer(Buffer::RequestBody, 0, splice.end()).and_then(|beginning| {
            host::replace_beginning(Buffer::RequestBody, beginning.len(), &splice.apply(&beginning))?;
            if let Some(length) = outbound.content_length {
                host::set_header(Map::Request, "content-length", length.to_string().as_bytes())?;
            }
            Ok(())
        });
        check(spliced, Refused::Splice)?;
    }
    Ok(())
}

/// Changes the headers of a response as directed.
fn receive(inbound: &Inbound) {
    let removals = inbound.remove.iter().map(|name| host::remove_header(Map::Response, name));
    let additions = inbound.add.iter().map(|(name, value)| host::add_header(Map::Response, name, value.as_bytes()));
    for refused in removals.chain(additions).filter_map(Result::err) {
        // The client gets what the server sent.
        log::warn!("a response cannot be changed: {refused:?}");
    }
}

fn answer(reply: &LocalReply) -> Result<(), Refused> {
    let details = format!("inpick_{}", reply.error_code.as_str());
    let seconds = reply.retry_after.map(|seconds| seconds.to_string());
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(seconds.as_deref().map(|seconds| ("retry-after", seconds)));
    headers.extend(reply.explanation.as_deref().map(|explanation| (EXPLANATION_HEADER, explanation)));
    host::send_local_reply(reply.status, &details, &headers, &reply.body).map_err(|refused| {
        log::warn!("a request cannot be answered: {refused:?}");
        Refused::Reply
    })
}

/// The stream that the current callback is about.
#[derive(Default)]
struct EnvoyStream<'a> {
    /// Who served, as the response's headers say.
    served: Option<&'a [u8]>,
}

impl EnvoyStream<'_> {
    fn integer(path: &str) -> Option<u64> {
        host::property(path)?.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes))
    }
}

impl StreamInfo for EnvoyStream<'_> {
    fn now(&mut self) -> Timestamp {
        host::now()
    }

    fn upstream_address(&mut self) -> Option<SocketAddr> {
        let parse = |address: &[u8]| std::str::from_utf8(address).ok()?.parse().ok();
        self.served.and_then(parse).or_else(|| parse(&host::property("upstream\0address")?))
    }

    fn attempts(&mut self) -> Option<u64> {
        Self::integer("upstream\0request_attempt_count")
    }

    fn code_details(&mut self) -> Option<Vec<u8>> {
        host::property("response\0code_details").map(|details| details.to_vec())
    }

    fn response_flags(&mut self) -> Option<u64> {
        Self::integer("response\0flags")
    }
}
