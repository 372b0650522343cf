//! What becomes of a request that flow control takes in, by the names that the endpoint picker's metrics have.

use alloc::string::String;

use crate::time::Timestamp;

/// What became of a request that flow control took in: exactly one of these.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum QueueOutcome {
    /// It was sent.
    Dispatched,
    /// There was no room in the queue.
    RejectedCapacity,
    /// There was no endpoint, and the configuration says not to wait for one.
    RejectedNoEndpoints,
    /// It was refused for another reason.
    RejectedOther,
    /// It waited for as long as a request may.
    EvictedTtl,
    /// It waited for as long as a request may, and at the end there was no endpoint.
    EvictedNoEndpoints,
    /// Its client left.
    EvictedContextCancelled,
    /// It left the queue for another reason.
    EvictedOther,
}

impl QueueOutcome {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Dispatched,
        Self::RejectedCapacity,
        Self::RejectedNoEndpoints,
        Self::RejectedOther,
        Self::EvictedTtl,
        Self::EvictedNoEndpoints,
        Self::EvictedContextCancelled,
        Self::EvictedOther,
    ];

    /// The label's value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Dispatched => "Dispatched",
            Self::RejectedCapacity => "RejectedCapacity",
            Self::RejectedNoEndpoints => "RejectedNoEndpoints",
            Self::RejectedOther => "RejectedOther",
            Self::EvictedTtl => "EvictedTTL",
            Self::EvictedNoEndpoints => "EvictedNoEndpoints",
            Self::EvictedContextCancelled => "EvictedContextCancelled",
            Self::EvictedOther => "EvictedOther",
        }
    }
}

/// What flow control did with a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Queued {
    /// The flow that it belonged to.
    pub fairness_id: String,
    /// The band.
    pub priority: i64,
    /// When it came to the queue.
    pub came: Timestamp,
    /// When it had its outcome.
    pub left: Timestamp,
    /// Bytes of its body.
    pub bytes: u64,
    /// Its end there.
    pub outcome: QueueOutcome,
}

impl Queued {
    /// Microseconds that it was there.
    #[must_use]
    pub const fn waited_micros(&self) -> u64 {
        self.left.micros_since(self.came)
    }
}
