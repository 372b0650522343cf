//! What is followed. Pure.

use std::fmt;

use crate::contact::ResourceKind;
use crate::pod::IpFamily;
use crate::pool::PodSource;

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
}

impl fmt::Display for Followed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool { namespace, name, .. } => write!(out, "InferencePool {namespace}/{name}"),
            Self::Pods { namespace, source, .. } => write!(out, "pods {} in {namespace}", source.selector),
        }
    }
}
