//! The agent of `rollback`: effects on one host. The root library decides, this crate acts.

pub mod config;
pub mod history;
pub mod ports;
