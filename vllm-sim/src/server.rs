//! A running pod: its listeners, and what tests do to it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::config::{Config, ConfigError};
use crate::connection;
use crate::control::{Command, Control};
use crate::fault::FaultSpec;
use crate::metrics_page;
use crate::pod::{PinnedLoad, Pod, ReceivedRequest, lock};

/// How long reopening a port is tried while others may hold it.
const REOPEN_TRIES: u32 = 100;
const REOPEN_PAUSE: Duration = Duration::from_millis(20);
/// How often draining looks whether all requests are done.
const DRAIN_PAUSE: Duration = Duration::from_millis(10);

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The port is not to be had.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// A running pod. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Where the second listener, for /sim alone, listens.
    pub admin_addr: Option<SocketAddr>,
    control: Arc<Control>,
    tasks: Vec<AbortHandle>,
}

impl Server {
    /// Starts a pod on the current tokio runtime.
    ///
    /// # Errors
    /// A setting that cannot work, or a port that is taken.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        config.engine()?;
        let (listener, addr) = bind(config.address()).await?;
        let admin = match config.admin_port {
            Some(port) => Some(bind(SocketAddr::new(config.host, port)).await?),
            None => None,
        };
        let pod = Arc::new(Pod::new(config, addr)?);
        let (control, orders) = Control::new(pod.clone());
        let control = Arc::new(control);
        let mut tasks = Vec::new();
        for number in 0..pod.config.engines {
            tasks.push(tokio::spawn(pod.clone().drive(number)).abort_handle());
        }
        let accepting = accept(control.clone(), listener, addr, orders);
        tasks.push(tokio::spawn(accepting).abort_handle());
        let mut admin_addr = None;
        if let Some((listener, addr)) = admin {
            admin_addr = Some(addr);
            let accepting = accept_admin(control.clone(), listener);
            tasks.push(tokio::spawn(accepting).abort_handle());
        }
        Ok(Self { addr, admin_addr, control, tasks })
    }

    /// `http://` and the address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Adds a fault behind those in force.
    pub fn add_fault(&self, fault: FaultSpec) {
        lock(&self.control.pod.faults).add(fault);
    }

    /// Ends all faults, freezing and draining.
    pub fn clear_faults(&self) {
        lock(&self.control.pod.faults).clear();
        self.control.pod.resume();
    }

    /// Shows these figures on `/metrics` in place of the true ones; none shows the true ones again.
    pub fn pin_load(&self, load: Option<PinnedLoad>) {
        self.control.pod.pin(load);
    }

    /// The engine stands still: `/health` and `/metrics` answer, with values that do not move, and requests hang.
    pub fn freeze(&self) {
        metrics_page::freeze(&self.control.pod);
    }

    /// New requests get 500, those in flight finish, `/health` stays 200.
    pub fn drain(&self) {
        self.control.pod.drain();
    }

    /// Ends freezing and draining.
    pub fn resume(&self) {
        self.control.pod.resume();
    }

    /// Closes the port and every connection.
    pub async fn refuse(&self) {
        self.control.refuse(None).await;
    }

    /// Kills the engine: plain requests in flight get 500, streams an error event and `[DONE]`, and the port closes.
    pub async fn crash(&self) {
        self.control.crash().await;
    }

    /// Opens the same port again. Returns false when somebody else has it.
    pub async fn accept(&self) -> bool {
        self.control.reopen().await
    }

    /// What GET /sim/state answers.
    #[must_use]
    pub fn state(&self) -> Value {
        self.control.state()
    }

    /// The last request that was no probe and no scrape.
    #[must_use]
    pub fn last_request(&self) -> Option<ReceivedRequest> {
        self.control.pod.last_request()
    }

    /// Drains, then returns when nothing is in flight or `limit` has passed. True when all finished.
    pub async fn finish(&self, limit: Duration) -> bool {
        self.drain();
        let end = Instant::now() + limit;
        while self.control.pod.in_flight.load(Ordering::Relaxed) > 0 {
            if Instant::now() >= end {
                return false;
            }
            tokio::time::sleep(DRAIN_PAUSE).await;
        }
        true
    }

    /// Closes the port and cuts every connection.
    pub async fn stop(self) {
        self.control.refuse(None).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.control.hang_up(None);
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listener = TcpListener::bind(address).await.map_err(|source| StartError::Bind { address, source })?;
    let bound = listener.local_addr().map_err(|source| StartError::Bind { address, source })?;
    Ok((listener, bound))
}

async fn accept(control: Arc<Control>, listener: TcpListener, addr: SocketAddr, mut orders: mpsc::Receiver<Command>) {
    let mut listener = Some(listener);
    loop {
        let incoming = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = incoming => {
                if let Ok((stream, _)) = accepted {
                    let number = control.pod.connections.fetch_add(1, Ordering::Relaxed) + 1;
                    tokio::spawn(connection::serve(control.clone(), stream, number, false));
                }
            }
            order = orders.recv() => match order {
                Some(Command::Close(done)) => {
                    listener = None;
                    let _ = done.send(());
                }
                Some(Command::Open(done)) => {
                    if listener.is_none() {
                        listener = reopen(addr).await;
                    }
                    let _ = done.send(listener.is_some());
                }
                None => return,
            },
        }
    }
}

async fn accept_admin(control: Arc<Control>, listener: TcpListener) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(connection::serve(control.clone(), stream, 0, true));
        }
    }
}

async fn reopen(addr: SocketAddr) -> Option<TcpListener> {
    for _ in 0..REOPEN_TRIES {
        if let Ok(listener) = TcpListener::bind(addr).await {
            return Some(listener);
        }
        tokio::time::sleep(REOPEN_PAUSE).await;
    }
    None
}
