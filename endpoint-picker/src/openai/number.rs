//! Whole numbers out of JSON tokens.

/// Whole numbers of a float are exact below this: 2^53.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The whole number, not negative, that `token` writes, also as a float without fraction (`8.0`, `1e3`).
pub(super) fn unsigned(token: &[u8]) -> Option<u64> {
    let text = core::str::from_utf8(token).ok()?;
    text.parse().ok().or_else(|| u64::try_from(from_float(text)?).ok())
}

/// The whole number that `token` writes, also as a float without fraction.
pub(super) fn signed(token: &[u8]) -> Option<i64> {
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
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

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
}
