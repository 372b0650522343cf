//! Durations as flags spell them. Pure.

use std::time::Duration;

/// A number above zero with `ms`, `s` or `m`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().position(|byte| !(byte.is_ascii_digit() || byte == b'.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    let number = number.parse::<f64>().ok()?;
    Duration::try_from_secs_f64(number * seconds).ok().filter(|duration| !duration.is_zero())
}
