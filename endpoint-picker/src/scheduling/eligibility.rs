//! Who may be picked: fresh, ready and awake; failing that, whoever is not known to refuse.

use alloc::vec::Vec;

use crate::pool::{Availability, Pool};
use crate::time::Timestamp;

/// On what ground the candidates stand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Candidates {
    /// Their load is fresh.
    Fresh,
    /// Nobody's load is: only what is in flight can rank them.
    LoadUnknown,
    /// There are none.
    None,
}

/// Fills `candidates` with indices into the pool's endpoints.
pub(super) fn narrow(pool: &Pool, max_age_micros: u64, now: Timestamp, candidates: &mut Vec<usize>) -> Candidates {
    let mut admit = |admitted: &[Availability]| {
        candidates.clear();
        candidates.extend(pool.endpoints().iter().enumerate().filter_map(|(index, endpoint)| {
            admitted.contains(&pool.availability(endpoint, now, max_age_micros)).then_some(index)
        }));
        !candidates.is_empty()
    };
    if admit(&[Availability::Fresh]) {
        Candidates::Fresh
    } else if admit(&[Availability::Stale]) || admit(&[Availability::Ejected]) {
        Candidates::LoadUnknown
    } else {
        Candidates::None
    }
}
