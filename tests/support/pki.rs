//! An authority for tests: `rbctl`'s own, and beside it a hand that signs what no authority should.

#![expect(clippy::disallowed_methods, reason = "tests own their directories")]

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use rbctl::fleet::connect::{Trust, TrustFiles};
use rbctl::pki::store::{Order, Pki};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rollback::model::identity::{Role, Scope};
use rollback_agent::config::Tls;

/// The trust domain of tests.
pub const DOMAIN: &str = "example";

/// An authority in a directory that goes with it.
#[derive(Debug)]
pub struct TestAuthority {
    /// The directory.
    pub directory: tempfile::TempDir,
    /// The authority.
    pub pki: Pki,
    /// When it was made.
    pub now: Timestamp,
}

/// Certificate and key of somebody.
#[derive(Debug, Clone)]
pub struct PairFiles {
    /// The certificate.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// A certificate as no authority would sign it.
#[derive(Debug, Clone)]
pub struct Odd<'a> {
    /// The common name.
    pub common_name: &'a str,
    /// The URIs.
    pub uris: &'a [&'a str],
    /// What it is for.
    pub usages: &'a [ExtendedKeyUsagePurpose],
    /// Its first second, from now.
    pub begins: SignedDuration,
    /// Its last second, from now.
    pub ends: SignedDuration,
    /// Whether it signs itself.
    pub self_signed: bool,
}

impl Default for Odd<'_> {
    fn default() -> Self {
        Self {
            common_name: "odd",
            uris: &["rollback://example/operator/odd?roles=viewer,operator,admin,break-glass&environments=*"],
            usages: &[ExtendedKeyUsagePurpose::ClientAuth],
            begins: -SignedDuration::from_hours(1),
            ends: SignedDuration::from_hours(1),
            self_signed: false,
        }
    }
}

impl TestAuthority {
    /// Makes an authority as of `now`.
    ///
    /// # Panics
    /// When the machine has no room for it.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let domain = DOMAIN.parse().expect("a name");
        let pki = Pki::init(directory.path(), &domain, 3_650, 30, now).expect("a fresh directory");
        Self { directory, pki, now }
    }

    /// The path of a file of the authority.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Issues an agent's certificate and gives the agent's settings.
    ///
    /// # Panics
    /// When the authority refuses.
    #[must_use]
    pub fn agent(&mut self, host: &str) -> Tls {
        let order = Order::Agent { host: host.parse().expect("a name"), addresses: Vec::new() };
        let issued = self.pki.issue(order, None, None, self.now).expect("a fresh name");
        Tls {
            domain: DOMAIN.parse().expect("a name"),
            authority: self.path("ca.crt"),
            certificate: issued.certificate,
            key: issued.key.expect("a key was made"),
            revocations: Some(self.path("crl.pem")),
        }
    }

    /// Issues an operator's certificate for 300 days in every environment.
    ///
    /// # Panics
    /// When the authority refuses.
    #[must_use]
    pub fn operator(&mut self, name: &str, role: Role) -> PairFiles {
        let (name, roles) = (name.parse().expect("a name"), BTreeSet::from([role]));
        let order = Order::Operator { name, roles, scope: Scope::All };
        let issued = self.pki.issue(order, Some(300), None, self.now).expect("a fresh name");
        PairFiles { certificate: issued.certificate, key: issued.key.expect("a key was made") }
    }

    /// Signs something odd by the authority's key, behind its back.
    ///
    /// # Panics
    /// When the library refuses.
    #[must_use]
    pub fn odd(&self, name: &str, odd: &Odd<'_>) -> PairFiles {
        let read = |file: &str| std::fs::read_to_string(self.path(file)).expect("the authority's file");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, odd.common_name);
        params.subject_alt_names = odd.uris.iter().map(|uri| SanType::URI((*uri).try_into().expect("ASCII"))).collect();
        params.extended_key_usages = odd.usages.to_vec();
        let at = |offset: SignedDuration| {
            time::OffsetDateTime::from_unix_timestamp((self.now + offset).as_second()).expect("in range")
        };
        (params.not_before, params.not_after) = (at(odd.begins), at(odd.ends));
        let key = KeyPair::generate().expect("a key");
        let certificate = if odd.self_signed {
            params.self_signed(&key).expect("a certificate")
        } else {
            let authority = KeyPair::from_pem(&read("ca.key")).expect("the authority's key");
            let issuer = Issuer::from_ca_cert_pem(&read("ca.crt"), authority).expect("the authority");
            params.signed_by(&key, &issuer).expect("a certificate")
        };
        let pair = PairFiles { certificate: self.path(&format!("{name}.crt")), key: self.path(&format!("{name}.key")) };
        std::fs::write(&pair.certificate, certificate.pem()).expect("room");
        std::fs::write(&pair.key, key.serialize_pem()).expect("room");
        set_mode(&pair.key, 0o600);
        pair
    }

    /// Loads what a client with this pair needs to trust this authority's agents.
    ///
    /// # Panics
    /// When the files are not such.
    #[must_use]
    pub fn trust(&self, pair: &PairFiles) -> Trust {
        let files = TrustFiles {
            domain: DOMAIN.parse().expect("a name"),
            authority: self.path("ca.crt"),
            certificate: pair.certificate.clone(),
            key: pair.key.clone(),
        };
        Trust::load(&files, self.now).expect("the files of this authority")
    }
}

/// Sets the mode of a file.
///
/// # Panics
/// When the file is not ours.
pub fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("our file");
}
