//! The scanner of a text's structure.

use alloc::vec::Vec;
use core::ops::Range;

use super::numbers::{Number, OUT_OF_RANGE, whole_number};
use super::strings::{Escape, Partial, content_run};
use super::watch::{Container, MAX_DEPTH, MAX_KEY_BYTES, Node, ROOT, SKIP, Scalar, ScanError, Want, Watch};

/// Where the scanner stands between two bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Before a value.
    Value,
    /// Behind `[`.
    FirstElement,
    /// Behind `{`.
    FirstKey,
    /// Behind `,` in an object.
    Key,
    /// Behind a member name.
    Colon,
    /// Behind a value inside an array or object.
    Behind,
    /// Behind the outermost value.
    Done,
    /// Inside a string.
    Text,
    /// Inside an escape sequence.
    Escape(Escape),
    /// Inside a number.
    Number(Number),
    /// Inside `null`, `true` or `false`, with this many bytes read.
    Literal(Literal, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Literal {
    Null,
    True,
    False,
}

impl Literal {
    /// The one that begins with a letter, which is one of `n`, `t` and `f`.
    fn from_first(byte: u8) -> Self {
        match byte {
            b'n' => Self::Null,
            b't' => Self::True,
            _ => Self::False,
        }
    }

    /// Its length, if `bytes` begin with it.
    fn length_at(self, bytes: &[u8]) -> Option<usize> {
        // Comparisons with constants take an instruction or two.
        match self {
            Self::Null => bytes.starts_with(b"null").then_some(4),
            Self::True => bytes.starts_with(b"true").then_some(4),
            Self::False => bytes.starts_with(b"false").then_some(5),
        }
    }

    pub(super) fn word(self) -> &'static [u8] {
        match self {
            Self::Null => b"null",
            Self::True => b"true",
            Self::False => b"false",
        }
    }

    pub(super) fn scalar(self) -> Scalar<'static> {
        match self {
            Self::Null => Scalar::Null,
            Self::True => Scalar::Bool(true),
            Self::False => Scalar::Bool(false),
        }
    }
}

/// The state of a scan between two pieces of the text.
#[derive(Clone, Debug)]
pub struct Scanner {
    pub(super) state: State,
    /// One bit for each open container, the innermost lowest: 1 for an object.
    objects: u128,
    depth: usize,
    /// The nodes of the open containers.
    nodes: [Node; MAX_DEPTH],
    /// The node of the value that comes next or is being read.
    pub(super) node: Node,
    /// Whether the string being read is a member name.
    pub(super) is_key: bool,
    pub(super) want: Want,
    /// Offset of the first byte of the next piece.
    pub(super) offset: u64,
    /// Offset of the first byte of the token being read.
    pub(super) token_at: u64,
    /// The part of the token that does not lie in the current piece as it is wanted.
    pub(super) scratch: Vec<u8>,
    /// Whether `scratch` holds the start of the token, be it empty.
    pub(super) spilled: bool,
    pub(super) partial: Partial,
    failure: Option<ScanError>,
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

impl Scanner {
    /// A scanner at the start of a text.
    pub fn new() -> Self {
        Self {
            state: State::Value,
            objects: 0,
            depth: 0,
            nodes: [SKIP; MAX_DEPTH],
            node: ROOT,
            is_key: false,
            want: Want::Nothing,
            offset: 0,
            token_at: 0,
            scratch: Vec::new(),
            spilled: false,
            partial: Partial::default(),
            failure: None,
        }
    }

    /// Goes back to the start of a text, keeping memory already taken.
    pub fn reset(&mut self) {
        self.state = State::Value;
        self.depth = 0;
        self.node = ROOT;
        self.offset = 0;
        self.scratch.clear();
        self.spilled = false;
        self.partial.clear();
        self.failure = None;
    }

    /// Bytes taken so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The place of the string value that is being read, and how many bytes came behind its first quote.
    pub fn open_text(&self) -> Option<(Node, u64)> {
        let is_open = matches!(self.state, State::Text | State::Escape(_)) && !self.is_key;
        is_open.then_some((self.node, self.offset.saturating_sub(self.token_at).saturating_sub(1)))
    }

