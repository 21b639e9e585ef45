//! The agent of `rollback`: effects on one host. The root library decides, this crate acts.

pub mod config;
pub mod facts;
pub mod ports;
pub mod probe;
mod procfs;
pub mod units;
