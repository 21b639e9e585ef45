//! Verbs: every decision of the product, as functions of what is passed in.
//!
//! No I/O, no clock, no async: the agent observes, asks here, and performs what it is told.
//!
//! - [`plan`]: what an operation would do, or why it is refused; [`guard`] has the checks, [`target`] the choice.
//! - [`step`]: what comes next after an effect has ended.
//! - [`recover`]: how an interrupted operation goes on.
//! - [`retain`]: which releases are removed; [`floor`]: which are too old.
//! - [`trigger`]: how bad a failure is, and what it leads to.
//! - [`push`]: whether a release that is offered may be laid down.
//! - [`verdict`]: whether a release is well, relative to what was there before it.
//! - [`hold`]: how long a probe must fail before it counts.
//! - [`history`] and [`stats`]: what is told of operations afterwards.

#![deny(clippy::wildcard_enum_match_arm)]

pub mod floor;
pub mod guard;
pub mod history;
pub mod hold;
pub mod plan;
pub mod push;
pub mod recover;
pub mod retain;
pub mod stats;
pub mod step;
pub mod target;
pub mod trigger;
pub mod verdict;

#[cfg(test)]
mod tests;
