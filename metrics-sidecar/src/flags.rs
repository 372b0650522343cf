//! Flags, parsed into a configuration that needs no further checks.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::access::{AccessFlagError, AccessFlags};
use crate::cluster::Cluster;
use crate::config::{AddressFamily, Admin, Config, PageConfig, PoolConfig, Source};
use crate::dialect::EngineKind;
use crate::durations::parse_duration;
use crate::eds::EdsFile;
use crate::endpoint::DiscoveredPod;
use crate::kubernetes_flags;
#[cfg(feature = "otlp")]
use crate::otlp::flags::{OtlpFlagError, OtlpFlags};
use crate::tls::Tls;
use crate::token_file::read_token;

/// How often each pod is read: the interval of the reference endpoint picker.
pub const POLL_INTERVAL: &str = "50ms";
/// How long one request to a pod may take in all. A busy engine responds in 50 ms; one whose page takes seconds still yields its load.
pub const REQUEST_TIMEOUT: &str = "10s";
/// How often endpoints are listed anew. Envoy's own health checks rarely run more often.
pub const DISCOVERY_INTERVAL: &str = "1s";
/// Age beyond which metrics are no longer trusted: what the reference endpoint picker uses for its pool gauges.
pub const STALENESS: &str = "2s";
/// Where pods serve their metrics page, but for engines that have another place.
pub const METRICS_PATH: &str = "/metrics";
/// Largest page of a pod in bytes; real ones have 50 to 100 KB.
pub const MAX_PAGE_BYTES: &str = "4194304";

/// How long Envoy may take to print its metrics page: below the 10 s after which Prometheus gives up by default.
pub const ENVOY_PAGE_TIMEOUT: &str = "8s";
/// Largest page of Envoy in bytes; ten thousand series take about 1 MB.
pub const MAX_ENVOY_PAGE_BYTES: &str = "67108864";
/// How often each pod is asked for its models: they change with deployments and adapters, not with load.
pub const MODELS_INTERVAL: &str = "10s";

/// Exit code for bad flags: `EX_USAGE` of sysexits.h.
pub const EX_USAGE: u8 = 64;

