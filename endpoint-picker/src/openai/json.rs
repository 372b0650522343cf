//! A resumable JSON scanner.
//!
//! A [`Scanner`] takes a text in any number of pieces and accepts exactly what `serde_json` accepts as a
//! `serde_json::Value` from bytes: RFC 8259 with valid UTF-8 and paired surrogates inside strings, finite numbers, and
//! [`MAX_DEPTH`] levels of nesting. It builds no tree: a [`Watch`] says which members it cares for by numbering them, and is
//! told of their values as they end. Everything else is only validated. The only bytes kept are those of a token that a
//! piece cuts or that has escapes: of strings as many as were asked for, of numbers all.

use alloc::vec::Vec;
use core::ops::Range;

/// Deepest nesting accepted: `serde_json` counts down from 128 and refuses the level that reaches zero.
pub const MAX_DEPTH: usize = 127;

/// The place of a value among those a [`Watch`] cares for.
pub type Node = u8;

/// The node of values that nobody watches; nothing below such a value is reported.
pub const SKIP: Node = 0;

/// The node of the outermost value.
pub const ROOT: Node = 1;

/// Most decoded bytes of a member name handed to [`Watch::member`]: longer names are cut there, so names to be recognised
/// must be shorter.
pub const MAX_KEY_BYTES: usize = 64;

/// A number this short without a long exponent is finite whatever its digits: below 10^(199 + 99).
const SURELY_FINITE_BYTES: usize = 200;

/// Why a text is not JSON. Where the text is cut makes no difference to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// No byte but white space.
    #[error("empty input")]
    Empty,
    /// A byte that cannot stand where it stands, or an end that comes too early.
    #[error("byte {offset}: {reason}")]
    Malformed {
        /// Offset of the byte, or the length of the text when it ends too early.
        offset: u64,
        /// What is wrong, as a phrase for a message.
        reason: &'static str,
    },
    /// A string that is not UTF-8.
    #[error("byte {offset}: invalid UTF-8")]
    NotUtf8 {
        /// Offset of the first byte of the invalid sequence.
        offset: u64,
    },
    /// More than [`MAX_DEPTH`] levels of nesting.
    #[error("byte {offset}: nested too deep")]
    TooDeep {
        /// Offset of the bracket that is one too many.
        offset: u64,
    },
}

/// What a [`Watch`] wants of a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Only that it was there.
    Nothing,
    /// The decoded text, up to this many bytes.
    Text(usize),
    /// The bytes between the quotes as they stand, piece by piece through [`Watch::raw`].
    Raw,
}

/// A value that is neither array nor object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as written.
    Number(&'a [u8]),
    /// A string asked for as [`Want::Text`].
    Text {
        /// The decoded text; when `cut`, its first bytes, which may end inside a character.
        text: &'a [u8],
        /// Whether the text is longer than was asked for.
        cut: bool,
    },
    /// A string that was not asked for as text.
    Opaque,
}

/// A kind of value that holds others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// `[…]`.
    Array,
    /// `{…}`.
    Object,
}

/// What a reader of JSON cares for.
///
/// Nodes number the watched places, starting from [`ROOT`]. Offsets count bytes from the start of the text. Events come in
/// the order of the text and before it is known to be valid as a whole.
pub trait Watch {
    /// The node of the member `key` (decoded) of the object at `node`, or [`SKIP`].
    fn member(&mut self, node: Node, key: &[u8]) -> Node;

    /// The node of the next element of the array at `node`, or [`SKIP`].
    fn element(&mut self, node: Node) -> Node;

    /// What is wanted of a string at `node`.
    fn want(&mut self, node: Node) -> Want;

