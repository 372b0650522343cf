//! A pool as Envoy's endpoint discovery service would tell it: `envoy.config.endpoint.v3.ClusterLoadAssignment` in a discovery response, as
//! JSON, which is YAML too. Pure.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::endpoint::DiscoveredPod;

const TYPE_URL: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// Key of the endpoints' metadata.
const METADATA: &str = "inpick";
/// Bytes of the content's digest that name its version.
const VERSION_BYTES: usize = 8;

/// Where a pool is written for Envoy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EdsFile {
    /// The file.
    pub path: PathBuf,
    /// The cluster whose endpoints they are.
    pub cluster: String,
}

impl EdsFile {
    /// What is wrong with a path, if it is none that Envoy reads as JSON.
    #[must_use]
    pub fn objection(path: &Path) -> Option<&'static str> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_binary = [".pb", ".pb_text", ".pb_length_delimited"].iter().any(|suffix| name.ends_with(suffix));
        if name.is_empty() {
            Some("expected the path of a file")
        } else if is_binary {
            Some("Envoy would not read JSON in a file of that suffix")
        } else {
            None
        }
    }

    /// The file's content: the same endpoints in whatever order make the same bytes.
    #[must_use]
    pub fn content(&self, pods: &[DiscoveredPod]) -> Vec<u8> {
        let mut pods: Vec<&DiscoveredPod> = pods.iter().collect();
        pods.sort_unstable_by_key(|pod| pod.address);
        let endpoints: Vec<Value> = pods.into_iter().map(endpoint).collect();
        let assignment = json!({
            "@type": TYPE_URL,
            "cluster_name": self.cluster,
            "endpoints": [{"lb_endpoints": endpoints}],
        });
        let digest = Sha256::digest(assignment.to_string());
        let version: String = digest.iter().take(VERSION_BYTES).map(|byte| format!("{byte:02x}")).collect();
        let mut content = json!({"version_info": version, "resources": [assignment]}).to_string().into_bytes();
        content.push(b'\n');
        content
    }

    /// The endpoints of such a content; `None`: it is none, or of another cluster.
    #[must_use]
    pub fn endpoints(&self, content: &[u8]) -> Option<Vec<DiscoveredPod>> {
        let document: Value = serde_json::from_slice(content).ok()?;
        let assignment = document.pointer("/resources/0")?;
        let is_ours = assignment.get("@type")? == TYPE_URL && assignment.get("cluster_name")? == &self.cluster;
        let endpoints = assignment.pointer("/endpoints/0/lb_endpoints")?.as_array()?;
        endpoints.iter().map(read_endpoint).collect::<Option<_>>().filter(|_| is_ours)
    }
}

fn endpoint(pod: &DiscoveredPod) -> Value {
    let address = json!({"address": pod.address.ip().to_string(), "port_value": pod.address.port()});
    let mut endpoint = json!({"endpoint": {"address": {"socket_address": address}}});
    if !pod.pod.is_empty()
        && let Some(members) = endpoint.as_object_mut()
    {
        let metadata = json!({"filter_metadata": {METADATA: {"pod": pod.pod, "namespace": pod.namespace}}});
        members.insert("metadata".to_owned(), metadata);
    }
    endpoint
}

fn read_endpoint(endpoint: &Value) -> Option<DiscoveredPod> {
    let socket = endpoint.pointer("/endpoint/address/socket_address")?;
    let port = u16::try_from(socket.get("port_value")?.as_u64()?).ok()?;
    let address = SocketAddr::new(socket.get("address")?.as_str()?.parse().ok()?, port);
    let metadata = endpoint.pointer("/metadata/filter_metadata").and_then(|metadata| metadata.get(METADATA));
    let member = |name| metadata.and_then(|metadata| metadata.get(name)?.as_str()).unwrap_or_default().to_owned();
    Some(DiscoveredPod { pod: member("pod"), namespace: member("namespace"), ..DiscoveredPod::new(address) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> EdsFile {
        EdsFile { path: "/run/eds/pool.json".into(), cluster: "model-servers".to_owned() }
    }

    fn pod(address: &str, name: &str) -> DiscoveredPod {
        let address = address.parse().unwrap();
        DiscoveredPod { pod: name.to_owned(), namespace: "ns".to_owned(), ..DiscoveredPod::new(address) }
    }

    #[test]
    fn the_content_names_the_cluster_and_each_endpoint_with_its_pod() {
        let pods = [pod("[fd00::1]:8000", "b"), pod("10.0.0.2:8000", "a"), pod("10.0.0.1:8000", "")];
        let content: Value = serde_json::from_slice(&file().content(&pods)).unwrap();
        let metadata = |pod: &str| json!({"filter_metadata": {"inpick": {"pod": pod, "namespace": "ns"}}});
        let at = |address: &str| json!({"address": {"socket_address": {"address": address, "port_value": 8000}}});
        assert_eq!(
            content["resources"],
            json!([{
                "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
                "cluster_name": "model-servers",
                "endpoints": [{"lb_endpoints": [
                    {"endpoint": at("10.0.0.1")},
                    {"endpoint": at("10.0.0.2"), "metadata": metadata("a")},
                    {"endpoint": at("fd00::1"), "metadata": metadata("b")},
                ]}],
            }])
        );
    }

    #[test]
    fn the_same_endpoints_are_the_same_bytes_and_others_another_version() {
        let (a, b) = (pod("10.0.0.1:80", "a"), pod("10.0.0.2:80", "b"));
        let both = file().content(&[a.clone(), b.clone()]);
        assert_eq!(both, file().content(&[b, a.clone()]));
        let version = |content: &[u8]| serde_json::from_slice::<Value>(content).unwrap()["version_info"].clone();
        assert_ne!(version(&both), version(&file().content(&[a])));
        assert_ne!(version(&both), version(&file().content(&[])));
    }

    #[test]
    fn only_a_content_of_the_cluster_is_read() {
        let unnamed = DiscoveredPod::new("[fd00::1]:8000".parse().unwrap());
        for pods in [vec![], vec![pod("10.0.0.2:8000", "a"), unnamed]] {
            let content = file().content(&pods);
            assert_eq!(file().endpoints(&content), Some(pods));
            assert_eq!(EdsFile { cluster: "other".to_owned(), ..file() }.endpoints(&content), None);
            for bytes in [&b""[..], b"{}", b"{\"resources\": []}", &content[..content.len() - 5]] {
                assert_eq!(file().endpoints(bytes), None);
            }
        }
    }

    #[test]
    fn a_path_that_envoy_would_read_as_something_else_is_refused() {
        for (path, is_fit) in [
            ("/run/eds/a.json", true),
            ("a.yaml", true),
            ("/run/eds/a", true),
            ("/run/a.pb", false),
            ("/run/a.pb_text", false),
            ("", false),
            ("/", false),
        ] {
            assert_eq!(EdsFile::objection(Path::new(path)).is_none(), is_fit, "{path}");
        }
    }
}
