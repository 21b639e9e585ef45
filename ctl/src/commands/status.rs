//! `rbctl status`: what runs, how it does, who holds it, and what is wrong with the agent.

use clap::Args;
use jiff::Timestamp;
use rollback::convert::time_in;
use rollback::explain;
use rollback::model::health::Health;
use rollback::model::host::{Current, Lease, ObservedRelease};
use rollback::model::operation::Operation;
use rollback::wire::v1;
use serde::Serialize;

use super::Session;
use crate::cli::{Format, Selector};
use crate::error::{CommandError, EXIT_DONE, ErrorKind};
use crate::fleet::fanout::Client;
use crate::ui::printer::table;
use crate::ui::report::health_cell;
use crate::ui::words::{age, standing};

/// Days before its end at which a certificate is warned about.
const WARN_DAYS: i64 = 30;

/// Arguments of `rbctl status`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rbctl status
  rbctl status --host web01 -o json
  rbctl --local status")]
pub struct StatusArgs {
    /// Which components; all by default.
    #[command(flatten)]
    pub selector: Selector,
}

/// One agent's state.
#[derive(Debug, Serialize)]
pub struct AgentStatus {
    /// The host, as the agent calls itself.
    pub name: String,
    /// The agent's version.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// When its certificate ends.
    pub certificate_ends: Option<Timestamp>,
    /// Audit records that journald has not got.
    pub audit_lag: u64,
    /// The newest record of the history.
    pub history_sequence: u64,
    /// What is wrong with the agent.
    pub problems: Vec<String>,
    /// Its components.
    pub components: Vec<ComponentStatus>,
}

/// One component's state.
#[derive(Debug, Serialize)]
pub struct ComponentStatus {
    /// The component.
    pub component: String,
    /// Its environment.
    pub environment: String,
    /// Where `current` leads.
    pub current: Current,
    /// The current release.
    pub release: Option<ObservedRelease>,
    /// Units and probes.
    pub health: Health,
    /// Who holds the environment.
    pub lease: Option<Lease>,
    /// What runs now.
    pub operation: Option<Operation>,
}

fn bad(error: &rollback::convert::ConvertError) -> CommandError {
    CommandError::failed(error)
}

fn missing(what: &str) -> CommandError {
    CommandError::new(ErrorKind::Failed, format!("the agent sent no {what}"))
}

fn component(wire: v1::ComponentStatus) -> Result<ComponentStatus, CommandError> {
    Ok(ComponentStatus {
        component: wire.component,
        environment: wire.environment,
        current: wire.current.ok_or_else(|| missing("current"))?.try_into().map_err(|error| bad(&error))?,
        release: wire.release.map(TryInto::try_into).transpose().map_err(|error| bad(&error))?,
        health: wire.health.ok_or_else(|| missing("health"))?.try_into().map_err(|error| bad(&error))?,
        lease: wire.lease.map(TryInto::try_into).transpose().map_err(|error| bad(&error))?,
        operation: wire.operation.map(TryInto::try_into).transpose().map_err(|error| bad(&error))?,
    })
}

async fn ask(mut client: Client, selector: v1::ComponentSelector) -> Result<AgentStatus, CommandError> {
    let reply = client.status(v1::StatusRequest { selector: Some(selector) }).await?.into_inner();
    let time = |time| time_in("time", time).map_err(|error| bad(&error));
    Ok(AgentStatus {
        name: reply.host,
        version: reply.version,
        started_at: time(reply.started_at.ok_or_else(|| missing("start time"))?)?,
        certificate_ends: reply.certificate_ends.map(time).transpose()?,
        audit_lag: reply.audit_lag,
        history_sequence: reply.head.map_or(0, |head| head.sequence),
        problems: reply.problems,
        components: reply.components.into_iter().map(component).collect::<Result<_, _>>()?,
    })
}

fn row(host: &str, found: &ComponentStatus, now: Timestamp, wide: bool) -> Vec<String> {
    let (release, version, state) = match (&found.current, &found.release) {
        (Current::Release(id), Some(release)) => (
            id.to_string(),
            release.manifest.version.as_ref().map(ToString::to_string).unwrap_or_default(),
            standing(release),
        ),
        (current, _) => ("-".to_owned(), String::new(), format!("current {}", explain::current(current))),
    };
    let doing = match (&found.operation, &found.lease) {
        (Some(operation), _) => explain::phase(&operation.phase),
        (None, Some(lease)) => format!("held by {}", lease.holder),
        (None, None) => "idle".to_owned(),
    };
    let mut row = vec![
        host.to_owned(),
        found.environment.clone(),
        found.component.clone(),
        release,
        version,
        state,
        health_cell(&found.health),
        doing,
    ];
    if wide {
        let release = found.release.as_ref();
        row.push(release.map(|r| age(r.manifest.created_at, now)).unwrap_or_default());
        row.push(release.map(|r| r.manifest.tree.short()).unwrap_or_default());
        let units = found.health.units.iter().map(|u| format!("{} {}", u.name, u.sub)).collect::<Vec<_>>();
        row.push(units.join(", "));
    }
    row
}

/// Runs the command.
///
/// # Errors
/// When the hosts are wrong.
pub async fn run(session: &Session, args: StatusArgs) -> Result<u8, CommandError> {
    let fleet = session.fleet(false)?;
    let outcomes = fleet.each(|client| ask(client, args.selector.wire())).await;
    let (now, wide) = (session.now(), session.printer.format() == Format::Wide);
    let human = |hosts: &[(&str, &AgentStatus)]| {
        let mut header = vec!["HOST", "ENVIRONMENT", "COMPONENT", "CURRENT", "VERSION", "STATE", "HEALTH", "DOING"];
        if wide {
            header.extend(["AGE", "TREE", "UNITS"]);
        }
        let rows = hosts.iter().flat_map(|(_, s)| s.components.iter().map(|c| row(&s.name, c, now, wide))).collect();
        table(&header, rows)
    };
    let code = session.printer.hosts("Status", &outcomes, human, |_| EXIT_DONE);
    for status in outcomes.iter().filter_map(|outcome| outcome.result.as_ref().ok()) {
        for problem in &status.problems {
            session.printer.warn(&format!("{}: {problem}", status.name));
        }
        if let Some(ends) = status.certificate_ends {
            let days = ends.duration_since(now).as_hours() / 24;
            if days <= WARN_DAYS {
                session
                    .printer
                    .warn(&format!("{}: the agent's certificate ends in {days} days: `rbctl pki renew`", status.name));
            }
        }
    }
    Ok(code)
}
