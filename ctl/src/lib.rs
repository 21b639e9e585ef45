//! The client of `rollback`: talks to people and to many agents.

pub mod commands;
pub mod fleet;
pub mod pki;
