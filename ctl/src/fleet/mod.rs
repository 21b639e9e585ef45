//! Talks to many agents.

pub mod connect;
pub mod fanout;
mod trust;
