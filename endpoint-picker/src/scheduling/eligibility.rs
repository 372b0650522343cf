//! Who may be picked.
//!
//! Staleness and ejection are suspicions, and a cause outside the endpoints (a slow network, one bad client, a sidecar in trouble) can
//! raise them against many at once. So together they never leave out more than a share of the pool: beyond that, stale endpoints are
//! candidates like all others, scored by what is known of them, and then those whose ejection ends first.

use alloc::vec::Vec;

use crate::pool::{Availability, Endpoint, EndpointId, Offer, Offered, Pool, Standing};
use crate::time::Timestamp;

use super::candidate::Candidate;
use super::profile::Profile;
use super::request::PickRequest;
use super::subset::Subset;

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

/// What a request demands of its endpoint.
#[derive(Clone, Copy, Debug)]
struct Demand<'a> {
    /// Who serves its model; `None`: everybody, or nobody knows.
    offer: Option<&'a Offer>,
    subset: Option<&'a Subset>,
}

impl<'a> Demand<'a> {
    fn of(pool: &'a Pool, request: &PickRequest<'a>) -> Self {
        let offer = match pool.served().offered(request.target_model) {
            // A request that is passed on although nobody serves it is as good anywhere.
            Offered::ByAll | Offered::ByNobody => None,
            Offered::By(offer) => Some(offer),
        };
        Self { offer, subset: request.subset }
    }

    fn admits(&self, endpoint: &Endpoint) -> bool {
        self.offer.is_none_or(|offer| offer.serves(endpoint.place()))
            && self.subset.is_none_or(|subset| subset.position(endpoint.identity().address).is_some())
    }

    /// Keeps the request, of so many tokens, from those who say that it is too long for them, if others take it.
    fn keep_takers(
        &self,
        pool: &Pool,
        tokens: u64,
        candidates: &mut Vec<Candidate>,
        excluded: &mut Vec<(Exclusion, EndpointId)>,
    ) {
        let Some(offer) = self.offer.filter(|offer| !offer.all_take(tokens)) else { return };
        let takes = |id| pool.endpoint(id).is_some_and(|endpoint| offer.takes(endpoint.place(), tokens));
        if candidates.iter().any(|candidate| takes(candidate.id))
            || excluded.iter().any(|&(why, id)| why == Exclusion::Stale && takes(id))
        {
            candidates.retain(|candidate| takes(candidate.id));
            excluded.retain(|&(_, id)| takes(id));
        }
    }
}

/// Working memory of [`narrow`], and then whom it left out although the request could be served there.
#[derive(Clone, Debug, Default)]
pub(super) struct Excluded {
    suspects: Vec<(Exclusion, EndpointId)>,
    /// Members that cannot serve the request: they lack its model, are outside its subset, or take nothing at all.
    unable: usize,
}

impl Excluded {
    /// Those left out, for attempts that no candidate is left for: where a list ends, Envoy takes anybody, the one that just failed too.
    /// First those whose ejection ends first: they fail at once, if they do. A stale one may be frozen, and then it says nothing at all.
    pub(super) fn iter(&self) -> impl Iterator<Item = EndpointId> {
        let (stale, ejected) = self.suspects.split_at(self.stale());
        ejected.iter().chain(stale).map(|&(_, id)| id)
    }

    /// How many are stale; they come first.
    fn stale(&self) -> usize {
        self.suspects.partition_point(|(why, _)| *why == Exclusion::Stale)
    }

    /// Whether there are members to which the request must not go.
    pub(super) const fn has_unable(&self) -> bool {
        self.unable > 0
    }
}

/// Fills `candidates`; they are empty when no endpoint may take the request at all.
pub(super) fn narrow(
    pool: &Pool,
    profile: &Profile,
    request: &PickRequest<'_>,
    bytes_per_token: f64,
    now: Timestamp,
    candidates: &mut Vec<Candidate>,
    excluded: &mut Excluded,
) -> Ground {
    candidates.clear();
    excluded.suspects.clear();
    let demand = Demand::of(pool, request);
    for &id in pool.members() {
        let Some(endpoint) = pool.endpoint(id).filter(|endpoint| demand.admits(endpoint)) else { continue };
        let availability = pool.availability(endpoint, now, profile.max_snapshot_age_micros);
        match (availability, endpoint.health().standing(now)) {
            (Availability::Unready | Availability::Sleeping, _) => {}
            (Availability::Fresh | Availability::Stale, Standing::Ejected) => {
                excluded.suspects.push((Exclusion::Ejected(endpoint.health().until()), id));
            }
            (Availability::Fresh, standing) => candidates.push(Candidate::new(id, standing == Standing::Suspect)),
            (Availability::Stale, Standing::Suspect) => {
                excluded.suspects.push((Exclusion::Ejected(endpoint.health().until()), id))
            }
            (Availability::Stale, Standing::Good | Standing::OnTrial) => excluded.suspects.push((Exclusion::Stale, id)),
        }
    }
    demand.keep_takers(pool, request.tokens(bytes_per_token), candidates, &mut excluded.suspects);
    excluded.unable = pool.members().len().saturating_sub(candidates.len() + excluded.suspects.len());
    let ground = if candidates.is_empty() { Ground::InFlight } else { Ground::Load };
    let least = least(candidates.len() + excluded.suspects.len(), profile.max_excluded_percent);
    excluded.suspects.sort_unstable();
    if candidates.len() < least {
        // All stale ones or none: choosing among them would be by chance.
        let stale = excluded.stale();
        candidates.extend(excluded.suspects.drain(..stale).map(|(_, id)| Candidate::new(id, false)));
    }
    let missing = least.saturating_sub(candidates.len()).min(excluded.suspects.len());
    candidates.extend(excluded.suspects.drain(..missing).map(|(_, id)| Candidate::new(id, true)));
    if let Some(room) = request.room {
        candidates.retain(|candidate| room.is_at(pool, candidate.id, now, profile.max_snapshot_age_micros));
    }
    ground
}

/// Whether any endpoint may take the request, be it full, stale or ejected: where none does, [`narrow`] gives no candidates.
pub(super) fn has_taker(pool: &Pool, request: &PickRequest<'_>) -> bool {
    let demand = Demand::of(pool, request);
    let mut endpoints = pool.members().iter().filter_map(|&id| pool.endpoint(id));
    endpoints.any(|endpoint| endpoint.takes_requests() && demand.admits(endpoint))
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
