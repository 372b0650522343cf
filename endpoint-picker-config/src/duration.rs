//! Durations as Go writes them.

use endpoint_picker::go_duration::micros;

/// Milliseconds of a duration such as `200ms`, `1.5s` or `1m30s`, rounded; `None`: it is none, or negative.
pub(crate) fn millis(text: &str) -> Option<u64> {
    Some((micros(text.as_bytes())? + 500) / 1_000)
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
