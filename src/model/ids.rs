//! Names and identifiers, validated when they are made.
//!
//! Nothing that arrives from outside may name a path, a unit or a command: a name that passed here has no slash, no
//! leading dot or dash, no blank and no control character.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name in bytes. A name becomes a directory entry, a journal field and a metric label; 128 fits all three.
pub const NAME_BYTES_MAX: usize = 128;

/// Says why a text is not a valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("{what} is empty")]
    Empty {
        /// The kind of name.
        what: &'static str,
    },
    /// The text is longer than [`NAME_BYTES_MAX`].
    #[error("{what} has {bytes} bytes, at most {NAME_BYTES_MAX} are allowed")]
    TooLong {
        /// The kind of name.
        what: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// The text has a character that is not allowed in its place.
    #[error(
        "{what} {text:?} has {found:?}, allowed are letters, digits and {allowed} and a letter or digit comes first"
    )]
    Character {
        /// The kind of name.
        what: &'static str,
        /// The text, escaped when printed.
        text: String,
        /// The first wrong character.
        found: char,
        /// The punctuation that is allowed.
        allowed: &'static str,
    },
    /// The text is not a unit name that an agent may manage.
    #[error("unit {0:?} is not a service, socket, timer, path or target of a component: `NAME.service` is expected")]
    UnitSuffix(String),
    /// The text is not an identifier of an operation.
    #[error("operation {0:?} is not a UUID of version 7")]
    OperationId(String),
}

fn check(what: &'static str, text: &str, allowed: &'static str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong { what, bytes: text.len() });
    }
    let wrong =
        text.chars().enumerate().find(|(at, c)| !(c.is_ascii_alphanumeric() || (*at > 0 && allowed.contains(*c))));
    match wrong {
        None => Ok(()),
        Some((_, found)) => {
            Err(NameError::Character { what, text: text.chars().take(NAME_BYTES_MAX).collect(), found, allowed })
        }
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $allowed:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Returns the name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check($what, text, $allowed)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// The name of one machine with one agent.
    HostName, "host name", ".-_"
);
name!(
    /// The name of one thing that is released on its own.
    ComponentName, "component name", ".-_"
);
name!(
    /// The label of a component: `prod`, `test`, ….
    Environment, "environment", ".-_"
);
name!(
    /// The identifier of a release: the name of its directory.
    ReleaseId, "release", ".-_+~"
);
name!(
    /// What people call a release: `2.4.1`, a tag, a build number.
    Version, "version", ".-_+~:"
);
name!(
    /// The name of a probe, unique in its component.
    ProbeName, "probe name", ".-_"
);

/// Unit suffixes that an agent may start and stop. A target can stop a whole machine, so it is not among them.
const UNIT_SUFFIXES: [&str; 4] = [".service", ".socket", ".timer", ".path"];

/// The name of a systemd unit (or of a program of the process backend) that a component's configuration names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnitName(String);

impl UnitName {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UnitName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check("unit", text, ".-_@:\\")?;
        if UNIT_SUFFIXES.iter().any(|suffix| text.len() > suffix.len() && text.ends_with(suffix)) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::UnitSuffix(text.to_owned()))
        }
    }
}

impl TryFrom<String> for UnitName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<UnitName> for String {
    fn from(name: UnitName) -> Self {
        name.0
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The identifier of an operation: a UUID of version 7, so that identifiers sort by the time they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OperationId(uuid::Uuid);

impl OperationId {
    /// Takes a UUID that the caller has made.
    ///
    /// # Errors
    /// When it is not of version 7.
    pub fn from_uuid(id: uuid::Uuid) -> Result<Self, NameError> {
        if id.get_version_num() == 7 { Ok(Self(id)) } else { Err(NameError::OperationId(id.to_string())) }
    }

    /// Makes an identifier from the time and from 10 random bytes of the caller.
    #[must_use]
    pub fn new(now: jiff::Timestamp, random: [u8; 10]) -> Self {
        let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
        Self(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
    }

    /// Returns the identifier's 16 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl FromStr for OperationId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let id = uuid::Uuid::try_parse(text)
            .map_err(|_| NameError::OperationId(text.chars().take(NAME_BYTES_MAX).collect()))?;
        Self::from_uuid(id)
    }
}

impl TryFrom<String> for OperationId {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<OperationId> for String {
    fn from(id: OperationId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_refused_in_every_kind() {
        for text in
            ["", "-x", "--help", ".hidden", "..", "a/b", "a b", "a;b", "*", "a\nb", "a\u{1b}[0m", "ａ", "a\0b", "_a"]
        {
            assert!(text.parse::<ComponentName>().is_err(), "{text:?}");
            assert!(text.parse::<ReleaseId>().is_err(), "{text:?}");
            assert!(text.parse::<HostName>().is_err(), "{text:?}");
            assert!(text.parse::<UnitName>().is_err(), "{text:?}");
        }
        assert!("a".repeat(NAME_BYTES_MAX + 1).parse::<Version>().is_err());
    }

    #[test]
    fn names_of_the_field_are_accepted() {
        for text in ["backup_20241112_153045", "2024.11.12", "v1.2.3-rc.1+build7", "20261127T101500Z"] {
            assert!(text.parse::<ReleaseId>().is_ok(), "{text:?}");
        }
    }

    #[test]
    fn units_that_stop_a_machine_are_refused() {
        for text in ["reboot.target", "inst@*", "web", ".service", "foo@../x.service", "web.mount"] {
            assert!(text.parse::<UnitName>().is_err(), "{text:?}");
        }
        for text in ["web.service", "web@8080.service", "web.socket"] {
            assert!(text.parse::<UnitName>().is_ok(), "{text:?}");
        }
    }

    #[test]
    fn operation_ids_sort_by_time() {
        let early = OperationId::new(jiff::Timestamp::from_second(1_000).expect("in range"), [255; 10]);
        let late = OperationId::new(jiff::Timestamp::from_second(2_000).expect("in range"), [0; 10]);
        assert!(early < late);
        assert_eq!(early.to_string().parse(), Ok(early));
        assert!("4c8a3a44-56a1-4e47-b5e0-5a0f1f6fbb36".parse::<OperationId>().is_err());
    }
}
