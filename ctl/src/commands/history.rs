//! `rbctl history`: lists operations, newest first.

use clap::{Args, ValueEnum};
use jiff::{Span, Timestamp};
use rollback::model::record::{HistoryFilter, HistoryLine, ResultWord};
use rollback::wire::v1;
use serde::Serialize;

use super::Session;
use crate::cli::{Format, Selector};
use crate::error::{CommandError, EXIT_DONE};
use crate::fleet::fanout::Client;
use crate::ui::printer::table;
use crate::ui::words::duration;

/// Arguments of `rbctl history`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rbctl history --since 7d --result put-back
  rbctl history --environment prod --actor rollback://example/operator/alice?roles=operator\\&environments=prod")]
pub struct HistoryArgs {
    /// Which component.
    #[command(flatten)]
    pub selector: Selector,
    /// Which time.
    #[command(flatten)]
    pub period: Period,
    /// How they ended.
    #[arg(long, value_enum, visible_alias = "outcome")]
    pub result: Option<ResultArg>,
    /// Who asked: the identity in full, as `-o wide` shows it.
    #[arg(long)]
    pub actor: Option<String>,
    /// How many at most, per host.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
}

/// A period; shared with `rbctl stats`.
#[derive(Debug, Clone, Args)]
pub struct Period {
    /// At or after: `2026-11-27`, `2026-11-27T10:00:00Z`, or an age such as `24h` or `7d`.
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Before: as `--since`.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

/// A result, as an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ResultArg {
    /// Done and verified.
    Done,
    /// Rolled back but not verified.
    Unverified,
    /// Failed and put back.
    PutBack,
    /// Manual intervention required.
    NeedsOperator,
    /// Taken over by an emergency.
    Superseded,
    /// Not begun.
    Refused,
}

impl From<ResultArg> for ResultWord {
    fn from(result: ResultArg) -> Self {
        match result {
            ResultArg::Done => Self::Done,
            ResultArg::Unverified => Self::Unverified,
            ResultArg::PutBack => Self::PutBack,
            ResultArg::NeedsOperator => Self::NeedsOperator,
            ResultArg::Superseded => Self::Superseded,
            ResultArg::Refused => Self::Refused,
        }
    }
}

/// Says a result in a few words.
#[must_use]
pub fn result_word(result: ResultWord) -> &'static str {
    match result {
        ResultWord::Done => "done",
        ResultWord::Unverified => "not verified",
        ResultWord::PutBack => "put back",
        ResultWord::NeedsOperator => "NEEDS OPERATOR",
        ResultWord::Superseded => "superseded",
        ResultWord::Refused => "refused",
    }
}

/// Reads a time: absolute, a date, or an age.
///
/// # Errors
/// When it is none of them.
pub fn time(text: &str, now: Timestamp) -> Result<Timestamp, CommandError> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(date) = text.parse::<jiff::civil::Date>()
        && let Ok(zoned) = date.to_zoned(jiff::tz::TimeZone::system())
    {
        return Ok(zoned.timestamp());
    }
    let wrong = || CommandError::usage(format!("`{text}` is no time"), "2026-11-27, 2026-11-27T10:00:00Z, 24h or 7d");
    let span: Span = text.parse().map_err(|_| wrong())?;
    let zoned = now.to_zoned(jiff::tz::TimeZone::UTC);
    zoned.checked_sub(span.abs()).map(|zoned| zoned.timestamp()).map_err(|_| wrong())
}

impl Period {
    /// Gives both ends.
    ///
    /// # Errors
    /// When one is no time.
    pub fn ends(&self, now: Timestamp) -> Result<(Option<Timestamp>, Option<Timestamp>), CommandError> {
        let end = |text: &Option<String>| text.as_ref().map(|text| time(text, now)).transpose();
        Ok((end(&self.since)?, end(&self.until)?))
    }
}

/// One host's operations.
#[derive(Debug, Serialize)]
pub struct History {
    /// The host, as the agent calls itself.
    pub name: String,
    /// The operations, newest first.
    pub operations: Vec<HistoryLine>,
}

async fn ask(mut client: Client, request: v1::HistoryRequest) -> Result<History, CommandError> {
    let reply = client.history(request).await?.into_inner();
    let operations = reply.lines.into_iter().map(TryInto::try_into).collect::<Result<_, _>>();
    Ok(History {
        name: reply.host,
        operations: operations.map_err(|error: rollback::convert::ConvertError| CommandError::failed(&error))?,
    })
}

fn rows(hosts: &[(&str, &History)], wide: bool) -> Vec<Vec<String>> {
    let mut all: Vec<(&str, &HistoryLine)> =
        hosts.iter().flat_map(|(_, h)| h.operations.iter().map(|line| (h.name.as_str(), line))).collect();
    // Each host's own order is by its sequence; between hosts only the clocks can tell.
    all.sort_by_key(|(_, line)| std::cmp::Reverse(line.at));
    let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let one = |(host, line): (&str, &HistoryLine)| {
        let mut row = vec![
            line.at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
            host.to_owned(),
            text(line.environment.as_ref().map(ToString::to_string)),
            text(line.component.as_ref().map(ToString::to_string)),
            text(line.operation_type.map(|kind| format!("{kind:?}").to_lowercase())),
            text(line.from.as_ref().map(ToString::to_string)),
            text(line.to.as_ref().map(ToString::to_string)),
            result_word(line.result).to_owned(),
            duration(line.duration_ms.saturating_mul(1_000)),
            line.operation.to_string(),
        ];
        if wide {
            row.extend([line.actor.clone(), text(line.reason.clone()), text(line.cause.clone())]);
        }
        row
    };
    all.into_iter().map(one).collect()
}

/// Runs the command.
///
/// # Errors
/// When an argument or the hosts are wrong.
pub async fn run(session: &Session, args: HistoryArgs) -> Result<u8, CommandError> {
    let fleet = session.fleet(false)?;
    let (since, until) = args.period.ends(session.now())?;
    let filter = HistoryFilter {
        environment: args.selector.environment,
        component: args.selector.component,
        since,
        until,
        result: args.result.map(Into::into),
        actor: args.actor,
        limit: args.limit,
    };
    let request = v1::HistoryRequest::from(filter);
    let outcomes = fleet.each(|client| ask(client, request.clone())).await;
    let wide = session.printer.format() == Format::Wide;
    let human = |hosts: &[(&str, &History)]| {
        let mut header =
            vec!["TIME (UTC)", "HOST", "ENVIRONMENT", "COMPONENT", "TYPE", "FROM", "TO", "RESULT", "TOOK", "OPERATION"];
        if wide {
            header.extend(["ACTOR", "REASON", "CAUSE"]);
        }
        table(&header, rows(hosts, wide))
    };
    Ok(session.printer.hosts("History", &outcomes, human, |_| EXIT_DONE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_three_ways() {
        let now: Timestamp = "2026-11-27T12:00:00Z".parse().expect("a time");
        let read = |text: &str| time(text, now).map(|time| time.to_string()).map_err(|error| error.text);
        assert_eq!(read("2026-11-27T10:00:00Z"), Ok("2026-11-27T10:00:00Z".to_owned()));
        assert_eq!(read("24h"), Ok("2026-11-26T12:00:00Z".to_owned()));
        assert_eq!(read("7d"), Ok("2026-11-20T12:00:00Z".to_owned()));
        assert_eq!(read("yesterday"), Err("`yesterday` is no time".to_owned()));
    }
}
