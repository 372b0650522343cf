//! How scrapes end and how long they take.

use std::time::Duration;

/// Upper bounds of the scrape duration's buckets in seconds, as `le` shows them: from a loopback response to the default timeout.
pub const DURATION_LE: [&str; 14] =
    ["0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10"];

const DURATION_LIMITS_MICROSECONDS: [u128; 14] = [
    500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];

/// How a scrape ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Outcome {
    /// A page was read.
    Success,
    /// No connection.
    Connect,
    /// The connection broke, or the response was not HTTP.
    Protocol,
    /// No complete response in time.
    Timeout,
    /// A status other than 200.
    Status,
    /// A redirect that is not followed: to another host, or the second in a row.
    Redirect,
    /// A page above the size limit.
    TooLarge,
    /// A page that is not metrics, or with a wanted line that cannot be read.
    Malformed,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 8] = [
        Self::Success,
        Self::Connect,
        Self::Protocol,
        Self::Timeout,
        Self::Status,
        Self::Redirect,
        Self::TooLarge,
        Self::Malformed,
    ];

    /// Its value of the label `outcome`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Connect => "connect",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::Redirect => "redirect",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
        }
    }
}

/// Scrape durations of one pool. Buckets are not cumulative; the page adds them up.
#[derive(Clone, Debug, Default)]
pub struct Durations {
    /// One a bound of [`DURATION_LE`], and one for all above.
    pub buckets: [u64; DURATION_LE.len() + 1],
    /// Sum in microseconds.
    pub sum_microseconds: u128,
}

impl Durations {
    /// Counts one scrape.
    pub fn record(&mut self, took: Duration) {
        let micros = took.as_micros();
        let bucket = DURATION_LIMITS_MICROSECONDS.partition_point(|limit| *limit < micros);
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count += 1;
        }
        self.sum_microseconds += micros;
    }
}
