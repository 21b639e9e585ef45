//! `rbctl confirm`: says that a deploy is well.

use clap::Args;
use rollback::model::ids::OperationId;
use rollback::wire::v1;
use serde::Serialize;

use super::Session;
use crate::error::{CommandError, EXIT_DONE};

/// Arguments of `rbctl confirm`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rbctl confirm 01939c2e-7a3b-7cc0-8a51-2f4e6d8b9a10 --host web01")]
pub struct ConfirmArgs {
    /// The operation of the deploy.
    pub operation: OperationId,
}

/// One host's answer.
#[derive(Debug, Serialize)]
pub struct Confirmed {
    /// The operation.
    pub operation: OperationId,
}

/// Runs the command.
///
/// # Errors
/// When the hosts are wrong.
pub async fn run(session: &Session, args: ConfirmArgs) -> Result<u8, CommandError> {
    let fleet = session.fleet(true)?;
    let operation = args.operation;
    let outcomes = fleet
        .each(|mut client| async move {
            client.confirm(v1::ConfirmRequest { operation: operation.to_string() }).await?;
            Ok(Confirmed { operation })
        })
        .await;
    let human = |hosts: &[(&str, &Confirmed)]| {
        hosts
            .iter()
            .map(|(host, _)| format!("{host}: operation {operation} is confirmed"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    Ok(session.printer.hosts("Confirm", &outcomes, human, |_| EXIT_DONE))
}
