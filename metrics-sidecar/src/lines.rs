//! Lines of a text that arrives in pieces. Pure.

/// Hands on whole lines, and keeps what has no end yet.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// Takes the next piece and calls `read` for each line that is whole now, without its end; `\r\n` ends a line too.
    pub(crate) fn feed(&mut self, piece: &[u8], mut read: impl FnMut(&[u8])) {
        let mut unread = piece;
        while let Some(end) = memchr::memchr(b'\n', unread) {
            let (line, rest) = unread.split_at(end);
            unread = rest.get(1..).unwrap_or_default();
            if self.begun.is_empty() {
                read(bare(line));
            } else {
                self.begun.extend_from_slice(line);
                read(bare(&self.begun));
                self.begun.clear();
            }
        }
        self.begun.extend_from_slice(unread);
    }

    /// The text is over: what stands behind the last end is a line too.
    pub(crate) fn finish(&mut self, mut read: impl FnMut(&[u8])) {
        if !self.begun.is_empty() {
            read(bare(&self.begun));
            self.begun.clear();
        }
    }
}

fn bare(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_however_the_text_is_cut() {
        let text = b"a 1\r\n\nbb 2\nccc";
        for size in 1..=text.len() {
            let mut lines = Lines::default();
            let mut seen: Vec<Vec<u8>> = Vec::new();
            for piece in text.chunks(size) {
                lines.feed(piece, |line| seen.push(line.to_vec()));
            }
            lines.finish(|line| seen.push(line.to_vec()));
            assert_eq!(seen, [b"a 1".as_slice(), b"", b"bb 2", b"ccc"], "pieces of {size}");
        }
    }
}
