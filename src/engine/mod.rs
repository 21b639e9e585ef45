//! Verbs: every decision of the product, as functions of what is passed in.
//!
//! Nothing here reads a clock, touches a disk or knows the wire. Each file answers one question.

#![deny(clippy::wildcard_enum_match_arm)]

pub mod guard;
pub mod history;
pub mod plan;
pub mod recover;
pub mod stats;
pub mod step;
pub mod target;
pub mod verdict;

#[cfg(test)]
mod tests;
