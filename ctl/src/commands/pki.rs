//! `rbctl pki`: makes and keeps the certificates of agents and operators.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use rollback::model::identity::{Role, Scope};
use rollback::model::ids::{Environment, HostName};
use serde::Serialize;

use crate::pki::index::Entry;
use crate::pki::store::{self, Issued, Order, Pki, PkiError};
use crate::pki::view::{CertificateStatus, CertificateView};
use crate::pki::{AUTHORITY_DAYS, DAYS_MAX, REVOCATION_LIST_DAYS};

/// Arguments of `rbctl pki`.
#[derive(Debug, Clone, Args)]
pub struct PkiArgs {
    /// The authority's directory.
    #[arg(long = "dir", value_name = "DIR", global = true, env = "RBCTL_PKI", default_value = "pki")]
    pub directory: PathBuf,
    /// Days that the revocation list lives; every change signs it anew.
    #[arg(long, value_name = "DAYS", global = true, default_value_t = REVOCATION_LIST_DAYS, value_parser = days())]
    pub crl_days: u32,
    /// What to do.
    #[command(subcommand)]
    pub command: PkiCommand,
}

/// What `rbctl pki` can do.
#[derive(Debug, Clone, Subcommand)]
pub enum PkiCommand {
    /// Makes an authority: a key, a certificate and an empty revocation list.
    Init {
        /// The authority's directory, instead of `--dir`.
        #[arg(value_name = "DIR")]
        target: Option<PathBuf>,
        /// The trust domain, which stands in every identity.
        #[arg(long)]
        domain: HostName,
        /// Days that the authority lives.
        #[arg(long, default_value_t = AUTHORITY_DAYS, value_parser = days())]
        days: u32,
    },
    /// Makes a certificate for somebody new.
    #[command(subcommand)]
    Issue(IssueCommand),
    /// Makes a new certificate for somebody who has one, with the same identity and a new key.
    Renew {
        /// `NAME`, `agent/NAME` or `operator/NAME`.
        #[arg(required_unless_present = "revocations")]
        name: Option<String>,
        /// Signs the revocation list anew instead.
        #[arg(long, conflicts_with_all = ["name", "days", "csr"])]
        revocations: bool,
        /// Days and signing request.
        #[command(flatten)]
        how: How,
    },
    /// Decodes the certificates in a file, or lists what the authority has signed.
    Show {
        /// A certificate, PEM.
        file: Option<PathBuf>,
    },
    /// Revokes certificates: agents refuse them once they have the new list.
    Revoke {
        /// `NAME`, `agent/NAME`, `operator/NAME`, a serial number, or a certificate's file.
        what: String,
    },
}

/// For whom.
#[derive(Debug, Clone, Subcommand)]
pub enum IssueCommand {
    /// For the agent of a host.
    Agent {
        /// The host's name, as the agent's configuration has it.
        host: HostName,
        /// A further name or address that stands in the certificate; may be repeated. `rbctl` does not need it.
        #[arg(long = "address", value_name = "IP|NAME", value_parser = address)]
        addresses: Vec<String>,
        /// Days and signing request.
        #[command(flatten)]
        how: How,
    },
    /// For a person or a program that asks agents.
    Operator {
        /// The name.
        name: HostName,
        /// viewer, operator, admin or break-glass; may be repeated.
        #[arg(long = "role", required = true, value_name = "ROLE")]
        roles: Vec<Role>,
        /// An environment, or `*` for every one; may be repeated.
        #[arg(long = "environment", required = true, value_name = "ENV|*")]
        environments: Vec<EnvironmentArg>,
        /// Days and signing request.
        #[command(flatten)]
        how: How,
    },
}

/// Days and signing request.
#[derive(Debug, Clone, Args)]
pub struct How {
    /// Days that the certificate lives; the default is 397 for agents and 30 for operators.
    #[arg(long, value_parser = days())]
    pub days: Option<u32>,
    /// A signing request, PEM: its key is certified, nothing else of it is used.
    #[arg(long, value_name = "FILE")]
    pub csr: Option<PathBuf>,
}

/// An environment or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvironmentArg {
    /// Every one.
    All,
    /// This one.
    One(Environment),
}

impl std::str::FromStr for EnvironmentArg {
    type Err = rollback::model::ids::NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "*" { Ok(Self::All) } else { text.parse().map(Self::One) }
    }
}

/// What `rbctl pki` answers: serialized for programs, displayed for people.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum PkiAnswer {
    /// An authority was made.
    Initialised {
        /// Its directory.
        directory: PathBuf,
        /// Its trust domain.
        domain: HostName,
    },
    /// A certificate was made.
    Issued(Issued),
    /// The revocation list was signed.
    ListSigned {
        /// Its end.
        ends: Timestamp,
    },
    /// Certificates of a file.
    Shown {
        /// In the order of the file.
        certificates: Vec<CertificateView>,
    },
    /// What the authority has signed.
    Listed {
        /// The trust domain.
        domain: HostName,
        /// The authority's own certificate.
        authority: CertificateView,
        /// Oldest first.
        certificates: Vec<Line>,
    },
    /// Certificates were revoked.
    Revoked {
        /// Their serial numbers.
        serials: Vec<String>,
        /// The list that agents need now.
        list: PathBuf,
    },
}

