//! Who runs the snapshot service: a lease in shared data, renewed by its holder and taken over when that stops.
//!
//! Every instance of the filter may hold it, and so may a singleton of the bootstrap. Whoever is best suited takes it from a holder that is
//! less so; whoever is alive takes it from one that is not. A holder acts only in a tick in which it has renewed the lease, so an
//! instance that was paused for long does nothing with what it held before.

use alloc::vec::Vec;

use prost::Message;

use crate::shared_data::{SetError, SharedData, update};
use crate::time::Timestamp;

/// The key of the lease.
pub const KEY: &str = "inpick.lease";
/// A lease that was not renewed for this long is free. With the rest of an unused instance (500 ms) somebody takes it over within 3 s.
pub const EXPIRE_AFTER_MICROS: u64 = 2_000_000;

/// How well an instance is suited; less is better.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Rank {
    /// A singleton of the bootstrap, which has nothing else to do.
    Singleton = 0,
    /// An instance of the filter that has served nothing, such as the one that Envoy runs on its main thread.
    Unused = 1,
    /// A worker that serves.
    Serving = 2,
}

/// Who holds the lease, as it stands in shared data.
#[derive(Clone, Copy, Eq, Message, PartialEq)]
struct Claim {
    #[prost(fixed64, tag = "1")]
    holder: u64,
    #[prost(uint32, tag = "2")]
    rank: u32,
    /// On the monotonic clock of the process.
    #[prost(uint64, tag = "3")]
    renewed_at_micros: u64,
}

impl Claim {
    /// A claim of the future is no claim of this clock.
    const fn is_alive(&self, now: Timestamp) -> bool {
        let renewed_at = Timestamp::from_micros(self.renewed_at_micros);
        now.micros_since(renewed_at) < EXPIRE_AFTER_MICROS && renewed_at.micros_since(now) < EXPIRE_AFTER_MICROS
    }
}

/// One instance's part in the lease.
#[derive(Debug)]
pub struct Lease {
    instance: u64,
    is_held: bool,
}

impl Lease {
    /// Of the instance with that random id.
    #[must_use]
    pub const fn new(instance: u64) -> Self {
        // 0 is nobody: what bytes that are empty say.
        Self { instance: if instance == 0 { u64::MAX } else { instance }, is_held: false }
    }

