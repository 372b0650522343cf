//! What became of a request in flow control.

use alloc::string::String;

use crate::time::Timestamp;

/// What became of a request that flow control looked at: exactly one of these.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum QueueOutcome {
    /// It went on, at once or after it had waited.
    Dispatched,
    /// It was refused: as many requests, or bytes, wait as may.
    RejectedCapacity,
    /// It was refused: no endpoint can take it.
    RejectedNoEndpoints,
    /// It was refused for another reason before it waited.
    RejectedOther,
    /// It waited for as long as a request may.
    EvictedTTL,
    /// It was refused: while it waited, the last endpoint that could take it left, fell asleep or became unready.
    EvictedNoEndpoints,
    /// Its client left while it waited.
    EvictedContextCancelled,
    /// It stopped waiting for another reason: the host refused something, or ended it.
    EvictedOther,
}

impl QueueOutcome {
    /// Every outcome.
    pub const ALL: [Self; 8] = [
        Self::Dispatched,
        Self::RejectedCapacity,
        Self::RejectedNoEndpoints,
        Self::RejectedOther,
        Self::EvictedTTL,
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
            Self::EvictedTTL => "EvictedTTL",
            Self::EvictedNoEndpoints => "EvictedNoEndpoints",
            Self::EvictedContextCancelled => "EvictedContextCancelled",
            Self::EvictedOther => "EvictedOther",
        }
    }
}

/// A request's time in flow control, complete once the request has its outcome.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Queued {
    /// The flow's name: what the fairness header says, else the model.
    pub fairness_id: String,
    /// The band's priority.
    pub priority: i64,
    /// When flow control was asked.
    pub enqueued_at: Timestamp,
    /// Microseconds that it took to have it wait, or to send or refuse it at once.
    pub enqueue_micros: u64,
    /// Microseconds from then to its outcome.
    pub waited_micros: u64,
    /// What became of it.
    pub outcome: QueueOutcome,
    /// Bytes of its body, as far as they are known.
    pub bytes: u64,
}

/// What waits in one flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FlowSize<'a> {
    /// The flow's name.
    pub fairness_id: &'a str,
    /// Its band's priority.
    pub priority: i64,
    /// Requests that wait.
    pub requests: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
}