    /// Takes the next piece of the text.
    ///
    /// # Errors
    /// When the text cannot become valid any more; later calls repeat the error and report nothing.
    pub fn feed<W: Watch>(&mut self, piece: &[u8], watch: &mut W) -> Result<(), ScanError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        match self.scan(piece, watch) {
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

    /// Ends the text.
    ///
    /// # Errors
    /// When the text as a whole is not valid.
    pub fn finish<W: Watch>(&mut self, watch: &mut W) -> Result<(), ScanError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        // A number that nothing encloses has no other end.
        if let State::Number(number) = self.state {
            let end = self.offset;
            self.end_number(number, &[], end, watch)?;
        }
        let reason = match self.state {
            State::Done => return Ok(()),
            State::Value if self.depth == 0 => return Err(ScanError::Empty),
            State::Value | State::FirstElement => "expected a value",
            State::Colon => "expected ':'",
            State::FirstKey | State::Key => "unclosed object",
            State::Behind if self.objects & 1 == 1 => "unclosed object",
            State::Behind => "unclosed array",
            State::Text | State::Escape(_) => "unclosed string",
            State::Number(_) => "invalid number",
            State::Literal(..) => "expected a value",
        };
        Err(ScanError::Malformed { offset: self.offset, reason })
    }

    fn scan<W: Watch>(&mut self, piece: &[u8], watch: &mut W) -> Result<(), ScanError> {
        let mut at = 0;
        while at < piece.len() {
            at = match self.state {
                State::Text | State::Escape(_) => self.string(piece, at, at, watch)?,
                State::Number(number) => self.number(number, piece, at, watch)?,
                State::Literal(literal, read) => self.literal(literal, read, piece, at, watch)?,
                State::Value
                | State::FirstElement
                | State::FirstKey
                | State::Key
                | State::Colon
                | State::Behind
                | State::Done => self.structure(piece, at, watch)?,
            };
        }
        Ok(())
    }

    /// Reads on from `at`, between two tokens, and returns where it stopped: at the end of `piece`, or in a token that the end cuts or that
    /// is not written plainly, which `state` then names. Most tokens are whole and plain, and pass without a word in `self`.
    fn structure<W: Watch>(&mut self, piece: &[u8], mut at: usize, watch: &mut W) -> Result<usize, ScanError> {
        let mut state = self.state;
        while let Some(&byte) = piece.get(at) {
            if byte <= b' ' && matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                at += 1;
                continue;
            }
            state = match (state, byte) {
                (State::Key | State::FirstKey, b'"') => {
                    let Some(length) = self.key(piece, at, watch) else {
                        return Ok(at + 1);
                    };
                    at += length;
                    if piece.get(at) == Some(&b':') {
                        at += 1;
                        State::Value
                    } else {
                        State::Colon
                    }
                }
                (State::Colon, b':') => {
                    at += 1;
                    State::Value
                }
                (State::Behind, b',') => {
                    at += 1;
                    if self.objects & 1 == 1 {
                        State::Key
                    } else {
                        self.node = self.element(watch);
                        State::Value
                    }
                }
                (State::Behind, b'}') if self.objects & 1 == 1 => self.close(&mut at, watch),
                (State::FirstKey, b'}') => self.close(&mut at, watch),
                (State::Behind, b']') if self.objects & 1 == 0 => self.close(&mut at, watch),
                (State::FirstElement, b']') => self.close(&mut at, watch),
                (State::Value | State::FirstElement, b'{' | b'[') => {
                    let next = self.open(byte == b'{', at, watch)?;
                    at += 1;
                    next
                }
                (State::Value | State::FirstElement, b'"') => {
                    let start = at + 1;
                    let want = if self.node == SKIP { Want::Nothing } else { watch.want(self.node) };
                    let rest = piece.get(start..).unwrap_or_default();
                    let run = want.run(rest);
                    if rest.get(run) != Some(&b'"') {
                        self.is_key = false;
                        self.want = want;
                        self.begin_token(at, State::Text);
                        return self.string(piece, start, start + run, watch);
                    }
                    at = start + run + 1;
                    if self.node != SKIP {
                        let text = rest.get(..run).unwrap_or_default();
                        let scalar = want.scalar(self.node, text, text, watch);
                        watch.scalar(self.node, scalar, self.range(start - 1, at));
                    }
                    self.behind()
                }
                (State::Value | State::FirstElement, b'0'..=b'9' | b'-') => {
                    let rest = piece.get(at..).unwrap_or_default();
                    let Some((number, length)) = whole_number(rest) else {
                        self.begin_token(at, State::Number(Number::from_first(byte)));
                        return Ok(at);
                    };
                    let token = rest.get(..length).unwrap_or_default();
                    if !number.is_finite(token) {
                        return Err(self.malformed(at, OUT_OF_RANGE));
                    }
                    if self.node != SKIP {
                        watch.scalar(self.node, Scalar::Number(token), self.range(at, at + length));
                    }
                    at += length;
                    self.behind()
                }
                (State::Value | State::FirstElement, b'n' | b't' | b'f') => {
                    let literal = Literal::from_first(byte);
                    let Some(length) = literal.length_at(piece.get(at..).unwrap_or_default()) else {
                        self.begin_token(at, State::Literal(literal, 0));
                        return Ok(at);
                    };
                    if self.node != SKIP {
                        watch.scalar(self.node, literal.scalar(), self.range(at, at + length));
                    }
                    at += length;
                    self.behind()
                }
                (state, _) => {
                    let reason = match state {
                        State::Behind if self.objects & 1 == 1 => "expected ',' or '}'",
                        State::Behind => "expected ',' or ']'",
                        State::FirstKey => "expected a member name or '}'",
                        State::Key => "expected a member name",
                        State::Colon => "expected ':'",
                        State::FirstElement => "expected a value or ']'",
                        State::Value => "expected a value",
                        _ => "expected the end",
                    };
                    return Err(self.malformed(at, reason));
                }
            };
        }
        self.state = state;
        Ok(at)
    }

