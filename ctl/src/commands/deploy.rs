//! `rbctl deploy`: activates a release and has the agent watch it.

use std::time::Duration;

use clap::Args;
use rollback::model::ids::OperationId;
use rollback::model::operation::{Destination, Request, Urgency};
use rollback::model::text::Text;
use rollback::model::watch::{WATCH_MS_MAX, WATCH_MS_MIN, WatchTerms};

use super::operate::{self, Order};
use super::rollback::{confirmed, plan_all, requests};
use super::{Session, plan};
use crate::cli::Selector;
use crate::error::{CommandError, ErrorKind};

/// Arguments of `rbctl deploy`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rbctl deploy 2.5.0 --host web01 --component web
  rbctl deploy backup_20241112_153045 --host web01 --watch 10m --reason OPS-18
  rbctl deploy 2.5.0 --host web01 --confirm 10m      # goes back unless `rbctl confirm OPERATION` comes in time
  rbctl deploy 2.5.0 --host web01 --dry-run
The agent watches the release by itself; this command only looks on, and may be interrupted.")]
pub struct DeployArgs {
    /// What is meant.
    #[command(flatten)]
    pub request: RequestArgs,
    /// Shows the plan and changes nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Saves the plans of all hosts for `rbctl apply` and changes nothing.
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    pub out: Option<std::path::PathBuf>,
    /// Ends once the watch has begun; the agent goes on.
    #[arg(long, conflicts_with_all = ["dry_run", "out"])]
    pub detach: bool,
    /// Asks nothing.
    #[arg(short = 'y', long)]
    pub yes: bool,
    /// The operation's identifier, a UUID of version 7: the same one twice has one effect. One host only.
    #[arg(long, value_name = "UUID")]
    pub operation: Option<OperationId>,
}

/// What is deployed, and why.
#[derive(Debug, Clone, Args)]
pub struct RequestArgs {
    /// The release, by identifier or version; it lies in the releases directory already.
    pub release: String,
    /// Which component.
    #[command(flatten)]
    pub selector: Selector,
    /// How it is watched.
    #[command(flatten)]
    pub terms: TermsArgs,
    /// Overrides a quarantine, never integrity; is recorded.
    #[arg(long)]
    pub force: bool,
    /// Why.
    #[arg(long, value_name = "TEXT", value_parser = |text: &str| Text::new(text))]
    pub reason: Option<Text>,
}

/// How a release is watched.
#[derive(Debug, Clone, Copy, Args)]
pub struct TermsArgs {
    /// How long the release is watched; the component's policy says it by default.
    #[arg(long, value_name = "TIME", value_parser = watch_time)]
    pub watch: Option<Duration>,
    /// Goes back by itself when the release fails its watch, whatever the policy says.
    #[arg(long, conflicts_with = "no_auto_rollback")]
    pub auto_rollback: bool,
    /// Leaves a release that fails its watch running, whatever the policy says.
    #[arg(long)]
    pub no_auto_rollback: bool,
    /// Goes back unless somebody confirms the release within this time.
    #[arg(long, value_name = "TIME", value_parser = watch_time)]
    pub confirm: Option<Duration>,
}

fn watch_time(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text.parse().map_err(|_| format!("{text:?} is no time such as `5m` or `90s`"))?;
    let time = Duration::try_from(span).map_err(|_| "a time is not negative".to_owned())?;
    let bounds = Duration::from_millis(WATCH_MS_MIN)..=Duration::from_millis(WATCH_MS_MAX);
    if bounds.contains(&time) { Ok(time) } else { Err("it is between 1 second and 24 hours".to_owned()) }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(WATCH_MS_MAX)
}

impl RequestArgs {
    fn request(&self, operation: OperationId) -> Request {
        Request {
            operation,
            component: self.selector.component.clone(),
            environment: self.selector.environment.clone(),
            to: Destination::Named(self.release.clone()),
            urgency: Urgency::Standard,
            force: self.force,
            reason: self.reason.clone(),
            deploy: Some(self.terms.into()),
            break_glass: false,
        }
    }
}

impl From<TermsArgs> for WatchTerms {
    fn from(args: TermsArgs) -> Self {
        Self {
            lasts_ms: args.watch.map(millis),
            auto: (args.auto_rollback || args.no_auto_rollback).then_some(args.auto_rollback),
            confirm_ms: args.confirm.map(millis),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// When nothing could be begun on any host.
pub async fn run(session: &Session, args: DeployArgs) -> Result<u8, CommandError> {
    let looks_only = args.dry_run || args.out.is_some();
    let fleet = session.fleet(!looks_only)?;
    let requests = requests(session, &fleet, args.operation, |id| args.request.request(id))?;
    if looks_only {
        return plan::print(session, plan_all(&fleet, &requests).await, args.out.as_deref());
    }
    if !args.yes && !confirmed(session, &fleet, &requests, "deploy").await? {
        return Err(CommandError::new(ErrorKind::Interrupted, "not confirmed; nothing has changed"));
    }
    let requests = requests.into_iter().map(|(target, request)| (target, Order::Request(request.into()))).collect();
    let until = if args.detach { operate::Until::Watched } else { operate::Until::Ended };
    operate::run(session, &fleet, requests, until).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_bounded() {
        assert_eq!(watch_time("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(watch_time("90s"), Ok(Duration::from_secs(90)));
        for wrong in ["0s", "25h", "-5m", "five"] {
            assert!(watch_time(wrong).is_err(), "{wrong}");
        }
    }
}
