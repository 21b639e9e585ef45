//! The agent of `rollback`: effects on one host. The root library decides, this crate acts.

pub mod app;
pub mod audit;
pub mod clock;
pub mod config;
pub mod dead_man;
pub mod driver;
mod durable;
pub mod facts;
pub mod history;
pub mod log;
pub mod notice;
pub mod observe;
pub mod ports;
pub mod probe;
mod procfs;
pub mod release;
pub mod rpc;
pub mod units;
