//! A resumable reader of server-sent events.
//!
//! Follows "Interpreting an event stream" of the HTML standard (section 9.2.6): LF, CR and CRLF end lines, a leading byte
//! order mark and comments are dropped, several `data` lines of an event are joined by LF, and an event that the end of the
//! stream cuts is not dispatched. Fields other than `data` and `event` are ignored.

use alloc::vec::Vec;

/// Most bytes of one event that are kept while it comes in pieces. An ordinary event is below 1 KiB.
pub const BUFFER_BYTES: usize = 64 * 1024;

/// Most bytes of an event's name that are kept; names in use are below 64.
pub const MAX_NAME_BYTES: usize = 128;

/// The smallest buffer, so that a field's name and an event's name always fit.
const MIN_BUFFER_BYTES: usize = 256;

/// Longest prefix of a line of data.
const PREFIX_BYTES: usize = b"data: ".len();

const BYTE_ORDER_MARK: [u8; 3] = [0xEF, 0xBB, 0xBF];

/// What a stream brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A whole event.
    Event {
        /// Its name, cut at [`MAX_NAME_BYTES`]; empty when it has none.
        name: &'a [u8],
        /// Its data.
        data: &'a [u8],
    },
    /// The next part of the data of an event that is too big to be kept until it is whole. An [`Item::End`] follows, unless
    /// the stream ends first.
    Part(&'a [u8]),
    /// The end of an event that came in parts.
    End {
        /// Its name, as above.
        name: &'a [u8],
    },
}

/// An event that is whole but for the empty line that would end it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Its name, cut at [`MAX_NAME_BYTES`]; empty when it has none.
    pub name: Vec<u8>,
    /// Its data so far.
    pub data: Vec<u8>,
}

/// How the line being read goes on in the next piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// Kept so far in the line buffer.
    Kept,
    /// A `data` line whose start has been handed out as parts.
    Parts,
    /// Longer than the buffer and of no interest.
    Ignored,
}

/// The state of a stream between two pieces.
///
/// An event that lies within one piece with a single `data` line is handed out without a copy. Of an event that does not, up
/// to the buffer's size is kept; a bigger one is handed out in parts.
#[derive(Clone, Debug)]
pub struct SseReader {
    buffer_bytes: usize,
    /// How many bytes of a byte order mark the stream has begun with; `None` behind the stream's start.
    mark: Option<usize>,
    /// The last byte was a CR, so that a LF now ends no line.
    after_cr: bool,
    state: Line,
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The event's data so far has been handed out as parts.
    in_parts: bool,
    name: Vec<u8>,
}

impl Default for SseReader {
    fn default() -> Self {
        Self::new(BUFFER_BYTES)
    }
}

/// The event being read, as far as it lies in the current piece.
struct Sink<'c, F> {
    /// The only `data` line so far, when it needs no copy.
    data: Option<&'c [u8]>,
    take: F,
}

impl SseReader {
    /// A reader at the start of a stream that keeps up to about `buffer_bytes` of an event that comes in pieces.
    pub fn new(buffer_bytes: usize) -> Self {
        Self {
            buffer_bytes: buffer_bytes.max(MIN_BUFFER_BYTES),
            mark: Some(0),
            after_cr: false,
            state: Line::Kept,
            line: Vec::new(),
            data: Vec::new(),
            has_data: false,
            in_parts: false,
            name: Vec::new(),
        }
    }

    /// Takes the next piece of the stream and hands what it brings to `take`.
    pub fn feed<F: FnMut(Item<'_>)>(&mut self, piece: &[u8], take: F) {
        let mut sink = Sink { data: None, take };
        let mut rest = self.pass_mark(piece);
        while let Some(&first) = rest.first() {
            if core::mem::take(&mut self.after_cr) && first == b'\n' {
                rest = rest.get(1..).unwrap_or_default();
                continue;
            }
            let Some(end) = memchr::memchr2(b'\n', b'\r', rest) else {
                self.keep_line(rest, &mut sink);
                break;
            };
            let (line, behind) = rest.split_at(end);
            self.end_line(line, &mut sink);
            self.after_cr = behind.first() == Some(&b'\r');
            rest = behind.get(1..).unwrap_or_default();
        }
        if let Some(data) = sink.data.take() {
            self.keep_data(data, &mut sink);
        }
    }

    /// Whether an event has begun and not ended: at the end of a stream, whether the end cut it.
    pub fn is_within_event(&self) -> bool {
        let within_line = match self.state {
            Line::Kept => self.line.first().is_some_and(|&byte| byte != b':'),
            Line::Parts => true,
            Line::Ignored => false,
        };
        within_line || self.has_data || !self.name.is_empty()
    }

