//! `rbctl trigger`: tells an alert from outside, which asks for a decision when it is bad.

use clap::Args;
use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser as _;
use rollback::model::decision::Severity;
use rollback::model::text::Text;
use rollback::wire::v1;
use serde::Serialize;

use super::Session;
use crate::cli::Selector;
use crate::error::{CommandError, EXIT_DONE};

/// Arguments of `rbctl trigger`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rbctl trigger --severity critical --reason 'checkout fails for everybody' --host web01
A critical or high alert makes the deploy that is watched wait for `rbctl decide`; without one it asks for a rollback. It
never goes back by itself. A medium or low one is recorded.")]
pub struct TriggerArgs {
    /// Which component.
    #[command(flatten)]
    pub selector: Selector,
    /// How bad it is.
    #[arg(long, value_parser = PossibleValuesParser::new(Severity::ALL.map(Severity::as_str)).map(|word| severity(&word)))]
    pub severity: Severity,
    /// What is wrong.
    #[arg(long, value_name = "TEXT", value_parser = |text: &str| Text::new(text))]
    pub reason: Text,
}

fn severity(word: &str) -> Severity {
    Severity::ALL.into_iter().find(|severity| severity.as_str() == word).unwrap_or_default()
}

/// One host's answer.
#[derive(Debug, Serialize)]
pub struct Triggered {
    /// The operation that asks for a decision; none when the alert was only recorded.
    pub operation: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// When the hosts are wrong.
pub async fn run(session: &Session, args: TriggerArgs) -> Result<u8, CommandError> {
    let fleet = session.fleet(true)?;
    let request = v1::AlertRequest {
        selector: Some(args.selector.wire()),
        severity: v1::Severity::from(args.severity).into(),
        reason: args.reason.to_string(),
    };
    let outcomes = fleet
        .each(|mut client| {
            let request = request.clone();
            async move {
                let reply = client.alert(request).await?.into_inner();
                Ok(Triggered { operation: Some(reply.operation).filter(|operation| !operation.is_empty()) })
            }
        })
        .await;
    let human = |hosts: &[(&str, &Triggered)]| {
        let line = |(host, done): &(&str, &Triggered)| match &done.operation {
            Some(operation) => format!("{host}: `rbctl decide {operation} --host {host}` decides"),
            None => format!("{host}: recorded"),
        };
        hosts.iter().map(line).collect::<Vec<_>>().join("\n")
    };
    Ok(session.printer.hosts("Alert", &outcomes, human, |_| EXIT_DONE))
}
