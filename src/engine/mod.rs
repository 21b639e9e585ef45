//! Verbs: every decision of the product, as functions of what is passed in.
//!
//! No I/O, no clock, no async: the agent observes, asks here, and performs what it is told.
//!
//! - [`plan`]: what an operation would do, or why it is refused; [`guard`] has the checks, [`target`] the choice.
//! - [`step`]: what comes next after an effect has ended.
//! - [`recover`]: how an interrupted operation goes on.
//! - [`push`]: whether a release that is offered may be laid down.
//! - [`verdict`]: whether a release is well, relative to what was there before it.
//! - [`history`] and [`stats`]: what is told of operations afterwards.

#![deny(clippy::wildcard_enum_match_arm)]

pub mod guard;
pub mod history;
pub mod plan;
pub mod push;
pub mod recover;
pub mod stats;
pub mod step;
pub mod target;
pub mod verdict;

#[cfg(test)]
mod tests;
