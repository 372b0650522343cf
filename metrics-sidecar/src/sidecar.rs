//! The running process: starts the tasks that discover, poll and serve, around one shared fleet.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::{Config, Source};
use crate::envoy_page::EnvoyPages;
use crate::listing::{watch_clusters, watch_name};
use crate::polling::take_targets;
use crate::serve;
use crate::shared::{Shared, Task, lock};
use crate::tokens::watch_tokens;

/// How often endpoints are looked at for staleness when nobody asks: well below the staleness limits in use.
const TICK: Duration = Duration::from_millis(100);

/// How long answers under way may take once the sidecar is told to stop.
const GOODBYE: Duration = Duration::from_millis(300);

/// Starts sidecars.
#[derive(Debug)]
pub struct Sidecar;

/// A sidecar at work. Dropping it stops it.
#[derive(Debug)]
pub struct Running {
    addr: SocketAddr,
    tasks: Vec<Task>,
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
    /// Binds, and starts to discover, poll and serve on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// When the address to listen on cannot be bound.
    pub async fn start(config: Config) -> std::io::Result<Running> {
        let listener = TcpListener::bind(config.listen).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared::new(config, SmallRng::from_os_rng().random()));
        let mut tasks = Vec::new();
        let mut clusters = Vec::new();
        for (pool, settings) in shared.config.pools.iter().enumerate() {
            match &settings.source {
                Source::Static(targets) => take_targets(&shared, pool, targets.clone()),
                Source::Dns { host, port, family } => {
                    let watching = watch_name(Arc::clone(&shared), pool, host.clone(), *port, *family);
                    tasks.push(Task(shared.failures.spawn("the discovery by name", watching)));
                }
                Source::Envoy(cluster) => clusters.push((pool, cluster.clone())),
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
        let serving = serve::run(listener, Arc::clone(&shared), pages, closed);
        let server = shared.failures.spawn("the server", serving);
        Ok(Running { addr, tasks, server, closing, shared })
    }
}

async fn tick(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
        shared.tick();
    }
}
