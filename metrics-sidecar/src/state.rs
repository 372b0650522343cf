//! What is known of every endpoint. Pure: time comes in as an argument, as the duration since the process started.

use std::net::SocketAddr;
use std::time::Duration;

use snapshot::{Endpoint, Pool, Snapshot, State};

use crate::signals::Signals;

/// Steps of KV cache usage that count as a change. Finer ones move with every token and would publish noise.
const USAGE_STEPS: f64 = 1000.0;

/// Upper bounds of the scrape duration's buckets in seconds, as `le` shows them: from a loopback answer to the longest timeout in use.
pub const DURATION_LE: [&str; 12] =
    ["0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5"];

const DURATION_LIMITS_MICROSECONDS: [u128; 12] =
    [500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000];

/// An endpoint as discovery lists it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// Where it serves.
    pub address: SocketAddr,
    /// Pod name, or empty.
    pub pod: String,
    /// Kubernetes namespace, or empty.
    pub namespace: String,
    /// The proxy or the operator says that it takes no traffic.
    pub unready: bool,
}

impl Target {
    /// One that is known by its address alone.
    #[must_use]
    pub const fn new(address: SocketAddr) -> Self {
        Self { address, pod: String::new(), namespace: String::new(), unready: false }
    }
}

/// How a scrape ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Outcome {
    /// A page was read.
    Success,
    /// No connection.
    Connect,
    /// The connection broke, or the answer was not HTTP.
    Protocol,
    /// No complete answer in time.
    Timeout,
    /// A status other than 200.
    Status,
    /// A page above the size limit.
    TooLarge,
    /// A page that is not metrics, or with a wanted line that cannot be read.
    Malformed,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 7] =
        [Self::Success, Self::Connect, Self::Protocol, Self::Timeout, Self::Status, Self::TooLarge, Self::Malformed];

    /// Its value of the label `outcome`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Connect => "connect",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
        }
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
    /// What is wrong with its last scrape.
    pub problem: Option<String>,
}

/// Scrape durations of one pool. Buckets are not cumulative; the page adds them up.
#[derive(Clone, Debug, Default)]
pub struct Durations {
    /// One a bound of [`DURATION_LE`], and one for all above.
    pub buckets: [u64; DURATION_LE.len() + 1],
    /// Sum in microseconds.
    pub sum_microseconds: u128,
}

impl Durations {
    fn record(&mut self, took: Duration) {
        let micros = took.as_micros();
        let bucket = DURATION_LIMITS_MICROSECONDS.partition_point(|limit| *limit < micros);
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count += 1;
        }
        self.sum_microseconds += micros;
    }
}

/// What is known of one endpoint.
#[derive(Clone, Debug)]
pub struct EndpointState {
    /// What discovery says.
    pub target: Target,
    /// The last good page and when it was read.
    pub page: Option<(Duration, Signals)>,
    /// Its state at the last look.
    pub state: State,
    /// Whether any scrape has ended, well or badly.
    pub tried: bool,
    /// What is wrong with the last scrape.
    pub problem: Option<String>,
    outcomes: [u64; Outcome::ALL.len()],
}

impl EndpointState {
    fn new(target: Target) -> Self {
        Self {
            target,
            page: None,
            state: State::Unknown,
            tried: false,
            problem: None,
            outcomes: [0; Outcome::ALL.len()],
        }
    }

    /// Scrapes by how they ended.
    pub fn outcomes(&self) -> impl Iterator<Item = (Outcome, u64)> {
        Outcome::ALL.into_iter().zip(self.outcomes)
    }

    /// The last good page's signals, while the endpoint is fresh.
    #[must_use]
    pub fn fresh_signals(&self) -> Option<&Signals> {
        self.page.as_ref().filter(|_| self.state == State::Fresh).map(|(_, signals)| signals)
    }

    fn state_at(&self, now: Duration, staleness: Duration) -> State {
        match &self.page {
            _ if self.target.unready => State::Unready,
            None => State::Unknown,
            Some((at, _)) if now.saturating_sub(*at) > staleness => State::Stale,
            Some((_, signals)) if signals.sleeping == Some(true) => State::Sleeping,
            Some(_) => State::Fresh,
        }
    }
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
    /// Sorted by address.
    pub endpoints: Vec<EndpointState>,
    /// How long scrapes took.
    pub durations: Durations,
}

