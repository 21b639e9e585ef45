//! `rbctl`: takes systemd services back to their last good release, on one host or many.

use std::process::ExitCode;

use clap::Parser as _;
use rbctl::cli::Cli;
use rbctl::commands;
use rbctl::error::EXIT_USAGE;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A reader that went away is no error.
            drop(error.print());
            return ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    // Fails only when a provider is installed already, and nothing before this line could.
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => ExitCode::from(runtime.block_on(commands::run(cli))),
        Err(_) => ExitCode::FAILURE,
    }
}
