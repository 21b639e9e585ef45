//! `rbctl man`: writes the manual pages.

#![expect(clippy::disallowed_methods, reason = "this command writes files")]

use std::path::PathBuf;

use clap::{Args, CommandFactory as _};

use super::Session;
use crate::cli::Cli;
use crate::error::{CommandError, EXIT_DONE};

/// Arguments of `rbctl man`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rbctl man /usr/share/man/man1")]
pub struct ManArgs {
    /// The directory; it is made when it is missing.
    pub directory: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// When a file cannot be written.
pub fn run(session: &Session, args: &ManArgs) -> Result<u8, CommandError> {
    std::fs::create_dir_all(&args.directory).map_err(|error| CommandError::failed(&error))?;
    clap_mangen::generate_to(Cli::command(), &args.directory).map_err(|error| CommandError::failed(&error))?;
    session.printer.say(&format!("the pages are in `{}`", args.directory.display()));
    Ok(EXIT_DONE)
}
