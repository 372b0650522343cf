//! The running process: tasks that discover, poll and let time pass, around one shared fleet.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tracing::{info, warn};

use crate::config::{Admin, Config, Source};
use crate::discovery::{Clusters, MAX_CLUSTERS_BYTES, clusters_path, resolve};
use crate::gauges::state_name;
use crate::scrape::{Buffers, Client, Pace, Peer};
use crate::serve;
use crate::signals::Signals;
use crate::state::{Fleet, Outcome, Target, Transition};

/// How often endpoints are looked at for staleness when nobody asks: well below the staleness limits in use.
const TICK: Duration = Duration::from_millis(100);

/// How long Envoy's admin endpoint may take for one answer. It runs on Envoy's main thread and walks every stat.
pub(crate) const ADMIN_TIMEOUT: Duration = Duration::from_secs(2);

/// How long answers under way may take once the sidecar is told to stop.
const GOODBYE: Duration = Duration::from_millis(300);

/// Starts sidecars.
#[derive(Debug)]
pub struct Sidecar;

/// A sidecar at work. Dropping it stops it.
#[derive(Debug)]
pub struct Running {
    addr: SocketAddr,
    tasks: JoinSet<()>,
    server: JoinHandle<()>,
    closing: watch::Sender<bool>,
    shared: Arc<Shared>,
}

impl Running {
    /// Where it serves.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops every task and closes every connection. Answers under way have a moment to finish.
    pub async fn stop(mut self) {
        let _ = self.closing.send(true);
        let _ = tokio::time::timeout(GOODBYE, &mut self.server).await;
        self.tasks.shutdown().await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.closing.send(true);
        lock(&self.shared.pollers).clear();
    }
}

impl Sidecar {
    /// Binds, and starts to discover, poll and serve on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// When the address to listen on cannot be bound.
    pub async fn start(config: Config) -> std::io::Result<Running> {
        let listener = TcpListener::bind(config.listen).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared::new(config, SmallRng::from_os_rng().random()));
        let mut tasks = JoinSet::new();
        let mut clusters = Vec::new();
        for (pool, settings) in shared.config.pools.iter().enumerate() {
            match &settings.source {
                Source::Static(targets) => shared.discovered(pool, targets.clone()),
                Source::Dns { host, port } => {
                    tasks.spawn(watch_name(Arc::clone(&shared), pool, host.clone(), *port));
                }
                Source::Envoy(cluster) => clusters.push((pool, cluster.clone())),
            }
        }
        if !clusters.is_empty() {
            tasks.spawn(watch_clusters(Arc::clone(&shared), clusters));
        }
        tasks.spawn(tick(Arc::clone(&shared)));
        let (closing, closed) = watch::channel(false);
        let server = tokio::spawn(serve::run(listener, Arc::clone(&shared), closed));
        Ok(Running { addr, tasks, server, closing, shared })
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) buffers: Buffers,
    pub(crate) snapshots_sent: AtomicU64,
    pub(crate) snapshots_unchanged: AtomicU64,
    pub(crate) encoded: Mutex<Option<serve::Encoded>>,
    fleet: Mutex<Fleet>,
    pollers: Mutex<HashMap<(usize, SocketAddr), Poller>>,
    started: Instant,
    seed: u64,
}

/// A poller's task; dropping it ends it.
#[derive(Debug)]
struct Poller(JoinHandle<()>);

impl Drop for Poller {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Shared {
    fn new(config: Config, epoch: u64) -> Self {
        let names = config.pools.iter().map(|pool| pool.name.clone());
        Self {
            fleet: Mutex::new(Fleet::new(epoch, config.staleness, names)),
            config,
            buffers: Buffers::default(),
            snapshots_sent: AtomicU64::new(0),
            snapshots_unchanged: AtomicU64::new(0),
            encoded: Mutex::new(None),
            pollers: Mutex::new(HashMap::new()),
            started: Instant::now(),
            seed: epoch,
        }
    }

    /// Time since the start, as the fleet counts it.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The fleet as of now.
    pub(crate) fn fleet(&self) -> MutexGuard<'_, Fleet> {
        let mut fleet = lock(&self.fleet);
        log_changes(&fleet.advance(self.now()));
        fleet
    }

