//! Reads keys, certificates and revocation lists from the disk, and refuses a key that others can read.

#![expect(clippy::disallowed_methods, reason = "this module reads keys, certificates and revocation lists")]

use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rollback::model::identity::Identity;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::VerifierBuilderError;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use super::certificate::{CertificateError, Serial, timestamp};
use crate::config::Tls;

/// Largest file that is read: a revocation list of 20,000 entries has about 1 MiB.
pub const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Says why a set of keys and certificates is refused.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
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
    /// Others than its owner can read the key.
    #[error("the key {path:?} has mode {mode:04o}: only its owner may read it, `chmod 0600` it")]
    KeyMode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The key belongs to somebody else.
    #[error("the key {path:?} belongs to uid {uid}: it must belong to root or to the agent")]
    KeyOwner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// A file is no PEM.
    #[error("the {what} {path:?} is not PEM")]
    Pem {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// A file has nothing of what it should hold.
    #[error("the {what} {path:?} holds none")]
    Empty {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Certificate or key cannot be used, or do not belong together.
    #[error("cannot use {path:?}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The agent's certificate names nobody.
    #[error("the certificate {path:?} is not an agent's")]
    Nobody {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: CertificateError,
    },
    /// The agent's certificate names somebody else.
    #[error("the certificate {path:?} belongs to {found}, this agent is {expected}")]
    Somebody {
        /// The file.
        path: PathBuf,
        /// Whom it names.
        found: Box<Identity>,
        /// Whom it should name.
        expected: Box<Identity>,
    },
    /// Authorities and lists do not make a verifier.
    #[error("cannot verify clients by {path:?}")]
    Verifier {
        /// The file of the authorities.
        path: PathBuf,
        /// Why.
        #[source]
        source: VerifierBuilderError,
    },
    /// A list cannot be parsed.
    #[error("the revocation list {0:?} cannot be parsed")]
    List(PathBuf),
}

/// The bytes of one set.
pub(crate) struct Files {
    pub(crate) authority: Vec<u8>,
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
    pub(crate) revocations: Option<Vec<u8>>,
}

impl Files {
    /// Reads all files.
    pub(crate) fn read(tls: &Tls) -> Result<Self, TlsError> {
        let revocations = tls.revocations.as_deref().map(|path| read("revocation list", path)).transpose()?;
        Ok(Self {
            authority: read("authorities", &tls.authority)?.0,
            certificate: read("certificate", &tls.certificate)?.0,
            key: read_key(&tls.key)?,
            revocations: revocations.map(|(bytes, _)| bytes),
        })
    }

    /// Digests all files, to see whether any has changed.
    pub(crate) fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for part in [&self.authority, &self.certificate, &self.key, self.revocations.as_ref().unwrap_or(&Vec::new())] {
            hasher.update(blake3::hash(part).as_bytes());
        }
        hasher.finalize()
    }
}

fn read(what: &'static str, path: &Path) -> Result<(Vec<u8>, std::fs::Metadata), TlsError> {
    let failed = |source| TlsError::Read { what, path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(failed(std::io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes"))));
    }
    Ok((bytes, metadata))
}

fn read_key(path: &Path) -> Result<Vec<u8>, TlsError> {
    let (bytes, metadata) = read("key", path)?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(TlsError::KeyMode { path: path.to_owned(), mode });
    }
    if metadata.uid() != 0 && metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Err(TlsError::KeyOwner { path: path.to_owned(), uid: metadata.uid() });
    }
    Ok(bytes)
}

/// Reads the certificates of a file; never none.
pub(crate) fn certificates(
    what: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(|source| TlsError::Pem {
        what,
        path: path.to_owned(),
        source,
    })?;
    if found.is_empty() {
        return Err(TlsError::Empty { what, path: path.to_owned() });
    }
    Ok(found)
}

/// The parsed lists.
#[derive(Default)]
pub(crate) struct Lists {
    pub(crate) der: Vec<CertificateRevocationListDer<'static>>,
    pub(crate) revoked: BTreeSet<Serial>,
    pub(crate) issuers: BTreeSet<Vec<u8>>,
    pub(crate) ends: Option<Timestamp>,
}

/// Reads the revocation lists of a set; none when none is configured.
pub(crate) fn lists(tls: &Tls, files: &Files) -> Result<Lists, TlsError> {
    let (Some(path), Some(pem)) = (&tls.revocations, &files.revocations) else { return Ok(Lists::default()) };
    let what = "revocation list";
    let mut lists = Lists::default();
    for der in CertificateRevocationListDer::pem_slice_iter(pem) {
        let der = der.map_err(|source| TlsError::Pem { what, path: path.clone(), source })?;
        let (_, list) = CertificateRevocationList::from_der(&der).map_err(|_| TlsError::List(path.clone()))?;
        lists.revoked.extend(list.iter_revoked_certificates().map(|entry| Serial::from_bytes(entry.raw_serial())));
        lists.issuers.insert(list.issuer().as_raw().to_vec());
        let ends = list.next_update().map(timestamp);
        lists.ends = lists.ends.into_iter().chain(ends).min();
        lists.der.push(der);
    }
    if lists.der.is_empty() {
        return Err(TlsError::Empty { what, path: path.clone() });
    }
    Ok(lists)
}
