//! The running process: starts the tasks that discover, poll and serve, around one shared fleet.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
#[cfg(feature = "otlp")]
use tracing::info;

use crate::claim::{Claim, IfTaken};
use crate::config::{Config, Source};
use crate::eds::EdsFile;
use crate::eds_writer::{offer_targets, prepare, tell_failed_write, write_lists};
use crate::endpoint::DiscoveredPod;
use crate::envoy_page::EnvoyPages;
use crate::gate::Gate;
#[cfg(feature = "kubernetes")]
use crate::kubernetes_listing::follow_cluster;
use crate::listening;
use crate::listing::{watch_clusters, watch_name};
use crate::live::stage::Stage;
#[cfg(feature = "otlp")]
use crate::otlp::{
    collector::Collector, config::OtlpConfig, pusher::Pusher, schedule::PushSchedule, source::PageSource,
};
use crate::polling::take_targets;
use crate::profilers::Profilers;
use crate::route::Served;
use crate::serve;
use crate::shared::{Shared, Task, lock};
use crate::tls_files::Certificates;
use crate::tokens::watch_tokens;

/// How often endpoints are looked at for staleness when nobody asks: well below the staleness limits in use.
const TICK: Duration = Duration::from_millis(100);

/// What is logged where `RUST_LOG` says nothing. The client of Kubernetes logs each try that failed, which is told here when it is news.
pub(crate) const LOG_FILTER: &str = "info,kube_client=off,kube_runtime=off";

/// Starts sidecars.
#[derive(Debug)]
pub struct Sidecar;

/// A sidecar at work. Dropping it stops it.
#[derive(Debug)]
pub struct Running {
    addr: SocketAddr,
    metrics_addr: Option<SocketAddr>,
    tasks: Vec<Task>,
    servers: Vec<JoinHandle<()>>,
    #[cfg(feature = "otlp")]
    pusher: Option<Task>,
    closing: watch::Sender<bool>,
    shared: Arc<Shared>,
}

impl Running {
    /// Where it serves, or will once nobody else does.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where it serves scrapers and people alone, if there is such a place.
    #[must_use]
    pub const fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_addr
    }

    /// Stops every task and closes every connection. Answers under way have a moment to finish, and so has a last push of metrics, if they
    /// are pushed.
    pub async fn stop(mut self) {
        let _ = self.closing.send(true);
        for server in &mut self.servers {
            let _ = server.await;
        }
        // It ends by itself, within the timeout of a push. One that has failed is to be started again, which does not wait.
        #[cfg(feature = "otlp")]
        if let Some(Task(pusher)) = self.pusher.as_mut().filter(|_| !self.shared.failures.is_any()) {
            let _ = pusher.await;
        }
        self.tasks.clear();
    }

    /// Returns once the sidecar cannot go on, and says why: a task panicked, or its listener failed.
    pub async fn failed(&self) -> String {
        self.shared.failures.first().await
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.closing.send(true);
        lock(&self.shared.pollers).clear();
    }
}

impl Sidecar {
    /// The same as [`Self::start_profiled`] in a process of which nothing can be profiled.
    ///
    /// # Errors
    ///
    /// When an address to listen on cannot be bound, or its certificates are not to be had; the error says which.
    pub async fn start(config: Config) -> std::io::Result<Running> {
        Self::start_profiled(config, Profilers::default()).await
    }

    /// Binds, and starts to discover, poll and serve on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// When an address to listen on cannot be bound, or its certificates are not to be had; the error says which.
    pub async fn start_profiled(config: Config, profilers: Profilers) -> std::io::Result<Running> {
        Self::begin(config, profilers, IfTaken::Fail).await
    }

    /// The same inside another process: an address that another listener has is waited for by whoever reads metrics alone.
    ///
    /// # Errors
    ///
    /// When an address can be nobody's, or certificates are not to be had; the error says which.
    pub(crate) async fn start_embedded(config: Config) -> std::io::Result<Running> {
        Self::begin(config, Profilers::default(), IfTaken::Wait).await
    }

