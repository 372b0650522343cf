//! One HTTP stream: callbacks in, one directive out, host calls as it says.

use std::net::SocketAddr;

use endpoint_picker::exchange::{Outbound, StreamInfo};
use endpoint_picker::head::{DESTINATION_HEADER, RequestHead, ResponseHead};
use endpoint_picker::reply::LocalReply;
use endpoint_picker::{Directive, EndpointPicker, Exchange, Timestamp};
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use crate::host::{self, Buffer, Map, Refused};
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

    /// Runs one step of the request's way in and carries out what it directs.
    fn step(&mut self, step: impl FnOnce(&mut Exchange, &mut EndpointPicker) -> Directive) -> Action {
        let Ok(mut picker) = self.picker.try_borrow_mut() else { return Action::Continue };
        let mut directive = step(&mut self.exchange, &mut picker);
        if directive == Directive::Pick {
            let before = host::now();
            directive = self.exchange.pick(&mut picker, before);
            picker.record_pick_duration(host::now().micros_since(before));
        }
        self.waiting = directive == Directive::Wait;
        match directive {
            Directive::Continue => Action::Continue,
            Directive::Wait | Directive::Pick => Action::Pause,
            Directive::Send(outbound) => {
                if let Err(refused) = send(&outbound) {
                    log::warn!("a request could not be changed: {refused:?}");
                }
                Action::Continue
            }
            Directive::Reply(reply) => answer(&reply),
        }
    }
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _: usize, end: bool) -> Action {
        let pairs = match host::headers(Map::Request) {
            Ok(pairs) => pairs,
            Err(refused) => {
                log::warn!("request headers cannot be read: {refused:?}");
                // Whatever they are, a choice of the client's must not be among them.
                let _ = host::remove_header(Map::Request, DESTINATION_HEADER);
                return Action::Continue;
            }
        };
        #[cfg(feature = "fault-injection")]
        fault::inject(&pairs);
        self.step(|exchange, picker| {
            exchange.on_request_headers(picker, &RequestHead::read(pairs.iter()), end, host::now())
        })
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        if !self.waiting {
            return Action::Continue;
        }
        let unread = size.saturating_sub(self.read);
        if !end && unread < SLAB_BYTES {
            return Action::Pause;
        }
        let chunk = match fetch(Buffer::RequestBody, self.read, unread) {
            Ok(chunk) => chunk,
            Err(refused) => {
                log::warn!("a request body cannot be read: {refused:?}");
                Vec::new()
            }
        };
        self.read += chunk.len();
        self.step(|exchange, picker| exchange.on_request_body(picker, &chunk, end))
    }

    fn on_http_request_trailers(&mut self, _: usize) -> Action {
        if !self.waiting {
            return Action::Continue;
        }
        // What came since the last slab is still in the buffer.
        let chunk = fetch(Buffer::RequestBody, self.read, usize::MAX - self.read).unwrap_or_default();
        self.read += chunk.len();
        self.step(|exchange, picker| exchange.on_request_body(picker, &chunk, true))
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
        if let Ok(mut picker) = self.picker.try_borrow_mut() {
            let read = || fetch(Buffer::ResponseBody, 0, size).unwrap_or_default();
            self.exchange.on_response_body(&mut picker, size, read, &mut EnvoyStream, end);
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

/// An empty range is not worth a call, and Envoy refuses it.
fn fetch(buffer: Buffer, start: usize, length: usize) -> Result<Vec<u8>, Refused> {
    if length == 0 { Ok(Vec::new()) } else { host::buffer(buffer, start, length) }
}

fn send(outbound: &Outbound) -> Result<(), Refused> {
    match &outbound.destination {
        Some(destination) => host::set_header(Map::Request, DESTINATION_HEADER, destination.as_bytes())?,
        None if outbound.client_destination => host::remove_header(Map::Request, DESTINATION_HEADER)?,
        None => {}
    }
    if let Some(splice) = &outbound.splice {
        let body = splice.apply(&host::buffer(Buffer::RequestBody, 0, usize::MAX)?);
        host::replace_buffer(Buffer::RequestBody, &body)?;
        if outbound.has_content_length {
            host::set_header(Map::Request, "content-length", body.len().to_string().as_bytes())?;
        }
    }
    Ok(())
}

fn answer(reply: &LocalReply) -> Action {
    let details = format!("inpick_{}", reply.error_code.as_str());
    match host::send_local_reply(reply.status, &details, &[("content-type", "application/json")], &reply.body) {
        Ok(()) => Action::Pause,
        Err(refused) => {
            log::warn!("a request could not be answered: {refused:?}");
            Action::Continue
        }
    }
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
