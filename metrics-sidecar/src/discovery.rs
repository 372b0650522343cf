//! Where endpoints come from: clusters of Envoy, names in DNS. Fixed lists need no discovery.

use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;

use crate::state::Target;

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
    failed_outlier_check: bool,
    pending_active_hc: bool,
    excluded_via_immediate_hc_fail: bool,
    eds_health_status: String,
}

impl Health {
    /// Whether Envoy's own load balancer would pass the host over. A degraded host still serves.
    fn unready(&self) -> bool {
        self.failed_active_health_check
            || self.failed_outlier_check
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
    pub fn targets(&self, cluster: &str) -> Result<Vec<Target>, ClustersError> {
        let status = self.cluster_statuses.iter().find(|status| status.name == cluster);
        let status = status.ok_or_else(|| ClustersError::Unknown(cluster.to_owned()))?;
        Ok(status
            .host_statuses
            .iter()
            .filter_map(|host| {
                let socket = host.address.socket_address.as_ref()?;
                let address = SocketAddr::new(socket.address.parse::<IpAddr>().ok()?, socket.port_value);
                Some(Target { unready: host.health_status.unready(), ..Target::new(address) })
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

/// Every address of a name at a port.
///
/// # Errors
///
/// The resolver's, and [`std::io::ErrorKind::NotFound`] when the name has no address.
pub async fn resolve(host: &str, port: u16) -> std::io::Result<Vec<Target>> {
    let targets: Vec<Target> = tokio::net::lookup_host((host, port)).await?.map(Target::new).collect();
    if targets.is_empty() {
        return Err(std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(targets)
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
        assert_eq!(clusters.targets("other").unwrap(), [Target::new("[::1]:19903".parse().unwrap())]);
    }

    #[test]
    fn each_reason_not_to_serve_makes_a_host_unready() {
        for (health, unready) in [
            (r#"{"eds_health_status":"HEALTHY"}"#, false),
            (r#"{"eds_health_status":"DEGRADED"}"#, false),
            (r#"{"pending_dynamic_removal":true}"#, false),
            ("{}", false),
            (r#"{"failed_active_health_check":true}"#, true),
            (r#"{"failed_outlier_check":true}"#, true),
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
        assert_eq!(targets, [Target::new("10.0.0.1:80".parse().unwrap())]);
    }

    #[test]
    fn names_are_escaped_for_the_expression_and_for_the_url() {
        assert_eq!(
            clusters_path(["vllm", "outbound|80||x.y"]),
            "/clusters?format=json&filter=%5E%28vllm%7Coutbound%5C%7C80%5C%7C%5C%7Cx%5C%2Ey%29%24"
        );
    }
}
