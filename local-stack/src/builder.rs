//! What a stack is to be.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde_json::Value;

use crate::{Mode, Ports};

/// The pool of the bootstraps.
const POOL: &str = "default";
/// Enough to see what several workers do to one another, on two cores.
const WORKERS: usize = 2;

/// The pods of a pool.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Pods {
    /// That many simulated ones.
    Simulated(usize),
    /// Servers that run already, as `host:port`.
    Listed(Vec<String>),
}

type Patch = Box<dyn Fn(&mut Value) + Send + Sync>;

/// What a stack is to be. Every setting has a default: three simulated pods and the wasm module with the
/// sidecar behind `envoy/standalone.yaml`, with two workers.
pub struct Builder {
    pub(crate) pools: BTreeMap<String, Pods>,
    pub(crate) vllm_sim_args: Vec<String>,
    pub(crate) pod_args: BTreeMap<usize, Vec<String>>,
    pub(crate) sidecar: bool,
    pub(crate) sidecar_args: Vec<String>,
    pub(crate) mode: Mode,
    pub(crate) config: Option<PathBuf>,
    pub(crate) module: Option<PathBuf>,
    pub(crate) plugin_config: Option<Value>,
    pub(crate) service_config: Option<Value>,
    pub(crate) patches: Vec<Patch>,
    pub(crate) drain_seconds: u32,
    pub(crate) workers: usize,
    pub(crate) envoy_args: Vec<String>,
    pub(crate) ports: Ports,
    pub(crate) wait_for_snapshot: bool,
}

impl fmt::Debug for Builder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Builder")
            .field("mode", &self.mode)
            .field("config", &self.config)
            .field("pools", &self.pools)
            .finish_non_exhaustive()
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            pools: BTreeMap::from([(POOL.to_owned(), Pods::Simulated(3))]),
            vllm_sim_args: Vec::new(),
            pod_args: BTreeMap::new(),
            sidecar: true,
            sidecar_args: Vec::new(),
            mode: Mode::default(),
            config: None,
            module: None,
            plugin_config: None,
            service_config: None,
            patches: Vec::new(),
            drain_seconds: 1,
            workers: WORKERS,
            envoy_args: Vec::new(),
            ports: Ports::Ephemeral,
            wait_for_snapshot: true,
        }
    }
}

impl Builder {
    /// That many simulated pods in the pool `default`.
    #[must_use]
    pub fn pods(self, count: usize) -> Self {
        self.pool(POOL, Pods::Simulated(count))
    }

    /// Servers that run already, `host:port` each, in the pool `default`.
    #[must_use]
    pub fn pods_at(self, addrs: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.pool(POOL, Pods::Listed(addrs.into_iter().map(Into::into).collect()))
    }

    /// The pods of a pool, whose cluster in the bootstrap is called `pool-NAME`.
    #[must_use]
    pub fn pool(mut self, name: &str, pods: Pods) -> Self {
        self.pools.insert(name.to_owned(), pods);
        self
    }

    /// No pods and no pools, for a bootstrap that has none.
    #[must_use]
    pub fn without_pods(mut self) -> Self {
        self.pools.clear();
        self
    }

    /// Arguments of every simulated pod.
    #[must_use]
    pub fn vllm_sim_args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.vllm_sim_args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Arguments of one simulated pod, counted from 0 over all pools in the order of their names.
    #[must_use]
    pub fn pod_args(mut self, index: usize, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.pod_args.entry(index).or_default().extend(args.into_iter().map(Into::into));
        self
    }

    /// Arguments of the sidecar. The default `--pool NAME=envoy:pool-NAME` of each pool is left out if these have a `--pool`.
    #[must_use]
    pub fn sidecar_args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.sidecar_args.extend(args.into_iter().map(Into::into));
        self
    }

    /// No sidecar; its port stays closed.
    #[must_use]
    pub fn without_sidecar(mut self) -> Self {
        self.sidecar = false;
        self.wait_for_snapshot = false;
        self
    }

    /// What of inpick runs where.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// The bootstrap, in YAML, relative to the repository, instead of the mode's.
    #[must_use]
    pub fn config(mut self, file: impl Into<PathBuf>) -> Self {
        self.config = Some(file.into());
        self
    }

    /// Another module than the mode's.
    #[must_use]
    pub fn module(mut self, file: impl Into<PathBuf>) -> Self {
        self.module = Some(file.into());
        self
    }

    /// Merged into the HTTP filter's configuration (RFC 7396).
    #[must_use]
    pub fn plugin_config(mut self, patch: Value) -> Self {
        self.plugin_config = Some(patch);
        self
    }

    /// Merged into the singleton service's configuration (RFC 7396).
    #[must_use]
    pub fn service_config(mut self, patch: Value) -> Self {
        self.service_config = Some(patch);
        self
    }

    /// A last change to the bootstrap's tree, after every other.
    #[must_use]
    pub fn patch(mut self, patch: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        self.patches.push(Box::new(patch));
        self
    }

    /// Envoy's worker threads.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Seconds after which Envoy closes connections to a listener, or to filters of one, that it replaced; 1 by default.
    #[must_use]
    pub fn drain_seconds(mut self, seconds: u32) -> Self {
        self.drain_seconds = seconds;
        self
    }

    /// Further arguments of Envoy, which takes none twice.
    #[must_use]
    pub fn envoy_args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.envoy_args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Which ports are taken; free ones by default.
    #[must_use]
    pub fn ports(mut self, ports: Ports) -> Self {
        self.ports = ports;
        self
    }

    /// Whether a stack counts as started only when Envoy knows its pods as fresh; true by default.
    #[must_use]
    pub fn wait_for_snapshot(mut self, wait: bool) -> Self {
        self.wait_for_snapshot = wait;
        self
    }
}
