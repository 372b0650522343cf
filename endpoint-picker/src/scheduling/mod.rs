//! The pick: eligibility narrows the pool, scorers rate what is left, a picker ranks it.

mod eligibility;
mod ranking;
mod scorer;

use alloc::vec::Vec;
use core::net::SocketAddr;

pub use scorer::Scorer;

use crate::pool::Pool;
use crate::rng::Rng;
use crate::time::Timestamp;
use eligibility::Candidates;

/// Longest ranked list. Envoy takes the next entry for each attempt, and more than two retries help nobody.
pub const MAX_RANKED: usize = 3;

/// How to pick.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Scorers with their weights; each score lies in 0 to 1 and 1 is best.
    pub scorers: Vec<(Scorer, f64)>,
    /// What ranks the scores.
    pub picker: Picker,
    /// Entries of the ranked list, 1 to [`MAX_RANKED`].
    pub ranked: usize,
    /// A snapshot older than this vouches for nobody; microseconds.
    pub max_snapshot_age_micros: u64,
}

/// What ranks the scores.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Picker {
    /// Highest score first, ties in random order.
    MaxScore,
    /// Random order, whatever the scores.
    Random,
}

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
            Self::Fallback => "fallback",
            Self::Retry => "retry",
        }
    }
}

/// One to [`MAX_RANKED`] endpoints, best first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ranked {
    first: Place,
    rest: [Option<Place>; MAX_RANKED - 1],
}

/// An endpoint in a ranked list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place {
    /// Index into [`Pool::endpoints`] of the snapshot that was picked from.
    pub index: usize,
    /// Its address.
    pub address: SocketAddr,
}

impl Ranked {
    /// The endpoint that was picked.
    #[must_use]
    pub const fn first(&self) -> Place {
        self.first
    }

    /// All of them, best first.
    pub fn iter(&self) -> impl Iterator<Item = Place> {
        core::iter::once(self.first).chain(self.rest.into_iter().flatten())
    }
}

/// Working memory of [`Scheduler::pick`], kept so that a pick allocates nothing.
#[derive(Clone, Debug, Default)]
pub struct Scheduler {
    candidates: Vec<usize>,
    scores: Vec<f64>,
}

