//! What a scenario shows to those who take part, in lines that can be compared.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Response headers that are Envoy's own or a connection's, by name.
const RESPONSE_HEADERS_NOT_COMPARED: &[&str] = &[
    // Envoy's connection manager writes these behind all filters.
    "date",
    "server",
    // These belong to one connection.
    "connection",
    "keep-alive",
    "transfer-encoding",
];

/// Request headers that the scenario itself needs, or that belong to a connection.
const REQUEST_HEADERS_NOT_COMPARED: &[&str] = &["x-script", "x-stream", "connection", "transfer-encoding"];

/// Parts of names of stats that tell of time, of chance, or of the whole process.
const STATS_NOT_COMPARED: &[&str] = &[
    "_seconds",
    "_microseconds",
    "running_requests",
    "in_flight_requests",
    "inpick_learned_",
    "inpick_signal_age_",
    "inpick_filter_time_",
    "inpick_ttft_ratio",
    "wasm.envoy.",
];

/// What one side of a stream got from the proxy.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Message {
    /// `:status`, or method and path.
    pub(crate) start: String,
    pub(crate) headers: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) progress: Progress,
}

/// How much of a message has come.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Progress {
    /// More is due.
    #[default]
    Unfinished,
    /// All of it.
    Whole,
    /// It broke off.
    Cut,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Stream {
    /// What the client got; nothing, if not even a head has come.
    pub(crate) response: Option<Message>,
    /// Nothing came, and the connection was closed.
    pub(crate) dropped: bool,
    /// What the upstream got, one for each attempt.
    pub(crate) attempts: Vec<Message>,
    /// `%RESPONSE_CODE_DETAILS%`, once the stream is over.
    pub(crate) details: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    pub(crate) streams: Vec<Stream>,
    /// What the guest has logged.
    pub(crate) said: Vec<String>,
    /// Counters and gauges of the guest, and Envoy's own about its VM.
    pub(crate) stats: BTreeMap<String, u64>,
    /// What was to be done and could not: a response of an upstream that was never asked, say.
    pub(crate) impossible: Vec<String>,
    /// How far things were after each step.
    pub(crate) milestones: Vec<Milestone>,
}

/// How far a scenario has come, by what can be counted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Milestone {
    /// What the guest has said.
    said: usize,
    /// Attempts that have reached the upstream, and responses that have reached the client.
    messages: usize,
    /// Bytes of bodies that have reached either.
    bytes: usize,
}

impl Milestone {
    pub(crate) fn of(streams: &[Stream], said: usize) -> Self {
        let messages = streams.iter().flat_map(|stream| stream.attempts.iter().chain(&stream.response));
        let bytes = messages.clone().map(|message| message.body.len()).sum();
        Self { said, messages: messages.count(), bytes }
    }

    /// Whether this is at least as far.
    pub(crate) const fn reaches(self, other: Self) -> bool {
        self.said >= other.said && self.messages >= other.messages && self.bytes >= other.bytes
    }
}

impl Observed {
    /// Whether the stat is compared. Envoy lists those about the VM before they count anything.
    pub(crate) fn compares(stat: &str, value: u64, scenario: &str) -> bool {
        let idle = value == 0 && stat.starts_with("wasm.");
        let own = stat.match_indices(scenario).any(|(at, _)| {
            // The name of another scenario may begin like this one's.
            let (before, after) = (&stat[..at], &stat[at + scenario.len()..]);
            let goes_on = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
            !before.ends_with(goes_on) && !after.starts_with(goes_on)
        });
        own && !idle && !STATS_NOT_COMPARED.iter().any(|part| stat.contains(part))
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (number, stream) in self.streams.iter().enumerate() {
            for (attempt, message) in stream.attempts.iter().enumerate() {
                message.tell(&format!("{number} upstream {attempt}"), REQUEST_HEADERS_NOT_COMPARED, &mut lines);
            }
            match &stream.response {
                Some(message) => message.tell(&format!("{number} client"), RESPONSE_HEADERS_NOT_COMPARED, &mut lines),
                None if stream.dropped => lines.push(format!("{number} client: no response, connection closed")),
                None => lines.push(format!("{number} client: nothing")),
            }
            lines.push(format!("{number} details: {}", stream.details.as_deref().unwrap_or("not over")));
        }
        lines.extend(self.said.iter().map(|line| format!("guest: {line}")));
        lines.extend(self.stats.iter().map(|(name, value)| format!("stat {name}: {value}")));
        lines.extend(self.impossible.iter().map(|what| format!("impossible: {what}")));
        self.with_named_addresses(lines)
    }