    /// Whether the last [`Self::tick`] took or renewed the lease.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        self.is_held
    }

    /// Renews the lease, or takes it where it is free or held by an instance that is less suited. True: this instance is the holder until
    /// its next tick.
    pub fn tick(&mut self, shared: &mut impl SharedData, rank: Rank, now: Timestamp) -> bool {
        let own = Claim { holder: self.instance, rank: rank as u32, renewed_at_micros: now.as_micros() };
        let taken: Result<bool, SetError> = update(shared, KEY, |held| {
            let held = held.and_then(|bytes| Claim::decode(bytes).ok()).filter(|claim| claim.holder != 0);
            let is_others =
                held.is_some_and(|claim| claim.holder != own.holder && claim.is_alive(now) && claim.rank <= own.rank);
            (!is_others, (!is_others).then(|| own.encode_to_vec()))
        });
        self.is_held = taken == Ok(true);
        self.is_held
    }

    /// Gives the lease up, so that nobody has to wait until it expires.
    pub fn release(&mut self, shared: &mut impl SharedData) {
        if core::mem::take(&mut self.is_held) {
            let own = self.instance;
            // If it cannot be written, the lease expires.
            let _ = update(shared, KEY, |held| {
                let is_own = held.and_then(|bytes| Claim::decode(bytes).ok()).is_some_and(|claim| claim.holder == own);
                ((), is_own.then(Vec::new))
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::shared_data::fake::FakeSharedData;

    const RANKS: [Rank; 3] = [Rank::Singleton, Rank::Unused, Rank::Serving];

    const fn at(millis: u64) -> Timestamp {
        Timestamp::from_micros(millis * 1_000)
    }

    #[test]
    fn a_better_rank_takes_over_and_an_equal_or_worse_one_waits_until_the_lease_expires() {
        for holder in RANKS {
            for other in RANKS {
                let mut shared = FakeSharedData::default();
                let (mut first, mut second) = (Lease::new(1), Lease::new(2));
                assert!(first.tick(&mut shared, holder, at(0)));
                assert_eq!(second.tick(&mut shared, other, at(1)), other < holder, "{holder:?} {other:?}");
                assert_eq!(first.tick(&mut shared, holder, at(2)), other >= holder, "{holder:?} {other:?}");
                if other >= holder {
                    assert!(!second.tick(&mut shared, other, at(2_001)));
                    assert!(second.tick(&mut shared, other, at(2_002)), "{holder:?} {other:?}");
                    assert!(!first.tick(&mut shared, other, at(2_003)), "{holder:?} {other:?}");
                }
            }
        }
    }

    #[test]
    fn there_is_one_holder_in_every_round_and_a_dead_one_is_replaced_within_three_seconds() {
        // Tick periods and ranks of a singleton, Envoy's main thread, two workers that serve and one that does not.
        let instances =
            [(50, Rank::Singleton), (500, Rank::Unused), (50, Rank::Serving), (50, Rank::Serving), (500, Rank::Unused)];
        let mut shared = FakeSharedData::default();
        let mut leases: Vec<Option<Lease>> = (0..5).map(|id| Some(Lease::new(id + 1))).collect();
        let (mut last_held, mut both_before) = (0, false);
        for millis in (0..20_000).step_by(10) {
            // The holder dies every 5 s.
            if millis % 5_000 == 4_990
                && let Some(dead) = leases.iter_mut().find(|lease| lease.as_ref().is_some_and(Lease::is_held))
            {
                *dead = None;
            }
            let mut holders = 0;
            for (lease, (period, rank)) in leases.iter_mut().zip(instances) {
                if let Some(lease) = lease
                    && millis % period == 0
                    && lease.tick(&mut shared, rank, at(millis))
                {
                    holders += 1;
                }
            }
            // A better one may take over in the very round in which the old holder acted for the last time.
            assert!(holders <= 1 || (holders == 2 && !both_before), "{holders} at {millis}");
            both_before = holders == 2;
            if holders > 0 {
                last_held = millis;
            }
            assert!(millis - last_held < 3_000, "nobody since {last_held}");
        }
        assert_eq!(leases.iter().flatten().count(), 1);
    }

    #[test]
    fn a_holder_that_begins_to_serve_lowers_its_rank() {
        let mut shared = FakeSharedData::default();
        let (mut first, mut unused) = (Lease::new(1), Lease::new(2));
        assert!(first.tick(&mut shared, Rank::Unused, at(0)));
        assert!(!unused.tick(&mut shared, Rank::Unused, at(10)));
        assert!(first.tick(&mut shared, Rank::Serving, at(20)));
        assert!(unused.tick(&mut shared, Rank::Unused, at(30)));
        assert!(!first.tick(&mut shared, Rank::Serving, at(40)));
    }

    #[test]
    fn a_lease_that_is_given_up_is_free_at_once() {
        let mut shared = FakeSharedData::default();
        let (mut first, mut second) = (Lease::new(1), Lease::new(2));
        assert!(first.tick(&mut shared, Rank::Unused, at(0)));
        second.release(&mut shared);
        assert!(!second.tick(&mut shared, Rank::Unused, at(10)));
        first.release(&mut shared);
        assert!(second.tick(&mut shared, Rank::Unused, at(20)));
        // Whoever does not hold it any more gives up nothing.
        first.release(&mut shared);
        assert!(second.tick(&mut shared, Rank::Unused, at(30)));
        assert!(!first.tick(&mut shared, Rank::Unused, at(40)));
    }

    #[test]
    fn whoever_wakes_late_finds_the_lease_with_its_new_holder() {
        let mut shared = FakeSharedData::default();
        let (mut paused, mut other) = (Lease::new(1), Lease::new(2));
        assert!(paused.tick(&mut shared, Rank::Unused, at(0)));
        assert!(other.tick(&mut shared, Rank::Serving, at(10_000)));
        // It is better suited, so it takes the lease back; the other one stops at its next tick.
        assert!(paused.tick(&mut shared, Rank::Unused, at(10_001)));
        assert!(!other.tick(&mut shared, Rank::Serving, at(10_050)));
    }

    #[test]
    fn of_two_that_read_a_free_lease_one_gets_it() {
        /// The other instance takes the lease between a read and the write that follows.
        struct Race(FakeSharedData, bool);

        impl SharedData for Race {
            fn get(&mut self, key: &str) -> Option<(Vec<u8>, u32)> {
                let read = self.0.get(key);
                if core::mem::take(&mut self.1) {
                    assert!(Lease::new(2).tick(&mut self.0, Rank::Unused, at(0)));
                }
                read
            }

            fn set(&mut self, key: &str, value: &[u8], cas: u32) -> Result<(), SetError> {
                self.0.set(key, value, cas)
            }
        }

        for is_expired in [false, true] {
            let mut race = Race(FakeSharedData::default(), true);
            if is_expired {
                race.0.set(KEY, b"", 0).unwrap();
            }
            assert!(!Lease::new(1).tick(&mut race, Rank::Unused, at(0)), "expired: {is_expired}");
        }
    }

    #[test]
    fn bytes_that_are_no_claim_and_claims_of_another_clock_are_free() {
        let future = Claim { holder: 9, rank: 0, renewed_at_micros: u64::MAX };
        for bytes in [vec![], vec![0xff; 9], future.encode_to_vec()] {
            let mut shared = FakeSharedData::default();
            shared.set(KEY, &bytes, 0).unwrap();
            assert!(Lease::new(1).tick(&mut shared, Rank::Serving, at(5_000)), "{bytes:?}");
        }
    }

    #[test]
    fn a_host_that_refuses_leaves_nobody_who_acts() {
        let mut shared = FakeSharedData::default();
        let mut lease = Lease::new(1);
        assert!(lease.tick(&mut shared, Rank::Singleton, at(0)));
        shared.refuses = true;
        assert!(!lease.tick(&mut shared, Rank::Singleton, at(50)));
        shared.refuses = false;
        shared.lost = 100;
        assert!(!lease.tick(&mut shared, Rank::Singleton, at(100)));
        shared.lost = 3;
        assert!(lease.tick(&mut shared, Rank::Singleton, at(150)));
    }
}