impl Scheduler {
    /// Ranks the endpoints of `pool` for one request. The same pool, profile, generator and time give the same answer.
    pub fn pick(&mut self, pool: &Pool, profile: &Profile, rng: &mut Rng, now: Timestamp) -> Decision {
        let candidates = eligibility::narrow(pool, profile.max_snapshot_age_micros, now, &mut self.candidates);
        self.scores.clear();
        self.scores.resize(self.candidates.len(), 0.0);
        let mut decided_by = match candidates {
            Candidates::Fresh => {
                if profile.picker == Picker::MaxScore {
                    for (scorer, weight) in &profile.scorers {
                        scorer.add(pool.endpoints(), &self.candidates, *weight, &mut self.scores);
                    }
                }
                Reason::BestScore
            }
            Candidates::LoadUnknown => {
                if profile.picker == Picker::MaxScore {
                    scorer::add_in_flight(pool.endpoints(), &self.candidates, &mut self.scores);
                }
                Reason::InFlightOnly
            }
            Candidates::None => return Decision::NoEndpoint,
        };
        let (places, tied) = ranking::rank(&self.scores, profile.ranked, rng);
        if decided_by == Reason::BestScore {
            decided_by = match profile.picker {
                Picker::Random => Reason::Random,
                Picker::MaxScore if tied => Reason::Tie,
                Picker::MaxScore => Reason::BestScore,
            };
        }
        let mut places = places.into_iter().flatten().filter_map(|place| {
            let index = *self.candidates.get(place)?;
            Some(Place { index, address: pool.endpoints().get(index)?.load.address })
        });
        match places.next() {
            Some(first) => {
                Decision::Picked(Ranked { first, rest: core::array::from_fn(|_| places.next()) }, decided_by)
            }
            None => Decision::NoEndpoint,
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use snapshot::{Snapshot, State};

    use super::*;

    const MAX_AGE: u64 = 1_000_000;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 8000))
    }

    fn endpoint(last: u8, waiting: u32, kv_cache_usage: f64) -> snapshot::Endpoint {
        snapshot::Endpoint {
            state: State::Fresh,
            waiting: Some(waiting),
            running: Some(0),
            kv_cache_usage: Some(kv_cache_usage),
            ..snapshot::Endpoint::unknown(address(last))
        }
    }

    fn pool(endpoints: Vec<snapshot::Endpoint>) -> Pool {
        let mut pool = Pool::default();
        let pools = vec![snapshot::Pool { name: "p".into(), endpoints }];
        pool.install(&Snapshot { epoch: 1, generation: 1, captured_at_ms: 0, pools }, "p");
        pool.confirm(Timestamp::from_micros(0));
        pool
    }

    fn profile(picker: Picker) -> Profile {
        let scorers = vec![(Scorer::Queue, 2.0), (Scorer::KvCacheUtilization, 2.0)];
        Profile { scorers, picker, ranked: 3, max_snapshot_age_micros: MAX_AGE }
    }

    fn pick(pool: &Pool, profile: &Profile, seed: u64, now: u64) -> (Vec<u8>, Option<Reason>) {
        match Scheduler::default().pick(pool, profile, &mut Rng::new(seed), Timestamp::from_micros(now)) {
            Decision::Picked(ranked, reason) => {
                let last = |place: Place| match place.address {
                    SocketAddr::V4(address) => address.ip().octets()[3],
                    SocketAddr::V6(_) => 0,
                };
                (ranked.iter().map(last).collect(), Some(reason))
            }
            Decision::NoEndpoint => (Vec::new(), None),
        }
    }

    #[test]
    fn the_least_loaded_endpoint_comes_first() {
        let pool = pool(vec![endpoint(1, 5, 0.5), endpoint(2, 0, 0.1), endpoint(3, 2, 0.2), endpoint(4, 9, 0.9)]);
        assert_eq!(pick(&pool, &profile(Picker::MaxScore), 1, 0), (vec![2, 3, 1], Some(Reason::BestScore)));
    }

    #[test]
    fn the_same_seed_gives_the_same_answer_and_ties_are_spread() {
        let pool = pool((1..=4).map(|last| endpoint(last, 0, 0.0)).collect());
        let mut first = [0_u32; 5];
        for seed in 0..400 {
            let (ranked, reason) = pick(&pool, &profile(Picker::MaxScore), seed, 0);
            assert_eq!((ranked.clone(), reason), pick(&pool, &profile(Picker::MaxScore), seed, 0));
            assert_eq!(reason, Some(Reason::Tie));
            first[usize::from(ranked[0])] += 1;
        }
        assert!(first[1..].iter().all(|&count| (60..140).contains(&count)), "{first:?}");
    }

    #[test]
    fn a_ranked_list_names_nobody_twice() {
        let pool = pool((1..=4).map(|last| endpoint(last, 0, 0.0)).collect());
        for seed in 0..100 {
            let (mut ranked, _) = pick(&pool, &profile(Picker::MaxScore), seed, 0);
            ranked.sort_unstable();
            ranked.dedup();
            assert_eq!(ranked.len(), 3);
        }
    }

    #[test]
    fn what_was_sent_since_the_snapshot_counts() {
        let mut pool = pool(vec![endpoint(1, 0, 0.0), endpoint(2, 1, 0.0)]);
        assert_eq!(pick(&pool, &profile(Picker::MaxScore), 1, 0).0[0], 1);
        pool.request_sent(address(1));
        pool.request_sent(address(1));
        assert_eq!(pick(&pool, &profile(Picker::MaxScore), 1, 0).0[0], 2);
    }

    #[test]
    fn a_frozen_engine_loses_to_one_that_works() {
        // Its page says for ever that it is idle, and new snapshots come because the other's page changes.
        let mut pool = pool(vec![endpoint(1, 0, 0.0), endpoint(2, 3, 0.2)]);
        for generation in 2..12 {
            let endpoints = vec![endpoint(1, 0, 0.0), endpoint(2, 3 + u32::try_from(generation % 2).unwrap(), 0.2)];
            let pools = vec![snapshot::Pool { name: "p".into(), endpoints }];
            pool.install(&Snapshot { epoch: 1, generation, captured_at_ms: 0, pools }, "p");
            if pick(&pool, &profile(Picker::MaxScore), generation, 0).0[0] == 1 {
                pool.request_sent(address(1));
            }
        }
        assert_eq!(pick(&pool, &profile(Picker::MaxScore), 1, 0).0[0], 2);
        assert!(pool.endpoints()[0].in_flight() <= 6);
    }

    #[test]
    fn stale_snapshot_falls_back_to_in_flight() {
        let mut pool = pool(vec![endpoint(1, 0, 0.0), endpoint(2, 50, 0.9)]);
        pool.request_sent(address(1));
        assert_eq!(pick(&pool, &profile(Picker::MaxScore), 1, MAX_AGE + 1), (vec![2, 1], Some(Reason::InFlightOnly)));
    }

    #[test]
    fn unready_and_sleeping_endpoints_are_never_picked() {
        let mut unready = endpoint(1, 0, 0.0);
        unready.state = State::Unready;
        let mut sleeping = endpoint(2, 0, 0.0);
        sleeping.state = State::Sleeping;
        assert_eq!(pick(&pool(vec![unready, sleeping, endpoint(3, 99, 1.0)]), &profile(Picker::MaxScore), 1, 0).0, [3]);
    }

    #[test]
    fn an_ejected_endpoint_is_picked_only_when_nothing_else_is_left() {
        let mut pool = pool(vec![endpoint(1, 0, 0.0), endpoint(2, 99, 1.0)]);
        let now = Timestamp::from_micros(0);
        pool.record_failure(address(1), now);
        pool.record_failure(address(1), now);
        assert_eq!(pick(&pool, &profile(Picker::MaxScore), 1, 0).0, [2]);
        pool.record_failure(address(2), now);
        pool.record_failure(address(2), now);
        assert_eq!(pick(&pool, &profile(Picker::MaxScore), 1, 0).1, Some(Reason::InFlightOnly));
    }

    #[test]
    fn an_empty_pool_has_no_endpoint() {
        assert_eq!(pick(&pool(Vec::new()), &profile(Picker::MaxScore), 1, 0), (Vec::new(), None));
    }

    #[test]
    fn the_random_picker_ignores_load() {
        let pool = pool(vec![endpoint(1, 0, 0.0), endpoint(2, 99, 1.0)]);
        let second = (0..200).filter(|&seed| pick(&pool, &profile(Picker::Random), seed, 0).0[0] == 2).count();
        assert!((60..140).contains(&second), "{second}");
    }

    #[test]
    fn a_missing_signal_is_never_the_best() {
        let mut silent = endpoint(1, 0, 0.0);
        (silent.waiting, silent.kv_cache_usage) = (None, None);
        assert_eq!(pick(&pool(vec![silent, endpoint(2, 3, 0.5)]), &profile(Picker::MaxScore), 5, 0).0, [2, 1]);
    }
}
