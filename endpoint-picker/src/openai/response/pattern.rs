//! The text that servers repeat around each piece of content.

use alloc::vec::Vec;
use core::ops::Range;

use crate::openai::json::is_string_content;

/// Longest event remembered as the pattern of those that follow. Ordinary events are below 1 KiB.
const MAX_PATTERN_BYTES: usize = 4096;

/// What surrounds the content of an event that bears content and nothing else.
///
/// Servers repeat the same text around each piece of content. A later event of the same name with the same bytes before and
/// behind a valid, non-empty string is the same JSON with other content, so nothing else can be in it and it need not be
/// scanned.
#[derive(Clone, Debug, Default)]
pub(super) struct Pattern {
    name: Vec<u8>,
    /// Up to the opening quote of the content, included; empty when nothing is learnt.
    head: Vec<u8>,
    /// From the closing quote on.
    tail: Vec<u8>,
}

impl Pattern {
    /// Whether an event is of the pattern.
    pub(super) fn matches(&self, name: &[u8], data: &[u8]) -> bool {
        if self.head.is_empty() || self.name != name {
            return false;
        }
        let content =
            data.strip_prefix(self.head.as_slice()).and_then(|behind| behind.strip_suffix(self.tail.as_slice()));
        match content {
            None | Some([]) => false,
            Some(content) => is_string_content(content),
        }
    }

    /// Takes an event whose only content lies at `content`, quotes included, as the pattern.
    pub(super) fn learn(&mut self, name: &[u8], data: &[u8], content: Option<Range<usize>>) {
        let Some(content) = content else { return };
        if data.len() > MAX_PATTERN_BYTES {
            return;
        }
        let quote_end = content.start + 1;
        let quote_start = content.end.saturating_sub(1);
        if let (Some(head), Some(tail)) = (data.get(..quote_end), data.get(quote_start..)) {
            for (kept, new) in [(&mut self.name, name), (&mut self.head, head), (&mut self.tail, tail)] {
                kept.clear();
                kept.extend_from_slice(new);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn a_pattern_needs_the_same_text_around_other_content() {
        let mut pattern = Pattern::default();
        assert!(!pattern.matches(b"", b"{\"a\":\"x\"}"));
        pattern.learn(b"", b"{\"a\":\"x\"}", Some(5..8));
        for (data, matches) in [
            ("{\"a\":\"x\"}", true),
            ("{\"a\":\"other \\\" text\"}", true),
            ("{\"a\":\"\"}", false),
            ("{\"a\":\"}", false),
            ("{\"a\":\"x\",\"b\":\"y\"}", false),
            ("{\"a\":\"x\\\"}", false),
            ("{\"b\":\"x\"}", false),
            ("{\"a\":\"x\"} ", false),
        ] {
            assert_eq!(pattern.matches(b"", data.as_bytes()), matches, "{data}");
        }
        assert!(!pattern.matches(b"error", b"{\"a\":\"x\"}"));
    }
}
