//! Reads what matters out of a certificate: the identity in its URI, its serial number and its validity.

use std::fmt;

use jiff::Timestamp;
use rollback::model::identity::{Identity, IdentityError, SCHEME};
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

/// A serial number as lower-case hexadecimal digits without leading zeros, so that one number has one text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(String);

impl Serial {
    /// Reads the big-endian bytes of a serial number.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Self(digits.trim_start_matches('0').to_owned())
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What one certificate says of its holder; whether that is true is the verifier's business.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The identity in its only `rollback://` URI.
    pub identity: Identity,
    /// Its serial number.
    pub serial: Serial,
    /// Its first second.
    pub begins: Timestamp,
    /// Its last second.
    pub ends: Timestamp,
}

/// Says why a certificate names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It is no X.509 certificate.
    #[error("the certificate cannot be parsed")]
    Syntax,
    /// It has no `rollback://` URI, or several.
    #[error("the certificate has {0} `rollback://` URIs, exactly 1 is needed")]
    Uris(usize),
    /// Its URI is no identity.
    #[error("the URI of the certificate is no identity")]
    Identity(#[source] IdentityError),
    /// Its identity belongs to another trust domain.
    #[error("the certificate belongs to the domain {found:?}, this agent to {expected:?}")]
    Domain {
        /// The domain in the certificate.
        found: String,
        /// The agent's domain.
        expected: String,
    },
}

impl Certificate {
    /// Reads a certificate. The common name is never looked at.
    ///
    /// # Errors
    /// When it cannot be parsed, or has not exactly one identity.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let (_, parsed) = X509Certificate::from_der(der).map_err(|_| CertificateError::Syntax)?;
        let names = parsed.subject_alternative_name().map_err(|_| CertificateError::Syntax)?;
        let uris: Vec<&str> = names
            .iter()
            .flat_map(|extension| &extension.value.general_names)
            .filter_map(|name| match name {
                GeneralName::URI(uri) if uri.to_ascii_lowercase().starts_with(SCHEME) => Some(*uri),
                _ => None,
            })
            .collect();
        let [uri] = uris[..] else { return Err(CertificateError::Uris(uris.len())) };
        Ok(Self {
            identity: uri.parse().map_err(CertificateError::Identity)?,
            serial: Serial::from_bytes(parsed.raw_serial()),
            begins: timestamp(parsed.validity().not_before),
            ends: timestamp(parsed.validity().not_after),
        })
    }
}

/// Translates a time of a certificate; one out of range becomes the end of the range.
pub(crate) fn timestamp(time: ASN1Time) -> Timestamp {
    Timestamp::from_second(time.timestamp()).unwrap_or(if time.timestamp() < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_serial_number_has_one_text() {
        assert_eq!(Serial::from_bytes(&[0, 0x0a, 0xff]), Serial::from_bytes(&[0x0a, 0xff]));
        assert_eq!(Serial::from_bytes(&[0x0a, 0xff]).to_string(), "aff");
    }

    #[test]
    fn what_is_no_certificate_names_nobody() {
        assert_eq!(Certificate::read(&CertificateDer::from(vec![0; 16])), Err(CertificateError::Syntax));
    }
}