/// Everything that the sidecar knows of its pools.
#[derive(Clone, Debug)]
pub struct Fleet {
    epoch: u64,
    generation: u64,
    staleness: Duration,
    pools: Vec<PoolState>,
}

impl Fleet {
    /// Pools of which nothing is known yet. `epoch` is a random number.
    #[must_use]
    pub fn new(epoch: u64, staleness: Duration, names: impl IntoIterator<Item = String>) -> Self {
        let pools = names
            .into_iter()
            .map(|name| PoolState {
                name,
                discovered: false,
                problem: None,
                discovery_failures: 0,
                endpoints: Vec::new(),
                durations: Durations::default(),
            })
            .collect();
        Self { epoch, generation: 1, staleness, pools }
    }

    /// The pools, in the order of the configuration.
    #[must_use]
    pub fn pools(&self) -> &[PoolState] {
        &self.pools
    }

    /// Random number of this process.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Number of the present content; grows by one with each change of it.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Takes a pool's new list. Endpoints that stay keep what is known of them.
    pub fn discovered(&mut self, pool: usize, mut targets: Vec<Target>, now: Duration) -> Vec<Transition> {
        let Some(pool) = self.pools.get_mut(pool) else { return Vec::new() };
        targets.sort_by_key(|target| target.address);
        targets.dedup_by_key(|target| target.address);
        targets.truncate(snapshot::MAX_ENDPOINTS);
        pool.problem = None;
        let first = !std::mem::replace(&mut pool.discovered, true);
        if targets.iter().eq(pool.endpoints.iter().map(|endpoint| &endpoint.target)) {
            self.generation += u64::from(first);
            return Vec::new();
        }
        let mut known = std::mem::take(&mut pool.endpoints);
        pool.endpoints = targets
            .into_iter()
            .map(|target| match known.binary_search_by_key(&target.address, |endpoint| endpoint.target.address) {
                Ok(at) => {
                    let mut endpoint = known.remove(at);
                    endpoint.target = target;
                    endpoint
                }
                Err(_) => EndpointState::new(target),
            })
            .collect();
        self.generation += 1;
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
        let staleness = self.staleness;
        let (pool, endpoint) = self.find(pool, address, Outcome::Success, took)?;
        let same = endpoint.page.as_ref().is_some_and(|(_, known)| alike(known, &signals));
        endpoint.problem = None;
        endpoint.page = Some((now, signals));
        let change = settle(&pool, endpoint, now, staleness);
        self.generation += u64::from(change.is_some() || !same);
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
        if let Some((_, endpoint)) = self.find(pool, address, outcome, took) {
            endpoint.problem = Some(problem);
        }
    }

    /// Lets time pass: endpoints whose pages have grown old become stale.
    pub fn advance(&mut self, now: Duration) -> Vec<Transition> {
        let mut changes = Vec::new();
        for pool in &mut self.pools {
            for endpoint in &mut pool.endpoints {
                changes.extend(settle(&pool.name, endpoint, now, self.staleness));
            }
        }
        self.generation += u64::from(!changes.is_empty());
        changes
    }

    /// The snapshot of this moment; `wall_ms` is the wall clock in milliseconds since the Unix epoch.
    #[must_use]
    pub fn snapshot(&self, now: Duration, wall_ms: u64) -> Snapshot {
        Snapshot {
            epoch: self.epoch,
            generation: self.generation,
            captured_at_ms: wall_ms,
            pools: self
                .pools
                .iter()
                .map(|pool| Pool {
                    name: pool.name.clone(),
                    endpoints: pool.endpoints.iter().map(|endpoint| publish(endpoint, now)).collect(),
                })
                .collect(),
        }
    }