    fn discovered(self: &Arc<Self>, pool: usize, targets: Vec<Target>) {
        let mut fleet = lock(&self.fleet);
        let known = fleet.pools().get(pool).is_some_and(|pool| pool.discovered && pool.problem.is_none());
        log_changes(&fleet.discovered(pool, targets, self.now()));
        let Some(pool_state) = fleet.pools().get(pool) else { return };
        let addresses: Vec<SocketAddr> = pool_state.endpoints.iter().map(|endpoint| endpoint.target.address).collect();
        if !known {
            info!(pool = pool_state.name, endpoints = addresses.len(), "pool discovered");
        }
        drop(fleet);
        let mut pollers = lock(&self.pollers);
        pollers.retain(|(owner, address), _| *owner != pool || addresses.binary_search(address).is_ok());
        for address in addresses {
            pollers
                .entry((pool, address))
                .or_insert_with(|| Poller(tokio::spawn(poll(Arc::downgrade(self), pool, address))));
        }
    }

    fn discovery_failed(&self, pool: usize, problem: &str) {
        let mut fleet = lock(&self.fleet);
        if fleet.discovery_failed(pool, problem) {
            let name = fleet.pools().get(pool).map_or("", |pool| pool.name.as_str());
            warn!(pool = name, problem, "endpoints cannot be listed, the last list stands");
        }
    }
}

/// A panic elsewhere does not make the data worse: every change to it is complete in itself.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A client for one path of Envoy's admin endpoint.
pub(crate) fn admin_client(admin: &Admin, path: &str, max_body: usize) -> Client {
    Client::new(Peer::Name(admin.host.clone(), admin.port), &admin.to_string(), path, max_body)
}

fn log_changes(changes: &[Transition]) {
    for change in changes {
        let (from, to) = (state_name(change.from), state_name(change.to));
        let problem = change.problem.as_deref();
        info!(pool = change.pool, endpoint = %change.address, from, to, problem, "endpoint changed state");
    }
}

async fn tick(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
        drop(shared.fleet());
    }
}

async fn watch_clusters(shared: Arc<Shared>, clusters: Vec<(usize, String)>) {
    let path = clusters_path(clusters.iter().map(|(_, name)| name.as_str()));
    let mut client = admin_client(&shared.config.envoy_admin, &path, MAX_CLUSTERS_BYTES);
    let mut ticks = tokio::time::interval(shared.config.discovery_interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let parsed = match client.get(&shared.buffers, ADMIN_TIMEOUT, Clusters::parse).await {
            Ok(Ok(parsed)) => Ok(parsed),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(format!("Envoy's admin endpoint {}: {error}", shared.config.envoy_admin)),
        };
        for (pool, cluster) in &clusters {
            let targets = parsed
                .as_ref()
                .map_err(Clone::clone)
                .and_then(|parsed| parsed.targets(cluster).map_err(|error| error.to_string()));
            match targets {
                Ok(targets) => shared.discovered(*pool, targets),
                Err(problem) => shared.discovery_failed(*pool, &problem),
            }
        }
    }
}

async fn watch_name(shared: Arc<Shared>, pool: usize, host: String, port: u16) {
    let mut ticks = tokio::time::interval(shared.config.discovery_interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match resolve(&host, port).await {
            Ok(targets) => shared.discovered(pool, targets),
            Err(error) => shared.discovery_failed(pool, &format!("{host} cannot be resolved: {error}")),
        }
    }
}

/// Reads one endpoint's page for as long as the endpoint is listed. Holds no strong reference while it waits, so that a
/// stopped sidecar's pollers end with it.
async fn poll(shared: std::sync::Weak<Shared>, pool: usize, address: SocketAddr) {
    let Some((mut client, mut pace, limit)) = shared.upgrade().map(|shared| {
        let config = &shared.config;
        let client =
            Client::new(Peer::Address(address), &address.to_string(), &config.metrics_path, config.max_page_bytes);
        let pace = Pace::new(config.poll_interval, shared.seed ^ spread(pool, address));
        (client, pace, config.request_timeout)
    }) else {
        return;
    };
    let mut pause = pace.first();
    loop {
        tokio::time::sleep(pause).await;
        let Some(shared) = shared.upgrade() else { return };
        let began = Instant::now();
        let read = client.get(&shared.buffers, limit, Signals::read).await;
        let took = began.elapsed();
        let failed = match read {
            Ok(Ok(signals)) => {
                let change = lock(&shared.fleet).scraped(pool, address, shared.now(), took, signals);
                log_changes(change.as_slice());
                None
            }
            Ok(Err(error)) => Some((Outcome::Malformed, error.to_string())),
            Err(error) => Some((error.outcome(), error.to_string())),
        };
        pause = pace.after(took, failed.is_none());
        if let Some((outcome, problem)) = failed {
            lock(&shared.fleet).scrape_failed(pool, address, took, outcome, problem);
        }
    }
}

/// A number that differs between endpoints, to seed their paces apart.
fn spread(pool: usize, address: SocketAddr) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (pool, address).hash(&mut hasher);
    hasher.finish()
}
