//! One file per command; each takes its arguments and the session, and gives an exit code.

pub mod apply;
pub mod audit;
pub mod completion;
pub mod confirm;
pub mod decide;
pub mod demo;
pub mod deploy;
pub mod explain;
pub mod history;
pub mod man;
pub mod operate;
pub mod pki;
pub mod plan;
pub mod push;
pub mod quarantine;
pub mod releases;
pub mod rollback;
pub mod show;
pub mod stats;
pub mod status;
pub mod trigger;
pub mod verify;
pub mod watch;

use std::time::Duration;

use ::rollback::wire::v1;
use jiff::Timestamp;

use crate::cli::{Cli, Command, Format, Global, Output, Selector};
use crate::error::{CommandError, EXIT_CODES, EXIT_DONE, ErrorKind};
use crate::fleet::connect::Trust;
use crate::fleet::fanout::Fleet;
use crate::inventory;
use crate::ui::printer::{Printer, table};

impl Selector {
    pub(crate) fn wire(&self) -> v1::ComponentSelector {
        v1::ComponentSelector {
            component: self.component.as_ref().map(ToString::to_string).unwrap_or_default(),
            environment: self.environment.as_ref().map(ToString::to_string).unwrap_or_default(),
        }
    }
}

/// What every command gets.
pub struct Session {
    /// The global options.
    pub global: Global,
    /// Where answers go.
    pub printer: Printer,
}

impl Session {
    /// The time, read where it is needed: a command may run for minutes.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the client's one look at the clock")]
    pub fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// Chooses the hosts and loads the keys. `changes`: see [`inventory::select`].
    ///
    /// # Errors
    /// When the configuration or a key is wrong.
    pub fn fleet(&self, changes: bool) -> Result<Fleet, CommandError> {
        let selection = inventory::select(&self.global, changes)?;
        let trust = selection.trust.map(|files| Trust::load(&files, self.now())).transpose();
        let trust = trust.map_err(|error| CommandError {
            kind: crate::error::ErrorKind::Usage,
            ..CommandError::failed(&error).hint("`rbctl pki issue operator` makes a certificate; `--local` needs none")
        })?;
        Ok(Fleet {
            targets: selection.targets,
            trust: trust.map(std::sync::Arc::new),
            concurrency: usize::from(self.global.concurrency),
            limit: Duration::from_secs(self.global.timeout),
        })
    }
}

/// Runs a command; errors that concern no single host are printed here.
pub async fn run(cli: Cli) -> u8 {
    let (format, file) = match cli.global.output.clone() {
        Output::Printed(format) => (format, None),
        Output::File(path) => (Format::Table, Some(path)),
    };
    let printer = Printer::new(format, cli.global.color);
    let session = Session { global: cli.global, printer };
    if let (Some(path), false) = (&file, makes_plan(&cli.command)) {
        let error =
            CommandError::new(ErrorKind::Usage, format!("`-o {}` is no format of this command", path.display()))
                .hint("`-o table`, `wide`, `json` or `yaml`; a plan alone goes into a file");
        session.printer.error(None, &error);
        return error.kind.exit_code();
    }
    let result = match cli.command {
        Command::Push(args) => push::run(&session, args).await,
        Command::Rollback(args) => rollback::run(&session, args).await,
        Command::Plan(mut args) => {
            args.out = args.out.or(file);
            plan::run(&session, args).await
        }
        Command::Deploy(mut args) => {
            args.out = args.out.or(file);
            deploy::run(&session, args).await
        }
        Command::Quarantine(args) => quarantine::run(&session, args).await,
        Command::Decide(args) => decide::run(&session, args).await,
        Command::Trigger(args) => trigger::run(&session, args).await,
        Command::Explain(args) => explain::run(&session, &args),
        Command::Confirm(args) => confirm::run(&session, args).await,
        Command::Apply(args) => apply::run(&session, args).await,
        Command::Status(args) => status::run(&session, args).await,
        Command::Releases(args) => releases::run(&session, args).await,
        Command::Verify(args) => verify::run(&session, args).await,
        Command::History(args) => history::run(&session, args).await,
        Command::Show(args) => show::run(&session, args).await,
        Command::Stats(args) => stats::run(&session, args).await,
        Command::Audit(args) => audit::run(&session, args).await,
        Command::Watch(args) => watch::run(&session, args).await,
        Command::Pki(args) => answer_pki(&session, args),
        Command::Demo(args) => demo::run(&session, args).await,
        Command::Completion(args) => completion::run(&args),
        Command::Man(args) => man::run(&session, &args),
        Command::ExitCodes => {
            let rows = EXIT_CODES.iter().map(|(code, meaning)| vec![code.to_string(), (*meaning).to_owned()]);
            session.printer.answer(&table(&["CODE", "MEANING"], rows.collect()));
            Ok(EXIT_DONE)
        }
    };
    result.unwrap_or_else(|error| {
        session.printer.error(None, &error);
        error.kind.exit_code()
    })
}

/// Tells whether a command makes a plan that goes into a file.
fn makes_plan(command: &Command) -> bool {
    matches!(command, Command::Plan(_) | Command::Deploy(_))
}

fn answer_pki(session: &Session, args: pki::PkiArgs) -> Result<u8, CommandError> {
    let answer = pki::run(args, session.now()).map_err(|error| CommandError::failed(&error))?;
    if session.printer.is_for_programs() {
        session.printer.document(&answer);
    } else {
        session.printer.answer(&answer.to_string());
    }
    Ok(EXIT_DONE)
}
