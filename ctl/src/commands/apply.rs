//! `rbctl apply`: runs a saved plan.

#![expect(clippy::disallowed_methods, reason = "this command reads the plan file")]

use std::path::PathBuf;

use clap::Args;

use super::Session;
use super::operate::{self, Order};
use super::plan::PlanFile;
use crate::error::CommandError;
use crate::fleet::connect::Target;
use crate::fleet::fanout::host_name;

/// Largest plan file: a thousand hosts' plans.
const PLAN_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Arguments of `rbctl apply`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rbctl apply plan.json --host web01
The agent refuses the plan when its host has changed since, and says what changed.")]
pub struct ApplyArgs {
    /// The file that `rbctl plan --out` wrote.
    pub file: PathBuf,
}

fn read(path: &PathBuf) -> Result<PlanFile, CommandError> {
    let wrong = |text: String| {
        CommandError::usage(format!("`{}`: {text}", path.display()), "`rbctl plan --out FILE` writes one")
    };
    let bytes = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if bytes > PLAN_BYTES_MAX {
        return Err(wrong(format!("has {bytes} bytes, at most {PLAN_BYTES_MAX} are read")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    PlanFile::parse(&text).map_err(wrong)
}

/// Runs the command on the hosts that the file has plans for.
///
/// # Errors
/// When the file is wrong, or names a host that is not selected.
pub async fn run(session: &Session, args: ApplyArgs) -> Result<u8, CommandError> {
    let file = read(&args.file)?;
    // The file names the hosts, so none must be named again.
    let mut fleet = session.fleet(false)?;
    let mut requests: Vec<(Target, Order)> = Vec::new();
    for plan in file.plans {
        let host = plan.host.to_string();
        let target = fleet.targets.iter().find(|t| matches!(t, Target::Local { .. }) || host_name(t) == host).cloned();
        let Some(target) = target else {
            return Err(CommandError::usage(
                format!("the plan is for `{host}`, which is not among the hosts"),
                "name it with `--host`, or choose another context",
            ));
        };
        requests.push((target, Order::Plan(Box::new(plan.into()))));
    }
    fleet.targets = requests.iter().map(|(target, _)| target.clone()).collect();
    operate::run(session, &fleet, requests, operate::Until::Ended).await
}