    /// Why the sidecar is not ready: a pool that was never discovered or an endpoint that was never tried. Empty when ready.
    #[must_use]
    pub fn unready_reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        for pool in &self.pools {
            if !pool.discovered {
                let why = pool.problem.as_deref().unwrap_or("discovery has not finished");
                reasons.push(format!("pool {}: {why}", pool.name));
            }
            reasons.extend(
                pool.endpoints
                    .iter()
                    .filter(|endpoint| !endpoint.tried)
                    .map(|endpoint| format!("pool {}: {} was not scraped yet", pool.name, endpoint.target.address)),
            );
        }
        reasons
    }

    fn find(
        &mut self,
        pool: usize,
        address: SocketAddr,
        outcome: Outcome,
        took: Duration,
    ) -> Option<(String, &mut EndpointState)> {
        let pool = self.pools.get_mut(pool)?;
        let at = pool.endpoints.binary_search_by_key(&address, |endpoint| endpoint.target.address).ok()?;
        let endpoint = pool.endpoints.get_mut(at)?;
        pool.durations.record(took);
        endpoint.tried = true;
        if let Some(count) = endpoint.outcomes.get_mut(outcome as usize) {
            *count += 1;
        }
        Some((pool.name.clone(), endpoint))
    }
}

fn settle(pool: &str, endpoint: &mut EndpointState, now: Duration, staleness: Duration) -> Option<Transition> {
    let to = endpoint.state_at(now, staleness);
    let from = std::mem::replace(&mut endpoint.state, to);
    (from != to).then(|| Transition {
        pool: pool.to_owned(),
        address: endpoint.target.address,
        from,
        to,
        problem: endpoint.problem.clone(),
    })
}

/// Usage in the steps that are published.
fn steps(usage: Option<f64>) -> Option<f64> {
    usage.map(|usage| (usage * USAGE_STEPS).round())
}

/// Whether two pages say the same to a reader of snapshots.
fn alike(left: &Signals, right: &Signals) -> bool {
    steps(left.kv_cache_usage) == steps(right.kv_cache_usage)
        && (left.waiting, left.running, left.block_size, left.num_gpu_blocks)
            == (right.waiting, right.running, right.block_size, right.num_gpu_blocks)
        && left.lora == right.lora
}

