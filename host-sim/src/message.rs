//! Requests and responses that a test or the command line feeds in.

use std::num::NonZeroUsize;

use crate::error::Error;
use crate::headers::HeaderMap;
use crate::property::PropertyValue;

/// A message whose body comes in the chunks in which it is to arrive; [`Request`] and [`Response`] are the two kinds of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message<From> {
    pub(crate) headers: HeaderMap,
    pub(crate) chunks: Vec<Vec<u8>>,
    pub(crate) trailers: Option<HeaderMap>,
    pub(crate) open: bool,
    pub(crate) from: From,
}

/// What a downstream client sends.
pub type Request = Message<Downstream>;

/// What an upstream responds with.
pub type Response = Message<Upstream>;

/// What a request has beside the message: who serves it, and what is known of its stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Downstream {
    pub(crate) worker: usize,
    pub(crate) properties: Vec<(String, PropertyValue)>,
}

/// What a response has beside the message: nothing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Upstream;

impl<From: Default> Message<From> {
    fn of(headers: HeaderMap) -> Self {
        Self { headers, chunks: Vec::new(), trailers: None, open: false, from: From::default() }
    }

    /// Appends a header. A pseudo header (`:authority` ...) replaces the one that is there.
    #[must_use]
    pub fn header(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        if name.as_ref().starts_with(b":") {
            self.headers.put(name, value);
        } else {
            self.headers.add(name, value);
        }
        self
    }

    /// The whole body as one chunk. An empty one is a body of no bytes: end of stream comes with a body
    /// callback and not with the headers.
    #[must_use]
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.chunks = vec![body.as_ref().to_vec()];
        self
    }

    /// The body in these chunks; the last one ends the stream unless trailers follow.
    #[must_use]
    pub fn body_chunks<C: AsRef<[u8]>>(mut self, chunks: impl IntoIterator<Item = C>) -> Self {
        self.chunks = chunks.into_iter().map(|chunk| chunk.as_ref().to_vec()).collect();
        self
    }

    /// Cuts the body into chunks of this many bytes, the last one perhaps shorter.
    #[must_use]
    pub fn rechunked(mut self, size: NonZeroUsize) -> Self {
        let body = self.chunks.concat();
        if !body.is_empty() {
            self.chunks = body.chunks(size.get()).map(<[u8]>::to_vec).collect();
        }
        self
    }

    /// Appends a trailer.
    #[must_use]
    pub fn trailer(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.trailers.get_or_insert_default().add(name, value);
        self
    }

    /// The stream does not end with what is given here: more comes by
    /// [`HttpStream::send_body`](crate::HttpStream::send_body), [`HttpStream::respond_body`](crate::HttpStream::respond_body) and
    /// their neighbours.
    #[must_use]
    pub fn unfinished(mut self) -> Self {
        self.open = true;
        self
    }
}

impl Request {
    /// A request with the pseudo headers in the order in which Envoy has them.
    #[must_use]
    pub fn new(method: &str, path: &str) -> Self {
        let headers = [(":authority", "localhost"), (":path", path), (":method", method), (":scheme", "http")];
        Self::of(headers.into_iter().collect())
    }

    /// A POST.
    #[must_use]
    pub fn post(path: &str) -> Self {
        Self::new("POST", path)
    }

    /// A GET.
    #[must_use]
    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// Which worker's VM serves it; 0 unless given.
    #[must_use]
    pub fn worker(mut self, worker: usize) -> Self {
        self.from.worker = worker;
        self
    }

    /// Sets a property of the stream from the start, by dotted path such as `source.address`.
    #[must_use]
    pub fn property(mut self, path: &str, value: impl Into<PropertyValue>) -> Self {
        self.from.properties.push((path.to_owned(), value.into()));
        self
    }

    /// Reads a plain HTTP/1.1 request. `Host` becomes `:authority`; a body follows the blank line and is as
    /// long as `content-length` says, or as the text.
    ///
    /// # Errors
    /// [`Error::Message`] when the text is no such message.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let text = Text::parse(text)?;
        let mut words = text.start.split(' ');
        let (Some(method), Some(path), Some(version)) = (words.next(), words.next(), words.next()) else {
            return Err(Error::Message(format!("no request line: {:?}", text.start)));
        };
        if !version.starts_with("HTTP/1") || words.next().is_some() {
            return Err(Error::Message(format!("no HTTP/1 request line: {:?}", text.start)));
        }
        let mut request = Self::new(method, path);
        for (name, value) in text.headers.iter() {
            if name == b"host" {
                request.headers.put(":authority", value);
            } else {
                request.headers.add(name, value);
            }
        }
        Ok(if text.body.is_empty() { request } else { request.body(text.body) })
    }
}

