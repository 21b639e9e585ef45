//! Signs certificates and revocation lists; knows no files and no clock.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, PublicKeyData, RevocationReason, RevokedCertParams, SanType, SerialNumber,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use rollback::model::identity::Identity;
use rollback::model::ids::HostName;
use time::OffsetDateTime;

/// How far a certificate begins in the past, so that a host whose clock is a little late accepts it at once.
pub const BACKDATED: SignedDuration = SignedDuration::from_mins(5);
/// Bytes of a serial number: 127 random bits, more than anybody can guess or meet twice.
pub const SERIAL_BYTES: usize = 16;
/// Keys that a signing request may bring: what `ring` verifies and every TLS 1.3 peer offers.
const KEYS: [&rcgen::SignatureAlgorithm; 3] =
    [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];

/// Says why something was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The system has no random numbers.
    #[error("cannot draw a random serial number")]
    Random,
    /// A name cannot stand in a certificate.
    #[error("{0:?} cannot stand in a certificate")]
    Name(String),
    /// A time is out of range.
    #[error("{0} cannot stand in a certificate")]
    Time(Timestamp),
    /// The request has a key of a kind that is not taken.
    #[error("the signing request has a key that is neither ECDSA P-256, ECDSA P-384 nor Ed25519")]
    KeyKind,
    /// The library refused.
    #[error("cannot {attempt}")]
    Refused {
        /// What was attempted.
        attempt: &'static str,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
}

/// A serial number as lower-case hexadecimal digits without leading zeros, as agents write it.
#[must_use]
pub fn serial_text(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.trim_start_matches('0').to_owned()
}

/// Draws a serial number: positive in every encoding, because its top bit is clear.
///
/// # Errors
/// When the system has no random numbers.
pub fn new_serial() -> Result<[u8; SERIAL_BYTES], SignError> {
    let mut serial = [0; SERIAL_BYTES];
    SystemRandom::new().fill(&mut serial).map_err(|_| SignError::Random)?;
    // The first byte is never 0 either, so that the number has one length.
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

/// From when to when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub begins: Timestamp,
    /// The last second.
    pub ends: Timestamp,
}

impl Validity {
    /// Begins [`BACKDATED`] before `now` and ends `days` days after it; certificates know whole seconds only.
    #[must_use]
    pub fn days(now: Timestamp, days: u32) -> Self {
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        let life = SignedDuration::from_hours(i64::from(days) * 24);
        Self { begins: now - BACKDATED, ends: now.saturating_add(life).unwrap_or(Timestamp::MAX) }
    }
}

/// What a leaf certificate will say; a signing request has no say in any of it.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// Who holds it.
    pub identity: Identity,
    /// For agents: further names and addresses that other tools may check.
    pub addresses: Vec<String>,
    /// Its serial number.
    pub serial: [u8; SERIAL_BYTES],
    /// Its life.
    pub validity: Validity,
}

/// An authority with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

/// A certificate and its key, PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The key, PKCS#8.
    pub key: String,
}

/// One entry of a revocation list.
#[derive(Debug, Clone, Copy)]
pub struct Revoked {
    /// The serial number.
    pub serial: [u8; SERIAL_BYTES],
    /// Since when.
    pub at: Timestamp,
}

