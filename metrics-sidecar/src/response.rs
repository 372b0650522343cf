//! An HTTP/1.1 response, read as it arrives and decoded in place. Pure: bytes in, the body's range out.

use std::ops::Range;

/// Longest head in bytes; a metrics endpoint sends some 200.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Most header lines of a response.
const MAX_HEADERS: usize = 64;

/// Longest line of chunk framing in bytes, extensions included.
const MAX_CHUNK_LINE_BYTES: usize = 1024;

/// Why bytes are not the response that was hoped for.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ResponseError {
    /// Not HTTP/1.
    #[error("not an HTTP/1.1 response: {0}")]
    Protocol(&'static str),
    /// A status other than 200.
    #[error("status {0}")]
    Status(u16),
    /// A redirect, to this location.
    #[error("redirected to {0:?}")]
    Redirect(String),
    /// More than the limit.
    #[error("more than {0} bytes")]
    TooLarge(usize),
    /// The connection ended first.
    #[error("connection closed {0} bytes into the response")]
    Closed(usize),
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Head,
    /// The body ends at this index of the buffer.
    Length(usize),
    Chunked(Chunks),
    UntilClose,
}

/// Chunks are moved to the front, over their framing: `body_start..written` is the body so far.
#[derive(Clone, Copy, Debug)]
struct Chunks {
    read: usize,
    written: usize,
    step: Step,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Size,
    Data(usize),
    DataEnd,
    Trailer,
}

/// A complete response with status 200.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Complete {
    /// Where in the buffer the body lies.
    pub body: Range<usize>,
    /// Whether the connection may carry another request.
    pub reusable: bool,
}

/// Reader of one response.
#[derive(Clone, Debug)]
pub struct ResponseParser {
    phase: Phase,
    body_start: usize,
    keep_alive: bool,
    max_body: usize,
}

impl ResponseParser {
    /// A reader that takes at most `max_body` bytes of body.
    #[must_use]
    pub const fn new(max_body: usize) -> Self {
        Self { phase: Phase::Head, body_start: 0, keep_alive: false, max_body }
    }

    /// Looks at what has arrived so far: `buffer` is everything since the response began. `None`: more is needed.
    ///
    /// # Errors
    ///
    /// See [`ResponseError`]; the connection is of no further use then.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<Option<Complete>, ResponseError> {
        if matches!(self.phase, Phase::Head) && !self.head(buffer)? {
            return Ok(None);
        }
        match &mut self.phase {
            Phase::Head => Ok(None),
            Phase::Length(end) => Ok((buffer.len() >= *end).then_some(Complete {
                body: self.body_start..*end,
                reusable: self.keep_alive && buffer.len() == *end,
            })),
            Phase::Chunked(chunks) => {
                let done = chunks.advance(buffer)?;
                let body = self.body_start..chunks.written;
                if body.len() > self.max_body || buffer.len() > self.body_start + 2 * self.max_body + MAX_HEAD_BYTES {
                    return Err(ResponseError::TooLarge(self.max_body));
                }
                Ok(done.then_some(Complete { body, reusable: self.keep_alive && chunks.read == buffer.len() }))
            }
            Phase::UntilClose if buffer.len() - self.body_start > self.max_body => {
                Err(ResponseError::TooLarge(self.max_body))
            }
            Phase::UntilClose => Ok(None),
        }
    }

    /// The connection has ended: the body of a response without length is complete, any other is not.
    ///
    /// # Errors
    ///
    /// [`ResponseError::Closed`].
    pub fn end(&self, received: usize) -> Result<Complete, ResponseError> {
        match self.phase {
            Phase::UntilClose => Ok(Complete { body: self.body_start..received, reusable: false }),
            _ => Err(ResponseError::Closed(received)),
        }
    }

    /// Bytes that are still missing, where that is known.
    #[must_use]
    pub const fn missing(&self, received: usize) -> usize {
        match self.phase {
            Phase::Length(end) => end.saturating_sub(received),
            _ => 0,
        }
    }

    fn head(&mut self, buffer: &[u8]) -> Result<bool, ResponseError> {
        loop {
            let head = buffer.get(self.body_start..).unwrap_or_default();
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut response = httparse::Response::new(&mut headers);
            // No further than the limit, so that it does not matter how much has arrived.
            let length = match response.parse(head.get(..MAX_HEAD_BYTES).unwrap_or(head)) {
                Ok(httparse::Status::Complete(length)) => length,
                Ok(httparse::Status::Partial) if head.len() < MAX_HEAD_BYTES => return Ok(false),
                Ok(httparse::Status::Partial) => return Err(ResponseError::Protocol("its head is too long")),
                Err(_) => return Err(ResponseError::Protocol("its head is malformed")),
            };
            self.body_start += length;
            match response.code {
                Some(100..=199) => continue,
                Some(200) => {}
                Some(301 | 302 | 303 | 307 | 308) => {
                    let location = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("location"));
                    let location = location.and_then(|header| str::from_utf8(header.value).ok());
                    return Err(ResponseError::Redirect(location.unwrap_or_default().trim().to_owned()));
                }
                code => return Err(ResponseError::Status(code.unwrap_or(0))),
            }
            self.keep_alive = response.version == Some(1);
            let mut content_length = None;
            let mut chunked = false;
            for header in response.headers.iter() {
                let value = header.value.trim_ascii();
                if header.name.eq_ignore_ascii_case("content-length") {
                    let length = str::from_utf8(value).ok().and_then(|text| text.parse::<usize>().ok());
                    if length.is_none() || content_length.is_some_and(|known| Some(known) != length) {
                        return Err(ResponseError::Protocol("its content-length is no number"));
                    }
                    content_length = length;
                } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                    if !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(ResponseError::Protocol("its transfer-encoding is not chunked"));
                    }
                    chunked = true;
                } else if header.name.eq_ignore_ascii_case("connection") {
                    self.keep_alive &= !value.eq_ignore_ascii_case(b"close");
                } else if header.name.eq_ignore_ascii_case("content-encoding")
                    && !value.eq_ignore_ascii_case(b"identity")
                {
                    return Err(ResponseError::Protocol("its content-encoding was not asked for"));
                }
            }
            self.phase = match content_length {
                _ if chunked => {
                    // Both framings at once is how responses are smuggled: believe the chunks, then hang up (RFC 9112, 6.3).
                    self.keep_alive &= content_length.is_none();
                    Phase::Chunked(Chunks { read: self.body_start, written: self.body_start, step: Step::Size })
                }
                Some(length) if length > self.max_body => return Err(ResponseError::TooLarge(self.max_body)),
                Some(length) => Phase::Length(self.body_start + length),
                None => Phase::UntilClose,
            };
            return Ok(true);
        }
    }
}

