//! One HTTP stream: callbacks in, one directive out, host calls as it says.

use std::net::SocketAddr;
use std::rc::Rc;

use endpoint_picker::exchange::{Outbound, Refused, StreamInfo};
use endpoint_picker::head::{DESTINATION_HEADER, RequestHead, ResponseHead};
use endpoint_picker::reply::LocalReply;
use endpoint_picker::{Directive, EndpointPicker, Exchange, Timestamp};
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use crate::host::{self, Buffer, Map};
use crate::plugin::SharedPicker;

/// A body is fetched from the host in slabs of this size: each costs a call, and none may keep the worker for long.
const SLAB_BYTES: usize = 256 * 1024;

pub(crate) struct Stream {
    picker: SharedPicker,
    exchange: Exchange,
    /// Bytes of the request's body that the exchange has seen.
    read: usize,
    /// The body is wanted.
    waiting: bool,
}

impl Stream {
    pub(crate) fn new(picker: SharedPicker) -> Self {
        Self { picker, exchange: Exchange::default(), read: 0, waiting: false }
    }

    /// Fetches the next bytes of the request's body and shows them to the exchange.
    fn read_body(&mut self, length: usize, end: bool) -> Action {
        // An empty range is not worth a call, and Envoy refuses it.
        let slab = if length == 0 { Ok(Vec::new()) } else { host::buffer(Buffer::RequestBody, self.read, length) };
        match slab {
            Ok(slab) => {
                self.read += slab.len();
                self.step(|exchange, picker| exchange.on_request_body(picker, [slab.as_slice()], end, &mut EnvoyStream))
            }
            Err(refused) => {
                log::warn!("a request body cannot be read: {refused:?}");
                self.step(|exchange, picker| exchange.on_refused(picker, Refused::Body, host::now()))
            }
        }
    }

