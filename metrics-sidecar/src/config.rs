//! Flags, parsed into a configuration that needs no further checks.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Parser;

use crate::state::Target;

/// How often each pod is read: the interval of the reference endpoint picker.
pub const POLL_INTERVAL: &str = "50ms";
/// How long one request to a pod may take in all. A busy engine answers in 50 ms.
pub const REQUEST_TIMEOUT: &str = "1s";
/// How often endpoints are listed anew. Envoy's own health checks rarely run more often.
pub const DISCOVERY_INTERVAL: &str = "1s";
/// Age beyond which metrics are no longer trusted: what the reference endpoint picker uses for its pool gauges.
pub const STALENESS: &str = "2s";
/// Largest page of a pod in bytes; real ones have 50 to 100 KB.
pub const MAX_PAGE_BYTES: &str = "4194304";

/// Exit code for bad flags: `EX_USAGE` of sysexits.h.
pub const EX_USAGE: u8 = 64;

/// Reads model servers' load, hands it to the filter in Envoy, and serves the merged metrics page.
#[derive(Clone, Debug, Parser)]
#[command(name = "metrics-sidecar", version, max_term_width = 100)]
pub struct Flags {
    /// A pool and where its endpoints come from, once for each pool: NAME=envoy:CLUSTER (a cluster of the Envoy whose admin
    /// port is --envoy-admin), NAME=static:[[NAMESPACE/]POD@]IP:PORT,… or NAME=dns:HOST:PORT
    #[arg(long = "pool", value_name = "NAME=SOURCE", required = true)]
    pools: Vec<String>,
    /// Where to serve /snapshot, /metrics, /stats/prometheus, /healthz and /readyz
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "IP:PORT")]
    listen: String,
    /// Admin endpoint of Envoy, read for envoy: pools and for the merged page
    #[arg(long, default_value = "http://127.0.0.1:9901", value_name = "URL")]
    envoy_admin: String,
    /// How often each pod is read
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
    #[arg(long, default_value = "/metrics", value_name = "PATH")]
    metrics_path: String,
    /// Largest page of a pod
    #[arg(long, default_value = MAX_PAGE_BYTES, value_name = "BYTES")]
    max_page_bytes: String,
    /// Threads; one reads thousands of pages a second
    #[arg(long, default_value = "1", value_name = "N")]
    threads: String,
    /// Label commit of inference_extension_info
    #[arg(long, default_value = option_env!("INPICK_COMMIT").unwrap_or("unknown"), value_name = "TEXT")]
    commit: String,
    /// Label build_ref of inference_extension_info
    #[arg(long, default_value = option_env!("INPICK_BUILD_REF").unwrap_or("unknown"), value_name = "TEXT")]
    build_ref: String,
}

/// Everything that the sidecar is told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// At least one; names are unique.
    pub pools: Vec<PoolConfig>,
    /// Where to serve.
    pub listen: SocketAddr,
    /// Envoy's admin endpoint.
    pub envoy_admin: Admin,
    /// How often each pod is read; not zero.
    pub poll_interval: Duration,
    /// How long one request to a pod may take in all; not zero.
    pub request_timeout: Duration,
    /// How often endpoints are listed anew; not zero.
    pub discovery_interval: Duration,
    /// Age beyond which metrics are stale; not zero.
    pub staleness: Duration,
    /// Path of the pods' metrics page; begins with a slash and holds no blanks.
    pub metrics_path: String,
    /// Largest page of a pod, bytes.
    pub max_page_bytes: usize,
    /// Threads of the runtime; not zero.
    pub threads: usize,
    /// Label `commit`.
    pub commit: String,
    /// Label `build_ref`.
    pub build_ref: String,
}

/// A pool and where its endpoints come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolConfig {
    /// Not empty.
    pub name: String,
    /// Where its endpoints come from.
    pub source: Source,
}

/// Where endpoints come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// A cluster of Envoy, by name.
    Envoy(String),
    /// A fixed list; addresses are unique.
    Static(Vec<Target>),
    /// Every address of a name, at one port.
    Dns {
        /// The name.
        host: String,
        /// The port.
        port: u16,
    },
}

/// Host and port of Envoy's admin endpoint.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Admin {
    /// Name or address, an IPv6 address without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl std::fmt::Display for Admin {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(out, "[{}]:{}", self.host, self.port)
        } else {
            write!(out, "{}:{}", self.host, self.port)
        }
    }
}

/// What is wrong with a flag.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FlagError {
    /// Not `NAME=SOURCE`.
    #[error("--pool {0:?}: expected NAME=SOURCE")]
    Pool(String),
    /// Two pools of one name.
    #[error("--pool {0:?}: a pool of that name is already given")]
    PoolTwice(String),
    /// A source of no known kind.
    #[error("--pool {pool}: {source_text:?} begins with none of envoy:, static:, dns:")]
    SourceKind {
        /// The pool.
        pool: String,
        /// What follows the name.
        source_text: String,
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
}

