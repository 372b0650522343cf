//! The page, line by line, into metrics. Pure.

use opentelemetry_proto::tonic::metrics::v1::Metric;

use super::family::PageFamily;
use super::starts::StreamStarts;
use crate::exposition::split_name;
use crate::lines::Lines;

/// Reads a page as it is printed and hands each family on once all of it was read, so that no more than one is in memory as messages.
#[derive(Debug)]
pub(crate) struct PageConverter<'a> {
    starts: &'a mut StreamStarts,
    time: u64,
    lines: Lines,
    family: Option<PageFamily>,
    unreadable: u64,
}

impl<'a> PageConverter<'a> {
    /// A converter of a page that was read at `time`, nanoseconds since the Unix epoch.
    pub(crate) fn new(time: u64, starts: &'a mut StreamStarts) -> Self {
        Self { starts, time, lines: Lines::default(), family: None, unreadable: 0 }
    }

    /// Takes the next bytes; calls `take` with each metric that is whole now.
    pub(crate) fn feed(&mut self, bytes: &[u8], mut take: impl FnMut(Metric)) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.feed(bytes, |line| self.line(line, &mut take));
        self.lines = lines;
    }

    /// No more bytes come. Returns how many samples could not be read.
    pub(crate) fn finish(mut self, mut take: impl FnMut(Metric)) -> u64 {
        let mut lines = std::mem::take(&mut self.lines);
        lines.finish(|line| self.line(line, &mut take));
        self.close(&mut take);
        self.unreadable
    }

    fn line(&mut self, line: &[u8], take: &mut impl FnMut(Metric)) {
        let Ok(text) = str::from_utf8(line) else {
            self.unreadable += 1;
            return;
        };
        if let Some(header) = text.strip_prefix("# HELP ") {
            let (name, help) = header.split_once(' ').unwrap_or((header, ""));
            self.open(name, take).describe(help);
        } else if let Some(header) = text.strip_prefix("# TYPE ") {
            let (name, kind) = header.split_once(' ').unwrap_or((header, ""));
            self.open(name, take).set_kind(kind.trim());
        } else if !text.is_empty() && !text.starts_with('#') {
            let (name, rest) = split_name(line);
            let name = str::from_utf8(name).unwrap_or_default();
            if !self.family.as_mut().is_some_and(|family| family.add(name, rest)) {
                self.open(name, take).add(name, rest);
            }
        }
    }

    /// The family of that name; the one before it is whole.
    fn open(&mut self, name: &str, take: &mut impl FnMut(Metric)) -> &mut PageFamily {
        if self.family.as_ref().is_none_or(|family| family.name() != name) {
            self.close(take);
        }
        self.family.get_or_insert_with(|| PageFamily::new(name))
    }

    fn close(&mut self, take: &mut impl FnMut(Metric)) {
        if let Some(family) = self.family.take() {
            let (metric, unreadable) = family.finish(self.time, self.starts);
            self.unreadable += unreadable;
            if let Some(metric) = metric {
                take(metric);
            }
        }
    }
}

#[cfg(test)]
mod tests;