/// Reads model servers' load, hands it to the filter in Envoy, and serves the merged metrics page.
#[derive(Clone, Debug, Parser)]
#[command(name = "metrics-sidecar", version, max_term_width = 100)]
pub struct Flags {
    /// A pool and where its endpoints come from, once for each pool: NAME=envoy:CLUSTER (a cluster of the Envoy whose admin
    /// port is --envoy-admin), NAME=static:[[NAMESPACE/]POD@]IP:PORT,…, NAME=dns:HOST:PORT, NAME=inferencepool:[NAMESPACE/]POOL (the pods
    /// of an InferencePool of Kubernetes) or NAME=pods:SELECTOR:PORT[,PORT] (the pods that a selector as kubectl's -l takes)
    #[arg(long = "pool", value_name = "NAME=SOURCE")]
    pools: Vec<String>,
    /// A setting of one pool, as often as needed. metrics-port=PORT: port of the pods' metrics page, if it is not the one they
    /// serve on; metrics-path=PATH: its path, instead of --metrics-path; metrics-scheme=https with
    /// metrics-ca-file=FILE (PEM) or metrics-tls-verify=off: over TLS, certificates being for the pod's address or for
    /// metrics-server-name=NAME; metrics-token-file=FILE: sends the bearer token in FILE,
    /// which is read again every 5 s; engine=vllm|sglang|trtllm-serve|triton-tensorrt-llm|triton|llama-cpp|tgi: whose pages they are,
    /// by default what each page tells; address-family=prefer-ipv4|ipv4|ipv6|both: which addresses of a dns: name are endpoints, by
    /// default the IPv4 ones if there are any, or ipv4|ipv6 which address of each pod of Kubernetes, by default its first;
    /// namespace=NAMESPACE of the pods of a pods: pool, by default that of the service account or of the kubeconfig's context;
    /// eds-file=FILE: where the pool is written for Envoy's endpoint discovery (path_config_source), as the endpoints of the
    /// cluster eds-cluster=CLUSTER, by default the pool's name
    #[arg(long = "pool-option", value_name = "NAME=KEY=VALUE")]
    pool_options: Vec<String>,
    /// Where to serve /snapshot, /metrics, /stats/prometheus, /healthz and /readyz: Envoy reads the snapshot here
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "IP:PORT")]
    listen: String,
    #[command(flatten)]
    access: AccessFlags,
    /// Admin endpoint of Envoy, read for envoy: pools and for the merged page
    #[arg(long, default_value = "http://127.0.0.1:9901", value_name = "URL")]
    envoy_admin: String,
    /// How often each pod is read; one that has had nothing to do for 20 pages, a fourth as often
    #[arg(long, default_value = POLL_INTERVAL, value_name = "DURATION")]
    poll_interval: String,
    /// How long one request to a pod may take in all
    #[arg(long, default_value = REQUEST_TIMEOUT, value_name = "DURATION")]
    request_timeout: String,
    /// How often endpoints are listed anew
    #[arg(long, default_value = DISCOVERY_INTERVAL, value_name = "DURATION")]
    discovery_interval: String,
    /// Age beyond which an endpoint's metrics are stale
    #[arg(long, default_value = STALENESS, value_name = "DURATION")]
    staleness: String,
    /// Path of the pods' metrics page
    #[arg(long, default_value = METRICS_PATH, value_name = "PATH")]
    metrics_path: String,
    /// Largest page of a pod
    #[arg(long, default_value = MAX_PAGE_BYTES, value_name = "BYTES")]
    max_page_bytes: String,
    /// How often each pod is asked for its models (/v1/models)
    #[arg(long, default_value = MODELS_INTERVAL, value_name = "DURATION")]
    models_interval: String,
    /// How long Envoy may take to print its metrics page; without it /metrics responds 503
    #[arg(long, default_value = ENVOY_PAGE_TIMEOUT, value_name = "DURATION")]
    envoy_page_timeout: String,
    /// Largest page of Envoy
    #[arg(long, default_value = MAX_ENVOY_PAGE_BYTES, value_name = "BYTES")]
    max_envoy_page_bytes: String,
    /// Threads; one reads thousands of pages a second
    #[arg(long, default_value = "1", value_name = "N")]
    threads: String,
    /// Whether the pool's gauges are published as llm_d_epp_* too, as the filter publishes its families with metrics.llm_d
    #[arg(long, default_value = "off", value_name = "on|off")]
    llm_d: String,
    #[cfg(feature = "otlp")]
    #[command(flatten)]
    otlp: OtlpFlags,
    /// Label commit of inference_extension_info
    #[arg(long, default_value = option_env!("INPICK_COMMIT").unwrap_or("unknown"), value_name = "TEXT")]
    commit: String,
    /// Label build_ref of inference_extension_info
    #[arg(long, default_value = option_env!("INPICK_BUILD_REF").unwrap_or("unknown"), value_name = "TEXT")]
    build_ref: String,
}

