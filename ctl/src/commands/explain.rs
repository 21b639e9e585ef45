//! `rbctl explain`: prints the tables that agents decide by.

use clap::{Args, Subcommand};
use rollback::engine::trigger::{FAILURES, action};
use rollback::model::decision::{Action, Severity};
use serde::Serialize;

use super::Session;
use crate::error::{CommandError, EXIT_DONE};
use crate::ui::printer::table;

/// Arguments of `rbctl explain`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rbctl explain decisions
  rbctl explain decisions -o json")]
pub struct ExplainArgs {
    /// What is explained.
    #[command(subcommand)]
    pub what: What,
}

/// What can be explained.
#[derive(Debug, Subcommand)]
pub enum What {
    /// What a failure in the watch of a deploy leads to.
    Decisions,
}

/// One kind of failure.
#[derive(Debug, Serialize)]
struct Row {
    failure: &'static str,
    what: &'static str,
    severity: Severity,
    /// When `automatic_from` is `critical`.
    automatic_from_critical: Action,
    /// When it is `high`.
    automatic_from_high: Action,
    /// When the rollback is not automatic.
    not_automatic: Action,
}

fn rows() -> Vec<Row> {
    let row = |(failure, severity, what): &(&'static str, Severity, &'static str)| Row {
        failure,
        what,
        severity: *severity,
        automatic_from_critical: action(*severity, Some(Severity::Critical)),
        automatic_from_high: action(*severity, Some(Severity::High)),
        not_automatic: action(*severity, None),
    };
    FAILURES.iter().map(row).collect()
}

fn said(action: Action) -> String {
    match action {
        Action::Note => "note",
        Action::Warn => "warn",
        Action::Ask => "ask",
        Action::RollBack => "roll back",
    }
    .to_owned()
}

/// Runs the command.
///
/// # Errors
/// None; the table is this program's own, which is that of agents of its version.
pub fn run(session: &Session, args: &ExplainArgs) -> Result<u8, CommandError> {
    let What::Decisions = args.what;
    let rows = rows();
    if session.printer.is_for_programs() {
        session.printer.document(&rows);
        return Ok(EXIT_DONE);
    }
    let header = ["FAILURE", "SEVERITY", "AUTOMATIC FROM CRITICAL", "FROM HIGH", "NOT AUTOMATIC", "WHAT"];
    let lines = rows.into_iter().map(|row| {
        let actions = [row.automatic_from_critical, row.automatic_from_high, row.not_automatic].map(said);
        let mut line = vec![row.failure.to_owned(), row.severity.as_str().to_owned()];
        line.extend(actions);
        line.push(row.what.to_owned());
        line
    });
    session.printer.answer(&table(&header, lines.collect()));
    session.printer.answer(
        "A probe's own `severity` stands before this table; `automatic_from`, `automatic_rollback`, `ask` and `undecided` of \
         the policy say what follows.\nAn alert (`rbctl trigger`) asks when it is critical or high, and never goes back by itself.",
    );
    Ok(EXIT_DONE)
}
