//! What comes of a pick.

use crate::learning::Forecast;
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
    /// A picker by chance was asked for.
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

/// One to [`MAX_RANKED`] entries, best first: endpoints that differ, and where no others can take the request, these again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ranked {
    pub(super) first: Entry,
    pub(super) rest: [Option<Entry>; MAX_RANKED - 1],
}

/// An endpoint of a ranked list, and what is expected of the request there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The endpoint.
    pub id: EndpointId,
    /// What is expected.
    pub forecast: Forecast,
}

/// What the endpoints of a ranked list were rated by, in its order.
pub type Ratings = [Rating; MAX_RANKED];

/// What an endpoint of a ranked list was rated by.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Rating {
    /// Its score in millionths; [`i64::MAX`] for an endpoint that stands above all scores.
    pub score_millionths: i64,
    /// Microseconds by which the request and others would be later; `None`: no scorer asked.
    pub cost_micros: Option<u32>,
    /// Microseconds of the wait for a slot that are expected.
    pub wait_micros: u32,
    /// Requests of this proxy that it had in flight.
    pub in_flight: u32,
    /// Age of its figures in milliseconds; `None`: it has none.
    pub signal_age_ms: Option<u32>,
}

/// A list of one, of which nothing is expected.
impl From<EndpointId> for Ranked {
    fn from(id: EndpointId) -> Self {
        Self { first: Entry { id, forecast: Forecast::default() }, rest: [None; MAX_RANKED - 1] }
    }
}

impl Ranked {
    /// The endpoint that was picked.
    #[must_use]
    pub const fn first(&self) -> EndpointId {
        self.first.id
    }

    /// What is expected of the request at an endpoint of the list.
    #[must_use]
    pub fn forecast(&self, id: EndpointId) -> Option<Forecast> {
        self.entries().find(|entry| entry.id == id).map(|entry| entry.forecast)
    }

    /// Replaces what is expected of the request at an endpoint of the list.
    pub fn set_forecast(&mut self, id: EndpointId, forecast: Forecast) {
        self.entries_mut(id).for_each(|entry| entry.forecast = forecast);
    }

    /// Begins anew where the list ends, until it has `length` entries.
    pub(super) fn repeat(&mut self, length: usize) {
        let count = self.entries().count();
        for place in count..length {
            let again = self.entries().nth(place - count);
            if let Some(entry) = self.rest.get_mut(place - 1) {
                *entry = again;
            }
        }
    }

    /// Whether the endpoint that was picked stands in it more than once.
    #[must_use]
    pub fn is_repeated(&self) -> bool {
        self.rest.iter().flatten().any(|entry| entry.id == self.first.id)
    }

    fn entries_mut(&mut self, id: EndpointId) -> impl Iterator<Item = &mut Entry> {
        core::iter::once(&mut self.first).chain(self.rest.iter_mut().flatten()).filter(move |entry| entry.id == id)
    }

    /// All entries, best first.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        core::iter::once(self.first).chain(self.rest.into_iter().flatten())
    }

    /// All of them, best first.
    pub fn iter(&self) -> impl Iterator<Item = EndpointId> {
        self.entries().map(|entry| entry.id)
    }
}