/// What is wrong with a flag.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FlagError {
    /// No pool at all.
    #[error("--pool is missing: expected NAME=SOURCE, once for each pool")]
    NoPool,
    /// Not `NAME=SOURCE`.
    #[error("--pool {0:?}: expected NAME=SOURCE")]
    Pool(String),
    /// Two pools of one name.
    #[error("--pool {0:?}: a pool of that name is already given")]
    PoolTwice(String),
    /// A source of no known kind.
    #[error("--pool {pool}: {source_text:?} begins with none of envoy:, static:, dns:, inferencepool:, pods:")]
    SourceKind {
        /// The pool.
        pool: String,
        /// What follows the name.
        source_text: String,
    },
    /// Not a pool of Kubernetes.
    #[error("--pool {pool}: {why}")]
    Kubernetes {
        /// The pool.
        pool: String,
        /// What is wrong.
        why: String,
    },
    /// An empty cluster name.
    #[error("--pool {0}: envoy: wants the name of a cluster")]
    Cluster(String),
    /// Not an endpoint.
    #[error("--pool {pool}: {text:?} is not [[NAMESPACE/]POD@]IP:PORT")]
    Endpoint {
        /// The pool.
        pool: String,
        /// What should be an endpoint.
        text: String,
    },
    /// The same address twice.
    #[error("--pool {pool}: {address} is listed twice")]
    EndpointTwice {
        /// The pool.
        pool: String,
        /// The address.
        address: SocketAddr,
    },
    /// Not a name and a port.
    #[error("--pool {pool}: {text:?} is not HOST:PORT")]
    HostPort {
        /// The pool.
        pool: String,
        /// What should be a host and a port.
        text: String,
    },
    /// Not an address to listen on.
    #[error("--listen {0:?}: expected IP:PORT")]
    Listen(String),
    /// Not a setting of who may read the page.
    #[error(transparent)]
    Access(#[from] AccessFlagError),
    /// Not a setting of pushes.
    #[cfg(feature = "otlp")]
    #[error(transparent)]
    Otlp(#[from] OtlpFlagError),
    /// Not a URL of an admin endpoint.
    #[error("--envoy-admin {0:?}: expected http://HOST:PORT")]
    EnvoyAdmin(String),
    /// Not a duration.
    #[error("--{flag} {text:?}: expected a number above zero with ms, s or m, such as 50ms")]
    Duration {
        /// The flag.
        flag: &'static str,
        /// What it says.
        text: String,
    },
    /// Not a whole number above zero.
    #[error("--{flag} {text:?}: expected a whole number above zero")]
    Number {
        /// The flag.
        flag: &'static str,
        /// What it says.
        text: String,
    },
    /// Not a path.
    #[error("--metrics-path {0:?}: expected a path that begins with / and holds no blanks")]
    Path(String),
    /// Neither on nor off.
    #[error("--llm-d {0:?}: expected on or off")]
    LlmD(String),
    /// Not a setting of a pool.
    #[error("--pool-option {text:?}: {why}")]
    PoolOption {
        /// What it says.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl FlagError {
    /// The same of a member of a JSON object instead of a flag.
    #[must_use]
    pub fn of_member(&self) -> String {
        let text = self.to_string();
        text.strip_prefix("--").map_or_else(|| text.clone(), str::to_owned)
    }
}

impl Flags {
    /// The API server, if a pool comes from it.
    fn cluster(&self, errors: &mut Vec<FlagError>) -> Cluster {
        let is_wanted = self.pools.iter().filter_map(|text| text.split_once('=')).any(|(_, text)| Cluster::has(text));
        if !is_wanted {
            return Cluster::default();
        }
        let found = self.access.cluster(|name| std::env::var(name).ok());
        found.map_err(|error| errors.push(FlagError::Access(error))).unwrap_or_default()
    }

    /// Reads every flag.
    ///
    /// # Errors
    ///
    /// All that is wrong at once, in the order of the flags.
    pub fn parse_all(&self) -> Result<Config, Vec<FlagError>> {
        let mut errors = Vec::new();
        let mut pools: Vec<PoolConfig> = Vec::new();
        if self.pools.is_empty() {
            errors.push(FlagError::NoPool);
        }
        let cluster = self.cluster(&mut errors);
        for text in &self.pools {
            match pool(text, &cluster, &mut errors) {
                Some(pool) if pools.iter().any(|known| known.name == pool.name) => {
                    errors.push(FlagError::PoolTwice(pool.name))
                }
                Some(pool) => pools.push(pool),
                None => {}
            }
        }
        let mut wants_tls = Vec::new();
        let mut names = Vec::new();
        let mut clusters = Vec::new();
        for text in &self.pool_options {
            let error = |why| FlagError::PoolOption { text: text.clone(), why };
            match text.split_once('=').map(|(name, option)| (name.trim(), option)) {
                Some((name, "metrics-scheme=https")) => wants_tls.push((text, name)),
                Some((name, option)) if option.starts_with("eds-cluster=") => clusters.push((text, name, option)),
                Some((name, option)) if option.starts_with("metrics-server-name=") => names.push((text, name, option)),
                _ => errors.extend(pool_option(text, &mut pools).map_err(error).err()),
            }
        }
        for page in pools.iter_mut().map(|pool| &mut pool.page).filter(|page| page.path.is_empty()) {
            let own = page.engine.and_then(EngineKind::page_path).filter(|_| self.metrics_path == METRICS_PATH);
            page.path = own.unwrap_or(&self.metrics_path).to_owned();
        }
        for (text, name, option) in clusters {
            let cluster = option.trim_start_matches("eds-cluster=");
            let eds = pools.iter_mut().find(|pool| pool.name == name).and_then(|pool| pool.eds.as_mut());
            match eds.filter(|_| !cluster.is_empty()) {
                Some(eds) => cluster.clone_into(&mut eds.cluster),
                None => {
                    let why = "wants the name of a cluster, and a pool with eds-file";
                    errors.push(FlagError::PoolOption { text: text.clone(), why });
                }
            }
        }
        for (index, pool) in pools.iter().enumerate() {
            let path = pool.eds.as_ref().map(|eds| &eds.path);
            let mut others = pools.iter().take(index).filter_map(|other| other.eds.as_ref());
            if path.is_some() && others.any(|other| Some(&other.path) == path) {
                let text = format!("{}=eds-file", pool.name);
                errors.push(FlagError::PoolOption { text, why: "another pool is written into the same file" });
            }
        }
        for (text, name, option) in names {
            let error = |why| FlagError::PoolOption { text: text.clone(), why };
            let (_, value) = option.split_once('=').unwrap_or_default();
            let tls = pools.iter_mut().find(|pool| pool.name == name).and_then(|pool| pool.page.tls.as_mut());
            match (tls, ServerName::try_from(value.to_owned())) {
                (None, _) => errors.push(error("wants a pool with metrics-ca-file or metrics-tls-verify=off")),
                (_, Err(_)) => errors.push(error("expected a DNS name or an IP address")),
                (Some(tls), Ok(name)) => tls.server_name = Some(name),
            }
        }
        for (text, name) in &wants_tls {
            if !pools.iter().any(|pool| pool.name == *name && pool.page.tls.is_some()) {
                let why = "wants a pool with metrics-ca-file or metrics-tls-verify=off";
                errors.push(FlagError::PoolOption { text: (*text).clone(), why });
            }
        }
        for pool in pools.iter().filter(|pool| pool.page.tls.is_some()) {
            if !wants_tls.iter().any(|(_, name)| *name == pool.name) {
                let why = "metrics-ca-file and metrics-tls-verify want metrics-scheme=https";
                errors.push(FlagError::PoolOption { text: pool.name.clone(), why });
            }
        }
        let listen = keep(self.listen.parse().map_err(|_| FlagError::Listen(self.listen.clone())), &mut errors);
        let access = self.access.parse_all(|name| std::env::var(name).ok());
        let access = access.map_err(|wrong| errors.extend(wrong.into_iter().map(FlagError::from))).ok();
        let envoy_admin = keep(admin(&self.envoy_admin), &mut errors);
        let poll_interval = keep(duration("poll-interval", &self.poll_interval), &mut errors);
        let request_timeout = keep(duration("request-timeout", &self.request_timeout), &mut errors);
        let discovery_interval = keep(duration("discovery-interval", &self.discovery_interval), &mut errors);
        let staleness = keep(duration("staleness", &self.staleness), &mut errors);
        let path = &self.metrics_path;
        if !is_path(path) {
            errors.push(FlagError::Path(path.clone()));
        }
        let max_page_bytes = keep(number("max-page-bytes", &self.max_page_bytes), &mut errors);
        let models_interval = keep(duration("models-interval", &self.models_interval), &mut errors);
        let envoy_page_timeout = keep(duration("envoy-page-timeout", &self.envoy_page_timeout), &mut errors);
        let max_envoy_page_bytes = keep(number("max-envoy-page-bytes", &self.max_envoy_page_bytes), &mut errors);
        let threads = keep(number("threads", &self.threads), &mut errors);
        let llm_d = match self.llm_d.as_str() {
            "on" => Some(true),
            "off" => Some(false),
            other => keep(Err(FlagError::LlmD(other.to_owned())), &mut errors),
        };
        #[cfg(feature = "otlp")]
        let otlp = {
            let of_scrapers = access.as_ref().and_then(|access| access.metrics_listen);
            let port = of_scrapers.or(listen).map_or(0, |address| address.port());
            let parsed = self.otlp.parse_all(port, |name| std::env::var(name).ok());
            parsed.map_err(|wrong| errors.extend(wrong.into_iter().map(FlagError::from))).ok().flatten()
        };
        let parts = (
            listen.zip(access),
            envoy_admin,
            poll_interval,
            request_timeout,
            discovery_interval,
            staleness,
            max_page_bytes,
            (models_interval, envoy_page_timeout, max_envoy_page_bytes),
            (threads, llm_d),
        );
        match parts {
            (
                Some((listen, access)),
                Some(envoy_admin),
                Some(poll_interval),
                Some(request_timeout),
                Some(discovery_interval),
                Some(staleness),
                Some(max_page_bytes),
                (Some(models_interval), Some(envoy_page_timeout), Some(max_envoy_page_bytes)),
                (Some(threads), Some(llm_d)),
            ) if errors.is_empty() => Ok(Config {
                pools,
                listen,
                access,
                envoy_admin,
                poll_interval,
                request_timeout,
                discovery_interval,
                staleness,
                max_page_bytes,
                models_interval,
                envoy_page_timeout,
                max_envoy_page_bytes,
                threads,
                #[cfg(feature = "otlp")]
                otlp,
                llm_d,
                commit: self.commit.clone(),
                build_ref: self.build_ref.clone(),
            }),
            _ => Err(errors),
        }
    }
}

fn keep<T>(result: Result<T, FlagError>, errors: &mut Vec<FlagError>) -> Option<T> {
    result.map_err(|error| errors.push(error)).ok()
}

fn pool(text: &str, cluster: &Cluster, errors: &mut Vec<FlagError>) -> Option<PoolConfig> {
    let Some((name, source)) = text.split_once('=').filter(|(name, _)| !name.trim().is_empty()) else {
        errors.push(FlagError::Pool(text.to_owned()));
        return None;
    };
    let name = name.trim().to_owned();
    let source = if let Some(cluster) = source.strip_prefix("envoy:") {
        if cluster.is_empty() {
            errors.push(FlagError::Cluster(name));
            return None;
        }
        Source::Envoy(cluster.to_owned())
    } else if let Some(list) = source.strip_prefix("static:") {
        Source::Static(endpoints(&name, list, errors)?)
    } else if let Some(text) = source.strip_prefix("dns:") {
        let Some((host, port)) = host_port(text) else {
            errors.push(FlagError::HostPort { pool: name, text: text.to_owned() });
            return None;
        };
        Source::Dns { host, port, family: AddressFamily::default() }
    } else if let Some(followed) = cluster.source(source) {
        let kept = followed.map_err(|why| errors.push(FlagError::Kubernetes { pool: name.clone(), why }));
        kept.ok()?
    } else {
        errors.push(FlagError::SourceKind { pool: name, source_text: source.to_owned() });
        return None;
    };
    Some(PoolConfig { name, source, page: PageConfig::default(), eds: None })
}

/// Takes `NAME=KEY=VALUE`; the error says what is wrong.
fn pool_option(text: &str, pools: &mut [PoolConfig]) -> Result<(), &'static str> {
    let Some((name, (key, value))) =
        text.split_once('=').and_then(|(name, rest)| Some((name.trim(), rest.split_once('=')?)))
    else {
        return Err("expected NAME=KEY=VALUE");
    };
    let pool = pools.iter_mut().find(|pool| pool.name == name).ok_or("there is no --pool of that name")?;
    if let Some(taken) = kubernetes_flags::option(&mut pool.source, key, value) {
        return taken;
    }
    match (key, &mut pool.source) {
        ("metrics-port", _) => {
            let port = value.parse().ok().filter(|port| *port > 0);
            pool.page.port = Some(port.ok_or("expected a port from 1 to 65535")?);
        }
        ("metrics-path", _) if is_path(value) => pool.page.path = value.to_owned(),
        ("metrics-path", _) => return Err("expected a path that begins with / and holds no blanks"),
        ("metrics-scheme", _) if value == "http" => {}
        ("metrics-scheme", _) => return Err("expected http or https"),
        ("metrics-ca-file", _) => pool.page.tls = Some(Tls::with_ca_file(Path::new(value))?),
        ("metrics-tls-verify", _) if value == "off" => pool.page.tls = Some(Tls::without_verification()?),
        ("metrics-tls-verify", _) => return Err("expected off; certificates are verified by metrics-ca-file"),
        ("metrics-token-file", _) => {
            let file = PathBuf::from(value);
            read_token(&file).map_err(|_| "the file does not hold a token: one word of visible ASCII")?;
            pool.page.token_file = Some(file);
        }
        ("engine", _) => {
            pool.page.engine =
                Some(value.parse().map_err(
                    |()| "expected vllm, sglang, trtllm-serve, triton-tensorrt-llm, triton, llama-cpp or tgi",
                )?);
        }
        ("address-family", Source::Dns { family, .. }) => {
            *family = value.parse().map_err(|()| "expected prefer-ipv4, ipv4, ipv6 or both")?;
        }
        ("eds-file", Source::Envoy(_)) => return Err("Envoy has the endpoints of an envoy: pool by itself"),
        ("eds-file", _) => {
            let path = PathBuf::from(value);
            if let Some(objection) = EdsFile::objection(&path) {
                return Err(objection);
            }
            pool.eds = Some(EdsFile { path, cluster: pool.name.clone() });
        }
        ("address-family", _) => return Err("only pools of dns:, inferencepool: and pods: have address families"),
        ("namespace", _) => return Err("only a pods: pool has a namespace"),
        _ => {
            return Err(
                "expected metrics-port, metrics-scheme, metrics-path, metrics-ca-file, metrics-tls-verify, metrics-server-name, metrics-token-file, engine, address-family, namespace, eds-file or eds-cluster",
            );
        }
    }
    Ok(())
}

fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic())
}