    /// A value at `node` ended; `range` covers it, quotes included.
    fn scalar(&mut self, node: Node, scalar: Scalar<'_>, range: Range<u64>);

    /// The next raw bytes of a string that was asked for as [`Want::Raw`].
    fn raw(&mut self, _node: Node, _piece: &[u8]) {}

    /// An array or object at `node` begins at offset `at`.
    fn open(&mut self, _node: Node, _container: Container, _at: u64) {}

    /// The array or object at `node` ended before offset `end`.
    fn close(&mut self, _node: Node, _end: u64) {}
}

/// Where the scanner stands between two bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
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
enum Escape {
    /// Behind the backslash.
    Letter,
    /// Behind `\u`, with `left` digits to come.
    First { left: u8, code: u16 },
    /// Behind a leading surrogate.
    Backslash { lead: u16 },
    /// Behind a leading surrogate and a backslash.
    U { lead: u16 },
    /// Behind a leading surrogate and `\u`.
    Second { lead: u16, left: u8, code: u16 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    E,
    Sign,
    /// With this many digits, counted up to 3.
    Exponent(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Literal {
    Null,
    True,
    False,
}

impl Literal {
    fn word(self) -> &'static [u8] {
        match self {
            Self::Null => b"null",
            Self::True => b"true",
            Self::False => b"false",
        }
    }

    fn scalar(self) -> Scalar<'static> {
        match self {
            Self::Null => Scalar::Null,
            Self::True => Scalar::Bool(true),
            Self::False => Scalar::Bool(false),
        }
    }
}

/// A character whose bytes were cut apart.
#[derive(Clone, Copy, Debug, Default)]
struct Partial {
    bytes: [u8; 4],
    len: usize,
}

/// The state of a scan between two pieces of the text.
#[derive(Clone, Debug)]
pub struct Scanner {
    state: State,
    /// One bit for each open container, the innermost lowest: 1 for an object.
    objects: u128,
    depth: usize,
    /// The nodes of the open containers.
    nodes: [Node; MAX_DEPTH],
    /// The node of the value that comes next or is being read.
    node: Node,
    /// Whether the string being read is a member name.
    is_key: bool,
    want: Want,
    /// Offset of the first byte of the next piece.
    offset: u64,
    /// Offset of the first byte of the token being read.
    token_at: u64,
    /// The part of the token that does not lie in the current piece as it is wanted.
    scratch: Vec<u8>,
    /// Whether `scratch` holds the start of the token, be it empty.
    spilled: bool,
    partial: Partial,
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
        self.partial.len = 0;
        self.failure = None;
    }

    /// Bytes taken so far.
    pub fn offset(&self) -> u64 {
        self.offset
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
        loop {
            match self.state {
                State::Text | State::Escape(_) => {
                    if at == piece.len() {
                        return Ok(());
                    }
                    at = self.string(piece, at, watch)?;
                    continue;
                }
                State::Number(number) => {
                    if at == piece.len() {
                        return Ok(());
                    }
                    at = self.number(number, piece, at, watch)?;
                    continue;
                }
                State::Literal(literal, read) => {
                    if at == piece.len() {
                        return Ok(());
                    }
                    at = self.literal(literal, read, piece, at, watch)?;
                    continue;
                }
                State::Value
                | State::FirstElement
                | State::FirstKey
                | State::Key
                | State::Colon
                | State::Behind
                | State::Done => {}
            }
            let Some(&byte) = piece.get(at) else {
                return Ok(());
            };
            if matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                at += 1;
                continue;
            }
            match (self.state, byte) {
                (State::Behind, b',') => {
                    if self.objects & 1 == 1 {
                        self.state = State::Key;
                    } else {
                        self.node = self.element(watch);
                        self.state = State::Value;
                    }
                    at += 1;
                }
                (State::Behind, b'}') if self.objects & 1 == 1 => self.close(&mut at, watch),
                (State::FirstKey, b'}') => self.close(&mut at, watch),
                (State::Behind, b']') if self.objects & 1 == 0 => self.close(&mut at, watch),
                (State::FirstElement, b']') => self.close(&mut at, watch),
                (State::Key | State::FirstKey, b'"') => {
                    self.is_key = true;
                    self.want = if self.parent() == SKIP { Want::Nothing } else { Want::Text(MAX_KEY_BYTES) };
                    self.begin_token(at, State::Text);
                    at += 1;
                }
                (State::Colon, b':') => {
                    self.state = State::Value;
                    at += 1;
                }
                (State::Value | State::FirstElement, _) => {
                    at = self.begin_value(byte, at, watch)?;
                }
                (state, _) => {
                    let reason = match state {
                        State::Behind if self.objects & 1 == 1 => "expected ',' or '}'",
                        State::Behind => "expected ',' or ']'",
                        State::FirstKey => "expected a member name or '}'",
                        State::Key => "expected a member name",
                        State::Colon => "expected ':'",
                        _ => "expected the end",
                    };
                    return Err(self.malformed(at, reason));
                }
            }
        }
    }

    /// The node of the innermost open container.
    fn parent(&self) -> Node {
        self.depth.checked_sub(1).and_then(|index| self.nodes.get(index)).copied().unwrap_or(SKIP)
    }

    fn element<W: Watch>(&self, watch: &mut W) -> Node {
        match self.parent() {
            SKIP => SKIP,
            node => watch.element(node),
        }
    }

    fn malformed(&self, at: usize, reason: &'static str) -> ScanError {
        ScanError::Malformed { offset: self.offset + at as u64, reason }
    }

    fn begin_token(&mut self, at: usize, state: State) {
        self.token_at = self.offset + at as u64;
        self.scratch.clear();
        self.spilled = false;
        self.state = state;
    }

