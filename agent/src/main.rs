//! `rb-agent`: takes the services of one host back to their last good release.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use rollback::chain::Chain;
use rollback::model::ids::OperationId;
use rollback_agent::config::{self, Paths};
use rollback_agent::ports::PortError;
use rollback_agent::{app, dead_man, log};

/// Exit code of wrong arguments.
const USAGE: u8 = 64;
/// Exit code of a wrong configuration, as systemd counts it.
const NOT_CONFIGURED: u8 = 6;

#[derive(Parser)]
#[command(name = "rb-agent", version, about = "Takes the services of one host back to their last good release")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the agent in the foreground until SIGTERM.
    Run(Directories),
    /// Goes back for deploys whose watch has not ended in time; the dead-man's timer and every boot run it.
    Revert(Revert),
    /// Prints the configuration as it counts, or everything that is wrong with it.
    Check(Directories),
}

#[derive(Args)]
struct Directories {
    /// Where `agent.toml` and `components.d` are.
    #[arg(long, env = "ROLLBACK_CONFIGURATION", default_value = "/etc/rollback")]
    configuration: PathBuf,
    /// Where history, intents, manifests and frozen configurations are kept.
    #[arg(long, env = "ROLLBACK_STATE", default_value = "/var/lib/rollback")]
    state: PathBuf,
    /// Where the local socket is.
    #[arg(long, env = "ROLLBACK_RUNTIME", default_value = "/run/rollback")]
    runtime: PathBuf,
}

#[derive(Args)]
#[group(required = true, multiple = false, args = ["operation", "boot"])]
struct Revert {
    /// The operation whose deadline is past.
    #[arg(long, value_name = "OPERATION", value_parser = dead_man::operation_of)]
    operation: Option<OperationId>,
    /// Every operation whose deadline is past; the units are left to start by themselves.
    #[arg(long)]
    boot: bool,
    /// Where the switches are kept.
    #[arg(long, env = "ROLLBACK_STATE", default_value = "/var/lib/rollback")]
    state: PathBuf,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            drop(error.print());
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    let hostname = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let paths = |d: Directories| Paths { configuration: d.configuration, state: d.state, runtime: d.runtime };
    match cli.command {
        Command::Run(directories) => run(paths(directories), hostname),
        Command::Revert(revert) => self::revert(&revert),
        Command::Check(directories) => match config::load_with_origins(&paths(directories), &hostname) {
            Ok((settings, origins)) => {
                drop(write!(std::io::stdout(), "{}", config::print_merged(&settings, &origins)));
                ExitCode::SUCCESS
            }
            Err(errors) => {
                drop(writeln!(std::io::stderr(), "{errors}"));
                ExitCode::FAILURE
            }
        },
    }
}

fn revert(revert: &Revert) -> ExitCode {
    let _log = log::start();
    let done = async {
        match revert.operation {
            Some(operation) => dead_man::revert::at_deadline(&revert.state, operation).await,
            None => dead_man::revert::at_boot(&revert.state).await,
        }
    };
    let ended = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| PortError::failed("cannot start the runtime", error))
        .and_then(|runtime| runtime.block_on(done));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", Chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(paths: Paths, hostname: String) -> ExitCode {
    let _log = log::start();
    // Fails only when a provider is installed already, and this is the first line that could.
    drop(rustls::crypto::ring::default_provider().install_default());
    let ended = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| app::AppError::Part { attempt: "cannot start the runtime".to_owned(), source: source.into() })
        .and_then(|runtime| runtime.block_on(app::run(paths, hostname)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", Chain(&error));
            let code = if matches!(error, app::AppError::Configuration(_)) { NOT_CONFIGURED } else { 1 };
            ExitCode::from(code)
        }
    }
}
