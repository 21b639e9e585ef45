//! The directory of an authority, and everything that changes it.
//!
//! The index is written first, then the list, then the key, then the certificate. A crash in between leaves an entry
//! without files, or after `renew` a new key beside the old certificate (agents refuse such a pair and keep the one
//! before), never a certificate that cannot be revoked by name. `renew` completes it.

use std::fs::File;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rollback::model::identity::{Identity, Role, Scope};
use rollback::model::ids::HostName;

use super::authority::{Authority, Leaf, Pair, Revoked, SignError, Validity, new_serial, serial_text};
use super::files::{self, PUBLIC, SECRET};
use super::index::{Entry, Holder, INDEX_VERSION, Index, canonical_serial};
use super::view::{CertificateStatus, CertificateView, ViewError};
use super::{AGENT_DAYS, OPERATOR_DAYS};

/// Says why an authority's directory did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("cannot {attempt} {path:?}")]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is one already.
    #[error("{0:?} exists already, nothing was changed")]
    Exists(PathBuf),
    /// Another process changes the directory.
    #[error("another process changes {0:?} at this moment")]
    Busy(PathBuf),
    /// The index is not one.
    #[error("the index {path:?} is damaged or of another version")]
    Index {
        /// The file.
        path: PathBuf,
        /// Why, when it cannot be parsed.
        #[source]
        source: Option<serde_json::Error>,
    },
    /// Something was not signed.
    #[error("cannot sign")]
    Sign(#[source] SignError),
    /// A certificate cannot be read.
    #[error("cannot decode {path:?}")]
    View {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ViewError,
    },
    /// Nothing has that name.
    #[error("no certificate of this authority is meant by {0:?}")]
    Unknown(String),
    /// Two holders have that name.
    #[error("{0:?} means an agent and an operator: say `agent/{0}` or `operator/{0}`")]
    Ambiguous(String),
    /// The authority's own certificate is over.
    #[error("the authority ended at {0}: make a new one, and let hosts trust both for a while")]
    Ended(Timestamp),
}

/// What a certificate is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// For an agent.
    Agent {
        /// The host.
        host: HostName,
        /// Further names and addresses.
        addresses: Vec<String>,
    },
    /// For a person or a program.
    Operator {
        /// The name.
        name: HostName,
        /// What it may do.
        roles: std::collections::BTreeSet<Role>,
        /// Where.
        scope: Scope,
    },
}

/// A certificate that was signed, and its files.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Issued {
    /// The certificate, decoded.
    #[serde(flatten)]
    pub view: CertificateView,
    /// Its file.
    pub certificate: PathBuf,
    /// The file of its key; none when the key stayed with the signing request's maker.
    pub key: Option<PathBuf>,
}

/// An authority's directory, locked against other processes as long as it is held.
#[derive(Debug)]
pub struct Pki {
    directory: PathBuf,
    authority: Authority,
    ends: Timestamp,
    index: Index,
    list_days: u32,
    _lock: File,
}

impl Pki {
    /// Makes an authority with an empty revocation list in a directory, which is made when it is missing.
    ///
    /// # Errors
    /// When there is an authority already, or the disk refuses.
    pub fn init(
        directory: &Path,
        domain: &HostName,
        days: u32,
        list_days: u32,
        now: Timestamp,
    ) -> Result<Self, PkiError> {
        for folder in [directory.to_owned(), directory.join("agents"), directory.join("operators")] {
            files::make_directory(&folder).map_err(failed("make the directory", &folder))?;
        }
        let lock = lock(directory)?;
        let at = |name: &str| directory.join(name);
        for existing in [at("ca.crt"), at("ca.key"), at("index.json")] {
            if existing.symlink_metadata().is_ok() {
                return Err(PkiError::Exists(existing));
            }
        }
        let serial = new_serial().map_err(PkiError::Sign)?;
        let pair = Authority::generate(domain, serial, Validity::days(now, days)).map_err(PkiError::Sign)?;
        let authority = Authority::load(&pair.certificate, &pair.key).map_err(PkiError::Sign)?;
        let index =
            Index { version: INDEX_VERSION, domain: domain.clone(), revocation_list: 0, certificates: Vec::new() };
        let ends = Validity::days(now, days).ends;
        let mut pki = Self { directory: directory.to_owned(), authority, ends, index, list_days, _lock: lock };
        pki.write(&at("ca.key"), &pair.key, SECRET)?;
        pki.write(&at("ca.crt"), &pair.certificate, PUBLIC)?;
        pki.sign_list(now)?;
        Ok(pki)
    }

