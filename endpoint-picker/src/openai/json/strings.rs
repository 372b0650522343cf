//! Strings: escapes, characters, and runs of bytes that need no decoding.

use wide::i8x16;

/// How far an escape sequence has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Escape {
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

/// What one more byte makes of an escape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Escaped {
    /// It goes on.
    Within(Escape),
    /// It ended and stands for this character.
    Whole(char),
}

impl Escape {
    /// Takes the next byte; as an error, what is wrong with it.
    pub(super) fn step(self, byte: u8) -> Result<Escaped, &'static str> {
        let next = match self {
            Self::Letter => {
                let letter = match byte {
                    b'"' | b'\\' | b'/' => byte,
                    b'b' => 8,
                    b'f' => 12,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'u' => return Ok(Escaped::Within(Self::First { left: 4, code: 0 })),
                    _ => return Err("invalid escape"),
                };
                return Ok(Escaped::Whole(char::from(letter)));
            }
            Self::First { left, code } => {
                let code = code << 4 | hex(byte)?;
                match (left, code) {
                    (2.., _) => Self::First { left: left - 1, code },
                    (_, 0xD800..=0xDBFF) => Self::Backslash { lead: code },
                    (_, 0xDC00..=0xDFFF) => return Err("unpaired surrogate in an escape"),
                    _ => return Ok(Escaped::Whole(decoded(u32::from(code)))),
                }
            }
            Self::Backslash { lead } if byte == b'\\' => Self::U { lead },
            Self::U { lead } if byte == b'u' => Self::Second { lead, left: 4, code: 0 },
            Self::Backslash { .. } | Self::U { .. } => return Err("unpaired surrogate in an escape"),
            Self::Second { lead, left, code } => {
                let code = code << 4 | hex(byte)?;
                match (left, code) {
                    (2.., _) => Self::Second { lead, left: left - 1, code },
                    (_, 0xDC00..=0xDFFF) => {
                        let high = u32::from(lead - 0xD800) << 10;
                        let low = u32::from(code - 0xDC00);
                        return Ok(Escaped::Whole(decoded(0x1_0000 + high + low)));
                    }
                    _ => return Err("unpaired surrogate in an escape"),
                }
            }
        };
        Ok(Escaped::Within(next))
    }
}

fn hex(byte: u8) -> Result<u16, &'static str> {
    char::from(byte).to_digit(16).map(|digit| digit as u16).ok_or("invalid escape")
}

fn decoded(code: u32) -> char {
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The start of a character whose bytes were cut apart.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Partial {
    bytes: [u8; 4],
    len: usize,
}

impl Partial {
    fn new(start: &[u8]) -> Self {
        let mut partial = Self { len: start.len(), ..Self::default() };
        for (slot, byte) in partial.bytes.iter_mut().zip(start) {
            *slot = *byte;
        }
        partial
    }

    /// Forgets the character.
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes of it there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a byte, and says whether the character is now whole, and with that forgotten; `None`: no character begins so.
    pub(super) fn push(&mut self, byte: u8) -> Option<bool> {
        *self.bytes.get_mut(self.len)? = byte;
        match core::str::from_utf8(self.bytes.get(..=self.len)?) {
            Ok(_) => {
                self.len = 0;
                Some(true)
            }
            Err(error) if error.error_len().is_none() => {
                self.len += 1;
                Some(false)
            }
            Err(_) => None,
        }
    }
}

/// A character beyond ASCII at the start of bytes.
pub(super) enum Character {
    /// All of it, of so many bytes.
    Whole(usize),
    /// The end of the bytes cuts it.
    Cut(Partial),
    /// There is none.
    Invalid,
}

/// The character beyond ASCII that `bytes` begin with.
pub(super) fn character(bytes: &[u8]) -> Character {
    let length = bytes.first().map_or(0, |byte| byte.leading_ones() as usize);
    let start = bytes.get(..length).unwrap_or(bytes);
    match core::str::from_utf8(start) {
        Ok(_) => Character::Whole(start.len()),
        // Only the end of the bytes can cut a character that is as long as its first byte says.
        Err(error) if error.error_len().is_none() => Character::Cut(Partial::new(start)),
        Err(_) => Character::Invalid,
    }
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

/// The length of a string that ends within 16 bytes and has nothing but plain bytes before its closing quote. Most strings are such, names of
/// members above all.
pub(super) fn short_string(bytes: &[u8]) -> Option<usize> {
    let hits = lane_hits(bytes.first_chunk()?);
    // Of a number without hits, it is beyond the window.
    let place = hits.trailing_zeros() as usize;
    (hits != 0 && bytes.get(place) == Some(&b'"')).then_some(place)
}

/// How many leading bytes are whole characters or, with `ESCAPES`, whole escapes inside a string. It may stop before one, and
/// does so before what the end of `bytes` cuts.
pub(super) fn content_run<const ESCAPES: bool>(bytes: &[u8]) -> usize {
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

/// Exchanges the quote and the space, and keeps control characters below both. As a signed number, a byte beyond ASCII is below them too, so one
/// comparison finds all of these but the space.
const QUOTE_TO_SPACE: u8 = b'"' ^ b' ';
/// The first that is not found so.
const BEHIND_SPACE: i8 = b' ' as i8 + 1;

/// One bit for each byte that needs attention inside a string: quotes, backslashes, control characters, all beyond ASCII.
fn wide_hits(window: &[u8; WIDE]) -> u64 {
    let (lanes, _) = window.as_chunks::<16>();
    lanes.iter().rev().fold(0, |hits, lane| hits << 16 | lane_hits(lane))
}

fn lane_hits(lane: &[u8; 16]) -> u64 {
    let lane = i8x16::new(lane.map(|byte| byte as i8));
    let backslashes = lane.simd_eq(i8x16::splat(b'\\' as i8));
    let outside = (lane ^ i8x16::splat(QUOTE_TO_SPACE as i8)).simd_lt(i8x16::splat(BEHIND_SPACE));
    u64::from((backslashes | outside).to_bitmask())
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

#[cfg(test)]
mod tests {
    use std::{format, string::String, vec};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

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
    fn a_short_string_is_plain_and_ends_within_a_window() {
        for length in 0..100 {
            let mut bytes = vec![b'a'; length];
            bytes.push(b'"');
            bytes.resize(120, b'"');
            assert_eq!(short_string(&bytes), (length < 16).then_some(length));
            for place in 0..length {
                for byte in [b'\\', 0x1F, 0, 0x80, 0xC3, 0xFF] {
                    bytes[place] = byte;
                    assert_eq!(short_string(&bytes), None);
                }
                bytes[place] = b'a';
            }
            for end in 0..16 {
                assert_eq!(short_string(&bytes[..end]), None);
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
}
