//! What is known of every pool, and the versions that readers of snapshots go by. Pure: time comes in as an argument, as the
//! duration since the process started.

use std::net::SocketAddr;
use std::time::Duration;

use snapshot::{Loads, Membership, Snapshot, Tag};

use crate::endpoint::{DiscoveredPod, EndpointState, PageReading, Transition, are_alike};
use crate::outcome::Outcome;
use crate::pool::PoolState;
use crate::signals::Signals;

/// Everything that the sidecar knows of its pools.
#[derive(Clone, Debug)]
pub struct Fleet {
    epoch: u64,
    membership_version: u64,
    generation: u64,
    staleness: Duration,
    pools: Vec<PoolState>,
}

impl Fleet {
    /// Pools of which nothing is known yet. `epoch` is a random number.
    #[must_use]
    pub fn new(epoch: u64, staleness: Duration, names: impl IntoIterator<Item = String>) -> Self {
        let pools = names.into_iter().map(PoolState::new).collect();
        Self { epoch, membership_version: 1, generation: 1, staleness, pools }
    }

    /// The pools, in the order of the configuration.
    #[must_use]
    pub fn pools(&self) -> &[PoolState] {
        &self.pools
    }

    /// Names the present content.
    #[must_use]
    pub const fn tag(&self) -> Tag {
        Tag { epoch: self.epoch, membership_version: self.membership_version, generation: self.generation }
    }

    /// Takes a pool's new list. Endpoints that stay keep what is known of them. Endpoints beyond
    /// [`snapshot::MAX_ENDPOINTS`] over all pools are left out.
    pub fn discovered(&mut self, pool: usize, targets: Vec<DiscoveredPod>, now: Duration) -> Vec<Transition> {
        let elsewhere: usize = self
            .pools
            .iter()
            .enumerate()
            .filter(|(index, _)| *index != pool)
            .map(|(_, other)| other.endpoints().len())
            .sum();
        let Some(pool) = self.pools.get_mut(pool) else { return Vec::new() };
        pool.problem = None;
        let first = !std::mem::replace(&mut pool.discovered, true);
        let changed = pool.list(targets, snapshot::MAX_ENDPOINTS.saturating_sub(elsewhere), now);
        self.membership_version += u64::from(changed);
        self.generation += u64::from(changed || first);
        self.advance(now)
    }

    /// A pool's discovery failed: the last list stands. Returns whether this is news.
    pub fn discovery_failed(&mut self, pool: usize, problem: &str) -> bool {
        let Some(pool) = self.pools.get_mut(pool) else { return false };
        pool.discovery_failures += 1;
        let news = pool.problem.as_deref() != Some(problem);
        if news {
            pool.problem = Some(problem.to_owned());
        }
        news
    }

    /// A scrape ended with a page.
    pub fn scraped(
        &mut self,
        pool: usize,
        address: SocketAddr,
        now: Duration,
        took: Duration,
        signals: Signals,
    ) -> Option<Transition> {
        let pool = self.pools.get_mut(pool)?;
        let endpoint = pool.find(address)?;
        endpoint.count(Outcome::Success);
        endpoint.problem = None;
        let last = endpoint.page.as_ref().map(|page| &page.signals);
        let same = last.is_some_and(|last| are_alike(last, &signals));
        let lora =
            signals.lora.as_ref().filter(|lora| last.and_then(|last| last.lora.as_ref()) != Some(*lora)).cloned();
        endpoint.page = Some(PageReading { at: now, took, signals });
        let named = lora.is_some_and(|lora| pool.name_adapters(&lora));
        pool.durations.record(took);
        let name = pool.name.clone();
        let change = pool.find(address)?.settle(&name, now, self.staleness);
        self.membership_version += u64::from(named);
        self.generation += u64::from(named || change.is_some() || !same);
        change
    }

