//! Runs the machine's own tools (`ip`, `mount`, `mkfs`) and turns their failure into an error.
#![expect(clippy::disallowed_methods, reason = "the harness is made of other programs")]

use std::fmt;
use std::io;
use std::process::{Command, Output};

/// Says which command failed and what it said.
///
/// Public only because other errors of the harness carry it as their source.
#[derive(Debug)]
pub struct RunError {
    command: String,
    said: String,
    source: Option<io::Error>,
}

impl RunError {
    /// An error of a command that was followed by other means than [`run`].
    pub(crate) fn saying(command: &str, said: &str) -> Self {
        Self { command: command.to_owned(), said: said.to_owned(), source: None }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot run `{}`{}", self.command, self.said)
    }
}

impl std::error::Error for RunError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as &(dyn std::error::Error + 'static))
    }
}

/// Runs `words` to the end and returns its standard output.
pub(crate) fn run<S: AsRef<str>>(words: &[S]) -> Result<String, RunError> {
    let stdout = check(words, output(words)?)?;
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// Runs `words` to the end and returns whatever came of it.
pub(crate) fn output<S: AsRef<str>>(words: &[S]) -> Result<Output, RunError> {
    command(words).output().map_err(|source| RunError {
        command: joined(words),
        said: String::new(),
        source: Some(source),
    })
}

/// Builds the command of `words`, the first of which is the program.
pub(crate) fn command<S: AsRef<str>>(words: &[S]) -> Command {
    let (program, arguments) = words.split_first().expect("every caller names a program");
    let mut command = Command::new(program.as_ref());
    command.args(arguments.iter().map(AsRef::as_ref));
    command
}

/// Returns the standard output of a success, and the whole output of a failure as an error.
pub(crate) fn check<S: AsRef<str>>(words: &[S], output: Output) -> Result<Vec<u8>, RunError> {
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(RunError {
        command: joined(words),
        said: format!(
            ": {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
        source: None,
    })
}

fn joined<S: AsRef<str>>(words: &[S]) -> String {
    words.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" ")
}
