//! Nouns that cannot be built wrong: parsed once at the edge, then passed as types.

pub mod decision;
pub mod digest;
pub mod effect;
pub mod health;
pub mod host;
pub mod identity;
pub mod ids;
pub mod offer;
pub mod operation;
pub mod plan;
pub mod policy;
pub mod record;
pub mod refusal;
pub mod release;
pub mod text;
pub mod watch;
