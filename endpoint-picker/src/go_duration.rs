//! Durations as Go writes them: numbers with a unit each, `1500ms`, `1.5s`, `1m30s`.

/// Microseconds of a duration, rounded down, of one that is not 0 at least 1; `None`: it is none, is negative or exceeds what Go can hold, 2^63 - 1 nanoseconds.
pub fn micros(text: &[u8]) -> Option<u64> {
    const MOST_NANOS: u128 = i64::MAX as u128;
    let text = core::str::from_utf8(text).ok()?;
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let (whole, behind) = digits(rest);
        let (fraction, behind) = behind.strip_prefix('.').map_or(("", behind), digits);
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let end = behind.find(|letter: char| letter == '.' || letter.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at_checked(end)?;
        let scale: u128 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
        nanos += u128::from(whole) * scale;
        let mut part = scale;
        for digit in fraction.bytes() {
            part /= 10;
            nanos += u128::from(digit - b'0') * part;
        }
        if nanos > MOST_NANOS {
            return None;
        }
        rest = behind;
    }
    u64::try_from((nanos / 1_000).max(nanos.min(1))).ok()
}

/// The digits that a text begins with, and what is behind them.
fn digits(text: &str) -> (&str, &str) {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::micros;

    #[test]
    fn durations_are_as_go_writes_them() {
        for (text, expected) in [
            ("1500ms", 1_500_000),
            ("1.5s", 1_500_000),
            (".5s", 500_000),
            ("1.s", 1_000_000),
            ("1m30s", 90_000_000),
            ("+2s", 2_000_000),
            ("0", 0),
            ("0s", 0),
            ("1h", 3_600_000_000),
            ("1500ns", 1),
            ("1ns", 1),
            ("0.9us", 1),
            ("0ns", 0),
            ("0.1ns", 0),
            ("20\u{b5}s", 20),
            ("0.000001000000000000000000000000001s", 1),
        ] {
            assert_eq!(micros(text.as_bytes()), Some(expected), "{text}");
        }
        for text in [
            "",
            "+",
            "200",
            "ms",
            "1x",
            "-1s",
            "1.2.3s",
            "1 s",
            " 1s",
            "s1",
            ".s",
            "1e3s",
            "2562048h",
            "99999999999999999999s",
        ] {
            assert_eq!(micros(text.as_bytes()), None, "{text}");
        }
        assert_eq!(micros(b"\xff1s"), None);
    }
}