    /// Takes the first byte of a value.
    fn begin_value<W: Watch>(&mut self, byte: u8, at: usize, watch: &mut W) -> Result<usize, ScanError> {
        let next = match byte {
            b'"' => {
                self.is_key = false;
                self.want = match self.node {
                    SKIP => Want::Nothing,
                    node => watch.want(node),
                };
                self.begin_token(at, State::Text);
                at + 1
            }
            b'{' | b'[' => {
                self.open(byte == b'{', at, watch)?;
                at + 1
            }
            // The token's own reader takes these from their first byte, so that it sees the whole token.
            b'0'..=b'9' | b'-' => {
                self.token_at = self.offset + at as u64;
                self.scratch.clear();
                self.spilled = false;
                self.state = State::Number(match byte {
                    b'-' => Number::Minus,
                    b'0' => Number::Zero,
                    _ => Number::Integer,
                });
                at
            }
            b'n' => self.begin_literal(Literal::Null, at),
            b't' => self.begin_literal(Literal::True, at),
            b'f' => self.begin_literal(Literal::False, at),
            _ if self.state == State::FirstElement => {
                return Err(self.malformed(at, "expected a value or ']'"));
            }
            _ => return Err(self.malformed(at, "expected a value")),
        };
        Ok(next)
    }

    fn begin_literal(&mut self, literal: Literal, at: usize) -> usize {
        self.begin_token(at, State::Literal(literal, 0));
        at
    }

