//! What is known of one pool: its endpoints in a stable order, and the names that its pods report.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use snapshot::{AdapterUse, EndpointIdentity, PoolMembers, PoolRewrite, ServedModel};

use crate::endpoint::{DiscoveredPod, EndpointState};
use crate::models::{MAX_MODELS, ModelList};
use crate::outcome::Durations;
use crate::signals::Lora;

/// Most adapter names of a pool, as many as models.
pub const MAX_ADAPTER_NAMES: usize = MAX_MODELS;

/// What a pool says of its requests, where discovery knows.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PoolPolicies {
    /// Whether requests for which nothing can be picked are refused; `None`: it does not say.
    pub fail_closed: Option<bool>,
    /// Priorities by names of objectives.
    pub objectives: BTreeMap<String, i64>,
    /// Which model is served instead of another, the one that counts first in front.
    pub rewrites: Vec<PoolRewrite>,
}

/// What is known of one pool.
#[derive(Clone, Debug)]
pub struct PoolState {
    /// Its name.
    pub name: String,
    /// Whether discovery has succeeded at least once.
    pub discovered: bool,
    /// Why the last discovery failed.
    pub problem: Option<String>,
    /// Discoveries that failed.
    pub discovery_failures: u64,
    /// Times that it was written for Envoy.
    pub eds_writes: u64,
    /// Times that it could not be.
    pub eds_failures: u64,
    /// What it says of its requests.
    pub policies: PoolPolicies,
    /// Listings of models that failed.
    pub models_failures: u64,
    /// How long scrapes took.
    pub durations: Durations,
    /// Models that are left out because there are more than [`MAX_MODELS`] or their names do not fit.
    pub models_left_out: usize,
    endpoints: Vec<EndpointState>,
    positions: HashMap<SocketAddr, usize>,
    adapters: Vec<String>,
    models: Vec<ServedModel>,
}

impl PoolState {
    /// A pool of which nothing is known yet.
    #[must_use]
    pub fn new(name: String) -> Self {
        Self {
            name,
            discovered: false,
            problem: None,
            discovery_failures: 0,
            eds_writes: 0,
            policies: PoolPolicies::default(),
            eds_failures: 0,
            models_failures: 0,
            durations: Durations::default(),
            models_left_out: 0,
            endpoints: Vec::new(),
            positions: HashMap::new(),
            adapters: Vec::new(),
            models: Vec::new(),
        }
    }

    /// In the order in which they were discovered; those discovered together by address.
    #[must_use]
    pub fn endpoints(&self) -> &[EndpointState] {
        &self.endpoints
    }

    /// The same, to be changed.
    pub fn endpoints_mut(&mut self) -> &mut [EndpointState] {
        &mut self.endpoints
    }

    /// The endpoint at that address.
    pub fn find(&mut self, address: SocketAddr) -> Option<&mut EndpointState> {
        self.positions.get(&address).and_then(|at| self.endpoints.get_mut(*at))
    }

    /// Takes a new list of at most `room` endpoints. Endpoints that stay keep what is known of them and their order. Returns
    /// whether an identity or a name changed.
    pub fn list(&mut self, mut targets: Vec<DiscoveredPod>, room: usize, now: Duration) -> bool {
        targets.sort_by_key(|target| target.address);
        targets.dedup_by_key(|target| target.address);
        targets.truncate(room);
        let mut listed: HashMap<SocketAddr, DiscoveredPod> =
            targets.iter().map(|target| (target.address, target.clone())).collect();
        let before = self.endpoints.len();
        let mut changed = false;
        self.endpoints.retain_mut(|endpoint| {
            let Some(target) = listed.remove(&endpoint.target.address) else { return false };
            changed |= !endpoint.target.is_same_identity(&target);
            endpoint.target = target;
            true
        });
        changed |= self.endpoints.len() != before || !listed.is_empty();
        let new = targets.into_iter().filter(|target| listed.contains_key(&target.address));
        self.endpoints.extend(new.map(|target| EndpointState::new(target, now)));
        if changed {
            let addresses = self.endpoints.iter().map(|endpoint| endpoint.target.address);
            self.positions = addresses.enumerate().map(|(at, address)| (address, at)).collect();
            self.unite_models();
        }
        changed
    }

