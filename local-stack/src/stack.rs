//! The processes of a gateway, started in order, found by their ports and stopped together.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use catalogue::Stat;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::mode::embedded;
use crate::process::{Watcher, end_all};
use crate::{
    Artifact, ArtifactError, Bootstrap, BootstrapError, Builder, ClientError, HttpClient, HttpResponse, Mode, Page,
    Pods, Ports, Process, ProcessError, SampleError, free_port, is_free, repository,
};

/// The cluster of a pool is called so, and then as the pool.
const CLUSTER_PREFIX: &str = "pool-";
/// The cluster with the metrics sidecar.
const SIDECAR_CLUSTER: &str = "inpick-sidecar";
/// The listener for clients.
const GATEWAY_LISTENER: &str = "gateway";
/// A simulated pod or the sidecar starts in milliseconds; a machine under load needs longer.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Envoy compiles the module before it responds.
const ENVOY_TIMEOUT: Duration = Duration::from_secs(60);
/// The service fetches a snapshot every 50 ms and stats are published each second.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(20);
/// How often is asked whether something is ready.
const POLL: Duration = Duration::from_millis(25);
/// How long a page may take.
const PAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Starts with other ports when a port was taken by another process in between.
const ATTEMPTS: usize = 3;
/// What Envoy and a simulated pod say then.
const TAKEN: &str = "Address already in use";

/// A model server of a stack.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pod {
    /// Name: what the simulated server sends in `x-inference-pod`; of a listed server its `host:port`.
    pub name: String,
    /// `host:port`; of a simulated pod `127.0.0.1:port`.
    pub addr: String,
    /// The pool it is in.
    pub pool: String,
}

/// A stack could not be started or read.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// A program or the module is missing.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The bootstrap cannot be used.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// A process failed.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A fixed port is not free.
    #[error("port {port} for {what} is taken by another process")]
    PortTaken {
        /// The port.
        port: u16,
        /// What it is for.
        what: String,
    },
    /// A page could not be fetched.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A page could not be read.
    #[error("{url}: {source}")]
    Page {
        /// The page.
        url: String,
        /// Why.
        source: SampleError,
    },
    /// The pods did not become known to Envoy.
    #[error("after {after:?} Envoy knows {known} fresh endpoints of {expected}; the end of its log:\n{log}")]
    NoSnapshot {
        /// How long was waited.
        after: Duration,
        /// Endpoints with state `fresh` on Envoy's page.
        known: f64,
        /// Pods of the stack.
        expected: usize,
        /// Last lines of Envoy's log.
        log: String,
    },
    /// The sidecar is not a process of its own.
    #[error("the sidecar is in Envoy")]
    NoSidecarProcess,
    /// There is no such pod, or it is not a simulated one.
    #[error("pod {0} is not a simulated pod of this stack")]
    NoPod(usize),
}

impl Builder {
    /// Starts the pods, the sidecar and Envoy, and waits until they serve.
    ///
    /// # Errors
    /// Whatever kept a part from starting, with the end of its log. Parts that had started are stopped.
    pub async fn start(self) -> Result<Stack, StackError> {
        let envoy = Artifact::Envoy.find()?;
        self.check_fixed_ports()?;
        let folder = tempfile::Builder::new()
            .prefix("inpick-stack-")
            .tempdir()
            .map_err(|source| StackError::File { path: std::env::temp_dir(), source })?;
        let mut stack = Stack {
            gateway: loopback(0),
            admin: loopback(0),
            sidecar: loopback(0),
            listeners: BTreeMap::new(),
            pods: Vec::new(),
            pod_processes: Vec::new(),
            sidecar_process: None,
            envoy_process: None,
            builder: self,
            envoy,
            client: HttpClient::new().with_timeout(PAGE_TIMEOUT),
            watcher: Watcher::start()?,
            folder,
        };
        stack.start_pods().await?;
        for left in (0..ATTEMPTS).rev() {
            stack.choose_ports();
            let started = stack.start_gateway().await;
            match started {
                Err(StackError::Process(ProcessError::Ended { log, .. }))
                    if left > 0 && stack.builder.may_take_other_ports(&log) => {}
                other => {
                    other?;
                    break;
                }
            }
        }
        if stack.builder.wait_for_snapshot {
            stack.known().await?;
        }
        Ok(stack)
    }

