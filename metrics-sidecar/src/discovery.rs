//! Where endpoints come from: clusters of Envoy, names in DNS. Fixed lists need no discovery.

use std::net::{IpAddr, SocketAddr};

use dns_lookup::{AddrInfoHints, LookupErrorKind, SockType, getaddrinfo};
use serde::Deserialize;

use crate::config::AddressFamily;
use crate::endpoint::DiscoveredPod;

/// Largest answer of Envoy's admin endpoint that is read; a thousand hosts take about 1 MB.
pub const MAX_CLUSTERS_BYTES: usize = 32 * 1024 * 1024;

/// Why Envoy's answer lists no endpoints for a pool.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ClustersError {
    /// Not the JSON of `/clusters?format=json`.
    #[error("Envoy's list of clusters cannot be read: {0}")]
    Json(String),
    /// No such cluster.
    #[error("Envoy knows no cluster {0:?}")]
    Unknown(String),
}

/// Envoy's clusters, as its admin endpoint reports them (`envoy.admin.v3.Clusters`).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Clusters {
    cluster_statuses: Vec<ClusterStatus>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ClusterStatus {
    name: String,
    host_statuses: Vec<HostStatus>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HostStatus {
    address: Address,
    health_status: Health,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    socket_address: Option<SocketAddress>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SocketAddress {
    address: String,
    port_value: u16,
}

/// `envoy.admin.v3.HostHealthStatus`; fields that are false or unset are left out of the JSON.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Health {
    failed_active_health_check: bool,
    pending_active_hc: bool,
    excluded_via_immediate_hc_fail: bool,
    eds_health_status: String,
}

impl Health {
    /// Whether active health checks or EDS say that the host takes no traffic. A degraded host still serves. Outlier ejection does
    /// not count: the filter judges outcomes itself, and would otherwise keep a pod out for as long as Envoy does after its return.
    /// Nor does a pending removal, which says that EDS dropped a host that still passes its health checks: Envoy serves from it.
    fn unready(&self) -> bool {
        self.failed_active_health_check
            || self.pending_active_hc
            || self.excluded_via_immediate_hc_fail
            || matches!(self.eds_health_status.as_str(), "UNHEALTHY" | "DRAINING" | "TIMEOUT")
    }
}

impl Clusters {
    /// Reads the body of `/clusters?format=json`.
    ///
    /// # Errors
    ///
    /// [`ClustersError::Json`].
    pub fn parse(body: &[u8]) -> Result<Self, ClustersError> {
        serde_json::from_slice(body).map_err(|error| ClustersError::Json(error.to_string()))
    }

    /// The hosts of a cluster. Hosts without an IP address (pipes, internal listeners) are left out.
    ///
    /// # Errors
    ///
    /// [`ClustersError::Unknown`].
    pub fn targets(&self, cluster: &str) -> Result<Vec<DiscoveredPod>, ClustersError> {
        let status = self.cluster_statuses.iter().find(|status| status.name == cluster);
        let status = status.ok_or_else(|| ClustersError::Unknown(cluster.to_owned()))?;
        Ok(status
            .host_statuses
            .iter()
            .filter_map(|host| {
                let socket = host.address.socket_address.as_ref()?;
                let address = SocketAddr::new(socket.address.parse::<IpAddr>().ok()?, socket.port_value);
                Some(DiscoveredPod { unready: host.health_status.unready(), ..DiscoveredPod::new(address) })
            })
            .collect())
    }
}

/// Path and query that ask for these clusters alone. Envoy filters by a regular expression; versions that do not know the
/// parameter answer with every cluster, which is as good.
#[must_use]
pub fn clusters_path<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut path = "/clusters?format=json&filter=%5E%28".to_owned();
    for (index, name) in names.into_iter().enumerate() {
        if index > 0 {
            path.push_str("%7C");
        }
        for byte in name.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => path.push(char::from(byte)),
                // Beyond ASCII an escaped byte would not be the character, so any character will do.
                0x80.. => path.push('.'),
                other => path.push_str(&format!("%5C%{other:02X}")),
            }
        }
    }
    path.push_str("%29%24");
    path
}

