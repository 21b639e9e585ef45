//! Talks to many agents.

pub mod connect;
mod trust;
