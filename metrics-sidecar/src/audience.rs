//! Whether somebody watches the live page, and what those who watch are shown of recent picks. Pure: time comes in as an argument, as the
//! duration since the process started.

use std::collections::VecDeque;
use std::time::Duration;

use serde::de::IgnoredAny;

/// Picks that are kept for whoever comes next.
pub(crate) const MAX_PICKS: usize = 200;
/// Longest text of a pick in bytes: a request id, a model and some endpoints with their figures. A longer one is left out.
const MAX_PICK_BYTES: usize = 8 * 1024;
/// Largest report of picks that is read, bytes.
pub(crate) const MAX_REPORT_BYTES: usize = 256 * 1024;
/// How long whoever was shown something counts as watching: two events that were missed and one that is under way.
const WATCHES_FOR: Duration = Duration::from_secs(4);

/// Those who watch, and what the filters tell for them.
#[derive(Debug, Default)]
pub(crate) struct Audience {
    watches_until: Option<Duration>,
    picks: VecDeque<Pick>,
    reported: u64,
}

/// A pick as the filter explained it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Pick {
    /// Counts all that were ever reported, from 1.
    pub(crate) number: u64,
    /// When it was reported, in milliseconds since the Unix epoch.
    pub(crate) at_ms: u64,
    /// A JSON object in one line.
    pub(crate) text: Box<str>,
}

impl Audience {
    /// Somebody was shown the present state.
    pub(crate) fn watch(&mut self, now: Duration) {
        self.watches_until = Some(now + WATCHES_FOR);
    }

    /// Whether somebody watches.
    pub(crate) fn is_there(&self, now: Duration) -> bool {
        self.watches_until.is_some_and(|until| now < until)
    }

    /// Takes what a filter reports: a JSON object a line. Lines that are none are left out, and all of it while nobody watches.
    pub(crate) fn report(&mut self, lines: &[u8], now: Duration, wall_ms: u64) {
        if !self.is_there(now) || lines.len() > MAX_REPORT_BYTES {
            return;
        }
        for line in lines.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| is_pick(line)) {
            let Ok(text) = str::from_utf8(line) else { continue };
            self.reported += 1;
            self.picks.push_back(Pick { number: self.reported, at_ms: wall_ms, text: text.into() });
        }
        let beyond = self.picks.len().saturating_sub(MAX_PICKS);
        self.picks.drain(..beyond);
    }

    /// The picks after that number, the oldest first.
    pub(crate) fn picks_after(&self, number: u64) -> impl Iterator<Item = &Pick> {
        self.picks.iter().skip_while(move |pick| pick.number <= number)
    }
}

/// One line with one JSON object; a carriage return in it would end a line of an event.
fn is_pick(line: &[u8]) -> bool {
    line.len() <= MAX_PICK_BYTES
        && line.starts_with(b"{")
        && !line.contains(&b'\r')
        && serde_json::from_slice::<IgnoredAny>(line).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn texts(audience: &Audience, after: u64) -> Vec<(u64, &str)> {
        audience.picks_after(after).map(|pick| (pick.number, &*pick.text)).collect()
    }

    #[test]
    fn nothing_is_taken_while_nobody_watches() {
        let mut audience = Audience::default();
        audience.report(b"{}", at(0), 7);
        assert_eq!((audience.is_there(at(0)), texts(&audience, 0)), (false, vec![]));
        audience.watch(at(1_000));
        audience.report(b"{\"a\":1}\n{\"a\":2}\n", at(4_999), 7);
        audience.report(b"{\"a\":3}", at(5_000), 7);
        assert_eq!(texts(&audience, 0), [(1, r#"{"a":1}"#), (2, r#"{"a":2}"#)]);
        assert_eq!(texts(&audience, 1), [(2, r#"{"a":2}"#)]);
    }

    #[test]
    fn what_is_no_object_in_one_line_is_left_out() {
        let mut audience = Audience::default();
        audience.watch(at(0));
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_PICK_BYTES));
        for line in ["", "3", "[]", "{", "{}{}", "{\"a\":\r1}", "{\"a\":\"\u{1}\"}", long.as_str()] {
            audience.report(line.as_bytes(), at(0), 7);
        }
        audience.report(b"{\"a\":\"\xff\"}", at(0), 7);
        audience.report(&vec![b'\n'; MAX_REPORT_BYTES + 1], at(0), 7);
        assert_eq!(texts(&audience, 0), []);
        audience.report(b"nonsense\r\n{\"a\":\"<script>\"}\r\n", at(0), 7);
        assert_eq!(texts(&audience, 0), [(1, r#"{"a":"<script>"}"#)]);
    }

    #[test]
    fn the_newest_are_kept() {
        let mut audience = Audience::default();
        audience.watch(at(0));
        for _ in 0..MAX_PICKS + 5 {
            audience.report(b"{}", at(0), 7);
        }
        let numbers: Vec<u64> = audience.picks_after(0).map(|pick| pick.number).collect();
        assert_eq!(
            (numbers.len(), numbers.first(), numbers.last()),
            (MAX_PICKS, Some(&6), Some(&(MAX_PICKS as u64 + 5)))
        );
    }
}
