//! What `rollback`, `deploy` and `apply` share: run on every host, show progress, follow through a lost connection, report.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use rollback::model::operation::{Operation, Outcome};
use rollback::wire::v1;
use serde::Serialize;
use tokio_stream::StreamExt as _;

use super::Session;
use crate::error::{
    CommandError, EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_NEEDS_OPERATOR, EXIT_UNVERIFIED, ErrorKind,
};
use crate::fleet::connect::Target;
use crate::fleet::fanout::{Client, Fleet, host_name};
use crate::ui::printer::safe;
use crate::ui::report;

/// How often a lost connection is made again before the client gives up following; the operation goes on without it.
const RECONNECTS_MAX: u32 = 10;
/// The pause before it is made again: an agent that was killed is restarted within a second.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// What one host is asked to do: a plan or a request, of a rollback or of a deploy.
#[derive(Debug, Clone, PartialEq)]
pub enum Order {
    /// Plan and run.
    Request(v1::Request),
    /// Run a plan that was made before.
    Plan(Box<v1::Plan>),
}

impl Order {
    fn request(&self) -> Option<&v1::Request> {
        match self {
            Self::Request(request) => Some(request),
            Self::Plan(plan) => plan.request.as_ref(),
        }
    }

    fn id(&self) -> &str {
        self.request().map_or("", |request| &request.operation)
    }

    fn is_deploy(&self) -> bool {
        self.request().is_some_and(|request| request.deploy.is_some())
    }

    async fn send(self, client: &mut Client) -> Result<tonic::Streaming<v1::OperationEvent>, tonic::Status> {
        if self.is_deploy() {
            let what = match self {
                Self::Request(request) => v1::deploy_request::What::Request(request),
                Self::Plan(plan) => v1::deploy_request::What::Plan(*plan),
            };
            return Ok(client.deploy(v1::DeployRequest { what: Some(what) }).await?.into_inner());
        }
        let what = match self {
            Self::Request(request) => v1::rollback_request::What::Request(request),
            Self::Plan(plan) => v1::rollback_request::What::Plan(*plan),
        };
        Ok(client.rollback(v1::RollbackRequest { what: Some(what) }).await?.into_inner())
    }
}

/// One host's part.
#[derive(Debug, Serialize)]
pub struct Ended {
    /// The operation with its outcome.
    pub operation: Operation,
}

/// Judges an operation by its outcome.
#[must_use]
pub fn exit_code(operation: &Operation) -> u8 {
    match operation.outcome() {
        Some(Outcome::Done { .. }) => EXIT_DONE,
        None if operation.is_waiting() => EXIT_DONE,
        Some(Outcome::Unverified { .. }) => EXIT_UNVERIFIED,
        Some(Outcome::PutBack { .. } | Outcome::Superseded { .. }) | None => EXIT_FAILED,
        Some(Outcome::NeedsOperator { .. }) => EXIT_NEEDS_OPERATOR,
    }
}

/// How long an operation is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// To its end.
    Ended,
    /// To the begin of its watch, or to its end when that comes first.
    Watched,
}

/// Runs one request per host and prints the reports. `requests` has one entry per target of the fleet.
///
/// # Errors
/// When the client is interrupted; the operations go on.
pub async fn run(
    session: &Session,
    fleet: &Fleet,
    requests: Vec<(Target, Order)>,
    until: Until,
) -> Result<u8, CommandError> {
    let ids: Vec<String> =
        requests.iter().map(|(target, what)| format!("{}: operation {}", host_name(target), what.id())).collect();
    for line in &ids {
        session.printer.say(line);
    }
    let bar = spinner();
    let find = |target: &Target| requests.iter().find(|(other, _)| other == target).map(|(_, what)| what.clone());
    let running = fleet.each_unbounded(|client, target| {
        let (what, bar) = (find(&target), bar.clone());
        async move {
            let what = what.ok_or_else(|| CommandError::new(ErrorKind::Failed, "this host has no plan"))?;
            follow(&Teller { session, bar: &bar, until }, fleet, client, target, what).await
        }
    });
    let outcomes = tokio::select! {
        outcomes = running => outcomes,
        _ = tokio::signal::ctrl_c() => {
            bar.finish_and_clear();
            session.printer.say("interrupted: the operation goes on; `rbctl show OPERATION` tells how it ended");
            return Ok(EXIT_INTERRUPTED);
        }
    };
    bar.finish_and_clear();
    let now = session.now();
    let human = |hosts: &[(&str, &Ended)]| {
        hosts.iter().map(|(_, ended)| report::operation(&ended.operation, &[], now)).collect::<Vec<_>>().join("\n")
    };
    let kind = if requests.iter().any(|(_, order)| order.is_deploy()) { "Deploy" } else { "Rollback" };
    Ok(session.printer.hosts(kind, &outcomes, human, |ended| exit_code(&ended.operation)))
}

/// A line that moves on a terminal; elsewhere each event is a line of its own.
fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::default_spinner());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Where progress is told.
struct Teller<'a> {
    session: &'a Session,
    bar: &'a ProgressBar,
    until: Until,
}

async fn follow(
    teller: &Teller<'_>,
    fleet: &Fleet,
    mut client: Client,
    target: Target,
    what: Order,
) -> Result<Ended, CommandError> {
    let host = host_name(&target);
    let mut left = RECONNECTS_MAX;
    loop {
        let lost = match once(teller, &mut client, &host, what.clone()).await {
            Ok(operation) => return Ok(Ended { operation }),
            Err(error) if error.kind == ErrorKind::Unreachable => error,
            Err(error) => return Err(error),
        };
        // The same operation again has no second effect: it is followed where it stands.
        client = loop {
            if left == 0 {
                return Err(lost.hint(format!("`rbctl show {}` tells how it ended once the agent answers", what.id())));
            }
            left -= 1;
            teller.say(&host, "the connection was lost; connecting again");
            tokio::time::sleep(RECONNECT_PAUSE).await;
            if let Ok(client) = fleet.connect(&target).await {
                break client;
            }
        };
    }
}

async fn once(teller: &Teller<'_>, client: &mut Client, host: &str, what: Order) -> Result<Operation, CommandError> {
    let mut events = what.send(client).await?;
    while let Some(event) = events.next().await {
        let event = event?;
        if !event.doing.is_empty() {
            teller.say(host, &event.doing);
        }
        let wire = event
            .operation
            .ok_or_else(|| CommandError::new(ErrorKind::Failed, "the agent sent an event without operation"))?;
        let operation = Operation::try_from(wire).map_err(|error| CommandError::failed(&error))?;
        if operation.outcome().is_some() || (teller.until == Until::Watched && operation.is_waiting()) {
            return Ok(operation);
        }
    }
    Err(CommandError::new(ErrorKind::Unreachable, "the agent ended the stream before the operation ended"))
}

impl Teller<'_> {
    fn say(&self, host: &str, text: &str) {
        let line = format!("{}: {}", safe(host), safe(text));
        if self.bar.is_hidden() {
            self.session.printer.say(&line);
        } else {
            self.bar.set_message(line);
        }
    }
}
