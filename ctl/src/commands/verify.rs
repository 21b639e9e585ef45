//! `rbctl verify`: reads a release in full and says what differs, by file.

use std::io::IsTerminal as _;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use rollback::explain;
use rollback::model::host::ObservedRelease;
use rollback::model::release::Integrity;
use rollback::wire::v1;
use rollback::wire::v1::verify_event::Event;
use serde::Serialize;
use tokio_stream::StreamExt as _;

use super::Session;
use super::rollback::Planned;
use crate::cli::Selector;
use crate::error::{CommandError, EXIT_DONE, EXIT_FAILED, ErrorKind};
use crate::fleet::connect::Target;
use crate::fleet::fanout::{Client, Fleet, HostOutcome, host_name};
use crate::ui::words::size;

/// Arguments of `rbctl verify`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rbctl verify --host web01
  rbctl verify --host web01 backup_20241112_153045")]
pub struct VerifyArgs {
    /// The release; the current one by default.
    pub release: Option<String>,
    /// Which component.
    #[command(flatten)]
    pub selector: Selector,
}

/// One host's answer.
#[derive(Debug, Serialize)]
pub struct Verified {
    /// Whether the release stands.
    pub intact: bool,
    /// The release as it stands.
    pub release: ObservedRelease,
}

async fn read(mut client: Client, request: v1::VerifyRequest) -> Result<Verified, CommandError> {
    let mut events = client.verify(request).await?.into_inner();
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("reading {bytes}/{total_bytes} {bar:30} {eta}") {
        bar.set_style(style);
    }
    while let Some(event) = events.next().await {
        match event?.event {
            Some(Event::Progress(progress)) => {
                bar.set_length(progress.bytes);
                bar.set_position(progress.bytes_read);
            }
            Some(Event::Result(result)) => {
                bar.finish_and_clear();
                let wire =
                    result.release.ok_or_else(|| CommandError::new(ErrorKind::Failed, "the agent sent no release"))?;
                let release = ObservedRelease::try_from(wire).map_err(|error| CommandError::failed(&error))?;
                return Ok(Verified { intact: matches!(release.integrity, Integrity::Intact { .. }), release });
            }
            None => {}
        }
    }
    Err(CommandError::new(ErrorKind::Unreachable, "the agent ended the reading before its result"))
}

fn human(hosts: &[(&str, &Verified)]) -> String {
    let mut lines = Vec::new();
    for (host, verified) in hosts {
        let m = &verified.release.manifest;
        let found = match &verified.release.integrity {
            Integrity::Intact { .. } => format!("intact, {} entries, {}, tree {}", m.entries, size(m.bytes), m.tree),
            Integrity::Unknown { why } => format!("cannot be judged: {why}"),
            Integrity::Damaged { .. } => "DAMAGED".to_owned(),
        };
        lines.push(format!("{host}: `{}`: {found}", m.id));
        if let Integrity::Damaged { differences, more } = &verified.release.integrity {
            lines.extend(differences.iter().map(|d| format!("  `{}` {}", d.path, explain::difference(d.what))));
            if *more > 0 {
                lines.push(format!("  and {more} more"));
            }
        }
    }
    crate::ui::printer::safe(&lines.join("\n"))
}

fn code(verified: &Verified) -> u8 {
    if verified.intact { EXIT_DONE } else { EXIT_FAILED }
}

/// Runs the command.
///
/// # Errors
/// When the hosts are wrong.
pub async fn run(session: &Session, args: VerifyArgs) -> Result<u8, CommandError> {
    let fleet = session.fleet(false)?;
    let request = v1::VerifyRequest { selector: Some(args.selector.wire()), release: args.release.unwrap_or_default() };
    let outcomes = fleet.each_unbounded(|client, _| read(client, request.clone())).await;
    Ok(session.printer.hosts("Verify", &outcomes, human, code))
}

/// Reads the targets of plans: `rbctl rollback --verify-only`.
///
/// # Errors
/// None of its own; a host that has no plan keeps its error.
pub async fn target_of_plans(
    session: &Session,
    fleet: &Fleet,
    plans: Vec<HostOutcome<Planned>>,
) -> Result<u8, CommandError> {
    let requests: Vec<(String, Result<v1::VerifyRequest, CommandError>)> = plans
        .into_iter()
        .map(|outcome| {
            let request = outcome.result.map(|planned| v1::VerifyRequest {
                selector: Some(v1::ComponentSelector {
                    component: planned.plan.component.to_string(),
                    environment: planned.plan.environment.to_string(),
                }),
                release: planned.plan.target_release().map(ToString::to_string).unwrap_or_default(),
            });
            (outcome.host, request)
        })
        .collect();
    let of = |target: &Target| {
        let host = host_name(target);
        requests.iter().find(|(name, _)| *name == host).map(|(_, request)| request.clone())
    };
    let outcomes = fleet
        .each_unbounded(|client, target| {
            let request = of(&target);
            async move { read(client, request.unwrap_or_else(|| Ok(v1::VerifyRequest::default()))?).await }
        })
        .await;
    Ok(session.printer.hosts("Verify", &outcomes, human, code))
}