impl Response {
    /// A response with this status and no body.
    #[must_use]
    pub fn new(status: u16) -> Self {
        Self::of([(":status", status.to_string())].into_iter().collect())
    }

    /// Reads a plain HTTP/1.1 response.
    ///
    /// # Errors
    /// [`Error::Message`] when the text is no such message.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let text = Text::parse(text)?;
        let mut words = text.start.split(' ');
        let status = match (words.next(), words.next().map(str::parse::<u16>)) {
            (Some(version), Some(Ok(status))) if version.starts_with("HTTP/1") => status,
            _ => return Err(Error::Message(format!("no HTTP/1 status line: {:?}", text.start))),
        };
        let mut response = Self::new(status);
        for (name, value) in text.headers.iter() {
            response.headers.add(name, value);
        }
        Ok(if text.body.is_empty() { response } else { response.body(text.body) })
    }
}

/// A message as text, taken apart.
struct Text {
    start: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Text {
    fn parse(text: &[u8]) -> Result<Self, Error> {
        let mut rest = text;
        let start = take_line(&mut rest).ok_or_else(|| Error::Message("it is empty".to_owned()))?;
        let start =
            std::str::from_utf8(start).map_err(|_| Error::Message("the first line is no text".to_owned()))?.to_owned();
        let mut headers = HeaderMap::new();
        while let Some(line) = take_line(&mut rest) {
            if line.is_empty() {
                break;
            }
            let colon = line.iter().position(|byte| *byte == b':');
            let Some((name, value)) = colon.and_then(|colon| line.split_at_checked(colon)) else {
                let line = String::from_utf8_lossy(line).into_owned();
                return Err(Error::Message(format!("no header line: {line:?}")));
            };
            headers.add(name, value.trim_ascii_start().strip_prefix(b":").unwrap_or(value).trim_ascii());
        }
        let length = headers
            .text("content-length")
            .map(|length| length.parse::<usize>())
            .transpose()
            .map_err(|_| Error::Message("content-length is no number".to_owned()))?;
        let body = match length {
            None => rest,
            Some(length) => rest
                .get(..length)
                .ok_or_else(|| Error::Message(format!("content-length {length}, but {} bytes follow", rest.len())))?,
        };
        Ok(Self { start, headers, body: body.to_vec() })
    }
}

/// The next line without its end, which may be CR LF or LF.
fn take_line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    if rest.is_empty() {
        return None;
    }
    let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    let (line, tail) = rest.split_at_checked(end)?;
    *rest = tail.strip_prefix(b"\n").unwrap_or(tail);
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_request_is_read_with_its_host_as_authority() {
        let request =
            Request::parse(b"POST /v1 HTTP/1.1\r\nHost: a:80\r\nX-Y: z: w\r\nContent-Length: 2\r\n\r\nhi\n").unwrap();
        assert_eq!(request.headers.text(":authority").as_deref(), Some("a:80"));
        assert_eq!(request.headers.text(":path").as_deref(), Some("/v1"));
        assert_eq!(request.headers.text("x-y").as_deref(), Some("z: w"));
        assert_eq!(request.headers.text("host"), None);
        assert_eq!(request.chunks, [b"hi".to_vec()]);
    }

    #[test]
    fn a_response_with_bare_line_feeds_is_read() {
        let response = Response::parse(b"HTTP/1.1 200 OK\ncontent-type: text/plain\n\nbody").unwrap();
        assert_eq!(response.headers.text(":status").as_deref(), Some("200"));
        assert_eq!(response.chunks, [b"body".to_vec()]);
    }

    #[test]
    fn a_body_is_cut_into_chunks_of_one_size() {
        let request = Request::post("/").body("abcde").rechunked(NonZeroUsize::new(2).unwrap());
        assert_eq!(request.chunks, [b"ab".to_vec(), b"cd".to_vec(), b"e".to_vec()]);
        let empty = Request::post("/").body("").rechunked(NonZeroUsize::MIN);
        assert_eq!(empty.chunks, [b"".to_vec()]);
    }

    #[test]
    fn a_text_that_is_no_message_is_refused() {
        for text in [&b""[..], b"hello", b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\nno header\r\n\r\n"] {
            assert!(matches!(Request::parse(text), Err(Error::Message(_))), "{text:?}");
        }
        assert!(matches!(Request::parse(b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nhi"), Err(Error::Message(_))));
        assert!(matches!(Response::parse(b"HTTP/1.1 abc\r\n\r\n"), Err(Error::Message(_))));
    }
}
