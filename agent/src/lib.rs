//! The agent of `rollback`: effects on one host. The root library decides, this crate acts.

pub mod checkpoint;
pub mod config;
pub mod driver;
pub mod observe;
pub mod ports;
pub mod release;
pub mod rpc;
