//! Says on stderr, past the capture of the test runner, that a test did not run and why.

use std::io::Write;

/// Reports `skipped: NAME: REASON`.
///
/// Written to the stream itself, because what a passing test prints is hidden and a test that
/// silently tested nothing must be seen.
pub fn skipped(name: &str, reason: &str) {
    note(&format!("skipped: {name}: {reason}"));
}

/// Reports one line of a passing test that its reader should see, such as a measured figure.
pub fn note(line: &str) {
    // A closed stderr must not fail a test.
    drop(writeln!(std::io::stderr(), "{line}"));
}
