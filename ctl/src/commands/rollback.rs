//! `rbctl rollback`: goes back.

use std::io::IsTerminal as _;

use clap::Args;
use futures_util::future::join_all;
use jiff::Timestamp;
use rollback::model::ids::OperationId;
use rollback::model::operation::{Destination, Request, Urgency};
use rollback::model::plan::Plan;
use rollback::model::text::Text;
use rollback::wire::v1;
use serde::Serialize;

use super::operate::{self, Order};
use super::{Session, plan, verify};
use crate::cli::Selector;
use crate::error::{CommandError, ErrorKind};
use crate::fleet::connect::Target;
use crate::fleet::fanout::{Client, Fleet, HostOutcome, host_name};
use crate::ui::report;

/// Arguments of `rbctl rollback`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rbctl rollback --host web01 --component web --reason '5xx since the deploy'
  rbctl rollback --host web01 --to backup_20241112_153045 --reason 'known good'
  rbctl rollback --host web01 --dry-run
  rbctl --local rollback --emergency --yes")]
pub struct RollbackArgs {
    /// What is meant.
    #[command(flatten)]
    pub request: RequestArgs,
    /// Shows the plan and changes nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Reads the target in full and says whether a rollback could go there; changes nothing.
    #[arg(long, conflicts_with = "dry_run")]
    pub verify_only: bool,
    /// Asks nothing.
    #[arg(short = 'y', long)]
    pub yes: bool,
    /// The operation's identifier, a UUID of version 7: the same one twice has one effect. One host only.
    #[arg(long, value_name = "UUID")]
    pub operation: Option<OperationId>,
}

/// Where to and why; shared with `rbctl plan`.
#[derive(Debug, Clone, Args)]
pub struct RequestArgs {
    /// Which component.
    #[command(flatten)]
    pub selector: Selector,
    /// The release to go back to, by identifier or version; the last good one by default.
    #[arg(long, value_name = "RELEASE", visible_alias = "backup")]
    pub to: Option<String>,
    /// At once: no baseline, no reason, no waiting; takes a lease over. Integrity is still proved.
    #[arg(long)]
    pub emergency: bool,
    /// Overrides goodness, quarantine and warnings, never integrity; is recorded.
    #[arg(long)]
    pub force: bool,
    /// Why; needed to leave a release that is healthy.
    #[arg(long, value_name = "TEXT", value_parser = |text: &str| Text::new(text))]
    pub reason: Option<Text>,
}

impl RequestArgs {
    /// Makes the request of one host.
    #[must_use]
    pub fn request(&self, operation: OperationId) -> Request {
        Request {
            operation,
            component: self.selector.component.clone(),
            environment: self.selector.environment.clone(),
            to: self.to.clone().map_or(Destination::Previous, Destination::Named),
            urgency: if self.emergency { Urgency::Emergency } else { Urgency::Standard },
            force: self.force,
            reason: self.reason.clone(),
            deploy: None,
            break_glass: false,
        }
    }
}

/// One host's plan.
#[derive(Debug, Serialize)]
pub struct Planned {
    /// The plan.
    pub plan: Plan,
}

/// Makes a new operation identifier.
#[must_use]
pub fn new_operation(now: Timestamp) -> OperationId {
    let mut random = [0; 10];
    random.copy_from_slice(&uuid::Uuid::now_v7().as_bytes()[6..]);
    // The version's four bits are the same each time; the 74 random ones after them are what counts.
    OperationId::new(now, random)
}

/// Asks one agent for a plan.
///
/// # Errors
/// When it refuses, or its answer is not what it should be.
pub async fn plan_on(mut client: Client, request: Request) -> Result<Planned, CommandError> {
    let reply = client.plan(v1::PlanRequest { request: Some(request.into()) }).await?.into_inner();
    let wire = reply.plan.ok_or_else(|| CommandError::new(ErrorKind::Failed, "the agent sent no plan"))?;
    Ok(Planned { plan: Plan::try_from(wire).map_err(|error| CommandError::failed(&error))? })
}

/// Asks every host for its plan.
pub async fn plan_all(fleet: &Fleet, requests: &[(Target, Request)]) -> Vec<HostOutcome<Planned>> {
    let one = |(target, request): &(Target, Request)| {
        let (target, request) = (target.clone(), request.clone());
        async move {
            let asked = async { plan_on(fleet.connect(&target).await?, request).await };
            let result = tokio::time::timeout(fleet.limit, asked).await.unwrap_or_else(|_| {
                Err(CommandError::new(ErrorKind::Unreachable, format!("no plan within {} s", fleet.limit.as_secs())))
            });
            HostOutcome { host: host_name(&target), result }
        }
    };
    join_all(requests.iter().map(one)).await
}

/// Makes one request per host, each with an operation of its own; `operation` names that of one host.
///
/// # Errors
/// When an operation is named and there are several hosts.
pub fn requests(
    session: &Session,
    fleet: &Fleet,
    operation: Option<OperationId>,
    request: impl Fn(OperationId) -> Request,
) -> Result<Vec<(Target, Request)>, CommandError> {
    if operation.is_some() && fleet.targets.len() > 1 {
        return Err(CommandError::usage("`--operation` names the operation of one host", "leave it out for several"));
    }
    let one = |target: &Target| (target.clone(), request(operation.unwrap_or_else(|| new_operation(session.now()))));
    Ok(fleet.targets.iter().map(one).collect())
}

/// Runs the command.
///
/// # Errors
/// When nothing could be begun on any host.
pub async fn run(session: &Session, args: RollbackArgs) -> Result<u8, CommandError> {
    let fleet = session.fleet(!args.dry_run && !args.verify_only)?;
    let requests = requests(session, &fleet, args.operation, |id| args.request.request(id))?;
    if args.dry_run {
        return plan::print(session, plan_all(&fleet, &requests).await, None);
    }
    if args.verify_only {
        return verify::target_of_plans(session, &fleet, plan_all(&fleet, &requests).await).await;
    }
    // An emergency on a terminal asks nothing.
    let is_settled = args.yes || (args.request.emergency && std::io::stdin().is_terminal());
    if !is_settled && !confirmed(session, &fleet, &requests, "go back").await? {
        return Err(CommandError::new(ErrorKind::Interrupted, "not confirmed; nothing has changed"));
    }
    let requests = requests.into_iter().map(|(target, request)| (target, Order::Request(request.into()))).collect();
    operate::run(session, &fleet, requests, operate::Until::Ended).await
}

/// Shows the plans and asks whether to go on.
///
/// # Errors
/// When there is no terminal to ask on, or a host refuses.
pub async fn confirmed(
    session: &Session,
    fleet: &Fleet,
    requests: &[(Target, Request)],
    question: &str,
) -> Result<bool, CommandError> {
    if !std::io::stdin().is_terminal() {
        return Err(CommandError::usage("there is no terminal to confirm on", "`--yes` confirms beforehand"));
    }
    let plans = plan_all(fleet, requests).await;
    let mut refused = None;
    for outcome in &plans {
        match &outcome.result {
            Ok(planned) => session.printer.say(&report::plan(&planned.plan, session.now())),
            Err(error) => {
                session.printer.error(Some(&outcome.host), error);
                refused = Some(error.clone());
            }
        }
    }
    if let Some(error) = refused {
        return Err(CommandError { text: format!("not every host can {question}; nothing has changed"), ..error });
    }
    session.printer.say(&format!("{question}? [y/N]"));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|error| CommandError::failed(&error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