    /// Takes the adapters that a page names. Returns whether the pool's list changed.
    pub fn name_adapters(&mut self, lora: &Lora) -> bool {
        let known: HashSet<&str> = self.adapters.iter().map(String::as_str).collect();
        let new: BTreeSet<&String> =
            lora.running.iter().chain(&lora.waiting).filter(|name| !known.contains(name.as_str())).collect();
        if new.is_empty() {
            return false;
        }
        if self.adapters.len() + new.len() > MAX_ADAPTER_NAMES {
            return self.rename_adapters();
        }
        let new: Vec<String> = new.into_iter().cloned().collect();
        self.adapters.extend(new);
        true
    }

    /// Only the adapters that are in use, as many as there is room for.
    fn rename_adapters(&mut self) -> bool {
        let loras = self.endpoints.iter().filter_map(|endpoint| endpoint.page.as_ref()?.signals.lora.as_ref());
        let used: BTreeSet<&String> = loras.flat_map(|lora| lora.running.iter().chain(&lora.waiting)).collect();
        let names: Vec<String> = used.into_iter().take(MAX_ADAPTER_NAMES).cloned().collect();
        let changed = names != self.adapters;
        self.adapters = names;
        changed
    }

    /// Takes what an endpoint serves. Returns whether that is news.
    pub fn list_models(&mut self, address: SocketAddr, list: ModelList) -> bool {
        // Pods of a pool nearly always list the same, which is then kept once.
        let same = self.endpoints.iter().find_map(|endpoint| endpoint.models.as_ref().filter(|known| ***known == list));
        let list = same.map_or_else(|| Arc::new(list), Arc::clone);
        let Some(endpoint) = self.find(address) else { return false };
        if endpoint.models.as_ref() == Some(&list) {
            return false;
        }
        endpoint.models = Some(list);
        self.unite_models();
        true
    }

    fn unite_models(&mut self) {
        let lists: HashMap<*const ModelList, &ModelList> = self
            .endpoints
            .iter()
            .filter_map(|endpoint| endpoint.models.as_deref())
            .map(|list| (&raw const *list, list))
            .collect();
        let models: BTreeSet<&ServedModel> = lists.values().flat_map(|list| &list.models).collect();
        let cut = lists.values().map(|list| list.left_out).max().unwrap_or(0);
        self.models_left_out = models.len().saturating_sub(MAX_MODELS) + cut;
        self.models = models.into_iter().take(MAX_MODELS).cloned().collect();
    }

    /// The pool as readers of snapshots see it.
    #[must_use]
    pub fn members(&self) -> PoolMembers {
        let mut served: HashMap<*const ModelList, Option<Vec<u32>>> = HashMap::new();
        let endpoints = self.endpoints.iter().map(|endpoint| {
            let models = endpoint
                .models
                .as_deref()
                .and_then(|list| served.entry(&raw const *list).or_insert_with(|| self.positions_of(list)).clone());
            EndpointIdentity { models, ..endpoint.target.identity() }
        });
        PoolMembers {
            name: self.name.clone(),
            endpoints: endpoints.collect(),
            adapters: self.adapters.clone(),
            models: self.models.clone(),
            fail_closed: self.policies.fail_closed,
            objectives: self.policies.objectives.clone(),
            rewrites: self.policies.rewrites.clone(),
        }
    }

    /// Where the pool's list has what an endpoint serves; `None` when something of that was left out.
    fn positions_of(&self, list: &ModelList) -> Option<Vec<u32>> {
        let position = |model| u32::try_from(self.models.binary_search(model).ok()?).ok();
        let positions = list.models.iter().map(position).collect::<Option<Vec<u32>>>();
        positions.filter(|_| list.left_out == 0)
    }

    /// Adds which adapters are in use; `first` is the position of the pool's first endpoint among all.
    pub fn add_adapter_uses(&self, first: usize, uses: &mut Vec<AdapterUse>) {
        let mut positions: HashMap<&str, u32> = HashMap::new();
        for (endpoint, position) in self.endpoints.iter().zip(first..) {
            let Some(lora) = endpoint.page.as_ref().and_then(|page| page.signals.lora.as_ref()) else { continue };
            if positions.is_empty() {
                positions = self.adapters.iter().map(String::as_str).zip(0..).collect();
            }
            let Ok(endpoint) = u32::try_from(position) else { return };
            let lists = [(&lora.running, false), (&lora.waiting, true)];
            uses.extend(lists.into_iter().flat_map(|(names, waiting)| {
                let known = names.iter().filter_map(|name| positions.get(name.as_str()));
                known.map(move |adapter| AdapterUse { endpoint, adapter: *adapter, waiting })
            }));
        }
    }
}
