//! `rbctl quarantine`: forbids a release by its digest, and allows it again.

use clap::{Args, Subcommand};
use rollback::model::ids::ReleaseId;
use rollback::model::text::Text;
use rollback::wire::v1;
use serde::Serialize;

use super::Session;
use crate::cli::Selector;
use crate::error::{CommandError, EXIT_DONE};

/// Arguments of `rbctl quarantine`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rbctl quarantine add 2.5.0 --host web01 --reason 'loses orders'
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
    let fleet = session.fleet(true)?;
    let (lift, args) = match args.what {
        What::Add(args) => (false, args),
        What::Lift(args) => (true, args),
    };
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
