//! Who may ask this agent, over which wire: mutual TLS, the local socket, one table of rights, and explicit limits.
//!
//! - [`tls`]: the keys, authorities and revocations in force, and their reload.
//! - [`server`]: accepts, shakes hands, bounds everything, feeds `tonic`.
//! - [`local`]: the root-only socket, which works when every certificate has expired.
//! - [`authz`]: who may call what; nothing by default.

pub mod authz;
pub mod certificate;
mod connection;
pub mod denials;
mod events;
mod files;
pub mod local;
mod pushing;
pub mod refusal;
pub mod server;
pub mod service;
pub mod tls;
mod verifying;
