//! Who may read the page: flags, parsed into settings that need no further checks.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
#[cfg(feature = "kubernetes")]
use kubernetes::Connection;

use crate::api_server::ApiServer;
use crate::cluster::Cluster;
use crate::durations::parse_duration;
use crate::paths::any_path;
use crate::tls_files::TlsFiles;
use crate::token_file::read_tokens;

/// Where Kubernetes puts the credentials of a pod's service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How long a revoked token works on at most, as with the reference endpoint picker.
pub const AUTH_TTL: &str = "1m";

/// Flags about who may read the page, and where.
#[derive(Args, Clone, Debug)]
pub struct AccessFlags {
    /// Where to serve scrapers and people beside --listen, which then is Envoy's: everything but /snapshot. With it, --listen may be on
    /// loopback while scrapers come from elsewhere
    #[arg(long, value_name = "IP:PORT")]
    metrics_listen: Option<String>,
    /// Whether scrapers need a bearer token that the Kubernetes API server knows (TokenReview) and that may get the path
    /// (SubjectAccessReview for nonResourceURLs). false: anyone may read all but /debug/pprof. By default only loopback may, without a
    /// token
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "true|false")]
    metrics_endpoint_auth: Option<String>,
    /// How long the API server's word on a token stands; a refusal stands for a sixth of it
    #[arg(long, default_value = AUTH_TTL, value_name = "DURATION")]
    metrics_endpoint_auth_ttl: String,
    /// Bearer tokens of scrapers, one a line, instead of asking Kubernetes; read again every second
    #[arg(long, value_name = "FILE", value_parser = any_path())]
    metrics_endpoint_token_file: Option<PathBuf>,
    /// Certificates (PEM) for --metrics-listen, leaf first; read again when they change
    #[arg(long, value_name = "FILE", value_parser = any_path())]
    metrics_tls_cert_file: Option<PathBuf>,
    /// Their key (PEM)
    #[arg(long, value_name = "FILE", value_parser = any_path())]
    metrics_tls_key_file: Option<PathBuf>,
    /// The API server, if it is not the one of the pod's cluster (KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT)
    #[arg(long, value_name = "URL")]
    kubernetes_api_server: Option<String>,
    /// The sidecar's own token for it, read again for each review [default: the service account's]
    #[arg(long, value_name = "FILE", value_parser = any_path())]
    kubernetes_token_file: Option<PathBuf>,
    /// Certificates (PEM) that the API server's must lead to, read again for each review [default: the service account's]
    #[arg(long, value_name = "FILE", value_parser = any_path())]
    kubernetes_ca_file: Option<PathBuf>,
}

/// Who may read what, and where.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AccessConfig {
    /// Where scrapers and people are served beside Envoy.
    pub metrics_listen: Option<SocketAddr>,
    /// Certificates for that place.
    pub tls: Option<TlsFiles>,
    /// Who may read.
    pub readers: Readers,
}

/// Who may read the page.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Readers {
    /// Whoever comes over loopback.
    #[default]
    Loopback,
    /// Anyone.
    Anyone,
    /// Who has one of the tokens in a file.
    TokenFile(PathBuf),
    /// Whom the Kubernetes API server lets get the path.
    Kubernetes {
        /// Whom to ask.
        server: ApiServer,
        /// How long its word stands; not zero.
        ttl: Duration,
    },
}

/// What is wrong with such a flag.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AccessFlagError {
    /// Not an address.
    #[error("--metrics-listen {0:?}: expected IP:PORT")]
    Listen(String),
    /// Neither yes nor no.
    #[error("--metrics-endpoint-auth {0:?}: expected true or false")]
    Auth(String),
    /// Not a duration.
    #[error("--metrics-endpoint-auth-ttl {0:?}: expected a number above zero with ms, s or m, such as 1m")]
    Ttl(String),
    /// Tokens that nobody asks for.
    #[error("--metrics-endpoint-token-file: --metrics-endpoint-auth=false lets everyone in")]
    NobodyAsks,
    /// No tokens.
    #[error("--metrics-endpoint-token-file {file:?}: {why}")]
    TokenFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Half of what TLS wants.
    #[error(
        "--metrics-tls-cert-file and --metrics-tls-key-file: one is of no use without the other and --metrics-listen"
    )]
    Tls,
    /// Certificates or a key that cannot be used.
    #[error("--metrics-tls-cert-file {file:?}: {why}")]
    Certificates {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Nobody to ask.
    #[error(
        "--metrics-endpoint-auth: not in a pod of Kubernetes; say --kubernetes-api-server, or --metrics-endpoint-token-file"
    )]
    NoApiServer,
    /// No API server for pools.
    #[error(
        "--pool: no API server of Kubernetes: this is no pod, and there is neither --kubernetes-api-server nor a kubeconfig"
    )]
    NoCluster,
    /// An API server that cannot be used.
    #[error("--pool: {0}")]
    Cluster(String),
    /// An empty text where the name of a file belongs.
    #[error("{0}: expected the name of a file")]
    NoFile(&'static str),
    /// Not the URL of an API server.
    #[error("--kubernetes-api-server {0:?}: expected https://HOST[:PORT], or http:// on loopback")]
    ApiServer(String),
}