    /// Opens an authority's directory to change it; its lists will live `list_days` days.
    ///
    /// # Errors
    /// When it is none, others can read its key, or another process changes it.
    pub fn open(directory: &Path, list_days: u32, now: Timestamp) -> Result<Self, PkiError> {
        look(directory, now)?;
        let lock = lock(directory)?;
        // Only what is read under the lock counts; the look before it keeps a lock file out of other directories.
        let (index, view) = look(directory, now)?;
        let key = directory.join("ca.key");
        let key = files::read_key(&key).map_err(failed("read the key", &key))?;
        let certificate = read(&directory.join("ca.crt"))?;
        let authority = Authority::load(&certificate, &key).map_err(PkiError::Sign)?;
        Ok(Self { directory: directory.to_owned(), authority, ends: view.ends, index, list_days, _lock: lock })
    }

    /// The trust domain.
    #[must_use]
    pub fn domain(&self) -> &HostName {
        &self.index.domain
    }

    /// Signs a certificate for a new holder and stores it; with `request` (PEM) for the key in it, else for a new key.
    ///
    /// # Errors
    /// When the holder has a certificate or a key already: [`Pki::renew`] replaces.
    pub fn issue(
        &mut self,
        order: Order,
        days: Option<u32>,
        request: Option<&str>,
        now: Timestamp,
    ) -> Result<Issued, PkiError> {
        let (identity, addresses) = self.identity(order);
        let holder = Holder::of(&identity);
        for file in [self.file(&holder, "crt"), self.file(&holder, "key")] {
            if file.symlink_metadata().is_ok() {
                return Err(PkiError::Exists(file));
            }
        }
        self.sign(Draft { identity, addresses, days }, request, now)
    }

    /// Signs a new certificate for a holder, for a new key (or the request's), with the same identity, and replaces its
    /// files. The certificate before stays valid until its end; revoke it when its key is lost.
    ///
    /// # Errors
    /// When nobody has that name, or two have.
    pub fn renew(
        &mut self,
        name: &str,
        days: Option<u32>,
        request: Option<&str>,
        now: Timestamp,
    ) -> Result<Issued, PkiError> {
        let holder = self.holder(name)?;
        let last = self.index.certificates.iter().rev().find(|entry| entry.holder().as_ref() == Some(&holder));
        let unknown = || PkiError::Unknown(name.to_owned());
        let entry = last.ok_or_else(unknown)?;
        let identity = entry.identity.parse().map_err(|_| unknown())?;
        let draft = Draft { identity, addresses: entry.addresses.clone(), days };
        self.sign(draft, request, now)
    }

    /// Revokes certificates: all of a holder (`NAME`, `agent/NAME`, `operator/NAME`), the one with a serial number, or
    /// the one in a file, and signs a new list. What is revoked already stays so. Gives the serial numbers meant.
    ///
    /// # Errors
    /// When nothing of this authority is meant.
    pub fn revoke(&mut self, what: &str, now: Timestamp) -> Result<Vec<String>, PkiError> {
        let serials = self.meant(what, now)?;
        for entry in &mut self.index.certificates {
            if serials.contains(&entry.serial) {
                entry.revoked_at.get_or_insert(now);
            }
        }
        self.sign_list(now)?;
        Ok(serials)
    }

