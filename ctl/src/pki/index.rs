//! What an authority remembers of the certificates that it has signed.

use std::fmt;

use jiff::Timestamp;
use rollback::model::identity::Identity;
use rollback::model::ids::HostName;
use serde::{Deserialize, Serialize};

use super::authority::{Revoked, SERIAL_BYTES, serial_text};

/// The newest format of the index.
pub const INDEX_VERSION: u32 = 1;

/// Everything that was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// The format.
    pub version: u32,
    /// The trust domain.
    pub domain: HostName,
    /// The number of the newest revocation list.
    pub revocation_list: u64,
    /// The certificates, oldest first.
    pub certificates: Vec<Entry>,
}

/// One signed certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The serial number, 32 hexadecimal digits.
    pub serial: String,
    /// The identity, as in the certificate.
    pub identity: String,
    /// For agents: further names and addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Its first second.
    pub begins: Timestamp,
    /// Its last second.
    pub ends: Timestamp,
    /// Since when it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
}

impl Entry {
    /// Reads the identity back; none when somebody has edited it.
    #[must_use]
    pub fn holder(&self) -> Option<Holder> {
        self.identity.parse::<Identity>().ok().map(|identity| Holder::of(&identity))
    }

    /// Gives the entry of the revocation list; none when it is not revoked, or ended so that the list needs it no more.
    #[must_use]
    pub fn revoked(&self, now: Timestamp) -> Option<Revoked> {
        let at = self.revoked_at.filter(|_| self.ends >= now)?;
        Some(Revoked { serial: bytes(&self.serial)?, at })
    }
}

/// Whose certificate it is: the folder and the name of its files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// `agents` or `operators`.
    pub folder: &'static str,
    /// The host's or the operator's name.
    pub name: String,
}

impl Holder {
    /// Names the holder of an identity.
    #[must_use]
    pub fn of(identity: &Identity) -> Self {
        match identity {
            Identity::Agent { host, .. } => Self { folder: "agents", name: host.to_string() },
            Identity::Operator { name, .. } => Self { folder: "operators", name: name.to_string() },
        }
    }

    /// Tells whether `text` means this holder: `NAME`, `agent/NAME` or `operator/NAME`.
    #[must_use]
    pub fn is_meant_by(&self, text: &str) -> bool {
        text == self.name || text == self.to_string()
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.folder.trim_end_matches('s'), self.name)
    }
}

/// Reads a serial number as people write it: hexadecimal digits, with or without colons.
#[must_use]
pub fn canonical_serial(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    let hexadecimal = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_hexdigit());
    hexadecimal.then(|| digits.to_ascii_lowercase().trim_start_matches('0').to_owned())
}

fn bytes(serial: &str) -> Option<[u8; SERIAL_BYTES]> {
    let number = u128::from_str_radix(serial, 16).ok()?;
    let bytes = number.to_be_bytes();
    (serial_text(&bytes) == serial).then_some(bytes)
}
