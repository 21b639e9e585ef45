//! `rbctl plan`: shows what a rollback would do, and saves it for `rbctl apply`.

#![expect(clippy::disallowed_methods, reason = "this command writes the plan file")]

use std::path::{Path, PathBuf};

use clap::Args;
use rollback::model::plan::Plan;
use serde::{Deserialize, Serialize};

use super::Session;
use super::rollback::{Planned, RequestArgs, plan_all, requests};
use crate::error::{CommandError, EXIT_DONE};
use crate::fleet::fanout::HostOutcome;
use crate::ui::printer::API_VERSION;
use crate::ui::report;

/// Arguments of `rbctl plan`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rbctl plan --host web01 --reason 'OPS-17'
  rbctl plan --host web01 --reason 'OPS-17' --out plan.json && rbctl apply plan.json")]
pub struct PlanArgs {
    /// What is meant.
    #[command(flatten)]
    pub request: RequestArgs,
    /// Saves the plans of all hosts in a file.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// A saved plan, as JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlanFile {
    /// `rollback/v1`.
    pub api_version: String,
    /// `Plan`.
    pub kind: String,
    /// One plan per host.
    pub plans: Vec<Plan>,
}

impl PlanFile {
    /// Reads the text of a saved plan.
    ///
    /// # Errors
    /// When it is none of this version, as the end of a sentence that begins with the file's name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: Self = serde_json::from_str(text).map_err(|error| format!("is no plan: {error}"))?;
        if file.api_version != API_VERSION || file.kind != "Plan" {
            return Err(format!("is a {} of {}, not a Plan of {API_VERSION}", file.kind, file.api_version));
        }
        Ok(file)
    }
}

/// Runs the command.
///
/// # Errors
/// When the hosts are wrong, or the file cannot be written.
pub async fn run(session: &Session, args: PlanArgs) -> Result<u8, CommandError> {
    let fleet = session.fleet(false)?;
    let requests = requests(session, &fleet, None, |id| args.request.request(id))?;
    let outcomes = plan_all(&fleet, &requests).await;
    print(session, outcomes, args.out.as_deref())
}

/// Prints the plans, saves them when a file is named, and gives the exit code.
///
/// # Errors
/// When the file cannot be written.
pub fn print(session: &Session, outcomes: Vec<HostOutcome<Planned>>, out: Option<&Path>) -> Result<u8, CommandError> {
    let now = session.now();
    let human = |hosts: &[(&str, &Planned)]| {
        hosts.iter().map(|(_, planned)| report::plan(&planned.plan, now)).collect::<Vec<_>>().join("\n")
    };
    let code = session.printer.hosts("Plan", &outcomes, human, |_| EXIT_DONE);
    out.map_or(Ok(()), |path| save(session, outcomes, path)).map(|()| code)
}

/// Saves the plans that were made; nothing when there is none.
fn save(session: &Session, outcomes: Vec<HostOutcome<Planned>>, path: &Path) -> Result<(), CommandError> {
    let plans: Vec<Plan> = outcomes.into_iter().filter_map(|o| Some(o.result.ok()?.plan)).collect();
    if plans.is_empty() {
        return Ok(());
    }
    let file = PlanFile { api_version: API_VERSION.to_owned(), kind: "Plan".to_owned(), plans };
    let text = serde_json::to_string_pretty(&file).map_err(|error| CommandError::failed(&error))?;
    std::fs::write(path, text).map_err(|error| CommandError::failed(&error))?;
    session.printer.say(&format!("saved: run it with `rbctl apply {}`", path.display()));
    Ok(())
}
