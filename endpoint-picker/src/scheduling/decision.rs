//! What comes of a pick.

use crate::pool::EndpointId;

/// Longest ranked list. Envoy takes the next entry for each attempt, and more than two retries help nobody.
pub const MAX_RANKED: usize = 3;

/// What came of a pick.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decision {
    /// Endpoints to try in this order.
    Picked(Ranked, Reason),
    /// The pool has no endpoint that may take traffic.
    NoEndpoint,
}

/// What decided.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Reason {
    /// One endpoint had the highest score.
    BestScore,
    /// Several had it; chance decided between them.
    Tie,
    /// The random picker was asked for.
    Random,
    /// No endpoint had fresh load: the one with the fewest requests in flight was taken.
    InFlightOnly,
    /// Only one endpoint can answer: it made the response that is asked for.
    Pinned,
    /// Nothing was picked: Envoy's fallback policy chose.
    Fallback,
    /// The picked endpoint failed and a later entry of the list served.
    Retry,
}

impl Reason {
    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BestScore => "best_score",
            Self::Tie => "tie",
            Self::Random => "random",
            Self::InFlightOnly => "in_flight_only",
            Self::Pinned => "pinned",
            Self::Fallback => "fallback",
            Self::Retry => "retry",
        }
    }
}

/// One to [`MAX_RANKED`] entries, best first: endpoints that differ, or one endpoint that is to be tried each time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ranked {
    pub(super) first: EndpointId,
    pub(super) rest: [Option<EndpointId>; MAX_RANKED - 1],
}

impl Ranked {
    /// The endpoint that was picked.
    #[must_use]
    pub const fn first(&self) -> EndpointId {
        self.first
    }

    /// All of them, best first.
    pub fn iter(&self) -> impl Iterator<Item = EndpointId> {
        core::iter::once(self.first).chain(self.rest.into_iter().flatten())
    }
}
