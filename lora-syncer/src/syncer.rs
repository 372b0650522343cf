//! The loop: read the file, look at the server, do what is missing, publish.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::flags::SyncerFlags;
use crate::model_server::ModelServer;
use crate::plan::{Rests, plan};
use crate::status::{self, Operation, SyncerStatus};

/// The file is read again after this.
const FILE_INTERVAL: Duration = Duration::from_secs(1);

/// Why the syncer does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Its port cannot be had.
    #[error("cannot serve metrics at {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// Its page ended.
    #[error("cannot serve metrics: {0}")]
    Serve(std::io::Error),
}

/// A syncer whose port is open.
#[derive(Debug)]
pub struct Syncer {
    flags: SyncerFlags,
    listener: TcpListener,
    address: SocketAddr,
    status: Arc<Mutex<SyncerStatus>>,
}

impl Syncer {
    /// Opens the port of the metrics.
    ///
    /// # Errors
    /// [`RunError::Listen`].
    pub async fn bind(flags: SyncerFlags) -> Result<Self, RunError> {
        let wanted = SocketAddr::new(flags.metrics_host, flags.metrics_port);
        let failed = |error| RunError::Listen(wanted, error);
        let listener = TcpListener::bind(wanted).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { flags, listener, address, status: Arc::default() })
    }

    /// Where the metrics are.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Works until `stop` is there.
    ///
    /// # Errors
    /// [`RunError::Serve`].
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), RunError> {
        let Self { flags, listener, status, .. } = self;
        let shown = Arc::clone(&status);
        let page = move || std::future::ready(([(CONTENT_TYPE, status::CONTENT_TYPE)], lock(&shown).page()));
        let router = Router::new().route("/metrics", get(page)).route("/healthz", get(async || "ok\n"));
        let serving = async { axum::serve(listener, router).await };
        tokio::select! {
            served = serving => served.map_err(RunError::Serve),
            () = Work::new(flags, status).run() => Ok(()),
            () = stop => Ok(()),
        }
    }
}

fn lock(status: &Mutex<SyncerStatus>) -> MutexGuard<'_, SyncerStatus> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the loop keeps from turn to turn.
struct Work {
    flags: SyncerFlags,
    status: Arc<Mutex<SyncerStatus>>,
    began: Instant,
    /// What was last read of the file.
    text: Option<Result<String, String>>,
    config: Option<Config>,
    rests: Rests,
    /// Since when the server has not answered, and whether that was told as an error.
    away: Option<(Instant, bool)>,
    told: BTreeSet<String>,
}

impl Work {
    fn new(flags: SyncerFlags, status: Arc<Mutex<SyncerStatus>>) -> Self {
        Self {
            flags,
            status,
            began: Instant::now(),
            text: None,
            config: None,
            rests: Rests::default(),
            away: None,
            told: BTreeSet::new(),
        }
    }

    async fn run(mut self) {
        let mut due = Instant::now();
        loop {
            let is_new = self.read();
            if is_new || Instant::now() >= due {
                let is_there = match self.config.clone() {
                    Some(config) => self.reconcile(&config).await,
                    None => true,
                };
                let pause = if is_there { self.flags.interval() } else { self.flags.health_interval() };
                due = Instant::now() + pause;
            }
            tokio::time::sleep(FILE_INTERVAL.min(due.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// Reads the file; true: it says something new that can be used.
    fn read(&mut self) -> bool {
        // A small file of this machine's.
        let text = std::fs::read_to_string(&self.flags.config).map_err(|error| error.to_string());
        if self.text.as_ref() == Some(&text) {
            return false;
        }
        let path = self.flags.config.display().to_string();
        let config = match &text {
            Ok(text) => Config::parse(text).map_err(|error| error.to_string()),
            Err(error) => Err(error.clone()),
        };
        self.text = Some(text);
        lock(&self.status).is_config_valid = config.is_ok();
        let config = match config {
            Ok(config) => config,
            Err(problem) => {
                error!(file = path, problem, "the file cannot be used, what was read last stands");
                return false;
            }
        };
        info!(file = path, wanted = config.wanted.len(), unwanted = config.unwanted.len(), "the file was read");
        for key in &config.unknown {
            warn!(file = path, key, "this key means nothing");
        }
        for id in &config.disputed {
            warn!(file = path, adapter = id, "it is in ensureExist and in ensureNotExist: nothing is done about it");
        }
        self.rests.clear();
        self.told.clear();
        self.config = Some(config);
        true
    }

    /// One comparison; false: the server is not there.
    async fn reconcile(&mut self, config: &Config) -> bool {
        let server = ModelServer::new(&config.host, config.port);
        let listing = match server.look().await {
            Ok(listing) => listing,
            Err(problem) => {
                self.lose(config, &server, &problem.to_string());
                return false;
            }
        };
        if self.away.take().is_some() {
            info!(server = server.base(), "the model server answers");
            // It may be another process.
            self.rests.clear();
        }
        let now = self.began.elapsed();
        let plan = plan(config, &listing, &self.rests, now);
        for (adapter, source) in &plan.elsewhere {
            if self.told.insert(adapter.id.clone()) {
                let wanted = &adapter.source;
                warn!(adapter = adapter.id, source, wanted, "it is loaded from elsewhere and stays as it is");
            }
        }
        for &id in &plan.taken {
            if self.told.insert(id.to_owned()) {
                error!(adapter = id, "the server has a model of that name that is no adapter");
            }
        }
        let is_idle = plan.load.is_empty() && plan.unload.is_empty();
        for adapter in plan.load {
            info!(adapter = adapter.id, source = adapter.source, server = server.base(), "loading");
            let result = server.load(adapter).await;
            self.take(Operation::Load, &adapter.id, result.map_err(|error| error.to_string()));
        }
        for id in plan.unload {
            info!(adapter = id, server = server.base(), "unloading");
            let result = server.unload(id).await;
            self.take(Operation::Unload, id, result.map_err(|error| error.to_string()));
        }
        let named: BTreeSet<&str> = config
            .wanted
            .iter()
            .map(|adapter| adapter.id.as_str())
            .chain(config.unwanted.iter().map(String::as_str))
            .collect();
        self.rests.keep(&named);
        // What the server lists is what counts, not what it answered.
        let listing = if is_idle { Ok(listing) } else { server.list().await };
        match listing {
            Ok(listing) => {
                lock(&self.status).take_listing(config, Some(&listing));
                true
            }
            Err(problem) => {
                self.lose(config, &server, &problem.to_string());
                false
            }
        }
    }

    fn take(&mut self, operation: Operation, id: &str, result: Result<(), String>) {
        lock(&self.status).count(operation, result.is_ok());
        let operation = operation.as_str();
        match result {
            Ok(()) => {
                self.rests.succeeded(id);
                info!(adapter = id, operation, "done");
            }
            Err(problem) => {
                self.rests.failed(id, self.began.elapsed());
                error!(adapter = id, operation, problem, "failed, and is tried again later");
            }
        }
    }

    fn lose(&mut self, config: &Config, server: &ModelServer, problem: &str) {
        lock(&self.status).take_listing(config, None);
        let (since, was_told) = *self.away.get_or_insert_with(|| {
            warn!(server = server.base(), problem, "the model server is not healthy, it is waited for");
            (Instant::now(), false)
        });
        if !was_told && since.elapsed() >= self.flags.patience() {
            let seconds = since.elapsed().as_secs();
            error!(server = server.base(), problem, seconds, "the model server has not been healthy for too long");
            self.away = Some((since, true));
        }
    }
}
