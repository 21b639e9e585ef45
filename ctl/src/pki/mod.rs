//! A small authority in one directory: who is an agent, who may operate, and who may not any more.
//!
//! - [`store`]: the directory, and everything that changes it.
//! - [`authority`]: signs; knows no files.
//! - [`view`]: reads certificates for people and for the connection.
//!
//! The directory holds `ca.crt`, `ca.key`, `crl.pem`, `index.json`, `agents/HOST.{crt,key}` and
//! `operators/NAME.{crt,key}`. Agents need the first, the third and their own pair; operators the first and theirs.

pub mod authority;
pub(crate) mod files;
pub mod index;
pub mod store;
pub mod view;

/// Days that an authority lives: longer than the hosts that trust it; two authorities overlap when it is replaced.
pub const AUTHORITY_DAYS: u32 = 3_652;
/// Days that an agent's certificate lives: a year and a month, so that a yearly renewal is never late by a holiday.
pub const AGENT_DAYS: u32 = 397;
/// Days that an operator's certificate lives: people change, and a lost laptop is forgotten by itself.
pub const OPERATOR_DAYS: u32 = 30;
/// Days that a revocation list lives: one past its end stays in force, and every agent says that it is old.
pub const REVOCATION_LIST_DAYS: u32 = 90;
/// Longest life that may be asked for.
pub const DAYS_MAX: u32 = 3_652;