    /// Which of two equal endpoints is taken first is chance, so addresses are called by their rank.
    fn with_named_addresses(&self, mut lines: Vec<String>) -> Vec<String> {
        let first = self.streams.iter().flat_map(|stream| &stream.attempts).next();
        let ranked = first.and_then(|attempt| {
            let list = attempt.headers.iter().find(|(name, _)| name == b"x-gateway-destination-endpoint")?;
            Some(String::from_utf8_lossy(&list.1).into_owned())
        });
        let ranked: Vec<&str> = ranked.iter().flat_map(|list| list.split(',')).collect();
        for line in &mut lines {
            for (rank, address) in ranked.iter().enumerate() {
                *line = line.replace(address, &format!("[endpoint {rank}]"));
                if let Some((_, port)) = address.split_once(':') {
                    *line = line.replace(&format!("port={port};"), &format!("port=[{rank}];"));
                }
            }
        }
        // Stats are sorted by names that have just changed.
        let stats = lines.iter().position(|line| line.starts_with("stat ")).unwrap_or(lines.len());
        lines[stats..].sort();
        lines
    }
}

impl Message {
    fn tell(&self, who: &str, hidden: &[&str], lines: &mut Vec<String>) {
        lines.push(format!("{who}: {} ({:?})", self.start, self.progress));
        for (name, value) in &self.headers {
            if !hidden.iter().any(|hidden| hidden.as_bytes() == name) {
                lines.push(format!("{who}: {}: {}", name.escape_ascii(), value.escape_ascii()));
            }
        }
        if !self.body.is_empty() {
            lines.push(format!("{who}: body {} bytes \"{}\"", self.body.len(), self.body.escape_ascii()));
        }
        for (name, value) in &self.trailers {
            lines.push(format!("{who}: trailer {}: {}", name.escape_ascii(), value.escape_ascii()));
        }
    }
}

/// The lines of both with a sign in front of those that only one has; empty if they agree.
pub(crate) fn difference(simulated: &Observed, real: &Observed) -> String {
    let (left, right) = (simulated.lines(), real.lines());
    if left == right {
        return String::new();
    }
    // Longest common subsequence, by its table: observations are short.
    let mut table = vec![vec![0_usize; right.len() + 1]; left.len() + 1];
    for i in (0..left.len()).rev() {
        for j in (0..right.len()).rev() {
            table[i][j] =
                if left[i] == right[j] { table[i + 1][j + 1] + 1 } else { table[i + 1][j].max(table[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut text) = (0, 0, String::new());
    while i < left.len() || j < right.len() {
        let (sign, line) = if i < left.len() && j < right.len() && left[i] == right[j] {
            (i, j) = (i + 1, j + 1);
            (' ', &left[i - 1])
        } else if j == right.len() || (i < left.len() && table[i + 1][j] >= table[i][j + 1]) {
            i += 1;
            ('-', &left[i - 1])
        } else {
            j += 1;
            ('+', &right[j - 1])
        };
        writeln!(text, "{sign} {line}").unwrap();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_shows_what_each_side_has_alone() {
        let said = |lines: &[&str]| Observed {
            said: lines.iter().map(|line| (*line).to_owned()).collect(),
            ..Observed::default()
        };
        assert_eq!(difference(&said(&["a", "b"]), &said(&["a", "b"])), "");
        let text = difference(&said(&["a", "b", "d"]), &said(&["a", "c", "d"]));
        assert_eq!(text, "  guest: a\n- guest: b\n+ guest: c\n  guest: d\n");
    }
}
