//! What is known of one endpoint. Pure: time comes in as an argument, as the duration since the process started.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use snapshot::{EndpointIdentity, Load, State};

use crate::models::ModelList;
use crate::outcome::Outcome;
use crate::progress::{Incarnation, Standstill};
use crate::signals::Signals;

/// Steps of KV cache usage that count as a change. Finer ones move with every token and would publish noise.
const USAGE_STEPS: f64 = 1000.0;

/// A page that took more than the staleness limit divided by this cannot be read often enough to stay fresh, since a pod rests as
/// long as it worked.
const SLOW_SHARE: u32 = 2;

/// An endpoint as discovery lists it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DiscoveredPod {
    /// Where it serves.
    pub address: SocketAddr,
    /// Pod name, or empty.
    pub pod: String,
    /// Kubernetes namespace, or empty.
    pub namespace: String,
    /// Active health checks or the operator say that it takes no traffic.
    pub unready: bool,
    /// Position of its port among those of its pod; `None`: it is the only one, or nobody knows.
    pub rank: Option<usize>,
    /// Labels of the pod, sorted by name.
    pub labels: Vec<(String, String)>,
}

impl DiscoveredPod {
    /// One that is known by its address alone.
    #[must_use]
    pub const fn new(address: SocketAddr) -> Self {
        Self { address, pod: String::new(), namespace: String::new(), unready: false, rank: None, labels: Vec::new() }
    }

    /// Who it is; whether it takes traffic is no part of that.
    #[must_use]
    pub fn identity(&self) -> EndpointIdentity {
        EndpointIdentity {
            pod: self.pod.clone(),
            namespace: self.namespace.clone(),
            labels: self.labels.clone(),
            ..EndpointIdentity::unnamed(self.address)
        }
    }

    /// Whether both name the same endpoint in the same words.
    #[must_use]
    pub fn is_same_identity(&self, other: &Self) -> bool {
        (self.address, &self.pod, &self.namespace, self.rank, &self.labels)
            == (other.address, &other.pod, &other.namespace, other.rank, &other.labels)
    }
}

/// An endpoint's state changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Transition {
    /// Name of its pool.
    pub pool: String,
    /// Which endpoint.
    pub address: SocketAddr,
    /// What it was.
    pub from: State,
    /// What it is.
    pub to: State,
    /// What is wrong with it.
    pub problem: Option<String>,
}

/// A page that was read.
#[derive(Clone, Debug)]
pub struct PageReading {
    /// When it was read.
    pub at: Duration,
    /// How long that took.
    pub took: Duration,
    /// What it says.
    pub signals: Signals,
}

/// What is known of one endpoint.
#[derive(Clone, Debug)]
pub struct EndpointState {
    /// What discovery says.
    pub target: DiscoveredPod,
    /// When discovery listed it first.
    pub listed_at: Duration,
    /// The last good page.
    pub page: Option<PageReading>,
    /// What its `/v1/models` listed last; `None`: it never did.
    pub models: Option<Arc<ModelList>>,
    /// Its state at the last look.
    pub state: State,
    /// Whether any scrape has ended, well or badly.
    pub tried: bool,
    /// What is wrong with the last scrape.
    pub problem: Option<String>,
    incarnation: Incarnation,
    standstill: Standstill,
    is_at_rest: bool,
    outcomes: [u64; Outcome::ALL.len()],
}

impl EndpointState {
    /// One that has not been scraped.
    #[must_use]
    pub fn new(target: DiscoveredPod, listed_at: Duration) -> Self {
        Self {
            target,
            listed_at,
            page: None,
            models: None,
            state: State::Unknown,
            tried: false,
            problem: None,
            incarnation: Incarnation::default(),
            standstill: Standstill::default(),
            is_at_rest: false,
            outcomes: [0; Outcome::ALL.len()],
        }
    }

    /// Scrapes by how they ended.
    pub fn outcomes(&self) -> impl Iterator<Item = (Outcome, u64)> {
        Outcome::ALL.into_iter().zip(self.outcomes)
    }

    /// Counts a scrape.
    pub fn count(&mut self, outcome: Outcome) {
        self.tried = true;
        if let Some(count) = self.outcomes.get_mut(outcome as usize) {
            *count += 1;
        }
    }