    /// The event that the end of the stream would cut here, if it has data and all of it is kept.
    pub fn pending(&self) -> Option<Pending> {
        if self.in_parts || self.state == Line::Parts {
            return None;
        }
        let line = if self.state == Line::Kept { self.line.as_slice() } else { b"" };
        let (mut has_data, mut data, mut name) = (self.has_data, self.data.clone(), self.name.clone());
        match field(line) {
            Field::Data(last) => {
                if core::mem::replace(&mut has_data, true) {
                    data.push(b'\n');
                }
                data.extend_from_slice(last);
            }
            Field::Event(last) => set_name(&mut name, last),
            Field::None | Field::Other => {}
        }
        // Whether more is kept may depend on where the stream was cut.
        (has_data && data.len() + PREFIX_BYTES <= self.buffer_bytes).then_some(Pending { name, data })
    }

    fn pass_mark<'c>(&mut self, piece: &'c [u8]) -> &'c [u8] {
        let mut rest = piece;
        while let Some(seen) = self.mark {
            let Some(expected) = BYTE_ORDER_MARK.get(seen) else {
                self.mark = None;
                break;
            };
            match rest.split_first() {
                None => break,
                Some((byte, behind)) if byte == expected => {
                    self.mark = Some(seen + 1);
                    rest = behind;
                }
                Some(_) => {
                    let begun = BYTE_ORDER_MARK.get(..seen).unwrap_or_default();
                    self.line.extend_from_slice(begun);
                    self.mark = None;
                }
            }
        }
        rest
    }

    /// Takes the end of a line, whose start an earlier piece may have brought.
    fn end_line<'c, F: FnMut(Item<'_>)>(&mut self, end: &'c [u8], sink: &mut Sink<'c, F>) {
        match self.state {
            Line::Kept if self.line.is_empty() => match field(end) {
                Field::None => self.dispatch(sink),
                Field::Data(data) => {
                    if self.has_data {
                        self.join_data(data, sink);
                    } else {
                        self.has_data = true;
                        sink.data = Some(data);
                    }
                }
                Field::Event(name) => set_name(&mut self.name, name),
                Field::Other => {}
            },
            Line::Kept => {
                let mut line = core::mem::take(&mut self.line);
                line.extend_from_slice(end);
                match field(&line) {
                    Field::Data(data) => self.join_data(data, sink),
                    Field::Event(name) => set_name(&mut self.name, name),
                    Field::None | Field::Other => {}
                }
                self.line = line;
                self.line.clear();
            }
            Line::Parts => {
                (sink.take)(Item::Part(end));
                self.state = Line::Kept;
            }
            Line::Ignored => self.state = Line::Kept,
        }
    }

    /// Takes bytes of a line that goes on in the next piece.
    fn keep_line<'c, F: FnMut(Item<'_>)>(&mut self, bytes: &'c [u8], sink: &mut Sink<'c, F>) {
        match self.state {
            Line::Kept if self.line.len() + bytes.len() <= self.buffer_bytes => {
                self.line.extend_from_slice(bytes);
            }
            Line::Kept => {
                let room = self.buffer_bytes.saturating_sub(self.line.len());
                let (head, behind) = bytes.split_at(room.min(bytes.len()));
                let mut line = core::mem::take(&mut self.line);
                line.extend_from_slice(head);
                self.state = Line::Ignored;
                match field(&line) {
                    Field::Data(data) => {
                        self.begin_parts(sink);
                        (sink.take)(Item::Part(data));
                        (sink.take)(Item::Part(behind));
                        self.state = Line::Parts;
                    }
                    Field::Event(name) => set_name(&mut self.name, name),
                    Field::None | Field::Other => {}
                }
            }
            Line::Parts => (sink.take)(Item::Part(bytes)),
            Line::Ignored => {}
        }
    }

    /// Adds a `data` line that cannot be handed out from where it lies.
    fn join_data<'c, F: FnMut(Item<'_>)>(&mut self, data: &[u8], sink: &mut Sink<'c, F>) {
        let before = sink.data.take();
        if let Some(before) = before {
            self.keep_data(before, sink);
        }
        let joins = self.has_data;
        self.has_data = true;
        if !self.in_parts && self.data.len() + data.len() < self.buffer_bytes {
            if joins {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(data);
        } else {
            self.begin_parts_joined(joins, sink);
            (sink.take)(Item::Part(data));
        }
    }

    /// Keeps the event's only `data` line beyond the piece that brought it.
    fn keep_data<F: FnMut(Item<'_>)>(&mut self, data: &[u8], sink: &mut Sink<'_, F>) {
        if data.len() <= self.buffer_bytes {
            self.data.clear();
            self.data.extend_from_slice(data);
        } else {
            self.in_parts = true;
            (sink.take)(Item::Part(data));
        }
    }

    /// Hands out what is kept of an event as its first part, before a further `data` line.
    fn begin_parts<'c, F: FnMut(Item<'_>)>(&mut self, sink: &mut Sink<'c, F>) {
        let before = sink.data.take();
        if let Some(before) = before {
            self.keep_data(before, sink);
        }
        let joins = self.has_data;
        self.has_data = true;
        self.begin_parts_joined(joins, sink);
    }

    fn begin_parts_joined<F: FnMut(Item<'_>)>(&mut self, joins: bool, sink: &mut Sink<'_, F>) {
        if !self.in_parts {
            self.in_parts = true;
            (sink.take)(Item::Part(&self.data));
            self.data.clear();
        }
        if joins {
            (sink.take)(Item::Part(b"\n"));
        }
    }

    fn dispatch<'c, F: FnMut(Item<'_>)>(&mut self, sink: &mut Sink<'c, F>) {
        let name = self.name.as_slice();
        if self.in_parts {
            (sink.take)(Item::End { name });
        } else if let Some(data) = sink.data.take() {
            (sink.take)(Item::Event { name, data });
        } else if self.has_data {
            let data = self.data.as_slice();
            (sink.take)(Item::Event { name, data });
        }
        self.in_parts = false;
        self.has_data = false;
        self.data.clear();
        self.name.clear();
    }
}