    /// A scrape failed: what was known stands, and grows old.
    pub fn scrape_failed(
        &mut self,
        pool: usize,
        address: SocketAddr,
        took: Duration,
        outcome: Outcome,
        problem: String,
    ) {
        let Some(pool) = self.pools.get_mut(pool) else { return };
        let Some(endpoint) = pool.find(address) else { return };
        endpoint.count(outcome);
        endpoint.problem = Some(problem);
        pool.durations.record(took);
    }

    /// An endpoint listed its models.
    pub fn models_listed(&mut self, pool: usize, address: SocketAddr, names: Vec<String>) {
        let changed = self.pools.get_mut(pool).is_some_and(|pool| pool.name_models(address, names));
        self.membership_version += u64::from(changed);
        self.generation += u64::from(changed);
    }

    /// An endpoint could not list its models: what it listed last stands.
    pub fn models_failed(&mut self, pool: usize) {
        if let Some(pool) = self.pools.get_mut(pool) {
            pool.models_failures += 1;
        }
    }

    /// Lets time pass: endpoints whose pages have grown old become stale.
    pub fn advance(&mut self, now: Duration) -> Vec<Transition> {
        let mut changes = Vec::new();
        for pool in &mut self.pools {
            let name = std::mem::take(&mut pool.name);
            let endpoints = pool.endpoints_mut().iter_mut();
            changes.extend(endpoints.filter_map(|endpoint| endpoint.settle(&name, now, self.staleness)));
            pool.name = name;
        }
        self.generation += u64::from(!changes.is_empty());
        changes
    }

    /// Who the endpoints are.
    #[must_use]
    pub fn membership(&self) -> Membership {
        Membership {
            epoch: self.epoch,
            version: self.membership_version,
            pools: self.pools.iter().map(PoolState::members).collect(),
        }
    }

    /// How loaded they are at this moment; `wall_ms` is the wall clock in milliseconds since the Unix epoch.
    #[must_use]
    pub fn loads(&self, now: Duration, wall_ms: u64) -> Loads {
        let mut loads = Loads {
            epoch: self.epoch,
            membership_version: self.membership_version,
            generation: self.generation,
            captured_at_ms: wall_ms,
            ..Loads::default()
        };
        for pool in &self.pools {
            pool.add_adapter_uses(loads.endpoints.len(), &mut loads.adapters);
            loads.endpoints.extend(pool.endpoints().iter().map(|endpoint| endpoint.load(now)));
        }
        loads
    }

    /// The snapshot of this moment for a reader that has what `known` names.
    #[must_use]
    pub fn snapshot(&self, now: Duration, wall_ms: u64, known: Option<Tag>) -> Snapshot {
        let is_known =
            known.is_some_and(|tag| (tag.epoch, tag.membership_version) == (self.epoch, self.membership_version));
        Snapshot { membership: (!is_known).then(|| self.membership()), loads: self.loads(now, wall_ms) }
    }

    /// Why the sidecar is not ready: a pool that was never discovered, or an endpoint that was never tried. An endpoint that has
    /// not responded within the staleness limit no longer counts. Empty when ready.
    #[must_use]
    pub fn unready_reasons(&self, now: Duration) -> Vec<String> {
        let mut reasons = Vec::new();
        for pool in &self.pools {
            if !pool.discovered {
                let why = pool.problem.as_deref().unwrap_or("discovery has not finished");
                reasons.push(format!("pool {}: {why}", pool.name));
            }
            let is_due =
                |endpoint: &&EndpointState| !endpoint.tried && now.saturating_sub(endpoint.listed_at) <= self.staleness;
            let untried = pool.endpoints().iter().filter(is_due);
            reasons.extend(
                untried.map(|endpoint| format!("pool {}: {} was not scraped yet", pool.name, endpoint.target.address)),
            );
        }
        reasons
    }
}

#[cfg(test)]
mod tests {
    use snapshot::{EndpointIdentity, Load, State};

    use super::*;
    use crate::pool::MAX_NAMES;
    use crate::signals::Lora;

