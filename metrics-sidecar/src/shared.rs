//! What the tasks of a sidecar share.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tracing::info;

use crate::audience::Audience;
#[cfg(feature = "kubernetes")]
use crate::config::Source;
use crate::config::{Admin, Config};
use crate::endpoint::{DiscoveredPod, Transition};
use crate::failures::Failures;
pub(crate) use crate::failures::Task;
use crate::fleet::Fleet;
use crate::gauges::{NeededRight, state_name};
#[cfg(feature = "otlp")]
use crate::otlp::pushes::PushCounts;
use crate::published::Published;
use crate::scrape::{Buffers, Client, Peer};

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) buffers: Buffers,
    pub(crate) snapshots_sent: AtomicU64,
    pub(crate) snapshots_unchanged: AtomicU64,
    /// Whether Envoy's last page was read.
    pub(crate) envoy_up: AtomicBool,
    pub(crate) envoy_page_failures: AtomicU64,
    pub(crate) published: Mutex<Published>,
    /// Who looks at the live page.
    pub(crate) audience: Mutex<Audience>,
    pub(crate) pollers: Mutex<HashMap<(usize, SocketAddr), Task>>,
    /// The bearer token of each pool's pages.
    pub(crate) tokens: Mutex<Vec<Option<Arc<str>>>>,
    /// Where lists go on their way into the pool's file for Envoy; `None`: the pool has none.
    pub(crate) eds_lists: Vec<Option<watch::Sender<Option<Vec<DiscoveredPod>>>>>,
    /// Whether the API server is there, for each pool that comes from it.
    #[cfg(feature = "kubernetes")]
    pub(crate) contacts: Vec<Arc<kubernetes::Contacts>>,
    /// What became of pushes to a collector.
    #[cfg(feature = "otlp")]
    pub(crate) pushes: PushCounts,
    pub(crate) seed: u64,
    pub(crate) failures: Failures,
    fleet: Mutex<Fleet>,
    /// When the clock last ticked, in milliseconds since the start.
    ticked_ms: AtomicU64,
    started: Instant,
}

impl Shared {
    pub(crate) fn new(config: Config, epoch: u64) -> Self {
        let names = config.pools.iter().map(|pool| pool.name.clone());
        Self {
            fleet: Mutex::new(Fleet::new(epoch, config.staleness, names)),
            tokens: Mutex::new(vec![None; config.pools.len()]),
            eds_lists: config.pools.iter().map(|pool| pool.eds.as_ref().map(|_| watch::Sender::new(None))).collect(),
            #[cfg(feature = "kubernetes")]
            contacts: config.pools.iter().map(|_| Arc::default()).collect(),
            config,
            buffers: Buffers::default(),
            snapshots_sent: AtomicU64::new(0),
            snapshots_unchanged: AtomicU64::new(0),
            envoy_up: AtomicBool::new(false),
            envoy_page_failures: AtomicU64::new(0),
            published: Mutex::default(),
            audience: Mutex::default(),
            pollers: Mutex::default(),
            started: Instant::now(),
            #[cfg(feature = "otlp")]
            pushes: PushCounts::default(),
            seed: epoch,
            failures: Failures::default(),
            ticked_ms: AtomicU64::new(0),
        }
    }

    /// Pool, resource and seconds for which its watch of the API server has not been current.
    pub(crate) fn away(&self) -> Vec<(String, &'static str, f64)> {
        #[cfg(feature = "kubernetes")]
        {
            let mut away = Vec::new();
            for (pool, contacts) in self.config.pools.iter().zip(&self.contacts) {
                if let Source::Kubernetes { followed, .. } = &pool.source {
                    let lost = |kind| contacts.of(kind).lost_for().as_secs_f64();
                    let kinds = followed.kinds().iter();
                    away.extend(kinds.map(|kind| (pool.name.clone(), kind.plural(), lost(*kind))));
                }
            }
            away
        }
        #[cfg(not(feature = "kubernetes"))]
        Vec::new()
    }

    /// The rights that pools need of the API server, and whether it refuses them.
    pub(crate) fn rights(&self) -> Vec<NeededRight> {
        #[cfg(feature = "kubernetes")]
        {
            let mut rights = Vec::new();
            for (pool, contacts) in self.config.pools.iter().zip(&self.contacts) {
                if let Source::Kubernetes { followed, .. } = &pool.source {
                    rights.extend(followed.rights().map(|right| NeededRight {
                        pool: pool.name.clone(),
                        group: right.group,
                        resource: right.kind.plural(),
                        verb: right.verb.as_str(),
                        is_refused: contacts.is_refused(right),
                    }));
                }
            }
            rights
        }
        #[cfg(not(feature = "kubernetes"))]
        Vec::new()
    }

    /// Time since the start, as the fleet counts it.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The clock ticks: looks at every endpoint's staleness.
    pub(crate) fn tick(&self) {
        drop(self.fleet());
        self.ticked_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// How long ago the clock ticked last.
    pub(crate) fn silent_for(&self) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(self.ticked_ms.load(Ordering::Relaxed)))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.now().as_millis()).unwrap_or(u64::MAX)
    }

    /// The fleet as of now.
    pub(crate) fn fleet(&self) -> MutexGuard<'_, Fleet> {
        let mut fleet = lock(&self.fleet);
        log_changes(&fleet.advance(self.now()));
        fleet
    }

    /// The fleet as it was last looked at.
    pub(crate) fn fleet_as_it_is(&self) -> MutexGuard<'_, Fleet> {
        lock(&self.fleet)
    }

    /// The same for a thread that must not wait: `None` while another one has it.
    pub(crate) fn fleet_if_free(&self) -> Option<MutexGuard<'_, Fleet>> {
        try_lock(&self.fleet)
    }
}

/// A panic elsewhere does not make the data worse: every change to it is complete in itself.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same without waiting.
pub(crate) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A client for one path of Envoy's admin endpoint.
pub(crate) fn admin_client(admin: &Admin, path: &str, max_body: usize) -> Client {
    Client::new(Peer::Name(admin.host.clone(), admin.port), &admin.to_string(), path, max_body)
}

pub(crate) fn log_changes(changes: &[Transition]) {
    for change in changes {
        let (from, to) = (state_name(change.from), state_name(change.to));
        let problem = change.problem.as_deref();
        info!(pool = change.pool, endpoint = %change.address, from, to, problem, "endpoint changed state");
    }
}