enum Field<'a> {
    /// An empty line.
    None,
    Data(&'a [u8]),
    Event(&'a [u8]),
    /// A comment or a field of no interest.
    Other,
}

fn field(line: &[u8]) -> Field<'_> {
    if line.is_empty() {
        return Field::None;
    }
    let value = |line: &'_ [u8]| -> Option<usize> {
        match line {
            [] => Some(0),
            [b':', b' ', ..] => Some(2),
            [b':', ..] => Some(1),
            _ => None,
        }
    };
    for (name, is_data) in [(b"data".as_slice(), true), (b"event".as_slice(), false)] {
        if let Some(behind) = line.strip_prefix(name)
            && let Some(start) = value(behind)
        {
            let value = behind.get(start..).unwrap_or_default();
            return if is_data { Field::Data(value) } else { Field::Event(value) };
        }
    }
    Field::Other
}

fn set_name(kept: &mut Vec<u8>, name: &[u8]) {
    kept.clear();
    kept.extend_from_slice(name.get(..MAX_NAME_BYTES).unwrap_or(name));
}

#[cfg(test)]
mod tests {
    use std::{
        string::{String, ToString},
        vec,
    };
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    #[test]
    fn events_are_told_the_same_at_every_cut() {
        let stream =
            "\u{feff}: ping\r\nevent: é\r\ndata: {\"a\":1}\r\rdata:x\ndata: y\n\nevent: z\n\ndata\n\n".as_bytes();
        let expected = vec![("é", "{\"a\":1}"), ("", "x\ny"), ("", "")];
        for place in 0..=stream.len() {
            let (head, tail) = stream.split_at(place);
            let mut reader = SseReader::default();
            let mut events = Vec::new();
            let mut take = |item: Item<'_>| match item {
                Item::Event { name, data } => events.push((text(name), text(data))),
                other => panic!("{other:?}"),
            };
            reader.feed(head, &mut take);
            reader.feed(tail, &mut take);
            let events: Vec<_> = events.iter().map(|(name, data)| (name.as_str(), data.as_str())).collect();
            assert_eq!(events, expected, "cut at {place}");
            assert!(!reader.is_within_event());
        }
    }

    #[test]
    fn an_event_without_its_empty_line_is_pending() {
        for (stream, expected) in [
            ("data: x", Some(("", "x"))),
            ("data: x\n", Some(("", "x"))),
            ("data: x\r", Some(("", "x"))),
            ("event: a\ndata: x\n: ping", Some(("a", "x"))),
            ("data: x\nevent: a", Some(("a", "x"))),
            ("data: x\ndata:y", Some(("", "x\ny"))),
            ("data", Some(("", ""))),
            ("data: x\n\n", None),
            ("event: a\n", None),
            ("dat", None),
            ("", None),
        ] {
            for place in 0..=stream.len() {
                let (head, tail) = stream.as_bytes().split_at(place);
                let mut reader = SseReader::default();
                reader.feed(head, |_| {});
                reader.feed(tail, |_| {});
                let got = reader.pending().map(|pending| (text(&pending.name), text(&pending.data)));
                assert_eq!(got, expected.map(|(name, data)| (name.into(), data.into())), "{stream:?} cut at {place}");
            }
        }
        let mut reader = SseReader::new(0);
        reader.feed(&[b"data: ".as_slice(), &[b'x'; 300]].concat(), |_| {});
        assert_eq!(reader.pending(), None);
    }

    #[test]
    fn an_event_beyond_the_buffer_comes_in_parts() {
        let mut reader = SseReader::new(0);
        let mut parts = Vec::new();
        let mut take = |item: Item<'_>| match item {
            Item::Part(part) => parts.push(text(part)),
            Item::End { name } => parts.push(["end of ", &text(name)].concat()),
            Item::Event { .. } => panic!("too big"),
        };
        reader.feed(b"event: big\ndata: ", &mut take);
        reader.feed(&[b'x'; 300], &mut take);
        assert!(reader.is_within_event());
        reader.feed(b"yy\ndata: z\n\n", &mut take);
        let expected = ["x".repeat(300), "yy".to_string(), "\n".to_string(), "z".to_string(), "end of big".to_string()];
        assert_eq!(parts.concat(), expected.concat());
    }
}
