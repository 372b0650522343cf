//! An endpoint that a pick may take.

use crate::pool::EndpointId;

/// An endpoint that may be picked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) id: EndpointId,
    /// It failed a moment ago, or is left out by right: behind all others, whatever its score.
    pub(super) is_last: bool,
}
