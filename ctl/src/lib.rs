//! The client of `rollback`: talks to people and to many agents.

pub mod cli;
pub mod commands;
pub mod error;
pub mod fleet;
pub mod inventory;
pub mod pki;
pub mod source;
pub mod ui;