/// One signed certificate.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// What the index has.
    #[serde(flatten)]
    pub entry: Entry,
    /// Whether it may be used now.
    pub status: CertificateStatus,
}

/// Does what the arguments say, as of `now`.
///
/// # Errors
/// When the authority's directory does not allow it; nothing is overwritten without `renew`.
pub fn run(args: PkiArgs, now: Timestamp) -> Result<PkiAnswer, PkiError> {
    let PkiArgs { directory, crl_days, command } = args;
    match command {
        PkiCommand::Init { target, domain, days } => {
            let directory = target.unwrap_or(directory);
            Pki::init(&directory, &domain, days, crl_days, now)?;
            Ok(PkiAnswer::Initialised { directory, domain })
        }
        PkiCommand::Issue(issue) => {
            let (order, How { days, csr }) = order(issue);
            let request = csr.as_deref().map(store::read_request).transpose()?;
            let mut pki = Pki::open(&directory, crl_days, now)?;
            Ok(PkiAnswer::Issued(pki.issue(order, days, request.as_deref(), now)?))
        }
        PkiCommand::Renew { name, revocations: _, how: How { days, csr } } => {
            let request = csr.as_deref().map(store::read_request).transpose()?;
            let mut pki = Pki::open(&directory, crl_days, now)?;
            match name {
                Some(name) => Ok(PkiAnswer::Issued(pki.renew(&name, days, request.as_deref(), now)?)),
                // Without a name the parser has seen `--revocations`.
                None => Ok(PkiAnswer::ListSigned { ends: pki.sign_list(now)? }),
            }
        }
        PkiCommand::Show { file: Some(file) } => {
            Ok(PkiAnswer::Shown { certificates: store::show(&file, &directory, now)? })
        }
        PkiCommand::Show { file: None } => {
            let listing = store::list(&directory, now)?;
            let certificates = listing.certificates.into_iter().map(|entry| Line::of(entry, now)).collect();
            Ok(PkiAnswer::Listed { domain: listing.domain, authority: listing.authority, certificates })
        }
        PkiCommand::Revoke { what } => {
            let serials = Pki::open(&directory, crl_days, now)?.revoke(&what, now)?;
            Ok(PkiAnswer::Revoked { serials, list: directory.join("crl.pem") })
        }
    }
}

impl Line {
    fn of(entry: Entry, now: Timestamp) -> Self {
        let status = CertificateStatus::of(entry.begins, entry.ends, entry.revoked_at.is_some(), now);
        Self { entry, status }
    }
}

fn order(issue: IssueCommand) -> (Order, How) {
    match issue {
        IssueCommand::Agent { host, addresses, how } => (Order::Agent { host, addresses }, how),
        IssueCommand::Operator { name, roles, environments, how } => {
            let named: Option<BTreeSet<Environment>> = environments
                .into_iter()
                .map(|environment| match environment {
                    EnvironmentArg::All => None,
                    EnvironmentArg::One(environment) => Some(environment),
                })
                .collect();
            let scope = named.map_or(Scope::All, Scope::Only);
            (Order::Operator { name, roles: roles.into_iter().collect(), scope }, how)
        }
    }
}

fn days() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(DAYS_MAX))
}

fn address(text: &str) -> Result<String, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(ip.to_string());
    }
    rustls::pki_types::DnsName::try_from(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

impl fmt::Display for PkiAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Initialised { directory, domain } => {
                writeln!(f, "The authority of `{domain}` is in `{}`.", directory.display())?;
                writeln!(f, "Keep `ca.key` away from hosts; whoever has it may do everything.")?;
                writeln!(f, "Next: `rbctl pki --dir {} issue agent HOST`", directory.display())
            }
            Self::Issued(issued) => {
                write_view(f, &issued.view)?;
                writeln!(f, "  file         {}", issued.certificate.display())?;
                match &issued.key {
                    Some(key) => writeln!(f, "  key          {}", key.display()),
                    None => writeln!(f, "  key          with the maker of the signing request"),
                }
            }
            Self::ListSigned { ends } => writeln!(f, "The revocation list is valid until {ends}."),
            Self::Shown { certificates } => certificates.iter().try_for_each(|view| write_view(f, view)),
            Self::Listed { authority, certificates, .. } => {
                write_view(f, authority)?;
                for Line { entry, status } in certificates {
                    let Entry { identity, serial, ends, .. } = entry;
                    writeln!(f, "{identity}\n  serial       {serial}\n  {:<12} until {ends}", status.as_str())?;
                }
                Ok(())
            }
            Self::Revoked { serials, list } => {
                for serial in serials {
                    writeln!(f, "Revoked `{serial}`.")?;
                }
                writeln!(f, "Next: copy `{}` to every host; agents heed it within a minute.", list.display())
            }
        }
    }
}

fn write_view(f: &mut fmt::Formatter<'_>, view: &CertificateView) -> fmt::Result {
    writeln!(f, "{}", view.identity.as_ref().unwrap_or(&view.subject))?;
    if let Some(flaw) = &view.flaw {
        writeln!(f, "  no identity  {flaw}")?;
    }
    writeln!(f, "  serial       {}", view.serial)?;
    writeln!(f, "  {:<12} from {} until {}", view.status.as_str(), view.begins, view.ends)?;
    writeln!(f, "  fingerprint  SHA-256 {}", view.fingerprint)
}

#[cfg(test)]
mod tests;
