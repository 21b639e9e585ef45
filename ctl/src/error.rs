//! Errors with a kind, a text and hints; the kind picks the exit code.

use std::fmt;

use prost::Message as _;
use rollback::chain::Chain;
use rollback::wire::v1;
use serde::Serialize;
use tonic::{Code, Status};

use crate::fleet::connect::{ConnectError, explain_status};

/// The exit codes; `rbctl help exit-codes` prints this table.
pub const EXIT_CODES: &[(u8, &str)] = &[
    (EXIT_DONE, "done"),
    (EXIT_FAILED, "refused or failed; nothing has changed, or it was put back"),
    (EXIT_UNVERIFIED, "rolled back or deployed, but not verified"),
    (EXIT_SOME_FAILED, "some hosts failed, others are done"),
    (EXIT_UNREACHABLE, "an agent could not be reached; what its host does is unknown"),
    (EXIT_NEEDS_OPERATOR, "manual intervention required"),
    (EXIT_HELD, "another operation holds the environment, or the plan is out of date"),
    (EXIT_DENIED, "not authorised"),
    (EXIT_USAGE, "wrong arguments or a wrong configuration file"),
    (EXIT_INTERRUPTED, "interrupted; the operation goes on and its identifier was printed"),
];

/// Done.
pub const EXIT_DONE: u8 = 0;
/// Refused or failed.
pub const EXIT_FAILED: u8 = 1;
/// Rolled back but not verified.
pub const EXIT_UNVERIFIED: u8 = 2;
/// Some hosts failed.
pub const EXIT_SOME_FAILED: u8 = 3;
/// Unreachable.
pub const EXIT_UNREACHABLE: u8 = 4;
/// Manual intervention required.
pub const EXIT_NEEDS_OPERATOR: u8 = 5;
/// Held, or out of date.
pub const EXIT_HELD: u8 = 7;
/// Not authorised.
pub const EXIT_DENIED: u8 = 8;
/// Wrong usage.
pub const EXIT_USAGE: u8 = 64;
/// Interrupted.
pub const EXIT_INTERRUPTED: u8 = 130;

/// What kind of error it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The user's arguments or configuration.
    Usage,
    /// The agent refused; nothing has changed.
    Refused,
    /// The environment is held, or the plan is out of date.
    Held,
    /// The caller may not.
    Denied,
    /// The agent could not be reached.
    Unreachable,
    /// Something failed.
    Failed,
    /// The user interrupted.
    Interrupted,
}

impl ErrorKind {
    /// Gives the exit code.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Usage => EXIT_USAGE,
            Self::Refused | Self::Failed => EXIT_FAILED,
            Self::Held => EXIT_HELD,
            Self::Denied => EXIT_DENIED,
            Self::Unreachable => EXIT_UNREACHABLE,
            Self::Interrupted => EXIT_INTERRUPTED,
        }
    }
}

/// Why a command, or its part on one host, did not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommandError {
    /// The kind.
    pub kind: ErrorKind,
    /// One upper-case word for scripts, when the agent gave one.
    pub code: Option<String>,
    /// What happened.
    pub text: String,
    /// What to do, one line each.
    pub hints: Vec<String>,
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for CommandError {}

impl CommandError {
    /// Makes an error without hints.
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self { kind, code: None, text: text.into(), hints: Vec::new() }
    }

    /// Makes a usage error with one hint.
    pub fn usage(text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { hints: vec![hint.into()], ..Self::new(ErrorKind::Usage, text) }
    }

    /// Wraps another error as a failure.
    pub fn failed(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(ErrorKind::Failed, Chain(error).to_string())
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl From<ConnectError> for CommandError {
    fn from(error: ConnectError) -> Self {
        let kind = match &error {
            ConnectError::NoTrust(_) => ErrorKind::Usage,
            ConnectError::Refused { .. } => ErrorKind::Denied,
            ConnectError::Unreachable { .. }
            | ConnectError::Slow { .. }
            | ConnectError::Time { .. }
            | ConnectError::UnknownAuthority(_)
            | ConnectError::SomebodyElse { .. }
            | ConnectError::Closed(_)
            | ConnectError::Handshake { .. }
            | ConnectError::Transport { .. } => ErrorKind::Unreachable,
        };
        let made = Self::new(kind, Chain(&error).to_string());
        match error {
            ConnectError::NoTrust(_) => {
                made.hint("name a context with certificates, or use `--local` on the host itself")
            }
            ConnectError::Unreachable { .. } | ConnectError::Slow { .. } | ConnectError::Closed(_) => {
                made.hint("on the host itself: `rbctl --local status`, `systemctl status rb-agent`")
            }
            ConnectError::Refused { .. } | ConnectError::Time { .. } => {
                made.hint("`rbctl pki show FILE` decodes a certificate; on the host itself `rbctl --local` needs none")
            }
            ConnectError::UnknownAuthority(_)
            | ConnectError::SomebodyElse { .. }
            | ConnectError::Handshake { .. }
            | ConnectError::Transport { .. } => made,
        }
    }
}

impl From<Status> for CommandError {
    fn from(status: Status) -> Self {
        let refusal = status.metadata().get_bin("refusal-bin").and_then(|value| value.to_bytes().ok());
        if let Some(refusal) = refusal.and_then(|bytes| v1::Refusal::decode(bytes).ok()) {
            let kind = match status.code() {
                Code::Aborted => ErrorKind::Held,
                _ => ErrorKind::Refused,
            };
            return Self { kind, code: Some(refusal.code), text: refusal.sentence, hints: refusal.hints };
        }
        let kind = match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => ErrorKind::Denied,
            Code::InvalidArgument => ErrorKind::Usage,
            Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded => ErrorKind::Unreachable,
            Code::Unknown if std::error::Error::source(&status).is_some() => ErrorKind::Unreachable,
            _ => ErrorKind::Failed,
        };
        Self::new(kind, explain_status(&status))
    }
}

/// Picks one exit code for several hosts: the worst that all share, or "some failed".
#[must_use]
pub fn combine(codes: &[u8]) -> u8 {
    let bad: Vec<u8> = codes.iter().copied().filter(|code| *code != EXIT_DONE).collect();
    match bad.first() {
        None => EXIT_DONE,
        Some(_) if bad.contains(&EXIT_NEEDS_OPERATOR) => EXIT_NEEDS_OPERATOR,
        Some(first) if bad.len() == codes.len() && bad.iter().all(|code| code == first) => *first,
        Some(_) if bad.iter().all(|code| *code == EXIT_UNREACHABLE) => EXIT_UNREACHABLE,
        Some(_) => EXIT_SOME_FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_exit_code_speaks_for_all_hosts() {
        for (codes, one) in [
            (vec![0, 0], 0),
            (vec![1], 1),
            (vec![1, 1], 1),
            (vec![0, 1], 3),
            (vec![0, 4], 4),
            (vec![1, 4], 3),
            (vec![2, 2], 2),
            (vec![0, 2], 3),
            (vec![0, 5], 5),
            (vec![7], 7),
        ] {
            assert_eq!(combine(&codes), one, "{codes:?}");
        }
    }
}
