//! Which pods a pool has: those of a selector, or those that an `InferencePool` selects. Pure.

use std::collections::BTreeMap;

use kube::core::{ApiResource, Object, object::NotUsed};
use serde::Deserialize;

use crate::reading::Reading;
use crate::selector::{PodSelector, SelectorError};

/// Group of `InferencePool`.
pub const POOL_GROUP: &str = "inference.networking.k8s.io";
const POOL_VERSION: &str = "v1";
const POOL_KIND: &str = "InferencePool";
/// Plural of `InferencePool`.
pub const POOL_PLURAL: &str = "inferencepools";

/// An `InferencePool` as the API server has it.
pub(crate) type PoolObject = Object<Reading<PoolSpec>, NotUsed>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PoolSpec {
    selector: PoolSelector,
    target_ports: Vec<TargetPort>,
    endpoint_picker_ref: Option<PickerReference>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PoolSelector {
    match_labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
struct TargetPort {
    number: u16,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PickerReference {
    failure_mode: Option<FailureMode>,
}

/// What becomes of a request when nothing can be picked.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
pub enum FailureMode {
    /// Envoy chooses.
    FailOpen,
    /// It is refused.
    FailClose,
}

/// Which pods are a pool's, and on which ports they serve.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PodSource {
    /// The pods.
    pub selector: PodSelector,
    /// At least one; no two are alike.
    pub ports: Vec<u16>,
}

/// What an `InferencePool` says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PoolDefinition {
    pub(crate) pods: PodSource,
    pub(crate) failure_mode: Option<FailureMode>,
}

/// Why an `InferencePool` is of no use.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum PoolError {
    #[error("its spec cannot be read: {0}")]
    Spec(String),
    #[error("its selector: {0}")]
    Selector(#[from] SelectorError),
    #[error("it has no target port")]
    NoPort,
}

/// The resource of pools.
pub(crate) fn pool_resource() -> ApiResource {
    resource(POOL_GROUP, POOL_VERSION, POOL_KIND, POOL_PLURAL)
}

/// A resource by its words.
pub(crate) fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: format!("{group}/{version}"),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

impl PoolDefinition {
    /// Reads an object's spec.
    ///
    /// # Errors
    ///
    /// [`PoolError`].
    pub(crate) fn read(spec: &Reading<PoolSpec>) -> Result<Self, PoolError> {
        let spec = spec.0.as_ref().map_err(|why| PoolError::Spec(why.clone()))?;
        let selector = PodSelector::of_labels(&spec.selector.match_labels)?;
        let mut ports: Vec<u16> = Vec::new();
        for port in spec.target_ports.iter().map(|port| port.number).filter(|port| *port > 0) {
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        if ports.is_empty() {
            return Err(PoolError::NoPort);
        }
        let failure_mode = spec.endpoint_picker_ref.as_ref().and_then(|reference| reference.failure_mode);
        Ok(Self { pods: PodSource { selector, ports }, failure_mode })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(spec: Value) -> Result<PoolDefinition, PoolError> {
        let object: PoolObject = serde_json::from_value(json!({
            "apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool", "metadata": {"name": "p"}, "spec": spec, "status": {"parents": []},
        }))
        .unwrap();
        PoolDefinition::read(&object.spec)
    }

    #[test]
    fn a_pool_names_pods_ports_and_what_to_do_without_any() {
        let pool = |mode: Value| {
            read(json!({
                "selector": {"matchLabels": {"app": "vllm", "a.io/b": "c"}}, "targetPorts": [{"number": 8000}, {"number": 8001}, {"number": 8000}],
                "appProtocol": "http", "endpointPickerRef": mode,
            }))
        };
        let pods = PodSource { selector: "a.io/b=c,app=vllm".parse().unwrap(), ports: vec![8000, 8001] };
        for (mode, expected) in [
            (json!({"name": "epp", "failureMode": "FailOpen"}), Some(FailureMode::FailOpen)),
            (
                json!({"name": "epp", "failureMode": "FailClose", "port": {"number": 9002}}),
                Some(FailureMode::FailClose),
            ),
            (json!({"name": "epp"}), None),
            (Value::Null, None),
        ] {
            assert_eq!(pool(mode), Ok(PoolDefinition { pods: pods.clone(), failure_mode: expected }));
        }
    }

    #[test]
    fn a_pool_that_cannot_be_used_says_why() {
        let ports = json!([{"number": 8000}]);
        assert!(
            matches!(read(json!({"targetPorts": ports.clone()})), Err(PoolError::Spec(why)) if why.contains("selector"))
        );
        assert!(matches!(
            read(json!({"selector": {"matchLabels": {"a": 1}}, "targetPorts": ports.clone()})),
            Err(PoolError::Spec(_))
        ));
        assert!(matches!(read(json!(7)), Err(PoolError::Spec(_))));
        assert_eq!(
            read(json!({"selector": {"matchLabels": {}}, "targetPorts": ports.clone()})),
            Err(PoolError::Selector(SelectorError::Empty))
        );
        assert_eq!(read(json!({"selector": {"matchLabels": {"a": "b"}}, "targetPorts": []})), Err(PoolError::NoPort));
        assert!(matches!(
            read(json!({"selector": {"matchLabels": {"a": "b"}}, "targetPorts": [{"number": 70000}]})),
            Err(PoolError::Spec(_))
        ));
    }
}
