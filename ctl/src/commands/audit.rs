//! `rbctl audit`: recomputes the hash chain of the history on each host.

use clap::Args;
use rollback::model::operation::ChainHead;
use rollback::wire::v1;
use serde::Serialize;

use super::Session;
use crate::error::{CommandError, EXIT_DONE, EXIT_FAILED};
use crate::fleet::fanout::Client;
use crate::ui::printer::safe;

/// Arguments of `rbctl audit`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rbctl audit --host web01
Keep the head somewhere else: a shorter history with another head was cut off.")]
pub struct AuditArgs {}

/// One host's chain.
#[derive(Debug, Serialize)]
pub struct Chain {
    /// Whether every record stands.
    pub sound: bool,
    /// The head.
    pub head: Option<ChainHead>,
    /// The first bad record.
    pub broken_at: Option<u64>,
    /// What is wrong with it.
    pub why: Option<String>,
}

async fn ask(mut client: Client) -> Result<Chain, CommandError> {
    let reply = client.audit(v1::AuditRequest {}).await?.into_inner();
    let head = reply.head.map(ChainHead::try_from).transpose().map_err(|error| CommandError::failed(&error))?;
    let broken = reply.broken_at != 0;
    Ok(Chain { sound: !broken, head, broken_at: broken.then_some(reply.broken_at), why: broken.then_some(reply.why) })
}

/// Runs the command.
///
/// # Errors
/// When the hosts are wrong.
pub async fn run(session: &Session, _args: AuditArgs) -> Result<u8, CommandError> {
    let fleet = session.fleet(false)?;
    let outcomes = fleet.each(ask).await;
    let human = |hosts: &[(&str, &Chain)]| {
        let line = |(host, chain): &(&str, &Chain)| match (&chain.head, chain.broken_at) {
            (_, Some(at)) => {
                format!("{host}: BROKEN at record {at}: {}", safe(chain.why.as_deref().unwrap_or_default()))
            }
            (Some(head), None) => format!("{host}: sound, {} records, head {}", head.sequence, head.digest),
            (None, None) => format!("{host}: sound, no records"),
        };
        hosts.iter().map(line).collect::<Vec<_>>().join("\n")
    };
    Ok(session.printer.hosts("Audit", &outcomes, human, |chain| if chain.sound { EXIT_DONE } else { EXIT_FAILED }))
}