impl Chunks {
    /// Goes as far as the bytes allow; true when the last chunk has ended.
    fn advance(&mut self, buffer: &mut [u8]) -> Result<bool, ResponseError> {
        loop {
            match self.step {
                Step::Size => {
                    let Some(line) = self.line(buffer)? else { return Ok(false) };
                    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
                    let size = str::from_utf8(digits)
                        .ok()
                        .filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()))
                        .and_then(|text| usize::from_str_radix(text, 16).ok())
                        .ok_or(ResponseError::Protocol("a chunk size is no number"))?;
                    self.read += line.len() + 2;
                    self.step = if size == 0 { Step::Trailer } else { Step::Data(size) };
                }
                Step::Data(left) => {
                    let here = left.min(buffer.len() - self.read);
                    if here == 0 {
                        return Ok(false);
                    }
                    buffer.copy_within(self.read..self.read + here, self.written);
                    self.read += here;
                    self.written += here;
                    self.step = if here == left { Step::DataEnd } else { Step::Data(left - here) };
                }
                Step::DataEnd => {
                    let Some(line) = self.line(buffer)? else { return Ok(false) };
                    if !line.is_empty() {
                        return Err(ResponseError::Protocol("a chunk is longer than its size"));
                    }
                    self.read += 2;
                    self.step = Step::Size;
                }
                Step::Trailer => {
                    let Some(line) = self.line(buffer)? else { return Ok(false) };
                    let last = line.is_empty();
                    self.read += line.len() + 2;
                    if last {
                        return Ok(true);
                    }
                }
            }
        }
    }

    fn line<'a>(&self, buffer: &'a [u8]) -> Result<Option<&'a [u8]>, ResponseError> {
        let unread = buffer.get(self.read..).unwrap_or_default();
        // No further than the limit, so that it does not matter how much has arrived.
        match memchr::memmem::find(unread.get(..=MAX_CHUNK_LINE_BYTES).unwrap_or(unread), b"\r\n") {
            Some(end) => Ok(unread.get(..end)),
            None if unread.len() > MAX_CHUNK_LINE_BYTES => {
                Err(ResponseError::Protocol("a line of chunk framing is too long"))
            }
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 1000;

    /// Feeds `wire` in pieces of `step` bytes.
    fn feed(wire: &[u8], step: usize) -> Result<(Vec<u8>, bool), ResponseError> {
        let mut response = ResponseParser::new(MAX);
        let mut buffer = Vec::new();
        for piece in wire.chunks(step) {
            buffer.extend_from_slice(piece);
            if let Some(complete) = response.read(&mut buffer)? {
                return Ok((buffer[complete.body].to_vec(), complete.reusable));
            }
        }
        let complete = response.end(buffer.len())?;
        Ok((buffer[complete.body].to_vec(), complete.reusable))
    }

    fn read(wire: &str) -> Result<(String, bool), ResponseError> {
        let whole = feed(wire.as_bytes(), wire.len().max(1));
        assert_eq!(feed(wire.as_bytes(), 1), whole, "arriving byte by byte must not matter");
        whole.map(|(body, reusable)| (String::from_utf8(body).unwrap(), reusable))
    }

    #[test]
    fn a_body_of_known_length_is_read() {
        assert_eq!(read("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), Ok(("hello".into(), true)));
        assert_eq!(read("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), Ok((String::new(), true)));
        assert_eq!(
            read("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi"),
            Ok(("hi".into(), false))
        );
        assert_eq!(read("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi"), Ok(("hi".into(), false)));
    }

    #[test]
    fn limits_hold_whether_the_response_comes_in_pieces_or_at_once() {
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        for (length, fits) in [(MAX_CHUNK_LINE_BYTES - 1, true), (MAX_CHUNK_LINE_BYTES, false)] {
            let wire = format!("{chunked}0;{}\r\n\r\n", "x".repeat(length - 2));
            for step in [1, 7, wire.len()] {
                assert_eq!(feed(wire.as_bytes(), step).is_ok(), fits, "{length} by {step}");
            }
        }
        let around = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx: \r\n\r\n".len();
        for (length, fits) in [(MAX_HEAD_BYTES, true), (MAX_HEAD_BYTES + 1, false)] {
            let wire = format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx: {}\r\n\r\n", "y".repeat(length - around));
            for step in [977, wire.len()] {
                assert_eq!(feed(wire.as_bytes(), step).is_ok(), fits, "{length} by {step}");
            }
        }
    }

    #[test]
    fn chunks_are_joined() {
        let wire = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0A\r\n0123456789\r\n0\r\nt: v\r\n\r\n";
        assert_eq!(read(wire), Ok(("abc0123456789".into(), true)));
    }

    #[test]
    fn a_body_without_length_ends_with_the_connection() {
        assert_eq!(read("HTTP/1.1 200 OK\r\n\r\nabc"), Ok(("abc".into(), false)));
    }

    #[test]
    fn interim_responses_are_skipped() {
        assert_eq!(
            read("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx"),
            Ok(("x".into(), true))
        );
    }

    #[test]
    fn a_cut_response_is_an_error() {
        for wire in [
            "",
            "HTTP/1.1 200 OK\r\ncontent-le",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhell",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        ] {
            assert_eq!(read(wire), Err(ResponseError::Closed(wire.len())), "{wire:?}");
        }
    }

    #[test]
    fn what_is_not_a_usable_response_is_refused() {
        let refused = |wire: &str| read(wire).unwrap_err();
        assert_eq!(refused("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"), ResponseError::Status(503));
        let moved = "HTTP/1.1 307 Temporary Redirect\r\nLocation: /metrics/ \r\ncontent-length: 0\r\n\r\n";
        assert_eq!(refused(moved), ResponseError::Redirect("/metrics/".into()));
        assert_eq!(refused("HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n"), ResponseError::TooLarge(MAX));
        let flood = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}", "1\r\nx\r\n".repeat(MAX + 1));
        assert_eq!(feed(flood.as_bytes(), 100), Err(ResponseError::TooLarge(MAX)));
        assert_eq!(
            feed(format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(MAX + 1)).as_bytes(), 64),
            Err(ResponseError::TooLarge(MAX))
        );
        for wire in [
            "SSH-2.0-x\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx".to_owned(),
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\nx".to_owned(),
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nxyz\r\n".to_owned(),
            format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(MAX_HEAD_BYTES)),
        ] {
            assert!(matches!(feed(wire.as_bytes(), 7), Err(ResponseError::Protocol(_))), "{wire:?}");
        }
    }

    proptest! {
        #[test]
        fn any_chunking_in_any_pieces_gives_the_body(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..60), 0..10),
            step in 1_usize..40,
        ) {
            let mut wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(feed(&wire, step), Ok((chunks.concat(), true)));
        }

        #[test]
        fn no_bytes_make_it_panic(wire in proptest::collection::vec(any::<u8>(), 0..300), step in 1_usize..40) {
            let _ = feed(&wire, step);
            let framed = [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".as_slice(), &wire].concat();
            let _ = feed(&framed, step);
        }
    }
}