    fn may_take_other_ports(&self, log: &str) -> bool {
        self.ports == Ports::Ephemeral && log.contains(TAKEN)
    }

    fn check_fixed_ports(&self) -> Result<(), StackError> {
        let Ports::Fixed { gateway, admin, sidecar, first_pod } = self.ports else { return Ok(()) };
        let mut wanted = vec![(gateway, "the gateway".to_owned()), (admin, "Envoy's admin page".to_owned())];
        if self.sidecar {
            wanted.push((sidecar, "the metrics sidecar".to_owned()));
        }
        let simulated: usize =
            self.pools.values().map(|pods| if let Pods::Simulated(count) = pods { *count } else { 0 }).sum();
        wanted.extend(
            (first_pod..).take(simulated).zip(1..).map(|(port, number)| (port, format!("simulated pod {number}"))),
        );
        match wanted.into_iter().find(|(port, _)| !is_free(loopback(*port))) {
            Some((port, what)) => Err(StackError::PortTaken { port, what }),
            None => Ok(()),
        }
    }
}

/// A running gateway. Dropping it stops all of it; if that happens in a panic, the ends of the logs are printed.
#[derive(Debug)]
pub struct Stack {
    /// Where clients connect.
    pub gateway: SocketAddr,
    /// Envoy's admin page.
    pub admin: SocketAddr,
    /// The sidecar, or where it would be.
    pub sidecar: SocketAddr,
    /// Every listener of the bootstrap, the gateway's included, by name.
    pub listeners: BTreeMap<String, SocketAddr>,
    /// The pods, pool by pool.
    pub pods: Vec<Pod>,
    pod_processes: Vec<Option<Process>>,
    sidecar_process: Option<Process>,
    envoy_process: Option<Process>,
    builder: Builder,
    envoy: PathBuf,
    client: HttpClient,
    watcher: Arc<Watcher>,
    folder: TempDir,
}