    const STALENESS: Duration = Duration::from_secs(2);
    const TOOK: Duration = Duration::from_millis(3);

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn fleet(ports: &[u16]) -> Fleet {
        let mut fleet = Fleet::new(9, STALENESS, ["p".to_owned()]);
        fleet.discovered(0, ports.iter().map(|port| DiscoveredPod::new(address(*port))).collect(), at(0));
        fleet
    }

    fn waiting(count: u32) -> Signals {
        Signals { waiting: Some(count), kv_cache_usage: Some(0.5), ..Signals::default() }
    }

    #[test]
    fn an_endpoint_goes_from_unknown_to_fresh_to_stale_and_back() {
        let mut fleet = fleet(&[1]);
        assert_eq!(fleet.membership().pools[0].endpoints[0], EndpointIdentity::unnamed(address(1)));
        assert_eq!(fleet.loads(at(0), 0).endpoints, [Load::default()]);
        let change = fleet.scraped(0, address(1), at(10), TOOK, waiting(1)).unwrap();
        assert_eq!((change.from, change.to), (State::Unknown, State::Fresh));
        assert!(fleet.advance(at(2010)).is_empty());
        let changes = fleet.advance(at(2011));
        assert_eq!((changes[0].from, changes[0].to), (State::Fresh, State::Stale));
        let change = fleet.scraped(0, address(1), at(3000), TOOK, waiting(1)).unwrap();
        assert_eq!((change.from, change.to), (State::Stale, State::Fresh));
    }

    #[test]
    fn the_generation_grows_with_content_and_not_with_time() {
        let mut fleet = fleet(&[1]);
        fleet.scraped(0, address(1), at(10), TOOK, waiting(1));
        let generation = fleet.tag().generation;
        fleet.scraped(0, address(1), at(60), TOOK, waiting(1));
        fleet.scraped(0, address(1), at(60), TOOK, Signals { kv_cache_usage: Some(0.500_04), ..waiting(1) });
        fleet.advance(at(100));
        fleet.scrape_failed(0, address(1), TOOK, Outcome::Timeout, "late".to_owned());
        assert_eq!(fleet.tag().generation, generation);
        fleet.scraped(0, address(1), at(110), TOOK, waiting(2));
        assert_eq!(fleet.tag().generation, generation + 1);
        fleet.scraped(0, address(1), at(120), TOOK, Signals { kv_cache_usage: Some(0.501), ..waiting(2) });
        assert_eq!(fleet.tag().generation, generation + 2);
        fleet.advance(at(5000));
        assert_eq!(fleet.tag().generation, generation + 3, "staleness is content");
    }

    #[test]
    fn what_is_published_is_in_whole_steps_and_aged_at_the_capture() {
        let mut fleet = fleet(&[1]);
        fleet.scraped(0, address(1), at(10), TOOK, Signals { kv_cache_usage: Some(0.123_45), ..waiting(7) });
        let snapshot = fleet.snapshot(at(40), 1234, None);
        let load = &snapshot.loads.endpoints[0];
        assert_eq!((load.age_ms, load.waiting, load.kv_cache_usage), (Some(30), Some(7), Some(0.123)));
        assert_eq!((snapshot.loads.epoch, snapshot.loads.captured_at_ms), (9, 1234));
        assert_eq!(Snapshot::decode(&snapshot.encode()), Ok(snapshot));
    }

    #[test]
    fn endpoints_that_stay_listed_keep_what_is_known_and_their_order() {
        let mut fleet = fleet(&[2, 4]);
        fleet.scraped(0, address(4), at(10), TOOK, waiting(5));
        fleet.discovered(0, [3, 4, 1].map(|port| DiscoveredPod::new(address(port))).to_vec(), at(20));
        let seen = |fleet: &Fleet| -> Vec<_> {
            let endpoints = fleet.membership().pools.remove(0).endpoints;
            endpoints
                .iter()
                .zip(fleet.loads(at(20), 0).endpoints)
                .map(|(one, load)| (one.address.port(), load.waiting))
                .collect()
        };
        assert_eq!(seen(&fleet), [(4, Some(5)), (1, None), (3, None)]);
        let tag = fleet.tag();
        fleet.discovered(0, [1, 3, 4].map(|port| DiscoveredPod::new(address(port))).to_vec(), at(30));
        assert_eq!(fleet.tag(), tag, "the order of a listing is not content");
        assert_eq!(seen(&fleet)[0], (4, Some(5)));
        fleet.discovered(0, Vec::new(), at(40));
        assert_eq!(seen(&fleet), [], "a pool that was scaled to zero is empty");
    }

