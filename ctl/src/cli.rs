//! Global options and the commands, nothing more.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::{
    apply, audit, completion, confirm, decide, demo, deploy, explain, history, man, pki, plan, push, quarantine,
    releases, rollback, show, stats, status, trigger, verify, watch,
};

/// Takes systemd services back to their last good release.
#[derive(Debug, Parser)]
#[command(name = "rbctl", version, max_term_width = 110, after_help = "Exit codes: `rbctl exit-codes`.")]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// A host of the context, or `NAME=ADDRESS:PORT`; may be repeated or given as a list with commas.
    #[arg(short = 'H', long = "host", value_name = "HOST", global = true, value_delimiter = ',')]
    pub hosts: Vec<String>,
    /// Every host of the context; commands that change something demand it or `--host`.
    #[arg(long, global = true, conflicts_with = "hosts")]
    pub all: bool,
    /// The agent of this host, over its root-only socket; needs no certificate and heeds no context.
    #[arg(long, global = true, conflicts_with_all = ["hosts", "all"])]
    pub local: bool,
    /// The socket of `--local`.
    #[arg(long, global = true, value_name = "PATH", default_value = "/run/rollback/agent.sock", env = "RBCTL_SOCKET")]
    pub socket: PathBuf,
    /// The context of the configuration file; the file's `current_context` by default.
    #[arg(long, global = true, env = "RBCTL_CONTEXT")]
    pub context: Option<String>,
    /// The configuration file; `$XDG_CONFIG_HOME/rbctl/config.toml`, then `/etc/rbctl/config.toml` by default.
    #[arg(long, global = true, value_name = "FILE", env = "RBCTL_CONFIG")]
    pub config: Option<PathBuf>,
    /// How answers are printed: `table`, `wide`, `json`, `yaml`; where a plan is made, also a file that it is saved in.
    #[arg(short = 'o', long = "output", global = true, value_name = "FORMAT|FILE", default_value = "table", value_parser = output)]
    pub output: Output,
    /// When to use colour; NO_COLOR and CLICOLOR_FORCE are heeded.
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
    /// Longest time for an answer of one host, in seconds; operations are followed without a limit.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
    /// How many hosts are asked at once.
    #[arg(long, global = true, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub concurrency: u16,
}

/// Where answers go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// To standard output.
    Printed(Format),
    /// A plan, into a file; what else there is to say is a table.
    File(PathBuf),
}

/// Reads a format, or a file by its slash or dot: a mistyped format must not make a file.
fn output(text: &str) -> Result<Output, String> {
    if let Ok(format) = Format::from_str(text, false) {
        return Ok(Output::Printed(format));
    }
    if text.contains(['/', '.']) {
        return Ok(Output::File(PathBuf::from(text)));
    }
    Err("it is `table`, `wide`, `json` or `yaml`, or the name of a file with a dot or a slash".to_owned())
}

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table, or a report.
    Table,
    /// A table with more columns.
    Wide,
    /// JSON; one object per line where an answer goes on.
    Json,
    /// YAML.
    Yaml,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On terminals.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What `rbctl` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Goes back to the last good release, or to one that is named.
    Rollback(rollback::RollbackArgs),
    /// Shows what a rollback would do, and saves it.
    Plan(plan::PlanArgs),
    /// Lays a release down on hosts and sends only what they lack; activates nothing.
    Push(push::PushArgs),
    /// Activates a release, has the agent watch it, and goes back when it fails.
    Deploy(deploy::DeployArgs),
    /// Says that a deploy is well, so that it does not go back.
    Confirm(confirm::ConfirmArgs),
    /// Answers an operation that asks whether what runs is left.
    Decide(decide::DecideArgs),
    /// Tells an alert; a bad one asks for a decision, and never goes back by itself.
    Trigger(trigger::TriggerArgs),
    /// Prints the tables that agents decide by.
    Explain(explain::ExplainArgs),
    /// Forbids a release by its digest, and allows it again.
    Quarantine(quarantine::QuarantineArgs),
    /// Runs a saved plan; refused when the host has changed since.
    Apply(apply::ApplyArgs),
    /// Shows what runs, how it does, and who holds it.
    Status(status::StatusArgs),
    /// Lists the releases of components.
    Releases(releases::ReleasesArgs),
    /// Reads a release in full and says what differs, by file.
    Verify(verify::VerifyArgs),
    /// Lists operations, newest first.
    History(history::HistoryArgs),
    /// Shows one operation with its steps and evidence.
    Show(show::ShowArgs),
    /// Counts operations: success rate, durations, reasons.
    Stats(stats::StatsArgs),
    /// Recomputes the hash chain of the history on each host.
    Audit(audit::AuditArgs),
    /// Follows operations as they happen.
    Watch(watch::WatchArgs),
    /// Makes and keeps certificates.
    Pki(pki::PkiArgs),
    /// Shows the main job on this machine: three agents, a bad release, a rollback.
    Demo(demo::DemoArgs),
    /// Prints the completion script of a shell.
    Completion(completion::CompletionArgs),
    /// Writes the manual pages.
    Man(man::ManArgs),
    /// Prints the exit codes.
    ExitCodes,
}

/// Which component is meant.
#[derive(Debug, Clone, Default, Args)]
pub struct Selector {
    /// The component; not needed where a host has one only.
    #[arg(short = 'c', long)]
    pub component: Option<::rollback::model::ids::ComponentName>,
    /// The environment.
    #[arg(short = 'e', long = "environment", visible_alias = "env")]
    pub environment: Option<::rollback::model::ids::Environment>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_socket_serves_whatever_context_is_set() {
        // A context out of the environment (`RBCTL_CONTEXT`) reaches the parser as this option does.
        let cli = Cli::try_parse_from(["rbctl", "--context", "prod", "--local", "status"]);
        assert!(cli.is_ok_and(|cli| cli.global.local));
    }

    #[test]
    fn the_local_socket_and_named_hosts_exclude_each_other() {
        assert!(Cli::try_parse_from(["rbctl", "--local", "--host", "web01", "status"]).is_err());
    }

    #[test]
    fn a_plan_goes_into_a_file_and_a_mistyped_format_nowhere() {
        let read = |text: &str| Cli::try_parse_from(["rbctl", "plan", "-o", text]).map(|cli| cli.global.output);
        assert_eq!(read("json").ok(), Some(Output::Printed(Format::Json)));
        for file in ["plan.json", "./plan", "/tmp/plan"] {
            assert_eq!(read(file).ok(), Some(Output::File(file.into())));
        }
        assert!(read("jsno").is_err());
    }
}
