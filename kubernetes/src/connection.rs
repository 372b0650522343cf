//! How the API server is reached: where it is, whom to trust, and who we are.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::Client;
use kube::client::{Body, ClientBuilder, DynBody};
use kube::config::{AuthInfo, Config, KubeConfigOptions, Kubeconfig};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tower::util::{MapRequestLayer, MapResponseLayer};

use crate::contact::Contacts;
use crate::right::{ResourceKind, Right};

/// How long a connection may take: the API server is in the cluster.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than a watch may be silent: whoever says nothing for so long is gone.
const READ_TIMEOUT: Duration = Duration::from_secs(40);
/// How long the server may take to take a request.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// The namespace of those that say none.
const DEFAULT_NAMESPACE: &str = "default";
/// Name of the file beside a service account's token that holds its namespace.
const NAMESPACE_FILE: &str = "namespace";

/// Where an API server is, and how we show who we are. Files are read anew for each client, since they are rotated.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Connection {
    /// By a URL, with a token, as in a pod.
    Server {
        /// `https://HOST:PORT`, or `http://` within this machine.
        url: String,
        /// File with a bearer token; `None`: we are nobody.
        token_file: Option<PathBuf>,
        /// File with the certificates that the server's must lead to; `None`: those that this machine trusts.
        ca_file: Option<PathBuf>,
    },
    /// By the current context of `$KUBECONFIG` or `~/.kube/config`.
    Kubeconfig,
}

/// Why there is no connection to an API server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// Not a URL.
    #[error("{0:?} is not the URL of an API server")]
    Url(String),
    /// A file that cannot be used.
    #[error("{}: {why}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A kubeconfig that cannot be used.
    #[error("kubeconfig: {0}")]
    Kubeconfig(String),
    /// What was given fits no client.
    #[error("{0}")]
    Client(String),
}

impl Connection {
    /// The namespace of objects that are named without one: that of the service account or of the context.
    ///
    /// # Errors
    ///
    /// The kubeconfig cannot be read.
    pub fn namespace(&self) -> Result<String, ConnectionError> {
        match self {
            Self::Server { token_file, .. } => {
                let file = token_file.as_deref().and_then(Path::parent).map(|folder| folder.join(NAMESPACE_FILE));
                let text = file.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
                Ok(named(Some(text.trim())))
            }
            Self::Kubeconfig => {
                let config = kubeconfig()?;
                let current = config.current_context.as_deref();
                let context = config.contexts.iter().find(|context| Some(context.name.as_str()) == current);
                let context = context.and_then(|context| context.context.as_ref());
                let context =
                    context.ok_or_else(|| ConnectionError::Kubeconfig("it has no current context".to_owned()))?;
                Ok(named(context.namespace.as_deref()))
            }
        }
    }

    async fn config(&self) -> Result<Config, ConnectionError> {
        let mut config = match self {
            Self::Server { url, token_file, ca_file } => {
                let mut config = Config::new(url.parse().map_err(|_| ConnectionError::Url(url.clone()))?);
                if let Some(file) = ca_file {
                    config.root_cert = Some(certificates(file)?);
                    config.root_cert_file = Some(file.clone());
                }
                let token_file = token_file.as_ref().map(|file| file.to_string_lossy().into_owned());
                config.auth_info = AuthInfo { token_file, ..AuthInfo::default() };
                config
            }
            Self::Kubeconfig => {
                let config = Config::from_custom_kubeconfig(kubeconfig()?, &KubeConfigOptions::default()).await;
                config.map_err(|error| ConnectionError::Kubeconfig(error.to_string()))?
            }
        };
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(READ_TIMEOUT);
        config.write_timeout = Some(WRITE_TIMEOUT);
        // Who watches tries again by itself, and says so.
        config.default_retry = false;
        Ok(config)
    }

    /// A client for one watch, whose answers tell the contact of its resource that the server is there, and which rights it granted. It sends
    /// one request after the other.
    ///
    /// # Errors
    ///
    /// [`ConnectionError`].
    pub(crate) async fn client(
        &self,
        contacts: Arc<Contacts>,
        group: &'static str,
        kind: ResourceKind,
    ) -> Result<Client, ConnectionError> {
        let config = self.config().await?;
        let builder = ClientBuilder::try_from(config).map_err(|error| ConnectionError::Client(error.to_string()))?;
        let asked: Arc<Mutex<Option<Right>>> = Arc::default();
        let asking = Arc::clone(&asked);
        let ask = move |request: http::Request<Body>| {
            *asking.lock().unwrap_or_else(PoisonError::into_inner) = Right::used_by(request.uri(), group, kind);
            request
        };
        let note = move |response: http::Response<Box<DynBody>>| {
            let right = *asked.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(right) = right.filter(|_| response.status().is_success()) {
                contacts.of(kind).regain();
                if contacts.grant(right) {
                    let (verb, resource) = (right.verb.as_str(), kind.plural());
                    tracing::info!(verb, resource, group, "a right that was missing is there");
                }
            }
            response
        };
        let noting = builder.with_layer(&MapResponseLayer::new(note));
        Ok(noting.with_layer(&MapRequestLayer::new(ask)).build())
    }
}

fn certificates(file: &Path) -> Result<Vec<Vec<u8>>, ConnectionError> {
    let wrong = |why: String| ConnectionError::File { file: file.to_owned(), why };
    let read = CertificateDer::pem_file_iter(file).map_err(|error| wrong(error.to_string()))?;
    let certificates: Vec<Vec<u8>> = read
        .map(|certificate| certificate.map(|certificate| certificate.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() { Err(wrong("it holds no PEM certificate".to_owned())) } else { Ok(certificates) }
}

fn kubeconfig() -> Result<Kubeconfig, ConnectionError> {
    Kubeconfig::read().map_err(|error| ConnectionError::Kubeconfig(error.to_string()))
}

fn named(namespace: Option<&str>) -> String {
    namespace.filter(|name| !name.is_empty()).unwrap_or(DEFAULT_NAMESPACE).to_owned()
}
