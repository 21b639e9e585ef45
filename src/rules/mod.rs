//! What rules compute of samples: ratios, quantiles, growth, rates of log lines. No clock and no I/O: samples and `now`
//! are arguments. How long a rule must be broken before it counts is `engine::hold`'s to say.

pub mod counters;
pub mod exposition;
pub mod histogram;
pub mod lines;
pub mod metric;
pub mod selector;
pub mod usage;
pub mod window;

/// What a rule saw, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// What was measured is within its limit.
    Within(String),
    /// It is beyond it.
    Beyond(String),
    /// Nothing can be told: there are too few samples, or none.
    Unknown(String),
}

#[cfg(test)]
mod tests;
