//! Tokens of a scan, put together across pieces.

use super::numbers::{Number, OUT_OF_RANGE};
use super::scanner::{Literal, Scanner, State};
use super::strings::{Character, Escape, Escaped, character};
use super::watch::{SKIP, Scalar, ScanError, Want, Watch};

impl Scanner {
    /// Reads on in a string, whose part in `piece` begins at `start` and is plain up to `at`, and returns where it stopped: behind the closing
    /// quote or at the end of `piece`.
    pub(super) fn string<W: Watch>(
        &mut self,
        piece: &[u8],
        start: usize,
        mut at: usize,
        watch: &mut W,
    ) -> Result<usize, ScanError> {
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
            if !self.partial.is_empty() {
                at = self.join(piece, at)?;
                if at == piece.len() {
                    break;
                }
            }
            let rest = piece.get(at..).unwrap_or_default();
            at += self.want.run(rest);
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
        match character(piece.get(at..).unwrap_or_default()) {
            Character::Whole(length) => Ok(at + length),
            Character::Cut(partial) => {
                self.partial = partial;
                Ok(piece.len())
            }
            Character::Invalid => Err(ScanError::NotUtf8 { offset: self.offset + at as u64 }),
        }
    }

    /// Completes the character that the last piece cut.
    fn join(&mut self, piece: &[u8], start: usize) -> Result<usize, ScanError> {
        for (at, &byte) in piece.iter().enumerate().skip(start) {
            // The bytes of the character that earlier pieces held end where this one's begin.
            let begun = self.partial.len() as u64;
            match self.partial.push(byte) {
                Some(true) => return Ok(at + 1),
                Some(false) => {}
                None => {
                    return Err(ScanError::NotUtf8 { offset: (self.offset + at as u64).saturating_sub(begun) });
                }
            }
        }
        Ok(piece.len())
    }

    /// Reads on in an escape and returns where it stopped: behind the escape or at the end of `piece`.
    fn escape(&mut self, mut escape: Escape, piece: &[u8], start: usize) -> Result<usize, ScanError> {
        for (at, &byte) in piece.iter().enumerate().skip(start) {
            match escape.step(byte) {
                Ok(Escaped::Within(next)) => escape = next,
                Ok(Escaped::Whole(character)) => {
                    self.spill(character.encode_utf8(&mut [0; 4]).as_bytes());
                    self.state = State::Text;
                    return Ok(at + 1);
                }
                Err(reason) => return Err(self.malformed(at, reason)),
            }
        }
        self.state = State::Escape(escape);
        Ok(piece.len())
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
        let text = if self.spilled {
            self.spill(rest);
            self.scratch.as_slice()
        } else {
            rest
        };
        let scalar = self.want.scalar(self.node, piece.get(start..at).unwrap_or_default(), text, watch);
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
        self.state = self.behind();
    }

    /// Reads on in a number from `start` and returns where it stopped: at the first byte behind it or at the end of `piece`.
    pub(super) fn number<W: Watch>(
        &mut self,
        mut number: Number,
        piece: &[u8],
        start: usize,
        watch: &mut W,
    ) -> Result<usize, ScanError> {
        // The first byte of a token chose its state already.
        let mut at = start + usize::from(!self.spilled);
        while let Some(&byte) = piece.get(at) {
            match number.step(byte) {
                Ok(Some(next)) => number = next,
                Ok(None) => {
                    let token = piece.get(start..at).unwrap_or_default();
                    self.end_number(number, token, self.offset + at as u64, watch)?;
                    return Ok(at);
                }
                Err(reason) => return Err(self.malformed(at, reason)),
            }
            at += 1;
        }
        self.scratch.extend_from_slice(piece.get(start..).unwrap_or_default());
        self.spilled = true;
        self.state = State::Number(number);
        Ok(at)
    }

    /// Ends a number with its last bytes.
    pub(super) fn end_number<W: Watch>(
        &mut self,
        number: Number,
        last: &[u8],
        end: u64,
        watch: &mut W,
    ) -> Result<(), ScanError> {
        let token = if self.spilled {
            self.scratch.extend_from_slice(last);
            self.scratch.as_slice()
        } else {
            last
        };
        if !number.is_whole() {
            return Err(ScanError::Malformed { offset: end, reason: "invalid number" });
        }
        if !number.is_finite(token) {
            return Err(ScanError::Malformed { offset: self.token_at, reason: OUT_OF_RANGE });
        }
        if self.node != SKIP {
            watch.scalar(self.node, Scalar::Number(token), self.token_at..end);
        }
        self.state = self.behind();
        Ok(())
    }

    pub(super) fn literal<W: Watch>(
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
        self.state = self.behind();
        Ok(at)
    }
}
