//! Reads certificates: for people as [`CertificateView`], for the connection as the one identity in them.

use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use rollback::chain::Chain;
use rollback::model::identity::{Identity, IdentityError, SCHEME};
use rollback::model::text::sanitize;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject as _};
use serde::Serialize;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{ASN1Time, FromDer as _, X509Certificate};

use super::authority::serial_text;

/// Longest name that is shown.
const NAME_BYTES_MAX: usize = 512;

/// A certificate, decoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateView {
    /// The identity; none in an authority's certificate, and none when it has a flaw.
    pub identity: Option<String>,
    /// Why it has no identity although it is no authority's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flaw: Option<String>,
    /// The subject's name, which counts for nothing.
    pub subject: String,
    /// The serial number.
    pub serial: String,
    /// The first second.
    pub begins: Timestamp,
    /// The last second.
    pub ends: Timestamp,
    /// The SHA-256 digest of the whole.
    pub fingerprint: String,
    /// Whether it is an authority's.
    pub authority: bool,
    /// Whether it may be used now.
    pub status: CertificateStatus,
}

/// Whether a certificate may be used now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateStatus {
    /// It may.
    Valid,
    /// Its time has not come.
    NotYetValid,
    /// Its time is over.
    Expired,
    /// The authority has revoked it.
    Revoked,
}

impl CertificateStatus {
    /// Judges by the clock and the authority's memory.
    #[must_use]
    pub fn of(begins: Timestamp, ends: Timestamp, revoked: bool, now: Timestamp) -> Self {
        if revoked {
            return Self::Revoked;
        }
        match (now < begins, now > ends) {
            (true, _) => Self::NotYetValid,
            (_, true) => Self::Expired,
            _ => Self::Valid,
        }
    }

    /// Returns the word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::NotYetValid => "not yet valid",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// Says why a certificate cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The text is no PEM.
    #[error("the certificate is not PEM")]
    Pem(#[source] pem::Error),
    /// There is none.
    #[error("there is no certificate in it")]
    Empty,
    /// It is no X.509 certificate.
    #[error("the certificate cannot be parsed")]
    Syntax,
    /// It has no `rollback://` URI, or several.
    #[error("the certificate has {0} `rollback://` URIs, exactly 1 is needed")]
    Uris(usize),
    /// Its URI is no identity.
    #[error("the URI of the certificate is no identity")]
    Identity(#[source] IdentityError),
}

impl CertificateView {
    /// Decodes every certificate of a PEM text; never none.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn decode(pem: &str, now: Timestamp) -> Result<Vec<Self>, ViewError> {
        let mut views = Vec::new();
        for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            views.push(Self::of(&der.map_err(ViewError::Pem)?, now)?);
        }
        if views.is_empty() {
            return Err(ViewError::Empty);
        }
        Ok(views)
    }

    /// Decodes one certificate.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(der: &CertificateDer<'_>, now: Timestamp) -> Result<Self, ViewError> {
        let (_, parsed) = X509Certificate::from_der(der).map_err(|_| ViewError::Syntax)?;
        let (identity, flaw) = match identity(der) {
            Ok(identity) => (Some(identity.to_string()), None),
            Err(_) if parsed.is_ca() => (None, None),
            Err(error) => (None, Some(Chain(&error).to_string())),
        };
        let (begins, ends) = (timestamp(parsed.validity().not_before), timestamp(parsed.validity().not_after));
        Ok(Self {
            identity,
            flaw,
            subject: sanitize(parsed.subject().to_string().as_bytes(), NAME_BYTES_MAX),
            serial: serial_text(parsed.raw_serial()),
            begins,
            ends,
            fingerprint: digest(&SHA256, der).as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
            authority: parsed.is_ca(),
            status: CertificateStatus::of(begins, ends, false, now),
        })
    }
}

/// Reads the one identity of a certificate. The common name is never looked at.
///
/// # Errors
/// When it cannot be parsed, or has not exactly one.
pub fn identity(der: &CertificateDer<'_>) -> Result<Identity, ViewError> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|_| ViewError::Syntax)?;
    let names = parsed.subject_alternative_name().map_err(|_| ViewError::Syntax)?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) if uri.to_ascii_lowercase().starts_with(SCHEME) => Some(*uri),
            _ => None,
        })
        .collect();
    let [uri] = uris[..] else { return Err(ViewError::Uris(uris.len())) };
    uri.parse().map_err(ViewError::Identity)
}

fn timestamp(time: ASN1Time) -> Timestamp {
    let edge = if time.timestamp() < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_second(time.timestamp()).unwrap_or(edge)
}
