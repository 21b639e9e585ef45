//! Talks to many agents.

pub mod connect;
