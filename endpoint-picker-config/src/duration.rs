//! Durations as Go writes them.

/// Milliseconds of a duration such as `200ms`, `1.5s` or `1m30s`, rounded; `None`: it is none, or negative.
pub(crate) fn millis(text: &str) -> Option<u64> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(0);
    }
    let mut millis = 0.0;
    while !rest.is_empty() {
        let (number, behind) = rest.split_at(rest.find(|letter: char| letter != '.' && !letter.is_ascii_digit())?);
        let (unit, behind) = behind
            .split_at(behind.find(|letter: char| letter == '.' || letter.is_ascii_digit()).unwrap_or(behind.len()));
        let scale = match unit {
            "ns" => 1e-6,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e-3,
            "ms" => 1.0,
            "s" => 1e3,
            "m" => 60e3,
            "h" => 3_600e3,
            _ => return None,
        };
        millis += number.parse::<f64>().ok()? * scale;
        rest = behind;
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative; a cast from a float saturates"
    )]
    (!text.is_empty()).then_some(millis.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::millis;

    #[test]
    fn durations_are_as_go_writes_them() {
        for (text, expected) in [
            ("200ms", 200),
            ("1.5s", 1_500),
            ("1m30s", 90_000),
            ("0", 0),
            ("0s", 0),
            ("1h", 3_600_000),
            ("1500us", 2),
            ("+2s", 2_000),
        ] {
            assert_eq!(millis(text), Some(expected), "{text}");
        }
        for text in ["", "200", "ms", "1x", "-1s", "1.2.3s", "1 s", "s1"] {
            assert_eq!(millis(text), None, "{text}");
        }
    }
}
