//! TLS towards scrapers: certificates and a key from files, taken anew when these change.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tracing::{info, warn};

/// How often the files are read.
const INTERVAL: Duration = Duration::from_secs(5);

/// Where certificates and their key are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TlsFiles {
    /// Certificates (PEM), leaf first.
    pub certificates: PathBuf,
    /// The leaf's key (PEM).
    pub key: PathBuf,
}

/// The certificates in use.
#[derive(Debug)]
pub(crate) struct Certificates {
    files: TlsFiles,
    present: RwLock<Arc<CertifiedKey>>,
}

impl TlsFiles {
    /// Reads both files.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub(crate) fn read(&self) -> Result<CertifiedKey, String> {
        let certificates = CertificateDer::pem_file_iter(&self.certificates)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| format!("{}: {error}", self.certificates.display()))?;
        if certificates.is_empty() {
            return Err(format!("{}: no certificate", self.certificates.display()));
        }
        let key =
            PrivateKeyDer::from_pem_file(&self.key).map_err(|error| format!("{}: {error}", self.key.display()))?;
        let provider = ring::default_provider();
        CertifiedKey::from_der(certificates, key, &provider).map_err(|error| error.to_string())
    }
}

impl Certificates {
    /// Reads the files for the first time.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub(crate) fn new(files: TlsFiles) -> Result<Arc<Self>, String> {
        let present = RwLock::new(Arc::new(files.read()?));
        Ok(Arc::new(Self { files, present }))
    }

    /// The settings of connections that use whatever certificates are in use when they begin.
    ///
    /// # Errors
    ///
    /// When the cryptography cannot be set up.
    pub(crate) fn server_config(self: &Arc<Self>) -> Result<ServerConfig, String> {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::<Self>::clone(self));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// Reads the files again and again. Files that cannot be used leave the last certificates in use.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(INTERVAL);
        loop {
            ticks.tick().await;
            let files = self.files.clone();
            let read = tokio::task::spawn_blocking(move || files.read()).await;
            match read.unwrap_or_else(|error| Err(error.to_string())) {
                Ok(read) if read.cert != self.present().cert => {
                    *self.present.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(read);
                    info!(file = %self.files.certificates.display(), "new certificates are in use");
                }
                Ok(_) => {}
                Err(problem) => warn!(problem, "certificates cannot be read, the last ones stay in use"),
            }
        }
    }

    fn present(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.present.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.present())
    }
}