fn publish(endpoint: &EndpointState, now: Duration) -> Endpoint {
    let known = Endpoint {
        pod: endpoint.target.pod.clone(),
        namespace: endpoint.target.namespace.clone(),
        state: endpoint.state,
        ..Endpoint::unknown(endpoint.target.address)
    };
    let Some((at, signals)) = &endpoint.page else { return known };
    let lora = signals.lora.clone().unwrap_or_default();
    Endpoint {
        age_ms: u64::try_from(now.saturating_sub(*at).as_millis()).ok(),
        waiting: signals.waiting,
        running: signals.running,
        kv_cache_usage: steps(signals.kv_cache_usage).map(|steps| steps / USAGE_STEPS),
        block_size: signals.block_size,
        num_gpu_blocks: signals.num_gpu_blocks,
        max_lora: lora.max,
        running_adapters: lora.running,
        waiting_adapters: lora.waiting,
        ..known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        fleet.discovered(0, ports.iter().map(|port| Target::new(address(*port))).collect(), at(0));
        fleet
    }

    fn waiting(count: u32) -> Signals {
        Signals { waiting: Some(count), kv_cache_usage: Some(0.5), ..Signals::default() }
    }

    #[test]
    fn an_endpoint_goes_from_unknown_to_fresh_to_stale_and_back() {
        let mut fleet = fleet(&[1]);
        assert_eq!(fleet.snapshot(at(0), 0).pools[0].endpoints[0], Endpoint::unknown(address(1)));
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
        let generation = fleet.generation();
        fleet.scraped(0, address(1), at(60), TOOK, waiting(1));
        fleet.scraped(0, address(1), at(60), TOOK, Signals { kv_cache_usage: Some(0.500_04), ..waiting(1) });
        fleet.advance(at(100));
        fleet.scrape_failed(0, address(1), TOOK, Outcome::Timeout, "late".to_owned());
        assert_eq!(fleet.generation(), generation);
        fleet.scraped(0, address(1), at(110), TOOK, waiting(2));
        assert_eq!(fleet.generation(), generation + 1);
        fleet.scraped(0, address(1), at(120), TOOK, Signals { kv_cache_usage: Some(0.501), ..waiting(2) });
        assert_eq!(fleet.generation(), generation + 2);
        fleet.advance(at(5000));
        assert_eq!(fleet.generation(), generation + 3, "staleness is content");
    }

    #[test]
    fn what_is_published_is_in_whole_steps_and_aged_at_the_capture() {
        let mut fleet = fleet(&[1]);
        fleet.scraped(0, address(1), at(10), TOOK, Signals { kv_cache_usage: Some(0.123_45), ..waiting(7) });
        let snapshot = fleet.snapshot(at(40), 1234);
        let endpoint = &snapshot.pools[0].endpoints[0];
        assert_eq!((endpoint.age_ms, endpoint.waiting, endpoint.kv_cache_usage), (Some(30), Some(7), Some(0.123)));
        assert_eq!((snapshot.epoch, snapshot.captured_at_ms), (9, 1234));
        assert_eq!(Snapshot::decode(&snapshot.encode()), Ok(snapshot));
    }

    #[test]
    fn endpoints_that_stay_listed_keep_what_is_known() {
        let mut fleet = fleet(&[1, 2]);
        fleet.scraped(0, address(2), at(10), TOOK, waiting(5));
        fleet.discovered(0, vec![Target::new(address(3)), Target::new(address(2))], at(20));
        let snapshot = fleet.snapshot(at(20), 0);
        let seen: Vec<_> = snapshot.pools[0].endpoints.iter().map(|one| (one.address.port(), one.waiting)).collect();
        assert_eq!(seen, [(2, Some(5)), (3, None)]);
        let generation = fleet.generation();
        fleet.discovered(0, vec![Target::new(address(2)), Target::new(address(3))], at(30));
        assert_eq!(fleet.generation(), generation, "the order of a listing is not content");
    }

    #[test]
    fn an_unready_or_sleeping_endpoint_is_not_fresh() {
        let mut fleet = fleet(&[1]);
        fleet.scraped(0, address(1), at(10), TOOK, Signals { sleeping: Some(true), ..waiting(0) });
        assert_eq!(fleet.pools()[0].endpoints[0].state, State::Sleeping);
        fleet.discovered(0, vec![Target { unready: true, ..Target::new(address(1)) }], at(20));
        assert_eq!(fleet.pools()[0].endpoints[0].state, State::Unready);
        fleet.discovered(0, vec![Target::new(address(1))], at(30));
        assert_eq!(fleet.pools()[0].endpoints[0].state, State::Sleeping);
    }

    #[test]
    fn a_failed_discovery_keeps_the_list_and_is_news_once() {
        let mut fleet = fleet(&[1]);
        assert!(fleet.discovery_failed(0, "refused"));
        assert!(!fleet.discovery_failed(0, "refused"));
        assert_eq!(fleet.pools()[0].endpoints.len(), 1);
        assert_eq!(fleet.pools()[0].discovery_failures, 2);
    }

    #[test]
    fn readiness_waits_for_discovery_and_for_one_try_of_each_endpoint() {
        let mut fleet = Fleet::new(1, STALENESS, ["p".to_owned()]);
        fleet.discovery_failed(0, "connection refused");
        assert_eq!(fleet.unready_reasons(), ["pool p: connection refused"]);
        fleet.discovered(0, vec![Target::new(address(1))], at(0));
        assert_eq!(fleet.unready_reasons(), ["pool p: 10.0.0.1:1 was not scraped yet"]);
        fleet.scrape_failed(0, address(1), TOOK, Outcome::Connect, "refused".to_owned());
        assert!(fleet.unready_reasons().is_empty(), "a dead pod must not keep the sidecar unready");
    }

    #[test]
    fn the_answer_for_an_endpoint_that_has_left_is_dropped() {
        let mut fleet = fleet(&[1]);
        let generation = fleet.generation();
        assert_eq!(fleet.scraped(0, address(9), at(1), TOOK, waiting(1)), None);
        assert_eq!(fleet.generation(), generation);
    }
}
