//! `rbctl show`: one operation with its steps and evidence.

use clap::Args;
use rollback::model::ids::OperationId;
use rollback::model::operation::{Evidence, Operation};
use rollback::wire::v1;
use serde::Serialize;

use super::Session;
use crate::error::{CommandError, EXIT_DONE, ErrorKind};
use crate::fleet::fanout::Client;
use crate::ui::report;

/// Arguments of `rbctl show`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rbctl show --host web01 0199c2f4-6c1e-7c3a-9c55-0d3f2b8e4a10")]
pub struct ShowArgs {
    /// The operation; `rbctl history` lists them.
    pub operation: OperationId,
}

/// One operation, as its agent has it.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// The operation.
    pub operation: Operation,
    /// What was saved of what it left.
    pub evidence: Vec<Evidence>,
}

async fn ask(mut client: Client, operation: OperationId) -> Result<Option<Shown>, CommandError> {
    let reply = match client.show(v1::ShowRequest { operation: operation.to_string() }).await {
        Ok(reply) => reply.into_inner(),
        Err(status) if status.code() == tonic::Code::NotFound => return Ok(None),
        Err(status) => return Err(status.into()),
    };
    let bad = |error: rollback::convert::ConvertError| CommandError::failed(&error);
    let wire = reply.operation.ok_or_else(|| CommandError::new(ErrorKind::Failed, "the agent sent no operation"))?;
    Ok(Some(Shown {
        operation: wire.try_into().map_err(bad)?,
        evidence: reply.evidence.into_iter().map(TryInto::try_into).collect::<Result<_, _>>().map_err(bad)?,
    }))
}

/// Runs the command; with several hosts, those that do not know the operation are left out.
///
/// # Errors
/// When no host knows the operation.
pub async fn run(session: &Session, args: ShowArgs) -> Result<u8, CommandError> {
    let fleet = session.fleet(false)?;
    let asked = fleet.each(|client| ask(client, args.operation)).await;
    let found: Vec<_> = asked
        .into_iter()
        .filter_map(|outcome| {
            let result = outcome.result.transpose()?;
            Some(crate::fleet::fanout::HostOutcome { host: outcome.host, result })
        })
        .collect();
    if found.is_empty() {
        let text = format!("no host knows operation {}", args.operation);
        return Err(CommandError::new(ErrorKind::Failed, text).hint("`rbctl history` lists the operations"));
    }
    let now = session.now();
    let human = |hosts: &[(&str, &Shown)]| {
        hosts.iter().map(|(_, s)| report::operation(&s.operation, &s.evidence, now)).collect::<Vec<_>>().join("\n")
    };
    Ok(session.printer.hosts("Operation", &found, human, |_| EXIT_DONE))
}