    /// Signs the revocation list anew, with a new end, and stores the index. Gives the list's end.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sign_list(&mut self, now: Timestamp) -> Result<Timestamp, PkiError> {
        self.index.revocation_list += 1;
        self.save()?;
        let revoked: Vec<Revoked> = self.index.certificates.iter().filter_map(|entry| entry.revoked(now)).collect();
        let validity = Validity::days(now, self.list_days);
        let number = self.index.revocation_list;
        let list = self.authority.revocation_list(number, validity, &revoked).map_err(PkiError::Sign)?;
        self.write(&self.directory.join("crl.pem"), &list, PUBLIC)?;
        Ok(validity.ends)
    }

    fn identity(&self, order: Order) -> (Identity, Vec<String>) {
        let domain = self.index.domain.clone();
        match order {
            Order::Agent { host, addresses } => (Identity::Agent { domain, host }, addresses),
            Order::Operator { name, roles, scope } => (Identity::Operator { domain, name, roles, scope }, Vec::new()),
        }
    }

    fn sign(&mut self, draft: Draft, request: Option<&str>, now: Timestamp) -> Result<Issued, PkiError> {
        if self.ends <= now {
            return Err(PkiError::Ended(self.ends));
        }
        let Draft { identity, addresses, days } = draft;
        let default = match identity {
            Identity::Agent { .. } => AGENT_DAYS,
            Identity::Operator { .. } => OPERATOR_DAYS,
        };
        let wished = Validity::days(now, days.unwrap_or(default));
        // Past its authority's end a certificate is worth nothing; it should say so itself.
        let validity = Validity { ends: wished.ends.min(self.ends), ..wished };
        let leaf = Leaf { identity, addresses, serial: new_serial().map_err(PkiError::Sign)?, validity };
        let (certificate, key) = match request {
            Some(request) => (self.authority.sign_request(&leaf, request).map_err(PkiError::Sign)?, None),
            None => {
                let Pair { certificate, key } = self.authority.issue(&leaf).map_err(PkiError::Sign)?;
                (certificate, Some(key))
            }
        };
        let holder = Holder::of(&leaf.identity);
        self.index.certificates.push(Entry {
            serial: serial_text(&leaf.serial),
            identity: leaf.identity.to_string(),
            addresses: leaf.addresses,
            begins: validity.begins,
            ends: validity.ends,
            revoked_at: None,
        });
        self.sign_list(now)?;
        let files = (self.file(&holder, "crt"), self.file(&holder, "key"));
        if let Some(key) = &key {
            self.write(&files.1, key, SECRET)?;
        }
        self.write(&files.0, &certificate, PUBLIC)?;
        let view = first(&certificate, &files.0, now)?;
        Ok(Issued { view, certificate: files.0, key: key.map(|_| files.1) })
    }

    fn holder(&self, name: &str) -> Result<Holder, PkiError> {
        let holders = self.index.certificates.iter().filter_map(Entry::holder);
        let meant: std::collections::BTreeSet<Holder> = holders.filter(|holder| holder.is_meant_by(name)).collect();
        let mut meant = meant.into_iter();
        match (meant.next(), meant.next()) {
            (None, _) => Err(PkiError::Unknown(name.to_owned())),
            (Some(holder), None) => Ok(holder),
            (Some(_), Some(_)) => Err(PkiError::Ambiguous(name.to_owned())),
        }
    }

    fn meant(&self, what: &str, now: Timestamp) -> Result<Vec<String>, PkiError> {
        let known = |serial: &str| self.index.certificates.iter().any(|entry| entry.serial == serial);
        match self.holder(what) {
            Ok(holder) => {
                let of_holder = self.index.certificates.iter().filter(|entry| entry.holder().as_ref() == Some(&holder));
                return Ok(of_holder.map(|entry| entry.serial.clone()).collect());
            }
            Err(PkiError::Unknown(_)) => {}
            Err(error) => return Err(error),
        }
        if let Some(serial) = canonical_serial(what).filter(|serial| known(serial)) {
            return Ok(vec![serial]);
        }
        let path = Path::new(what);
        if path.is_file() {
            let view = first(&read(path)?, path, now)?;
            if known(&view.serial) {
                return Ok(vec![view.serial]);
            }
        }
        Err(PkiError::Unknown(what.to_owned()))
    }

    fn file(&self, holder: &Holder, extension: &str) -> PathBuf {
        self.directory.join(holder.folder).join(format!("{}.{extension}", holder.name))
    }

    fn save(&self) -> Result<(), PkiError> {
        let path = self.directory.join("index.json");
        let text = serde_json::to_string_pretty(&self.index)
            .map_err(|source| PkiError::Index { path: path.clone(), source: Some(source) })?;
        self.write(&path, &text, SECRET)
    }

    fn write(&self, path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
        files::replace(path, text.as_bytes(), mode).map_err(failed("write", path))
    }
}

