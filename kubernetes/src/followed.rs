//! What is followed. Pure.

use std::fmt;

use crate::pod::IpFamily;
use crate::pool::PodSource;
use crate::right::{ResourceKind, Right, Verb};

/// What is followed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Followed {
    /// The pods of an `InferencePool`.
    Pool {
        /// Its namespace, which is that of its pods too.
        namespace: String,
        /// Its name.
        name: String,
        /// Which address of a pod.
        family: Option<IpFamily>,
    },
    /// Pods by their labels.
    Pods {
        /// Their namespace.
        namespace: String,
        /// Which ones, and their ports.
        source: PodSource,
        /// Which address of a pod.
        family: Option<IpFamily>,
    },
}

impl Followed {
    /// Where its objects are.
    #[must_use]
    pub fn namespace(&self) -> &str {
        match self {
            Self::Pool { namespace, .. } | Self::Pods { namespace, .. } => namespace,
        }
    }

    /// Of which resources it needs watches.
    #[must_use]
    pub const fn kinds(&self) -> &'static [ResourceKind] {
        match self {
            Self::Pool { .. } => &ResourceKind::ALL,
            Self::Pods { .. } => &[ResourceKind::Pods],
        }
    }

    /// The rights that these need. Of objectives and rewrites only those count whose kind the cluster has.
    pub fn rights(&self) -> impl Iterator<Item = Right> {
        let groups = self.kinds().iter().flat_map(|kind| kind.groups().iter().map(|group| (*kind, *group)));
        groups.flat_map(|(kind, group)| Verb::ALL.map(|verb| Right { group, kind, verb }))
    }
}

impl fmt::Display for Followed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool { namespace, name, .. } => write!(out, "InferencePool {namespace}/{name}"),
            Self::Pods { namespace, source, .. } => write!(out, "pods {} in {namespace}", source.selector),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_resource_needs_both_verbs_in_each_of_its_groups() {
        let source = PodSource { selector: "app=vllm".parse().unwrap(), ports: vec![8000] };
        let pods = Followed::Pods { namespace: "ns".to_owned(), source, family: None };
        let rights: Vec<_> =
            pods.rights().map(|right| (right.group, right.kind.plural(), right.verb.as_str())).collect();
        assert_eq!(rights, [("", "pods", "list"), ("", "pods", "watch")]);
        let pool = Followed::Pool { namespace: "ns".to_owned(), name: "p".to_owned(), family: None };
        let rights: Vec<_> = pool.rights().collect();
        assert_eq!(rights.len(), 12);
        let groups =
            |kind| rights.iter().filter(|right| right.kind == kind).map(|right| right.group).collect::<Vec<_>>();
        assert_eq!(groups(ResourceKind::Pool), ["inference.networking.k8s.io"; 2]);
        let (newer, older) = ("llm-d.ai", "inference.networking.x-k8s.io");
        assert_eq!(groups(ResourceKind::Rewrites), [newer, newer, older, older]);
    }
}
