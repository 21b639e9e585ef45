//! The agent of `rollback`: effects on one host. The root library decides, this crate acts.

pub mod audit;
pub mod config;
pub mod driver;
pub mod history;
pub mod ports;
