//! Whom the client trusts and who it is: its files, loaded once, and the check that an agent is the one that was meant.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rollback::model::identity::Identity;
use rollback::model::ids::HostName;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};

use crate::pki::files;
use crate::pki::view::{CertificateView, ViewError, identity};

/// The files of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustFiles {
    /// The trust domain.
    pub domain: HostName,
    /// Certificates of the authorities, PEM.
    pub authority: PathBuf,
    /// The client's certificate chain, PEM.
    pub certificate: PathBuf,
    /// The client's key, PEM (PKCS#8), readable by its owner alone.
    pub key: PathBuf,
}

/// Says why the client's own files cannot be used; no agent was asked.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file cannot be read.
    #[error("cannot read the {what} {path:?}")]
    Read {
        /// What it holds.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("the {what} {path:?} is no such thing in PEM")]
    Pem {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be used, or certificate and key do not belong together.
    #[error("cannot use {path:?}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The client's certificate cannot be decoded.
    #[error("cannot decode {path:?}")]
    View {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ViewError,
    },
}

/// Whom the client trusts and who it is.
#[derive(Clone)]
pub struct Trust {
    domain: HostName,
    roots: Arc<RootCertStore>,
    own: Arc<dyn ResolvesClientCert>,
    view: CertificateView,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("domain", &self.domain).field("own", &self.view.identity).finish_non_exhaustive()
    }
}

impl Trust {
    /// Reads the files. That the own certificate has expired is no error: the agent judges it, and [`Trust::own`] tells.
    ///
    /// # Errors
    /// When one is missing, not what it should be, or when others can read the key.
    pub fn load(files: &TrustFiles, now: Timestamp) -> Result<Self, TrustError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for authority in certificates("authorities", &files.authority)? {
            roots.add(authority).map_err(unusable(&files.authority))?;
        }
        let chain = certificates("certificate", &files.certificate)?;
        let key = files::read_key(&files.key).map_err(unreadable("key", &files.key))?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|_| TrustError::Pem { what: "key", path: files.key.clone() })?;
        let view = CertificateView::of(&chain[0], now)
            .map_err(|source| TrustError::View { path: files.certificate.clone(), source })?;
        let pair = CertifiedKey::from_der(chain, key, &provider).map_err(unusable(&files.certificate))?;
        let own = Arc::new(SingleCertAndKey::from(pair));
        Ok(Self { domain: files.domain.clone(), roots: Arc::new(roots), own, view, provider })
    }

    /// The client's own certificate, decoded, for a warning before its end.
    #[must_use]
    pub fn own(&self) -> &CertificateView {
        &self.view
    }

    /// Makes what a handshake with one host needs: TLS 1.3, and exactly that host's agent at the other end.
    pub(crate) fn for_host(&self, host: &HostName) -> Result<Arc<ClientConfig>, rustls::Error> {
        let expected = Identity::Agent { domain: self.domain.clone(), host: host.clone() };
        let verifier = AgentVerifier { expected, roots: Arc::clone(&self.roots), provider: Arc::clone(&self.provider) };
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::clone(&self.own));
        config.alpn_protocols = vec![b"h2".to_vec()];
        // The URI says who the agent is; a server name would only tell listeners.
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

/// The other end is not the agent that was meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotThatAgent {
    /// It is somebody else.
    #[error("it is {found}, not {expected}")]
    Else {
        /// Who it is.
        found: String,
        /// Who it should be.
        expected: String,
    },
    /// It has no identity.
    #[error("it is not {expected}: {why}")]
    Nobody {
        /// What its certificate lacks.
        why: String,
        /// Who it should be.
        expected: String,
    },
}

/// Verifies the chain, then that the URI is exactly the agent's; names and addresses in the certificate do not count.
#[derive(Debug)]
struct AgentVerifier {
    expected: Identity,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AgentVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        let expected = self.expected.to_string();
        let other = match identity(end_entity) {
            Ok(found) if found == self.expected => return Ok(ServerCertVerified::assertion()),
            Ok(found) => NotThatAgent::Else { found: found.to_string(), expected },
            Err(error) => NotThatAgent::Nobody { why: error.to_string(), expected },
        };
        Err(CertificateError::Other(OtherError(Arc::new(other))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let text = files::read(path).map_err(unreadable(what, path))?;
    let pem = || TrustError::Pem { what, path: path.to_owned() };
    let found: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().map_err(|_| pem())?;
    if found.is_empty() { Err(pem()) } else { Ok(found) }
}

fn unreadable(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> TrustError {
    move |source| TrustError::Read { what, path: path.to_owned(), source }
}

fn unusable(path: &Path) -> impl FnOnce(rustls::Error) -> TrustError {
    move |source| TrustError::Unusable { path: path.to_owned(), source }
}
