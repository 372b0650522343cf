//! Pods, and the endpoints that they are. Pure.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::NamespaceResourceScope;
use kube::core::ObjectMeta;
use serde::Deserialize;

use crate::reading::Reading;

/// Annotations that narrow a pool's ports for one pod, the one that counts first in front.
const ACTIVE_PORTS: [&str; 2] = ["llm-d.ai/active-ports", "inference.networking.k8s.io/active-ports"];

/// A pod without what nobody here reads: its spec is skipped while it is parsed.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct PodObject {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    status: Reading<PodStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStatus {
    phase: Option<String>,
    conditions: Option<Vec<PodCondition>>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodAddress>>,
}

#[derive(Clone, Debug, Deserialize)]
struct PodCondition {
    r#type: String,
    status: String,
}

#[derive(Clone, Debug, Deserialize)]
struct PodAddress {
    ip: String,
}

impl k8s_openapi::Resource for PodObject {
    const API_VERSION: &'static str = "v1";
    const GROUP: &'static str = "";
    const KIND: &'static str = "Pod";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "pods";
    type Scope = NamespaceResourceScope;
}

impl k8s_openapi::Metadata for PodObject {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// One port of a pod that serves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PodEndpoint {
    /// Where it serves.
    pub address: SocketAddr,
    /// Name of the pod.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// Position of the port among the pool's; `None`: the pool has one port.
    pub rank: Option<usize>,
    /// Labels of the pod, sorted by name.
    pub labels: Vec<(String, String)>,
}

/// Which address of a pod is taken, if not the one that its status names first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IpFamily {
    /// IPv4; a pod without such an address is no endpoint.
    Ipv4,
    /// IPv6; a pod without such an address is no endpoint.
    Ipv6,
}

impl PodObject {
    /// Forgets what no endpoint depends on.
    pub fn shrink(&mut self) {
        let metadata = &mut self.metadata;
        metadata.managed_fields = None;
        metadata.owner_references = None;
        metadata.finalizers = None;
        metadata.generate_name = None;
        if let Some(annotations) = &mut metadata.annotations {
            annotations.retain(|name, _| ACTIVE_PORTS.contains(&name.as_str()));
        }
        if let Ok(PodStatus { conditions: Some(conditions), .. }) = &mut self.status.0 {
            conditions.retain(|condition| condition.r#type == "Ready");
            conditions.shrink_to_fit();
        }
    }

    /// Why its status cannot be read.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.status.0.as_ref().err().map(String::as_str)
    }

    /// Its name, or nothing if it has none.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// The endpoints that it is, one for each active one of these ports: none while it is not ready, while it has no address, and from
    /// the moment that it is to be deleted.
    #[must_use]
    pub fn endpoints(&self, ports: &[u16], family: Option<IpFamily>) -> Vec<PodEndpoint> {
        let Some(address) = self.serving_address(family) else { return Vec::new() };
        let active = self.active_ports();
        let labels: Vec<(String, String)> =
            self.metadata.labels.iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect();
        let ranked =
            ports.iter().enumerate().filter(|(_, port)| active.as_ref().is_none_or(|active| active.contains(port)));
        ranked
            .map(|(rank, port)| PodEndpoint {
                address: SocketAddr::new(address, *port),
                pod: self.name().to_owned(),
                namespace: self.metadata.namespace.clone().unwrap_or_default(),
                rank: (ports.len() > 1).then_some(rank),
                labels: labels.clone(),
            })
            .collect()
    }

    fn serving_address(&self, family: Option<IpFamily>) -> Option<IpAddr> {
        let status = self.status.0.as_ref().ok()?;
        let is_over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let ready = status.conditions.iter().flatten().find(|condition| condition.r#type == "Ready");
        if self.metadata.deletion_timestamp.is_some() || is_over || ready.is_none_or(|ready| ready.status != "True") {
            return None;
        }
        let listed = status.pod_ips.iter().flatten().map(|address| &address.ip);
        let mut addresses = status.pod_ip.iter().chain(listed).filter_map(|text| text.parse::<IpAddr>().ok());
        match family {
            None => addresses.next(),
            Some(IpFamily::Ipv4) => addresses.find(IpAddr::is_ipv4),
            Some(IpFamily::Ipv6) => addresses.find(IpAddr::is_ipv6),
        }
    }

    /// What the pod's annotation says; `None`: it has none.
    fn active_ports(&self) -> Option<Vec<u16>> {
        let annotations = self.metadata.annotations.as_ref()?;
        let text = ACTIVE_PORTS.iter().find_map(|name| annotations.get(*name))?;
        Some(text.split(',').filter_map(|port| port.trim().parse().ok()).collect())
    }
}

/// All endpoints of a pool: by name of the pod, and by port in the order of the pool's. Of two pods at one address, as after a node was
/// lost or with pods in the network of their node, the one whose name comes first is taken.
#[must_use]
pub fn endpoints<'a>(
    pods: impl IntoIterator<Item = &'a PodObject>,
    ports: &[u16],
    family: Option<IpFamily>,
) -> Vec<PodEndpoint> {
    let mut pods: Vec<&PodObject> = pods.into_iter().collect();
    pods.sort_unstable_by_key(|pod| pod.name());
    let mut endpoints: Vec<PodEndpoint> = pods.into_iter().flat_map(|pod| pod.endpoints(ports, family)).collect();
    let mut taken = std::collections::HashSet::new();
    endpoints.retain(|endpoint| taken.insert(endpoint.address));
    endpoints
}

#[cfg(test)]
mod tests;