    #[test]
    fn the_membership_changes_with_identities_and_names_and_not_with_load() {
        let mut fleet = fleet(&[1, 2]);
        let mut last = fleet.tag().membership_version;
        let mut grows = |fleet: &Fleet, by: u64, why: &str| {
            last += by;
            assert_eq!(fleet.tag().membership_version, last, "{why}");
        };
        fleet.scraped(0, address(1), at(10), TOOK, waiting(1));
        fleet.discovered(
            0,
            vec![DiscoveredPod { unready: true, ..DiscoveredPod::new(address(1)) }, DiscoveredPod::new(address(2))],
            at(20),
        );
        fleet.advance(at(9000));
        grows(&fleet, 0, "load, health and age");
        fleet.discovered(
            0,
            vec![DiscoveredPod { pod: "a".into(), ..DiscoveredPod::new(address(1)) }, DiscoveredPod::new(address(2))],
            at(20),
        );
        grows(&fleet, 1, "a pod's name");
        let lora =
            |names: &[&str]| Some(Lora { running: names.iter().map(|&name| name.into()).collect(), ..Lora::default() });
        fleet.scraped(0, address(1), at(30), TOOK, Signals { lora: lora(&["x", "y"]), ..waiting(1) });
        grows(&fleet, 1, "adapters of a name not known yet");
        fleet.scraped(0, address(1), at(40), TOOK, Signals { lora: lora(&["y"]), ..waiting(1) });
        fleet.scraped(0, address(2), at(40), TOOK, Signals { lora: lora(&["x"]), ..waiting(1) });
        grows(&fleet, 0, "another use of known adapters");
        let uses: Vec<_> = fleet.loads(at(40), 0).adapters.iter().map(|one| (one.endpoint, one.adapter)).collect();
        assert_eq!(uses, [(0, 1), (1, 0)]);
        fleet.models_listed(0, address(2), vec!["m".into(), "a".into(), "m".into()]);
        grows(&fleet, 1, "models");
        fleet.models_listed(0, address(1), vec!["m".into()]);
        grows(&fleet, 0, "models that another endpoint lists as well");
        assert_eq!(fleet.membership().pools[0].models, ["a", "m"]);
        fleet.discovered(0, vec![DiscoveredPod { pod: "a".into(), ..DiscoveredPod::new(address(1)) }], at(50));
        grows(&fleet, 1, "an endpoint that has left");
        assert_eq!(fleet.membership().pools[0].models, ["m"]);
        let snapshot = fleet.snapshot(at(50), 0, Some(fleet.tag()));
        assert_eq!(snapshot.membership, None);
        assert!(snapshot.loads.belong_to(&fleet.membership()));
    }

    #[test]
    fn names_of_models_and_adapters_are_bounded() {
        let mut fleet = fleet(&[1]);
        let names = |range: std::ops::Range<usize>| range.map(|index| format!("{index:05}")).collect::<Vec<_>>();
        fleet.models_listed(0, address(1), names(0..MAX_NAMES + 7));
        assert_eq!((fleet.membership().pools[0].models.len(), fleet.pools()[0].models_left_out), (MAX_NAMES, 7));
        for start in 0..30 {
            let running = names(start * 100..start * 100 + 100);
            let signals = Signals { lora: Some(Lora { running, ..Lora::default() }), ..waiting(1) };
            fleet.scraped(0, address(1), at(10), TOOK, signals);
            let adapters = &fleet.membership().pools[0].adapters;
            assert!(adapters.len() <= MAX_NAMES);
            let uses = fleet.loads(at(10), 0).adapters;
            assert_eq!(uses.len(), 100, "those in use are always named");
            assert!(uses.iter().all(|one| adapters[one.adapter as usize] >= format!("{:05}", start * 100)));
        }
    }

