//! `rbctl stats`: success rate, durations and reasons, over all hosts together.

use std::collections::BTreeMap;

use clap::Args;
use rollback::convert::time_out;
use rollback::engine::stats::Counts;
use rollback::model::ids::Environment;
use rollback::model::record::ResultWord;
use rollback::wire::v1;
use serde::Serialize;

use super::Session;
use super::history::{Period, result_word};
use crate::cli::Selector;
use crate::error::{CommandError, EXIT_DONE, combine};
use crate::fleet::fanout::Client;
use crate::ui::printer::{API_VERSION, table};
use crate::ui::words::duration;

/// Success rate below which is warned: one in twenty rollbacks that does not end well needs a look.
const WARN_BELOW: f64 = 0.95;
/// Success rate below which the warning is critical: one in ten is no safety net.
const CRITICAL_BELOW: f64 = 0.90;

/// Arguments of `rbctl stats`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rbctl stats --since 30d
  rbctl stats --environment prod -o json")]
pub struct StatsArgs {
    /// Which component.
    #[command(flatten)]
    pub selector: Selector,
    /// Which time.
    #[command(flatten)]
    pub period: Period,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    api_version: &'static str,
    kind: &'static str,
    environments: BTreeMap<String, EnvironmentAnswer>,
    errors: BTreeMap<String, CommandError>,
}

#[derive(Debug, Serialize)]
struct EnvironmentAnswer {
    success_rate: Option<f64>,
    results: BTreeMap<ResultWord, u64>,
    p50_ms: Option<u64>,
    p95_ms: Option<u64>,
    p99_ms: Option<u64>,
    reasons: BTreeMap<String, u64>,
}

type ByEnvironment = BTreeMap<Environment, Counts>;

async fn ask(mut client: Client, request: v1::StatsRequest) -> Result<ByEnvironment, CommandError> {
    let reply = client.stats(request).await?.into_inner();
    let mut counted = ByEnvironment::new();
    for found in reply.environments {
        let environment =
            found.environment.parse().map_err(|error: rollback::model::ids::NameError| CommandError::failed(&error))?;
        let mut counts = Counts { durations_ms: found.durations_ms, ..Counts::default() };
        for result in found.results {
            let word = ResultWord::try_from(result.result()).map_err(|error| CommandError::failed(&error))?;
            counts.results.insert(word, result.count);
        }
        counts.reasons.extend(found.reasons.into_iter().map(|reason| (reason.reason, reason.count)));
        counted.insert(environment, counts);
    }
    Ok(counted)
}

fn row(environment: &Environment, counts: &Counts) -> Vec<String> {
    let rate = counts.success_rate().map_or("-".to_owned(), |rate| format!("{:.1} %", rate * 100.0));
    let time = |percent| counts.percentile(percent).map_or("-".to_owned(), |ms| duration(ms.saturating_mul(1_000)));
    let results: Vec<String> = counts.results.iter().map(|(word, n)| format!("{n} {}", result_word(*word))).collect();
    let mut reasons: Vec<_> = counts.reasons.iter().collect();
    reasons.sort_by(|a, b| b.1.cmp(a.1));
    let reasons: Vec<String> = reasons.into_iter().take(3).map(|(reason, n)| format!("{n}× {reason}")).collect();
    vec![environment.to_string(), rate, results.join(", "), time(50.0), time(95.0), time(99.0), reasons.join("; ")]
}

/// Runs the command.
///
/// # Errors
/// When an argument or the hosts are wrong.
pub async fn run(session: &Session, args: StatsArgs) -> Result<u8, CommandError> {
    let fleet = session.fleet(false)?;
    let (since, until) = args.period.ends(session.now())?;
    let selector = args.selector.wire();
    let request = v1::StatsRequest {
        environment: selector.environment,
        component: selector.component,
        since: since.map(time_out),
        until: until.map(time_out),
    };
    let outcomes = fleet.each(|client| ask(client, request.clone())).await;
    let mut merged = ByEnvironment::new();
    let mut errors = BTreeMap::new();
    let mut codes = Vec::new();
    for outcome in outcomes {
        match outcome.result {
            Ok(counted) => {
                codes.push(EXIT_DONE);
                for (environment, counts) in counted {
                    merged.entry(environment).or_default().merge(counts);
                }
            }
            Err(error) => {
                codes.push(error.kind.exit_code());
                errors.insert(outcome.host, error);
            }
        }
    }
    print(session, &merged, errors);
    Ok(combine(&codes))
}

fn print(session: &Session, merged: &ByEnvironment, errors: BTreeMap<String, CommandError>) {
    let printer = &session.printer;
    if printer.is_for_programs() {
        let one = |counts: &Counts| EnvironmentAnswer {
            success_rate: counts.success_rate(),
            results: counts.results.clone(),
            p50_ms: counts.percentile(50.0),
            p95_ms: counts.percentile(95.0),
            p99_ms: counts.percentile(99.0),
            reasons: counts.reasons.clone(),
        };
        let environments = merged.iter().map(|(name, counts)| (name.to_string(), one(counts))).collect();
        printer.document(&Answer { api_version: API_VERSION, kind: "Stats", environments, errors });
    } else {
        let rows = merged.iter().map(|(name, counts)| row(name, counts)).collect();
        printer.answer(&table(&["ENVIRONMENT", "SUCCESS", "RESULTS", "P50", "P95", "P99", "REASONS"], rows));
        for (host, error) in &errors {
            printer.error(Some(host), error);
        }
    }
    for (environment, counts) in merged {
        if let Some(rate) = counts.success_rate().filter(|rate| *rate < WARN_BELOW) {
            let level = if rate < CRITICAL_BELOW { "critical: " } else { "" };
            let percent = rate * 100.0;
            printer.warn(&format!(
                "{level}only {percent:.1} % of the operations in `{environment}` were done: `rbctl history`"
            ));
        }
    }
}
