//! Takes out of a stream the event that reports usage and nothing else.

use alloc::vec::Vec;

use memchr::memmem;

use super::event::Event;
use crate::openai::json::Scanner;

/// Most bytes that are held back until it is known what event they are of. An event of usage is below 1 KiB.
const MAX_HELD_BYTES: usize = 16 * 1024;

const BYTE_ORDER_MARK: &[u8] = &[0xEF, 0xBB, 0xBF];

/// Takes out of a stream of chat or completion chunks the event that reports usage behind all choices, with an empty list of them, `null` or
/// none: its lines and the empty line that ends it. Every other byte passes: other events, comments (also within that event), and usage that
/// stands beside choices.
///
/// Where pieces are cut makes no difference to what passes. What of an event came without its end is held back, up to 16 KiB: no client
/// makes anything of it before its end comes. A line of comment with nothing of an event before it passes as soon as it is whole.
#[derive(Clone, Debug, Default)]
pub struct UsageEventRemover {
    /// The beginning of an event.
    held: Vec<u8>,
    /// How much of it was searched for the event's end.
    searched: usize,
    line: Line,
    /// A line of the event has ended.
    has_lines: bool,
    /// The event, or the comment before it, is too big to be held, and passes.
    is_passing: bool,
    /// What passes is a comment.
    is_comment: bool,
    /// Something has passed before: the next event is not the stream's beginning.
    is_begun: bool,
    /// What passed or was removed last ended with a CR, and a LF that comes next belongs to it.
    open_end: Option<Fate>,
}

/// Where in a line the search stands.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Line {
    /// At its start.
    #[default]
    Start,
    /// At its start, behind a CR: a LF would belong to the line before.
    AfterCr,
    /// In it.
    Within,
}

/// What ends where the search stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Part {
    /// A line of comment before an event.
    Comment,
    Event,
}

/// What becomes of an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    Passed,
    Removed,
}

impl UsageEventRemover {
    /// Takes the next piece of the stream and adds what passes to `passed`. True: that is not just the piece.
    pub fn feed(&mut self, piece: &[u8], passed: &mut Vec<u8>) -> bool {
        let before = passed.len();
        let mut piece_left = piece;
        if let (Some(fate), Some((first, rest))) = (self.open_end, piece.split_first()) {
            self.open_end = None;
            if *first == b'\n' {
                piece_left = rest;
                if fate == Fate::Passed {
                    passed.push(b'\n');
                }
            }
        }
        let had_held = !self.held.is_empty();
        self.held.extend_from_slice(piece_left);
        let mut held = core::mem::take(&mut self.held);
        let mut start = 0;
        while let Some((part, end)) = self.find_end(&held, start) {
            let event = held.get(start..end).unwrap_or_default();
            let is_passing = core::mem::take(&mut self.is_passing);
            let is_removed = part == Part::Event && !is_passing && self.is_usage(event);
            if is_removed {
                self.keep_rest(event, passed);
            } else {
                passed.extend_from_slice(event);
            }
            let fate = if is_removed { Fate::Removed } else { Fate::Passed };
            // The search went on behind a CR; a LF there is the same line's.
            self.open_end = (held.get(end - 1) == Some(&b'\r') && held.len() == end).then_some(fate);
            self.is_begun = true;
            self.line = Line::Start;
            self.has_lines = false;
            start = end;
        }
        held.drain(..start);
        self.searched = held.len();
        if !self.is_passing && held.len() > MAX_HELD_BYTES {
            self.is_passing = true;
            self.is_comment = self.is_comment(&held);
        }
        if self.is_passing {
            passed.append(&mut held);
            self.searched = 0;
        }
        self.held = held;
        had_held || passed.get(before..) != Some(piece)
    }

    /// Whether anything is held back.
    #[must_use]
    pub const fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Gives what is held back.
    #[must_use]
    pub fn release(self) -> Vec<u8> {
        self.held
    }

    /// The stream is over: adds what passes of an event that its end cut.
    pub fn finish(&mut self, passed: &mut Vec<u8>) -> bool {
        let held = core::mem::take(&mut self.held);
        if !self.is_passing && self.is_usage(&held) {
            self.keep_rest(&held, passed);
        } else {
            passed.extend_from_slice(&held);
        }
        !held.is_empty()
    }