    /// Takes a page. Returns whether it says anything new to a reader of snapshots.
    pub fn take_page(&mut self, page: PageReading) -> bool {
        let last = self.page.as_ref().map(|page| &page.signals);
        let before = self.incarnation.number();
        self.incarnation.see(&page.signals);
        self.standstill.see(&page.signals, last, page.at);
        self.problem = None;
        let has_no_request = page.signals.waiting == Some(0) && page.signals.running == Some(0);
        self.is_at_rest = has_no_request
            && last.is_some_and(|last| last.counters == page.signals.counters && are_alike(last, &page.signals));
        let is_news = !last.is_some_and(|last| are_alike(last, &page.signals)) || self.incarnation.number() != before;
        self.page = Some(page);
        is_news
    }

    /// Takes in that a page could not be read: what was known stands, and grows old.
    pub fn miss_page(&mut self, problem: String) {
        self.problem = Some(problem);
        self.standstill.miss();
    }

    /// Whether its last page shows no request, and nothing that has moved since the page before.
    #[must_use]
    pub const fn is_at_rest(&self) -> bool {
        self.is_at_rest
    }

    /// How many times the engine began anew.
    #[must_use]
    pub const fn incarnation(&self) -> u32 {
        self.incarnation.number()
    }

    /// The last good page's signals, while the endpoint is fresh.
    #[must_use]
    pub fn fresh_signals(&self) -> Option<&Signals> {
        self.page.as_ref().filter(|_| self.state == State::Fresh).map(|page| &page.signals)
    }

    /// Brings the state up to date.
    pub fn settle(&mut self, pool: &str, now: Duration, staleness: Duration) -> Option<Transition> {
        let to = self.state_at(now, staleness);
        let from = std::mem::replace(&mut self.state, to);
        (from != to).then(|| Transition {
            pool: pool.to_owned(),
            address: self.target.address,
            from,
            to,
            problem: self.trouble(),
        })
    }

    /// What is wrong with the endpoint: with the last scrape of it, or with its engine.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let frozen = self.standstill.frozen_for().filter(|_| self.state == State::Frozen);
        let frozen =
            || frozen.map(|lasts| format!("frozen: it has requests, and no counter moved for {} s", lasts.as_secs()));
        self.problem.clone().or_else(frozen)
    }

    /// A pod whose page is slow is stale throughout, rather than fresh for a moment after each page.
    fn state_at(&self, now: Duration, staleness: Duration) -> State {
        match &self.page {
            _ if self.target.unready => State::Unready,
            None => State::Unknown,
            Some(page) if now.saturating_sub(page.at) > staleness => State::Stale,
            Some(page) if page.took.saturating_mul(SLOW_SHARE) > staleness => State::Stale,
            Some(page) if page.signals.sleeping == Some(true) => State::Sleeping,
            Some(_) if self.standstill.frozen_for().is_some() => State::Frozen,
            Some(_) => State::Fresh,
        }
    }

    /// What a reader of snapshots learns.
    #[must_use]
    pub fn load(&self, now: Duration) -> Load {
        let Some(PageReading { at, signals, .. }) = &self.page else {
            return Load { state: self.state, ..Load::default() };
        };
        Load {
            state: self.state,
            age_ms: u64::try_from(now.saturating_sub(*at).as_millis()).ok(),
            waiting: signals.waiting,
            running: signals.running,
            kv_cache_usage: steps(signals.kv_cache_usage).map(|steps| steps / USAGE_STEPS),
            block_size: signals.block_size,
            num_gpu_blocks: signals.num_gpu_blocks,
            max_lora: signals.lora.as_ref().and_then(|lora| lora.max),
            started_at_ms: signals.started_at_ms,
            incarnation: self.incarnation.number(),
        }
    }
}

/// Usage in the steps that are published.
fn steps(usage: Option<f64>) -> Option<f64> {
    usage.map(|usage| (usage * USAGE_STEPS).round())
}

/// Whether two pages say the same to a reader of snapshots.
#[must_use]
pub fn are_alike(left: &Signals, right: &Signals) -> bool {
    steps(left.kv_cache_usage) == steps(right.kv_cache_usage)
        && (left.waiting, left.running, left.block_size, left.num_gpu_blocks, left.started_at_ms)
            == (right.waiting, right.running, right.block_size, right.num_gpu_blocks, right.started_at_ms)
        && left.lora == right.lora
}