    #[test]
    fn a_slow_page_is_stale_throughout_and_yields_its_load() {
        let mut fleet = fleet(&[1]);
        for seconds in [5, 15, 25] {
            fleet.scraped(0, address(1), at(seconds * 1000), Duration::from_secs(5), waiting(3));
            let load = fleet.loads(at(seconds * 1000 + 700), 0).endpoints[0];
            assert_eq!((load.state, load.waiting, load.age_ms), (State::Stale, Some(3), Some(700)));
        }
        fleet.scraped(0, address(1), at(30_000), TOOK, waiting(3));
        assert_eq!(fleet.loads(at(30_000), 0).endpoints[0].state, State::Fresh);
    }

    #[test]
    fn endpoints_of_all_pools_together_are_bounded() {
        let mut fleet = Fleet::new(1, STALENESS, ["a".to_owned(), "b".to_owned()]);
        let many =
            |ip: u8| (0..7000).map(|port| DiscoveredPod::new(SocketAddr::from(([10, 0, 0, ip], 1 + port)))).collect();
        fleet.discovered(0, many(1), at(0));
        fleet.discovered(1, many(2), at(0));
        assert_eq!(fleet.membership().endpoint_count(), snapshot::MAX_ENDPOINTS);
    }

    #[test]
    fn an_unready_or_sleeping_endpoint_is_not_fresh() {
        let mut fleet = fleet(&[1]);
        fleet.scraped(0, address(1), at(10), TOOK, Signals { sleeping: Some(true), ..waiting(0) });
        assert_eq!(fleet.pools()[0].endpoints()[0].state, State::Sleeping);
        fleet.discovered(0, vec![DiscoveredPod { unready: true, ..DiscoveredPod::new(address(1)) }], at(20));
        assert_eq!(fleet.pools()[0].endpoints()[0].state, State::Unready);
        fleet.discovered(0, vec![DiscoveredPod::new(address(1))], at(30));
        assert_eq!(fleet.pools()[0].endpoints()[0].state, State::Sleeping);
    }

    #[test]
    fn a_failed_discovery_keeps_the_list_and_is_news_once() {
        let mut fleet = fleet(&[1]);
        assert!(fleet.discovery_failed(0, "refused"));
        assert!(!fleet.discovery_failed(0, "refused"));
        assert_eq!(fleet.pools()[0].endpoints().len(), 1);
        assert_eq!(fleet.pools()[0].discovery_failures, 2);
    }

    #[test]
    fn readiness_waits_for_discovery_and_for_one_try_of_each_endpoint() {
        let mut fleet = Fleet::new(1, STALENESS, ["p".to_owned()]);
        fleet.discovery_failed(0, "connection refused");
        assert_eq!(fleet.unready_reasons(at(0)), ["pool p: connection refused"]);
        fleet.discovered(0, vec![DiscoveredPod::new(address(1))], at(0));
        assert_eq!(fleet.unready_reasons(at(0)), ["pool p: 10.0.0.1:1 was not scraped yet"]);
        fleet.scrape_failed(0, address(1), TOOK, Outcome::Connect, "refused".to_owned());
        assert!(fleet.unready_reasons(at(0)).is_empty(), "a dead pod must not keep the sidecar unready");
    }

    #[test]
    fn the_answer_for_an_endpoint_that_has_left_is_dropped() {
        let mut fleet = fleet(&[1]);
        let generation = fleet.tag().generation;
        assert_eq!(fleet.scraped(0, address(9), at(1), TOOK, waiting(1)), None);
        assert_eq!(fleet.tag().generation, generation);
    }
}
