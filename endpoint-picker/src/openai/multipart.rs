//! A resumable reader of `multipart/form-data` bodies.
//!
//! Follows RFC 7578 and RFC 2046, and where they leave a choice, the parser below vLLM and SGLang (python-multipart under
//! Starlette): lines end in CR LF, nothing but line ends may stand before the first delimiter, spaces and tabs may stand behind one,
//! and what follows the closing delimiter is ignored. What parsers read in different ways is refused, so that the name which is read
//! here is the one that the server reads: a part with two `content-disposition` headers, with two names, or with a name in the
//! extended form (`name*=`).

use alloc::vec::Vec;

use super::media;

/// Most bytes of one part's headers, line ends included. Those of clients are below 300.
pub const MAX_HEADER_BYTES: usize = 8 * 1024;

/// Why a body is no multipart body. Where it is cut makes no difference to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MultipartError {
    /// No byte but line ends.
    #[error("empty input")]
    Empty,
    /// A byte that cannot stand where it stands, or an end that comes too early.
    #[error("byte {offset}: {reason}")]
    Malformed {
        /// Offset of the byte or of its header line, or the length of the body when it ends too early.
        offset: u64,
        /// What is wrong, as a phrase for a message.
        reason: &'static str,
    },
}

/// What a reader of parts is told, in the order of the body and before it is known to be valid as a whole.
pub trait Parts {
    /// A part's content begins at offset `at`. `name` is empty if the part has none; `is_file` says that it has a file name.
    /// Returns whether the content is wanted.
    fn begin(&mut self, name: &[u8], is_file: bool, at: u64) -> bool;

    /// The next bytes of a wanted content.
    fn content(&mut self, piece: &[u8]);

    /// The content of the part ended before offset `end`.
    fn end(&mut self, end: u64);
}

/// Where the reader stands between two bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first delimiter.
    Start,
    /// Behind so many bytes of a delimiter.
    Delimiter(usize),
    /// Behind a delimiter.
    Behind(Behind),
    /// In a line of a part's headers.
    Header,
    /// Behind the CR of such a line.
    HeaderEnd,
    /// In a part's content.
    Content,
    /// Behind the closing delimiter.
    Epilogue,
}

/// What stands behind a delimiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    Nothing,
    Cr,
    Hyphen,
    Padding,
    PaddingCr,
}

/// The state of a body between two pieces. Of its parts, only a header line is kept.
#[derive(Clone, Debug)]
pub struct MultipartReader {
    /// CR, LF, two hyphens and the boundary.
    delimiter: Vec<u8>,
    state: State,
    /// Offset of the first byte of the next piece.
    offset: u64,
    /// Offset of the delimiter being read.
    delimiter_at: u64,
    /// Offset of the current part's headers, then of the current line of them.
    headers_at: u64,
    line_at: u64,
    line: Vec<u8>,
    /// Whether a part's content comes or came before the delimiter being read.
    in_part: bool,
    has_disposition: bool,
    name: Vec<u8>,
    is_file: bool,
    is_wanted: bool,
    failure: Option<MultipartError>,
}

impl MultipartReader {
    /// A reader at the start of a body whose parts stand between lines of `boundary`; `None` if that can be no boundary
    /// ([`media::boundary`]).
    pub fn new(boundary: &[u8]) -> Option<Self> {
        media::is_boundary(boundary).then(|| Self {
            delimiter: [b"\r\n--", boundary].concat(),
            state: State::Start,
            offset: 0,
            delimiter_at: 0,
            headers_at: 0,
            line_at: 0,
            line: Vec::new(),
            in_part: false,
            has_disposition: false,
            name: Vec::new(),
            is_file: false,
            is_wanted: false,
            failure: None,
        })
    }

