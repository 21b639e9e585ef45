//! The keys, authorities and revocations in force, and their reload without a restart.
//!
//! The policy for revocations: a revoked certificate is refused, at the handshake and at every call of an open
//! connection. A list past its end stays in force and [`HotTls::problems`] says so, because an agent that locks
//! everybody out over a stale list helps nobody. An authority without a list revokes nothing, and that is said too.
//! A set of files that is wrong in any part is refused as a whole, and the set before it stays.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use jiff::{SignedDuration, Timestamp};
use rollback::chain::Chain;
use rollback::model::identity::Identity;
use rollback::model::ids::HostName;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::Notify;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::certificate::{Certificate, Serial};
pub use super::files::{FILE_BYTES_MAX, TlsError};
use super::files::{Files, certificates, lists};
use crate::config::Tls;
use crate::ports::Clock;

/// How long before its end a certificate or a list is announced: a month leaves time for a human to renew it.
pub const ANNOUNCED_BEFORE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// One valid set of keys, authorities and revocations.
pub struct TlsMaterial {
    server: Arc<ServerConfig>,
    revoked: BTreeSet<Serial>,
    certificate: Certificate,
    revocations_end: Option<Timestamp>,
    standing: Vec<String>,
    content: blake3::Hash,
}

impl fmt::Debug for TlsMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsMaterial").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl TlsMaterial {
    /// Reads and checks a whole set. The agent's certificate must name `host` and come from one of the authorities;
    /// that it has expired is no error, because the clock may be wrong and status must be able to say so.
    ///
    /// # Errors
    /// When any part is missing, unreadable, readable by others, or does not fit the rest.
    pub fn load(tls: &Tls, host: &HostName, clock: &Arc<dyn Clock>) -> Result<Self, TlsError> {
        let files = Files::read(tls)?;
        let authorities = certificates("authorities", &tls.authority, &files.authority)?;
        let chain = certificates("certificate", &tls.certificate, &files.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&files.key).map_err(|source| TlsError::Pem {
            what: "key",
            path: tls.key.clone(),
            source,
        })?;
        let lists = lists(tls, &files)?;
        let certificate = own_certificate(tls, host, &chain[0])?;

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |source| TlsError::Unusable { path, source }
        };
        let mut roots = RootCertStore::empty();
        for authority in &authorities {
            roots.add(authority.clone()).map_err(unusable(&tls.authority))?;
        }
        let roots = Arc::new(roots);
        let mut standing = unlisted(tls, &authorities, &lists.issuers);
        let trust = Trust { tls, roots, lists: lists.der, provider };
        if trust.own_is_revoked(&chain, certificate.begins)? {
            standing.push("the agent's own certificate is revoked".to_owned());
        }
        let signing = CertifiedKey::from_der(chain, key, &trust.provider).map_err(unusable(&tls.certificate))?;
        Ok(Self {
            server: Arc::new(trust.server(signing, clock)?),
            revoked: lists.revoked,
            certificate,
            revocations_end: lists.ends,
            standing,
            content: files.digest(),
        })
    }

    /// Gives what a handshake needs.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// Tells whether a certificate with this serial number is revoked by any list in force.
    #[must_use]
    pub fn is_revoked(&self, serial: &Serial) -> bool {
        self.revoked.contains(serial)
    }

    /// The end of the agent's own certificate.
    #[must_use]
    pub fn certificate_ends(&self) -> Timestamp {
        self.certificate.ends
    }

    /// The end of the first list to end; none when there is no list.
    #[must_use]
    pub fn revocations_end(&self) -> Option<Timestamp> {
        self.revocations_end
    }

    fn problems(&self, now: Timestamp) -> Vec<String> {
        let mut problems = self.standing.clone();
        if now < self.certificate.begins {
            let begins = self.certificate.begins;
            problems.push(format!("the agent's certificate is valid from {begins} only, the clock says {now}"));
        }
        problems.extend(ending("the agent's certificate", self.certificate.ends, now));
        if let Some(ends) = self.revocations_end {
            problems.extend(ending("the revocation list (which stays in force)", ends, now));
        }
        problems
    }
}

/// The set in force: read by every handshake and every call, replaced as a whole.
pub struct HotTls {
    tls: Tls,
    host: HostName,
    clock: Arc<dyn Clock>,
    current: ArcSwap<TlsMaterial>,
    failure: ArcSwapOption<String>,
    replaced: Notify,
}

impl fmt::Debug for HotTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HotTls").field("host", &self.host).finish_non_exhaustive()
    }
}

/// What a reload did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reloaded {
    /// The files are as they were.
    Unchanged,
    /// A new set is in force.
    Replaced,
}

impl HotTls {
    /// Loads the first set.
    ///
    /// # Errors
    /// As [`TlsMaterial::load`]; the local socket does not depend on it.
    pub fn open(tls: Tls, host: HostName, clock: Arc<dyn Clock>) -> Result<Self, TlsError> {
        let material = TlsMaterial::load(&tls, &host, &clock)?;
        Ok(Self {
            tls,
            host,
            clock,
            current: ArcSwap::from_pointee(material),
            failure: ArcSwapOption::empty(),
            replaced: Notify::new(),
        })
    }

    /// Reads the files again and puts them in force when they are valid. Blocks on the disk.
    ///
    /// # Errors
    /// As [`TlsMaterial::load`]; the set before stays in force then, and [`HotTls::problems`] says why.
    pub fn reload(&self) -> Result<Reloaded, TlsError> {
        let result = self.try_reload();
        self.failure.store(result.as_ref().err().map(|error| Arc::new(Chain(error).to_string())));
        result
    }

    /// Gives the set in force.
    #[must_use]
    pub fn current(&self) -> Arc<TlsMaterial> {
        self.current.load_full()
    }