    fn open<W: Watch>(&mut self, is_object: bool, at: usize, watch: &mut W) -> Result<(), ScanError> {
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
            self.state = State::FirstKey;
        } else {
            self.node = self.element(watch);
            self.state = State::FirstElement;
        }
        Ok(())
    }

    fn close<W: Watch>(&mut self, at: &mut usize, watch: &mut W) {
        *at += 1;
        let node = self.parent();
        self.depth = self.depth.saturating_sub(1);
        self.objects >>= 1;
        if node != SKIP {
            watch.close(node, self.offset + *at as u64);
        }
        self.end_value();
    }

    fn end_value(&mut self) {
        self.state = if self.depth == 0 { State::Done } else { State::Behind };
    }

    /// Reads on in a string from `start` and returns where it stopped: behind the closing quote or at the end of `piece`.
    fn string<W: Watch>(&mut self, piece: &[u8], start: usize, watch: &mut W) -> Result<usize, ScanError> {
        let mut at = start;
        // The first byte that is neither in `scratch` nor part of an escape.
        let mut kept = start;
        loop {
            if let State::Escape(escape) = self.state {
                at = self.escape(escape, piece, at)?;
                kept = at;
                if at == piece.len() {
                    break;
                }
            }
            if self.partial.len > 0 {
                at = self.join(piece, at)?;
                if at == piece.len() {
                    break;
                }
            }
            let rest = piece.get(at..).unwrap_or_default();
            // Escapes that nobody reads need no decoding.
            at += match self.want {
                Want::Text(_) => content_run::<false>(rest),
                Want::Nothing | Want::Raw => content_run::<true>(rest),
            };
            match piece.get(at) {
                None => break,
                Some(b'"') => {
                    self.end_string(piece, start, kept, at, watch);
                    return Ok(at + 1);
                }
                Some(b'\\') => {
                    self.spill(piece.get(kept..at).unwrap_or_default());
                    self.state = State::Escape(Escape::Letter);
                    at += 1;
                    kept = at;
                    if at == piece.len() {
                        break;
                    }
                }
                Some(0..0x20) => {
                    return Err(self.malformed(at, "control character in a string"));
                }
                Some(_) => at = self.wide(piece, at)?,
            }
        }
        if self.want == Want::Raw {
            watch.raw(self.node, piece.get(start..).unwrap_or_default());
        } else {
            self.spill(piece.get(kept..).unwrap_or_default());
        }
        Ok(piece.len())
    }

    /// Passes one character beyond ASCII, or keeps what a piece's end leaves of it.
    fn wide(&mut self, piece: &[u8], at: usize) -> Result<usize, ScanError> {
        let rest = piece.get(at..).unwrap_or_default();
        let length = rest.first().map_or(0, |byte| byte.leading_ones() as usize);
        let character = rest.get(..length).unwrap_or(rest);
        match core::str::from_utf8(character) {
            Ok(_) => Ok(at + character.len()),
            // Only the end of the piece can cut a character that is as long as its first byte says.
            Err(error) if error.error_len().is_none() => {
                for (slot, byte) in self.partial.bytes.iter_mut().zip(character) {
                    *slot = *byte;
                }
                self.partial.len = character.len();
                Ok(piece.len())
            }
            Err(_) => Err(ScanError::NotUtf8 { offset: self.offset + at as u64 }),
        }
    }

    /// Completes the character that the last piece cut.
    fn join(&mut self, piece: &[u8], start: usize) -> Result<usize, ScanError> {
        let mut at = start;
        while let Some(&byte) = piece.get(at) {
            // The bytes of the character that earlier pieces held end where this one's begin.
            let failure =
                ScanError::NotUtf8 { offset: (self.offset + at as u64).saturating_sub(self.partial.len as u64) };
            let Some(slot) = self.partial.bytes.get_mut(self.partial.len) else {
                return Err(failure);
            };
            *slot = byte;
            let character = self.partial.bytes.get(..=self.partial.len);
            match core::str::from_utf8(character.unwrap_or_default()) {
                Ok(_) => {
                    self.partial.len = 0;
                    return Ok(at + 1);
                }
                Err(error) if error.error_len().is_none() => self.partial.len += 1,
                Err(_) => return Err(failure),
            }
            at += 1;
        }
        Ok(at)
    }

    /// Reads on in an escape and returns where it stopped: behind the escape or at the end of `piece`.
    fn escape(&mut self, mut escape: Escape, piece: &[u8], start: usize) -> Result<usize, ScanError> {
        let mut at = start;
        while let Some(&byte) = piece.get(at) {
            escape = match escape {
                Escape::Letter => {
                    let letter = match byte {
                        b'"' | b'\\' | b'/' => byte,
                        b'b' => 8,
                        b'f' => 12,
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        b'u' => {
                            at += 1;
                            escape = Escape::First { left: 4, code: 0 };
                            continue;
                        }
                        _ => return Err(self.malformed(at, "invalid escape")),
                    };
                    self.spill(&[letter]);
                    self.state = State::Text;
                    return Ok(at + 1);
                }
                Escape::First { left, code } => {
                    let code = code << 4 | self.hex(byte, at)?;
                    match (left, code) {
                        (2.., _) => Escape::First { left: left - 1, code },
                        (_, 0xD800..=0xDBFF) => Escape::Backslash { lead: code },
                        (_, 0xDC00..=0xDFFF) => {
                            return Err(self.malformed(at, "unpaired surrogate in an escape"));
                        }
                        _ => return Ok(self.end_escape(u32::from(code), at)),
                    }
                }
                Escape::Backslash { lead } if byte == b'\\' => Escape::U { lead },
                Escape::U { lead } if byte == b'u' => Escape::Second { lead, left: 4, code: 0 },
                Escape::Backslash { .. } | Escape::U { .. } => {
                    return Err(self.malformed(at, "unpaired surrogate in an escape"));
                }
                Escape::Second { lead, left, code } => {
                    let code = code << 4 | self.hex(byte, at)?;
                    match (left, code) {
                        (2.., _) => Escape::Second { lead, left: left - 1, code },
                        (_, 0xDC00..=0xDFFF) => {
                            let high = u32::from(lead - 0xD800) << 10;
                            let low = u32::from(code - 0xDC00);
                            return Ok(self.end_escape(0x1_0000 + high + low, at));
                        }
                        _ => return Err(self.malformed(at, "unpaired surrogate in an escape")),
                    }
                }
            };
            at += 1;
        }
        self.state = State::Escape(escape);
        Ok(at)
    }

    fn hex(&self, byte: u8, at: usize) -> Result<u16, ScanError> {
        match char::from(byte).to_digit(16) {
            Some(digit) => Ok(digit as u16),
            None => Err(self.malformed(at, "invalid escape")),
        }
    }

    fn end_escape(&mut self, code: u32, at: usize) -> usize {
        let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        self.spill(character.encode_utf8(&mut [0; 4]).as_bytes());
        self.state = State::Text;
        at + 1
    }

    /// Keeps decoded bytes of the string being read, as far as they are wanted.
    fn spill(&mut self, bytes: &[u8]) {
        if let Want::Text(limit) = self.want {
            self.spilled = true;
            // One byte beyond the limit tells a longer text from one that fits exactly.
            let room = limit.saturating_add(1).saturating_sub(self.scratch.len());
            let bytes = bytes.get(..room).unwrap_or(bytes);
            self.scratch.extend_from_slice(bytes);
        }
    }

    /// Ends a string whose part in `piece` begins at `start`, whose closing quote is at `at`, and whose bytes from `kept` on
    /// are not spilled.
    fn end_string<W: Watch>(&mut self, piece: &[u8], start: usize, kept: usize, at: usize, watch: &mut W) {
        let rest = piece.get(kept..at).unwrap_or_default();
        let scalar = match self.want {
            Want::Nothing => Scalar::Opaque,
            Want::Raw => {
                watch.raw(self.node, piece.get(start..at).unwrap_or_default());
                Scalar::Opaque
            }
            Want::Text(limit) => {
                let text = if self.spilled {
                    self.spill(rest);
                    self.scratch.as_slice()
                } else {
                    rest
                };
                match text.get(..limit) {
                    Some(head) if text.len() > limit => Scalar::Text { text: head, cut: true },
                    _ => Scalar::Text { text, cut: false },
                }
            }
        };
        if self.is_key {
            self.node = match (self.parent(), scalar) {
                (SKIP, _) => SKIP,
                (parent, Scalar::Text { text, .. }) => watch.member(parent, text),
                _ => SKIP,
            };
            self.state = State::Colon;
            return;
        }
        if self.node != SKIP {
            let end = self.offset + at as u64 + 1;
            watch.scalar(self.node, scalar, self.token_at..end);
        }
        self.end_value();
    }

    /// Reads on in a number from `start` and returns where it stopped: at the first byte behind it or at the end of `piece`.
    fn number<W: Watch>(
        &mut self,
        mut number: Number,
        piece: &[u8],
        start: usize,
        watch: &mut W,
    ) -> Result<usize, ScanError> {
        // The first byte of a token chose its state already.
        let begins = !self.spilled;
        if begins && let Some((whole, length)) = whole_number(piece.get(start..).unwrap_or_default()) {
            let token = piece.get(start..start + length).unwrap_or_default();
            self.end_number(whole, token, self.offset + (start + length) as u64, watch)?;
            return Ok(start + length);
        }
        let mut at = start + usize::from(begins);
        while let Some(&byte) = piece.get(at) {
            number = match (number, byte) {
                (Number::Integer, b'0'..=b'9') => Number::Integer,
                (Number::Fraction, b'0'..=b'9') => Number::Fraction,
                (Number::Point, b'0'..=b'9') => Number::Fraction,
                (Number::Minus, b'0') => Number::Zero,
                (Number::Minus, b'1'..=b'9') => Number::Integer,
                (Number::Zero | Number::Integer, b'.') => Number::Point,
                (Number::Zero | Number::Integer | Number::Fraction, b'e' | b'E') => Number::E,
                (Number::E, b'+' | b'-') => Number::Sign,
                (Number::E | Number::Sign, b'0'..=b'9') => Number::Exponent(1),
                (Number::Exponent(digits), b'0'..=b'9') => Number::Exponent(digits.saturating_add(1).min(3)),
                (Number::Zero, b'0'..=b'9') => return Err(self.malformed(at, "invalid number")),
                (Number::Minus | Number::Point | Number::E | Number::Sign, _) => {
                    return Err(self.malformed(at, "invalid number"));
                }
                (number, _) => {
                    let token = piece.get(start..at).unwrap_or_default();
                    let end = self.offset + at as u64;
                    self.end_number(number, token, end, watch)?;
                    return Ok(at);
                }
            };
            at += 1;
        }
        self.scratch.extend_from_slice(piece.get(start..).unwrap_or_default());
        self.spilled = true;
        self.state = State::Number(number);
        Ok(at)
    }

    /// Ends a number with its last bytes.
    fn end_number<W: Watch>(&mut self, number: Number, last: &[u8], end: u64, watch: &mut W) -> Result<(), ScanError> {
        let long_exponent = match number {
            Number::Zero | Number::Integer | Number::Fraction => false,
            Number::Exponent(digits) => digits > 2,
            Number::Minus | Number::Point | Number::E | Number::Sign => {
                return Err(ScanError::Malformed { offset: end, reason: "invalid number" });
            }
        };
        let token = if self.spilled {
            self.scratch.extend_from_slice(last);
            self.scratch.as_slice()
        } else {
            last
        };
        // What is out of range is for serde_json to say, whose rounding decides it.
        if (long_exponent || token.len() >= SURELY_FINITE_BYTES)
            && serde_json::from_slice::<serde_json::Value>(token).is_err()
        {
            return Err(ScanError::Malformed { offset: self.token_at, reason: "number out of range" });
        }
        if self.node != SKIP {
            watch.scalar(self.node, Scalar::Number(token), self.token_at..end);
        }
        self.end_value();
        Ok(())
    }

    fn literal<W: Watch>(
        &mut self,
        literal: Literal,
        mut read: usize,
        piece: &[u8],
        start: usize,
        watch: &mut W,
    ) -> Result<usize, ScanError> {
        let mut at = start;
        while let Some(expected) = literal.word().get(read) {
            match piece.get(at) {
                None => {
                    self.state = State::Literal(literal, read);
                    return Ok(at);
                }
                Some(byte) if byte == expected => {
                    read += 1;
                    at += 1;
                }
                Some(_) => return Err(self.malformed(at, "expected a value")),
            }
        }
        if self.node != SKIP {
            let end = self.offset + at as u64;
            watch.scalar(self.node, literal.scalar(), self.token_at..end);
        }
        self.end_value();
        Ok(at)
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
    text.is_ok() && scanner.state == State::Text && scanner.partial.len == 0
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

/// Byte classes: what can begin a sequence of several bytes inside a string, and what can be its second byte. A first and a
/// second byte belong together if they share a class.
const LETTER: u8 = 1;
const CONTINUED: u8 = 1 << 1;
const CONTINUED_HIGH: u8 = 1 << 2;
const CONTINUED_LOW: u8 = 1 << 3;
const CONTINUED_FROM_90: u8 = 1 << 4;
const CONTINUED_TO_8F: u8 = 1 << 5;
const HEX: u8 = 1 << 6;

/// The classes of a byte as the first of an escape or, after table 3-7 of the Unicode Standard, of a character.
#[allow(clippy::indexing_slicing, reason = "a constant that reached out of its bounds would not compile")]
const FIRST: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'\\' => LETTER,
            0xC2..=0xDF | 0xE1..=0xEC | 0xEE..=0xEF | 0xF1..=0xF3 => CONTINUED,
            0xE0 => CONTINUED_HIGH,
            0xED => CONTINUED_LOW,
            0xF0 => CONTINUED_FROM_90,
            0xF4 => CONTINUED_TO_8F,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

/// The classes of a byte as the second of an escape or of a character, and as a digit.
#[allow(clippy::indexing_slicing, reason = "a constant that reached out of its bounds would not compile")]
const SECOND: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'b' | b'f' => LETTER | HEX,
            b'"' | b'\\' | b'/' | b'n' | b'r' | b't' => LETTER,
            b'0'..=b'9' | b'A'..=b'F' | b'a' | b'c'..=b'e' => HEX,
            0x80..=0x8F => CONTINUED | CONTINUED_LOW | CONTINUED_TO_8F,
            0x90..=0x9F => CONTINUED | CONTINUED_LOW | CONTINUED_FROM_90,
            0xA0..=0xBF => CONTINUED | CONTINUED_HIGH | CONTINUED_FROM_90,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

/// The classes that `table` gives a byte.
fn class(table: &[u8; 256], byte: u8) -> u8 {
    table.get(usize::from(byte)).copied().unwrap_or_default()
}

/// The length of the character beyond ASCII or, with `ESCAPES`, of the escape at the start of `bytes`; 0 for anything else and
/// for escaped surrogates.
fn sequence<const ESCAPES: bool>(bytes: [u8; 4], behind: &[u8]) -> usize {
    let [first, second, third, fourth] = bytes;
    if !ESCAPES && first == b'\\' {
        return 0;
    }
    if class(&FIRST, first) & class(&SECOND, second) == 0 {
        let is_code = ESCAPES && first == b'\\' && second == b'u';
        return if is_code && is_lone_code(third, fourth, behind) { 6 } else { 0 };
    }
    let is_continued = |byte: u8| byte & 0xC0 == 0x80;
    match first {
        0xE0..=0xEF => 3 * usize::from(is_continued(third)),
        0xF0.. => 4 * usize::from(is_continued(third) && is_continued(fourth)),
        _ => 2,
    }
}

/// Whether two hexadecimal digits and the next two `behind` them are no surrogate.
fn is_lone_code(first: u8, second: u8, behind: &[u8]) -> bool {
    let [third, fourth, ..] = *behind else {
        return false;
    };
    let digits = class(&SECOND, first) & class(&SECOND, second) & class(&SECOND, third) & class(&SECOND, fourth) & HEX;
    let is_surrogate = first | 0x20 == b'd' && !matches!(second, b'0'..=b'7');
    digits != 0 && !is_surrogate
}

/// How many leading bytes are whole characters or, with `ESCAPES`, whole escapes inside a string. It may stop before one, and
/// does so before what the end of `bytes` cuts.
fn content_run<const ESCAPES: bool>(bytes: &[u8]) -> usize {
    let mut at = 0;
    // Most strings are short: a narrow window first, wide ones only once a run proves long.
    if let Some(window) = bytes.first_chunk::<16>() {
        match passed::<ESCAPES>(bytes, lane_hits(window), 16) {
            Ok(length) => at = length,
            Err(length) => return length,
        }
    }
    while let Some(rest) = bytes.get(at..)
        && let Some(window) = rest.first_chunk::<WIDE>()
    {
        match passed::<ESCAPES>(rest, wide_hits(window), WIDE) {
            Ok(length) => at += length,
            Err(length) => return at + length,
        }
    }
    while let Some(rest) = bytes.get(at..)
        && let Some(window) = rest.first_chunk::<16>()
    {
        match passed::<ESCAPES>(rest, lane_hits(window), 16) {
            Ok(length) => at += length,
            Err(length) => return at + length,
        }
    }
    at + word_run(bytes.get(at..).unwrap_or_default())
}

/// How many leading `bytes`, at least the `width` in which `hits` need attention, are whole sequences of a string; as an error,
/// the place of one that is not.
// In the loops over windows, a call would cost more than the rest of an iteration.
#[inline(always)]
fn passed<const ESCAPES: bool>(bytes: &[u8], mut hits: u64, width: usize) -> Result<usize, usize> {
    while hits != 0 {
        let place = hits.trailing_zeros() as usize;
        let length = match bytes.get(place..).and_then(<[u8]>::split_first_chunk) {
            Some((head, behind)) => sequence::<ESCAPES>(*head, behind),
            None => 0,
        };
        if length == 0 {
            return Err(place);
        }
        let end = place + length;
        if end >= width {
            return Ok(end);
        }
        hits &= u64::MAX << end;
    }
    Ok(width)
}

/// Bytes in a wide window, as many as a word has bits.
const WIDE: usize = 64;

/// One bit for each byte that needs attention inside a string: quotes, backslashes, control characters, all beyond ASCII.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
fn wide_hits(window: &[u8; WIDE]) -> u64 {
    let (lanes, _) = window.as_chunks::<16>();
    lanes.iter().rev().fold(0, |hits, lane| hits << 16 | lane_hits(lane))
}

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
fn lane_hits(lane: &[u8; 16]) -> u64 {
    use core::arch::wasm32::{i8x16_bitmask, i8x16_eq, i8x16_lt, i8x16_splat, u64x2, v128_or};

    let lane = u128::from_le_bytes(*lane);
    let lane = u64x2(lane as u64, (lane >> 64) as u64);
    let quotes = i8x16_eq(lane, i8x16_splat(b'"' as i8));
    let backslashes = i8x16_eq(lane, i8x16_splat(b'\\' as i8));
    // As a signed number, a byte beyond ASCII is below the space too.
    let outside = i8x16_lt(lane, i8x16_splat(0x20));
    u64::from(i8x16_bitmask(v128_or(v128_or(quotes, backslashes), outside)))
}

#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
fn wide_hits(window: &[u8; WIDE]) -> u64 {
    // The compiler turns this test into a few vector instructions, but not the search for the place.
    let is_hit = |byte: u8| (byte as i8) < 0x20 || byte == b'"' || byte == b'\\';
    if !window.iter().fold(false, |any, &byte| any | is_hit(byte)) {
        return 0;
    }
    let mut bits = [0; WIDE];
    for (index, (bit, &byte)) in bits.iter_mut().zip(window).enumerate() {
        *bit = if is_hit(byte) { 1 << (index % 8) } else { 0 };
    }
    let (words, _) = bits.as_chunks::<8>();
    words.iter().rev().fold(0, |hits, word| hits << 8 | u64::from_le_bytes(*word).wrapping_mul(ONES) >> 56)
}

#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
fn lane_hits(lane: &[u8; 16]) -> u64 {
    let lane = u128::from_le_bytes(*lane);
    word_hits((lane >> 64) as u64) << 8 | word_hits(lane as u64)
}

/// One bit for each byte of `word`, the lowest first, that needs attention inside a string.
fn word_hits(word: u64) -> u64 {
    // Sums of two numbers below 2^7 stay within their byte; their high bits tell plain bytes from others.
    let low = word & !HIGH_BITS;
    let not_control = low + ONES * 0x60;
    let not_quote = (low ^ (ONES * u64::from(b'"'))) + ONES * 0x7F;
    let not_backslash = (low ^ (ONES * u64::from(b'\\'))) + ONES * 0x7F;
    let hits = (word | !(not_control & not_quote & not_backslash)) & HIGH_BITS;
    // Moves bit 8 i to bit 56 + i.
    (hits >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// How many leading bytes need no attention.
fn word_run(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let hits = word_hits(u64::from_le_bytes(*word));
        if hits != 0 {
            return index * 8 + hits.trailing_zeros() as usize;
        }
    }
    let plain = |byte: &&u8| matches!(**byte, 0x20..0x80) && !matches!(**byte, b'"' | b'\\');
    words.len() * 8 + rest.iter().take_while(plain).count()
}

const ONES: u64 = u64::MAX / 255;
const HIGH_BITS: u64 = ONES << 7;

/// The state behind and the length of a number that `bytes` begin with, if it is well formed and ends before they do.
fn whole_number(bytes: &[u8]) -> Option<(Number, usize)> {
    let mut at = usize::from(bytes.first() == Some(&b'-'));
    let integer = digits(bytes.get(at..)?);
    if integer == 0 || (integer > 1 && bytes.get(at) == Some(&b'0')) {
        return None;
    }
    at += integer;
    let mut number = Number::Integer;
    if bytes.get(at) == Some(&b'.') {
        at += 1;
        let fraction = digits(bytes.get(at..)?);
        if fraction == 0 {
            return None;
        }
        at += fraction;
        number = Number::Fraction;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1;
        at += usize::from(matches!(bytes.get(at), Some(b'+' | b'-')));
        let exponent = digits(bytes.get(at..)?);
        if exponent == 0 {
            return None;
        }
        at += exponent;
        number = Number::Exponent(exponent.min(3) as u8);
    }
    (at < bytes.len()).then_some((number, at))
}

/// How many leading bytes are decimal digits.
fn digits(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // A digit's high half is 3, and stays 3 when 6 is added to its low half; that carries nothing to the byte above.
        let high = ONES * 0xF0;
        let misses = ((word & high) ^ (ONES * 0x30)) | ((word.wrapping_add(ONES * 6) & high) ^ (ONES * 0x30));
        if misses != 0 {
            return index * 8 + misses.trailing_zeros() as usize / 8;
        }
    }
    words.len() * 8 + rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
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
    fn a_run_ends_at_each_byte_that_matters_wherever_it_is() {
        for length in 0..200 {
            let mut bytes = vec![b'a'; length];
            assert_eq!(content_run::<true>(&bytes), length);
            for place in 0..length {
                for byte in [b'"', b'\\', 0x1F, 0, 0x80, 0xC3, 0xFF] {
                    bytes[place] = byte;
                    assert_eq!(content_run::<true>(&bytes), place);
                    assert_eq!(content_run::<false>(&bytes), place);
                }
                for byte in [b' ', b'!', b'#', b'[', b']', 0x7F] {
                    bytes[place] = byte;
                    assert_eq!(content_run::<true>(&bytes), length);
                }
                bytes[place] = b'a';
            }
        }
    }

    #[test]
    fn a_run_passes_characters_and_escapes_wherever_they_are() {
        for (sequence, is_escape) in
            [("é", false), ("漢", false), ("😀", false), ("\\n", true), ("\\\\", true), ("\\u00e9", true)]
        {
            for place in 0..150 {
                let head = "a".repeat(place);
                let text = format!("{head}{sequence}{sequence}{}", "b".repeat(100));
                assert_eq!(content_run::<true>(text.as_bytes()), text.len(), "{sequence} at {place}");
                assert_eq!(content_run::<false>(text.as_bytes()), if is_escape { place } else { text.len() });
                for end in place..text.len() {
                    let run = content_run::<true>(&text.as_bytes()[..end]);
                    assert!(run >= place && run <= end);
                    assert!(end > place + sequence.len() || run <= place + sequence.len());
                }
            }
        }
    }

    #[test]
    fn hits_are_all_bytes_that_matter_and_no_others() {
        let matters = |byte: u8| !(0x20..0x80).contains(&byte) || byte == b'"' || byte == b'\\';
        for byte in 0..=u8::MAX {
            for place in 0..WIDE {
                let mut window = [b'a'; WIDE];
                window[place] = byte;
                assert_eq!(wide_hits(&window), u64::from(matters(byte)) << place);
                // Beside hits on both sides.
                window.fill(b'"');
                window[place] = byte;
                let others = !(1_u64 << place);
                assert_eq!(wide_hits(&window), others | u64::from(matters(byte)) << place);
                let (lanes, _) = window.as_chunks::<16>();
                assert_eq!(lane_hits(&lanes[0]), wide_hits(&window) & 0xFFFF);
            }
        }
    }

    #[test]
    fn sequences_are_those_of_utf8() {
        for first in 0x80..=0xFF {
            for second in 0..=0xFF {
                for (third, fourth) in
                    [(0x80, 0x80), (0xBF, 0xBF), (0x7F, 0x80), (0x80, 0x7F), (0xC0, 0x80), (0x80, 0xC0), (b'a', b'a')]
                {
                    let bytes = [first, second, third, fourth];
                    let length = (2..=4).find(|&length| core::str::from_utf8(&bytes[..length]).is_ok());
                    assert_eq!(sequence::<true>(bytes, b"zz"), length.unwrap_or_default(), "{bytes:x?}");
                    assert_eq!(sequence::<false>(bytes, b"zz"), length.unwrap_or_default(), "{bytes:x?}");
                }
            }
        }
    }

    #[test]
    fn sequences_are_the_escapes_that_stand_alone() {
        let is_json = |escape: &[u8]| serde_json::from_slice::<String>(&[b"\"", escape, b"\""].concat()).is_ok();
        for second in (0..=0xFF).filter(|&second| second != b'u') {
            let bytes = [b'\\', second, b'a', b'a'];
            let length = if is_json(&bytes[..2]) { 2 } else { 0 };
            assert_eq!(sequence::<true>(bytes, b"zz"), length, "{bytes:x?}");
            assert_eq!(sequence::<false>(bytes, b"zz"), 0, "{bytes:x?}");
        }
        for first in 0..=0xFF {
            for second in 0..=0xFF {
                for behind in [b"00", b"fF", b"9g", b"G0"] {
                    let escape = [b"\\u".as_slice(), &[first, second], behind].concat();
                    let length = if is_json(&escape) { 6 } else { 0 };
                    assert_eq!(sequence::<true>([b'\\', b'u', first, second], behind), length, "{escape:x?}");
                }
            }
        }
        assert_eq!(sequence::<true>(*b"\\u00", b"0"), 0);
    }

    #[test]
    fn digits_end_at_each_other_byte_wherever_it_is() {
        for place in 0..20 {
            for byte in 0..=u8::MAX {
                let mut bytes = vec![b'7'; 20];
                bytes[place] = byte;
                assert_eq!(digits(&bytes), if byte.is_ascii_digit() { 20 } else { place }, "{byte} at {place}");
            }
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