impl Stack {
    /// What a stack is to be.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// What of inpick runs where.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.builder.mode
    }

    /// URL of a path at the gateway.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.gateway)
    }

    /// GET of a path of Envoy's admin page.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn admin_get(&self, path: &str) -> Result<HttpResponse, ClientError> {
        self.client.get(&format!("http://{}{path}", self.admin)).await
    }

    /// Envoy's own metrics.
    ///
    /// # Errors
    /// It cannot be fetched or is not a page.
    pub async fn envoy_page(&self) -> Result<Page, StackError> {
        self.page(format!("http://{}/stats/prometheus", self.admin)).await
    }

    /// The sidecar's page: Envoy's metrics merged with its own.
    ///
    /// # Errors
    /// It cannot be fetched or is not a page.
    pub async fn sidecar_page(&self) -> Result<Page, StackError> {
        self.page(format!("http://{}/metrics", self.sidecar)).await
    }

    /// A pod's own metrics.
    ///
    /// # Errors
    /// It cannot be fetched or is not a page, or there is no such pod.
    pub async fn pod_page(&self, index: usize) -> Result<Page, StackError> {
        self.page(self.pod_url(index, "/metrics")?).await
    }

    /// URL of a path at a pod.
    ///
    /// # Errors
    /// [`StackError::NoPod`].
    pub fn pod_url(&self, index: usize, path: &str) -> Result<String, StackError> {
        let pod = self.pods.get(index).ok_or(StackError::NoPod(index))?;
        Ok(format!("http://{}{path}", pod.addr))
    }

    /// Envoy's process, unless it was killed.
    pub fn envoy(&mut self) -> Option<&mut Process> {
        self.envoy_process.as_mut()
    }

    /// The sidecar's process, if there is one.
    pub fn sidecar_process(&mut self) -> Option<&mut Process> {
        self.sidecar_process.as_mut()
    }

    /// The process of a simulated pod: to stop, kill, freeze or thaw it.
    ///
    /// # Errors
    /// [`StackError::NoPod`].
    pub fn pod(&mut self, index: usize) -> Result<&mut Process, StackError> {
        self.pod_processes.get_mut(index).and_then(Option::as_mut).ok_or(StackError::NoPod(index))
    }

    /// Ends a simulated pod, if it runs, and starts it anew on the same port.
    ///
    /// # Errors
    /// It did not start.
    pub async fn restart_pod(&mut self, index: usize) -> Result<(), StackError> {
        self.pod(index)?.stop().await;
        let port = self.pods.get(index).and_then(|pod| pod.addr.rsplit_once(':')?.1.parse().ok());
        let mut process = self.spawn_pod(index, port.ok_or(StackError::NoPod(index))?)?;
        process.listening(START_TIMEOUT).await?;
        *self.pod(index)? = process;
        Ok(())
    }

    /// Ends the sidecar, if it runs, and starts it anew on the same port; starts one too if the stack had none.
    ///
    /// # Errors
    /// It did not start.
    pub async fn restart_sidecar(&mut self) -> Result<(), StackError> {
        if !self.builder.mode.has_sidecar_process() {
            return Err(StackError::NoSidecarProcess);
        }
        if let Some(mut process) = self.sidecar_process.take() {
            process.stop().await;
        }
        let mut process = self.spawn_sidecar()?;
        process.listening(START_TIMEOUT).await?;
        self.sidecar_process = Some(process);
        Ok(())
    }

    /// Ends Envoy, if it runs, and starts it anew with the same bootstrap on the same ports.
    ///
    /// # Errors
    /// It did not start.
    pub async fn restart_envoy(&mut self) -> Result<(), StackError> {
        if let Some(mut process) = self.envoy_process.take() {
            process.stop().await;
        }
        self.start_envoy().await
    }

    /// An error if a part has ended that nobody ended through this stack's methods or [`Process`].
    ///
    /// # Errors
    /// [`ProcessError::Ended`] of the first such part.
    pub fn check(&mut self) -> Result<(), ProcessError> {
        self.processes().try_for_each(Process::check)
    }

    /// The ends of all logs, for a report of a failure.
    pub fn logs(&mut self) -> String {
        self.processes().map(|process| format!("{}:\n{}", process.name().to_owned(), process.log_tail())).collect()
    }

    /// Stops all of it. Dropping does the same, but blocks the thread meanwhile.
    pub async fn stop(mut self) {
        let mut processes: Vec<&mut Process> = self.processes().collect();
        for process in &mut processes {
            process.signal(rustix::process::Signal::TERM);
        }
        for process in processes {
            process.stop().await;
        }
    }

    fn processes(&mut self) -> impl Iterator<Item = &mut Process> {
        // Envoy first: nothing new reaches the pods while they end.
        self.envoy_process
            .as_mut()
            .into_iter()
            .chain(self.sidecar_process.as_mut())
            .chain(self.pod_processes.iter_mut().filter_map(Option::as_mut))
    }

    async fn page(&self, url: String) -> Result<Page, StackError> {
        let response = self.client.get(&url).await?;
        Page::parse(&response.text()).map_err(|source| StackError::Page { url, source })
    }

    async fn start_pods(&mut self) -> Result<(), StackError> {
        let pools = self.builder.pools.clone();
        for (pool, pods) in pools {
            let (count, listed) = match pods {
                Pods::Simulated(count) => (count, Vec::new()),
                Pods::Listed(addrs) => (0, addrs),
            };
            for addr in listed {
                self.pods.push(Pod { name: addr.clone(), addr, pool: pool.clone() });
                self.pod_processes.push(None);
            }
            for _ in 0..count {
                let index = self.pods.len();
                self.pods.push(Pod { name: pod_name(index), addr: String::new(), pool: pool.clone() });
                let port = match self.builder.ports {
                    // Listed pods do not use up a port of the row.
                    Ports::Fixed { first_pod, .. } => (first_pod..).nth(self.simulated()).unwrap_or(0),
                    Ports::Ephemeral => free_port(),
                };
                let process = self.spawn_pod(index, port)?;
                self.pod_processes.push(Some(process));
            }
        }
        for (index, slot) in std::mem::take(&mut self.pod_processes).into_iter().enumerate() {
            let slot = match slot {
                Some(process) => Some(self.listening(index, process).await?),
                None => None,
            };
            self.pod_processes.push(slot);
        }
        Ok(())
    }

    /// Waits until a simulated pod listens, be it on another port than it was to have.
    async fn listening(&mut self, index: usize, mut process: Process) -> Result<Process, StackError> {
        for left in (0..ATTEMPTS).rev() {
            match process.listening(START_TIMEOUT).await {
                Err(ProcessError::Ended { log, .. }) if left > 0 && self.builder.may_take_other_ports(&log) => {
                    process = self.spawn_pod(index, free_port())?;
                }
                addr => {
                    let addr = addr?;
                    if let Some(pod) = self.pods.get_mut(index) {
                        pod.addr = addr;
                    }
                    break;
                }
            }
        }
        Ok(process)
    }

    fn simulated(&self) -> usize {
        self.pod_processes.iter().flatten().count()
    }

    fn spawn_pod(&self, index: usize, port: u16) -> Result<Process, StackError> {
        let name = pod_name(index);
        let mut command = Command::new(Artifact::Binary("vllm-sim".to_owned()).find()?);
        command
            .args(["--host", "127.0.0.1", "--port", &port.to_string()])
            .args(["--seed", &index.to_string(), "--pod-name", &name])
            .args(&self.builder.vllm_sim_args)
            .args(self.builder.pod_args.get(&index).into_iter().flatten());
        Ok(Process::spawn(&name, &mut command, &self.log(&name), &self.watcher)?)
    }

    fn choose_ports(&mut self) {
        let (gateway, admin, sidecar) = match self.builder.ports {
            Ports::Fixed { gateway, admin, sidecar, .. } => (gateway, admin, sidecar),
            Ports::Ephemeral => (free_port(), free_port(), free_port()),
        };
        (self.gateway, self.admin, self.sidecar) = (loopback(gateway), loopback(admin), loopback(sidecar));
    }

    async fn start_gateway(&mut self) -> Result<(), StackError> {
        if self.builder.sidecar && self.builder.mode.has_sidecar_process() {
            self.restart_sidecar().await?;
        }
        self.write_bootstrap()?;
        self.start_envoy().await
    }

    fn spawn_sidecar(&self) -> Result<Process, StackError> {
        let mut command = Command::new(Artifact::Binary("metrics-sidecar".to_owned()).find()?);
        command.args(self.sidecar_args());
        Ok(Process::spawn("metrics-sidecar", &mut command, &self.log("metrics-sidecar"), &self.watcher)?)
    }

    fn sidecar_args(&self) -> Vec<String> {
        let mut args = vec![format!("--listen={}", self.sidecar), format!("--envoy-admin=http://{}", self.admin)];
        if !self.builder.sidecar_args.iter().any(|arg| arg == "--pool" || arg.starts_with("--pool=")) {
            args.extend(self.builder.pools.keys().map(|pool| format!("--pool={pool}=envoy:{CLUSTER_PREFIX}{pool}")));
        }
        args.extend(self.builder.sidecar_args.iter().cloned());
        args
    }

    /// Tells the native module where its sidecar is: in itself, or behind a cluster.
    fn place_sidecar(&self, bootstrap: &mut Bootstrap) -> Result<(), StackError> {
        let embedded = match self.builder.mode {
            Mode::Wasm => return Ok(()),
            Mode::Native if self.builder.sidecar => Value::Object(embedded(&self.sidecar_args())),
            Mode::Native | Mode::NativeSidecar => {
                bootstrap.ensure_cluster(SIDECAR_CLUSTER);
                Value::Null
            }
        };
        Ok(bootstrap.merge_plugin_config(&json!({"sidecar": {"embedded": embedded}}))?)
    }

    fn write_bootstrap(&mut self) -> Result<(), StackError> {
        let config = self.builder.config.as_deref().unwrap_or_else(|| self.builder.mode.bootstrap());
        let source = repository().join(config);
        let text =
            std::fs::read_to_string(&source).map_err(|error| StackError::File { path: source, source: error })?;
        let mut bootstrap = Bootstrap::parse(&text)?;
        if bootstrap.module_places() > 0 {
            let module = self.builder.module.clone().map_or_else(|| self.builder.mode.module().find(), Ok)?;
            bootstrap.set_module(&module);
            self.place_sidecar(&mut bootstrap)?;
        }
        bootstrap.set_admin(self.admin);
        for name in bootstrap.listeners() {
            let addr = if name == GATEWAY_LISTENER { self.gateway } else { loopback(free_port()) };
            bootstrap.set_listener(&name, addr)?;
            self.listeners.insert(name, addr);
        }
        for pool in self.builder.pools.keys() {
            let members = self.pods.iter().filter(|pod| pod.pool == *pool).map(|pod| pod.addr.clone());
            bootstrap.set_endpoints(&format!("{CLUSTER_PREFIX}{pool}"), &members.collect::<Vec<_>>())?;
        }
        if bootstrap.clusters().iter().any(|cluster| cluster == SIDECAR_CLUSTER) {
            bootstrap.set_endpoints(SIDECAR_CLUSTER, &[self.sidecar.to_string()])?;
        }
        if let Some(patch) = &self.builder.plugin_config {
            bootstrap.merge_plugin_config(patch)?;
        }
        if let Some(patch) = &self.builder.service_config {
            bootstrap.merge_service_config(patch)?;
        }
        for patch in &self.builder.patches {
            patch(bootstrap.tree_mut());
        }
        let path = self.bootstrap_file();
        std::fs::write(&path, bootstrap.to_json()).map_err(|source| StackError::File { path, source })
    }

    async fn start_envoy(&mut self) -> Result<(), StackError> {
        let mut command = Command::new(&self.envoy);
        command
            .arg("--config-path")
            .arg(self.bootstrap_file())
            .args(["--concurrency", &self.builder.workers.to_string()])
            // Without it, Envoys of one machine meet in shared memory.
            .arg("--disable-hot-restart")
            .args(["--log-level", "warn", "--drain-time-s", &self.builder.drain_seconds.to_string()])
            .args(&self.builder.envoy_args);
        let mut process = Process::spawn("envoy", &mut command, &self.log("envoy"), &self.watcher)?;
        let deadline = Instant::now() + ENVOY_TIMEOUT;
        while !self.admin_get("/ready").await.is_ok_and(|response| response.status.is_success()) {
            process.check()?;
            if Instant::now() > deadline {
                return Err(process.timed_out(ENVOY_TIMEOUT).into());
            }
            tokio::time::sleep(POLL).await;
        }
        self.envoy_process = Some(process);
        Ok(())
    }

    /// Waits until Envoy's page shows every simulated pod as fresh.
    async fn known(&mut self) -> Result<(), StackError> {
        let expected = self.simulated();
        if expected == 0 || expected < self.pods.len() {
            return Ok(());
        }
        let deadline = Instant::now() + SNAPSHOT_TIMEOUT;
        loop {
            let known = self.envoy_page().await?.sum(Stat::Endpoints.family().name, &[("state", "fresh")]);
            // Counts are small integers.
            if known as usize == expected {
                return Ok(());
            }
            self.check()?;
            if Instant::now() > deadline {
                let log = self.logs();
                return Err(StackError::NoSnapshot { after: SNAPSHOT_TIMEOUT, known, expected, log });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn bootstrap_file(&self) -> PathBuf {
        self.folder.path().join("bootstrap.json")
    }

    fn log(&self, name: &str) -> PathBuf {
        Path::new(self.folder.path()).join(format!("{name}.log"))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        end_all(self.processes());
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn pod_name(index: usize) -> String {
    format!("pod-{}", index + 1)
}
