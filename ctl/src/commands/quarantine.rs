//! `rbctl quarantine`: forbids a release by its digest, and allows it again.

use clap::{Args, Subcommand};
use rollback::model::ids::ReleaseId;
use rollback::model::text::Text;
use rollback::wire::v1;
use serde::Serialize;

use super::Session;
use super::releases::{self, Releases};
use crate::cli::Selector;
use crate::error::{CommandError, EXIT_DONE};
use crate::fleet::fanout::Client;
use crate::ui::printer::table;

/// Arguments of `rbctl quarantine`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rbctl quarantine add 2.5.0 --host web01 --reason 'loses orders'
  rbctl quarantine list --environment prod
  rbctl quarantine lift 2.5.0 --host web01 --reason 'it was the database'
A release that fails its watch is quarantined by the agent. `rbctl releases` shows what is.")]
pub struct QuarantineArgs {
    /// What to do.
    #[command(subcommand)]
    pub what: What,
}

/// What is done to a release.
#[derive(Debug, Subcommand)]
pub enum What {
    /// Forbids to activate the release, under this name and any other.
    Add(ReleaseArgs),
    /// Allows it again.
    Lift(ReleaseArgs),
    /// Lists the releases that are quarantined, with the reasons.
    List(ListArgs),
}

/// Arguments of `rbctl quarantine list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Which components; all by default.
    #[command(flatten)]
    pub selector: Selector,
}

async fn list(session: &Session, args: ListArgs) -> Result<u8, CommandError> {
    let fleet = session.fleet(false)?;
    let outcomes = fleet.each(|client| quarantined(client, args.selector.wire())).await;
    let human = |hosts: &[(&str, &Releases)]| {
        let header = ["HOST", "ENVIRONMENT", "COMPONENT", "RELEASE", "SINCE", "BY", "REASON"];
        let mut rows = Vec::new();
        for (host, found) in hosts.iter().flat_map(|(_, r)| r.components.iter().map(|c| (r.name.as_str(), c))) {
            rows.extend(found.releases.iter().filter_map(|release| {
                let quarantine = release.quarantine.as_ref()?;
                Some(vec![
                    host.to_owned(),
                    found.environment.clone(),
                    found.component.clone(),
                    release.id().to_string(),
                    quarantine.since.to_string(),
                    quarantine.by.clone(),
                    quarantine.reason.to_string(),
                ])
            }));
        }
        table(&header, rows)
    };
    Ok(session.printer.hosts("Quarantines", &outcomes, human, |_| EXIT_DONE))
}

async fn quarantined(client: Client, selector: v1::ComponentSelector) -> Result<Releases, CommandError> {
    let mut found = releases::ask(client, selector).await?;
    for component in &mut found.components {
        component.releases.retain(|release| release.quarantine.is_some());
    }
    Ok(found)
}

/// Which release, and why.
#[derive(Debug, Args)]
pub struct ReleaseArgs {
    /// The release, by identifier.
    pub release: ReleaseId,
    /// Which component.
    #[command(flatten)]
    pub selector: Selector,
    /// Why.
    #[arg(long, value_name = "TEXT", value_parser = |text: &str| Text::new(text))]
    pub reason: Text,
}

/// One host's answer.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// The release.
    pub release: ReleaseId,
    /// Whether it is quarantined now.
    pub quarantined: bool,
}

/// Runs the command.
///
/// # Errors
/// When the hosts are wrong.
pub async fn run(session: &Session, args: QuarantineArgs) -> Result<u8, CommandError> {
    let (lift, args) = match args.what {
        What::List(args) => return list(session, args).await,
        What::Add(args) => (false, args),
        What::Lift(args) => (true, args),
    };
    let fleet = session.fleet(true)?;
    let request = v1::SetQuarantineRequest {
        selector: Some(args.selector.wire()),
        release: args.release.to_string(),
        reason: args.reason.to_string(),
        lift,
    };
    let outcomes = fleet
        .each(|mut client| {
            let (request, release) = (request.clone(), args.release.clone());
            async move {
                client.set_quarantine(request).await?;
                Ok(Answer { release, quarantined: !lift })
            }
        })
        .await;
    let human = |hosts: &[(&str, &Answer)]| {
        let is = if lift { "is not quarantined any more" } else { "is quarantined" };
        hosts.iter().map(|(host, answer)| format!("{host}: `{}` {is}", answer.release)).collect::<Vec<_>>().join("\n")
    };
    Ok(session.printer.hosts("Quarantine", &outcomes, human, |_| EXIT_DONE))
}
