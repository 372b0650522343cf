//! What the sidecar is told, checked: no value needs a further look.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::access::AccessConfig;
use crate::dialect::EngineKind;
use crate::eds::EdsFile;
use crate::endpoint::DiscoveredPod;
#[cfg(feature = "otlp")]
pub use crate::otlp::config::OtlpConfig;
use crate::tls::Tls;

/// Everything that the sidecar is told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// At least one; names are unique.
    pub pools: Vec<PoolConfig>,
    /// Where to serve.
    pub listen: SocketAddr,
    /// Who may read what is served, and where else.
    pub access: AccessConfig,
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
    /// Largest page of a pod, bytes.
    pub max_page_bytes: usize,
    /// How often each pod is asked for its models; not zero.
    pub models_interval: Duration,
    /// How long Envoy may take to print its page; not zero.
    pub envoy_page_timeout: Duration,
    /// Largest page of Envoy, bytes.
    pub max_envoy_page_bytes: usize,
    /// Threads of the runtime; not zero.
    pub threads: usize,
    /// Where the page's families are pushed to.
    #[cfg(feature = "otlp")]
    pub otlp: Option<OtlpConfig>,
    /// The pool's gauges are published as `llm_d_epp_*` too.
    pub llm_d: bool,
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
    /// Where its pods' metrics pages are.
    pub page: PageConfig,
    /// Where it is written for Envoy.
    pub eds: Option<EdsFile>,
}

/// Where the metrics pages of a pool's pods are.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PageConfig {
    /// Port, if it is not the one that the pod serves on; not zero.
    pub port: Option<u16>,
    /// Begins with a slash and holds no blanks.
    pub path: String,
    /// How they are read over TLS; without it plainly.
    pub tls: Option<Tls>,
    /// File with a bearer token to send.
    pub token_file: Option<PathBuf>,
    /// Whose pages they are; `None`: each page tells.
    pub engine: Option<EngineKind>,
}

/// Which addresses of a name are endpoints.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum AddressFamily {
    /// The IPv4 addresses if there are any, else the IPv6 addresses: a pod of a dual-stack cluster has one of each.
    #[default]
    PreferIpv4,
    /// IPv4 addresses alone.
    Ipv4,
    /// IPv6 addresses alone.
    Ipv6,
    /// All.
    Both,
}

impl AddressFamily {
    /// The addresses of this family.
    #[must_use]
    pub fn choose(self, mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        match self {
            Self::Both => {}
            Self::Ipv6 => addresses.retain(IpAddr::is_ipv6),
            Self::PreferIpv4 if !addresses.iter().any(IpAddr::is_ipv4) => {}
            Self::PreferIpv4 | Self::Ipv4 => addresses.retain(IpAddr::is_ipv4),
        }
        addresses
    }
}

impl std::str::FromStr for AddressFamily {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "prefer-ipv4" => Ok(Self::PreferIpv4),
            "ipv4" => Ok(Self::Ipv4),
            "ipv6" => Ok(Self::Ipv6),
            "both" => Ok(Self::Both),
            _ => Err(()),
        }
    }
}

/// Where endpoints come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// A cluster of Envoy, by name.
    Envoy(String),
    /// A fixed list; addresses are unique.
    Static(Vec<DiscoveredPod>),
    /// Every address of a name, at one port.
    Dns {
        /// The name.
        host: String,
        /// The port.
        port: u16,
        /// Which of its addresses are endpoints.
        family: AddressFamily,
    },
    /// What the API server of Kubernetes says.
    #[cfg(feature = "kubernetes")]
    Kubernetes {
        /// How it is reached.
        connection: kubernetes::Connection,
        /// What is followed there.
        followed: kubernetes::Followed,
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