impl Flags {
    /// Reads every flag.
    ///
    /// # Errors
    ///
    /// All that is wrong at once, in the order of the flags.
    pub fn parse_all(&self) -> Result<Config, Vec<FlagError>> {
        let mut errors = Vec::new();
        let mut pools: Vec<PoolConfig> = Vec::new();
        for text in &self.pools {
            match pool(text, &mut errors) {
                Some(pool) if pools.iter().any(|known| known.name == pool.name) => {
                    errors.push(FlagError::PoolTwice(pool.name))
                }
                Some(pool) => pools.push(pool),
                None => {}
            }
        }
        let listen = keep(self.listen.parse().map_err(|_| FlagError::Listen(self.listen.clone())), &mut errors);
        let envoy_admin = keep(admin(&self.envoy_admin), &mut errors);
        let poll_interval = keep(duration("poll-interval", &self.poll_interval), &mut errors);
        let request_timeout = keep(duration("request-timeout", &self.request_timeout), &mut errors);
        let discovery_interval = keep(duration("discovery-interval", &self.discovery_interval), &mut errors);
        let staleness = keep(duration("staleness", &self.staleness), &mut errors);
        let path = &self.metrics_path;
        if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            errors.push(FlagError::Path(path.clone()));
        }
        let max_page_bytes = keep(number("max-page-bytes", &self.max_page_bytes), &mut errors);
        let threads = keep(number("threads", &self.threads), &mut errors);
        let parts = (
            listen,
            envoy_admin,
            poll_interval,
            request_timeout,
            discovery_interval,
            staleness,
            max_page_bytes,
            threads,
        );
        match parts {
            (
                Some(listen),
                Some(envoy_admin),
                Some(poll_interval),
                Some(request_timeout),
                Some(discovery_interval),
                Some(staleness),
                Some(max_page_bytes),
                Some(threads),
            ) if errors.is_empty() => Ok(Config {
                pools,
                listen,
                envoy_admin,
                poll_interval,
                request_timeout,
                discovery_interval,
                staleness,
                metrics_path: path.clone(),
                max_page_bytes,
                threads,
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

fn pool(text: &str, errors: &mut Vec<FlagError>) -> Option<PoolConfig> {
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
        Source::Dns { host, port }
    } else {
        errors.push(FlagError::SourceKind { pool: name, source_text: source.to_owned() });
        return None;
    };
    Some(PoolConfig { name, source })
}

fn endpoints(pool: &str, list: &str, errors: &mut Vec<FlagError>) -> Option<Vec<Target>> {
    let before = errors.len();
    let mut targets: Vec<Target> = Vec::new();
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
                targets.push(Target { pod: pod.to_owned(), namespace: namespace.to_owned(), ..Target::new(address) });
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
    let digits = text.bytes().position(|byte| !(byte.is_ascii_digit() || byte == b'.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "ms" => Some(0.001),
        "s" => Some(1.0),
        "m" => Some(60.0),
        _ => None,
    };
    number
        .parse::<f64>()
        .ok()
        .zip(seconds)
        .and_then(|(number, seconds)| Duration::try_from_secs_f64(number * seconds).ok())
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| FlagError::Duration { flag, text: text.to_owned() })
}

fn number(flag: &'static str, text: &str) -> Result<usize, FlagError> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| FlagError::Number { flag, text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Config, Vec<FlagError>> {
        Flags::try_parse_from(["metrics-sidecar"].iter().chain(arguments)).unwrap().parse_all()
    }

    #[test]
    fn every_kind_of_source_is_read() {
        let config = parse(&[
            "--pool",
            "a=envoy:vllm",
            "--pool",
            "b=static:10.0.0.1:8000, pod-1@10.0.0.2:8000,ns/pod-2@[::1]:8000",
            "--pool",
            "c=dns:vllm.default.svc:8000",
            "--envoy-admin",
            "http://[::1]:9901/",
            "--poll-interval",
            "0.1s",
        ])
        .unwrap();
        assert_eq!(config.pools[0], PoolConfig { name: "a".into(), source: Source::Envoy("vllm".into()) });
        let named = |address: &str, pod: &str, namespace: &str| Target {
            pod: pod.into(),
            namespace: namespace.into(),
            ..Target::new(address.parse().unwrap())
        };
        let expected = vec![
            named("10.0.0.1:8000", "", ""),
            named("10.0.0.2:8000", "pod-1", ""),
            named("[::1]:8000", "pod-2", "ns"),
        ];
        assert_eq!(config.pools[1].source, Source::Static(expected));
        assert_eq!(config.pools[2].source, Source::Dns { host: "vllm.default.svc".into(), port: 8000 });
        assert_eq!(config.envoy_admin.to_string(), "[::1]:9901");
        assert_eq!(config.poll_interval, Duration::from_millis(100));
        assert_eq!(config.listen.to_string(), "127.0.0.1:9090");
    }

    #[test]
    fn all_that_is_wrong_is_reported_at_once() {
        let errors = parse(&[
            "--pool",
            "nothing",
            "--pool",
            "a=consul:x",
            "--pool",
            "b=static:10.0.0.1,x@10.0.0.2:1,10.0.0.2:1",
            "--pool",
            "c=dns:name",
            "--pool",
            "d=envoy:",
            "--pool",
            "e=envoy:x",
            "--pool",
            "e=envoy:y",
            "--listen",
            "nowhere",
            "--envoy-admin",
            "https://x:1",
            "--poll-interval",
            "0ms",
            "--staleness",
            "2",
            "--metrics-path",
            "metrics",
            "--threads",
            "0",
        ])
        .unwrap_err();
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "--pool \"nothing\": expected NAME=SOURCE",
                "--pool a: \"consul:x\" begins with none of envoy:, static:, dns:",
                "--pool b: \"10.0.0.1\" is not [[NAMESPACE/]POD@]IP:PORT",
                "--pool b: 10.0.0.2:1 is listed twice",
                "--pool c: \"name\" is not HOST:PORT",
                "--pool d: envoy: wants the name of a cluster",
                "--pool \"e\": a pool of that name is already given",
                "--listen \"nowhere\": expected IP:PORT",
                "--envoy-admin \"https://x:1\": expected http://HOST:PORT",
                "--poll-interval \"0ms\": expected a number above zero with ms, s or m, such as 50ms",
                "--staleness \"2\": expected a number above zero with ms, s or m, such as 50ms",
                "--metrics-path \"metrics\": expected a path that begins with / and holds no blanks",
                "--threads \"0\": expected a whole number above zero",
            ]
        );
    }
}