    /// Searches on for the end of the event that is held from `start` on, behind its empty line, or of a comment before it.
    fn find_end(&mut self, held: &[u8], start: usize) -> Option<(Part, usize)> {
        loop {
            let rest = held.get(self.searched..).unwrap_or_default();
            let first = *rest.first()?;
            if self.line == Line::Within {
                let Some(at) = memchr::memchr2(b'\n', b'\r', rest) else {
                    self.searched = held.len();
                    return None;
                };
                let ended_by_cr = rest.get(at) == Some(&b'\r');
                self.searched += at + 1;
                let is_comment = if self.is_passing {
                    self.is_comment
                } else {
                    self.is_comment(held.get(start..).unwrap_or_default())
                };
                if is_comment {
                    self.searched += usize::from(ended_by_cr && held.get(self.searched) == Some(&b'\n'));
                    return Some((Part::Comment, self.searched));
                }
                self.has_lines = true;
                self.line = if ended_by_cr { Line::AfterCr } else { Line::Start };
                continue;
            }
            self.searched += 1;
            match (core::mem::replace(&mut self.line, Line::Within), first) {
                (Line::AfterCr, b'\n') => self.line = Line::Start,
                (_, b'\n') => return Some((Part::Event, self.searched)),
                (_, b'\r') => {
                    self.searched += usize::from(held.get(self.searched) == Some(&b'\n'));
                    return Some((Part::Event, self.searched));
                }
                _ => {}
            }
        }
    }

    /// Whether an event reports usage behind all choices and nothing else.
    fn is_usage(&self, event: &[u8]) -> bool {
        // A LF behind a CR may come later, and must make no difference.
        let length = event.len() - usize::from(event.ends_with(b"\r\n"));
        if length > MAX_HELD_BYTES || memmem::find(event, b"usage").is_none() {
            return false;
        }
        let (mut data, mut name) = (Vec::with_capacity(event.len()), b"".as_slice());
        for line in lines(self.behind_mark(event)) {
            if let Some(value) = content(line).strip_prefix(b"data:") {
                if !data.is_empty() {
                    data.push(b'\n');
                }
                data.extend_from_slice(value);
            } else if let Some(value) = content(line).strip_prefix(b"event:") {
                name = value.trim_ascii();
            }
        }
        let (mut scanner, mut event) = (Scanner::new(), Event::default());
        let is_json = scanner.feed(&data, &mut event).and_then(|()| scanner.finish(&mut event)).is_ok();
        is_json && event.is_usage_alone() && event.error(name).is_none()
    }

    /// What passes of an event that does not: comments, and the mark that a stream may begin with.
    fn keep_rest(&self, event: &[u8], passed: &mut Vec<u8>) {
        let lines_at = self.behind_mark(event);
        passed.extend_from_slice(event.get(..event.len() - lines_at.len()).unwrap_or_default());
        lines(lines_at).filter(|line| line.starts_with(b":")).for_each(|line| passed.extend_from_slice(line));
    }

    /// Whether what an event begins with, or what stands before it, is a comment.
    fn is_comment(&self, beginning: &[u8]) -> bool {
        !self.has_lines && self.behind_mark(beginning).starts_with(b":")
    }

    fn behind_mark<'a>(&self, event: &'a [u8]) -> &'a [u8] {
        if self.is_begun { event } else { event.strip_prefix(BYTE_ORDER_MARK).unwrap_or(event) }
    }
}

/// The lines of a text, each with what ends it.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    core::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memchr::memchr2(b'\n', b'\r', rest).map_or(rest.len(), |at| {
            let is_pair = rest.get(at..).is_some_and(|end| end.starts_with(b"\r\n"));
            at + if is_pair { 2 } else { 1 }
        });
        let (line, behind) = rest.split_at(end);
        rest = behind;
        Some(line)
    })
}

/// A line without what ends it.
fn content(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |last| last + 1);
    line.get(..end).unwrap_or_default()
}
