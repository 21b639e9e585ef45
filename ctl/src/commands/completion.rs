//! `rbctl completion`: prints the completion script of a shell.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::error::{CommandError, EXIT_DONE};

/// Arguments of `rbctl completion`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rbctl completion bash > /usr/share/bash-completion/completions/rbctl")]
pub struct CompletionArgs {
    /// The shell.
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Runs the command.
///
/// # Errors
/// None.
pub fn run(args: &CompletionArgs) -> Result<u8, CommandError> {
    clap_complete::generate(args.shell, &mut Cli::command(), "rbctl", &mut std::io::stdout());
    Ok(EXIT_DONE)
}