    /// Takes the member name whose first quote is at `at`, and returns its length with both quotes; `None`: `state` says how far it came.
    fn key<W: Watch>(&mut self, piece: &[u8], at: usize, watch: &mut W) -> Option<usize> {
        let parent = self.parent();
        let want = if parent == SKIP { Want::Nothing } else { Want::Text(MAX_KEY_BYTES) };
        let rest = piece.get(at + 1..).unwrap_or_default();
        let run = want.run(rest);
        if rest.get(run) != Some(&b'"') {
            self.is_key = true;
            self.want = want;
            self.begin_token(at, State::Text);
            return None;
        }
        self.node = if parent == SKIP {
            SKIP
        } else {
            watch.member(parent, rest.get(..run.min(MAX_KEY_BYTES)).unwrap_or_default())
        };
        Some(run + 2)
    }

    /// Offsets of the bytes from `start` to `end` of the piece.
    fn range(&self, start: usize, end: usize) -> Range<u64> {
        self.offset + start as u64..self.offset + end as u64
    }

    /// The node of the innermost open container.
    pub(super) fn parent(&self) -> Node {
        self.depth.checked_sub(1).and_then(|index| self.nodes.get(index)).copied().unwrap_or(SKIP)
    }

    fn element<W: Watch>(&self, watch: &mut W) -> Node {
        match self.parent() {
            SKIP => SKIP,
            node => watch.element(node),
        }
    }

    pub(super) fn malformed(&self, at: usize, reason: &'static str) -> ScanError {
        ScanError::Malformed { offset: self.offset + at as u64, reason }
    }

    fn begin_token(&mut self, at: usize, state: State) {
        self.token_at = self.offset + at as u64;
        self.scratch.clear();
        self.spilled = false;
        self.state = state;
    }

    /// Opens a container, and says what stands behind its bracket.
    fn open<W: Watch>(&mut self, is_object: bool, at: usize, watch: &mut W) -> Result<State, ScanError> {
        let offset = self.offset + at as u64;
        let Some(slot) = self.nodes.get_mut(self.depth) else {
            return Err(ScanError::TooDeep { offset });
        };
        *slot = self.node;
        self.depth += 1;
        self.objects = self.objects << 1 | u128::from(is_object);
        if self.node != SKIP {
            let container = if is_object { Container::Object } else { Container::Array };
            watch.open(self.node, container, offset);
        }
        if is_object {
            return Ok(State::FirstKey);
        }
        self.node = self.element(watch);
        Ok(State::FirstElement)
    }

