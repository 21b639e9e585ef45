//! Who is at the other end: a URI in a certificate, with a kind, a name, roles and environments.
//!
//! The grammar is strict, so that one identity has one text:
//! `rollback://DOMAIN/agent/HOST` and
//! `rollback://DOMAIN/operator/NAME?roles=ROLE[,ROLE…]&environments=ENV[,ENV…]` (or `environments=*`).
//! The common name of a certificate never counts.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ids::{Environment, HostName, NameError};

/// The scheme of every identity.
pub const SCHEME: &str = "rollback://";

/// What an operator may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Sees.
    Viewer,
    /// Changes.
    Operator,
    /// Changes what is kept and what is allowed.
    Admin,
    /// Passes floors.
    BreakGlass,
}

impl Role {
    /// Every role, least first.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Operator, Self::Admin, Self::BreakGlass];

    /// Returns the role's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::BreakGlass => "break-glass",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| IdentityError::Role(text.chars().take(40).collect()))
    }
}

/// The environments that an operator may touch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// Every one.
    All,
    /// These, by exact match.
    Only(BTreeSet<Environment>),
}

impl Scope {
    /// Tells whether an environment is in scope; the match is exact.
    #[must_use]
    pub fn covers(&self, environment: &Environment) -> bool {
        match self {
            Self::All => true,
            Self::Only(environments) => environments.contains(environment),
        }
    }
}

/// An identity out of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Identity {
    /// An agent.
    Agent {
        /// The trust domain.
        domain: HostName,
        /// The host.
        host: HostName,
    },
    /// A person or a program that asks agents.
    Operator {
        /// The trust domain.
        domain: HostName,
        /// The name.
        name: HostName,
        /// What it may do; never empty.
        roles: BTreeSet<Role>,
        /// Where it may do it.
        scope: Scope,
    },
}

/// Says why a URI is not an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It has another shape.
    #[error("{0:?} is not `rollback://DOMAIN/agent/HOST` nor `rollback://DOMAIN/operator/NAME?roles=…&environments=…`")]
    Shape(String),
    /// A part is not a name.
    #[error("a part of the identity is not a name")]
    Name(#[source] NameError),
    /// There is no such role.
    #[error("there is no role {0:?}: viewer, operator, admin and break-glass are the roles")]
    Role(String),
    /// A list is empty, unsorted or has a value twice.
    #[error("{0} is empty, not in order, or has a value twice")]
    List(&'static str),
}

impl Identity {
    /// Returns the trust domain.
    #[must_use]
    pub fn domain(&self) -> &HostName {
        match self {
            Self::Agent { domain, .. } | Self::Operator { domain, .. } => domain,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent { domain, host } => write!(f, "{SCHEME}{domain}/agent/{host}"),
            Self::Operator { domain, name, roles, scope } => {
                let roles: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
                let environments = match scope {
                    Scope::All => "*".to_owned(),
                    Scope::Only(set) => set.iter().map(Environment::as_str).collect::<Vec<_>>().join(","),
                };
                write!(f, "{SCHEME}{domain}/operator/{name}?roles={}&environments={environments}", roles.join(","))
            }
        }
    }
}

fn set<T: Ord + Clone, E>(
    what: &'static str,
    list: &str,
    parse: impl Fn(&str) -> Result<T, E>,
    wrong: impl Fn(E) -> IdentityError,
) -> Result<BTreeSet<T>, IdentityError> {
    let items = list.split(',').map(|item| parse(item).map_err(&wrong)).collect::<Result<Vec<T>, _>>()?;
    if items.is_empty() || !items.windows(2).all(|pair| pair[0] < pair[1]) {
        return Err(IdentityError::List(what));
    }
    Ok(items.into_iter().collect())
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let shape = || IdentityError::Shape(text.chars().take(200).collect());
        let rest = text.strip_prefix(SCHEME).ok_or_else(shape)?;
        let mut parts = rest.splitn(3, '/');
        let (Some(domain), Some(kind), Some(last)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(shape());
        };
        let domain: HostName = domain.parse().map_err(IdentityError::Name)?;
        match kind {
            "agent" => Ok(Self::Agent { domain, host: last.parse().map_err(IdentityError::Name)? }),
            "operator" => {
                let (name, query) = last.split_once("?roles=").ok_or_else(shape)?;
                let (roles, environments) = query.split_once("&environments=").ok_or_else(shape)?;
                let roles = set("roles", roles, str::parse::<Role>, |error| error)?;
                let scope = match environments {
                    "*" => Scope::All,
                    list => Scope::Only(set("environments", list, str::parse::<Environment>, IdentityError::Name)?),
                };
                Ok(Self::Operator { domain, name: name.parse().map_err(IdentityError::Name)?, roles, scope })
            }
            _ => Err(shape()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_read_back_as_written() {
        for text in [
            "rollback://example/agent/web01",
            "rollback://example/operator/alice?roles=operator&environments=prod,test",
            "rollback://example/operator/root?roles=viewer,operator,admin,break-glass&environments=*",
        ] {
            let identity: Identity = text.parse().expect("a valid identity");
            assert_eq!(identity.to_string(), text);
        }
    }

    #[test]
    fn look_alikes_are_refused() {
        for text in [
            "rollback://example/agent/web01/",
            "rollback://example/agent/",
            "spiffe://example/agent/web01",
            "rollback://example/operator/alice",
            "rollback://example/operator/alice?roles=&environments=prod",
            "rollback://example/operator/alice?roles=root&environments=prod",
            "rollback://example/operator/alice?roles=operator,viewer&environments=prod",
            "rollback://example/operator/alice?roles=viewer&environments=prod,prod",
            "rollback://example/operator/alice?roles=viewer&environments=",
            "rollback://example/operator/a/b?roles=viewer&environments=prod",
            "rollback://example/operator/alice?environments=prod&roles=viewer",
            "ROLLBACK://example/agent/web01",
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn scope_matches_exactly() {
        let scope = Scope::Only(BTreeSet::from(["prod".parse().expect("a name")]));
        for (text, covered) in [("prod", true), ("PROD", false), ("prod2", false), ("pro", false), ("prod.", false)] {
            assert_eq!(scope.covers(&text.parse().expect("a name")), covered, "{text}");
        }
    }
}
