//! What is known of a pool's endpoints: their load from the newest snapshot, what this proxy has in flight, who failed lately.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::SocketAddr;

use hashbrown::HashMap;
use snapshot::{Snapshot, State};

use crate::time::Timestamp;

/// Failures in a row after which an endpoint is left out for a while. One may be chance; two in a row with no success between
/// is what a dead pod looks like.
pub const EJECT_AFTER_FAILURES: u32 = 2;
/// First time out of an endpoint that keeps failing, doubled with each further failure.
const EJECTION_MICROS: u64 = 1_000_000;
/// Longest time out: a pod that works again, but was never seen to be down, is found within this.
const MAX_EJECTION_MICROS: u64 = 10_000_000;

/// The endpoints of one pool.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    endpoints: Vec<Endpoint>,
    by_address: HashMap<SocketAddr, usize>,
    version: Option<Version>,
    confirmed_at: Option<Timestamp>,
}

/// Which snapshot a pool was installed from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Version {
    /// The sidecar's start.
    pub epoch: u64,
    /// Its count of changes since.
    pub generation: u64,
}

/// One endpoint as the picker sees it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// What the sidecar last said.
    pub load: snapshot::Endpoint,
    /// The address as the load balancer spells it.
    pub address: String,
    /// Pod name for labels: the address when discovery knows no name.
    pub pod: String,
    /// Port for labels.
    pub port: String,
    /// Requests that this worker sent and that have not finished.
    own_in_flight: u32,
    /// The same of the proxy's other workers, as of their last report.
    others_in_flight: u32,
    /// All in flight when the newest snapshot was installed.
    in_flight_at_snapshot: u32,
    failures: u32,
    ejected_until: Option<Timestamp>,
}

impl Endpoint {
    fn new(load: snapshot::Endpoint) -> Self {
        let address = load.address.to_string();
        let pod = if load.pod.is_empty() { address.clone() } else { load.pod.clone() };
        Self {
            port: load.address.port().to_string(),
            address,
            pod,
            load,
            own_in_flight: 0,
            others_in_flight: 0,
            in_flight_at_snapshot: 0,
            failures: 0,
            ejected_until: None,
        }
    }

    /// Requests that this proxy has sent to it and that have not finished, over all workers.
    #[must_use]
    pub const fn in_flight(&self) -> u32 {
        self.own_in_flight.saturating_add(self.others_in_flight)
    }

    /// Requests that this worker has sent to it and that have not finished.
    #[must_use]
    pub const fn own_in_flight(&self) -> u32 {
        self.own_in_flight
    }

    /// Requests of this proxy that the engine's figures cannot contain: those sent since the snapshot, or those in flight beyond
    /// what the engine reports in all. The second grows on an engine that froze, whose page goes on saying what it last said.
    #[must_use]
    pub fn unseen(&self) -> u32 {
        let reported = self.load.waiting.unwrap_or(0).saturating_add(self.load.running.unwrap_or(0));
        let since_snapshot = self.in_flight().saturating_sub(self.in_flight_at_snapshot);
        since_snapshot.max(self.in_flight().saturating_sub(reported))
    }

    /// Left out because of failures in a row.
    #[must_use]
    pub fn is_ejected(&self, now: Timestamp) -> bool {
        self.ejected_until.is_some_and(|until| now < until)
    }
}

/// An endpoint's state to the picker.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Availability {
    /// Fresh load, takes traffic.
    Fresh,
    /// Load is old or was never seen.
    Stale,
    /// The engine sleeps.
    Sleeping,
    /// Health checks or the operator say no.
    Unready,
    /// Failed too often in a row.
    Ejected,
}

