//! What the suites share.

pub mod pki;