struct Draft {
    identity: Identity,
    addresses: Vec<String>,
    days: Option<u32>,
}

/// Lists what an authority has signed, oldest first, without its key.
///
/// # Errors
/// When the directory is no authority's.
pub fn list(directory: &Path, now: Timestamp) -> Result<Listing, PkiError> {
    let (index, authority) = look(directory, now)?;
    Ok(Listing { domain: index.domain, authority, certificates: index.certificates })
}

/// What an authority has signed.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The trust domain.
    pub domain: HostName,
    /// The authority's own certificate.
    pub authority: CertificateView,
    /// The certificates, oldest first.
    pub certificates: Vec<Entry>,
}

/// Decodes the certificates in a file, and asks the authority in `directory`, when there is one, which are revoked.
///
/// # Errors
/// When there is none in it, or one cannot be read.
pub fn show(path: &Path, directory: &Path, now: Timestamp) -> Result<Vec<CertificateView>, PkiError> {
    let decoded = CertificateView::decode(&read(path)?, now);
    let mut views = decoded.map_err(|source| PkiError::View { path: path.to_owned(), source })?;
    let entries = look(directory, now).map(|(index, _)| index.certificates).unwrap_or_default();
    for view in &mut views {
        let revoked = entries.iter().any(|entry| entry.serial == view.serial && entry.revoked_at.is_some());
        view.status = CertificateStatus::of(view.begins, view.ends, revoked, now);
    }
    Ok(views)
}

/// Reads a signing request, PEM.
///
/// # Errors
/// When the file cannot be read.
pub fn read_request(path: &Path) -> Result<String, PkiError> {
    read(path)
}

fn look(directory: &Path, now: Timestamp) -> Result<(Index, CertificateView), PkiError> {
    let path = directory.join("index.json");
    let index: Index = serde_json::from_str(&read(&path)?)
        .map_err(|source| PkiError::Index { path: path.clone(), source: Some(source) })?;
    if index.version != INDEX_VERSION {
        return Err(PkiError::Index { path, source: None });
    }
    let authority = directory.join("ca.crt");
    let view = first(&read(&authority)?, &authority, now)?;
    Ok((index, view))
}

fn first(pem: &str, path: &Path, now: Timestamp) -> Result<CertificateView, PkiError> {
    let views = CertificateView::decode(pem, now);
    let mut views = views.map_err(|source| PkiError::View { path: path.to_owned(), source })?;
    Ok(views.swap_remove(0))
}

fn read(path: &Path) -> Result<String, PkiError> {
    files::read(path).map_err(failed("read", path))
}

fn lock(directory: &Path) -> Result<File, PkiError> {
    let path = directory.join(".lock");
    let lock = files::lock(&path).map_err(failed("lock", &path))?;
    lock.ok_or_else(|| PkiError::Busy(directory.to_owned()))
}

fn failed(attempt: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> PkiError {
    move |source| PkiError::File { attempt, path: path.to_owned(), source }
}
