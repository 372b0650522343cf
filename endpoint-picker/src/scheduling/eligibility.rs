//! Who may be picked.
//!
//! Staleness and ejection are suspicions, and a cause outside the endpoints (a slow network, one bad client, a sidecar in trouble) can
//! raise them against many at once. So together they never leave out more than a share of the pool: beyond that, stale endpoints are
//! candidates like all others, scored by what is known of them, and then those whose ejection ends first.

use alloc::vec::Vec;

use crate::pool::{Availability, EndpointId, Pool, Standing};
use crate::time::Timestamp;

use super::candidate::Candidate;
use super::profile::Profile;

/// On what ground the candidates stand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ground {
    /// The load of at least one of them is fresh.
    Load,
    /// Nobody's is.
    InFlight,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Exclusion {
    Stale,
    Ejected(Timestamp),
}

/// Working memory of [`narrow`].
#[derive(Clone, Debug, Default)]
pub(super) struct Excluded(Vec<(Exclusion, EndpointId)>);

/// Fills `candidates`; they are empty when no endpoint may take traffic at all.
pub(super) fn narrow(
    pool: &Pool,
    profile: &Profile,
    now: Timestamp,
    candidates: &mut Vec<Candidate>,
    Excluded(excluded): &mut Excluded,
) -> Ground {
    candidates.clear();
    excluded.clear();
    for &id in pool.members() {
        let Some(endpoint) = pool.endpoint(id) else { continue };
        let availability = pool.availability(endpoint, now, profile.max_snapshot_age_micros);
        match (availability, endpoint.health().standing(now)) {
            (Availability::Unready | Availability::Sleeping, _) => {}
            (Availability::Fresh | Availability::Stale, Standing::Ejected) => {
                excluded.push((Exclusion::Ejected(endpoint.health().until()), id));
            }
            (Availability::Fresh, standing) => candidates.push(Candidate::new(id, standing == Standing::Suspect)),
            (Availability::Stale, Standing::Suspect) => {
                excluded.push((Exclusion::Ejected(endpoint.health().until()), id))
            }
            (Availability::Stale, Standing::Good | Standing::OnTrial) => excluded.push((Exclusion::Stale, id)),
        }
    }
    let ground = if candidates.is_empty() { Ground::InFlight } else { Ground::Load };
    let least = least(candidates.len() + excluded.len(), profile.max_excluded_percent);
    if candidates.len() < least {
        // All stale ones or none: choosing among them would be by chance.
        candidates.extend(
            excluded.iter().filter(|(why, _)| *why == Exclusion::Stale).map(|&(_, id)| Candidate::new(id, false)),
        );
    }
    if candidates.len() < least {
        excluded.retain(|(why, _)| *why != Exclusion::Stale);
        excluded.sort_unstable();
        let missing = least - candidates.len();
        candidates.extend(excluded.iter().take(missing).map(|&(_, id)| Candidate::new(id, true)));
    }
    ground
}

/// How many of `endpoints` must be candidates; at least one of any.
fn least(endpoints: usize, max_excluded_percent: u8) -> usize {
    (endpoints - endpoints * usize::from(max_excluded_percent) / 100).max(usize::from(endpoints > 0))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::least;

    #[test]
    fn no_more_than_the_share_is_left_out() {
        assert_eq!([0, 1, 2, 3, 4, 5, 100].map(|endpoints| least(endpoints, 50)), [0, 1, 1, 2, 2, 3, 50]);
        assert_eq!([1, 4].map(|endpoints| least(endpoints, 0)), [1, 4]);
        assert_eq!([1, 4].map(|endpoints| least(endpoints, 100)), [1, 1]);
    }
}
