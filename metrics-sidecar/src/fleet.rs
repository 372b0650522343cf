//! What is known of every pool, and the versions that readers of snapshots go by. Pure: time comes in as an argument, as the
//! duration since the process started.

use std::net::SocketAddr;
use std::time::Duration;

use snapshot::{Loads, Membership, Snapshot, Tag};

use crate::endpoint::{DiscoveredPod, EndpointState, PageReading, Transition};
use crate::models::ModelList;
use crate::outcome::Outcome;
use crate::pool::{PoolPolicies, PoolState};
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

    /// A pool's endpoints are from an earlier run, and nobody has confirmed them yet.
    pub fn unconfirmed(&mut self, pool: usize) {
        if let Some(pool) = self.pools.get_mut(pool) {
            pool.discovered = false;
        }
    }

    /// Takes what a pool says of its requests.
    pub fn take_policies(&mut self, pool: usize, policies: PoolPolicies) {
        let Some(pool) = self.pools.get_mut(pool).filter(|pool| pool.policies != policies) else { return };
        pool.policies = policies;
        self.membership_version += 1;
        self.generation += 1;
    }

    /// A pool can be listed again, and its list is what it was.
    pub fn discovery_recovered(&mut self, pool: usize) {
        if let Some(pool) = self.pools.get_mut(pool) {
            pool.problem = None;
        }
    }

    /// A pool was written for Envoy, or could not be.
    pub fn eds_written(&mut self, pool: usize, is_success: bool) {
        if let Some(pool) = self.pools.get_mut(pool) {
            let count = if is_success { &mut pool.eds_writes } else { &mut pool.eds_failures };
            *count += 1;
        }
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
        let last = endpoint.page.as_ref().and_then(|page| page.signals.lora.as_ref());
        let lora = signals.lora.as_ref().filter(|lora| last != Some(*lora)).cloned();
        let is_news = endpoint.take_page(PageReading { at: now, took, signals });
        let named = lora.is_some_and(|lora| pool.name_adapters(&lora));
        pool.durations.record(took);
        let name = pool.name.clone();
        let change = pool.find(address)?.settle(&name, now, self.staleness);
        self.membership_version += u64::from(named);
        self.generation += u64::from(named || change.is_some() || is_news);
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
        endpoint.miss_page(problem);
        pool.durations.record(took);
    }

    /// Whether the endpoint at that address has nothing to do and nothing to tell.
    #[must_use]
    pub fn is_at_rest(&mut self, pool: usize, address: SocketAddr) -> bool {
        self.pools.get_mut(pool).and_then(|pool| pool.find(address)).is_some_and(|endpoint| endpoint.is_at_rest())
    }

    /// How many times the engine at that address began anew; `None`: it is not listed.
    #[must_use]
    pub fn incarnation(&mut self, pool: usize, address: SocketAddr) -> Option<u32> {
        Some(self.pools.get_mut(pool)?.find(address)?.incarnation())
    }

    /// An endpoint listed its models.
    pub fn models_listed(&mut self, pool: usize, address: SocketAddr, list: ModelList) {
        let changed = self.pools.get_mut(pool).is_some_and(|pool| pool.list_models(address, list));
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
mod tests;