fn endpoints(pool: &str, list: &str, errors: &mut Vec<FlagError>) -> Option<Vec<DiscoveredPod>> {
    let before = errors.len();
    let mut targets: Vec<DiscoveredPod> = Vec::new();
    for text in list.split(',').map(str::trim) {
        let (name, address) = text.rsplit_once('@').map_or((None, text), |(name, address)| (Some(name), address));
        let (namespace, pod) = name.map_or(("", ""), |name| name.split_once('/').unwrap_or(("", name)));
        match address.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 || (name.is_some() && pod.is_empty()) => {
                errors.push(FlagError::Endpoint { pool: pool.to_owned(), text: text.to_owned() });
            }
            Ok(address) if targets.iter().any(|known| known.address == address) => {
                errors.push(FlagError::EndpointTwice { pool: pool.to_owned(), address });
            }
            Ok(address) => {
                targets.push(DiscoveredPod {
                    pod: pod.to_owned(),
                    namespace: namespace.to_owned(),
                    ..DiscoveredPod::new(address)
                });
            }
            Err(_) => errors.push(FlagError::Endpoint { pool: pool.to_owned(), text: text.to_owned() }),
        }
    }
    (errors.len() == before).then_some(targets)
}

fn admin(text: &str) -> Result<Admin, FlagError> {
    let authority = text.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    authority
        .and_then(host_port)
        .map(|(host, port)| Admin { host, port })
        .ok_or_else(|| FlagError::EnvoyAdmin(text.to_owned()))
}

/// A name, an IPv4 address or a bracketed IPv6 address, and a port above zero.
fn host_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host = match bracketed {
        Some(address) => address.parse::<IpAddr>().ok().filter(IpAddr::is_ipv6)?.to_string(),
        None => Some(host)
            .filter(|host| {
                !host.is_empty()
                    && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
            })?
            .to_owned(),
    };
    Some((host, port))
}

fn duration(flag: &'static str, text: &str) -> Result<Duration, FlagError> {
    parse_duration(text).ok_or_else(|| FlagError::Duration { flag, text: text.to_owned() })
}

fn number(flag: &'static str, text: &str) -> Result<usize, FlagError> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| FlagError::Number { flag, text: text.to_owned() })
}
