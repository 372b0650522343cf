//! The API server of Kubernetes that pools come from. Pure.

#[cfg(feature = "kubernetes")]
use kubernetes::Connection;

/// The API server that pools come from.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    /// How it is reached.
    #[cfg(feature = "kubernetes")]
    pub(crate) connection: Connection,
    /// The namespace of what is named without one.
    #[cfg(feature = "kubernetes")]
    pub(crate) namespace: String,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            #[cfg(feature = "kubernetes")]
            connection: Connection::Kubeconfig,
            #[cfg(feature = "kubernetes")]
            namespace: "default".to_owned(),
        }
    }
}
