//! `rbctl decide`: answers an operation that asks whether what runs is left.

use clap::{ArgGroup, Args};
use rollback::model::ids::OperationId;
use rollback::model::text::Text;
use rollback::wire::v1;
use serde::Serialize;

use super::Session;
use crate::error::{CommandError, EXIT_DONE};

/// Arguments of `rbctl decide`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("choice").required(true), after_help = "Examples:
  rbctl decide 01939c2e-7a3b-7cc0-8a51-2f4e6d8b9a10 --rollback --host web01
  rbctl decide 01939c2e-7a3b-7cc0-8a51-2f4e6d8b9a10 --skip --reason 'known, harmless' --host web01
`rbctl status` shows what asks, and until when. `rbctl explain decisions` says why it does.")]
pub struct DecideArgs {
    /// The operation that asks.
    pub operation: OperationId,
    /// Leaves what runs, and goes back.
    #[arg(long, group = "choice")]
    pub rollback: bool,
    /// Leaves it as it is.
    #[arg(long, group = "choice")]
    pub skip: bool,
    /// Puts the deadline off by its own length.
    #[arg(long, group = "choice")]
    pub investigate: bool,
    /// Why.
    #[arg(long, value_name = "TEXT", value_parser = |text: &str| Text::new(text))]
    pub reason: Option<Text>,
}

/// One host's answer.
#[derive(Debug, Serialize)]
pub struct Decided {
    /// The operation.
    pub operation: OperationId,
    /// What was chosen: `rollback`, `skip`, `investigate`.
    pub choice: &'static str,
}

/// Runs the command.
///
/// # Errors
/// When the hosts are wrong.
pub async fn run(session: &Session, args: DecideArgs) -> Result<u8, CommandError> {
    let fleet = session.fleet(true)?;
    let (choice, word) = match (args.rollback, args.skip) {
        (true, _) => (v1::Choice::RollBack, "rollback"),
        (false, true) => (v1::Choice::Skip, "skip"),
        (false, false) => (v1::Choice::Investigate, "investigate"),
    };
    let operation = args.operation;
    let request = v1::DecideRequest {
        operation: operation.to_string(),
        choice: choice.into(),
        reason: args.reason.map(|reason| reason.to_string()).unwrap_or_default(),
    };
    let outcomes = fleet
        .each(|mut client| {
            let request = request.clone();
            async move {
                client.decide(request).await?;
                Ok(Decided { operation, choice: word })
            }
        })
        .await;
    let human = |hosts: &[(&str, &Decided)]| {
        hosts.iter().map(|(host, _)| format!("{host}: operation {operation}: {word}")).collect::<Vec<_>>().join("\n")
    };
    Ok(session.printer.hosts("Decision", &outcomes, human, |_| EXIT_DONE))
}