impl AccessFlags {
    /// Reads every flag; `env` is the process's environment.
    ///
    /// # Errors
    ///
    /// All that is wrong at once.
    pub(crate) fn parse_all(&self, env: impl Fn(&str) -> Option<String>) -> Result<AccessConfig, Vec<AccessFlagError>> {
        let mut errors = Vec::new();
        let metrics_listen = self.metrics_listen.as_ref().and_then(|text| {
            let parsed = text.parse();
            parsed.map_err(|_| errors.push(AccessFlagError::Listen(text.clone()))).ok()
        });
        let tls = match (&self.metrics_tls_cert_file, &self.metrics_tls_key_file) {
            (None, None) => None,
            (Some(certificates), Some(key)) if self.metrics_listen.is_some() => {
                let files = TlsFiles { certificates: certificates.clone(), key: key.clone() };
                if let Err(why) = files.read() {
                    errors.push(AccessFlagError::Certificates { file: certificates.clone(), why });
                }
                Some(files)
            }
            _ => {
                errors.push(AccessFlagError::Tls);
                None
            }
        };
        let readers = self.readers(env, &mut errors);
        for (flag, file) in [
            ("--kubernetes-token-file", &self.kubernetes_token_file),
            ("--kubernetes-ca-file", &self.kubernetes_ca_file),
        ] {
            if file.as_ref().is_some_and(|file| file.as_os_str().is_empty()) {
                errors.push(AccessFlagError::NoFile(flag));
            }
        }
        if errors.is_empty() { Ok(AccessConfig { metrics_listen, tls, readers }) } else { Err(errors) }
    }

    fn readers(&self, env: impl Fn(&str) -> Option<String>, errors: &mut Vec<AccessFlagError>) -> Readers {
        let text = &self.metrics_endpoint_auth_ttl;
        let ttl = parse_duration(text).unwrap_or_else(|| {
            errors.push(AccessFlagError::Ttl(text.clone()));
            Duration::ZERO
        });
        let asked = self.metrics_endpoint_auth.as_deref().map(|text| (text, is_true(text)));
        match (asked, &self.metrics_endpoint_token_file) {
            (Some((text, None)), _) => errors.push(AccessFlagError::Auth(text.to_owned())),
            (Some((_, Some(false))), Some(_)) => errors.push(AccessFlagError::NobodyAsks),
            (Some((_, Some(false))), None) => return Readers::Anyone,
            (_, Some(file)) => match read_tokens(file) {
                Ok(_) => return Readers::TokenFile(file.clone()),
                Err(why) => errors.push(AccessFlagError::TokenFile { file: file.clone(), why }),
            },
            (Some((_, Some(true))), None) => match self.api_server(env) {
                Ok(server) => return Readers::Kubernetes { server, ttl },
                Err(error) => errors.push(error),
            },
            (None, None) => {}
        }
        Readers::Loopback
    }

    fn api_server(&self, env: impl Fn(&str) -> Option<String>) -> Result<ApiServer, AccessFlagError> {
        let url = match &self.kubernetes_api_server {
            Some(url) => url.clone(),
            None => own_api_server(env).ok_or(AccessFlagError::NoApiServer)?,
        };
        let (token_file, ca_file) = self.credentials();
        ApiServer::new(&url, token_file, ca_file).ok_or(AccessFlagError::ApiServer(url))
    }

    /// The files with our token and with the certificates to trust.
    fn credentials(&self) -> (PathBuf, PathBuf) {
        let file = |given: &Option<PathBuf>, name: &str| {
            given.clone().unwrap_or_else(|| Path::new(SERVICE_ACCOUNT).join(name))
        };
        (file(&self.kubernetes_token_file, "token"), file(&self.kubernetes_ca_file, "ca.crt"))
    }

    /// None is needed by a program that knows no pools of Kubernetes.
    ///
    /// # Errors
    ///
    /// Never.
    #[cfg(not(feature = "kubernetes"))]
    pub(crate) fn cluster(&self, _: impl Fn(&str) -> Option<String>) -> Result<Cluster, AccessFlagError> {
        Ok(Cluster::default())
    }

    /// The API server that pools come from: the one that is given, that of `$KUBECONFIG`, that of our own pod, or that of `~/.kube/config`.
    ///
    /// # Errors
    ///
    /// There is none, or what names it cannot be used.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn cluster(&self, env: impl Fn(&str) -> Option<String>) -> Result<Cluster, AccessFlagError> {
        let given = |name| env(name).filter(|value| !value.is_empty());
        let own = own_api_server(&env);
        let is_configured = given("KUBECONFIG").is_some()
            || (own.is_none() && given("HOME").is_some_and(|home| Path::new(&home).join(".kube/config").exists()));
        let connection = match self.kubernetes_api_server.clone().or(own.filter(|_| !is_configured)) {
            None if is_configured => Connection::Kubeconfig,
            None => return Err(AccessFlagError::NoCluster),
            Some(url) => {
                let (token_file, ca_file) = self.credentials();
                if ApiServer::new(&url, token_file.clone(), ca_file.clone()).is_none() {
                    return Err(AccessFlagError::ApiServer(url));
                }
                let has_token = self.kubernetes_token_file.is_some() || token_file.exists();
                let has_ca = self.kubernetes_ca_file.is_some() || ca_file.exists();
                Connection::Server {
                    url,
                    token_file: has_token.then_some(token_file),
                    ca_file: has_ca.then_some(ca_file),
                }
            }
        };
        let namespace = connection.namespace().map_err(|error| AccessFlagError::Cluster(error.to_string()))?;
        Ok(Cluster { connection, namespace })
    }
}

/// The API server of the cluster that this pod is in; `None`: it is in none.
fn own_api_server(env: impl Fn(&str) -> Option<String>) -> Option<String> {
    let host = env("KUBERNETES_SERVICE_HOST").filter(|host| !host.is_empty())?;
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let port = env("KUBERNETES_SERVICE_PORT").filter(|port| !port.is_empty());
    Some(format!("https://{host}:{}", port.as_deref().unwrap_or("443")))
}

/// What Go's flags take for yes and no.
fn is_true(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
