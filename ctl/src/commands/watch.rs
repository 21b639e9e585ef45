//! `rbctl watch`: follows operations as they happen, until interrupted.

use clap::Args;
use rollback::explain;
use rollback::model::operation::Operation;
use rollback::wire::v1;
use serde::Serialize;
use tokio_stream::StreamExt as _;

use super::Session;
use crate::cli::Selector;
use crate::error::{CommandError, EXIT_DONE, ErrorKind};
use crate::fleet::fanout::Client;
use crate::ui::printer::{Printer, safe};

/// Arguments of `rbctl watch`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rbctl watch
  rbctl watch --environment prod -o json")]
pub struct WatchArgs {
    /// Which components; all by default.
    #[command(flatten)]
    pub selector: Selector,
}

#[derive(Serialize)]
struct Event<'a> {
    host: &'a str,
    doing: &'a str,
    operation: &'a Operation,
}

async fn follow(printer: Printer, mut client: Client, selector: v1::ComponentSelector) -> Result<(), CommandError> {
    let mut events = client.watch(v1::WatchRequest { selector: Some(selector) }).await?.into_inner();
    while let Some(event) = events.next().await {
        let event = event?;
        let Some(wire) = event.operation else { continue };
        let operation = Operation::try_from(wire).map_err(|error| CommandError::failed(&error))?;
        if printer.is_for_programs() {
            printer.line(&Event { host: &event.host, doing: &event.doing, operation: &operation });
        } else {
            let plan = &operation.plan;
            let what = if event.doing.is_empty() { explain::phase(&operation.phase) } else { event.doing };
            let line = format!("{}: {}/{}: {what} ({})", event.host, plan.environment, plan.component, operation.id);
            printer.answer(&safe(&line));
        }
    }
    Err(CommandError::new(ErrorKind::Unreachable, "the agent ended the stream"))
}

/// Runs the command.
///
/// # Errors
/// When the hosts are wrong.
pub async fn run(session: &Session, args: WatchArgs) -> Result<u8, CommandError> {
    let mut fleet = session.fleet(false)?;
    // Every host is followed at once.
    fleet.concurrency = fleet.targets.len();
    let printer = session.printer;
    let following = fleet.each_unbounded(|client, _| follow(printer, client, args.selector.wire()));
    tokio::select! {
        outcomes = following => {
            let codes: Vec<u8> = outcomes.iter().map(|outcome| match &outcome.result {
                Ok(()) => EXIT_DONE,
                Err(error) => {
                    printer.error(Some(&outcome.host), error);
                    error.kind.exit_code()
                }
            }).collect();
            Ok(crate::error::combine(&codes))
        }
        _ = tokio::signal::ctrl_c() => Ok(EXIT_DONE),
    }
}
