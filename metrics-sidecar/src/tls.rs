//! TLS towards pods and collectors: whose certificates are taken.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// How pages are read over TLS.
#[derive(Clone)]
pub struct Tls {
    /// Makes connections.
    pub(crate) connector: TlsConnector,
    /// Name that certificates must be for; without it the pod's address.
    pub(crate) server_name: Option<ServerName<'static>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Tls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(self.connector.config(), other.connector.config()) && self.server_name == other.server_name
    }
}

impl Eq for Tls {}

impl Tls {
    /// Takes certificates that lead to one in a PEM file.
    ///
    /// # Errors
    ///
    /// When the file holds no certificate that can be trusted.
    pub fn with_ca_file(file: &Path) -> Result<Self, &'static str> {
        const BAD: &str = "the file does not hold PEM certificates";
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(file).map_err(|_| BAD)? {
            roots.add(certificate.map_err(|_| BAD)?).map_err(|_| BAD)?;
        }
        if roots.is_empty() {
            return Err(BAD);
        }
        Self::with_roots(roots)
    }

    fn with_roots(roots: RootCertStore) -> Result<Self, &'static str> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(|_| "there is no protocol version")?;
        Ok(Self::new(builder.with_root_certificates(roots).with_no_client_auth()))
    }

    /// Takes certificates that lead to one that the system trusts: the files that `SSL_CERT_FILE` and `SSL_CERT_DIR` name, or those of its
    /// distribution.
    ///
    /// # Errors
    ///
    /// When there is none.
    #[cfg(feature = "otlp")]
    pub(crate) fn with_system_roots() -> Result<Self, &'static str> {
        let mut roots = RootCertStore::empty();
        // Old ones that cannot be read are no reason to trust none.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err("the system has no certificates");
        }
        Self::with_roots(roots)
    }

    /// Takes any certificate: traffic is encrypted, but whoever is between can read and forge it.
    ///
    /// # Errors
    ///
    /// When the cryptography cannot be set up.
    pub fn without_verification() -> Result<Self, &'static str> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(|_| "there is no protocol version")?;
        let verifier = Arc::new(AnyCertificate(provider));
        Ok(Self::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
    }

    /// The same for certificates of that name or address; without one of the two, of the peer's address.
    #[must_use]
    pub fn named(self, host: &str) -> Self {
        Self { server_name: ServerName::try_from(host.to_owned()).ok(), ..self }
    }

    fn new(config: ClientConfig) -> Self {
        Self { connector: TlsConnector::from(Arc::new(config)), server_name: None }
    }
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