    async fn begin(config: Config, profilers: Profilers, if_taken: IfTaken) -> std::io::Result<Running> {
        // Before all else: Envoy does not start without these files.
        let files: Vec<(usize, EdsFile)> = config
            .pools
            .iter()
            .enumerate()
            .filter_map(|(pool, settings)| Some((pool, settings.eds.clone()?)))
            .collect();
        let prepared = files.iter().map(|(pool, file)| (*pool, prepare(file)));
        let prepared: Vec<(usize, std::io::Result<Vec<DiscoveredPod>>)> = prepared.collect();
        let claim = Claim::stake(config.listen, if_taken).await?;
        let addr = claim.addr()?;
        let for_scrapers = match config.access.metrics_listen {
            Some(address) => Some(Claim::stake(address, if_taken).await?),
            None => None,
        };
        let metrics_addr = for_scrapers.as_ref().map(Claim::addr).transpose()?;
        let shared = Arc::new(Shared::new(config, SmallRng::from_os_rng().random()));
        let mut earlier = Vec::new();
        for (pool, prepared) in prepared {
            match prepared {
                Ok(known) if known.is_empty() => {}
                Ok(known) => earlier.push((pool, known)),
                Err(error) => tell_failed_write(&shared, pool, &error),
            }
        }
        let mut tasks = Vec::new();
        for (pool, file) in files {
            tasks.push(Task(
                shared.failures.spawn("the writer of endpoints", write_lists(Arc::clone(&shared), pool, file)),
            ));
        }
        for (pool, known) in earlier {
            take_targets(&shared, pool, known);
            shared.fleet_as_it_is().unconfirmed(pool);
        }
        let mut clusters = Vec::new();
        for (pool, settings) in shared.config.pools.iter().enumerate() {
            match &settings.source {
                Source::Static(targets) => offer_targets(&shared, pool, targets.clone()),
                Source::Dns { host, port, family } => {
                    let watching = watch_name(Arc::clone(&shared), pool, host.clone(), *port, *family);
                    tasks.push(Task(shared.failures.spawn("the discovery by name", watching)));
                }
                Source::Envoy(cluster) => clusters.push((pool, cluster.clone())),
                #[cfg(feature = "kubernetes")]
                Source::Kubernetes { connection, followed } => {
                    let (connection, followed) = (connection.clone(), followed.clone());
                    let following = follow_cluster(Arc::clone(&shared), pool, connection, followed);
                    tasks.push(Task(shared.failures.spawn("the discovery by Kubernetes", following)));
                }
            }
        }
        if !clusters.is_empty() {
            let watching = watch_clusters(Arc::clone(&shared), clusters);
            tasks.push(Task(shared.failures.spawn("the discovery by cluster", watching)));
        }
        if shared.config.pools.iter().any(|pool| pool.page.token_file.is_some()) {
            tasks.push(Task(shared.failures.spawn("the reader of tokens", watch_tokens(Arc::clone(&shared)))));
        }
        tasks.push(Task(shared.failures.spawn("the clock", tick(Arc::clone(&shared)))));
        let pages = EnvoyPages::start(Arc::clone(&shared))?;
        let (closing, closed) = watch::channel(false);
        let holding = watch::Sender::new(matches!(claim, Claim::Held(_)));
        #[cfg(feature = "otlp")]
        let pusher = shared.config.otlp.clone().map(|config| {
            let source = PageSource::new(Arc::clone(&shared), pages.clone(), &config);
            let pushing = push(Arc::clone(&shared), source, config, holding.subscribe(), closed.clone());
            shared.failures.spawn("the pusher of metrics", pushing)
        });
        let gate = Arc::new(Gate::new(&shared.config.access.readers));
        let stage = Stage::start(Arc::clone(&shared));
        let served = Served { shared: Arc::clone(&shared), pages, stage, profilers };
        let failures = &shared.failures;
        let router = serve::router(served.clone(), &gate, false);
        let mut servers = vec![failures.spawn("the server", serve_claim(claim, holding, None, router, closed.clone()))];
        if let Some(claim) = for_scrapers {
            let tls = match &shared.config.access.tls {
                None => None,
                Some(files) => {
                    let certificates = Certificates::new(files.clone()).map_err(std::io::Error::other)?;
                    let tls = listening::tls(&certificates)?;
                    tasks.push(Task(failures.spawn("the reader of certificates", certificates.watch())));
                    Some(tls)
                }
            };
            let serving =
                serve_claim(claim, watch::Sender::new(false), tls, serve::router(served, &gate, true), closed);
            servers.push(failures.spawn("the scrapers' server", serving));
        }
        Ok(Running {
            addr,
            metrics_addr,
            tasks,
            servers,
            #[cfg(feature = "otlp")]
            pusher: pusher.map(Task),
            closing,
            shared,
        })
    }
}

/// Serves once the address is held, of which `holding` tells, until `closed` turns true.
async fn serve_claim(
    claim: Claim,
    holding: watch::Sender<bool>,
    tls: Option<TlsAcceptor>,
    router: Router,
    mut closed: watch::Receiver<bool>,
) {
    let listener = tokio::select! {
        listener = claim.listener() => listener,
        // A sender that is gone means the same as one that says so.
        _ = closed.wait_for(|closed| *closed) => return,
    };
    holding.send_replace(true);
    listening::run(listener, tls, router, closed).await;
}

/// Pushes from when the sidecar holds its address: whoever has it until then pushes the same streams.
#[cfg(feature = "otlp")]
async fn push(
    shared: Arc<Shared>,
    source: PageSource,
    config: OtlpConfig,
    mut held: watch::Receiver<bool>,
    closed: watch::Receiver<bool>,
) {
    // One that ends before has nothing to tell.
    if held.wait_for(|held| *held).await.is_err() {
        return;
    }
    let (interval, timeout) = (config.interval, config.timeout);
    info!(endpoint = %config.target, ?interval, "metrics are pushed");
    let schedule = PushSchedule::new(interval, shared.seed);
    Pusher::new(source, Collector::new(config), &shared.pushes, schedule).run(closed, timeout).await;
}

async fn tick(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
        shared.tick();
    }
}