    /// Says what is wrong or will soon be, one sentence each.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.current.load().problems(self.clock.now());
        if let Some(failure) = self.failure.load_full() {
            problems.push(format!("the new keys or lists are refused and the ones before stay in force: {failure}"));
        }
        problems
    }

    /// The trust domain.
    #[must_use]
    pub fn domain(&self) -> &HostName {
        &self.tls.domain
    }

    /// Says why the holder of a certificate may not go on, by the lists in force and the clock; none when it may.
    ///
    /// The handshake has verified the chain; this repeats what can change while a connection is open.
    #[must_use]
    pub fn objection(&self, certificate: &Certificate) -> Option<String> {
        let now = self.clock.now();
        if self.current.load().is_revoked(&certificate.serial) {
            return Some(format!("the certificate {} is revoked", certificate.serial));
        }
        if now > certificate.ends {
            return Some(format!("the certificate ended at {}, the agent's clock says {now}", certificate.ends));
        }
        None
    }

    /// Waits until another set is in force; for the one server that judges its open connections anew then.
    pub(crate) async fn changed(&self) {
        self.replaced.notified().await;
    }

    fn try_reload(&self) -> Result<Reloaded, TlsError> {
        if Files::read(&self.tls)?.digest() == self.current.load().content {
            return Ok(Reloaded::Unchanged);
        }
        self.current.store(Arc::new(TlsMaterial::load(&self.tls, &self.host, &self.clock)?));
        self.replaced.notify_one();
        Ok(Reloaded::Replaced)
    }
}

fn own_certificate(tls: &Tls, host: &HostName, leaf: &CertificateDer<'_>) -> Result<Certificate, TlsError> {
    let path = || tls.certificate.clone();
    let certificate = Certificate::read(leaf).map_err(|source| TlsError::Nobody { path: path(), source })?;
    let expected = Identity::Agent { domain: tls.domain.clone(), host: host.clone() };
    if certificate.identity != expected {
        let found = Box::new(certificate.identity);
        return Err(TlsError::Somebody { path: path(), found, expected: Box::new(expected) });
    }
    Ok(certificate)
}

fn unlisted(tls: &Tls, authorities: &[CertificateDer<'_>], issuers: &BTreeSet<Vec<u8>>) -> Vec<String> {
    if tls.revocations.is_none() {
        return Vec::new();
    }
    let listed = authorities.iter().filter(|der| {
        X509Certificate::from_der(der).is_ok_and(|(_, authority)| issuers.contains(authority.subject().as_raw()))
    });
    match authorities.len() - listed.count() {
        0 => Vec::new(),
        missing => vec![format!("{missing} of {} authorities have no revocation list", authorities.len())],
    }
}

/// What verifies both sides.
struct Trust<'a> {
    tls: &'a Tls,
    roots: Arc<RootCertStore>,
    lists: Vec<CertificateRevocationListDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Trust<'_> {
    /// Verifies the agent's own certificate as of its own beginning, so that the clock has no say; this also proves
    /// that the list is signed by the authority. Gives whether it is revoked.
    fn own_is_revoked(&self, chain: &[CertificateDer<'_>], begins: Timestamp) -> Result<bool, TlsError> {
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(&self.roots), Arc::clone(&self.provider))
            .with_crls(self.lists.iter().cloned())
            .only_check_end_entity_revocation()
            .allow_unknown_revocation_status()
            .build()
            .map_err(|source| self.no_verifier(source))?;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(begins.as_second()).unwrap_or(0)));
        // The name is not what identifies an agent, the URI is: a mismatch comes last, after the chain is proved.
        let name = ServerName::try_from("agent.invalid").expect("a constant that is a DNS name");
        match verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], at) {
            Ok(_) => Ok(false),
            Err(rustls::Error::InvalidCertificate(
                rustls::CertificateError::NotValidForName | rustls::CertificateError::NotValidForNameContext { .. },
            )) => Ok(false),
            Err(rustls::Error::InvalidCertificate(rustls::CertificateError::Revoked)) => Ok(true),
            Err(source) => Err(TlsError::Unusable { path: self.tls.certificate.clone(), source }),
        }
    }

    fn server(self, signing: CertifiedKey, clock: &Arc<dyn Clock>) -> Result<ServerConfig, TlsError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), Arc::clone(&self.provider))
            .with_crls(self.lists.iter().cloned())
            .only_check_end_entity_revocation()
            .allow_unknown_revocation_status()
            .build()
            .map_err(|source| self.no_verifier(source))?;
        let mut config = ServerConfig::builder_with_details(self.provider, Arc::new(WallClock(Arc::clone(clock))))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|source| TlsError::Unusable { path: self.tls.certificate.clone(), source })?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(signing)));
        config.alpn_protocols = vec![b"h2".to_vec()];
        // Without resumption every connection shows its certificate, so that a revocation is seen.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }

    fn no_verifier(&self, source: VerifierBuilderError) -> TlsError {
        TlsError::Verifier { path: self.tls.authority.clone(), source }
    }
}

/// The agent's clock as `rustls` asks for it.
struct WallClock(Arc<dyn Clock>);

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WallClock")
    }
}

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

fn ending(what: &str, ends: Timestamp, now: Timestamp) -> Option<String> {
    let left = ends.duration_since(now);
    if left.is_negative() {
        return Some(format!("{what} ended at {ends}, the clock says {now}"));
    }
    (left < ANNOUNCED_BEFORE).then(|| match left.as_hours() / 24 {
        0 => format!("{what} ends at {ends}, in less than a day"),
        1 => format!("{what} ends at {ends}, in 1 day"),
        days => format!("{what} ends at {ends}, in {days} days"),
    })
}
