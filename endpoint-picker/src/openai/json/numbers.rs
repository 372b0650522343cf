//! Numbers: what is one, and whole ones out of tokens.

/// A number this short without a long exponent is finite whatever its digits: below 10^(199 + 99).
const SURELY_FINITE_BYTES: usize = 200;

/// What is wrong with a number that is not finite.
pub(super) const OUT_OF_RANGE: &str = "number out of range";

/// Whole numbers of a float are exact below this: 2^53.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// How far a number has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
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

impl Number {
    /// The state behind the first byte of a number, a digit or `-`.
    pub(super) fn from_first(byte: u8) -> Self {
        match byte {
            b'-' => Self::Minus,
            b'0' => Self::Zero,
            _ => Self::Integer,
        }
    }

    /// The state behind one more byte, or `None` if the number ended before it; as an error, what is wrong with the byte.
    pub(super) fn step(self, byte: u8) -> Result<Option<Self>, &'static str> {
        let next = match (self, byte) {
            (Self::Integer, b'0'..=b'9') => Self::Integer,
            (Self::Fraction | Self::Point, b'0'..=b'9') => Self::Fraction,
            (Self::Minus, b'0') => Self::Zero,
            (Self::Minus, b'1'..=b'9') => Self::Integer,
            (Self::Zero | Self::Integer, b'.') => Self::Point,
            (Self::Zero | Self::Integer | Self::Fraction, b'e' | b'E') => Self::E,
            (Self::E, b'+' | b'-') => Self::Sign,
            (Self::E | Self::Sign, b'0'..=b'9') => Self::Exponent(1),
            (Self::Exponent(digits), b'0'..=b'9') => Self::Exponent(digits.saturating_add(1).min(3)),
            (Self::Zero, b'0'..=b'9') | (Self::Minus | Self::Point | Self::E | Self::Sign, _) => {
                return Err("invalid number");
            }
            _ => return Ok(None),
        };
        Ok(Some(next))
    }

    /// Whether the number may end here.
    pub(super) fn is_whole(self) -> bool {
        matches!(self, Self::Zero | Self::Integer | Self::Fraction | Self::Exponent(_))
    }

    /// Whether `token`, which ends in this state, is within the range of a double.
    pub(super) fn is_finite(self, token: &[u8]) -> bool {
        let is_surely = !matches!(self, Self::Exponent(3..)) && token.len() < SURELY_FINITE_BYTES;
        // What is out of range is for serde_json to say, whose rounding decides it.
        is_surely || serde_json::from_slice::<serde_json::Value>(token).is_ok()
    }
}

/// The state behind and the length of a number that `bytes` begin with, if it is well formed and ends before they do.
pub(super) fn whole_number(bytes: &[u8]) -> Option<(Number, usize)> {
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

/// One in each byte of a word.
const ONES: u64 = u64::MAX / 255;

/// The whole number, not negative, that `token` writes, also as a float without fraction (`8.0`, `1e3`).
pub(in crate::openai) fn unsigned(token: &[u8]) -> Option<u64> {
    let text = core::str::from_utf8(token).ok()?;
    text.parse().ok().or_else(|| u64::try_from(from_float(text)?).ok())
}

/// The whole number that `token` writes, also as a float without fraction.
pub(in crate::openai) fn signed(token: &[u8]) -> Option<i64> {
    let text = core::str::from_utf8(token).ok()?;
    text.parse().ok().or_else(|| from_float(text))
}

fn from_float(text: &str) -> Option<i64> {
    let value: f64 = text.parse().ok()?;
    let whole = value as i64;
    (value.abs() < EXACT && whole as f64 == value).then_some(whole)
}

#[cfg(test)]
mod tests {
    use std::vec;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn floats_without_fraction_are_whole_numbers() {
        assert_eq!(unsigned(b"16"), Some(16));
        assert_eq!(unsigned(b"16.0"), Some(16));
        assert_eq!(unsigned(b"1e3"), Some(1000));
        assert_eq!(unsigned(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(signed(b"-3"), Some(-3));
        assert_eq!(signed(b"-3.0"), Some(-3));
    }

    #[test]
    fn everything_else_is_no_whole_number() {
        for token in ["", "x", "1.5", "1e300", "NaN", "inf", "-1", "18446744073709551616"] {
            assert_eq!(unsigned(token.as_bytes()), None, "{token}");
        }
        assert_eq!(signed(b"9223372036854775808"), None);
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
}
