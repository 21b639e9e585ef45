//! Decides how a systemd service goes back to its last good release; pure, with no I/O, no clock and no async.
//!
//! - [`model`]: the nouns, which cannot be built wrong.
//! - [`engine`]: the verbs; every decision of the product is a function here.
//! - [`wire`]: the generated bindings of `proto/rollback/v1`; [`convert`] translates between both.
//! - [`explain`]: every refusal, phase and outcome as one sentence, shared by agent, client and docs.
//! - [`rules`]: what rules compute of samples, as pure functions.
//! - [`chain`]: prints an error with its causes.

pub mod chain;
pub mod convert;
pub mod engine;
pub mod explain;
pub mod model;
pub mod rules;
pub mod wire;