/// The addresses of a name at a port. None is a response as good as any: the name is gone or has no address of this family, as when
/// a deployment was scaled to zero.
///
/// # Errors
///
/// The name service gave no response, or one that says nothing about the name.
pub async fn resolve(host: String, port: u16, family: AddressFamily) -> std::io::Result<Vec<DiscoveredPod>> {
    let look_up = move || {
        let hints = AddrInfoHints { socktype: SockType::Stream.into(), ..AddrInfoHints::default() };
        match getaddrinfo(Some(&host), None, Some(hints)) {
            Ok(found) => found.map(|info| info.map(|info| info.sockaddr.ip())).collect(),
            Err(error) if is_authoritative(error.kind()) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    };
    let addresses: Vec<IpAddr> = tokio::task::spawn_blocking(look_up).await.map_err(std::io::Error::other)??;
    let targets = family.choose(addresses).into_iter().map(|ip| DiscoveredPod::new(SocketAddr::new(ip, port)));
    Ok(targets.collect())
}

/// Whether a failed lookup says that the name has no addresses: NXDOMAIN (`EAI_NONAME`) or no records (`EAI_NODATA`). A server that
/// fails or is silent gives `EAI_AGAIN`, a broken resolver others.
fn is_authoritative(kind: LookupErrorKind) -> bool {
    matches!(kind, LookupErrorKind::NoName | LookupErrorKind::NoData)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Envoy 1.40.0 answers for a cluster with health checks and one draining host, and for one found by DNS.
    const CAPTURE: &[u8] = include_bytes!("../tests/fixtures/envoy-1.40-clusters.json");

    #[test]
    fn hosts_are_listed_with_the_proxys_view_of_their_health() {
        let clusters = Clusters::parse(CAPTURE).unwrap();
        let seen: Vec<_> = clusters
            .targets("vllm")
            .unwrap()
            .iter()
            .map(|target| (target.address.to_string(), target.unready))
            .collect();
        assert_eq!(
            seen,
            [
                ("127.0.0.1:19903".to_owned(), true),
                ("[::1]:19904".to_owned(), true),
                ("127.0.0.1:19905".to_owned(), true)
            ]
        );
        assert_eq!(clusters.targets("other").unwrap(), [DiscoveredPod::new("[::1]:19903".parse().unwrap())]);
    }

    #[test]
    fn each_reason_not_to_serve_makes_a_host_unready() {
        for (health, unready) in [
            (r#"{"eds_health_status":"HEALTHY"}"#, false),
            (r#"{"eds_health_status":"DEGRADED"}"#, false),
            (r#"{"pending_dynamic_removal":true}"#, false),
            ("{}", false),
            (r#"{"failed_active_health_check":true}"#, true),
            (r#"{"failed_outlier_check":true}"#, false),
            (r#"{"excluded_via_immediate_hc_fail":true}"#, true),
            (r#"{"pending_active_hc":true}"#, true),
            (r#"{"eds_health_status":"UNHEALTHY"}"#, true),
            (r#"{"eds_health_status":"DRAINING"}"#, true),
            (r#"{"eds_health_status":"TIMEOUT"}"#, true),
        ] {
            let health: Health = serde_json::from_str(health).unwrap();
            assert_eq!(health.unready(), unready, "{health:?}");
        }
    }

    #[test]
    fn a_missing_cluster_and_a_cluster_without_hosts_are_different_things() {
        let clusters = Clusters::parse(br#"{"cluster_statuses":[{"name":"empty"}]}"#).unwrap();
        assert_eq!(clusters.targets("empty"), Ok(vec![]));
        assert_eq!(clusters.targets("other"), Err(ClustersError::Unknown("other".to_owned())));
        assert!(matches!(Clusters::parse(b"{\"cluster_statuses\":3}"), Err(ClustersError::Json(_))));
    }

    #[test]
    fn hosts_without_an_ip_address_are_left_out() {
        let body = br#"{"cluster_statuses":[{"name":"c","host_statuses":[{"address":{"pipe":{"path":"/x"}}},{"address":{"socket_address":{"address":"10.0.0.1","port_value":80}}}]}]}"#;
        let targets = Clusters::parse(body).unwrap().targets("c").unwrap();
        assert_eq!(targets, [DiscoveredPod::new("10.0.0.1:80".parse().unwrap())]);
    }

    #[test]
    fn names_are_escaped_for_the_expression_and_for_the_url() {
        assert_eq!(
            clusters_path(["vllm", "outbound|80||x.y"]),
            "/clusters?format=json&filter=%5E%28vllm%7Coutbound%5C%7C80%5C%7C%5C%7Cx%5C%2Ey%29%24"
        );
    }

    #[test]
    fn only_a_response_about_the_name_empties_a_pool() {
        for (kind, empties) in [
            (LookupErrorKind::NoName, true),
            (LookupErrorKind::NoData, true),
            (LookupErrorKind::Again, false),
            (LookupErrorKind::Fail, false),
            (LookupErrorKind::System, false),
            (LookupErrorKind::IO, false),
            (LookupErrorKind::Unknown, false),
        ] {
            assert_eq!(is_authoritative(kind), empties, "{kind:?}");
        }
    }

    #[test]
    fn a_name_of_both_families_lists_each_pod_once() {
        let both: Vec<IpAddr> =
            ["10.0.0.1", "fd00::1", "10.0.0.2", "fd00::2"].map(|text| text.parse().unwrap()).to_vec();
        let six: Vec<IpAddr> = vec![both[1], both[3]];
        assert_eq!(AddressFamily::PreferIpv4.choose(both.clone()), [both[0], both[2]]);
        assert_eq!(AddressFamily::PreferIpv4.choose(six.clone()), six);
        assert_eq!(AddressFamily::Ipv4.choose(six.clone()), Vec::<IpAddr>::new());
        assert_eq!(AddressFamily::Ipv6.choose(both.clone()), six);
        assert_eq!(AddressFamily::Both.choose(both.clone()), both);
    }
}