    /// Runs one step of the request's way in and carries out what it directs.
    fn step(&mut self, step: impl FnOnce(&mut Exchange, &mut EndpointPicker) -> Directive) -> Action {
        let picker = Rc::clone(&self.picker);
        let Ok(mut picker) = picker.try_borrow_mut() else { return Action::Continue };
        let mut directive = step(&mut self.exchange, &mut picker);
        if directive == Directive::Pick {
            let before = host::now();
            directive = self.exchange.pick(&mut picker, before);
            picker.record_pick_duration(host::now().micros_since(before));
        }
        self.waiting = directive == Directive::Wait;
        loop {
            let refused = match directive {
                Directive::Continue => return Action::Continue,
                Directive::Wait | Directive::Pick | Directive::Hold => return Action::Pause,
                Directive::Send(outbound) => {
                    match send(&outbound, |refused| self.exchange.on_refused(&mut picker, refused, host::now())) {
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
            directive = self.exchange.on_refused(&mut picker, refused, host::now());
        }
    }
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _: usize, end: bool) -> Action {
        let pairs = host::headers(Map::Request);
        #[cfg(feature = "fault-injection")]
        if let Ok(pairs) = &pairs {
            fault::inject(pairs);
        }
        let head = match &pairs {
            Ok(pairs) => RequestHead::read(pairs.iter()),
            Err(refused) => {
                log::warn!("request headers cannot be read: {refused:?}");
                // Whatever they are, a choice of the client's must not be among them.
                RequestHead { has_destination: true, ..RequestHead::default() }
            }
        };
        if head.has_destination
            && let Err(refused) = host::remove_header(Map::Request, DESTINATION_HEADER)
        {
            log::warn!("a client's own destination cannot be removed: {refused:?}");
            return self.step(|exchange, picker| exchange.on_refused(picker, Refused::Strip, host::now()));
        }
        self.step(|exchange, picker| exchange.on_request_headers(picker, &head, end, host::now()))
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        if !self.waiting {
            return Action::Continue;
        }
        let unread = size.saturating_sub(self.read);
        if !end && unread < SLAB_BYTES {
            return Action::Pause;
        }
        self.read_body(unread, end)
    }

    fn on_http_request_trailers(&mut self, _: usize) -> Action {
        if !self.waiting {
            return Action::Continue;
        }
        // What came since the last slab is still in the buffer.
        self.read_body(usize::MAX - self.read, true)
    }

    fn on_http_response_headers(&mut self, _: usize, end: bool) -> Action {
        if self.exchange.is_settled() {
            return Action::Continue;
        }
        if let (Ok(pairs), Ok(mut picker)) = (host::headers(Map::Response), self.picker.try_borrow_mut()) {
            let head = ResponseHead::read(pairs.iter());
            self.exchange.on_response_headers(&mut picker, &head, &mut EnvoyStream, end);
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        if self.exchange.is_settled() {
            return Action::Continue;
        }
        let Ok(mut picker) = self.picker.try_borrow_mut() else { return Action::Continue };
        let (exchange, info) = (&mut self.exchange, &mut EnvoyStream);
        if size == 0 || !exchange.reads_response() {
            exchange.on_response_size(&mut picker, size as u64, false, info, end);
            return Action::Continue;
        }
        match host::buffer(Buffer::ResponseBody, 0, size) {
            Ok(bytes) => exchange.on_response_body(&mut picker, [bytes.as_slice()], info, end),
            Err(refused) => {
                log::warn!("a response body cannot be read: {refused:?}");
                exchange.on_response_size(&mut picker, size as u64, true, info, end);
            }
        }
        Action::Continue
    }

    fn on_http_response_trailers(&mut self, _: usize) -> Action {
        if let Ok(mut picker) = self.picker.try_borrow_mut() {
            self.exchange.on_response_trailers(&mut picker, host::now());
        }
        Action::Continue
    }

    fn on_log(&mut self) {
        if self.exchange.is_settled() {
            return;
        }
        if let Ok(mut picker) = self.picker.try_borrow_mut() {
            self.exchange.on_log(&mut picker, &mut EnvoyStream);
        }
    }
}

#[cfg(feature = "fault-injection")]
mod fault {
    use crate::host::Pairs;

    /// Ends the virtual machine when the request asks for it.
    #[allow(clippy::panic, reason = "a crash is what the feature is for")]
    pub(super) fn inject(pairs: &Pairs) {
        if pairs.iter().any(|(name, value)| name == b"x-inpick-fault" && value == b"panic") {
            panic!("asked for by x-inpick-fault");
        }
    }
}

/// Changes a request as directed. A refusal is told to `refused`, whose directive counts instead unless it lets the request go on.
fn send(outbound: &Outbound, mut refused: impl FnMut(Refused) -> Directive) -> Result<(), Directive> {
    let mut check = |result: Result<(), host::Refused>, what: Refused| match result {
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
    if let Some(splice) = &outbound.splice {
        let spliced = host::buffer(Buffer::RequestBody, 0, usize::MAX).and_then(|body| {
            let body = splice.apply(&body);
            host::replace_buffer(Buffer::RequestBody, &body)?;
            if outbound.has_content_length {
                host::set_header(Map::Request, "content-length", body.len().to_string().as_bytes())?;
            }
            Ok(())
        });
        check(spliced, Refused::Splice)?;
    }
    Ok(())
}

fn answer(reply: &LocalReply) -> Result<(), Refused> {
    let details = format!("inpick_{}", reply.error_code.as_str());
    host::send_local_reply(reply.status, &details, &[("content-type", "application/json")], &reply.body).map_err(
        |refused| {
            log::warn!("a request cannot be answered: {refused:?}");
            Refused::Reply
        },
    )
}

/// The stream that the current callback is about.
struct EnvoyStream;

impl EnvoyStream {
    fn integer(path: &str) -> Option<u64> {
        host::property(path)?.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes))
    }
}

impl StreamInfo for EnvoyStream {
    fn now(&mut self) -> Timestamp {
        host::now()
    }

    fn upstream_address(&mut self) -> Option<SocketAddr> {
        std::str::from_utf8(&host::property("upstream\0address")?).ok()?.parse().ok()
    }

    fn attempts(&mut self) -> Option<u64> {
        Self::integer("upstream\0request_attempt_count")
    }

    fn code_details(&mut self) -> Option<Vec<u8>> {
        host::property("response\0code_details")
    }

    fn response_flags(&mut self) -> Option<u64> {
        Self::integer("response\0flags")
    }
}