    /// Closes the innermost container.
    fn close<W: Watch>(&mut self, at: &mut usize, watch: &mut W) -> State {
        *at += 1;
        let node = self.parent();
        self.depth = self.depth.saturating_sub(1);
        self.objects >>= 1;
        if node != SKIP {
            watch.close(node, self.offset + *at as u64);
        }
        self.behind()
    }

    /// The state behind a value.
    pub(super) fn behind(&self) -> State {
        if self.depth == 0 { State::Done } else { State::Behind }
    }
}

/// Whether `bytes` could stand between the quotes of one valid JSON string.
pub fn is_string_content(bytes: &[u8]) -> bool {
    let rest = bytes.get(content_run::<true>(bytes)..).unwrap_or_default();
    if rest.is_empty() {
        return true;
    }
    // What is left begins with an escaped surrogate, is short, or is no content.
    let mut scanner = Scanner::new();
    let text = scanner.feed(b"\"", &mut Nobody).and_then(|()| scanner.feed(rest, &mut Nobody));
    text.is_ok() && scanner.state == State::Text && scanner.partial.is_empty()
}

/// Watches nothing.
struct Nobody;

impl Watch for Nobody {
    fn member(&mut self, _: Node, _: &[u8]) -> Node {
        SKIP
    }

    fn element(&mut self, _: Node) -> Node {
        SKIP
    }

    fn want(&mut self, _: Node) -> Want {
        Want::Nothing
    }

    fn scalar(&mut self, _: Node, _: Scalar<'_>, _: Range<u64>) {}
}

#[cfg(test)]
mod tests {
    use std::{format, string::String, vec};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    /// Notes the scalars of a flat object's members.
    #[derive(Default)]
    struct Notes(Vec<String>);

    impl Watch for Notes {
        fn member(&mut self, _: Node, key: &[u8]) -> Node {
            self.0.push(String::from_utf8_lossy(key).into_owned());
            2
        }

        fn element(&mut self, _: Node) -> Node {
            SKIP
        }

        fn want(&mut self, _: Node) -> Want {
            Want::Text(8)
        }

        fn scalar(&mut self, _: Node, scalar: Scalar<'_>, range: Range<u64>) {
            let text = match scalar {
                Scalar::Text { text, cut } => format!("{} {cut}", String::from_utf8_lossy(text)),
                Scalar::Number(token) => String::from_utf8_lossy(token).into_owned(),
                other => format!("{other:?}"),
            };
            self.0.push(format!("{text} {range:?}"));
        }
    }

    #[test]
    fn members_are_told_the_same_at_every_cut() {
        let text = "{\"a\":\"é\\u00e9\", \"\\u0062\" :-1.5e3,\"long\":\"123456789\",\"c\":[1,{\"d\":2}],\"e\":true}"
            .as_bytes();
        let expected = vec![
            "a",
            "éé false 5..15",
            "b",
            "-1.5e3 27..33",
            "long",
            "12345678 true 41..52",
            "c",
            "e",
            "Bool(true) 73..77",
        ];
        for place in 0..=text.len() {
            let (head, tail) = text.split_at(place);
            let (mut scanner, mut notes) = (Scanner::new(), Notes::default());
            scanner.feed(head, &mut notes).unwrap();
            scanner.feed(tail, &mut notes).unwrap();
            scanner.finish(&mut notes).unwrap();
            assert_eq!(notes.0, expected, "cut at {place}");
        }
    }

    #[test]
    fn string_content_is_what_a_string_can_hold() {
        for (content, is_content) in [
            ("", true),
            ("plain", true),
            ("é漢 \\n\\\"\\\\", true),
            ("\\u00e9\\ud83d\\ude00", true),
            ("\"", false),
            ("a\"b", false),
            ("\\", false),
            ("a\\\\\\", false),
            ("\\x", false),
            ("\\ud83d", false),
            ("\\u00", false),
            ("\n", false),
        ] {
            assert_eq!(is_string_content(content.as_bytes()), is_content, "{content:?}");
        }
        assert!(!is_string_content(b"\xc3"));
        assert!(!is_string_content(b"\xff\\n"));
    }
}