    /// Bytes taken so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes the next piece of the body.
    ///
    /// # Errors
    /// When the body cannot become valid any more; later calls repeat the error and report nothing.
    pub fn feed<P: Parts>(&mut self, piece: &[u8], parts: &mut P) -> Result<(), MultipartError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        match self.scan(piece, parts) {
            Ok(()) => {
                self.offset += piece.len() as u64;
                Ok(())
            }
            Err(failure) => {
                self.failure = Some(failure);
                Err(failure)
            }
        }
    }

    /// Ends the body.
    ///
    /// # Errors
    /// When the body as a whole is not valid.
    pub fn finish(&self) -> Result<(), MultipartError> {
        match (self.failure, self.state) {
            (Some(failure), _) => Err(failure),
            (None, State::Epilogue) => Ok(()),
            (None, State::Start) => Err(MultipartError::Empty),
            (None, _) => Err(MultipartError::Malformed { offset: self.offset, reason: "no closing boundary" }),
        }
    }

    fn scan<P: Parts>(&mut self, piece: &[u8], parts: &mut P) -> Result<(), MultipartError> {
        let mut at = 0;
        while let Some(&byte) = piece.get(at) {
            match self.state {
                State::Start if matches!(byte, b'\r' | b'\n') => at += 1,
                // A line begins with the delimiter without its own line end.
                State::Start => self.state = State::Delimiter(2),
                State::Delimiter(matched) if self.delimiter.get(matched) == Some(&byte) => {
                    let matched = matched + 1;
                    self.state = if matched == self.delimiter.len() {
                        State::Behind(Behind::Nothing)
                    } else {
                        State::Delimiter(matched)
                    };
                    at += 1;
                }
                State::Delimiter(matched) => self.go_on(matched, b"", at, parts)?,
                State::Behind(behind) => at = self.behind(behind, byte, at, parts)?,
                State::Header => at = self.header(piece, at)?,
                State::HeaderEnd => {
                    if byte != b'\n' {
                        return Err(self.malformed(at, "expected a line feed"));
                    }
                    at += 1;
                    self.end_line(at, parts)?;
                }
                State::Content => {
                    let rest = piece.get(at..).unwrap_or_default();
                    let run = content_run(rest);
                    if self.is_wanted {
                        parts.content(rest.get(..run).unwrap_or_default());
                    }
                    at += run;
                    if at < piece.len() {
                        self.delimiter_at = self.offset + at as u64;
                        self.state = State::Delimiter(1);
                        at += 1;
                    }
                }
                State::Epilogue => break,
            }
        }
        Ok(())
    }

    fn malformed(&self, at: usize, reason: &'static str) -> MultipartError {
        MultipartError::Malformed { offset: self.offset + at as u64, reason }
    }

    /// What looked like a delimiter is none: its first `matched` bytes and `behind` are content.
    fn go_on<P: Parts>(
        &mut self,
        matched: usize,
        behind: &[u8],
        at: usize,
        parts: &mut P,
    ) -> Result<(), MultipartError> {
        if !self.in_part {
            return Err(self.malformed(at, "expected the boundary"));
        }
        if self.is_wanted {
            parts.content(self.delimiter.get(..matched).unwrap_or_default());
            parts.content(behind);
        }
        self.state = State::Content;
        Ok(())
    }

    /// Takes a byte behind a delimiter, or leaves it to the content if there was none.
    fn behind<P: Parts>(
        &mut self,
        behind: Behind,
        byte: u8,
        at: usize,
        parts: &mut P,
    ) -> Result<usize, MultipartError> {
        let length = self.delimiter.len();
        let next = match (behind, byte) {
            (Behind::Nothing, b'\r') => Behind::Cr,
            (Behind::Nothing, b'-') => Behind::Hyphen,
            (Behind::Nothing | Behind::Padding, b' ' | b'\t') => Behind::Padding,
            (Behind::Padding, b'\r') => Behind::PaddingCr,
            (Behind::Cr | Behind::PaddingCr, b'\n') => {
                self.end_part(parts);
                self.begin_headers(at + 1);
                return Ok(at + 1);
            }
            (Behind::Hyphen, b'-') => {
                self.end_part(parts);
                self.state = State::Epilogue;
                return Ok(at + 1);
            }
            (Behind::Padding | Behind::PaddingCr, _) => {
                return Err(self.malformed(at, "expected a line end behind the boundary"));
            }
            (Behind::Nothing, _) => {
                self.go_on(length, b"", at, parts)?;
                return Ok(at);
            }
            (Behind::Cr, _) => {
                self.go_on(length, b"\r", at, parts)?;
                return Ok(at);
            }
            (Behind::Hyphen, _) => {
                self.go_on(length, b"-", at, parts)?;
                return Ok(at);
            }
        };
        self.state = State::Behind(next);
        Ok(at + 1)
    }

    fn end_part<P: Parts>(&mut self, parts: &mut P) {
        if core::mem::take(&mut self.in_part) {
            parts.end(self.delimiter_at);
        }
    }

    fn begin_headers(&mut self, at: usize) {
        self.headers_at = self.offset + at as u64;
        self.line_at = self.headers_at;
        self.line.clear();
        self.has_disposition = false;
        self.name.clear();
        self.is_file = false;
        self.state = State::Header;
    }

    /// Keeps bytes of a header line up to its CR, and returns where it stopped.
    fn header(&mut self, piece: &[u8], at: usize) -> Result<usize, MultipartError> {
        let rest = piece.get(at..).unwrap_or_default();
        let run = memchr::memchr(b'\r', rest).unwrap_or(rest.len());
        let limit = self.headers_at + MAX_HEADER_BYTES as u64;
        if self.offset + (at + run) as u64 > limit {
            return Err(MultipartError::Malformed { offset: limit, reason: "part headers too long" });
        }
        self.line.extend_from_slice(rest.get(..run).unwrap_or_default());
        if run == rest.len() {
            return Ok(at + run);
        }
        self.state = State::HeaderEnd;
        Ok(at + run + 1)
    }

    /// Reads a header line that ended before `at`, or begins the content behind the empty one.
    fn end_line<P: Parts>(&mut self, at: usize, parts: &mut P) -> Result<(), MultipartError> {
        let next = self.offset + at as u64;
        let line = core::mem::take(&mut self.line);
        if line.is_empty() {
            self.in_part = true;
            self.is_wanted = parts.begin(&self.name, self.is_file, next);
            self.state = State::Content;
            return Ok(());
        }
        let result = self.read_header(&line);
        self.line = line;
        self.line.clear();
        result.map_err(|reason| MultipartError::Malformed { offset: self.line_at, reason })?;
        self.line_at = next;
        self.state = State::Header;
        Ok(())
    }

    fn read_header(&mut self, line: &[u8]) -> Result<(), &'static str> {
        let colon = memchr::memchr(b':', line).unwrap_or_default();
        let (name, value) = line.split_at(colon);
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return Err("invalid part header");
        }
        if !name.eq_ignore_ascii_case(b"content-disposition") {
            return Ok(());
        }
        if core::mem::replace(&mut self.has_disposition, true) {
            return Err("repeated content-disposition");
        }
        let (_, rest) = media::split(value.get(1..).unwrap_or_default());
        let mut has_name = false;
        for (key, value) in media::parameters(rest) {
            if key.eq_ignore_ascii_case(b"name") {
                if core::mem::replace(&mut has_name, true) {
                    return Err("repeated part name");
                }
                self.name = value;
            } else if key.eq_ignore_ascii_case(b"filename") {
                self.is_file = true;
            } else if key.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"name*")) {
                return Err("part name in an extended form");
            }
        }
        Ok(())
    }
}

