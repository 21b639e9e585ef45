//! Named crash points: a test stops the real agent just before a step; absent from release builds.

/// Tells that a point was reached. With the feature `checkpoints` and `ROLLBACK_CRASH_AT=NAME` the process dies here
/// as by a power cut of the agent alone; otherwise nothing happens.
pub fn reached(name: &str) {
    #[cfg(feature = "checkpoints")]
    if std::env::var("ROLLBACK_CRASH_AT").is_ok_and(|at| at == name) {
        std::process::abort();
    }
    tracing::trace!(name, "checkpoint");
}
