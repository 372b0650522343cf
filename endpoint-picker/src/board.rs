//! What workers tell one another: each posts what it has in flight, the singleton service gathers the posts into one board.
//!
//! A worker's virtual machine may be replaced after a crash, and nothing tells the others. So a post carries the moment at which
//! it was written and counts only while it is renewed: the requests of a dead machine leave the sums with it.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;

use hashbrown::HashMap;
use prost::Message;

use crate::time::Timestamp;

/// A worker renews its post at least this often.
pub const RENEW_AFTER_MICROS: u64 = 500_000;
/// A post that was not renewed for this long is of a machine that is gone: six renewals missed.
pub const EXPIRE_AFTER_MICROS: u64 = 3_000_000;

/// Keys in the shared data of all virtual machines of one `vm_id`.
pub mod key {
    /// [`super::Version`] of what follows; small, read on every tick.
    pub const VERSION: &str = "inpick.version";
    /// The newest snapshot, as the sidecar sent it.
    pub const SNAPSHOT: &str = "inpick.snapshot";
    /// The [`super::Board`].
    pub const BOARD: &str = "inpick.board";
    /// The [`super::Roster`].
    pub const ROSTER: &str = "inpick.roster";

    /// Where a worker posts.
    #[must_use]
    pub fn post(worker: u64) -> alloc::string::String {
        alloc::format!("inpick.post.{worker:016x}")
    }
}

/// Says whether anything behind the other keys has changed.
#[derive(Clone, Copy, Eq, Message, PartialEq)]
pub struct Version {
    /// Counts installed snapshots; 0: none yet.
    #[prost(uint64, tag = "1")]
    pub snapshot: u64,
    /// When the sidecar last said that the snapshot is still true, in microseconds of the host's monotonic clock.
    #[prost(uint64, tag = "2")]
    pub confirmed_at_micros: u64,
    /// Counts changes of the board.
    #[prost(uint64, tag = "3")]
    pub board: u64,
}

/// Every worker that ever posted and has not expired.
#[derive(Clone, Eq, Message, PartialEq)]
pub struct Roster {
    /// Their ids.
    #[prost(fixed64, repeated, tag = "1")]
    pub workers: Vec<u64>,
}

/// What one worker has in flight.
#[derive(Clone, Eq, Message, PartialEq)]
pub struct Post {
    /// Random, drawn when the worker's virtual machine started.
    #[prost(fixed64, tag = "1")]
    pub worker: u64,
    /// When it was written, in microseconds of the host's monotonic clock.
    #[prost(uint64, tag = "2")]
    pub written_at_micros: u64,
    /// Requests in flight by endpoint; those without any are left out.
    #[prost(message, repeated, tag = "3")]
    pub endpoints: Vec<Count>,
    /// Requests running by model name.
    #[prost(message, repeated, tag = "4")]
    pub models: Vec<Count>,
    /// `inference_objective_running_requests` is published.
    #[prost(bool, tag = "5")]
    pub objective: bool,
    /// `inference_model_running_requests` is published.
    #[prost(bool, tag = "6")]
    pub model: bool,
    /// The pool whose endpoints these are.
    #[prost(string, tag = "7")]
    pub pool: String,
    /// Size of the worker's virtual machine: its linear memory in bytes.
    #[prost(uint64, tag = "8")]
    pub memory_bytes: u64,
}

/// A number of something.
#[derive(Clone, Eq, Message, PartialEq)]
pub struct Count {
    /// What is counted.
    #[prost(string, tag = "1")]
    pub name: String,
    /// How many.
    #[prost(uint32, tag = "2")]
    pub count: u32,
}

/// The posts of all living workers.
#[derive(Clone, Eq, Message, PartialEq)]
pub struct Board {
    /// One a worker.
    #[prost(message, repeated, tag = "1")]
    pub posts: Vec<Post>,
}

impl Post {
    /// Whether its worker is still there.
    #[must_use]
    pub const fn is_alive(&self, now: Timestamp) -> bool {
        now.micros_since(Timestamp::from_micros(self.written_at_micros)) < EXPIRE_AFTER_MICROS
    }

    /// The same news, whenever it was written.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.endpoints == other.endpoints && self.models == other.models && self.memory_bytes == other.memory_bytes
    }
}

impl Board {
    /// What all workers but `own` have in flight.
    #[must_use]
    pub fn others_in_flight(&self, own: u64) -> HashMap<SocketAddr, u32> {
        let mut counts: HashMap<SocketAddr, u32> = HashMap::new();
        for count in self.posts.iter().filter(|post| post.worker != own).flat_map(|post| &post.endpoints) {
            if let Ok(address) = count.name.parse() {
                let held = counts.entry(address).or_default();
                *held = held.saturating_add(count.count);
            }
        }
        counts
    }

    /// Requests running by model over all workers for which `published` holds.
    pub fn running(&self, published: impl Fn(&Post) -> bool) -> HashMap<&str, u64> {
        let mut counts: HashMap<&str, u64> = HashMap::new();
        for count in self.posts.iter().filter(|post| published(post)).flat_map(|post| &post.models) {
            *counts.entry(count.name.as_str()).or_default() += u64::from(count.count);
        }
        counts
    }

    /// Requests in flight over all workers, by pool and endpoint.
    #[must_use]
    pub fn in_flight(&self) -> HashMap<(&str, &str), u64> {
        let mut counts: HashMap<(&str, &str), u64> = HashMap::new();
        for post in &self.posts {
            for count in &post.endpoints {
                *counts.entry((&post.pool, &count.name)).or_default() += u64::from(count.count);
            }
        }
        counts
    }

    /// Linear memory of all workers' virtual machines, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.posts.iter().map(|post| post.memory_bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn post(worker: u64, endpoint: &str, count: u32) -> Post {
        let counts = |name: &str| vec![Count { name: name.into(), count }];
        Post {
            worker,
            written_at_micros: 0,
            endpoints: counts(endpoint),
            models: counts("m"),
            objective: true,
            model: false,
            pool: "default".into(),
            memory_bytes: 65_536,
        }
    }

    #[test]
    fn others_are_summed_without_oneself() {
        let board =
            Board { posts: vec![post(1, "10.0.0.1:80", 2), post(2, "10.0.0.1:80", 3), post(3, "10.0.0.1:80", 4)] };
        assert_eq!(board.others_in_flight(2)[&"10.0.0.1:80".parse::<SocketAddr>().unwrap()], 6);
        assert_eq!(board.running(|post| post.objective)["m"], 9);
        assert!(board.running(|post| post.model).is_empty());
        assert_eq!(board.in_flight()[&("default", "10.0.0.1:80")], 9);
        assert_eq!(board.memory_bytes(), 3 * 65_536);
    }

    #[test]
    fn a_post_that_is_not_renewed_expires() {
        assert!(post(1, "x", 1).is_alive(Timestamp::from_micros(EXPIRE_AFTER_MICROS - 1)));
        assert!(!post(1, "x", 1).is_alive(Timestamp::from_micros(EXPIRE_AFTER_MICROS)));
    }
}