impl Pool {
    /// Replaces load and membership by those of the snapshot's pool of that name. What is in flight is kept for endpoints that
    /// stay; a pool that the snapshot does not name becomes empty.
    pub fn install(&mut self, snapshot: &Snapshot, name: &str) {
        let mut known: HashMap<SocketAddr, Endpoint> = core::mem::take(&mut self.endpoints)
            .into_iter()
            .map(|endpoint| (endpoint.load.address, endpoint))
            .collect();
        self.endpoints = snapshot
            .pool(name)
            .map(|pool| pool.endpoints.as_slice())
            .unwrap_or_default()
            .iter()
            .map(|load| {
                let mut endpoint = Endpoint::new(load.clone());
                if let Some(old) = known.remove(&load.address) {
                    // The sidecar saw it go and come back: what failed before that says nothing any more.
                    let came_back = old.load.state != State::Fresh && load.state == State::Fresh;
                    endpoint.own_in_flight = old.own_in_flight;
                    endpoint.others_in_flight = old.others_in_flight;
                    if !came_back {
                        endpoint.failures = old.failures;
                        endpoint.ejected_until = old.ejected_until;
                    }
                }
                endpoint.in_flight_at_snapshot = endpoint.in_flight();
                endpoint
            })
            .collect();
        // An endpoint that left the pool takes no new requests, but those in flight must still find it when they finish.
        self.endpoints.extend(known.into_values().filter(|endpoint| endpoint.own_in_flight > 0).map(|mut endpoint| {
            endpoint.load.state = State::Unready;
            endpoint
        }));
        self.by_address =
            self.endpoints.iter().enumerate().map(|(index, endpoint)| (endpoint.load.address, index)).collect();
        self.version = Some(Version { epoch: snapshot.epoch, generation: snapshot.generation });
    }

    /// The snapshot in use was still true at that moment.
    pub const fn confirm(&mut self, at: Timestamp) {
        self.confirmed_at = Some(at);
    }

    /// Which snapshot is in use.
    #[must_use]
    pub const fn version(&self) -> Option<Version> {
        self.version
    }

    /// Microseconds since the snapshot was last confirmed; `None`: never.
    #[must_use]
    pub fn age_micros(&self, now: Timestamp) -> Option<u64> {
        self.confirmed_at.map(|at| now.micros_since(at))
    }

    /// Every endpoint, in the snapshot's order.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// What an endpoint is to the picker now. A snapshot older than `max_age_micros` vouches for nobody.
    #[must_use]
    pub fn availability(&self, endpoint: &Endpoint, now: Timestamp, max_age_micros: u64) -> Availability {
        match endpoint.load.state {
            State::Unready => Availability::Unready,
            State::Sleeping => Availability::Sleeping,
            _ if endpoint.is_ejected(now) => Availability::Ejected,
            State::Fresh if self.age_micros(now).is_some_and(|age| age <= max_age_micros) => Availability::Fresh,
            State::Fresh | State::Stale | State::Unknown => Availability::Stale,
        }
    }

    /// Counts a request as sent to that endpoint. False: the address is outside the pool, so that nothing is counted and
    /// [`Self::request_finished`] must not be told of it.
    pub fn request_sent(&mut self, address: SocketAddr) -> bool {
        let Some(endpoint) = self.endpoint_mut(address) else { return false };
        endpoint.own_in_flight = endpoint.own_in_flight.saturating_add(1);
        true
    }

    /// Counts a request to that endpoint as finished: the counterpart of [`Self::request_sent`].
    pub fn request_finished(&mut self, address: SocketAddr) {
        if let Some(endpoint) = self.endpoint_mut(address) {
            endpoint.own_in_flight = endpoint.own_in_flight.saturating_sub(1);
        }
    }

    /// The endpoint answered.
    pub fn record_success(&mut self, address: SocketAddr) {
        if let Some(endpoint) = self.endpoint_mut(address) {
            endpoint.failures = 0;
            endpoint.ejected_until = None;
        }
    }

    /// The endpoint could not be reached or broke off before it answered. True: it is left out for a while from now on.
    pub fn record_failure(&mut self, address: SocketAddr, now: Timestamp) -> bool {
        let Some(endpoint) = self.endpoint_mut(address) else { return false };
        endpoint.failures = endpoint.failures.saturating_add(1);
        let Some(beyond) = endpoint.failures.checked_sub(EJECT_AFTER_FAILURES) else { return false };
        let time_out = EJECTION_MICROS.saturating_mul(1 << beyond.min(10)).min(MAX_EJECTION_MICROS);
        endpoint.ejected_until = Some(now.plus_micros(time_out));
        true
    }

    /// Takes over what the other workers have in flight; an endpoint that is not listed has nothing.
    pub fn set_others_in_flight(&mut self, counts: &HashMap<SocketAddr, u32>) {
        for endpoint in &mut self.endpoints {
            endpoint.others_in_flight = counts.get(&endpoint.load.address).copied().unwrap_or(0);
        }
    }