/// How many leading bytes cannot begin a delimiter: up to a CR that a LF or the end of the piece follows.
fn content_run(bytes: &[u8]) -> usize {
    memchr::memchr_iter(b'\r', bytes)
        .find(|&place| bytes.get(place + 1).is_none_or(|&next| next == b'\n'))
        .unwrap_or(bytes.len())
}

/// Whether a byte can stand in a header's name, RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use std::{format, string::String, vec};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    /// Notes every part that is told.
    #[derive(Default)]
    struct Notes {
        told: Vec<String>,
        content: Vec<u8>,
        at: u64,
    }

    impl Parts for Notes {
        fn begin(&mut self, name: &[u8], is_file: bool, at: u64) -> bool {
            self.told.push(format!("{} {is_file}", String::from_utf8_lossy(name)));
            self.at = at;
            true
        }

        fn content(&mut self, piece: &[u8]) {
            self.content.extend_from_slice(piece);
        }

        fn end(&mut self, end: u64) {
            self.told.push(format!("{:?} {}..{end}", String::from_utf8_lossy(&self.content), self.at));
            self.content.clear();
        }
    }

    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<String>, MultipartError> {
        let mut reader = MultipartReader::new(b"B").unwrap();
        let mut notes = Notes::default();
        for piece in pieces {
            reader.feed(piece, &mut notes)?;
        }
        reader.finish()?;
        Ok(notes.told)
    }

    /// Reads a body whole and at every cut.
    fn everywhere(body: &str) -> Result<Vec<String>, MultipartError> {
        let body = body.as_bytes();
        let whole = read([body]);
        for place in 0..=body.len() {
            let (head, tail) = body.split_at(place);
            assert_eq!(read([head, b"", tail]), whole, "cut at {place}");
        }
        assert_eq!(read(body.chunks(1)), whole);
        whole
    }

    #[test]
    fn parts_are_told_the_same_at_every_cut() {
        let body = "--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\none\r\n--B \t\r\n\
            content-type: audio/wav\r\nCONTENT-DISPOSITION:form-data;filename=\"x;y\";name=file\r\n\r\n\r\n--\r\r\n--Bx\r\n-\r\n--B\r\r\n--B-\r\n--B\r\n\
            content-disposition: form-data; name=\"e\"\r\n\r\n\r\n--B--\r\nand more\r\n--B\r\n";
        let told = everywhere(body).unwrap();
        assert_eq!(told[0], "a false");
        assert!(told[1].starts_with("\"one\" "));
        assert_eq!(told[2], "file true");
        assert!(told[3].starts_with("\"\\r\\n--\\r\\r\\n--Bx\\r\\n-\\r\\n--B\\r\\r\\n--B-\" "), "{}", told[3]);
        assert_eq!(told[4], "e false");
        assert!(told[5].starts_with("\"\" "));
        let at = body.find("\r\n--B--").unwrap();
        assert!(told[5].ends_with(&format!("{at}..{at}")));
        assert_eq!(told.len(), 6);
    }

    #[test]
    fn a_form_may_have_no_parts() {
        assert_eq!(everywhere("\r\n\n--B--"), Ok(vec![]));
        assert_eq!(everywhere(""), Err(MultipartError::Empty));
        assert_eq!(everywhere("\r\n"), Err(MultipartError::Empty));
    }

    #[test]
    fn what_is_no_form_is_refused() {
        for (body, offset) in [
            ("{\"model\":\"m\"}", 0),
            ("--C\r\n\r\n", 2),
            ("x\r\n--B--", 0),
            ("--Bx\r\n", 3),
            ("--B\n\r\n\r\n--B--", 3),
            ("--B \n", 4),
            ("--B\r\nx", 6),
            ("--B\r\nx\r\n\r\n\r\n--B--", 5),
            ("--B\r\n: x\r\n\r\n\r\n--B--", 5),
            ("--B\r\n folded: x\r\n\r\n\r\n--B--", 5),
            ("--B\r\na: b\rc\r\n\r\n\r\n--B--", 10),
            ("--B\r\na: b\r\n\r\nx\r\n--B", 19),
            ("--B\r\na: b\r\n\r\nx\r\n--B-", 20),
            ("--B\r\na: b\r\n\r\nx\r\n--B x", 20),
        ] {
            let error = everywhere(body).unwrap_err();
            assert!(
                matches!(error, MultipartError::Malformed { offset: got, .. } if got == offset),
                "{body:?}: {error}"
            );
        }
    }

    #[test]
    fn names_that_parsers_read_in_different_ways_are_refused() {
        for headers in [
            "content-disposition: form-data; name=a; name=b",
            "content-disposition: form-data; name=a; name*=utf-8''b",
            "content-disposition: form-data; NAME*0=a",
            "content-disposition: form-data; name=a\r\nContent-Disposition: form-data; name=b",
        ] {
            let body = format!("--B\r\n{headers}\r\n\r\n\r\n--B--");
            assert!(matches!(everywhere(&body), Err(MultipartError::Malformed { .. })), "{headers}");
        }
    }

    #[test]
    fn headers_are_bounded() {
        let body = |length: usize| format!("--B\r\nx: {}\r\n\r\n\r\n--B--", "y".repeat(length));
        assert!(read([body(MAX_HEADER_BYTES - 5).as_bytes()]).is_ok());
        let long = body(MAX_HEADER_BYTES - 4);
        let error = MultipartError::Malformed { offset: 5 + MAX_HEADER_BYTES as u64, reason: "part headers too long" };
        assert_eq!(read([long.as_bytes()]), Err(error));
        assert_eq!(read(long.as_bytes().chunks(7)), Err(error));
    }

    #[test]
    fn a_boundary_must_be_one() {
        assert!(MultipartReader::new(b"").is_none());
        assert!(MultipartReader::new(&[b'b'; 257]).is_none());
        assert!(MultipartReader::new(b"a\rb").is_none());
    }

    #[test]
    fn an_error_lasts() {
        let mut reader = MultipartReader::new(b"B").unwrap();
        let error = reader.feed(b"x", &mut Notes::default()).unwrap_err();
        assert_eq!(reader.feed(b"--B--", &mut Notes::default()), Err(error));
        assert_eq!(reader.finish(), Err(error));
    }
}