impl Authority {
    /// Makes an authority for a domain, with a name of its own: two authorities of one domain must not share a name, or
    /// the list of one would be looked for behind the other.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn generate(domain: &HostName, serial: [u8; SERIAL_BYTES], validity: Validity) -> Result<Pair, SignError> {
        let mut params = blank(serial, validity)?;
        params.distinguished_name = named(&format!("rollback {domain} {}", &serial_text(&serial)[..8]));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(refused("make a key"))?;
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(refused("sign the authority's certificate"))?;
        Ok(Pair { certificate: issuer.pem(), key: issuer.key().serialize_pem() })
    }

    /// Loads an authority from its certificate and key, PEM.
    ///
    /// # Errors
    /// When they are not such.
    pub fn load(certificate: &str, key: &str) -> Result<Self, SignError> {
        let key = KeyPair::from_pem(key).map_err(refused("read the authority's key"))?;
        let issuer = Issuer::from_ca_cert_pem(certificate, key).map_err(refused("read the authority's certificate"))?;
        Ok(Self { issuer })
    }

    /// Makes a key and signs a certificate for it.
    ///
    /// # Errors
    /// When a name cannot stand in a certificate or the library refuses.
    pub fn issue(&self, leaf: &Leaf) -> Result<Pair, SignError> {
        let key = KeyPair::generate().map_err(refused("make a key"))?;
        Ok(Pair { certificate: self.sign(leaf, &key)?, key: key.serialize_pem() })
    }

    /// Signs a certificate for the key of a signing request (PEM). Nothing else of the request is used.
    ///
    /// # Errors
    /// When the request is none, is not signed by its key, or has a key of an odd kind.
    pub fn sign_request(&self, leaf: &Leaf, request: &str) -> Result<String, SignError> {
        let request =
            CertificateSigningRequestParams::from_pem(request).map_err(refused("read the signing request"))?;
        if !KEYS.contains(&PublicKeyData::algorithm(&request.public_key)) {
            return Err(SignError::KeyKind);
        }
        self.sign(leaf, &request.public_key)
    }

    /// Signs a revocation list (PEM).
    ///
    /// # Errors
    /// When a time is out of range or the library refuses.
    pub fn revocation_list(&self, number: u64, validity: Validity, revoked: &[Revoked]) -> Result<String, SignError> {
        let revoked_certs = revoked
            .iter()
            .map(|entry| {
                Ok(RevokedCertParams {
                    serial_number: SerialNumber::from_slice(&entry.serial),
                    revocation_time: offset(entry.at)?,
                    reason_code: Some(RevocationReason::Unspecified),
                    invalidity_date: None,
                })
            })
            .collect::<Result<Vec<_>, SignError>>()?;
        let params = CertificateRevocationListParams {
            this_update: offset(validity.begins)?,
            next_update: offset(validity.ends)?,
            crl_number: SerialNumber::from_slice(&number.to_be_bytes()),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).map_err(refused("sign the revocation list"))?;
        list.pem().map_err(refused("write the revocation list"))
    }

    fn sign(&self, leaf: &Leaf, key: &impl PublicKeyData) -> Result<String, SignError> {
        let certificate = params(leaf)?.signed_by(key, &self.issuer).map_err(refused("sign the certificate"))?;
        Ok(certificate.pem())
    }
}

fn params(leaf: &Leaf) -> Result<CertificateParams, SignError> {
    let mut params = blank(leaf.serial, leaf.validity)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let uri = leaf.identity.to_string();
    params.subject_alt_names = vec![SanType::URI(ia5(&uri)?)];
    match &leaf.identity {
        Identity::Agent { host, .. } => {
            params.distinguished_name = named(host.as_str());
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            params.subject_alt_names.push(SanType::DnsName(ia5(host.as_str())?));
            for address in &leaf.addresses {
                params.subject_alt_names.push(match address.parse::<IpAddr>() {
                    Ok(ip) => SanType::IpAddress(ip),
                    Err(_) => SanType::DnsName(ia5(address)?),
                });
            }
        }
        Identity::Operator { name, .. } => {
            params.distinguished_name = named(name.as_str());
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }
    }
    Ok(params)
}

/// Starts from nothing: the library's own defaults live from 1975 to 4096.
fn blank(serial: [u8; SERIAL_BYTES], validity: Validity) -> Result<CertificateParams, SignError> {
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = offset(validity.begins)?;
    params.not_after = offset(validity.ends)?;
    Ok(params)
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn ia5(text: &str) -> Result<Ia5String, SignError> {
    Ia5String::try_from(text).map_err(|_| SignError::Name(text.to_owned()))
}

fn offset(time: Timestamp) -> Result<OffsetDateTime, SignError> {
    OffsetDateTime::from_unix_timestamp(time.as_second()).map_err(|_| SignError::Time(time))
}

fn refused(attempt: &'static str) -> impl FnOnce(rcgen::Error) -> SignError {
    move |source| SignError::Refused { attempt, source }
}