    fn endpoint_mut(&mut self, address: SocketAddr) -> Option<&mut Endpoint> {
        self.by_address.get(&address).and_then(|&index| self.endpoints.get_mut(index))
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 8000))
    }

    fn snapshot(generation: u64, hosts: &[u8]) -> Snapshot {
        let endpoints = hosts
            .iter()
            .map(|&host| snapshot::Endpoint { state: State::Fresh, ..snapshot::Endpoint::unknown(address(host)) })
            .collect();
        Snapshot {
            epoch: 1,
            generation,
            captured_at_ms: 0,
            pools: vec![snapshot::Pool { name: "p".into(), endpoints }],
        }
    }

    fn pool(hosts: &[u8]) -> Pool {
        let mut pool = Pool::default();
        pool.install(&snapshot(1, hosts), "p");
        pool.confirm(Timestamp::from_micros(0));
        pool
    }

    fn in_flight(pool: &Pool, last: u8) -> Option<u32> {
        pool.endpoints().iter().find(|endpoint| endpoint.load.address == address(last)).map(Endpoint::in_flight)
    }

    #[test]
    fn in_flight_survives_a_new_snapshot() {
        let mut pool = pool(&[1, 2]);
        pool.request_sent(address(1));
        pool.install(&snapshot(2, &[2, 1]), "p");
        assert_eq!(in_flight(&pool, 1), Some(1));
        assert_eq!(pool.endpoints()[1].unseen(), 1, "the engine reports none, so it cannot know of this one");
    }

    #[test]
    fn what_the_engine_reports_is_not_counted_again() {
        let mut pool = pool(&[1]);
        for _ in 0..3 {
            pool.request_sent(address(1));
        }
        let mut snapshot = snapshot(2, &[1]);
        snapshot.pools[0].endpoints[0].waiting = Some(1);
        snapshot.pools[0].endpoints[0].running = Some(4);
        pool.install(&snapshot, "p");
        assert_eq!(pool.endpoints()[0].unseen(), 0);
        pool.request_sent(address(1));
        assert_eq!(pool.endpoints()[0].unseen(), 1, "sent since the snapshot, though the engine reports others' too");
    }

    #[test]
    fn an_endpoint_that_left_is_kept_unready_until_its_requests_finish() {
        let mut pool = pool(&[1, 2]);
        pool.request_sent(address(1));
        pool.install(&snapshot(2, &[2]), "p");
        let gone = pool.endpoints().iter().find(|endpoint| endpoint.load.address == address(1)).unwrap();
        assert_eq!(pool.availability(gone, Timestamp::from_micros(0), 1), Availability::Unready);
        pool.request_finished(address(1));
        pool.install(&snapshot(3, &[2]), "p");
        assert_eq!(in_flight(&pool, 1), None);
    }

    #[test]
    fn an_old_snapshot_makes_every_endpoint_stale() {
        let pool = pool(&[1]);
        let endpoint = &pool.endpoints()[0];
        assert_eq!(pool.availability(endpoint, Timestamp::from_micros(10), 10), Availability::Fresh);
        assert_eq!(pool.availability(endpoint, Timestamp::from_micros(11), 10), Availability::Stale);
    }

    #[test]
    fn failures_in_a_row_eject_and_a_success_brings_back() {
        let mut pool = pool(&[1]);
        let now = Timestamp::from_micros(0);
        pool.record_failure(address(1), now);
        assert!(!pool.endpoints()[0].is_ejected(now));
        pool.record_failure(address(1), now);
        assert!(pool.endpoints()[0].is_ejected(now));
        assert!(!pool.endpoints()[0].is_ejected(now.plus_micros(EJECTION_MICROS)));
        pool.record_success(address(1));
        assert!(!pool.endpoints()[0].is_ejected(now));
        for _ in 0..100 {
            pool.record_failure(address(1), now);
        }
        assert!(!pool.endpoints()[0].is_ejected(now.plus_micros(MAX_EJECTION_MICROS)));
    }

    #[test]
    fn an_endpoint_that_the_sidecar_saw_come_back_is_no_longer_left_out() {
        let mut pool = pool(&[1]);
        let now = Timestamp::from_micros(0);
        pool.record_failure(address(1), now);
        pool.record_failure(address(1), now);
        pool.install(&snapshot(2, &[1]), "p");
        assert!(pool.endpoints()[0].is_ejected(now), "a snapshot in which nothing changed brings nobody back");
        let mut stale = snapshot(3, &[1]);
        stale.pools[0].endpoints[0].state = State::Stale;
        pool.install(&stale, "p");
        pool.install(&snapshot(4, &[1]), "p");
        assert!(!pool.endpoints()[0].is_ejected(now));
    }

    #[test]
    fn finishing_more_than_was_sent_stays_at_zero() {
        let mut pool = pool(&[1]);
        pool.request_finished(address(1));
        assert_eq!(in_flight(&pool, 1), Some(0));
    }
}
