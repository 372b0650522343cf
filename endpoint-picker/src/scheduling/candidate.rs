//! An endpoint that a pick may take.

use crate::pool::EndpointId;

/// An endpoint that may be picked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) id: EndpointId,
    /// It failed a moment ago, or is left out by right: behind all others, whatever its score.
    pub(super) is_last: bool,
    /// Bytes of the prompt, from its start, that the endpoint should have in its cache.
    pub(super) matched_bytes: u32,
    /// What it has of the adapter that is asked for.
    pub(super) adapter: AdapterState,
    /// The adapter that is asked for is in use nowhere, and this is where everybody places it.
    pub(super) is_adapter_home: bool,
}

impl Candidate {
    /// An endpoint of which nothing is known but that it may be picked.
    pub(super) const fn new(id: EndpointId, is_last: bool) -> Self {
        Self { id, is_last, matched_bytes: 0, adapter: AdapterState::NotAsked, is_adapter_home: false }
    }
}

/// What an endpoint has of the adapter that a request asks for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum AdapterState {
    /// The request asks for no adapter.
    #[default]
    NotAsked,
    /// It has requests of it in its batch.
    Running,
    /// It has requests of it in its queue only.
    Waiting {
        /// Fewer adapters are running or waiting there than it can hold at once.
        has_room: bool,
    },
    /// It has none.
    Absent {
        /// Fewer adapters are running or waiting there than it can hold at once.
        has_room: bool,
    },
}
